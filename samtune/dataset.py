"""Dataset: images with all their objects, checked.

Loading opens every file once, so that all faults come to light together and before any
work. Images are not kept, and masks only as packed objects: memory stays flat. Objects come from
mask files (mask_files.py) or from annotations of other tools (annotations.py), told apart by
looking; where both are there, masks count.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np

from samtune.annotation_objects import load_annotations
from samtune.annotations import Annotations
from samtune.errors import DatasetError
from samtune.evenly import evenly
from samtune.mask_files import load_mask_files
from samtune.masks import DatasetObject, LabelReading, Meaning, class_number, digest_of
from samtune.pairs import Pair, Skipped, has_masks, in_pixels, not_permitted
from samtune.read_coco import read_coco
from samtune.read_labelme import labelme_files, read_labelme
from samtune.read_yolo import read_yolo, yolo_folders
from samtune.words import count


@dataclass(frozen=True)
class Dataset:
    """Pairs of image and mask, and the objects in them.

    Args:
        folder: where they were found, or the COCO file.
        pairs: images with the file that has their objects, only those with an object.
        sizes: (H, W) of each pair's image, upright.
        digests: SHA-256 of each pair's image file, and of its mask file or objects.
        objects: all objects, in the order of the pairs.
        skipped: what was left out, and why.
        reading: what was taken for an object.
        empty: images whose mask says that they show no object. Annotations of other tools do not
            say so: what is not annotated there may just not have been.
        categories: names of classes, which objects' labels count from 1 on; none where labels are
            the numbers in masks, or count parts.
    """

    folder: Path
    pairs: tuple[Pair, ...]
    sizes: tuple[tuple[int, int], ...]
    digests: tuple[tuple[str, str], ...]
    objects: tuple[DatasetObject, ...]
    skipped: tuple[Skipped, ...]
    reading: LabelReading
    empty: tuple[Pair, ...] = ()
    categories: tuple[str, ...] = ()

    def subset(self, image_indices: Iterable[int]) -> "Dataset":
        """The data set of some of the images only, numbered anew in the given order.

        Images without an object are none of them.
        """
        chosen = list(image_indices)
        position = {old: new for new, old in enumerate(chosen)}
        if len(position) != len(chosen):
            raise ValueError(f"an image is in a data set once, not as in {chosen}")
        moved = [
            DatasetObject(
                position[thing.image_index], thing.size, thing.box, thing.bits, thing.label
            )
            for thing in self.objects
            if thing.image_index in position
        ]
        return Dataset(
            folder=self.folder,
            pairs=tuple(self.pairs[index] for index in chosen),
            sizes=tuple(self.sizes[index] for index in chosen),
            digests=tuple(self.digests[index] for index in chosen),
            objects=tuple(sorted(moved, key=lambda thing: thing.image_index)),
            skipped=(),
            reading=self.reading,
            categories=self.categories,
        )

    def some_empty(self, count: int) -> list[Pair]:
        """So many of the images without an object, at most, evenly from all."""
        return evenly(self.empty, count)

    def in_a_mirror(self) -> "Dataset":
        """Each image with an object in a mirror."""
        return replace(
            self,
            empty=(),
            pairs=tuple(replace(pair, mirrored=True) for pair in self.pairs),
            objects=tuple(thing.mirrored(thing.image_index) for thing in self.objects),
        )

    def with_mirror_images(self) -> "Dataset":
        """The data set, and behind it each image in a mirror: that of image i is n + i of 2 n."""
        own, mirrored = len(self.pairs), self.in_a_mirror()
        behind = (replace(one, image_index=own + one.image_index) for one in mirrored.objects)
        return replace(
            self,
            pairs=(*self.pairs, *mirrored.pairs),
            sizes=2 * self.sizes,
            digests=2 * self.digests,
            objects=(*self.objects, *behind),
        )

    @property
    def is_mirrored(self) -> bool:
        """Whether these are mirror images."""
        return all(pair.mirrored for pair in self.pairs)

    @property
    def has_one_image(self) -> bool:
        """Whether there is but one image, or copies of one."""
        return len({image for image, _ in self.digests}) == 1

    def by_class(self, labels: Collection[int] | None = None) -> "Dataset":
        """The data set with all of a class in an image as one object.

        Args:
            labels: objects' labels that are classes; images with none of them are left out. None
                takes all objects for one class, whose label is 1.
        """
        merged: dict[tuple[int, int], list[DatasetObject]] = {}
        for thing in self.objects:
            if labels is None or thing.label in labels:
                key = thing.image_index, 1 if labels is None else thing.label
                merged.setdefault(key, []).append(thing)
        things = tuple(
            DatasetObject.of(reduce(np.logical_or, (one.mask() for one in members)), *key)
            for key, members in sorted(merged.items())
        )
        return replace(self, objects=things).subset(sorted({image for image, _ in merged}))

    def in_numbers_of(self, other: "Dataset") -> "Dataset":
        """The data set with labels that mean what those of another one mean, by classes' names.

        Annotations are numbered in each data set by itself. What the other one has no class for
        has the label 0. Where either is of masks, numbers mean what they are.
        """
        if not self.categories or not other.categories or self.categories == other.categories:
            return self
        number_of = {name: number for number, name in enumerate(other.categories, start=1)}
        objects = tuple(
            replace(thing, label=number_of.get(self.categories[thing.label - 1], 0))
            for thing in self.objects
        )
        return replace(self, objects=objects, categories=other.categories)

    def fingerprint(self) -> str:
        """SHA-256 of the files' contents: the same whatever the files' names and order."""
        return hashlib.sha256("\n".join(sorted(map("".join, self.digests))).encode()).hexdigest()

    def fingerprint_in_order(self) -> str:
        """SHA-256 of the images and objects in their order, and so of what was taken for one."""
        images = [image for image, _ in self.digests]
        places = " ".join(str(one.image_index) for one in self.objects)
        told = "\n".join([*images, places, digest_of(self.objects)])
        return hashlib.sha256(told.encode()).hexdigest()

    def describe(self) -> str:
        """How many images and objects of which sizes, in a few words."""
        smallest, largest = (pick(self.sizes, key=_pixels) for pick in (min, max))
        sizes = in_pixels(smallest)
        if smallest != largest:
            sizes = f"{sizes} to {in_pixels(largest)}"
        images, objects = count(len(self.pairs), "image"), count(len(self.objects), "object")
        return f"{images} with {objects}, {sizes}"


def load_dataset(
    data: Path,
    *,
    class_id: int | str | None = None,
    objects: Meaning | None = None,
    images: Path | None = None,
    boxes: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read and check images and what is known of their objects.

    Images without an object, or without one of the class, are left out and listed as skipped.

    Args:
        data: a COCO file, or a folder with one; or a folder of images/ and masks/ with the same
            stems, x.jpg beside x.png or x_mask.png, YOLO segmentation labels (read_yolo.py), or
            LabelMe's files.
        class_id: the target. In masks a number: all its pixels in an image are one object, or
            every connected part with objects="components". In annotations a category's name or id.
        objects: what is one object: the "mask", each of its "components", or each of its
            "instances". None decides by the numbers in all masks (masks.py); in annotations each
            object is one.
        images: the folder of images that COCO and LabelMe files name, if it is not beside them.
        boxes: take annotations of COCO and YOLO that are boxes for objects that fill them; they
            are left out, or a fault, otherwise.
        on_progress: called with the number of images read and of all.

    Returns:
        A data set with at least one object.

    Raises:
        DatasetError: no such place, no images, faulty files (all of them are counted, the first
            named, and each is a note on the error), no object, or a class that never occurs.
    """
    if images is not None and not images.is_dir():
        raise DatasetError(f"there is no folder {images}: name the folder of the images.")
    try:
        annotations = read_annotations(data, images, boxes=boxes)
    except PermissionError as error:
        raise not_permitted(error) from error
    if annotations is None:
        # What is missing is told before the class.
        number = class_number(data, class_id) if data.is_dir() else None
        loaded = load_mask_files(data, number, objects, on_progress)
    else:
        category = None if class_id is None else str(class_id)
        loaded = load_annotations(data, annotations, category, objects, on_progress)
    return Dataset(folder=data, **vars(loaded))


def read_annotations(data: Path, images: Path | None, *, boxes: bool = False) -> Annotations | None:
    """What a COCO file, or a folder of YOLO or LabelMe, holds; None for one of masks.

    Raises:
        DatasetError: as load_dataset.
    """
    if data.is_file() and data.suffix.lower() == ".json":
        return read_coco(data, images, boxes=boxes)
    if not data.is_dir() or has_masks(data):
        return None
    if yolo_folders(data) is not None:
        return read_yolo(data, boxes=boxes)
    if labelme_files(data):
        return read_labelme(data, images)
    only = [path for path in data.glob("*.json") if not path.name.startswith(".")]
    return read_coco(only[0], images, boxes=boxes) if len(only) == 1 else None


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold some images out, by drawing lots.

    Objects of one image stay together, and so do copies of one image under several names.

    Args:
        dataset: at least two different images.
        fraction: share of the images to hold out, between 0 and 1.
        seed: the same seed draws the same images.

    Returns:
        What to train on, and what is held out: at least one image each. Images without an object
        are to train on.

    Raises:
        DatasetError: there is only one image.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction is between 0 and 1, not {fraction}")
    groups = _different_images(dataset)
    held_out = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()

    def of(chosen: Sequence[int]) -> Dataset:
        return dataset.subset(sorted(index for group in chosen for index in groups[group]))

    return replace(of(order[held_out:]), empty=dataset.empty), of(order[:held_out])


def folds(dataset: Dataset, count: int, seed: int) -> list[list[int]]:
    """Deal the images out to parts of about the same size, to be held out in turns.

    Args:
        dataset: at least two different images.
        count: how many parts, at least 2; fewer where there are fewer images.
        seed: the same seed deals the same images.

    Returns:
        The indices of each part's images; copies of one image are in the same.

    Raises:
        DatasetError: there is only one image.
    """
    groups = _different_images(dataset)
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    return [
        sorted(index for group in order[first::count] for index in groups[group])
        for first in range(min(count, len(groups)))
    ]


def _different_images(dataset: Dataset) -> list[list[int]]:
    """The indices of the images, those of copies of one image together; two at least."""
    copies: dict[str, list[int]] = {}
    for index, (image_digest, _) in enumerate(dataset.digests):
        copies.setdefault(image_digest, []).append(index)
    if dataset.has_one_image:
        only = "one image with an object" if len(dataset.pairs) == 1 else "copies of one image"
        raise DatasetError(
            f"{dataset.folder} has only {only} ({dataset.pairs[0].image.name}), and some have to "
            "be held out to see what was learned: add images, give others with --val, or leave "
            "out --val-fraction and --mirror. VRP needs two to learn from; PerSAM needs one."
        )
    return list(copies.values())


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]
