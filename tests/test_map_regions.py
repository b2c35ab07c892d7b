"""Regions of a map: boxes in pixels, and how well masks lie on them."""

import numpy as np
import pytest
import torch

from samtune.input_frame import Embedding
from samtune.map_regions import Regions
from samtune.prompts import Prompt


def embedding(input_size=(96, 128), original_size=(192, 256)):
    """8 × 8 cells of 16 px; the image reaches 6 × 8 of them and is half as large as its photo."""
    return Embedding(torch.zeros(4, 8, 8), original_size, input_size)


def cover(*, of):
    """(6, 8) with blocks (top, left, bottom, right) of cells that are wholly on objects."""
    cells = np.zeros((6, 8), np.float32)
    for top, left, bottom, right in of:
        cells[top:bottom, left:right] = 1
    return cells


def test_a_region_s_box_is_that_of_its_cells_in_pixels_of_the_photo():
    regions = Regions(cover(of=[(1, 2, 3, 6), (4, 0, 6, 1)]), embedding())
    # A cell is 32 pixels of the photo; the map is read at every eighth of them.
    np.testing.assert_allclose(regions.box((2, 3)), (64, 32, 191, 95), atol=8)
    np.testing.assert_allclose(regions.box((5, 0)), (0, 128, 31, 191), atol=8)


def test_a_cell_beside_all_regions_has_no_box():
    assert Regions(cover(of=[(1, 2, 3, 6)]), embedding()).box((4, 4)) is None


def test_a_cell_that_is_half_on_an_object_moves_the_box_by_half_a_cell():
    cells = cover(of=[(1, 2, 3, 5)])
    whole = Regions(cells, embedding()).box((1, 2))
    cells[1:3, 5] = 0.75
    wider = Regions(cells, embedding()).box((1, 2))
    assert wider[:2] == whole[:2]
    assert 8 <= wider[2] - whole[2] < 32


@pytest.mark.parametrize("size", [(12, 16), (6, 8), (3, 4)])
@pytest.mark.parametrize("cell", [(0, 0), (2, 3), (5, 7)])
def test_a_box_in_a_small_photo_has_an_area_and_lies_on_it(size, cell):
    """There, a place that the map is read at is half a pixel or less."""
    cells = cover(of=[])
    cells[cell] = 0.73
    box = Regions(cells, embedding(original_size=size)).box(cell)
    Prompt.of(box=box).check_inside(size)  # either raises where this is not so
    x0, y0, x1, y1 = box
    assert x1 - x0 <= 1
    assert y1 - y0 <= 1


def test_a_box_does_not_leave_the_photo():
    regions = Regions(cover(of=[(0, 0, 6, 8)]), embedding((90, 128), (180, 256)))
    assert regions.box((0, 0)) == (0, 0, 255, 179)


def test_cells_of_the_same_region_are_those_whose_middle_is_in_it():
    cells = cover(of=[(1, 2, 3, 6), (4, 0, 6, 1)])
    regions = Regions(cells, embedding())
    expected = cells > 0
    expected[4:] = False
    np.testing.assert_array_equal(regions.cells((1, 2)), expected)


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (cover(of=[(1, 2, 3, 6)]), 1.0),
        (cover(of=[(1, 2, 2, 6)]), 0.5),
        (cover(of=[(1, 2, 3, 6), (1, 6, 3, 8)]), 8 / 12),
        (cover(of=[(4, 0, 6, 1)]), 2 / 10),  # it lies on an object, but not on this one
        (cover(of=[]), 0.0),
    ],
)
def test_agreement_is_the_iou_with_the_region_of_the_cell(on, expected):
    regions = Regions(cover(of=[(1, 2, 3, 6), (4, 0, 6, 1)]), embedding())
    assert regions.agreement(on, (1, 2)) == pytest.approx(expected)


def test_agreement_counts_shares_of_cells():
    regions = Regions(cover(of=[(1, 2, 3, 6)]) * np.float32(0.5), embedding())
    assert regions.agreement(cover(of=[(1, 2, 3, 6)]), (1, 2)) == pytest.approx(0.5)


def test_an_empty_mask_on_a_map_of_nothing_agrees_with_nothing():
    assert Regions(cover(of=[]), embedding()).agreement(cover(of=[]), (1, 1)) == 0
