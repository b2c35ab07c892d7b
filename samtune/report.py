"""The report's numbers: what plain SAM, SAM-F and adapters do on a data set, and for whom.

`make_report` measures everything that the page and the JSON file show; both come from the one
`Report`, so that they hold the same numbers. Every score is a fraction from 0 to 1.

SAM-F has to be fitted to masks, and an evaluation has no others than those it scores. So it is
fitted twice, each time to one half of the images, and scores the other half: no object is scored
by weights that saw it. It still learns from the evaluated folder, which adapters do not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samtune import __version__
from samtune.adapter import Base
from samtune.curves import Curves
from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import ALL_KINDS, ObjectScores, PromptKind, Scores, score_objects
from samtune.finding import can_find
from samtune.found_scores import FoundScores, score_found
from samtune.obedience import Obedience, measure_obedience
from samtune.predictor import Predictor
from samtune.report_data import about_adapter, about_data, about_training
from samtune.report_pictures import Picture, draw_before_after, draw_maps
from samtune.sam import Sam
from samtune.sam_f import fit_sam_f
from samtune.stages import Stages, peak_memory
from samtune.summaries import Gain, by_image, by_object, by_size, center_iou, summarize
from samtune.turns import Answering, Turns

SHOWN = 20  # worst, and best, objects shown as pictures
_MAPPED = (0.1, 0.5, 0.9)  # which objects get a sensitivity map: quantiles of their IoU
PROMPTS: dict[PromptKind, tuple[str, str]] = {
    "center": (
        "centre point",
        "one click where the object's border is farthest: SAM's own protocol",
    ),
    "random": ("random points", "three clicks drawn evenly from the object's pixels, one by one"),
    "pair": (
        "point + background point",
        "the centre point, and a background point drawn from the object's box grown by half its "
        "size",
    ),
    "box": (
        "jittered box",
        "the object's box, each side moved by normal noise of a tenth of its width or height",
    ),
}
Tell = Callable[[str, int, int], None]  # what is done, how many of how many


@dataclass(frozen=True)
class Source:
    """What is scored: plain SAM comes first.

    Attributes:
        name: for tables.
        predictor: answers the prompts.
        adapter: its file, for adapters.
        turns: who answer instead, as the adapter itself was trained on these images.
    """

    name: str
    predictor: Predictor
    adapter: Path | None = None
    turns: Turns | None = None

    @property
    def answering(self) -> Answering:
        """Who answers the prompts."""
        return self.turns or self.predictor


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured.

    Attributes:
        scores: mean scores of the given sources, as `evaluate` gives them.
        obedience: how they answer clicks beside the objects, as `measure_obedience` gives it.
        found: what they find without a click, as `score_found` gives it; None for who cannot.
        numbers: as they go into the JSON file.
        worst, best: pictures of the objects that `numbers` lists under the same names.
        maps: (H, W, 3) uint8 sensitivity maps, in the order of `numbers["sensitivity"]`.
    """

    scores: list[Scores]
    obedience: list[Obedience | None]
    found: list[FoundScores | None]
    numbers: dict[str, Any]
    worst: list[Picture]
    best: list[Picture]
    maps: list[np.ndarray[Any, np.dtype[np.uint8]]]


@dataclass(frozen=True, eq=False)
class _Scored:
    """One row of the report: a name, and the objects' scores in the order of the data set."""

    name: str
    scores: list[ObjectScores]
    obedience: Obedience | None = None
    found: FoundScores | None = None
    is_adapter: bool = False


def make_report(
    dataset: Dataset,
    sources: Sequence[Source],
    cache: EmbeddingCache,
    checkpoint: str,
    *,
    stages: Stages,
    auto: bool = False,
    max_objects: int = 1,
    curves: Curves | None = None,
    tell: Tell = lambda what, done, total: None,
) -> Report:
    """Measure all that the report shows.

    Args:
        dataset: the objects.
        sources: plain SAM, then the adapters, all on the same frozen model.
        cache: where embeddings are kept.
        checkpoint: what the frozen model is called.
        stages: seconds are added to these.
        auto: whether adapters that look for objects where they are told to are told to.
        max_objects: that adapters look for in an image, those that find.
        curves: how the training went, where this is the held-out part of a `fit`.
        tell: told how far each stage is.

    Returns:
        Numbers and pictures.
    """
    sam = sources[0].predictor.sam
    scored = _measure(dataset, sources, cache, auto, max_objects, stages, tell)
    given = tuple(scored)  # SAM-F comes among them, for the page
    judged = scored[min(1, len(scored) - 1)]  # the first adapter, or plain SAM alone
    weights: list[tuple[float, float, float]] = []
    if len(dataset.pairs) > 1:
        with stages.measure("fitting and scoring SAM-F"):
            weights, cross_fitted = _cross_fitted(dataset, sam, cache, tell)
        scored.insert(1, _Scored("SAM-F", cross_fitted))

    order = np.argsort([center_iou(one) for one in judged.scores], kind="stable").tolist()
    shown = min(SHOWN, len(order) // 2) or 1
    chosen = {"worst": order[:shown], "best": order[-shown:][::-1] if len(order) > 1 else []}
    with stages.measure("pictures"):
        pictures = {
            name: draw_before_after(dataset, indices, [s.answering for s in sources], cache)
            for name, indices in chosen.items()
        }
    mapped = list(dict.fromkeys(order[round(q * (len(order) - 1))] for q in _MAPPED))
    with stages.measure("sensitivity"):
        named = {source.name: source.answering for source in sources}
        maps, sensitivity = draw_maps(
            dataset, mapped, named, cache, lambda done, total: tell("sensitivity", done, total)
        )
    numbers = {
        "samtune_version": __version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "data": about_data(dataset),
        "base": asdict(Base.of(sam, checkpoint)),
        "prompts": {kind: {"name": n, "origin": o} for kind, (n, o) in PROMPTS.items()},
        "sources": _about_sources(dataset, scored, sam.image_size),
        "sam_f_weights": weights,
        "judged": judged.name,
        **chosen,
        "sensitivity": sensitivity,
        "adapters": [
            about_adapter(source.name, source.adapter, source.predictor, dataset, source.turns)
            for source in sources
            if source.adapter is not None
        ],
        "training": None if curves is None else about_training(curves),
        "cost": {"seconds": dict(stages.seconds), "peak_memory_bytes": peak_memory()},
        "images": by_image(dataset, [one.scores for one in scored]),
        "objects": by_object(dataset, [one.scores for one in scored]),
    }
    return Report(
        [Scores.mean(one.scores) for one in given],
        [one.obedience for one in given],
        [one.found for one in given],
        numbers,
        pictures["worst"],
        pictures["best"],
        maps,
    )


def _measure(
    dataset: Dataset,
    sources: Sequence[Source],
    cache: EmbeddingCache,
    auto: bool,
    max_objects: int,
    stages: Stages,
    tell: Tell,
) -> list[_Scored]:
    """What each source answers to clicks on objects and beside them, and what it finds alone."""
    sam = sources[0].predictor.sam
    with stages.measure("encoding"):
        for done, pair in enumerate(dataset.pairs, start=1):
            cache.encode(pair.read(), sam)
            tell("encoding", done, len(dataset.pairs))
    scores = []
    for source in sources:
        with stages.measure(f"scoring {source.name}"):
            scores.append(_score(dataset, source.answering, cache, None, source.name, tell))
    with stages.measure("clicking beside"):
        obedience = measure_obedience(
            dataset,
            sam,
            [source.answering for source in sources],
            cache,
            on_progress=lambda done, total: tell("clicking beside", done, total),
        )
    found = [_find(dataset, source, cache, auto, max_objects, stages, tell) for source in sources]
    return [
        _Scored(source.name, own, beside, alone, source.adapter is not None)
        for source, own, beside, alone in zip(sources, scores, obedience, found, strict=True)
    ]


def _about_sources(
    dataset: Dataset, scored: Sequence[_Scored], image_size: int
) -> list[dict[str, Any]]:
    """Each source's scores by kind of prompt and by size; adapters also get a verdict."""
    base = scored[0].scores
    images = [thing.image_index for thing in dataset.objects]
    return [
        {
            "name": one.name,
            "verdict": Gain.over(base, one.scores, images).verdict if one.is_adapter else None,
            "prompts": {kind: summarize(one.scores, base, kind, images) for kind in ALL_KINDS},
            "sizes": by_size(dataset, one.scores, image_size),
            "beside": None if one.obedience is None else asdict(one.obedience),
            "found": None if one.found is None else asdict(one.found),
        }
        for one in scored
    ]


def _score(
    dataset: Dataset,
    predictor: Answering,
    cache: EmbeddingCache,
    images: Sequence[int] | None,
    name: str,
    tell: Tell,
) -> list[ObjectScores]:
    (scores,) = score_objects(
        dataset,
        predictor.sam,
        [predictor],
        cache,
        every_detail=True,
        images=images,
        on_progress=lambda done, total: tell(f"scoring {name}", done, total),
    )
    return scores


def _find(
    dataset: Dataset,
    source: Source,
    cache: EmbeddingCache,
    auto: bool,
    max_objects: int,
    stages: Stages,
    tell: Tell,
) -> FoundScores | None:
    """What an adapter finds without a click; None if it cannot."""
    adapter = source.predictor.adapter
    if adapter is None or not can_find(adapter.learned, told_to=auto):
        return None
    stage = f"finding with {source.name}"
    with stages.measure(stage):
        return score_found(
            dataset,
            source.answering,
            cache,
            max_objects,
            on_progress=lambda done, total: tell(stage, done, total),
        )


def _cross_fitted(
    dataset: Dataset, sam: Sam, cache: EmbeddingCache, tell: Tell
) -> tuple[list[tuple[float, float, float]], list[ObjectScores]]:
    """SAM-F's weights of each half, and its scores on all objects by the other half's weights."""
    order = np.random.default_rng(0).permutation(len(dataset.pairs)).tolist()
    halves = [sorted(order[0::2]), sorted(order[1::2])]
    weights = []
    of_object: dict[int, ObjectScores] = {}
    for fitted, scored in (halves, halves[::-1]):
        predictor = fit_sam_f(
            dataset,
            sam,
            cache,
            images=fitted,
            on_progress=lambda done, total: tell("fitting SAM-F", done, total),
        )
        weights.append(predictor.weights)
        found = _score(dataset, predictor, cache, scored, "SAM-F", tell)
        indices = [
            index for index, thing in enumerate(dataset.objects) if thing.image_index in set(scored)
        ]
        of_object.update(zip(indices, found, strict=True))
    return weights, [of_object[index] for index in range(len(dataset.objects))]
