"""A map of where an adapter's objects are, from the image's embedding alone.

For each cell of the embedding: whether an object's middle is here, and whether the cell is on an
object. A middle is where a click is answered best, and touching objects have one each; that is the
key point of CenterNet (Zhou et al. 2019, https://arxiv.org/abs/1904.07850, section 3), on SAM's
frozen embeddings, by a network that sees how an object lies in the image (u_net.py). What an
answer to such a click, or to the box of such a region, is worth, object_search.py judges by six
numbers.
"""

import torch
from torch import Tensor, nn

from samtune.u_net import UNet

_RARE = -4.0  # first logits: nearly every cell is none
FEATURES = 6  # of an answer (object_search.py)
_FEATURES_BEFORE = 5  # without how well it lies on its region


class ObjectMap(UNet):
    """From an image's embedding to middles and cover, and how an answer is judged.

    Args:
        width: channels in between.
        channels: of the embedding.
        drop: share of the channels that is left out in training.
        regions: False is for files of before there were regions (map_regions.py).
    """

    boxes: Tensor | None

    def __init__(
        self, width: int = 48, channels: int = 256, drop: float = 0.1, *, regions: bool = True
    ) -> None:
        super().__init__(width, channels, drop=drop, finest=3)
        self.leave = nn.Conv2d(width, 2, 1)
        self.judge = nn.Linear(FEATURES if regions else _FEATURES_BEFORE, 1)
        self.register_buffer("boxes", torch.zeros(1) if regions else None)
        nn.init.constant_(self.leave.bias, _RARE)  # type: ignore[arg-type]
        nn.init.zeros_(self.judge.weight)
        nn.init.zeros_(self.judge.bias)

    @property
    def asks_with_boxes(self) -> bool:
        """Whether regions' boxes are asked about, or their likeliest cells clicked on."""
        return self.boxes is not None and bool(self.boxes > 0)

    def ask_with(self, *, boxes: bool) -> None:
        """Decide which of them is done."""
        assert self.boxes is not None
        self.boxes.fill_(float(boxes))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map B images.

        Args:
            features: (B, channels, h, w) embeddings.

        Returns:
            Logits (B, h, w) that an object's middle is in a cell, and that it is on an object.
        """
        middles, cover = self.leave(self.look(features)).unbind(dim=1)
        return middles, cover
