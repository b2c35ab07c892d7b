"""What the decoder says to a few prompts on an image, before masks are made of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.input_frame import Embedding


@dataclass(frozen=True, eq=False)
class Decoded:
    """Answers to B prompts.

    Attributes:
        logits: (B, M, 4h, 4w).
        scores: (B, M).
        presence: (B,), where it was learned.
    """

    logits: Tensor
    scores: Tensor
    presence: Tensor | None

    def averaged_with_mirrored(self, other: "Decoded", embedding: Embedding) -> "Decoded":
        """The mean of these answers and those on the mirror image, which are turned back."""
        side = self.logits.shape[-1]
        width = embedding.input_size[1] / embedding.padded_side * side  # in logits, a fraction
        source = (width - 1 - torch.arange(side, device=self.logits.device)).clamp(0, side - 1)
        left = source.floor().long()
        right = (left + 1).clamp(max=side - 1)
        turned = torch.lerp(other.logits[..., left], other.logits[..., right], source - left)
        presence = self.presence
        if presence is not None and other.presence is not None:
            presence = (presence + other.presence) / 2
        return Decoded((self.logits + turned) / 2, (self.scores + other.scores) / 2, presence)
