"""Nearness: whether an answer is where it was asked for.

An adapter that learned one kind of thing is prone to return it wherever one clicks: the nose for a
click on the cheek. SAM's own masks are where the click is. So an answer that is farther from all
its clicks than a cell, all that the decoder sees of a place, is none, and plain SAM gives its own
(predictor.py).
"""

import numpy as np
from numpy.typing import NDArray

REACH = 4.0  # logits, the side of a cell: farther away is far


def is_far(mask: NDArray[np.bool_], clicks: NDArray[np.floating]) -> bool:
    """Whether all clicks are far from a mask.

    Args:
        mask: (H, W) on the logits' grid.
        clicks: (N, 2) xy in logits; a logit's centre is half of one further than its index.

    Returns:
        False where there is no mask or no click to compare.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows) or not len(clicks):
        return False
    centers = np.stack([columns, rows], axis=1) + 0.5
    return all(np.hypot(*(centers - click).T).min() > REACH for click in clicks)
