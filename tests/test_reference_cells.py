"""References by cells: which cells an annotation is on."""

import numpy as np
import pytest
from test_targets import embedding

from samtune.config import ANNOTATIONS
from samtune.masks import DatasetObject
from samtune.reference_cells import (
    draw_annotation,
    share_of_box,
    share_of_points,
    share_of_scribble,
    together,
    vanishes,
)
from samtune.supervision import Supervision
from samtune.targets import covered_share

# Images of 60 × 80 px (H, W): a cell is 10 px of them, and 6 of 8 rows are in the image.


def marked(share):
    return {(int(row), int(column)) for row, column in np.argwhere(share)}


def test_a_point_is_in_the_cell_below_it():
    points = np.array([[0, 0], [79, 59], [29.4, 10], [29.5, 9.49]], dtype=np.float32)
    # An integer is a pixel's centre, so that the third column of cells begins at x = 29.5.
    assert marked(share_of_points(points, embedding())) == {(0, 0), (5, 7), (1, 2), (0, 3)}


def test_a_scribble_marks_every_cell_on_its_way_and_no_other():
    path = np.array([[5, 5], [75, 45], [75, 5]], dtype=np.float32)
    share = share_of_scribble(path, embedding())
    ways = [np.linspace(path[i], path[i + 1], 5000) for i in range(2)]
    columns, rows = ((np.concatenate(ways) + 0.5) // 10).astype(int).T
    passed = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert marked(share) <= passed
    assert len(passed - marked(share)) <= 1  # a corner may be cut where less than 2.5 px are in it


def test_a_box_covers_what_its_filled_mask_does():
    mask = np.zeros((60, 80), dtype=bool)
    mask[7:31, 12:55] = True
    box = np.array([11.5, 6.5, 54.5, 30.5], dtype=np.float32)  # along the outer pixels' edges
    found = share_of_box(box, embedding())
    np.testing.assert_allclose(found, covered_share(mask, embedding()), atol=1e-5)


def test_annotations_of_one_image_are_taken_together():
    left, right = np.array([[0.25, 0.0]]), np.array([[0.125, 1.0]])
    assert together([left, right]).tolist() == [[0.25, 1.0]]


def test_what_covers_less_than_a_tenth_of_any_cell_vanishes():
    mask = np.zeros((60, 80), dtype=bool)
    mask[0, :9] = True  # 9 of the 100 pixels of a cell
    assert vanishes(covered_share(mask, embedding()))
    mask[1, 0] = True
    assert not vanishes(covered_share(mask, embedding()))


@pytest.fixture
def ring():
    """A ring in an image of 96 × 128 px, which is its input size: a cell is 16 px."""
    ys, xs = np.mgrid[:96, :128]
    radius = np.hypot(ys - 48, xs - 60)
    return DatasetObject.of((radius > 18) & (radius < 44))


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations_drawn_in_training_are_on_the_object(ring, kind):
    image, rng = embedding(size=(96, 128)), np.random.default_rng(0)
    one = Supervision.of(ring, 128, rng)
    true = covered_share(ring.mask(), image)
    np.testing.assert_allclose(one.inner_shares(), true, atol=0.01)
    seen = set()
    for _ in range(20):
        share = draw_annotation(one, image, kind, rng)
        assert share.shape == true.shape
        assert not vanishes(share)
        seen.add(share.tobytes())
        if kind == "box":
            assert share[2:4, 2:5].min() == 1  # what is in the hole, too
        else:
            assert not share[true == 0].any()
    assert len(seen) == 1 if kind == "mask" else len(seen) > 10  # others differ from time to time
