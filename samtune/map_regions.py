"""The regions of a map of where objects are: to ask about, and to hold answers against.

Cells beside each other that are on objects make a region. Its box tells the decoder how large the
thing is, which one click cannot; and a mask that is on the region, all of it and nothing else, is
hardly of something else. Where objects touch, a region is of several (object_map_fit.py finds out
whether asking with boxes does good).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.input_frame import Embedding
from samtune.prompts import Box

_FINER = 4  # places on a cell's side where the map is read, for a box finer than its cells
_ON = 0.5  # share of a place from which on it is in a box
_TOUCHED = 0.25  # share of a cell from which on it belongs to a region


class Regions:
    """The regions of one image.

    Args:
        cover: (rows, columns) float32, the share of each cell that is taken to be on objects.
        embedding: the image.
    """

    def __init__(self, cover: NDArray[np.float32], embedding: Embedding) -> None:
        self._cover, self._embedding = cover, embedding
        _, self._regions = cv2.connectedComponents((cover > _TOUCHED).astype(np.uint8))
        finer = cv2.resize(cover, None, fx=_FINER, fy=_FINER, interpolation=cv2.INTER_LINEAR)
        _, self._bodies = cv2.connectedComponents((finer > _ON).astype(np.uint8), connectivity=4)

    def box(self, cell: tuple[int, int]) -> Box | None:
        """The box of the region that a cell's middle is in, in pixels; None where it is in none."""
        body = self._body(cell)
        if body == 0:
            return None
        image = self._embedding
        stride = image.padded_side / image.features.shape[-1] / _FINER
        ends = []
        for places, length, framed in zip(
            np.nonzero(self._bodies == body), image.original_size, image.input_size, strict=True
        ):
            to_pixels = stride * length / framed
            first = min(places.min() * to_pixels, length - 1.0)
            last = min((places.max() + 1) * to_pixels - 1, length - 1.0)
            # Of a pixel or less: that pixel's full width, as a box without area is no prompt.
            ends.append((first, last) if last > first else (first - 0.5, first + 0.5))
        (y0, y1), (x0, x1) = ends
        return x0, y0, x1, y1

    def cells(self, cell: tuple[int, int]) -> NDArray[np.bool_]:
        """(rows, columns) the cells whose middle is in the same region as that of this one."""
        middle = slice(_FINER // 2, None, _FINER)
        same: NDArray[np.bool_] = self._bodies[middle, middle] == self._body(cell)
        return same

    def agreement(self, share: NDArray[np.float32], cell: tuple[int, int]) -> float:
        """How well a mask lies on the region of a cell: IoU of the shares of cells.

        Args:
            share: (rows, columns) of each cell, on the mask.
            cell: (row, column) that was asked about.

        Returns:
            0 to 1; 0 for an empty mask.
        """
        number = self._regions[cell]
        near = (share > 0) | ((self._regions == number) & (number > 0))
        union = float(np.maximum(share, self._cover)[near].sum())
        return float(np.minimum(share, self._cover)[near].sum()) / union if union else 0.0

    def _body(self, cell: tuple[int, int]) -> int:
        row, column = (index * _FINER + _FINER // 2 for index in cell)
        return int(self._bodies[row, column])
