"""COCO data sets: one JSON file with images, annotations and categories.

https://cocodataset.org/#format-data. Segmentations are lists of polygons, in pixels from the
image's corner, or run lengths, as a list of counts or compressed (rle.py). Crowd regions are no
objects and are skipped, and so are annotations that have a box only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from samtune.annotations import (
    AnnotatedImage,
    Annotations,
    Mask,
    Shape,
    contour,
    draw_box,
    draw_contours,
    find_image,
    listed,
    read_json,
    told_size,
)
from samtune.errors import DatasetError
from samtune.pairs import Fault, Skipped
from samtune.rle import decode_rle
from samtune.words import count

_MISSING = "Put the images beside the file, into a folder images, or name theirs with --images."
_MEND = "Mend or remove what is named."
_KEEP_INSIDE = "Images are named as seen from their folder: put them there, or --images names it."


def read_coco(path: Path, image_folder: Path | None = None, *, boxes: bool = False) -> Annotations:
    """Read a COCO file; the images themselves are only looked for.

    Args:
        path: the JSON file.
        image_folder: what file names are relative to; by default the file's folder, or the folder
            images in it or beside it.
        boxes: take annotations that have a box only for objects that fill it.

    Raises:
        DatasetError: no COCO file; what is wrong with parts of it becomes faults.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise DatasetError(f"{path} {error}. Give a COCO file, or a folder.") from error
    images, annotations, categories = _tables(path, data)
    read = Annotations("coco", categories=_categories(path, categories))
    beside = (path.parent, path.parent / "images", path.parent.parent / "images")
    folders = beside if image_folder is None else (image_folder,)
    by_image: dict[object, list[Shape]] = {}
    for number, entry in enumerate(images, start=1):
        _add_image(path, number, entry, folders, by_image, read)
    left_out: Counter[str] = Counter()
    for number, entry in enumerate(annotations, start=1):
        if boxes and isinstance(entry, dict) and not entry.get("segmentation"):
            entry = {**entry, "segmentation": _Box(entry.get("bbox"))}
        _add_annotation(path, number, entry, by_image, read, left_out)
    for reason, number in left_out.items():
        read.found.skipped.append(Skipped(path, f"{count(number, 'annotation')} {reason}"))
    return read


def _tables(path: Path, data: object) -> Sequence[list[Any]]:
    if isinstance(data, dict) and "shapes" in data:
        raise DatasetError(f"{path} is of LabelMe: give the folder that it lies in.")
    if not isinstance(data, dict):
        raise DatasetError(
            f"{path} is no COCO data set: it holds a {type(data).__name__} instead of an object "
            "with images, annotations and categories."
        )
    tables = [data.get(name) for name in ("images", "annotations", "categories")]
    for name, table in zip(("images", "annotations", "categories"), tables, strict=True):
        if not isinstance(table, list):
            raise DatasetError(f'{path} is no COCO data set: it has no list "{name}".')
    return [table for table in tables if isinstance(table, list)]


def _categories(path: Path, entries: list[Any]) -> dict[str, str]:
    try:
        return {str(entry["id"]): str(entry["name"]) for entry in entries}
    except (TypeError, KeyError) as error:
        raise DatasetError(f"{path} has a category without id or name: add it.") from error


def _add_image(
    path: Path,
    number: int,
    entry: Any,
    folders: Sequence[Path],
    by_image: dict[object, list[Shape]],
    read: Annotations,
) -> None:
    """Note an image, or what is wrong with it; its shapes come later."""
    faults = read.found.faults
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
        faults.append(Fault(path, f"has an image, the {number}., without an id", _MEND))
        return
    shapes: list[Shape] = []
    if entry["id"] in by_image:
        faults.append(Fault(path, f"has two images with the id {entry['id']}", _MEND))
    by_image[entry["id"]] = shapes
    name = entry.get("file_name")
    try:
        places = (find_image(name, folder, root=folder) for folder in folders)
        image = next((place for place in places if place is not None), None)
    except ValueError as error:
        faults.append(Fault(path, f"names {name!r}, which {error}", _KEEP_INSIDE))
        return
    if image is None:
        faults.append(Fault(path, f"names {name}, which is not there", _MISSING))
        return
    size = told_size(entry.get("height"), entry.get("width"))
    read.images.append(AnnotatedImage(image, path, shapes, size))


def _add_annotation(
    path: Path,
    number: int,
    entry: Any,
    by_image: dict[object, list[Shape]],
    read: Annotations,
    left_out: Counter[str],
) -> None:
    """Note an object, count it as left out, or note what is wrong with it."""
    if not isinstance(entry, dict):
        problem = f"has an annotation, the {number}., that is no object"
        read.found.faults.append(Fault(path, problem, _MEND))
        return
    name = f"annotation {entry.get('id', f'no. {number}')}"
    image_id, category = entry.get("image_id"), str(entry.get("category_id"))
    segmentation = entry.get("segmentation")
    if not isinstance(image_id, int | str) or image_id not in by_image:
        problem = f"{name} is of the image {image_id!r}, which is not among the images"
    elif category not in read.categories:
        known = listed([f"{key} {label}" for key, label in read.categories.items()]) or "none"
        problem = f"{name} has the unknown category {category} (there are {known})"
    elif entry.get("iscrowd"):
        left_out["of a crowd"] += 1
        return
    elif not segmentation:
        left_out["without an outline"] += 1
        return
    else:
        by_image[image_id].append(Shape(name, category, partial(_draw, segmentation)))
        return
    read.found.faults.append(Fault(path, problem, _MEND))


@dataclass(frozen=True)
class _Box:
    """A box x, y, width, height that stands for a segmentation, if it is one."""

    numbers: object

    def __bool__(self) -> bool:
        return self.numbers is not None

    def draw(self, size: tuple[int, int]) -> Mask:
        if not isinstance(self.numbers, list) or len(self.numbers) != 4:
            raise ValueError("has a bbox that is not x, y, width, height")
        contour([*self.numbers, 0, 0])  # numbers, finite
        x, y, width, height = self.numbers
        return draw_box((x, y, x + width, y + height), size)


def _draw(segmentation: object, size: tuple[int, int]) -> Mask:
    if isinstance(segmentation, _Box):
        return segmentation.draw(size)
    if isinstance(segmentation, dict):
        told, counts = segmentation.get("size"), segmentation.get("counts")
        if told != list(size):
            raise ValueError(f"has run lengths of the size {told}, its image is {list(size)}")
        if not isinstance(counts, list | str):
            raise ValueError("has run lengths without counts")
        try:
            return decode_rle(counts, size)
        except ValueError as error:
            raise ValueError(f"cannot be drawn: {error}") from error
    if not isinstance(segmentation, list):
        raise ValueError("has a segmentation that is neither polygons nor run lengths")
    return draw_contours([contour(polygon) for polygon in segmentation], size)
