"""fit_references(): an adapter of persam or persam-f from a few annotated images.

Nothing is trained but PerSAM-F's two numbers: the references are encoded once, into the cache, and
their target vectors averaged, an object of each image counting as much as any other of it, and an
image as much as any other. Zhang et al. 2023 (https://arxiv.org/abs/2305.03048), section 3.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.config import Part
from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.errors import DatasetError
from samtune.evenly import evenly
from samtune.input_frame import Embedding
from samtune.masks import DatasetObject
from samtune.persam import Persam, PersamF
from samtune.prompts import Prompt
from samtune.sam import Sam
from samtune.sam_f import fit_weights, three_masks
from samtune.supervision import Supervision
from samtune.targets import Direction, Trace, covered_share, is_object, point_in_cell

ReferenceMethod = Literal["persam", "persam-f"]
MEDOID = "auto"  # as --reference: the image that is most like the others
_MOST_DECODED = 16  # references that PerSAM-F's two numbers are fitted to, taken evenly from more


@dataclass(frozen=True, eq=False)
class Reference:
    """One annotated image: its file's name, its embedding, its objects and what they leave."""

    name: str
    embedding: Embedding
    objects: tuple[DatasetObject, ...]
    trace: Trace


@dataclass(frozen=True)
class ReferenceFit:
    """An adapter made of references.

    Attributes:
        adapter: with its description.
        references: the names of the images it is made of.
        left_out: of images whose objects are too small to leave a trace.
        seconds: "encode", reading the images and encoding those that were not cached; "fit" the
            rest; "total".
    """

    adapter: Adapter
    references: tuple[str, ...]
    left_out: tuple[str, ...]
    seconds: dict[str, float]


def fit_references(
    dataset: Dataset,
    sam: Sam,
    cache: EmbeddingCache,
    method: ReferenceMethod,
    *,
    checkpoint_name: str,
    reference: str | None = None,
    without: Sequence[Part] = (),
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReferenceFit:
    """Make an adapter of annotated images.

    Args:
        dataset: the references.
        sam: the frozen model.
        cache: where embeddings are kept.
        method: "persam" or "persam-f".
        checkpoint_name: what the base is called, for the adapter's description.
        reference: the name of the one image to take, with or without its suffix, or "auto" for the
            one whose target vector is most like the others'. None takes all.
        without: parts of the method to leave out.
        seed: of what PerSAM-F's fit draws; the same gives the same adapter.
        on_progress: called with the number of images encoded and of all.

    Returns:
        The adapter and what it is made of.

    Raises:
        DatasetError: no image has that name, or no object is large enough to leave a trace.
        SamtuneError: an image cannot be read, or the cache cannot be written.
    """
    started = time.monotonic()
    if reference not in (None, MEDOID):
        dataset = dataset.subset([_index_of(reference, dataset)])
    read, left_out = _read(dataset, sam, cache, on_progress)
    encoded = time.monotonic()
    peak = method == "persam-f"
    if reference == MEDOID:
        read = [read[_medoid([one.trace.target(peak=peak) for one in read])]]
    traces = [one.trace for one in read]
    target = np.mean([trace.target(peak=peak) for trace in traces], axis=0)
    what = Direction.fit(traces, background=False, peak=peak)
    where = what
    if "background" not in without:
        where = Direction.fit(traces, background=True, peak=peak)
    learned: Persam
    if peak:
        weights = _fit_weights(sam, read, where, np.random.default_rng(seed))
        learned = PersamF(target, where, what, weights, without)
    else:
        learned = Persam(target, where, what, without)
    learned.requires_grad_(False).eval().to(sam.device)
    chosen = "all" if reference is None else MEDOID if reference == MEDOID else "one by name"
    settings: dict[str, Any] = {"seed": seed, "reference": chosen}
    settings["agreement"] = "agreement" not in learned.without
    if set(without) - {"agreement"}:
        settings["without"] = sorted(learned.without - {"agreement"})
    info = AdapterInfo(
        method=method,
        base=Base.of(sam, checkpoint_name),
        settings=settings,
        data={
            "train_images": len(read),
            "train_objects": sum(len(one.objects) for one in read),
            "sha256": dataset.fingerprint(),
        },
    )
    ended = time.monotonic()
    return ReferenceFit(
        Adapter(info, learned),
        tuple(one.name for one in read),
        tuple(left_out),
        {"encode": encoded - started, "fit": ended - encoded, "total": ended - started},
    )


def _index_of(name: str, dataset: Dataset) -> int:
    names = [pair.image.name for pair in dataset.pairs]
    found = [
        i for i, pair in enumerate(dataset.pairs) if name in (pair.image.name, pair.image.stem)
    ]
    if len(found) != 1:
        there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DatasetError(
            f"{len(found) or 'no'} images of {dataset.folder} with an object are called {name}: "
            f"name one of {there}, or {MEDOID}."
        )
    return found[0]


def _read(
    dataset: Dataset, sam: Sam, cache: EmbeddingCache, on_progress: Callable[[int, int], None]
) -> tuple[list[Reference], list[str]]:
    """The references, and the names of images that are none."""
    read, left_out = [], []
    for index, pair in enumerate(dataset.pairs):
        _, embedding = cache.encode(pair.read(), sam)
        things = tuple(thing for thing in dataset.objects if thing.image_index == index)
        trace = Trace.of([thing.mask() for thing in things], embedding)
        if trace is None:
            left_out.append(pair.image.name)
        else:
            read.append(Reference(pair.image.name, embedding, things, trace))
        on_progress(index + 1, len(dataset.pairs))
    if not read:
        raise DatasetError(
            f"every object of {dataset.folder} vanishes in SAM's 64×64 cells (first: "
            f"{left_out[0]}): it covers less than a tenth of a cell. Crop the images around the "
            "objects, and the masks alike."
        )
    return read, left_out


def _medoid(vectors: Sequence[NDArray[np.float32]]) -> int:
    units = np.stack([vector / np.linalg.norm(vector) for vector in vectors])
    return int((units @ units.T).sum(axis=1).argmax())


def _fit_weights(
    sam: Sam, read: Sequence[Reference], direction: Direction, rng: np.random.Generator
) -> tuple[float, float]:
    """PerSAM-F's weights of the first two masks, at the most similar cell of each object."""
    things = [(one, thing) for one in read for thing in one.objects]
    decoded = []
    for one, thing in evenly(things, _MOST_DECODED):
        alike = direction.likeness(one.embedding)
        on = is_object(covered_share(thing.mask(), one.embedding))
        row, column = divmod(int(np.where(on, alike, -np.inf).argmax()), alike.shape[1])
        prompt = Prompt.of(points=[point_in_cell((row, column), one.embedding)])
        supervised = Supervision.of(thing, sam.image_size, rng)
        decoded.append(three_masks(sam, one.embedding, prompt, supervised, rng))
    logits, aims, counts = (torch.stack(parts) for parts in zip(*decoded, strict=True))
    first, second, _ = fit_weights(logits, aims, counts, rng)
    return first, second
