"""Specks: parts of an answer that are small beside its largest.

An adapter's answer often has some, far from the object that was clicked. Where the masks that it
learned from have none, its answers lose theirs. Parts are told apart on the logits' grid, where two
are never neighbours: turning the logits of one round leaves every pixel of the others as it was.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_PART = 0.05  # of the largest part's area: below it is a speck
_COST = 0.005  # IoU that masks may lose with their specks, in the mean


def least_part(masks: Iterable[NDArray[np.bool_]]) -> float:
    """How small a part may be, as a share of the largest, in answers of what learns from these.

    Args:
        masks: (S, S) each, on the logits' grid.

    Returns:
        0 where they have specks of their own.
    """
    kept = []
    for mask in masks:
        total = np.count_nonzero(mask)
        if total:  # thinner than a logit otherwise
            kept.append(np.count_nonzero(large_parts(mask, LEAST_PART)) / total)
    return LEAST_PART if kept and np.mean(kept) >= 1 - _COST else 0.0


def without_specks(
    logits: NDArray[np.float32],
    least: float,
    frame: tuple[int, int],
    clicks: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Take small parts out of an answer.

    Args:
        logits: (S, S) in the padded input frame.
        least: share of the largest part's area from which on a part stays.
        frame: (H, W) of the input in logits, where the padding begins.
        clicks: (N, 2) xy in logits; a part with one of these in it stays.

    Returns:
        (S, S), the specks' turned round, so that they are background; the same array where there
        are none.
    """
    height, width = frame
    inside = logits[:height, :width] > 0
    specks = inside & ~large_parts(inside, least, clicks)
    if not specks.any():
        return logits
    beyond = [(0, logits.shape[0] - height), (0, logits.shape[1] - width)]
    # The image's last pixels are made of logits beyond its border as well.
    return turned_round(logits, ~np.pad(specks, beyond, mode="edge"))


def large_parts(
    mask: NDArray[np.bool_], least: float, clicks: NDArray[np.floating] | None = None
) -> NDArray[np.bool_]:
    """The parts of a mask, (H, W), that are no specks; arguments as for `without_specks`."""
    _, numbered = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    areas = np.bincount(numbered.ravel())
    stays = areas >= least * areas[1:].max(initial=0)
    if clicks is not None:
        limit = np.array(mask.shape[::-1]) - 1
        columns, rows = np.clip(np.floor(clicks), 0, limit).astype(np.int64).T
        stays[numbered[rows, columns]] = True
    stays[0] = False  # the background
    return np.asarray(stays[numbered])


def turned_round(logits: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Logits, (H, W), of which only the parts that are `kept`, (H, W), are still above 0."""
    return np.where(kept | (logits <= 0), logits, -logits)
