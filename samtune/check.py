"""What `fit` would meet in a folder, found before any hour is spent on it.

Faults, which keep a folder from being read at all, are dataset.py's. Here is what can be read but
makes a poor adapter, or scores that promise too much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import IMAGE_SUFFIXES, is_lossy
from samtune.input_frame import Embedding, input_size
from samtune.masks import DatasetObject
from samtune.sam import Sam

CELL = 16  # pixels of SAM's input frame on a side of a cell: the least it can tell apart
_LARGE_PART = 0.2  # of the largest part's area
_POOLED = 4  # cells on a side of the grid that embeddings are averaged to
ALIKE = 0.95  # cosine from which two images count as nearly the same; see `nearly_same`


@dataclass(frozen=True)
class Finding:
    """Something to look at before training; `fit` would run all the same.

    Attributes:
        kind: a word for programs: "tiny", "touching", "parts", "lossy", "copies" or "similar".
        text: how many there are, and what it means.
        files: names of the files where it is, each once; "a.jpg like b.jpg" for "similar".
        remedy: what to do.
    """

    kind: str
    text: str
    files: tuple[str, ...]
    remedy: str


def check_objects(dataset: Dataset, image_size: int) -> list[Finding]:
    """Look at the objects and files of a data set; takes about as long as reading it.

    Args:
        dataset: what was read.
        image_size: pixels of SAM's input frame.
    """
    objects = dataset.objects
    tiny = [thing for thing in objects if _side(thing, image_size) < CELL]
    parts = (
        [thing for thing in objects if _large_parts(thing) > 1]
        if dataset.reading.meaning == "mask"
        else []
    )
    touching, touched = _touching(dataset)
    masks = [pair.mask for pair in dataset.pairs if pair.mask.suffix.lower() in IMAGE_SUFFIXES]
    lossy = [mask.name for mask in masks if is_lossy(mask)]  # annotations are text
    copies = _copies(dataset)
    found = [
        Finding(
            "tiny",
            f"{_of(len(tiny), len(objects), 'object')} smaller than {CELL}×{CELL} px once the "
            f"image's long side is {image_size} px: less than a cell for SAM",
            _images(dataset, tiny),
            "Crop the images around such objects, for training and in use.",
        ),
        Finding(
            "touching",
            f"{_of(touching, len(objects), 'object')} touching another one",
            touched,
            "See whether they are meant to be one object; the border between two is hard to learn.",
        ),
        Finding(
            "parts",
            f"{_of(len(parts), len(objects), 'mask')} in several large parts: one click cannot "
            "mean all of them",
            _images(dataset, parts),
            "Make every connected part an object with --objects components, or number the objects "
            "in the masks.",
        ),
        Finding(
            "lossy",
            f"{_of(len(lossy), len(dataset.pairs), 'mask')} saved with loss (JPEG, WebP): edges "
            "are smeared, and labels would be lost",
            tuple(lossy),
            "Save masks as PNG, from the tool that made them.",
        ),
        Finding(
            "copies",
            f"{_of(len(copies), len(dataset.pairs), 'image')} the same, byte for byte, as another",
            copies,
            "Keep one of each; copies count twice.",
        ),
    ]
    return [finding for finding in found if finding.files]


def nearly_same(
    train: Dataset,
    held_out: Dataset,
    sam: Sam,
    cache: EmbeddingCache,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Finding | None:
    """Look for held-out images that are nearly a training image: scores on them flatter.

    Images are compared by their embeddings, averaged to a coarse grid, as the cosine of their
    differences from the mean embedding. With MobileSAM different photos of one kind came up to
    0.80 (plates) and 0.92 (nuclei of one microscope), photos saved again as JPEG or at half their
    size mostly to 0.96 and more; heavily cropped or compressed ones are not found. Encoding is
    kept in the cache, for `fit` to use.

    Args:
        train: what is trained on.
        held_out: what scores are computed on.
        sam: the frozen model.
        cache: where embeddings are kept.
        on_progress: called with the number of images done and of all.

    Returns:
        What was found, the most alike first; None where nothing is too alike.
    """
    pairs = [*train.pairs, *held_out.pairs]
    rows = []
    for done, pair in enumerate(pairs, start=1):
        rows.append(_descriptor(cache.encode(pair.read(), sam)[1], sam.image_size))
        on_progress(done, len(pairs))
    every = np.stack(rows)
    every -= every.mean(axis=0)
    every /= np.maximum(np.linalg.norm(every, axis=1, keepdims=True), 1e-9)
    count = len(train.pairs)
    cosines = every[count:] @ every[:count].T
    likest, nearest = cosines.max(axis=1), cosines.argmax(axis=1)
    order = np.argsort(-likest, kind="stable").tolist()
    alike = tuple(
        f"{held_out.pairs[index].image.name} like {train.pairs[nearest[index]].image.name}"
        for index in order
        if likest[index] >= ALIKE
    )
    if not alike:
        return None
    return Finding(
        "similar",
        f"{_of(len(alike), len(held_out.pairs), 'held-out image')} nearly the same as one to train "
        "on: scores on them say little about new images",
        alike,
        "Hold out other images, such as those of another day or place, with --val.",
    )


def _of(count: int, total: int, noun: str) -> str:
    """How many of how many are something."""
    nouns = noun if total == 1 else f"{noun}s"
    return f"{count:,} of {total:,} {nouns} {'is' if count == 1 else 'are'}"


def _images(dataset: Dataset, objects: Sequence[DatasetObject]) -> tuple[str, ...]:
    names = (dataset.pairs[thing.image_index].image.name for thing in objects)
    return tuple(dict.fromkeys(names))


def _side(thing: DatasetObject, image_size: int) -> float:
    """Side of a square as large as the object, in pixels of SAM's input frame."""
    return float(np.sqrt(thing.area)) * image_size / max(thing.size)


def _large_parts(thing: DatasetObject) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(thing.mask().astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]  # the first is the background
    return int((areas >= _LARGE_PART * areas.max()).sum())


def _touching(dataset: Dataset) -> tuple[int, tuple[str, ...]]:
    """How many objects touch, or overlap with, another of their image; and those images."""
    by_image: dict[int, list[DatasetObject]] = {}
    for thing in dataset.objects:
        by_image.setdefault(thing.image_index, []).append(thing)
    count, names = 0, []
    for index, things in by_image.items():
        if len(things) < 2:
            continue
        covered = np.zeros(things[0].size, np.uint16)
        for thing in things:
            covered += _grown(thing.mask())
        touching = sum(bool((covered[thing.mask()] > 1).any()) for thing in things)
        count += touching
        names += [dataset.pairs[index].image.name] if touching else []
    return count, tuple(names)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)), np.uint8)


def _copies(dataset: Dataset) -> tuple[str, ...]:
    seen: set[str] = set()
    names = []
    for pair, (digest, _) in zip(dataset.pairs, dataset.digests, strict=True):
        names += [pair.image.name] if digest in seen else []
        seen.add(digest)
    return tuple(names)


def _descriptor(embedding: Embedding, image_size: int) -> NDArray[np.float32]:
    """(256 · 16,) the embedding of the image without its padding, averaged to a coarse grid."""
    grid = embedding.features.shape[-1]
    height, width = (
        max(1, round(length * grid / image_size))
        for length in input_size(embedding.original_size, image_size)
    )
    cells = embedding.features[None, :, :height, :width].to(torch.float32)
    return np.asarray(F.adaptive_avg_pool2d(cells, (_POOLED, _POOLED)).flatten().numpy())
