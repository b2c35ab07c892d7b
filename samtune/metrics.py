"""Scores of a mask against the target, at the image's own resolution.

The protocol is SAM's (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 7.1):
one score an object, and their mean. All scores are fractions from 0 to 1.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

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


def boundary_iou(mask: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """IoU of the two masks' inner boundary bands, 2 % of the image's diagonal wide.

    Boundary IoU (Cheng et al. 2021, https://arxiv.org/abs/2103.16562) tells a good outline
    from a good area; the image's border counts as outside.
    """
    return iou(_boundary_band(mask), _boundary_band(target))


def _boundary_band(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    width = max(1, round(BOUNDARY_SHARE * math.hypot(*mask.shape)))
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    inside: NDArray[np.bool_] = eroded[1:-1, 1:-1] > 0
    return mask & ~inside
