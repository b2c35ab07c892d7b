"""What is random in a training step: prompts, cells and rough contours of its objects.

All of it is drawn for the whole step at once, before anything is computed. Several processes can
therefore draw the same and take a part each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.config import FitConfig
from samtune.pmm import jitter
from samtune.supervision import CellSample, Supervision, draw_prompts


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a step learns from.

    Attributes:
        batch: B objects.
        points: (B, N, 2) xy in the input frame.
        labels: (B, N) 1 for a point on the object, 0 on the background.
        boxes: (B, 4) x0, y0, x1, y1 in the input frame, or None.
        samples: the cells to compute each object's loss on.
        contours: (B, K, 2) true points, xy shares of the padded square; None without the PMM.
        rough: (B, K, 2) the same points moved, to be refined; None without the PMM.
    """

    batch: Sequence[Supervision]
    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32] | None
    samples: Sequence[CellSample]
    contours: Tensor | None
    rough: Tensor | None

    @classmethod
    def of(cls, batch: Sequence[Supervision], config: FitConfig, rng: np.random.Generator) -> Self:
        """Draw for a batch of objects.

        Args:
            batch: the objects of the step.
            config: the settings.
            rng: source of randomness.
        """
        points, labels, boxes = draw_prompts(batch, config.click_share, rng)
        samples = [one.sample_cells(config.cells, rng) for one in batch]
        if not config.pmm:
            return cls(batch, points, labels, boxes, samples, None, None)
        contours = torch.from_numpy(np.stack([one.contour for one in batch]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rough = jitter(contours, generator, config.pmm_jitter)
        return cls(batch, points, labels, boxes, samples, contours, rough)

    def part(self, rows: slice) -> Self:
        """The same of some of the objects."""
        return type(self)(
            self.batch[rows],
            self.points[rows],
            self.labels[rows],
            None if self.boxes is None else self.boxes[rows],
            self.samples[rows],
            None if self.contours is None else self.contours[rows],
            None if self.rough is None else self.rough[rows],
        )
