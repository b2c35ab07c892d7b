"""Segmentation losses over a weighted selection of logits.

Per object, as in Kim et al. 2024 (https://arxiv.org/abs/2403.09199, equation 3) and SAM: focal +
dice + the squared error of the predicted IoU. But the focal loss (γ 2) has a weight of 2.5 and no
α; there it is 20 with an α of 0.25, which counts the background three times and makes masks a
little too small. With less of it a task's few objects are learned sooner and better
(benchmarks/defaults.md).

Sums run over sampled cells of the image, each weighted by how many it stands for, so that they
estimate the sums over all logits without bias; with every cell present and weight 1 they are
those sums.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_WEIGHT = 2.5
FOCAL_GAMMA = 2


@dataclass(frozen=True)
class MaskScores:
    """How good B objects' M masks are: each field (B, M).

    Attributes:
        loss: 2.5 · focal + dice, where nothing else is asked for.
        iou: intersection over union of the thresholded logits, without gradient.
    """

    loss: Tensor
    iou: Tensor


def score_logits(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    focal_weight: float = FOCAL_WEIGHT,
    focal_gamma: float = FOCAL_GAMMA,
) -> MaskScores:
    """Compare mask logits with the target.

    Args:
        logits: (B, M, K, 16), the 4×4 logits of K cells of each object's image.
        target: (B, K, 16) share of each logit's area that is on the object, 0 to 1.
        weight: (B, K, 16) how many logits each one stands for; 0 leaves one out.
        focal_weight: of the focal loss beside dice.
        focal_gamma: with 0 it is the binary cross-entropy.

    Returns:
        Loss and IoU of each mask.
    """
    target, weight = target[:, None], weight[:, None]
    probability = torch.sigmoid(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(
        logits, target.expand_as(logits), reduction="none"
    )
    right = probability * target + (1 - probability) * (1 - target)
    focal = (1 - right) ** focal_gamma * cross_entropy if focal_gamma else cross_entropy

    def total(values: Tensor) -> Tensor:
        return (values * weight).sum(dim=(-2, -1))

    size = total(target)
    # One logit is added on both sides, so that a missed speck has a gradient and no division by 0.
    dice = 1 - (2 * total(probability * target) + 1) / (total(probability) + size + 1)
    loss = focal_weight * total(focal) / weight.sum(dim=(-2, -1)) + dice
    with torch.no_grad():
        on_mask, on_target = (logits > 0).float(), (target > 0.5).float()
        both = total(on_mask * on_target)
        union = total(on_mask) + total(on_target) - both
        iou = both / union.clamp(min=1)
    return MaskScores(loss, iou)
