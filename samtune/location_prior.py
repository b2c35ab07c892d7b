"""The location prior of PerSAM as a search: where a target is likely, one place after another.

Zhang et al. 2023 (https://arxiv.org/abs/2305.03048), section 3.1: the most similar place is a point
on the object, the least similar one a point on the background. For several objects, the cells of a
mask that was answered are left out, and the next place is the most similar one of the others.
"""

import math

import numpy as np
from numpy.typing import NDArray

from samtune.input_frame import Embedding
from samtune.method import Answer
from samtune.open_cells import OpenCells
from samtune.prompts import Prompt
from samtune.targets import covered_share, point_in_cell

# Presence is a logistic regression on how much an answer's cells are like the object, fitted to
# answers on training images of six tasks (benchmarks/README.md). The decoder's estimate of the IoU
# does not help: it is near 1 whatever the mask is of.
_PER_LIKENESS, _HALFWAY = 3.0, 0.5
_MISSES = 3  # answers in a row that are no object, or one that is known: then there are no more
_LARGEST = 700.0  # exponent that a float holds


class LocationPrior:
    """A search for objects in one image (method.Search).

    Args:
        likeness: (rows, columns) from `Direction.likeness`: where to look.
        familiar: (rows, columns) likewise, of the target vector alone: whether it is that. An
            image of something else can be as far from the references' background as the object.
        embedding: the image.
        negative: whether to point at the least similar place as well.
    """

    def __init__(
        self,
        likeness: NDArray[np.float32],
        familiar: NDArray[np.float32],
        embedding: Embedding,
        *,
        negative: bool,
    ) -> None:
        self._likeness, self._familiar = likeness, familiar
        self._embedding, self._negative = embedding, negative
        self._open = OpenCells(likeness, np.ones(likeness.shape, dtype=bool), embedding)

    @property
    def patience(self) -> int:
        """As Search's."""
        return _MISSES

    def propose(self, within: NDArray[np.float32] | None = None) -> Prompt | None:
        """The most similar place that is still open, and the least similar of all."""
        most = self._open.take_best(within)
        if most is None:
            return None
        least = divmod(int(self._likeness.argmin()), self._likeness.shape[1])
        beside = [point_in_cell(least, self._embedding)] if self._negative and least != most else []
        return Prompt.of([point_in_cell(most, self._embedding)], beside)

    def presence(self, answer: Answer) -> float:
        """How likely an answer is on the object: its cells' mean is like it, by both maps."""
        share = covered_share(answer.mask, self._embedding)
        if not share.any():
            return 0.0
        alike = min(
            float((share * one).sum() / share.sum()) for one in (self._likeness, self._familiar)
        )
        return 1 / (1 + math.exp(min(_PER_LIKENESS * (_HALFWAY - alike), _LARGEST)))

    def suppress(self, mask: NDArray[np.bool_], *, accepted: bool) -> None:
        """Leave out the cells that a mask covers by half, whether it is an object or not."""
        self._open.close(mask)
