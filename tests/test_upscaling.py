"""Masks at the image's size, against segment-anything's own resizing of all logits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from upstream import postprocess_masks

from samtune import upscaling
from samtune.input_frame import input_size
from samtune.upscaling import upscale_logits, upscale_masks

SIDE = 128  # of the padded square; 32 logits on a side


def blobs(*rectangles):
    """(1, 1, 32, 32) logits, on the object in some rectangles of (top, bottom, left, right)."""
    logits = -1 - torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for top, bottom, left, right in rectangles:
        logits[..., top:bottom, left:right] *= -1
    return logits


def assert_as_upstream(logits, original):
    frame = input_size(original, SIDE)
    expected = postprocess_masks(logits, SIDE, frame, original)
    sure = (expected.abs() > 1e-4).numpy()  # elsewhere rounding decides
    found = upscale_masks(logits, SIDE, frame, original)
    assert found.shape == tuple(expected.shape)
    assert found.dtype == bool
    assert np.array_equal(found[sure], (expected > 0).numpy()[sure])
    return found


@pytest.mark.parametrize("original", [(90, 120), (301, 200), (128, 128), (1, 77), (700, 3)])
def test_masks_are_brought_back_as_by_segment_anything(original):
    logits = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    found = assert_as_upstream(logits, original)
    assert found.any()
    assert not found.all()


@pytest.mark.parametrize(
    "rectangles",
    [
        [(0, 1, 0, 1)],
        [(10, 13, 4, 20)],
        [(0, 32, 31, 32)],
        [(2, 3, 2, 3), (20, 24, 26, 27)],
        [(0, 32, 0, 32)],
        [],
    ],
    ids=["a corner", "inside", "an edge", "two parts", "everything", "nothing"],
)
def test_what_lies_around_an_object_need_not_be_computed(rectangles):
    found = assert_as_upstream(blobs(*rectangles), (261, 300))
    assert found.any() == bool(rectangles)


@given(
    original=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    corner=st.tuples(st.integers(0, 31), st.integers(0, 31)),
    extent=st.tuples(st.integers(1, 32), st.integers(1, 32)),
)
def test_it_holds_for_any_size_and_place(original, corner, extent):
    top, left = corner
    assert_as_upstream(blobs((top, top + extent[0], left, left + extent[1])), original)


@pytest.mark.parametrize("original", [(90, 120), (301, 200), (1, 77)])
def test_logits_are_brought_back_as_by_segment_anything(original):
    logits = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    frame = input_size(original, SIDE)
    found = upscale_logits(logits, SIDE, frame, original)
    torch.testing.assert_close(found, postprocess_masks(logits, SIDE, frame, original))


def test_an_object_larger_than_a_strip_is_put_together(monkeypatch):
    logits = blobs((3, 30, 1, 29))
    whole = upscale_masks(logits, SIDE, (112, 128), (261, 300))
    monkeypatch.setattr(upscaling, "_STRIP", 7)
    assert np.array_equal(upscale_masks(logits, SIDE, (112, 128), (261, 300)), whole)
