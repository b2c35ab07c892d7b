"""Which of SAM's masks to return: a mixture of them, by the IoU that each is estimated to have.

SAM answers a prompt with four masks and estimates each one's IoU. The estimate is frozen with
the decoder and knows nothing of the task: on licence plates it picks a single character although
another of its own masks is the plate, and after the PLM has trained one output it still prefers
another. That choice is half of what can be won (benchmarks/defaults.md), so it is learned beside
the PLM: a linear correction, 2,052 numbers, from the decoder's own output tokens to the IoU that
each mask turned out to have. It starts at zero, as SAM's own choice.

What is returned is the mean of the four masks' logits, weighted by a softmax of the estimates: the
best mask alone where it is clearly the best, and where several are as good, what they agree on.
PerSAM-F (Zhang et al. 2023, https://arxiv.org/abs/2305.03048, section 3.3) mixes with two weights
for the whole task; here each prompt has its own.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

_TEMPERATURE = 0.05  # in IoU: a mask that is 0.1 worse has a seventh of the weight


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
            (B, M) corrected estimates.
        """
        outputs = iou_predictions.shape[1]
        from_masks = (tokens[:, 1 : 1 + outputs] * self.from_mask_tokens).sum(dim=2)
        corrected: Tensor = iou_predictions + self.from_iou_token(tokens[:, 0]) + from_masks
        return corrected


def mixture(estimates: Tensor) -> Tensor:
    """How much of each mask's logits the returned one is made of.

    Args:
        estimates: (B, M) corrected estimates of the masks' IoU.

    Returns:
        (B, M) weights, whose sum is 1.
    """
    return torch.softmax(estimates / _TEMPERATURE, dim=1)


def best_of_three(iou_predictions: Tensor) -> Tensor:
    """Plain SAM's own choice for an ambiguous prompt, by predicted IoU.

    Args:
        iou_predictions: (B, 4) the frozen head's estimate; output 0 is for other prompts.

    Returns:
        (B, 4) weights: 1 for one of the outputs 1 to 3.
    """
    return one_hot(1 + iou_predictions[:, 1:].argmax(dim=1), 4).to(iou_predictions)
