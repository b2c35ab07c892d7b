"""Scores of a mask against the target, at the image's own resolution.

The protocol is SAM's (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 7.1):
one score an object, and their mean. All scores are fractions from 0 to 1.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.masks import DatasetObject
from samtune.polygons import extent

_RESAMPLES = 2000  # enough for two digits of an interval's ends
_ANGLES = 100_001  # enough for three digits of Student's t, of up to a million images
BOUNDARY_SHARE = 0.02  # of the image's diagonal, in pixels: Cheng et al. 2021, arXiv 2103.16562


def iou(mask: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """Intersection over union of two (H, W) masks; 1 when both are empty.

    Example:
        >>> iou(np.array([[True, True, False]]), np.array([[False, True, True]]))
        0.3333333333333333
    """
    if mask.shape != target.shape:
        raise ValueError(f"a mask of {mask.shape} has no IoU with one of {target.shape}")
    union = int(np.count_nonzero(mask | target))
    return float(np.count_nonzero(mask & target)) / union if union else 1.0


def ious(mask: NDArray[np.bool_], things: Sequence[DatasetObject]) -> list[float]:
    """IoU of an (H, W) mask with each of an image's objects, without making masks of these."""
    area = int(np.count_nonzero(mask))
    return [thing.iou(mask, area) for thing in things]


def boundary_iou(mask: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """IoU of the two masks' inner boundary bands, 2 % of the image's diagonal wide.

    Boundary IoU (Cheng et al. 2021, https://arxiv.org/abs/2103.16562) tells a good outline
    from a good area; the image's border counts as outside.
    """
    return iou(_boundary_band(mask), _boundary_band(target))


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[int],
    *,
    level: float = 0.95,
    seed: int = 0,
    least: float = 0.0,
) -> tuple[float, float] | None:
    """How far a mean may be off by the luck of which images were at hand.

    The percentile bootstrap (Efron 1979, https://doi.org/10.1214/aos/1176344552), drawing whole
    images with replacement: objects of one image are alike, and count less than as many images.
    Of few images that is too narrow, for a mean by as much as Student's t is wider than the normal
    distribution, and the deviation by n - 1 than that by n (Hesterberg 2015,
    https://doi.org/10.1080/00031305.2015.1089789): its ends are farther away by that.

    Args:
        values: a score for each object.
        groups: which image each object is in.
        level: the share of redrawn means that the interval holds.
        seed: the same seed gives the same interval.
        least: the least that a score can be; the most is 1.

    Returns:
        Its ends; None for fewer than two images, which tell nothing about others.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(member)
    if len(counts) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for draw in range(_RESAMPLES):  # one at a time: all of them would not fit for many images
        drawn = rng.integers(len(counts), size=len(counts))
        means[draw] = sums[drawn].sum() / counts[drawn].sum()
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = sums.sum() / counts.sum()
    low, high = (mean + _widening(len(counts), level) * (ends - mean)).clip(least, 1)
    return float(low), float(high)


def _widening(count: int, level: float) -> float:
    """How much wider than the percentile bootstrap an interval of so many images is to be."""
    # t is √df · tan θ, where θ has a density of cos θ to the df - 1.
    freedom, upper = count - 1, (1 + level) / 2
    angles = np.linspace(-np.pi / 2, np.pi / 2, _ANGLES)
    below = np.cumsum(np.cos(angles) ** (freedom - 1))
    t = math.sqrt(freedom) * math.tan(np.interp(upper, below / below[-1], angles))
    return t / NormalDist().inv_cdf(upper) * math.sqrt(count / freedom)


def _boundary_band(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    band = mask.copy()
    box = extent(mask)
    if box is None:
        return band
    x0, y0, x1, y1 = box  # beyond it all is outside, as beyond the image: most objects are small
    width = max(1, round(BOUNDARY_SHARE * math.hypot(*mask.shape)))
    padded = np.pad(mask[y0:y1, x0:x1].astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    band[y0:y1, x0:x1] &= eroded[1:-1, 1:-1] == 0
    return band
