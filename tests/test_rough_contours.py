"""Rough contours: wrong as masks are, and knowing how far they are off."""

import cv2
import numpy as np
import pytest
import shapely
import torch

from samtune.contour_refiner import outward_normals, reach
from samtune.input_frame import input_size
from samtune.masks import DatasetObject
from samtune.polygons import mask_to_polygons
from samtune.rough_contours import GROWTH, SHARES, ObjectWindow

IMAGE_SIZE = 1024
SIDE = 256


def ellipse(size=(700, 900), center=(420, 300), axes=(180, 120), angle=30):
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, center, axes, angle, 0, 360, 1, -1)
    return mask.astype(bool)


def outline_in_shares(mask):
    """The true outline, in shares of the padded square."""
    (polygon,) = mask_to_polygons(mask)
    to_input = np.array(input_size(mask.shape, IMAGE_SIZE)[::-1]) / mask.shape[::-1]
    return shapely.LinearRing((polygon.exterior + 0.5) * to_input / IMAGE_SIZE)


def draw(window, kind, seed=0, waves=False):
    rng = np.random.default_rng(seed)
    return window.rough_contour(window.coarse(kind, rng), SIDE, rng, waves=waves)


def distances_to(ring, points):
    return shapely.distance(ring, shapely.points(points))


@pytest.mark.parametrize("size", [(700, 900), (1900, 1500)], ids=["as it is", "scaled down"])
@pytest.mark.parametrize("waves", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in SHARES if kind != "sam"])
def test_offsets_lead_onto_the_true_outline(kind, waves, size):
    mask = ellipse(size)
    ring = outline_in_shares(mask)
    contour = draw(ObjectWindow.of(DatasetObject.of(mask), IMAGE_SIZE), kind, waves=waves)
    points = torch.from_numpy(contour.points)[None]
    far = reach(points, SIDE) * torch.from_numpy(contour.offsets)[None, :, None]
    found = (points + far * outward_normals(points))[0].numpy()
    pixel = 1 / max(size)
    assert contour.seen.all()
    assert distances_to(ring, found).max() < 2.5 * pixel
    if kind != "exact":
        assert distances_to(ring, contour.points).max() > 2.5 * pixel


def test_grown_contours_are_outside_by_a_share_of_the_size_and_shrunk_ones_inside():
    mask = ellipse()
    window = ObjectWindow.of(DatasetObject.of(mask), IMAGE_SIZE)
    shape = shapely.Polygon(outline_in_shares(mask))
    size = np.sqrt(mask.any(axis=0).sum() * mask.any(axis=1).sum())
    for kind, outside in (("grown", True), ("shrunk", False)):
        shares = []
        for seed in range(20):
            contour = draw(window, kind, seed)
            off = distances_to(shape.exterior, contour.points) * 900 / size
            assert (shapely.contains_xy(shape, *contour.points.T).mean() < 0.5) == outside
            assert np.ptp(off) < 0.02
            shares.append(off.mean())
        assert GROWTH[0] - 0.01 < min(shares) < 0.02
        assert 0.05 < max(shares) < GROWTH[1] + 0.01


def test_exact_contours_need_no_offsets():
    contour = draw(ObjectWindow.of(DatasetObject.of(ellipse()), IMAGE_SIZE), "exact")
    assert np.abs(contour.offsets).max() < 0.03


def test_contours_of_objects_at_the_image_s_border_stay_in_the_image():
    mask = ellipse(center=(870, 660))  # in the corner
    contour = draw(ObjectWindow.of(DatasetObject.of(mask), IMAGE_SIZE), "grown")
    assert contour.points[:, 0].max() <= 1
    assert contour.points[:, 1].max() <= 700 / 900
    at_border = contour.points[:, 0] > 1 - 2 / 900
    assert at_border.any()
    # The object ends there, too; the last point may be where the grown contour leaves the border.
    assert np.median(np.abs(contour.offsets[at_border])) < 0.05


def test_where_the_outline_is_out_of_reach_that_is_said():
    mask = np.zeros((700, 900), bool)
    mask[300:400, 300:400] = True
    window = ObjectWindow.of(DatasetObject.of(mask), IMAGE_SIZE)
    far_off = np.zeros_like(window.mask)
    far_off[1:12, 1:12] = True  # beside the object
    contour = window.rough_contour(far_off, SIDE, np.random.default_rng(0), waves=False)
    assert not contour.seen.any()
    assert (contour.offsets == -1).all()


def test_a_speck_has_no_contour():
    mask = np.zeros((40, 60), bool)
    mask[20, 30] = True
    assert draw(ObjectWindow.of(DatasetObject.of(mask), IMAGE_SIZE), "exact") is None


def test_a_mask_of_logits_is_seen_where_it_is():
    mask = ellipse((600, 900))
    window = ObjectWindow.of(DatasetObject.of(mask), IMAGE_SIZE)
    logits = np.full((SIDE, SIDE), -5, np.float32)
    small = cv2.resize(mask.astype(np.float32), (256, 171), interpolation=cv2.INTER_AREA)
    logits[:171] = small - 0.5
    seen = window.seen_in(logits)
    assert (seen & window.mask).sum() / (seen | window.mask).sum() > 0.98


def test_the_box_of_a_mask_goes_from_its_first_to_its_last_pixel():
    mask = ellipse()
    window = ObjectWindow.of(DatasetObject.of(mask), IMAGE_SIZE)
    for seen in (mask, cv2.erode(mask.astype(np.uint8), np.ones((41, 41))) > 0):
        coarse = seen[np.ix_(*window_pixels(window, mask.shape))]
        rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
        corners = np.array([columns[0], rows[0], columns[-1], rows[-1]]) + 0.5
        expected = corners * IMAGE_SIZE / max(mask.shape)
        found = window.box(coarse) * IMAGE_SIZE
        assert np.abs(found - expected).max() < 1.5 * IMAGE_SIZE * window.scale.max()
    assert window.box(np.zeros_like(window.mask)) is None


def window_pixels(window, size):
    """The image's rows and columns at the centres of the window's pixels."""
    pixels = []
    for axis, count in ((1, window.mask.shape[0]), (0, window.mask.shape[1])):
        shares = (np.arange(count) + 0.5) * window.scale[axis] + window.corner[axis]
        pixels.append((shares * max(size)).astype(int).clip(0, size[1 - axis] - 1))
    return pixels
