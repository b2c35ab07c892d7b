"""Coordinates: there and back, mirrored, and cut out, everything stays where it is."""

import numpy as np
import pytest
import shapely
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from samtune.input_frame import Embedding, input_size
from samtune.masks import DatasetObject
from samtune.outlines import mask_to_outlines, outlines_to_mask
from samtune.pmm import PointMatchingModule
from samtune.polygons import extent, mask_to_polygons, polygons_to_mask
from samtune.prompts import Prompt, box_around, center_point
from samtune.refinement import refine_polygon
from samtune.rle import decode_rle, encode_rle
from samtune.sam import Sam
from samtune.upscaling import upscale_logits, upscale_masks

SIDE = 128  # of the tiny SAM's padded square; 32 logits on a side
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))
MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


def seen_by_the_prompt_encoder(sam, point, size, monkeypatch):
    """Where a point of the image comes to lie in the input frame, (x, y)."""
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(Sam, "encode_points", lambda self, points, *_: seen.append(points))
        sam.encode_prompts([Prompt.of(points=[point])], size)
    return seen[0][0, 0].tolist()


def ramps():
    """(1, 2, 32, 32) logits that are their own x and y in the input frame."""
    centres = (torch.arange(32.0) + 0.5) * SIDE / 32 - 0.5
    return torch.stack([centres.expand(32, 32), centres[:, None].expand(32, 32)])[None]


@given(size=SIZES, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_point_goes_there_and_back_by_less_than_half_a_pixel(size, shares, tiny_sam):
    """There as a prompt, back as a pixel of the mask: half a pixel of the coarser of both frames.

    SAM scales a prompt from pixel centre to pixel centre, and resizes masks from edge to edge; the
    two differ by half of how much larger the one pixel is (segment-anything's
    ResizeLongestSide.apply_coords and postprocess_masks).
    """
    height, width = size
    x, y = (
        int(share * (length - 1)) for share, length in zip(shares, (width, height), strict=True)
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        there = seen_by_the_prompt_encoder(tiny_sam, (x, y), size, monkeypatch)
    frame = input_size(size, SIDE)
    back = upscale_logits(ramps(), SIDE, frame, size)[0, :, y, x].tolist()
    for to, fro, framed, length in zip(there, back, frame[::-1], size[::-1], strict=True):
        # Logits end half of one before the border, and frames of few pixels have no inside.
        if 2 <= to <= framed - 4:
            assert abs(to - fro) < 0.5 * max(1.0, framed / length) + 1e-3


@given(size=SIZES, seed=st.integers(0, 99))
def test_masks_of_mirrored_logits_are_mirrored(size, seed):
    logits = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    frame = input_size(size, SIDE)
    masks = upscale_masks(logits, SIDE, frame, size)
    sure = upscale_logits(logits, SIDE, frame, size).abs().numpy() > 1e-4
    for axis, length in ((-1, frame[1]), (-2, frame[0])):
        if length == SIDE:  # where padding follows, a mirrored image lies elsewhere
            mirrored = upscale_masks(logits.flip(axis), SIDE, frame, size)
            same = mirrored == np.flip(masks, axis)
            assert same[np.flip(sure, axis)].all()


@given(MASKS)
def test_a_mirrored_mask_has_mirrored_outlines_boxes_and_run_lengths(mask):
    height, width = mask.shape
    for flipped, there in (
        (mask[:, ::-1], lambda ring: ring * (-1, 1) + (width - 1, 0)),
        (mask[::-1], lambda ring: ring * (1, -1) + (0, height - 1)),
        (mask.T, lambda ring: ring[:, ::-1]),
    ):
        for to_polygons, to_mask in (
            (mask_to_polygons, polygons_to_mask),
            (mask_to_outlines, outlines_to_mask),
        ):
            moved = [
                type(polygon)(
                    there(polygon.exterior).astype(np.float32),
                    tuple(there(hole).astype(np.float32) for hole in polygon.holes),
                )
                for polygon in to_polygons(mask)
            ]
            assert np.array_equal(to_mask(moved, flipped.shape), flipped)
        box = there(box_around(mask).reshape(2, 2))
        assert np.sort(box, axis=0).ravel().tolist() == box_around(flipped).tolist()
        assert np.array_equal(decode_rle(encode_rle(flipped), flipped.shape), flipped)


@given(mask=MASKS, left=st.integers(0, 9), top=st.integers(0, 9), more=st.integers(0, 9))
def test_what_is_cut_out_of_a_larger_image_moves_by_the_corner(mask, left, top, more):
    larger = np.pad(mask, ((top, more), (left, more)))
    x0, y0, x1, y1 = extent(mask)
    assert extent(larger) == (x0 + left, y0 + top, x1 + left, y1 + top)
    thing = DatasetObject.of(larger)
    assert thing.bits == DatasetObject.of(mask).bits
    assert np.array_equal(thing.mask()[top : top + len(mask), left:][:, : mask.shape[1]], mask)
    corner = np.array([left, top], np.float32)
    assert np.array_equal(box_around(larger), box_around(mask) + np.tile(corner, 2))
    for to_polygons in (mask_to_polygons, mask_to_outlines):
        for one, other in zip(to_polygons(mask), to_polygons(larger), strict=True):
            assert np.array_equal(one.exterior + corner, other.exterior)
            for hole, moved in zip(one.holes, other.holes, strict=True):
                assert np.array_equal(hole + corner, moved)
    # The centre is farthest from the border, and the image's own border is one as well.
    assert np.array_equal(center_point(larger).points, center_point(mask).points + corner)


class Still(PointMatchingModule):
    """Moves no point."""

    def forward(self, features, points):
        return points


@given(size=st.tuples(st.integers(8, 400), st.integers(8, 400)), seed=st.integers(0, 99))
def test_a_contour_goes_there_and_back_by_less_than_half_a_pixel(size, seed):
    """To shares of the padded square for the Point Matching Module, and back."""
    rng = np.random.default_rng(seed)
    height, width = size
    mask = np.zeros(size, bool)
    y0, x0 = (int(rng.integers(0, length // 2)) for length in size)
    mask[y0 : y0 + height // 2, x0 : x0 + width // 2] = True
    (polygon,) = mask_to_polygons(mask)
    assume(len(polygon.exterior) >= 3)
    embedding = Embedding(torch.zeros(256, 8, 8), size, input_size(size, SIDE))
    refined = refine_polygon(polygon, Still(), torch.zeros(64, 256), embedding, rounds=2)
    before, after = (shapely.Polygon(one.exterior) for one in (polygon, refined))
    assert (
        shapely.hausdorff_distance(before.exterior, after.exterior, densify=0.25)
        < 0.5 + max(np.ptp(polygon.exterior, axis=0)) / 32
    )  # corners between two of the points along the contour are cut
    to_corner = shapely.distance(shapely.points(refined.exterior), before.exterior)
    assert to_corner.max() < 1e-3 * max(size) / 100
