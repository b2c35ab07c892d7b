"""The contour refiner: where it reads, which way it moves points, and how far."""

import math

import cv2
import numpy as np
import pytest
import shapely
import torch
from upstream import sharpen

from samtune.contour_refiner import (
    LEAST_REACH,
    PLACES,
    REACH,
    ContourRefiner,
    outward_normals,
    reach,
    sample_across,
)
from samtune.pmm import resample_contour
from samtune.polygons import mask_to_polygons

SIDE = 64  # of the grid of features
WIDTH = 33


@pytest.fixture(scope="module")
def awake():
    """A refiner that moves points, as a trained one: random numbers in every parameter."""
    return sharpen(ContourRefiner()).requires_grad_(False)


def circle(radius=0.2, center=(0.45, 0.55), count=32):
    """(1, count, 2) points of a circle, the way round that exteriors have."""
    angles = -torch.arange(count) * 2 * math.pi / count
    points = torch.stack([angles.cos(), angles.sin()], dim=1) * radius + torch.tensor(center)
    return points[None]


def noise(batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, SIDE * SIDE, WIDTH, generator=generator)


def test_untrained_it_moves_nothing():
    torch.testing.assert_close(ContourRefiner()(noise(), circle()), circle())


def test_normals_lead_out_of_the_object_at_its_outline_and_in_its_holes():
    mask = np.zeros((90, 120), np.uint8)
    cv2.circle(mask, (60, 45), 40, 1, -1)
    cv2.rectangle(mask, (45, 35), (75, 55), 0, -1)
    (polygon,) = mask_to_polygons(mask.astype(bool))
    outline = shapely.Polygon(polygon.exterior, polygon.holes)
    for contour in (polygon.exterior, *polygon.holes):
        points = resample_contour(contour, 64)
        normals = outward_normals(torch.from_numpy(points)[None])[0].numpy()
        np.testing.assert_allclose(np.hypot(*normals.T), 1, rtol=1e-5)
        assert not shapely.contains_xy(outline, *(points + 3 * normals).T).any()
        assert shapely.contains_xy(outline, *(points - 3 * normals).T).all()


def test_features_are_read_across_the_contour_from_inside_to_outside():
    # Linear ramps, bilinearly read, are x and y themselves; half a step off would be 1/128.
    centers = (torch.arange(SIDE) + 0.5) / SIDE
    ys, xs = torch.meshgrid(centers, centers, indexing="ij")
    ramps = torch.stack([xs.flatten(), ys.flatten()], dim=1)[None]
    read = sample_across(ramps, circle())
    away = read - torch.tensor([0.45, 0.55])
    expected = 0.2 + torch.linspace(-1, 1, PLACES) * 0.4 * REACH
    torch.testing.assert_close(away.norm(dim=3)[0], expected.expand(32, -1), atol=1e-4, rtol=1e-4)


def test_features_are_normalised_as_numpy_says_however_many_there_are():
    profiles = torch.randn(80, 64, 17, 33, generator=torch.Generator().manual_seed(0)) * 3 + 1
    refiner = ContourRefiner()
    refiner.normalise(profiles.half())
    seen = profiles.half().numpy().astype(np.float64).reshape(-1, 33)
    seen[:, -1] = np.tanh(seen[:, -1] / 4)  # logits beyond about 4 are all alike
    np.testing.assert_allclose(refiner.mean, seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(refiner.deviation, seen.std(axis=0, ddof=1), rtol=1e-5)


def test_features_are_normalised_from_examples_on_another_device():
    """As a GPU's are, while the module is still on the CPU; "meta" is one that is always there."""
    refiner = ContourRefiner().to("meta")
    refiner.normalise(torch.ones(2, 64, 17, 33))  # torch raises where one sum is of both devices
    assert refiner.mean.device.type == refiner.deviation.device.type == "meta"


def test_small_contours_are_searched_around_by_steps_of_the_grid():
    assert float(reach(circle(0.2), SIDE)) == pytest.approx(0.4 * REACH, rel=0.01)
    assert float(reach(circle(0.01), SIDE)) == pytest.approx(LEAST_REACH / SIDE)


def test_points_move_along_the_normals_within_reach_and_the_square(awake):
    points = circle(0.3, (0.75, 0.5))  # beyond the right border
    moved = awake(noise(), points)
    assert moved.min() >= 0
    assert moved.max() <= 1
    inside = (points < 0.9).all(dim=2)
    steps = (moved - points)[inside]
    along = (steps * outward_normals(points)[inside]).sum(dim=1)
    torch.testing.assert_close(steps.norm(dim=1), along.abs(), atol=1e-5, rtol=1e-4)
    assert along.abs().max() <= float(reach(points, SIDE))
    assert along.abs().max() > 0.1 * float(reach(points, SIDE))


def test_points_attend_to_each_other_along_the_contour(awake):
    features, points = noise(), circle()
    before = awake(features, points)
    column, row = (int(share * SIDE) for share in points[0, 0])
    features.view(SIDE, SIDE, WIDTH)[row, column] += 3  # only the first points see this place
    moved = (awake(features, points) - before).abs().amax(dim=2)[0]
    assert (moved[8:25] > 1e-6).all()  # the far side of the contour


def test_contours_of_a_batch_do_not_mix(awake):
    points = torch.cat([circle(), circle(0.1, (0.3, 0.3)), circle(0.25, (0.5, 0.4))])
    features = noise(3)
    together = awake(features, points)
    for i in range(3):
        alone = awake(features[i : i + 1], points[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)


def test_a_contour_of_one_place_gives_finite_numbers(awake):
    assert torch.isfinite(awake(noise(), torch.full((1, 8, 2), 0.5))).all()
