"""A small network on an image's embedding that sees how things lie in the image.

A few convolutions on ever coarser grids, and back to the finest (U-Net, Ronneberger et al. 2015,
https://arxiv.org/abs/1505.04597), for what has to be said of each cell: object_map.py, and
dense_prompt.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 4  # grids, each half as fine as the one before


class UNet(nn.Module):
    """From B embeddings to `width` numbers for each cell.

    Args:
        width: channels in between.
        channels: of the embedding.
        drop: share of the embedding's channels that is left out in training.
        finest: cells on a side of what a convolution on the finest grid takes in, 1 or 3.
    """

    def __init__(self, width: int, channels: int, *, drop: float, finest: int) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(drop)
        self.enter = nn.Conv2d(channels, width, 1)
        sides = [finest, *[3] * (_LEVELS - 1)]
        self.down = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2) for side in sides
        )
        self.up = nn.ModuleList(
            nn.Conv2d(2 * width, width, side, padding=side // 2) for side in sides[-2::-1]
        )

    def look(self, features: Tensor, told: Tensor | None = None) -> Tensor:
        """What is to be known of each cell, (B, width, h, w).

        Args:
            features: (B, channels, h, w) embeddings.
            told: (B, width, h, w), what is known of each cell from elsewhere.
        """
        cells = features.permute(0, 2, 3, 1)
        normed = F.layer_norm(cells, cells.shape[-1:]).permute(0, 3, 1, 2)
        entered = self.enter(self.drop(normed))
        grid = F.gelu(entered if told is None else entered + told)
        finer = []
        for number, step in enumerate(self.down):
            if number:
                finer.append(grid)
                grid = F.avg_pool2d(grid, 2, ceil_mode=True)
            grid = F.gelu(step(grid))
        for step, own in zip(self.up, reversed(finer), strict=True):
            rows, columns = own.shape[-2:]
            wider = F.interpolate(grid, scale_factor=2.0)[..., :rows, :columns]
            grid = F.gelu(step(torch.cat([wider, own], dim=1)))
        return grid
