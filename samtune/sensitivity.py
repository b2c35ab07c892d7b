"""Prompt sensitivity: how good the returned mask is, wherever in the object one clicks.

Nobody clicks exactly in the middle. Kim et al. 2024 (https://arxiv.org/abs/2403.09199, figures 2b
and 9) click at every place of a grid in the object and look at the IoU of the answers. Beside the
object there is a ring of places where a hasty click lands; they are kept apart, because it is open
what a good answer to them is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.input_frame import Embedding
from samtune.metrics import iou
from samtune.predictor import AT_ONCE, Predictor
from samtune.prompts import Prompt, center_point

GOOD_IOU = 0.8  # from here on an answer counts as good
RING_SHARE = 0.25  # width of the ring, as a share of the radius of a disk as large as the object


@dataclass(frozen=True, eq=False)
class Clicks:
    """Places to click at, on one image.

    Attributes:
        points: (N, 2) int64 xy, pixels of the image.
        target: (N,) int64 which object each click is for: the one it is in, or beside.
        inside: (N,) bool, whether it is in its object; the others are in a ring around it.
        step: (N,) int64 pixels from one place of its grid to the next.
    """

    points: NDArray[np.int64]
    target: NDArray[np.int64]
    inside: NDArray[np.bool_]
    step: NDArray[np.int64]


@dataclass(frozen=True)
class ClickScores:
    """What many clicks gave: fractions from 0 to 1.

    Attributes:
        clicks: how many.
        mean_iou: of the returned masks.
        p10_iou: the 10th percentile: nine clicks of ten are better.
        good_share: the share of clicks with an IoU of GOOD_IOU or more.
    """

    clicks: int
    mean_iou: float
    p10_iou: float
    good_share: float

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> "ClickScores | None":
        """Summarize (N,) IoUs; None if there are none.

        Example:
            >>> ClickScores.of(np.array([0.0, 0.9, 0.9, 1.0])).good_share
            0.75
        """
        if scores.size == 0:
            return None
        good = float(np.mean(scores >= GOOD_IOU))
        return cls(len(scores), float(scores.mean()), float(np.percentile(scores, 10)), good)


def grid_of_clicks(targets: Sequence[NDArray[np.bool_]], count: int) -> Clicks:
    """Lay a square grid over each object and over a ring around it.

    Each object's grid goes through its centre point, so that there is always a click in it, and
    is as wide as makes the wanted number of clicks, or a pixel. A place in the ring of one object
    that is in another one is left out: there it would be right to answer with the other.

    Args:
        targets: (H, W) bool masks of one image, each with at least one pixel.
        count: about how many clicks in all objects together; those in rings come on top.

    Returns:
        Object by object, row by row.
    """
    any_object = np.logical_or.reduce(targets)
    found = []
    for index, mask in enumerate(targets):
        area = np.count_nonzero(mask)
        step = max(1, round(math.sqrt(area * len(targets) / count)))
        width = max(RING_SHARE * math.sqrt(area / math.pi), step)
        distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
        x, y = center_point(mask).points[0].astype(int).tolist()
        on_grid = np.zeros_like(mask)
        on_grid[y % step :: step, x % step :: step] = True
        ys, xs = np.nonzero(on_grid & (mask | (~any_object & (distance <= width))))
        points = np.stack([xs, ys], axis=1)  # (y, x) -> (x, y)
        found.append((points, np.full(xs.size, index), mask[ys, xs], np.full(xs.size, step)))
    return Clicks(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def score_clicks(
    predictor: Predictor,
    embedding: Embedding,
    targets: Sequence[NDArray[np.bool_]],
    clicks: Clicks,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """IoU of the returned mask with the click's own target, for each click.

    Args:
        predictor: plain SAM or an adapter.
        embedding: the image, encoded once for all clicks.
        targets: the masks that the clicks were laid over.
        clicks: where to click.
        on_progress: called with the number of clicks done and of all.

    Returns:
        (N,) fractions from 0 to 1.
    """
    scores: list[float] = []
    total = len(clicks.points)
    for start in range(0, total, AT_ONCE):  # masks of a whole grid would fill the memory
        chosen = slice(start, start + AT_ONCE)
        prompts = [Prompt.of(points=[(x, y)]) for x, y in clicks.points[chosen].tolist()]
        found = predictor.predict(embedding, prompts)
        scores += [
            iou(prediction.mask, targets[index])
            for prediction, index in zip(found, clicks.target[chosen].tolist(), strict=True)
        ]
        on_progress(len(scores), total)
    return np.array(scores)


def in_object_and_ring(
    scores: NDArray[np.float64], clicks: Clicks
) -> tuple[ClickScores, ClickScores | None]:
    """Summarize the clicks in objects, and those in the rings around them if there are any."""
    inside = ClickScores.of(scores[clicks.inside])
    assert inside is not None, "each object's grid goes through its centre point"
    return inside, ClickScores.of(scores[~clicks.inside])
