"""Masks that are off by a known amount, and what refining makes of them."""

import cv2
import numpy as np
import pytest
from tiny_models import build_adapter
from torch import nn

from samtune.coarse_scores import OFF, grown, score_coarse
from samtune.contour_refiner import outward_normals
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.metrics import boundary_iou, iou
from samtune.pmm import contour_frame
from samtune.predictor import Predictor


@pytest.mark.parametrize("share", [0.03, 0.06, 0.2, -0.03, -0.06])
def test_growing_takes_all_pixels_within_a_distance_and_shrinking_gives_them_up(share):
    mask = np.zeros((40, 56), np.uint8)
    cv2.circle(mask, (32, 15), 10, 1, -1)
    cv2.rectangle(mask, (0, 27), (13, 39), 1, -1)  # in the image's corner
    mask = mask.astype(bool)
    radius = abs(share) * np.sqrt(43 * 35)  # of the box around both
    around = np.pad(mask, 15)  # beyond the image is outside
    pixels = np.argwhere(np.ones_like(mask)) + 15
    others = np.argwhere(around if share > 0 else ~around)
    nearest = ((pixels[:, None] - others[None]) ** 2).sum(axis=2).min(axis=1).reshape(mask.shape)
    expected = (nearest > radius**2) == (share < 0)
    assert np.array_equal(grown(mask, share), expected)


class Towards(nn.Module):
    """Moves contours along their normals by a share of the object's size."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, features, points):
        return points + self.share * 2 * contour_frame(points)[1] * outward_normals(points)


@pytest.fixture
def scored(toy_folder, tiny_sam, tmp_path):
    def score(share):
        adapter = build_adapter(tiny_sam)
        adapter.learned.refiner = Towards(share)
        dataset = load_dataset(toy_folder)
        predictor = Predictor(tiny_sam, adapter)
        return dataset, score_coarse(dataset, predictor, EmbeddingCache(tmp_path))

    return score


def test_scores_are_means_over_grown_and_shrunk_objects_before_and_after(scored):
    dataset, scores = scored(0.0)
    coarse = [
        (grown(thing.mask(), share), thing.mask())
        for thing in dataset.objects
        for share in (OFF, -OFF)
    ]
    assert scores.iou == pytest.approx(np.mean([iou(*pair) for pair in coarse]))
    assert scores.boundary_iou == pytest.approx(np.mean([boundary_iou(*pair) for pair in coarse]))
    assert scores.refined_iou == pytest.approx(scores.iou, abs=0.03)  # nothing moved


def test_refining_that_makes_masks_worse_does_not_help(scored):
    assert not scored(0.06)[1].helps
