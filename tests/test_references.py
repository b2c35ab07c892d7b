"""References that a user names: what is read of them, and what is wrong with some."""

import numpy as np
import pytest
from PIL import Image

from samtune.embeddings import EmbeddingCache
from samtune.errors import ImageError, PromptError
from samtune.images import read_image
from samtune.references import Reference
from samtune.targets import covered_share


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A photo of 96 × 128 px (H, W), whose cells are 16 px, and masks of it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save("a.png")
    labels = np.zeros((96, 128), np.uint8)
    labels[10:50, 20:70] = 3
    labels[60:90, 90:120] = 7
    Image.fromarray(labels).save("labels.png")
    Image.fromarray(labels[:, ::-1].T.copy()).save("turned.png")
    Image.fromarray(np.zeros_like(labels)).save("empty.png")
    speck = np.zeros_like(labels)
    speck[40:44, 41:46] = 255  # 20 of a cell's 256 px
    Image.fromarray(speck).save("speck.png")
    return labels


@pytest.fixture
def read(place, tiny_sam, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache", limit_gb=1)
    return lambda **said: Reference("a.png", **said).read(tiny_sam, cache)


def test_a_mask_is_all_but_zero_or_one_of_its_values(read, place, tiny_sam):
    found = read(masks=("labels.png",))
    expected = tiny_sam.encode_image(read_image("a.png"))
    assert found.embedding.features.sub(expected.features).abs().max() < 1e-2  # half precision
    np.testing.assert_allclose(found.share, covered_share(place > 0, found.embedding))
    one = read(masks=("labels.png",), class_id=7)
    np.testing.assert_allclose(one.share, covered_share(place == 7, found.embedding))


def test_a_mask_with_soft_edges_marks_what_is_more_than_half_covered(read, place):
    half = Image.fromarray((place[::2, ::2] > 0).astype(np.uint8) * 255)
    smooth = np.asarray(half.resize((128, 96), Image.BILINEAR))
    assert ((smooth > 0) & (smooth < 128)).any()
    Image.fromarray(smooth).save("soft.png")
    marked = read(masks=("soft.png",))
    expected = covered_share(smooth >= 128, marked.embedding)
    np.testing.assert_allclose(marked.share, expected)


def test_points_boxes_and_scribbles_are_taken_together(read):
    share = read(
        points=((40, 8),), boxes=((63.5, 63.5, 95.5, 79.5),), scribbles=(((5, 85), (40, 85)),)
    ).share
    expected = np.zeros((6, 8))
    expected[0, 2] = 1  # the point
    expected[4, 4:6] = 1  # the box
    expected[5, :3] = 1  # the scribble
    np.testing.assert_allclose(share, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"masks": ("turned.png",)}, ImageError, "turned.png is 96×128 px, but its image a.png"),
        ({"masks": ("empty.png",)}, PromptError, "empty.png marks nothing: it is empty"),
        ({"masks": ("labels.png",), "class_id": 5}, PromptError, "no pixel of 5: it has 3, 7"),
        ({"masks": ("speck.png",)}, PromptError, "vanishes there: crop the image"),
        ({"points": ((128, 5),)}, PromptError, "of the reference a.png, the point 128,5 lies out"),
        ({"boxes": ((1, 1, 1, 9),)}, PromptError, "has no area"),
        ({"scribbles": (((1, 1), (1, 99)),)}, PromptError, "the point 1,99 lies outside"),
        ({"masks": ("no.png",)}, ImageError, "no.png"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(read, said, error, words):
    with pytest.raises(error) as caught:
        read(**said)
    assert words in str(caught.value)
