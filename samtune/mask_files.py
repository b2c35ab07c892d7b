"""Mask files: a folder of images and masks, read and checked.

The folder layouts are told in pairs.py, the meaning of the numbers in the files in masks.py.
"""

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable
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
    check_meaning,
    count_values,
    decide_reading,
    objects_in,
    solid_values,
)
from samtune.pairs import (
    Fault,
    Pair,
    Pairing,
    Skipped,
    faults_error,
    find_pairs,
    in_pixels,
)
from samtune.words import count

_OTHER_SIZE = "A mask has its image's width and height: export it again at full size."


@dataclass(frozen=True)
class Loaded:
    """What a data set is made of (dataset.py tells each field)."""

    pairs: tuple[Pair, ...]
    sizes: tuple[tuple[int, int], ...]
    digests: tuple[tuple[str, str], ...]
    objects: tuple[DatasetObject, ...]
    skipped: tuple[Skipped, ...]
    reading: LabelReading
    empty: tuple[Pair, ...] = ()
    categories: tuple[str, ...] = ()


def load_mask_files(
    folder: Path,
    class_id: int | None,
    objects: Meaning | None,
    on_progress: Callable[[int, int], None] | None,
) -> Loaded:
    """Read and check a folder of images and masks; the arguments are those of load_dataset.

    Raises:
        DatasetError: as load_dataset.
    """
    check_meaning(objects, class_id)
    pairing = find_pairs(folder)
    files: list[_PairOfFiles] = []
    for done, pair in enumerate(pairing.pairs, start=1):
        files += _read(pair, pairing)
        if on_progress is not None:
            on_progress(done, len(pairing.pairs))
    if pairing.faults:
        raise faults_error(folder, pairing)
    solid = set().union(*(file.solid for file in files))
    reading = decide_reading([file.counts for file in files], objects, class_id, solid=solid)
    kept: list[_PairOfFiles] = []
    found: list[DatasetObject] = []
    empty: list[Pair] = []
    for file in files:
        things, specks = objects_in(file.labels(), reading, image_index=len(kept))
        if specks:
            reason = f"{count(specks, 'speck')} too small to be an object"
            pairing.skipped.append(Skipped(file.pair.mask, reason))
        if things:
            kept.append(file)
            found += things
        else:
            reason = "empty mask" if class_id is None else f"class {class_id} does not occur"
            pairing.skipped.append(Skipped(file.pair.image, reason))
            empty += [] if specks else [file.pair]
    if not found:
        raise _no_objects(folder, [file.counts for file in files], class_id)
    return Loaded(
        pairs=tuple(file.pair for file in kept),
        sizes=tuple(file.size for file in kept),
        digests=tuple(file.digests for file in kept),
        objects=tuple(found),
        skipped=tuple(pairing.skipped),
        reading=reading,
        empty=tuple(empty),
    )


def unreadable(path: Path, error: ImageError) -> Fault:
    """An image or mask file's error as a fault."""
    problem = str(error).removeprefix(f"{path} ").removesuffix(".")
    return Fault(path, problem, remedy="")  # the problem already says it


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _PairOfFiles:
    """What is kept of a pair while the other pairs are being read."""

    pair: Pair
    size: tuple[int, int]
    digests: tuple[str, str]
    counts: Counter[int]
    solid: set[int]
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
        pairing.faults.append(unreadable(pair.image, error))
        size = None
    try:
        labels = read_labels(pair.mask)
    except ImageError as error:
        pairing.faults.append(unreadable(pair.mask, error))
        return []
    if size is None:
        return []
    if labels.shape != size:
        of_mask, of_image = in_pixels(labels.shape), in_pixels(size)
        problem = f"is {of_mask}, its image {pair.image.name} {of_image}"
        if labels.shape == size[::-1]:
            problem += " (one of them is turned)"
        pairing.faults.append(Fault(pair.mask, problem, _OTHER_SIZE))
        return []
    digests = (sha256_of(pair.image), sha256_of(pair.mask))
    packed = zlib.compress(labels.tobytes(), level=1)
    counts, solid = count_values(labels), solid_values(labels)
    return [_PairOfFiles(pair, size, digests, counts, solid, packed, labels.dtype)]


def _no_objects(folder: Path, counts: list[Counter[int]], class_id: int | None) -> DatasetError:
    masks = "the only mask" if len(counts) == 1 else f"all {len(counts)} masks"
    images_with = Counter(value for found in counts for value in found)
    if class_id is None or not images_with:
        return DatasetError(
            f"{masks} in {folder} hold no object: every value is 0. Paint objects with 255, or "
            "with labels from 1 on (in a JPEG only values from 128 on count)."
        )
    occurring = [f"{value} ({count(n, 'image')})" for value, n in sorted(images_with.items())]
    listed = ", ".join(occurring[:20]) + (", ..." if len(occurring) > 20 else "")
    return DatasetError(f"class {class_id} occurs in no mask of {folder}; these do: {listed}.")
