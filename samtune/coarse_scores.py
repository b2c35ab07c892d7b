"""What refining makes of masks that are off by a known amount, as other tools' masks may be."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.evenly import evenly
from samtune.metrics import boundary_iou, iou
from samtune.polygons import extent, polygons_to_mask
from samtune.turns import Answering, who_answers

OFF = 0.04  # of an object's size: how far the boundary is off
_MOST = 30  # objects, taken evenly from more


@dataclass(frozen=True)
class CoarseScores:
    """Mean scores of objects grown and shrunk, fractions from 0 to 1.

    Attributes:
        iou: of the coarse masks.
        refined_iou: of what refining made of them.
        boundary_iou: Boundary IoU of the coarse masks.
        refined_boundary_iou: of what refining made of them.
    """

    iou: float
    refined_iou: float
    boundary_iou: float
    refined_boundary_iou: float

    @property
    def helps(self) -> bool:
        """Whether refining raises the IoU and the Boundary IoU."""
        return self.refined_iou > self.iou and self.refined_boundary_iou > self.boundary_iou


def score_coarse(
    dataset: Dataset,
    answering: Answering,
    cache: EmbeddingCache,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CoarseScores | None:
    """Refine true masks that were made too large and too small.

    Args:
        dataset: the objects.
        answering: adapters that have not seen them; those that cannot refine are left out.
        cache: where embeddings are kept.
        on_progress: called with the number of objects done and of all.

    Returns:
        The mean scores; None where there is nothing to score.
    """
    answered = [(thing, who_answers(answering, thing.image_index)) for thing in dataset.objects]
    objects = [(thing, one) for thing, one in answered if one.refiner is not None]
    chosen = evenly(objects, _MOST)
    rows = []
    for done, (thing, predictor) in enumerate(chosen, start=1):
        image = dataset.pairs[thing.image_index].read()
        _, embedding = cache.encode(image, predictor.sam)
        target = thing.mask()
        for coarse in (grown(target, OFF), grown(target, -OFF)):
            if coarse.any():
                polygons = predictor.refine_mask(embedding, coarse)
                masks = coarse, polygons_to_mask(polygons, embedding.original_size)
                rows.append([score(m, target) for score in (iou, boundary_iou) for m in masks])
        on_progress(done, len(chosen))
    if not rows:
        return None
    before, after, edge_before, edge_after = np.mean(rows, axis=0).tolist()
    return CoarseScores(before, after, edge_before, edge_after)


def grown(mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Grow a mask by a share of its size, the square root of its box's area.

    Args:
        mask: (H, W) bool.
        share: a negative one shrinks it.

    Returns:
        (H, W) bool. What lies beyond the image is outside.
    """
    box = extent(mask)
    if box is None:
        return mask.copy()
    x0, y0, x1, y1 = box
    radius = max(1.0, abs(share) * float(np.sqrt((x1 - x0) * (y1 - y0))))
    margin = int(radius) + 2 if share > 0 else 0
    top, left = max(0, y0 - margin), max(0, x0 - margin)
    around = mask[top : y1 + margin, left : x1 + margin]
    changed = np.zeros_like(mask)
    part = changed[top : y1 + margin, left : x1 + margin]  # a view
    inside = np.pad(around == (share < 0), 1, constant_values=share > 0).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    part[:] = distance <= radius if share > 0 else distance > radius
    return changed
