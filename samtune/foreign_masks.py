"""Masks that other tools made, image by image, to be worked on: files of masks or of annotations.

A data set (dataset.py) is what to learn from, and has to be whole. Here one file may be meant, and
the user may say which image it is of.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from samtune.annotation_objects import load_annotations
from samtune.annotations import AnnotatedImage, Annotations
from samtune.dataset import read_annotations
from samtune.errors import DatasetError
from samtune.files import real_path
from samtune.masks import DatasetObject
from samtune.pairs import Skipped
from samtune.read_coco import read_coco
from samtune.read_labelme import is_labelme, read_labelme, read_labelme_file
from samtune.read_yolo import read_yolo_file


@dataclass(frozen=True)
class ForeignMasks:
    """What annotations say.

    Args:
        form: "coco", "yolo" or "labelme".
        categories: their names; an object's label counts them from 1 on.
        numbers: the classes' own numbers by name; none in LabelMe's, which has but names.
        images: files, each with its objects in the order of the annotations.
        skipped: what was left out, and why.
    """

    form: str
    categories: tuple[str, ...]
    numbers: dict[str, int]
    images: tuple[tuple[Path, tuple[DatasetObject, ...]], ...]
    skipped: tuple[Skipped, ...]


def is_annotations(path: Path) -> bool:
    """Whether a path holds annotations, by its looks: anything else is a mask's own file."""
    return path.is_dir() or path.suffix.lower() in (".json", ".txt")


def read_foreign_masks(
    path: Path, image: Path | None = None, image_folder: Path | None = None
) -> ForeignMasks:
    """Read annotations of COCO, YOLO or LabelMe.

    Args:
        path: a COCO file; a LabelMe or YOLO file; or a folder, as for `load_dataset`.
        image: take only this image; what is wrong elsewhere does not matter then.
        image_folder: where the images are that COCO and LabelMe files name.

    Raises:
        DatasetError: no such file, nothing in it, or faults, which are all counted.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist: check its name.")
    annotations = _read(path, image, image_folder)
    loaded = load_annotations(path, annotations, None, None, None)
    objects: dict[int, list[DatasetObject]] = defaultdict(list)
    for thing in loaded.objects:
        objects[thing.image_index].append(thing)
    return ForeignMasks(
        annotations.form,
        tuple(annotations.categories.values()),
        _numbers(annotations),
        tuple((pair.image, tuple(objects[i])) for i, pair in enumerate(loaded.pairs)),
        loaded.skipped,
    )


def _numbers(annotations: Annotations) -> dict[str, int]:
    """The ids of categories by name, where all of them are numbers; of one name, the first."""
    numbers: dict[str, int] = {}
    for key, name in annotations.categories.items():
        if annotations.form == "labelme" or not re.fullmatch("[0-9]{1,18}", key):
            return {}
        numbers.setdefault(name, int(key))
    return numbers


def _read(path: Path, image: Path | None, image_folder: Path | None) -> Annotations:
    if path.suffix.lower() == ".txt" and path.is_file():
        if image is None:
            raise DatasetError(f"{path} does not name its image: say it with --image.")
        return read_yolo_file(path, image)
    if path.is_file() and is_labelme(path):
        return read_labelme_file(path, image or _image_of_labelme(path, image_folder))
    if image is None:
        annotations = read_annotations(path, image_folder)
        if annotations is None:
            raise DatasetError(
                f"{path} holds no annotations of COCO, YOLO or LabelMe: of mask files, give one "
                "and its --image."
            )
        return annotations
    return _of_image(path, image, image_folder)


def _image_of_labelme(path: Path, image_folder: Path | None) -> Path:
    """What its imagePath leads to."""
    for one in read_labelme(path.parent, image_folder).images:
        if one.source == path:
            return one.image
    raise DatasetError(f"{path} names no image that is there: say it with --image.")


def _of_image(path: Path, image: Path, image_folder: Path | None) -> Annotations:
    """The part of several images' annotations that is of one."""
    for folder in (image_folder, image.parent):
        read = read_coco(path, folder) if path.is_file() else read_annotations(path, folder)
        chosen: list[AnnotatedImage] = []
        if read is not None:
            chosen = [one for one in read.images if real_path(one.image) == real_path(image)]
        if read is not None and chosen:
            return Annotations(read.form, images=chosen, categories=read.categories)
    raise DatasetError(f"{path} has nothing of {image}: check both names.")
