"""The Point Matching Module: where it reads, what it may move, and what it can learn."""

import math

import numpy as np
import pytest
import shapely
import torch
from upstream import sharpen

from samtune.pmm import (
    MAX_OFFSET,
    PointMatchingModule,
    contour_frame,
    jitter,
    matching_loss,
    resample_contour,
)

SIDE = 16  # cells on a side of the features


def ellipses(batch, count, center=(0.45, 0.55), radii=(0.3, 0.2)):
    """(batch, count, 2) points in order on the same ellipse."""
    place = torch.arange(count) * 2 * math.pi / count
    points = torch.stack([place.cos() * radii[0], place.sin() * radii[1]], dim=1)
    return (points + torch.tensor(center)).expand(batch, -1, -1).clone()


def features_of_cells(function):
    """(1, SIDE², 256): what `function` makes of the x and y of each cell's centre, repeated."""
    centers = (torch.arange(SIDE) + 0.5) / SIDE
    ys, xs = torch.meshgrid(centers, centers, indexing="ij")
    values = torch.stack(function(xs.flatten(), ys.flatten()), dim=1)
    return values.repeat(1, 256 // values.shape[1])[None]


def random_features(batch, seed=0):
    return torch.randn(batch, SIDE * SIDE, 256, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def awake():
    """A module that moves points, as a trained one: random numbers in every parameter."""
    return sharpen(PointMatchingModule()).requires_grad_(False)


# --------------------------------------------------------------------------- the module


def test_it_has_about_the_papers_1_2_million_parameters():
    count = sum(parameter.numel() for parameter in PointMatchingModule().parameters())
    assert count == pytest.approx(1.2e6, rel=0.1)


def test_untrained_it_moves_nothing():
    points = ellipses(2, 64)
    assert torch.equal(PointMatchingModule()(random_features(2), points), points)


def test_features_are_read_where_the_points_are():
    # A linear ramp, bilinearly read, is x and y themselves; half a cell off would be 1/32.
    read = []
    pmm = PointMatchingModule()
    pmm.input.register_forward_pre_hook(lambda module, given: read.append(given[0][..., :2]))
    points = torch.tensor([[[0.1, 0.8], [0.53, 0.21], [0.96, 0.5], [1 / 32, 31 / 32]]])
    pmm(features_of_cells(lambda x, y: (x, y)), points)
    torch.testing.assert_close(read[0], points)


def test_points_beyond_the_last_cells_centre_read_that_cell():
    read = []
    pmm = PointMatchingModule()
    pmm.input.register_forward_pre_hook(lambda module, given: read.append(given[0][..., :2]))
    pmm(
        features_of_cells(lambda x, y: (x, y)), torch.tensor([[[0.0, 0.5], [1.0, 1.0], [0.5, 0.0]]])
    )
    first, last = 0.5 / SIDE, 1 - 0.5 / SIDE
    expected = torch.tensor([[[first, 0.5], [last, last], [0.5, first]]])
    torch.testing.assert_close(read[0], expected)


def test_points_attend_to_each_other_along_the_contour(awake):
    points = ellipses(1, 16)
    features = random_features(1)
    before = awake(features, points)
    column, row = (int(share * SIDE) for share in points[0, 0])
    features.view(SIDE, SIDE, 256)[row, column] += 1  # only the first point is near this cell
    moved = (awake(features, points) - before).abs().amax(dim=2)[0]
    assert (moved[4:13] > 1e-5).all()  # the far side of the contour


def test_contours_of_a_batch_do_not_mix(awake):
    points, features = ellipses(3, 32), random_features(3)
    points[1] = 1 - points[1]  # another object
    together = awake(features, points)
    for i in range(3):
        alone = awake(features[i : i + 1], points[i : i + 1])
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)


def test_points_move_at_most_half_the_objects_half_size_and_stay_in_the_square(awake):
    small = ellipses(1, 32, center=(0.9, 0.5), radii=(0.1, 0.05))  # touches the right border
    moved = awake(1e3 * random_features(1), small)
    half_size = math.sqrt(0.1 * 0.05)
    assert (moved - small).abs().max() <= MAX_OFFSET * half_size + 1e-6
    assert (moved - small).abs().max() > 0.1 * MAX_OFFSET * half_size
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_a_contour_of_one_place_gives_finite_numbers(awake):
    speck = torch.full((1, 8, 2), 0.5)
    assert torch.isfinite(awake(random_features(1), speck)).all()
    assert torch.isfinite(matching_loss(speck, speck)).all()


def test_it_learns_to_undo_jitter_where_the_features_show_the_outline():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    pmm = PointMatchingModule(width=64, feed_forward=128, blocks=2)
    optimizer = torch.optim.Adam(pmm.parameters(), lr=2e-3)

    def show(x, y):
        """Ramps across the outline of a circle around x, y: which way it is, and how far."""

        def to_circle(xs, ys):
            beyond = ((xs - x).square() + (ys - y).square()).sqrt() / 0.2 - 1
            return (xs - x) * beyond * 10, (ys - y) * beyond * 10

        return features_of_cells(to_circle)

    def draw():
        centers = (0.3 + 0.4 * torch.rand(8, 2, generator=generator)).tolist()
        targets = torch.cat([ellipses(1, 24, center, (0.2, 0.2)) for center in centers])
        features = torch.cat([show(x, y) for x, y in centers])
        return features, targets, jitter(targets, generator, 0.5)

    for _ in range(80):
        features, targets, rough = draw()
        loss = matching_loss(pmm(features, rough), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, targets, rough = draw()  # never seen
    with torch.no_grad():
        refined = matching_loss(pmm(features, rough), targets).mean()
    assert refined < 0.5 * matching_loss(rough, targets).mean()


# --------------------------------------------------------------------------- the loss


def test_loss_is_the_mean_squared_distance_to_the_nearest_in_both_directions():
    rng = np.random.default_rng(0)
    refined, target = rng.random((2, 5, 2)), rng.random((2, 7, 2))
    found = matching_loss(torch.from_numpy(refined), torch.from_numpy(target))
    for i in range(2):
        squared = np.array([[((p - q) ** 2).sum() for q in target[i]] for p in refined[i]])
        both = (squared.min(axis=0).mean() + squared.min(axis=1).mean()) / 2
        width, height = np.ptp(target[i], axis=0)
        assert float(found[i]) == pytest.approx(both / (width * height / 4))


def test_loss_of_the_true_contour_is_zero_wherever_it_starts():
    true = ellipses(1, 32)
    assert float(matching_loss(true.roll(5, dims=1), true)) == 0


def test_a_point_that_is_nobodys_nearest_costs_too():
    true = ellipses(1, 32)
    strayed = torch.cat([true, torch.tensor([[[0.95, 0.95]]])], dim=1)
    assert float(matching_loss(strayed, true)) > 0.01


def test_loss_is_in_units_of_the_objects_size():
    # A plate of 30 px and a face of 900 px are the same task.
    true, rough = ellipses(1, 32), ellipses(1, 32, radii=(0.35, 0.2))
    expected = float(matching_loss(rough, true))
    assert float(matching_loss(rough / 30, true / 30)) == pytest.approx(expected, rel=1e-4)


def test_frame_of_a_contour_is_its_boxs_centre_and_half_its_geometric_mean_side():
    points = torch.tensor([[[0.1, 0.2], [0.5, 0.2], [0.3, 0.3]]])  # a box of 0.4 × 0.1
    center, half_size = contour_frame(points)
    torch.testing.assert_close(center, torch.tensor([[[0.3, 0.25]]]))
    torch.testing.assert_close(half_size, torch.tensor([[[0.1]]]))


# --------------------------------------------------------------------------- contours


def test_jitter_moves_a_contour_about_as_far_as_asked_and_no_farther():
    generator = torch.Generator().manual_seed(0)
    true = ellipses(400, 64, center=(0.5, 0.5), radii=(0.2, 0.2))
    for amount in (0.1, 0.4):
        moved = (jitter(true, generator, amount) - true).norm(dim=2) / 0.2
        assert 0.2 * amount < float(moved.mean()) < amount
        assert float(moved.max()) < 5 * amount  # the noise is normal; this is far out


def test_jitter_is_the_same_for_the_same_generator_and_none_for_amount_zero():
    true = ellipses(3, 64)
    one, other = (jitter(true, torch.Generator().manual_seed(5), 0.2) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(jitter(true, torch.Generator(), 0.0), true)


def test_jitter_stays_in_the_square():
    true = ellipses(200, 64, center=(0.95, 0.05), radii=(0.05, 0.05))
    moved = jitter(true, torch.Generator().manual_seed(0), 1.0)
    assert moved.min() >= 0
    assert moved.max() <= 1


@pytest.mark.parametrize("count", [3, 20, 64])
def test_resampled_points_lie_at_equal_distances_along_the_contour(count):
    # Edges of very different lengths, one vertex twice, not convex.
    contour = np.array([[0, 0], [9, 0], [9, 0], [9, 1], [4, 1], [4.5, 7], [0, 3]])
    ring = shapely.LinearRing(contour)
    expected = [ring.interpolate(k / count, normalized=True).coords[0] for k in range(count)]
    np.testing.assert_allclose(resample_contour(contour, count), expected, atol=1e-5)
