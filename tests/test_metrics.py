"""IoU and Boundary IoU, against counting by hand and by brute force."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from samtune.metrics import _widening, bootstrap_interval, boundary_iou, iou


def rectangle(size, top, left, bottom, right):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_iou_counts_pixels():
    one = rectangle((10, 12), 0, 0, 4, 5)  # 20 pixels
    other = rectangle((10, 12), 2, 1, 6, 5)  # 16 pixels, 8 of them shared
    assert iou(one, other) == iou(other, one) == 8 / 28


def test_iou_of_the_same_of_apart_and_of_empty_masks():
    one, other = rectangle((6, 8), 0, 0, 3, 3), rectangle((6, 8), 3, 3, 6, 8)
    empty = np.zeros((6, 8), dtype=bool)
    assert iou(one, one) == 1
    assert iou(one, other) == 0
    assert iou(empty, one) == iou(one, empty) == 0
    assert iou(empty, empty) == 1  # nothing was there and nothing was found


@pytest.mark.parametrize("score", [iou, boundary_iou])
def test_masks_of_two_sizes_have_no_score(score):
    with pytest.raises(ValueError, match=r"\(6, 8\).*\(8, 6\)"):
        score(np.ones((6, 8), dtype=bool), np.ones((8, 6), dtype=bool))


def boundary_band(mask, width):
    """Pixels of the mask with a pixel outside of it, or of the image, within `width`."""
    padded = np.pad(mask, width)
    side = 2 * width + 1
    return mask & ~sliding_window_view(padded, (side, side)).all(axis=(2, 3))


@pytest.mark.parametrize(("size", "width"), [((60, 80), 2), ((120, 160), 4), ((9, 12), 1)])
def test_boundary_iou_is_the_iou_of_bands_of_2_percent_of_the_diagonal(size, width):
    rng = np.random.default_rng(0)
    coarse = rng.random((3, 4)) > 0.4  # blocks that touch the image's border
    one = np.kron(coarse, np.ones((size[0] // 3, size[1] // 4))).astype(bool)
    other = np.roll(one, 1, axis=1)
    bands = boundary_band(one, width), boundary_band(other, width)
    expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    assert 0 < expected < 1
    assert boundary_iou(one, other) == expected


def test_a_wrong_outline_of_a_large_object_costs_more_in_boundary_iou():
    target, loose = rectangle((200, 200), 20, 20, 180, 180), rectangle((200, 200), 15, 15, 185, 185)
    assert iou(loose, target) > 0.85
    assert boundary_iou(loose, target) < 0.2
    assert boundary_iou(target, target) == 1


# --------------------------------------------------------------------------- bootstrap


def test_an_interval_of_many_independent_scores_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).uniform(0, 1, 400)
    low, high = bootstrap_interval(values, range(400))
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_objects_of_one_image_count_as_one_draw_of_luck():
    # Ten copies of each score: as objects a tenth of the variance, as images nothing new.
    values = np.random.default_rng(0).uniform(0, 1, 20)
    alone = bootstrap_interval(values, range(20))
    copies = np.repeat(values, 10)
    grouped = bootstrap_interval(copies, np.repeat(range(20), 10))
    apart = bootstrap_interval(copies, range(200))
    assert grouped == pytest.approx(alone)
    assert apart[1] - apart[0] < 0.5 * (alone[1] - alone[0])


def test_images_with_more_objects_weigh_more():
    # Fifty images with one missed object each, fifty with nine found ones: nine of ten are found.
    values = [0.0] * 50 + [1.0] * 450
    groups = [*range(50), *np.repeat(range(50, 100), 9)]
    low, high = bootstrap_interval(values, groups)
    assert 0.8 < low < 0.9 < high < 1


@pytest.mark.parametrize("images", [2, 3, 5, 8, 16])
def test_of_few_images_as_well_an_interval_misses_the_true_mean_about_once_in_twenty(images):
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(150):
        low, high = bootstrap_interval(rng.normal(0, 0.1, images), range(images), least=-1)
        missed += not low <= 0 <= high
    assert missed <= 18  # 12 %; without the widening 75 of two images, and 21 of eight


def test_an_interval_stays_among_what_scores_can_be():
    assert bootstrap_interval([0.2, 0.9], [0, 1]) == (0, 1)
    assert bootstrap_interval([0.2, 0.9], [0, 1], least=-1) == (-1, 1)


@pytest.mark.parametrize(
    ("images", "t"), [(2, 12.706), (3, 4.303), (6, 2.571), (21, 2.086), (121, 1.980)]
)
def test_intervals_are_widened_by_student_s_t_as_tables_have_it(images, t):
    expected = t / 1.96 * np.sqrt(images / (images - 1))
    assert _widening(images, 0.95) == pytest.approx(expected, rel=1e-3)


def test_an_interval_needs_two_images():
    assert bootstrap_interval([0.1, 0.9], [4, 4]) is None
    assert bootstrap_interval([], []) is None


def test_the_same_seed_gives_the_same_interval():
    values, groups = np.linspace(0, 1, 30), range(30)
    assert bootstrap_interval(values, groups) == bootstrap_interval(values, groups)
    assert bootstrap_interval(values, groups) != bootstrap_interval(values, groups, seed=1)
