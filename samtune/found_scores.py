"""Scores of objects that were found without a prompt.

Nobody says which found mask is meant for which object, so they are matched one to one, the best
pair first. An object without a mask scores 0; a mask counts as right from an IoU of 0.5 on. In
images without an object, none is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.finding import find_objects
from samtune.masks import DatasetObject
from samtune.metrics import ious
from samtune.predictor import Predictor
from samtune.turns import Answering, who_answers

RIGHT_IOU = 0.5


@dataclass(frozen=True)
class FoundScores:
    """How well objects were found, fractions from 0 to 1.

    Attributes:
        iou: mean over the objects of the matched mask's IoU.
        precision: the share of masks that are right, those in images without an object included;
            None where none was found.
        recall: the share of objects with a mask that is right.
    """

    iou: float
    precision: float | None
    recall: float


def matched_ious(
    masks: Sequence[NDArray[np.bool_]], targets: Sequence[DatasetObject]
) -> list[float]:
    """IoU of each target with the mask that is matched with it; 0 without one.

    Args:
        masks: (H, W) bool, what was found.
        targets: what is there.

    Example:
        >>> left, right = np.array([[True, False]]), np.array([[False, True]])
        >>> matched_ious([right], [DatasetObject.of(left), DatasetObject.of(right)])
        [0.0, 1.0]
    """
    pairs = np.array([ious(mask, targets) for mask in masks])
    found = [0.0] * len(targets)
    while pairs.size and (best := float(pairs.max())) > 0:
        mask, target = np.unravel_index(int(pairs.argmax()), pairs.shape)
        found[int(target)] = best
        pairs[mask] = pairs[:, target] = 0
    return found


def score_found(
    dataset: Dataset,
    answering: Answering,
    cache: EmbeddingCache,
    max_objects: int = 1,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> FoundScores:
    """Let an adapter find the objects of a data set.

    Args:
        dataset: the objects, and images without one.
        answering: a predictor with an adapter that finds, or several that take turns, which are not
            asked about images without an object: each may have learned from them.
        cache: where embeddings are kept.
        max_objects: in an image, at most.
        on_progress: called with the number of images done and of all.

    Returns:
        How well it did.
    """
    scores: list[float] = []
    found = 0
    pairs = [*dataset.pairs, *(dataset.empty if isinstance(answering, Predictor) else ())]
    for index, pair in enumerate(pairs):
        _, embedding = cache.encode(pair.read(), answering.sam)
        answers = find_objects(who_answers(answering, index), embedding, max_objects).objects
        targets = [thing for thing in dataset.objects if thing.image_index == index]
        scores += matched_ious([one.prediction.mask for one in answers], targets)
        found += len(answers)
        if on_progress is not None:
            on_progress(index + 1, len(pairs))
    right = sum(score >= RIGHT_IOU for score in scores)
    return FoundScores(
        iou=float(np.mean(scores)),
        precision=right / found if found else None,
        recall=right / len(scores),
    )
