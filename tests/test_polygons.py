"""polygons.py: a mask becomes outlines with holes, and these the same mask again."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from samtune.polygons import Polygon, is_simple, mask_to_polygons, polygons_to_mask

RING = np.array([[c == "#" for c in row] for row in ["#####", "#...#", "#.#.#", "#...#", "#####"]])
# Holes that touch by a corner only, and a wall one pixel thick with a spur into its hole.
LATTICE = np.array(
    [
        [c == "#" for c in row]
        for row in ["######", "#.##.#", "##.#.#", "#.##.#", "#..#.#", "######"]
    ]
)


def _shapely(polygon: Polygon) -> shapely.Geometry:
    """The polygon's closed area; contours of one or two points are a point or a line there."""

    def area(contour: np.ndarray) -> shapely.Geometry:
        if len(contour) == 1:
            return shapely.Point(contour[0])
        if len(contour) == 2:
            return shapely.LineString(contour)
        return shapely.Polygon(contour)

    whole = area(polygon.exterior)
    for hole in polygon.holes:
        # A contour along a wall one pixel thick runs back over itself, so that shapely needs
        # it repaired. What lies on the hole's outline stays with the object.
        inner = shapely.make_valid(area(hole))
        whole = shapely.make_valid(whole).difference(inner).union(inner.boundary)
    return whole


def _pixels(size: tuple[int, int]) -> np.ndarray:
    ys, xs = np.mgrid[: size[0], : size[1]]
    return shapely.points(xs.ravel(), ys.ravel())


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14)))
@example(RING)
@example(LATTICE)
@example(np.ones((1, 1), dtype=bool))
@example(np.ones((3, 3), dtype=bool))
@example(~np.eye(6, dtype=bool))
@settings(max_examples=300, deadline=None)
def test_a_mask_survives_polygons_pixel_by_pixel(mask):
    # Noise has every kind of hole, island in a hole, and object of a single pixel.
    assert (polygons_to_mask(mask_to_polygons(mask), mask.shape) == mask).all()


def test_a_large_smooth_mask_survives_polygons_pixel_by_pixel():
    ys, xs = np.mgrid[:700, :1000]
    mask = (xs - 480) ** 2 + 2 * (ys - 350) ** 2 < 300**2
    mask &= ~((xs - 420) ** 2 + (ys - 330) ** 2 < 90**2)
    assert (polygons_to_mask(mask_to_polygons(mask), mask.shape) == mask).all()


def test_every_part_is_a_polygon_and_holds_its_holes():
    polygons = mask_to_polygons(RING)
    # The ring with its hole, and the dot within that hole.
    assert sorted(len(polygon.holes) for polygon in polygons) == [0, 1]
    dot = min(polygons, key=lambda polygon: len(polygon.holes))
    assert dot.exterior.tolist() == [[2, 2]]
    assert dot.exterior.dtype == np.float32


def test_an_empty_mask_has_no_polygons_and_no_polygons_are_an_empty_mask():
    assert mask_to_polygons(np.zeros((4, 6), dtype=bool)) == ()
    assert not polygons_to_mask([], (4, 6)).any()


def test_touching_corners_connect_an_object_but_not_a_hole():
    diagonal = np.eye(3, dtype=bool)
    assert len(mask_to_polygons(diagonal)) == 1
    assert len(mask_to_polygons(~np.pad(diagonal, 1))[0].holes) == 3


@given(arrays(bool, st.just((9, 12)), fill=st.just(True)))
@example(np.pad(RING, ((2, 2), (3, 4))))
@settings(max_examples=60, deadline=None)
def test_filling_outlines_of_masks_agrees_with_shapely(mask):
    polygons = mask_to_polygons(mask)
    covered = np.zeros(mask.size, dtype=bool)
    for polygon in polygons:
        covered |= shapely.covers(_shapely(polygon), _pixels(mask.shape))
    assert (polygons_to_mask(polygons, mask.shape).ravel() == covered).all()


def _star(seed: int, reach: float) -> Polygon:
    """Corners in order round a centre in a 30×40 image: the outline never crosses itself."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radius = rng.uniform(4, reach, 12)
    corners = np.stack([20 + radius * np.cos(angles), 15 + radius * np.sin(angles)], axis=1)
    return Polygon(corners.astype(np.float32))


@pytest.mark.parametrize("reach", [14.0, 40.0])  # within the image; far beyond it
@pytest.mark.parametrize("seed", range(20))
def test_filling_between_pixels_agrees_with_shapely_but_for_the_outline(seed, reach):
    polygon = _star(seed, reach)
    filled = polygons_to_mask([polygon], (30, 40)).ravel()
    area = shapely.make_valid(shapely.Polygon(polygon.exterior))
    pixels = _pixels((30, 40))
    on_outline = shapely.distance(area.boundary, pixels) < 1.3
    assert (filled == shapely.covers(area, pixels))[~on_outline].all()


def test_filling_between_pixels_reaches_half_a_pixel_beyond_the_outline():
    # Outlines run through pixel centres, so half a pixel belongs round them: without it,
    # refining would make every object smaller.
    excess, length = 0.0, 0.0
    for seed in range(40):
        polygon = _star(seed, reach=14.0)
        area = shapely.Polygon(polygon.exterior)
        excess += polygons_to_mask([polygon], (30, 40)).sum() - area.area
        length += area.length
    assert 0.4 < excess / length < 0.6


def test_a_contour_a_fraction_of_a_pixel_off_gives_the_mask_it_came_from():
    # Refined contours come as floats: 4.9999 has to fill pixel 5.
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:15, 6:25] = True
    (polygon,) = mask_to_polygons(mask)
    for offset in (-0.001, 0.001):
        moved = Polygon(polygon.exterior + np.float32(offset))
        assert (polygons_to_mask([moved], mask.shape) == mask).all()


@pytest.mark.parametrize("far", [60.0, 1e6, 1e12])
def test_what_lies_outside_of_the_image_is_cut_off(far):
    square = np.array([[10, 5], [far, 5], [far, far], [10, far]], dtype=np.float32)
    expected = np.zeros((20, 30), dtype=bool)
    expected[5:, 10:] = True
    assert (polygons_to_mask([Polygon(square)], expected.shape) == expected).all()
    beside = Polygon(square + np.float32(100))
    assert not polygons_to_mask([beside], expected.shape).any()


def test_a_vertex_that_is_not_finite_is_the_callers_bug():
    broken = Polygon(np.array([[0, 0], [np.nan, 3], [4, 4]], dtype=np.float32))
    with pytest.raises(ValueError, match="not finite"):
        polygons_to_mask([broken], (5, 5))


# On a small grid, vertices often fall on each other and on edges, and edges on one line.
CONTOURS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=7)


@given(CONTOURS)
@example([(0, 0), (2, 0), (4, 0), (4, 3), (3, 3), (1, 3), (0, 3)])  # edges apart on one line
@example([(0, 0), (0, 0), (4, 0), (4, 4), (4, 4), (4, 4)])  # vertices repeated
@example([(0, 0), (4, 0), (2, 0), (2, 3)])  # an edge turns back on the one before
@example([(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)])  # a vertex touches an edge
@settings(max_examples=400, deadline=None)
def test_contours_are_simple_where_shapely_says_so(points):
    contour = np.array(points, dtype=np.float32)
    area = shapely.Polygon(contour).area
    assert is_simple(contour) == (shapely.LinearRing(contour).is_simple and area > 0)
