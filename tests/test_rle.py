"""rle.py: COCO's run lengths, with pycocotools as the other side."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from samtune.rle import decode_rle, encode_rle

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40), fill=st.booleans())


@given(MASKS)
@example(np.zeros((3, 5), dtype=bool))
@example(np.ones((3, 5), dtype=bool))
@settings(max_examples=150, deadline=None)
def test_run_lengths_are_pycocotools_in_both_directions(mask):
    counts = encode_rle(mask)
    height, width = mask.shape
    theirs = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    assert (coco.decode(theirs) == mask).all()
    assert (decode_rle(counts, mask.shape) == mask).all()
    compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (decode_rle(compressed, mask.shape) == mask).all()


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_mask_or_a_value_error(text):
    # pycocotools reads beyond its own memory on some of these.
    try:
        assert decode_rle(text, (4, 5)).shape == (4, 5)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "counts", [[], [3], [100], [25, -5], [10.0, 10], ["20"], [True, 19], [2**70], "", "P", "04"]
)
def test_counts_that_are_not_the_mask_s_are_refused(counts):
    with pytest.raises(ValueError, match="run lengths"):
        decode_rle(counts, (4, 5))
