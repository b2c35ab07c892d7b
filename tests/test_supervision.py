"""What training knows of an object: its target, clicks and contour, and the cells it draws."""

import pickle

import numpy as np
import pytest

from samtune.masks import DatasetObject
from samtune.prompts import center_point
from samtune.supervision import Supervision, supervise

SIDE = 128  # of the padded input: 8×8 cells, 32×32 logits


def disk(size, x, y, radius):
    ys, xs = np.mgrid[: size[0], : size[1]]
    return (xs - x) ** 2 + (ys - y) ** 2 < radius**2


def supervision_of(mask, seed=0, image_size=SIDE):
    return Supervision.of(DatasetObject.of(mask, 3), image_size, np.random.default_rng(seed))


def every_cell(supervision):
    """Target and weight of all cells, in the order of the cells; padding has weight 0."""
    sample = supervision.sample_cells(supervision.grid**2, np.random.default_rng(0))
    target, weight = np.zeros((2, supervision.grid**2, 16))
    counts = sample.weight.any(axis=1)
    target[sample.index[counts]] = sample.target[counts]
    weight[sample.index[counts]] = sample.weight[counts]
    return target, weight


def as_image(blocks):
    """(N, 16) to (4 · grid, 4 · grid), by the order that `mask_blocks` documents."""
    grid = round(len(blocks) ** 0.5)
    image = np.zeros((4 * grid, 4 * grid), blocks.dtype)
    for cell in range(grid * grid):
        for inside in range(16):
            coarse_row, coarse_column, row, column = (inside >> bit & 1 for bit in (3, 2, 1, 0))
            y = 4 * (cell // grid) + 2 * coarse_row + row
            x = 4 * (cell % grid) + 2 * coarse_column + column
            image[y, x] = blocks[cell, inside]
    return image


# --------------------------------------------------------------------- the target


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_target_is_the_share_of_each_logits_area_on_the_object(scale):
    # Landscape images whose logits cover whole pixels of theirs, so that means are exact.
    size = (24 * scale, 32 * scale)
    mask = disk(size, 0.7 * size[1], 0.4 * size[0], 0.3 * size[0])
    target, _ = every_cell(supervision_of(mask))
    expected = np.zeros((32, 32))
    expected[:24] = mask.reshape(24, scale, 32, scale).mean(axis=(1, 3))
    np.testing.assert_allclose(as_image(target), expected, atol=0.5 / 255 + 1e-6)


def test_padding_weighs_nothing_and_each_logit_of_the_image_one():
    _, weight = every_cell(supervision_of(disk((60, 100), 50, 30, 20)))  # 77 rows of the input
    expected = np.zeros((32, 32))
    expected[:20] = 1  # 19 and a quarter: the last row still sees the image
    np.testing.assert_array_equal(as_image(weight), expected)


def test_an_objects_whole_description_takes_a_few_kilobytes():
    # At SAM's own size, and after use: a folder of thousands must fit in memory.
    supervision = supervision_of(disk((600, 800), 400, 300, 200), image_size=1024)
    supervision.sample_cells(1024, np.random.default_rng(0))
    assert len(pickle.dumps(supervision)) < 12_000


# --------------------------------------------------------------------- drawn cells


MASKS = {
    "disk": disk((96, 128), 70, 40, 25),
    "at the border": disk((128, 90), 0, 128, 30),
    "everywhere": np.ones((96, 128), dtype=bool),
    "a speck": disk((480, 640), 100, 100, 2),
    "a strip of an image": disk((12, 128), 60, 6, 5),  # one row of cells
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("count", [6, 20, 60])
def test_weighted_sums_over_drawn_cells_are_right_on_average(name, count):
    supervision = supervision_of(MASKS[name])
    target, weight = every_cell(supervision)
    rng = np.random.default_rng(0)
    values = rng.normal(1, 1, target.shape) + 3 * target  # anything that differs by cell
    draws = []
    for _ in range(1000):
        sample = supervision.sample_cells(count, rng)
        draws.append((values[sample.index] * sample.weight).sum())
    error = abs(np.mean(draws) - (values * weight).sum())
    assert error <= 4 * np.std(draws) / len(draws) ** 0.5 + 1e-3


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("count", [6, 20, 64])
def test_as_many_cells_are_drawn_as_asked_for_and_none_counts_twice(name, count):
    # Objects of one step are stacked, so that each must have as many cells.
    sample = supervision_of(MASKS[name]).sample_cells(count, np.random.default_rng(0))
    assert sample.index.shape == (count,)
    assert sample.target.shape == sample.weight.shape == (count, 16)
    counting = sample.index[sample.weight.any(axis=1)]
    assert len(counting) == len(set(counting.tolist()))


def test_half_of_the_drawn_cells_lie_around_the_boundary():
    supervision = supervision_of(MASKS["disk"])
    target, _ = every_cell(supervision)
    on_object = target > 0.5
    mixed = np.flatnonzero(on_object.any(axis=1) & ~on_object.all(axis=1))
    rows, columns = mixed // 8, mixed % 8
    around = {
        8 * (row + down) + column + right
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    }
    sample = supervision.sample_cells(20, np.random.default_rng(0))
    assert sum(cell in around for cell in sample.index.tolist()) == 10
    assert len(around) > 10  # some of them were left out


def test_the_same_seed_draws_the_same_cells():
    supervision = supervision_of(MASKS["disk"])
    one, other = (supervision.sample_cells(20, np.random.default_rng(7)) for _ in range(2))
    assert one.index.tolist() == other.index.tolist()
    third = supervision.sample_cells(20, np.random.default_rng(8))
    assert one.index.tolist() != third.index.tolist()


# --------------------------------------------------------------------- clicks, box, contour


@pytest.fixture(scope="module")
def ring():
    """An image of 50 × 77 pixels, 83 × 128 in the input frame, with a ring and a small disk."""
    mask = disk((50, 77), 45, 26, 20) & ~disk((50, 77), 45, 26, 9)
    return mask | disk((50, 77), 8, 8, 4)


TO_ORIGINAL = np.array([77 / 128, 50 / 83])  # x, y


def test_clicks_lie_on_the_object_and_misses_do_not(ring):
    supervision = supervision_of(ring)
    for points, on_object in ((supervision.clicks, True), (supervision.misses, False)):
        x, y = (points * TO_ORIGINAL).round().astype(int).T
        assert len(points) == 64
        assert (ring[y, x] == on_object).all()


def test_an_object_that_fills_its_image_has_no_misses():
    assert supervision_of(np.ones((20, 30), dtype=bool)).misses.shape == (0, 2)


def test_centre_is_sams_test_click(ring):
    expected = center_point(ring).points[0] / TO_ORIGINAL
    np.testing.assert_allclose(supervision_of(ring).center, expected, rtol=1e-5)


def test_box_is_tight_around_the_object(ring):
    ys, xs = np.nonzero(ring)
    corners = np.array([[xs.min(), ys.min()], [xs.max(), ys.max()]]) / TO_ORIGINAL
    np.testing.assert_allclose(supervision_of(ring).box, corners.ravel(), rtol=1e-5)


def test_contour_is_the_largest_outer_one_in_shares_of_the_padded_square(ring):
    contour = supervision_of(ring).contour
    assert contour.shape == (64, 2)
    pixels = contour * SIDE * TO_ORIGINAL - 0.5  # an integer is a pixel's centre
    distance = np.hypot(*(pixels - [45, 26]).T)
    assert distance.min() > 18.5  # the ring's outside: the hole's edge is at 9
    assert distance.max() < 20.5
    x, y = pixels.T
    assert np.ptp(x) > 37  # all around
    assert np.ptp(y) > 37


def test_the_image_of_the_object_is_kept_and_so_is_the_padding(ring):
    supervision = supervision_of(ring)
    assert supervision.image_index == 3
    assert supervision.frame == (83, 128)
    assert supervision.grid == 8


def test_the_same_seed_gives_the_same_clicks(ring):
    assert np.array_equal(supervision_of(ring, seed=1).clicks, supervision_of(ring, seed=1).clicks)
    assert not np.array_equal(
        supervision_of(ring, seed=1).clicks, supervision_of(ring, seed=2).clicks
    )


def test_background_clicks_are_off_every_object_of_the_image():
    left, right = disk((60, 90), 20, 30, 12), disk((60, 90), 65, 30, 15)
    whole = np.ones((30, 40), bool)
    things = [
        DatasetObject.of(left, 0),
        DatasetObject.of(right, 0),
        DatasetObject.of(whole, 1),
    ]
    first, second, third = supervise(things, SIDE, np.random.default_rng(0))
    for one in (first, second):
        xs, ys = np.rint(one.background * 90 / SIDE).astype(int).T
        assert len(xs) == 64
        assert not (left | right)[ys, xs].any()
    # Its own clicks beside an object may be on another one.
    xs, ys = np.rint(first.misses * 90 / SIDE).astype(int).T
    assert not left[ys, xs].any()
    assert right[ys, xs].any()
    assert third.background.shape == (0, 2)  # its object fills the image
