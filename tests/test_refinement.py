"""Refined polygons: what moves, what stays, and that other libraries take them."""

import cv2
import numpy as np
import pytest
import shapely
import torch
from decoding import decode_prompts
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import IMAGE_SIZE, build_adapter
from torch import nn

from samtune.contour_refiner import POINTS
from samtune.input_frame import Embedding, input_size
from samtune.pmm import resample_contour
from samtune.polygons import Polygon, is_valid, mask_to_polygons, polygons_to_mask
from samtune.predictor import AT_ONCE, Predictor
from samtune.prompts import Prompt
from samtune.refinement import box_features, contour_moves, refine_polygon

SIZE = (50, 77)  # (H, W) of the image


class Shift(nn.Module):
    """Moves all points by so much of the padded square in each round."""

    def __init__(self, dx=0.0, dy=0.0, scale=1.0):
        super().__init__()
        self.offset, self.scale = torch.tensor([dx, dy]), scale

    def forward(self, features, points):
        center = points.mean(dim=1, keepdim=True)
        return ((points - center) * self.scale + center + self.offset).clamp(0, 1)


@pytest.fixture(scope="module")
def embedding(tiny_sam):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return tiny_sam.encode_image(noise)


def with_module(sam, pmm):
    adapter = build_adapter(sam)
    adapter.learned.refiner = pmm
    return Predictor(sam, adapter)


def disks(*centers, radius=9):
    mask = np.zeros(SIZE, np.uint8)
    for center in centers:
        cv2.circle(mask, center, radius, 1, -1)
    return mask.astype(bool)


def as_shapely(polygon):
    return shapely.Polygon(polygon.exterior, polygon.holes)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_each_round_moves_the_points_again(tiny_sam, embedding, rounds):
    predictor = with_module(tiny_sam, Shift(dx=4 / 77))  # 4 pixels of the image's long side
    (polygon,) = predictor.refine_mask(embedding, disks((20, 25)), rounds)
    center = as_shapely(polygon).centroid
    assert center.x == pytest.approx(20 + 4 * rounds, abs=0.05)
    assert center.y == pytest.approx(25, abs=0.05)
    assert polygon.exterior.shape == (POINTS, 2)


def test_every_part_is_decoded_by_plain_sam_for_its_own_box(tiny_sam, embedding):
    centers = [(x, y) for y in (12, 36) for x in (10, 26, 42, 58, 70)]
    assert len(centers) > AT_ONCE
    mask = disks(*centers, radius=5)
    read = []

    class Recorder(Shift):
        def forward(self, features, points):
            read.append((features[0], points[0]))
            return points

    with_module(tiny_sam, Recorder()).refine_mask(embedding, mask, rounds=1)
    found = {tuple((points.mean(dim=0) * 77 - 0.5).round().int().tolist()) for _, points in read}
    assert found == set(centers)
    x, y = (float(length) for length in read[9][1].mean(dim=0) * 77 - 0.5)
    box = Prompt.of(box=(x - 5, y - 5, x + 5, y + 5))
    sparse = tiny_sam.encode_prompts([box], SIZE)
    decoded = decode_prompts(tiny_sam, embedding.features[None], sparse, outputs=[0])
    cells = decoded.image_features.mT.unflatten(2, (8, 8))
    expected = tiny_sam.decoder.layers.output_upscaling(cells)[0].flatten(1).T
    torch.testing.assert_close(read[9][0][:, :32], expected, rtol=1e-2, atol=2e-2)
    logits = decoded.low_res_logits.flatten()
    torch.testing.assert_close(read[9][0][:, 32], logits, rtol=1e-2, atol=5e-2)


@pytest.mark.parametrize(("kind", "share"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_boxes_of_an_image_that_was_not_prepared_have_the_same_features(
    tiny_sam, embedding, kind, share
):
    boxes = np.array([[10, 12, 60, 50], [30, 30, 90, 100]], dtype=np.float32)
    expected = box_features(tiny_sam, tiny_sam.image_cells(embedding), boxes)
    found = box_features(tiny_sam, embedding.features[None].to(kind), boxes)
    assert found.dtype == kind
    assert found.shape == expected.shape == (2, 32 * 32, 33)
    for part in (slice(32), slice(32, 33)):  # features, logit
        off = (found.float() - expected)[..., part].norm() / expected[..., part].norm()
        assert off < share


def test_what_cannot_be_refined_is_the_same_pixels_as_before(tiny_sam, embedding):
    mask = disks((60, 25))
    mask[3:6, 3:7] = mask[40, 2:30] = mask[45, 45] = True  # a speck, a line, a pixel
    predictor = with_module(tiny_sam, Shift(dy=0.05))
    refined = polygons_to_mask(predictor.refine_mask(embedding, mask), SIZE)
    assert np.array_equal(refined[:, :45], mask[:, :45])
    assert refined[45, 45]
    assert not np.array_equal(refined[:, 48:], mask[:, 48:])


def test_a_module_that_moves_nothing_changes_only_the_boundary(tiny_sam, embedding):
    mask = disks((38, 25), radius=20)
    mask &= ~disks((38, 25), radius=8)
    refined = polygons_to_mask(
        with_module(tiny_sam, Shift()).refine_mask(embedding, mask, rounds=3), SIZE
    )
    near = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
    assert np.array_equal(refined[~near], mask[~near])
    assert (refined != mask).mean() < 0.02


def test_refined_polygons_never_leave_the_image(tiny_sam, embedding):
    mask = disks((70, 43), radius=12)  # in the corner, with padding of the input frame beside it
    predictor = with_module(tiny_sam, Shift(dx=0.06, dy=0.06))
    (polygon,) = predictor.refine_mask(embedding, mask)
    assert not np.array_equal(polygon.exterior, mask_to_polygons(mask)[0].exterior)
    assert polygon.exterior.min() >= -0.5
    assert (polygon.exterior.max(axis=0) <= [SIZE[1] - 0.5, SIZE[0] - 0.5]).all()


def ring(outer=20, inner=10):
    mask = disks((38, 25), radius=outer) & ~disks((38, 25), radius=inner)
    return mask_to_polygons(mask)[0]


class HolesOnly(Shift):
    """Moves a hole of up to so many shares of the square across, and no exterior."""

    def forward(self, features, points):
        small = float((points.amax(dim=1) - points.amin(dim=1)).max()) < 0.4
        return super().forward(features, points) if small else points


def test_a_hole_is_moved_like_an_outer_contour(tiny_sam, embedding):
    features = torch.zeros(32 * 32, 33)
    refined = refine_polygon(ring(), HolesOnly(dx=3 / 77), features, embedding, rounds=1)
    (hole,) = refined.holes
    assert shapely.Polygon(hole).centroid.x == pytest.approx(41, abs=0.1)
    assert as_shapely(refined).is_valid


def test_holes_that_would_leave_their_object_stay(tiny_sam, embedding):
    features = torch.zeros(32 * 32, 33)
    before = ring()
    refined = refine_polygon(before, HolesOnly(dx=14 / 77), features, embedding, rounds=1)
    assert refined.holes is before.holes
    assert refined.exterior.shape == (POINTS, 2)


@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0.2, 3))
def test_refined_polygons_are_valid_whatever_the_module_says(seed, strength):
    generator = torch.Generator().manual_seed(seed)

    class Random(nn.Module):
        def forward(self, features, points):
            noise = torch.randn(points.shape, generator=generator)
            smooth = torch.fft.irfft(torch.fft.rfft(noise, dim=1)[:, :5], n=POINTS, dim=1)
            return points + strength * 0.1 * smooth

    features = torch.zeros(32 * 32, 33)
    embedding = Embedding(torch.zeros(256, 8, 8), SIZE, input_size(SIZE, IMAGE_SIZE))
    before = ring()
    refined = refine_polygon(before, Random(), features, embedding, rounds=2)
    moved = [hole for hole in refined.holes if hole is not before.holes[0]]
    if refined.exterior is before.exterior:
        assert refined.holes is before.holes
    else:
        assert shapely.Polygon(refined.exterior, moved).is_valid
        x0, y0, x1, y1 = shapely.Polygon(refined.exterior).bounds
        assert min(x0, y0) >= -0.5
        assert x1 <= SIZE[1] - 0.5
        assert y1 <= SIZE[0] - 0.5


def test_a_mask_of_another_size_is_the_caller_s_mistake(tiny_sam, embedding):
    with pytest.raises(ValueError, match="mask of"):
        with_module(tiny_sam, Shift()).refine_mask(embedding, np.ones((50, 50), bool))
    with pytest.raises(ValueError, match="contour refiner"):
        Predictor(tiny_sam).refine_mask(embedding, np.ones(SIZE, bool))


squares = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.integers(1, 12))


def rectangle(x, y, width, height):
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return np.array(corners, dtype=np.float32)


@given(st.lists(squares, min_size=1, max_size=4))
def test_a_polygon_with_holes_is_valid_only_if_shapely_says_so(boxes):
    polygon = Polygon(rectangle(0, 0, 30, 30), tuple(rectangle(*box) for box in boxes))
    apart = as_shapely(polygon)
    # Shapely allows contours to touch in a point, which is not simple enough here.
    touching = any(
        shapely.LinearRing(one).intersects(shapely.LinearRing(other))
        for i, one in enumerate((polygon.exterior, *polygon.holes))
        for other in (polygon.exterior, *polygon.holes)[i + 1 :]
    )
    assert is_valid(polygon) == (apart.is_valid and not touching)


def test_moves_are_the_points_along_each_moved_contour_and_where_they_are_now():
    before = ring()
    untouched = Polygon(np.array([[1, 1], [4, 1], [4, 4]], np.float32))
    points = resample_contour(before.holes[0])
    after = Polygon(before.exterior, (points + np.float32([2, 0]), *before.holes[1:]))
    ((old, new),) = contour_moves([untouched, before], [untouched, after])
    np.testing.assert_allclose(old, points, atol=1e-5)
    np.testing.assert_allclose(new - old, np.tile([2, 0], (len(points), 1)), atol=1e-4)
