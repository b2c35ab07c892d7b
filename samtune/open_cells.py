"""The places of an image that a search has not looked at yet: some of the embedding's cells."""

import numpy as np
from numpy.typing import NDArray

from samtune.input_frame import Embedding
from samtune.targets import KEPT_SHARE, covered_share, point_in_cell


class OpenCells:
    """Cells that are still to be looked at, the best first.

    Args:
        values: (rows, columns) how promising each cell is.
        open_cells: (rows, columns) bool, which are to be looked at at all.
        embedding: the image.
    """

    def __init__(
        self, values: NDArray[np.float32], open_cells: NDArray[np.bool_], embedding: Embedding
    ) -> None:
        self._values, self._open, self._embedding = values, open_cells.copy(), embedding

    def take_best(self, within: NDArray[np.float32] | None = None) -> tuple[int, int] | None:
        """The most promising open cell, (row, column), which is not open any more.

        Args:
            within: only cells whose middle is in this box, (4,) x0, y0, x1, y1 in pixels of the
                image.

        Returns:
            The cell; None where there is none.
        """
        candidates = self._open if within is None else self._open & self._inside(within)
        if not candidates.any():
            return None
        best = np.where(candidates, self._values, -np.inf).argmax()
        row, column = divmod(int(best), self._values.shape[1])
        self._open[row, column] = False
        return row, column

    def close(self, mask: NDArray[np.bool_]) -> None:
        """Leave out the cells that a mask, (H, W) bool, covers by half."""
        self._open &= covered_share(mask, self._embedding) < KEPT_SHARE

    def drop(self, cells: NDArray[np.bool_]) -> None:
        """Leave out these cells, (rows, columns) bool."""
        self._open &= ~cells

    def _inside(self, box: NDArray[np.float32]) -> NDArray[np.bool_]:
        rows, columns = self._values.shape
        ys = np.array([point_in_cell((row, 0), self._embedding)[1] for row in range(rows)])
        xs = np.array([point_in_cell((0, column), self._embedding)[0] for column in range(columns)])
        across, along = ((at >= box[i]) & (at <= box[i + 2]) for i, at in ((1, ys), (0, xs)))
        inside: NDArray[np.bool_] = across[:, None] & along[None]
        return inside
