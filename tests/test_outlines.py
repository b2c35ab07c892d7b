"""outlines.py: borders along the edges of pixels, and the same mask again."""

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco
from test_polygons import LATTICE, RING

from samtune.outlines import mask_to_outlines, outlines_to_mask
from samtune.polygons import Polygon

NOISE = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14))


def blobs(seed: int) -> np.ndarray:
    """(H, W) bool: smooth shapes as objects have them, some with holes, some cut by the border."""
    rng = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(rng.random((50, 70)), (0, 0), float(rng.uniform(0.8, 4)))
    return soft > np.quantile(soft, rng.uniform(0.2, 0.8))


def as_shapely(polygons) -> shapely.MultiPolygon:
    return shapely.MultiPolygon([shapely.Polygon(one.exterior, one.holes) for one in polygons])


@given(NOISE)
@example(RING)
@example(LATTICE)
@example(np.ones((1, 1), dtype=bool))
@example(np.eye(5, dtype=bool))
@example(~np.eye(6, dtype=bool))
@settings(max_examples=300, deadline=None)
def test_a_mask_survives_outlines_pixel_by_pixel(mask):
    assert (outlines_to_mask(mask_to_outlines(mask), mask.shape) == mask).all()


@pytest.mark.parametrize("seed", range(30))
def test_shapes_as_objects_have_them_survive_with_fewer_points_than_steps(seed):
    mask = blobs(seed)
    polygons = mask_to_outlines(mask)
    assert (outlines_to_mask(polygons, mask.shape) == mask).all()
    points = sum(len(ring) for one in polygons for ring in (one.exterior, *one.holes))
    edges = np.abs(np.diff(np.pad(mask, 1).astype(int), axis=0)).sum()
    assert points < 2 * edges


@given(NOISE)
@example(LATTICE)
@settings(max_examples=300, deadline=None)
def test_outlines_are_valid_polygons_within_the_image_and_enclose_the_pixels_centres(mask):
    area = as_shapely(mask_to_outlines(mask))
    assert area.is_valid
    height, width = mask.shape
    assert area.difference(shapely.box(-0.5, -0.5, width - 0.5, height - 0.5)).is_empty
    ys, xs = np.mgrid[:height, :width]
    inside = shapely.contains_xy(area, xs.ravel(), ys.ravel()).reshape(mask.shape)
    assert (inside == mask).all()


@given(NOISE)
@settings(max_examples=200, deadline=None)
def test_pycocotools_fills_outlines_without_holes_with_the_same_pixels(mask):
    polygons = [Polygon(one.exterior) for one in mask_to_outlines(mask)]
    if not polygons:
        return
    corners = [(one.exterior + 0.5).ravel().astype(float).tolist() for one in polygons]
    filled = coco.decode(coco.merge(coco.frPyObjects(corners, *mask.shape)))
    assert (filled == outlines_to_mask(polygons, mask.shape)).all()


def test_a_rectangle_has_four_corners_on_the_edges_of_its_pixels():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:15, 6:25] = True
    (polygon,) = mask_to_outlines(mask)
    assert sorted(polygon.exterior.tolist()) == [[5.5, 3.5], [5.5, 14.5], [24.5, 3.5], [24.5, 14.5]]
    assert shapely.Polygon(polygon.exterior).area == mask.sum()


def test_a_slanted_edge_is_a_line_and_no_staircase():
    (polygon,) = mask_to_outlines(np.tri(40, dtype=bool))
    assert len(polygon.exterior) < 8


def test_exteriors_run_one_way_and_holes_the_other():
    ring = mask_to_outlines(RING)
    with_hole = next(one for one in ring if one.holes)
    assert shapely.LinearRing(with_hole.exterior).is_ccw
    assert not shapely.LinearRing(with_hole.holes[0]).is_ccw


def test_an_empty_mask_has_no_outline():
    assert mask_to_outlines(np.zeros((4, 6), dtype=bool)) == ()


@given(st.integers(0, 10**6), st.sampled_from([0.5, 3.0]))
@settings(max_examples=150, deadline=None)
def test_filling_any_simple_polygon_agrees_with_shapely(seed, reach):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(4, 12, 9) * (1 + reach)  # the larger ones leave the image on all sides
    corners = np.stack([20 + radius * np.cos(angles), 15 + radius * np.sin(angles)], axis=1)
    polygon = shapely.Polygon(corners)
    if not polygon.is_valid:
        return
    ys, xs = np.mgrid[:30, :40]
    inside = shapely.contains_xy(polygon, xs.ravel(), ys.ravel()).reshape(30, 40)
    assert (outlines_to_mask([Polygon(corners)], (30, 40)) == inside).all()


def test_vertices_as_far_away_as_numbers_go_take_neither_time_nor_memory():
    square = np.array([[10, 5], [1e30, 5], [1e30, 1e30], [10, 1e30]])
    expected = np.zeros((20, 30), dtype=bool)
    expected[5:, 10:] = True
    assert (outlines_to_mask([Polygon(square)], expected.shape) == expected).all()
    assert not outlines_to_mask([Polygon(square + 100)], expected.shape).any()


def test_a_vertex_that_is_not_finite_is_the_callers_bug():
    broken = Polygon(np.array([[0, 0], [np.inf, 3], [4, 4]]))
    with pytest.raises(ValueError, match="not finite"):
        outlines_to_mask([broken], (5, 5))
