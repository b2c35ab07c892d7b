"""Dataset: a folder of images and masks, checked, with all its objects.

Loading opens every file once, so that all faults come to light together and before any
work. Images are not kept, and masks only as packed objects: memory stays flat. The folder
layouts are told in pairs.py, the meaning of the numbers in mask files in masks.py.
"""

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samtune.errors import DatasetError, ImageError
from samtune.images import image_size, read_labels
from samtune.masks import (
    DatasetObject,
    LabelReading,
    Labels,
    Meaning,
    count_values,
    decide_reading,
    objects_in,
)
from samtune.pairs import Fault, Pair, Pairing, Skipped, find_pairs

_NAMED_FAULTS = 5  # in the message; the error's notes hold them all
_OTHER_SIZE = "A mask has its image's width and height: export it again at full size."


@dataclass(frozen=True)
class Dataset:
    """Pairs of image and mask, and the objects in them.

    Args:
        folder: where they were found.
        pairs: image and mask files, only those with an object.
        sizes: (H, W) of each pair's image, upright.
        digests: SHA-256 of each pair's two files, image and mask.
        objects: all objects, in the order of the pairs.
        skipped: what was left out, and why.
        reading: what the numbers in the masks were taken for.
    """

    folder: Path
    pairs: tuple[Pair, ...]
    sizes: tuple[tuple[int, int], ...]
    digests: tuple[tuple[str, str], ...]
    objects: tuple[DatasetObject, ...]
    skipped: tuple[Skipped, ...]
    reading: LabelReading

    def subset(self, image_indices: Iterable[int]) -> "Dataset":
        """The data set of some of the images only, numbered anew in the given order."""
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
        )

    def fingerprint(self) -> str:
        """SHA-256 of the files' contents: the same whatever the files' names and order."""
        return hashlib.sha256("\n".join(sorted(map("".join, self.digests))).encode()).hexdigest()

    def describe(self) -> str:
        """How many images and objects of which sizes, in a few words."""
        smallest, largest = (pick(self.sizes, key=_pixels) for pick in (min, max))
        sizes = _in_pixels(smallest)
        if smallest != largest:
            sizes = f"{sizes} to {_in_pixels(largest)}"
        images, objects = _count(len(self.pairs), "image"), _count(len(self.objects), "object")
        return f"{images} with {objects}, {sizes}"


def load_dataset(
    folder: Path,
    *,
    class_id: int | None = None,
    objects: Meaning | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read and check a folder of images and masks.

    Images in whose mask nothing is the target are left out and listed as skipped.

    Args:
        folder: images/ and masks/ with the same stems, or x.jpg beside x.png or x_mask.png.
        class_id: mask values are class ids, and this one is the target: all its pixels in an
            image are one object, or every connected part with objects="components".
        objects: what is one object: the "mask", each of its "components", or each of its
            "instances" labels. None decides by the numbers in all masks (masks.py).
        on_progress: called with the number of pairs read and of all.

    Returns:
        A data set with at least one object.

    Raises:
        DatasetError: no folder, no images, faulty files (all of them are counted, the first
            named, and each is a note on the error), no object in any mask, or a class id
            that never occurs.
    """
    if class_id is not None and objects == "instances":
        raise DatasetError(
            f"mask values are either class ids or instance labels: with class {class_id}, "
            'ask for "mask" or "components" objects instead of "instances".'
        )
    pairing = find_pairs(folder)
    files: list[_PairOfFiles] = []
    for done, pair in enumerate(pairing.pairs, start=1):
        files += _read(pair, pairing)
        if on_progress is not None:
            on_progress(done, len(pairing.pairs))
    if pairing.faults:
        raise _faults(folder, pairing)
    reading = decide_reading([file.counts for file in files], objects, class_id)
    kept: list[_PairOfFiles] = []
    found: list[DatasetObject] = []
    for file in files:
        things, specks = objects_in(file.labels(), reading, image_index=len(kept))
        if specks:
            reason = f"{_count(specks, 'speck')} too small to be an object"
            pairing.skipped.append(Skipped(file.pair.mask, reason))
        if things:
            kept.append(file)
            found += things
        else:
            reason = "empty mask" if class_id is None else f"class {class_id} does not occur"
            pairing.skipped.append(Skipped(file.pair.image, reason))
    if not found:
        raise _no_objects(folder, [file.counts for file in files], class_id)
    return Dataset(
        folder=folder,
        pairs=tuple(file.pair for file in kept),
        sizes=tuple(file.size for file in kept),
        digests=tuple(file.digests for file in kept),
        objects=tuple(found),
        skipped=tuple(pairing.skipped),
        reading=reading,
    )


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold some images out, by drawing lots.

    Objects of one image stay together, and so do copies of one image under several names.

    Args:
        dataset: at least two different images.
        fraction: share of the images to hold out, between 0 and 1.
        seed: the same seed draws the same images.

    Returns:
        What to train on, and what is held out: at least one image each.

    Raises:
        DatasetError: there is only one image.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a fraction is between 0 and 1, not {fraction}")
    copies: dict[str, list[int]] = {}
    for index, (image_digest, _) in enumerate(dataset.digests):
        copies.setdefault(image_digest, []).append(index)
    groups = list(copies.values())
    if len(groups) < 2:
        only = "one image with an object" if len(dataset.pairs) == 1 else "copies of one image"
        raise DatasetError(
            f"{dataset.folder} has only {only} ({dataset.pairs[0].image.name}), and some have to "
            "be held out to see what was learned: add images, or give a second folder to "
            "validate on."
        )
    held_out = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()

    def of(chosen: Sequence[int]) -> Dataset:
        return dataset.subset(sorted(index for group in chosen for index in groups[group]))

    return of(order[held_out:]), of(order[:held_out])


@dataclass(frozen=True)
class _PairOfFiles:
    """What is kept of a pair while the other pairs are being read."""

    pair: Pair
    size: tuple[int, int]
    digests: tuple[str, str]
    counts: Counter[int]
    packed_labels: bytes  # compressed to a few KB: the decision what they mean comes later
    label_type: np.dtype[Any]

    def labels(self) -> Labels:
        values = np.frombuffer(zlib.decompress(self.packed_labels), dtype=self.label_type)
        return values.reshape(self.size)


def _read(pair: Pair, pairing: Pairing) -> list[_PairOfFiles]:
    """Read a pair, or note what is wrong with either file."""
    try:
        size = image_size(pair.image)
    except ImageError as error:
        pairing.faults.append(_unreadable(pair.image, error))
        size = None
    try:
        labels = read_labels(pair.mask)
    except ImageError as error:
        pairing.faults.append(_unreadable(pair.mask, error))
        return []
    if size is None:
        return []
    if labels.shape != size:
        of_mask, of_image = _in_pixels(labels.shape), _in_pixels(size)
        problem = f"is {of_mask}, its image {pair.image.name} {of_image}"
        if labels.shape == size[::-1]:
            problem += " (one of them is turned)"
        pairing.faults.append(Fault(pair.mask, problem, _OTHER_SIZE))
        return []
    digests = (_sha256(pair.image), _sha256(pair.mask))
    packed = zlib.compress(labels.tobytes(), level=1)
    return [_PairOfFiles(pair, size, digests, count_values(labels), packed, labels.dtype)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: Path, error: ImageError) -> Fault:
    problem = str(error).removeprefix(f"{path} ").removesuffix(".")
    return Fault(path, problem, remedy="")  # the problem already says it


def _faults(folder: Path, pairing: Pairing) -> DatasetError:
    faults = pairing.faults
    sentences = [f"{_name(fault.path, folder)} {fault.problem}" for fault in faults]
    named = "; ".join(sentences[:_NAMED_FAULTS])
    more = f"; and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
    remedies = " ".join(dict.fromkeys(fault.remedy for fault in faults))
    message = f"{folder} has {_count(len(faults), 'fault')}: {named}{more}. {remedies}"
    error = DatasetError(message.rstrip())
    for sentence in sentences:
        error.add_note(sentence)
    return error


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _no_objects(folder: Path, counts: list[Counter[int]], class_id: int | None) -> DatasetError:
    masks = "the only mask" if len(counts) == 1 else f"all {len(counts)} masks"
    images_with = Counter(value for count in counts for value in count)
    if class_id is None or not images_with:
        return DatasetError(
            f"{masks} in {folder} hold no object: every value is 0. Paint objects with 255, or "
            "with labels from 1 on (in a JPEG only values from 128 on count)."
        )
    occurring = [f"{value} ({_count(n, 'image')})" for value, n in sorted(images_with.items())]
    listed = ", ".join(occurring[:20]) + (", ..." if len(occurring) > 20 else "")
    return DatasetError(f"class {class_id} occurs in no mask of {folder}; these do: {listed}.")


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _in_pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]}×{size[0]} px"  # width first, as image viewers show it


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
