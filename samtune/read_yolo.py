"""YOLO segmentation labels: a text file an image, a line an object.

    2 0.1 0.2 0.5 0.2 0.5 0.8        class, then x y pairs as shares of the image's width and height

0 is the image's left or upper edge and 1 the other one (Ultralytics,
https://docs.ultralytics.com/datasets/segment/). The classes' names are in data.yaml ("names"), or,
one a line, in classes.txt. Found where Ultralytics looks, and beside the images:

    DATA/images/[train/]x.jpg  DATA/labels/[train/]x.txt
    DATA = .../images/train     .../labels/train/x.txt
    DATA/x.jpg                 DATA/x.txt
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from samtune.annotations import (
    AnnotatedImage,
    Annotations,
    Mask,
    Shape,
    contour,
    draw_box,
    draw_contours,
    listed,
)
from samtune.errors import DatasetError
from samtune.images import IMAGE_SUFFIXES
from samtune.pairs import Fault, Skipped

_NO_LABELS = frozenset({"classes.txt", "labels.txt", "names.txt", "train.txt", "val.txt"})
_BEYOND = 0.01  # of the image, by which rounding may put a point outside of it
_MEND = "Mend or remove the line."


def yolo_folders(folder: Path) -> tuple[Path, Path] | None:
    """Where a folder's images and label files are, if it has any label file of an image."""
    places = []
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        places.append((folder / "images", folder / "labels"))
    parts = folder.resolve().parts
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        places.append((folder, Path(*parts[:last], "labels", *parts[last + 1 :])))
    places.append((folder, folder))
    for images, labels in places:
        if any(_label_of(image, images, labels).is_file() for image in _images(images)):
            return images, labels
    return None


def read_yolo(folder: Path, *, boxes: bool = False) -> Annotations:
    """Read a folder of YOLO segmentation labels; the images are not opened.

    Args:
        folder: as above.
        boxes: take lines that are boxes, as detectors write them, for objects that fill them.

    Raises:
        DatasetError: no labels, or data.yaml cannot be read; what is wrong with a line becomes a
            fault.
    """
    places = yolo_folders(folder)
    if places is None:
        raise DatasetError(f"{folder} holds no YOLO labels of images.")
    images, labels = places
    read = Annotations("yolo", categories=_names(folder, labels))
    known = dict(read.categories)
    used: dict[Path, Path] = {}
    for image in _images(images):
        label_file = _label_of(image, images, labels)
        if not label_file.is_file():
            read.found.skipped.append(Skipped(image, "no label file"))
        elif label_file in used:
            problem = f"has the name of {used[label_file].name}, and labels can belong to one only"
            read.found.faults.append(Fault(image, problem, "Keep one image of each name."))
        else:
            used[label_file] = image
            shapes = list(_shapes(label_file, known, read, boxes))
            read.images.append(AnnotatedImage(image, label_file, shapes))
    for path in sorted(labels.rglob("*.txt") if labels != images else labels.glob("*.txt")):
        if path not in used and path.name.lower() not in _NO_LABELS:
            read.found.skipped.append(Skipped(path, "labels of no image"))
    read.categories = dict(sorted(read.categories.items(), key=lambda item: int(item[0])))
    return read


def read_yolo_file(path: Path, image: Path) -> Annotations:
    """Read one label file; `image` is what it is of, wherever it lies.

    Raises:
        DatasetError: data.yaml cannot be read.
    """
    read = Annotations("yolo", categories=_names(path.parent, path.parent))
    shapes = list(_shapes(path, dict(read.categories), read))
    read.images.append(AnnotatedImage(image, path, shapes))
    return read


def _images(folder: Path) -> Iterator[Path]:
    files = folder.rglob("*") if folder.name == "images" else folder.glob("*")
    for path in sorted(files):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden:
            yield path


def _label_of(image: Path, images: Path, labels: Path) -> Path:
    return (labels / image.relative_to(images)).with_suffix(".txt")


def _shapes(
    path: Path, known: dict[str, str], read: Annotations, boxes: bool = False
) -> Iterator[Shape]:
    """The lines of a label file; a class that nothing names is called by its number."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        read.found.faults.append(Fault(path, f"cannot be read as text ({error})", _MEND))
        return
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        category = words[0].removesuffix(".0")
        problem = None
        if not re.fullmatch("[0-9]{1,9}", category):
            problem = f"line {number} begins with {words[0]!r:.40} instead of a class's number"
        elif known and category not in known:
            classes = listed([f"{key} {name}" for key, name in known.items()])
            problem = f"line {number} has the unknown class {category} (there are {classes})"
        elif len(words) in (5, 6) and not boxes:
            problem = f"line {number} is a box and no outline: samtune learns from outlines"
        if problem is not None:
            read.found.faults.append(Fault(path, problem, _MEND))
            continue
        category = str(int(category))
        read.categories.setdefault(category, category)
        draw = _draw_box if len(words) in (5, 6) else _draw
        yield Shape(f"line {number}", category, partial(draw, words[1:]))


def _draw_box(words: list[str], size: tuple[int, int]) -> Mask:
    """A box: its centre, width and height as shares, and maybe how sure a detector was."""
    x, y, width, height = (
        share * size[1 - position % 2] for position, share in enumerate(_shares(words[:4]))
    )
    return draw_box((x - width / 2, y - height / 2, x + width / 2, y + height / 2), size)


def _draw(words: list[str], size: tuple[int, int]) -> Mask:
    shares = _shares(words)
    if len(shares) % 2 and len(shares) > 6:
        shares.pop()  # how sure a model was that wrote the line
    scale = (size[1], size[0])
    pixels = [share * scale[position % 2] for position, share in enumerate(shares)]
    return draw_contours([contour(pixels)], size)


def _shares(words: list[str]) -> list[float]:
    try:
        shares = [float(word) for word in words]
    except ValueError as error:
        raise ValueError("has something else than numbers") from error
    if not all(-_BEYOND <= share <= 1 + _BEYOND for share in shares):
        raise ValueError("has numbers that are not from 0 to 1, shares of the width and height")
    return shares


def _names(folder: Path, labels: Path) -> dict[str, str]:
    """The classes' names by number, from the nearest file that has them."""
    near = list(dict.fromkeys([folder.resolve(), *folder.resolve().parents[:2]]))
    for place in near:
        for path in (place / "data.yaml", place / "dataset.yaml", place / "data.yml"):
            if path.is_file() and (names := _names_in_yaml(path)):
                return names
    for path in (folder / "classes.txt", labels / "classes.txt"):
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise DatasetError(f"{path} is no text in UTF-8: save it as such.") from error
            return {str(number): line.strip() for number, line in enumerate(lines) if line.strip()}
    return {}


def _names_in_yaml(path: Path) -> dict[str, str]:
    try:
        data: Any = yaml.safe_load(path.read_bytes())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" line {mark.line + 1}, column {mark.column + 1}:"
        raise DatasetError(f"{path} is no YAML:{where} {error.problem}.") from error
    except Exception as error:  # PyYAML's constructors raise nearly anything on odd values
        why = " ".join(str(error).split())
        raise DatasetError(f"{path} is no YAML that can be read: {why}.") from error
    names = data.get("names") if isinstance(data, dict) else None
    if names is None:
        return {}
    if isinstance(names, list):
        names = dict(enumerate(names))
    by_number = names if isinstance(names, dict) else {"": names}
    plain = all(_is_plain(one) for pair in by_number.items() for one in pair)
    listed_names = {str(key): str(name) for key, name in by_number.items()} if plain else {}
    if not plain or not all(re.fullmatch("[0-9]{1,9}", key) for key in listed_names):
        raise DatasetError(f"{path} has names that are no list and not numbered from 0 on.")
    return listed_names


def _is_plain(value: object) -> bool:
    """Whether it is a name or number that Python writes out; not so those of 5,000 digits."""
    return isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**63)
