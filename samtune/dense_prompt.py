"""A learned dense prompt: what is added to every cell of an image before the decoder sees it.

SAM's decoder takes two kinds of prompt (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643,
appendix A): sparse ones, the tokens of points and boxes, which the PLM moves (plm.py), and a dense
one, which SAM makes from a mask and adds to the image embedding cell by cell. Without a mask it is
the same vector everywhere. Here it is learned: a small network says of every cell what the task
has to tell the frozen decoder of it, such as where one of its things ends and another begins. Two
tokens cannot (benchmarks/defaults.md). It depends on the image alone, so that all prompts on
an image share it.
"""

from typing import cast

from torch import Tensor, nn

from samtune.u_net import UNet


class DensePrompt(UNet):
    """From an image's embedding to the dense prompt; nought at first, which is plain SAM.

    Args:
        width: channels in between.
        channels: of the embedding.
    """

    def __init__(self, width: int = 48, channels: int = 256) -> None:
        super().__init__(width, channels, drop=0.0, finest=1)
        self.leave = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast(Tensor, self.leave.bias))

    def forward(self, image_embeddings: Tensor, told: Tensor | None = None) -> Tensor:
        """What to add to the dense prompt of I images, (I, C, h, w).

        Args:
            image_embeddings: (I, C, h, w).
            told: (I, width, h, w), what is known of each cell from elsewhere.
        """
        return cast(Tensor, self.leave(self.look(image_embeddings, told)))
