"""LabelMe: a JSON file an image, with shapes.

Points are in pixels from the image's corner (labelme's canvas); a shape "mask" is a PNG and the
first and last pixel of its box. Shapes with one label and group_id are one object. Points and
lines have no area and are skipped. Written against labelme 6.3.1.
"""

import base64
import binascii
import io
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from samtune.annotations import (
    AnnotatedImage,
    Annotations,
    Mask,
    Shape,
    contour,
    draw_contours,
    find_image,
    read_json,
    told_size,
)
from samtune.errors import DatasetError, ImageError
from samtune.images import IMAGE_SUFFIXES, read_labels
from samtune.pairs import Fault, Skipped

_WITH_AREA = ("polygon", "rectangle", "circle", "oriented_rectangle", "mask")
_MEND = "Mend it in LabelMe, or move it elsewhere."
_WHERE = (
    "Give the folder that holds both, put images beside their JSON files, or name their folder "
    "with --images."
)


def labelme_files(folder: Path) -> list[Path]:
    """The JSON files of LabelMe in a folder, or in its folder labels."""
    for place in (folder, folder / "labels"):
        if place.is_dir():
            files = [path for path in sorted(place.glob("*.json")) if not path.name.startswith(".")]
            if any(is_labelme(path) for path in files):
                return files
    return []


def read_labelme(folder: Path, image_folder: Path | None = None) -> Annotations:
    """Read a folder of LabelMe files; the images themselves are only looked for.

    Args:
        folder: holds the JSON files, or has them in labels/; imagePath may lead anywhere in it.
        image_folder: where the images are, by their mere names, if not where imagePath says.
    """
    read = Annotations("labelme")
    for path in labelme_files(folder):
        try:
            data = read_json(path)
        except ValueError as error:
            read.found.faults.append(Fault(path, str(error), _MEND))
            continue
        if not _has_shapes(data):
            read.found.skipped.append(Skipped(path, "not of LabelMe"))
            continue
        try:
            image = _image_of(path, data, folder, image_folder)
        except ValueError as error:
            problem = f"names the image {data.get('imagePath')!r}, which {error}"
            read.found.faults.append(Fault(path, problem, _WHERE))
            continue
        size = told_size(data.get("imageHeight"), data.get("imageWidth"))
        shapes = _shapes(path, data["shapes"], read)
        read.images.append(AnnotatedImage(image, path, shapes, size))
    read.categories = {name: name for name in sorted(read.categories)}
    return read


def read_labelme_file(path: Path, image: Path) -> Annotations:
    """Read one file; `image` is what it is of, whatever its imagePath says.

    Raises:
        DatasetError: it is not of LabelMe.
    """
    read = Annotations("labelme")
    try:
        data = read_json(path)
    except ValueError as error:
        raise DatasetError(f"{path} {error}. {_MEND}") from error
    if not _has_shapes(data):
        raise DatasetError(f"{path} is not of LabelMe: it has no list of shapes.")
    shapes = _shapes(path, data["shapes"], read)
    size = told_size(data.get("imageHeight"), data.get("imageWidth"))
    read.images.append(AnnotatedImage(image, path, shapes, size))
    return read


def is_labelme(path: Path) -> bool:
    """Whether a JSON file is of LabelMe.

    Example:
        >>> is_labelme(Path("no such file.json"))
        False
    """
    try:
        return _has_shapes(read_json(path))
    except ValueError:
        return False


def _has_shapes(data: object) -> bool:
    return isinstance(data, dict) and isinstance(data.get("shapes"), list)


def _image_of(path: Path, data: dict[str, Any], folder: Path, image_folder: Path | None) -> Path:
    name = data.get("imagePath")
    if image_folder is not None and isinstance(name, str):
        found = find_image(PureWindowsPath(name).name, image_folder, root=image_folder)
    else:
        found = find_image(name, path.parent, root=folder)
    if found is not None:
        return found
    # An image that was renamed together with its file is still its image.
    for suffix in sorted(IMAGE_SUFFIXES):
        beside = find_image(path.stem + suffix, image_folder or path.parent, image_folder or folder)
        if beside is not None:
            return beside
    raise ValueError("is not there")


def _shapes(path: Path, entries: list[Any], read: Annotations) -> list[Shape]:
    """The shapes with an area, those of a group as one."""
    groups: dict[tuple[str, object], list[tuple[int, dict[str, Any]]]] = {}
    without_area: Counter[str] = Counter()
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            problem = f"has a shape, the {number}., without a label"
            read.found.faults.append(Fault(path, problem, _MEND))
            continue
        kind = entry.get("shape_type") or "polygon"
        if kind not in _WITH_AREA:
            without_area[str(kind)] += 1
            continue
        group = entry.get("group_id")
        key = (entry["label"], f"alone {number}" if group is None else repr(group))
        groups.setdefault(key, []).append((number, entry))
        read.categories[entry["label"]] = entry["label"]
    if without_area:
        kinds = ", ".join(f"{count} {kind}" for kind, count in without_area.items())
        read.found.skipped.append(Skipped(path, f"{kinds} (no area)"))
    return [
        Shape(
            "shape " + "+".join(str(number) for number, _ in members),
            label,
            partial(_draw_all, [entry for _, entry in members]),
        )
        for (label, _), members in groups.items()
    ]


def _draw_all(entries: list[dict[str, Any]], size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, dtype=bool)
    for entry in entries:
        mask |= _draw(entry, size)
    return mask


def _draw(entry: dict[str, Any], size: tuple[int, int]) -> Mask:
    kind = entry.get("shape_type") or "polygon"
    points = entry.get("points")
    if not isinstance(points, list) or not all(
        isinstance(point, Sequence) and len(point) == 2 for point in points
    ):
        raise ValueError("has points that are no list of [x, y]")
    numbers = [number for point in points for number in point]
    if kind in ("polygon", "oriented_rectangle"):
        return draw_contours([contour(numbers)], size)
    if len(points) != 2:
        raise ValueError(f"is a {kind} of {len(points)} points instead of 2")
    (x0, y0), (x1, y1) = contour([*numbers, 0, 0])[:2]
    if kind == "mask":
        return _pasted(entry.get("mask"), (x0 + 0.5, y0 + 0.5), size)
    if kind == "rectangle":
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        return draw_contours([corners], size)
    ys, xs = np.ogrid[: size[0], : size[1]]
    inside: Mask = (xs - x0) ** 2 + (ys - y0) ** 2 <= (x1 - x0) ** 2 + (y1 - y0) ** 2
    return inside


def _pasted(encoded: object, corner: tuple[float, float], size: tuple[int, int]) -> Mask:
    """A shape "mask" at its place."""
    try:
        content = base64.b64decode(encoded if isinstance(encoded, str) else "", validate=True)
        crop = read_labels(io.BytesIO(content)) > 0
    except (binascii.Error, ImageError) as error:
        raise ValueError("is a mask without a PNG that can be read") from error
    mask = np.zeros(size, dtype=bool)
    x, y = (int(np.clip(value, -(2**31), 2**31)) for value in corner)
    if x < 0 or y < 0 or x + crop.shape[1] > size[1] or y + crop.shape[0] > size[0]:
        raise ValueError("is a mask that leaves the image")
    mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return mask
