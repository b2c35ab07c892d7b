"""Scores of plain SAM and of adapters on a data set's objects.

The protocol is that of SAM and of Kim et al. 2024 (methods: https://arxiv.org/abs/2304.02643,
section 7.1): every object is prompted with its centre point, the masks are compared at the
image's own resolution, and the scores of all objects are averaged. "oracle" is the best of the
returned mask and the three masks of SAM's multimask output.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.masks import DatasetObject
from samtune.metrics import boundary_iou, iou
from samtune.predictor import Prediction, Predictor
from samtune.prompts import Prompt, center_point, random_point
from samtune.sam import Embedding, Sam

RANDOM_SEEDS = 3  # random clicks tried on each object


@dataclass(frozen=True)
class ObjectScores:
    """One object's scores, fractions from 0 to 1."""

    iou: float
    oracle_iou: float
    random_iou: float | None
    refined_iou: float | None
    boundary_iou: float | None


@dataclass(frozen=True)
class Scores:
    """Mean scores over objects, fractions from 0 to 1.

    Attributes:
        objects: how many there were.
        iou: of the returned mask, for a click at the centre.
        oracle_iou: of the best mask for that click.
        random_iou: of the returned mask, for random clicks; None if not asked for.
        refined_iou: of the returned mask after contour refinement; None where it cannot be.
        boundary_iou: Boundary IoU of the returned mask; None if not asked for.
    """

    objects: int
    iou: float
    oracle_iou: float
    random_iou: float | None
    refined_iou: float | None
    boundary_iou: float | None

    @classmethod
    def mean(cls, scores: Sequence[ObjectScores]) -> "Scores":
        """Average over objects."""

        def of(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return float(np.mean(known)) if known else None

        return cls(
            objects=len(scores),
            iou=float(np.mean([score.iou for score in scores])),
            oracle_iou=float(np.mean([score.oracle_iou for score in scores])),
            random_iou=of([score.random_iou for score in scores]),
            refined_iou=of([score.refined_iou for score in scores]),
            boundary_iou=of([score.boundary_iou for score in scores]),
        )


def evaluate(
    dataset: Dataset,
    sam: Sam,
    predictors: Sequence[Predictor],
    cache: EmbeddingCache,
    *,
    thorough: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Scores]:
    """Score several predictors on the same objects; each image is encoded once.

    Args:
        dataset: the objects.
        sam: the frozen model of all predictors.
        predictors: plain SAM, adapters.
        cache: where embeddings are kept.
        thorough: also try random clicks and measure Boundary IoU.
        on_progress: called with the number of images done and of all.

    Returns:
        Mean scores of each predictor.
    """
    found: list[list[ObjectScores]] = [[] for _ in predictors]
    for index, (embedding, things) in enumerate(_images(dataset, sam, cache), start=1):
        masks = [thing.mask() for thing in things]
        for scores, predictor in zip(found, predictors, strict=True):
            scores += _score_image(predictor, embedding, masks, index, thorough)
        if on_progress is not None:
            on_progress(index, len(dataset.pairs))
    return [Scores.mean(scores) for scores in found]


def _images(
    dataset: Dataset, sam: Sam, cache: EmbeddingCache
) -> Iterator[tuple[Embedding, list[DatasetObject]]]:
    for index, pair in enumerate(dataset.pairs):
        _, embedding = cache.encode(read_image(pair.image), sam)
        yield embedding, [thing for thing in dataset.objects if thing.image_index == index]


def _score_image(
    predictor: Predictor,
    embedding: Embedding,
    masks: list[NDArray[np.bool_]],
    image_number: int,
    thorough: bool,
) -> list[ObjectScores]:
    adapter = predictor.adapter
    refine = adapter is not None and adapter.pmm is not None
    centers = [center_point(mask) for mask in masks]
    centered = predictor.predict(embedding, centers, all_masks=True, refine=refine)
    clicks: list[Prompt] = []
    if thorough:
        for position, mask in enumerate(masks):
            # Seeded by the object's place in the data set: any two predictors get the same clicks.
            rng = np.random.default_rng([image_number, position])
            clicks += [random_point(mask, rng) for _ in range(RANDOM_SEEDS)]
    anywhere = predictor.predict(embedding, clicks)
    scores = []
    for position, (mask, prediction) in enumerate(zip(masks, centered, strict=True)):
        tries = anywhere[position * RANDOM_SEEDS : (position + 1) * RANDOM_SEEDS]
        scores.append(_score_object(mask, prediction, tries, thorough))
    return scores


def _score_object(
    target: NDArray[np.bool_], prediction: Prediction, tries: list[Prediction], thorough: bool
) -> ObjectScores:
    returned = iou(prediction.mask, target)
    refined = prediction.refined
    return ObjectScores(
        iou=returned,
        oracle_iou=max([returned, *(iou(mask, target) for mask in prediction.alternatives)]),
        random_iou=float(np.mean([iou(one.mask, target) for one in tries])) if thorough else None,
        refined_iou=None if refined is None else iou(refined, target),
        boundary_iou=boundary_iou(prediction.mask, target) if thorough else None,
    )
