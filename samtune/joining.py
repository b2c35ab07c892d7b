"""Tensors joined as they come.

In a list, small tensors that are kept hold large gaps of freed memory apart, and joining them at
the end takes all of it twice.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def joined(pieces: Iterable[Tensor], most: int) -> Tensor:
    """Join tensors along their first axis, in one block.

    Args:
        pieces: (N, ...) each, as they come.
        most: rows of all of them together, at most; what is not used is never touched.

    Returns:
        (N of all, ...); empty where there were no pieces.
    """
    block, rows = torch.empty(0), 0
    for piece in pieces:
        if rows == 0:
            block = piece.new_empty(most, *piece.shape[1:])
        block[rows : rows + len(piece)] = piece
        rows += len(piece)
    return block[:rows]
