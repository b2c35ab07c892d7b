"""The losses against their formulas written out in numpy, and as estimated from some cells."""

import math

import numpy as np
import pytest
import torch

from samtune.losses import score_logits
from samtune.masks import DatasetObject
from samtune.supervision import Supervision


def dense_scores(logits, target):
    """2.5 · focal + dice, and IoU, of float64 logits and targets of any equal shape.

    Lin et al. 2017 (focal, γ 2) and Milletari et al. 2016 (dice, 1 added on both sides).
    """
    probability = 1 / (1 + np.exp(-logits))
    right = probability * target + (1 - probability) * (1 - target)
    entropy = -target * np.log(probability) - (1 - target) * np.log(1 - probability)
    focal = ((1 - right) ** 2 * entropy).mean()
    overlap, sizes = (probability * target).sum(), probability.sum() + target.sum()
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    mask, truth = logits > 0, target > 0.5
    return 2.5 * focal + dice, (mask & truth).sum() / (mask | truth).sum()


def test_all_cells_give_the_dense_formulas():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 4, 9, 16))
    target = rng.choice([0, 0.3, 1], (2, 9, 16))  # on an edge, a logit's area is shared
    found = score_logits(
        torch.from_numpy(logits), torch.from_numpy(target), torch.ones(2, 9, 16).double()
    )
    for batch in range(2):
        for output in range(4):
            loss, iou = dense_scores(logits[batch, output], target[batch])
            assert float(found.loss[batch, output]) == pytest.approx(loss)
            assert float(found.iou[batch, output]) == pytest.approx(iou)


def test_one_logit_by_hand():
    # p = 1/2: focal = (1/2)² · ln 2, and dice = 1 - (2 · 1/2 + 1) / (1/2 + 1 + 1).
    scores = score_logits(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    assert float(scores.loss) == pytest.approx(2.5 * 0.25 * math.log(2) + 1 - 2 / 2.5)


def test_logits_of_weight_zero_do_not_count():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 3, (1, 1, 6, 16)), rng.integers(0, 2, (1, 6, 16)) * 1.0
    weight = np.ones((1, 6, 16))
    weight[:, 4:] = 0  # the padding
    scores = score_logits(*map(torch.from_numpy, (logits, target, weight)))
    loss, iou = dense_scores(logits[0, 0, :4], target[0, :4])
    assert float(scores.loss) == pytest.approx(loss)
    assert float(scores.iou) == pytest.approx(iou)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_extreme_logits_and_empty_targets_have_finite_losses_and_gradients(logit):
    logits = torch.full((2, 1, 3, 16), logit, requires_grad=True)
    target = torch.stack([torch.zeros(3, 16), torch.ones(3, 16)])
    scores = score_logits(logits, target, torch.ones(2, 3, 16))
    scores.loss.sum().backward()
    assert torch.isfinite(scores.loss).all()
    assert torch.isfinite(scores.iou).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_sampled_cells_estimate_the_loss_and_the_iou_of_the_whole_image():
    # A disk in a landscape image: cells near the boundary are drawn more often than others,
    # so that unweighted sums would be far off.
    ys, xs = np.mgrid[:96, :128]
    mask = (xs - 70) ** 2 + (ys - 40) ** 2 < 25**2
    rng = np.random.default_rng(0)
    supervision = Supervision.of(DatasetObject.of(mask), 128, rng)
    whole = supervision.sample_cells(64, rng)
    order = np.argsort(whole.index)
    # A mask that is somewhat off, and less sure of itself far away from the object.
    logits = rng.normal(0, 1, (64, 16)) + 4 * (whole.target[order] - 0.4)

    def scores(sample):
        arrays = logits[sample.index][None, None], sample.target[None], sample.weight[None]
        found = score_logits(*(torch.from_numpy(array).double() for array in arrays))
        return float(found.loss), float(found.iou)

    dense_loss, dense_iou = scores(whole)
    drawn = np.array([scores(supervision.sample_cells(20, rng)) for _ in range(2000)])
    loss, iou = drawn.mean(axis=0)
    assert drawn.std(axis=0).min() > 0.01  # it is a sample
    assert loss == pytest.approx(dense_loss, rel=0.01)
    assert iou == pytest.approx(dense_iou, rel=0.01)


def test_without_gamma_the_focal_loss_is_the_binary_cross_entropy():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 3, (1, 1, 5, 16)), rng.random((1, 5, 16))
    arrays = [torch.from_numpy(one) for one in (logits, target, np.ones((1, 5, 16)))]
    both = float(score_logits(*arrays, focal_weight=1.5, focal_gamma=0).loss)
    dice_alone = float(score_logits(*arrays, focal_weight=0.0).loss)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(arrays[0][:, 0], arrays[1])
    assert both - dice_alone == pytest.approx(1.5 * float(expected))
