"""Which of SAM's masks to return: the decoder's estimate of their IoU, corrected for the task.

SAM answers a prompt with four masks and estimates each one's IoU. The estimate is frozen with
the decoder and knows nothing of the task: on licence plates it picks a single character although
another of its own masks is the plate, and after the PLM has trained one output it still prefers
another. That choice is half of what can be won (benchmarks/README.md), so it is learned beside
the PLM: a linear correction, 2,052 numbers, from the decoder's own output tokens to the IoU that
each mask turned out to have. It starts at zero, as SAM's own choice.
"""

import torch
from torch import Tensor, nn


class OutputSelector(nn.Module):
    """Correct the estimated IoU of each mask output.

    Args:
        width: channels of the decoder's tokens.
        outputs: how many mask outputs the decoder has.
    """

    def __init__(self, width: int = 256, outputs: int = 4) -> None:
        super().__init__()
        self.from_iou_token = nn.Linear(width, outputs)
        self.from_mask_tokens = nn.Parameter(torch.zeros(outputs, width))
        nn.init.zeros_(self.from_iou_token.weight)
        nn.init.zeros_(self.from_iou_token.bias)

    def forward(self, tokens: Tensor, iou_predictions: Tensor) -> Tensor:
        """Estimate the IoU of each mask.

        Args:
            tokens: (B, T, C) from `FrozenDecoder.attend`: the IoU token, then the mask tokens.
            iou_predictions: (B, M) the frozen head's estimate, for all M outputs.

        Returns:
            (B, M) corrected estimates; the greatest is the mask to return.
        """
        outputs = iou_predictions.shape[1]
        from_masks = (tokens[:, 1 : 1 + outputs] * self.from_mask_tokens).sum(dim=2)
        corrected: Tensor = iou_predictions + self.from_iou_token(tokens[:, 0]) + from_masks
        return corrected


def best_of_three(iou_predictions: Tensor) -> Tensor:
    """Plain SAM's own choice for an ambiguous prompt, by predicted IoU.

    Args:
        iou_predictions: (B, 4) the frozen head's estimate; output 0 is for other prompts.

    Returns:
        (B, 1) int64 which of the outputs 1 to 3.
    """
    return 1 + iou_predictions[:, 1:].argmax(dim=1, keepdim=True)
