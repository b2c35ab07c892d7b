"""Some of many, evenly from the first to the last."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def evenly(things: Sequence[T], most: int) -> list[T]:
    """Choose evenly; all where there are no more.

    Args:
        things: to choose from.
        most: how many, at most.

    Example:
        >>> evenly("abcdefg", 3)
        ['a', 'd', 'g']
    """
    places = np.linspace(0, len(things) - 1, min(len(things), most)).round().astype(int)
    return [things[place] for place in places.tolist()]
