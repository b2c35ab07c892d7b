"""Views show the same thing in the photo and in its mask."""

import numpy as np
import pytest
from PIL import Image

from samtune.masks import DatasetObject
from samtune.metrics import iou
from samtune.views import ZOOM, Shot, View, draw_views, seen_through

SIZE = (60, 90)


@pytest.fixture
def mask():
    """An object that is neither symmetric nor in the middle."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:30, 20:50] = True
    mask[30:40, 20:28] = True
    return mask


@pytest.fixture
def draw(mask):
    """A view of that object for each seed."""
    box = DatasetObject.of(mask).box
    return lambda seed: View.draw(SIZE, box, np.random.default_rng(seed))


def painted(mask):
    """A photo in which the object is bright and all else dark."""
    return np.where(mask[..., None], np.uint8(200), np.uint8(20)).repeat(3, axis=2)


@pytest.mark.parametrize("seed", range(20))
def test_the_mask_lies_on_the_object_in_the_image(draw, mask, seed):
    view = draw(seed)
    image, seen = view.image(painted(mask)), view.mask(mask)
    assert image.shape == (*view.size, 3)
    bright = (image / view.gain).mean(axis=2)
    # Beyond the photo is SAM's mean colour, darker than the object and brighter than the rest.
    assert iou(bright > 160, seen) > 0.9


@pytest.mark.parametrize("seed", range(20))
def test_most_of_the_object_stays_and_the_window_has_a_sensible_size(draw, mask, seed):
    view = draw(seed)
    assert view.mask(mask).sum() >= 0.7 * mask.sum()
    for length, whole in zip(view.size, SIZE, strict=True):
        assert ZOOM[0] * whole - 1 <= length <= ZOOM[1] * whole + 1


def test_views_differ_and_the_same_seed_draws_the_same(draw):
    assert draw(1).size != draw(2).size
    again = draw(1)
    assert again.size == draw(1).size
    assert np.array_equal(again.to_image, draw(1).to_image)
    assert np.array_equal(again.gain, draw(1).gain)


def test_some_views_are_mirrored_and_some_are_not(draw):
    turns = [np.linalg.det(draw(seed).to_image[:, :2]) for seed in range(20)]
    assert {round(turn) for turn in turns} == {-1, 1}


def test_an_object_that_fills_its_image_can_be_seen():
    whole = DatasetObject.of(np.ones(SIZE, dtype=bool))
    view = View.draw(SIZE, whole.box, np.random.default_rng(0))
    assert view.mask(whole.mask()).mean() > 0.5


def test_an_object_out_of_the_window_is_not_seen(mask):
    away = View((30, 30), np.array([[1.0, 0.0, 60.0], [0.0, 1.0, 30.0]]), np.ones(3))
    assert seen_through(away, DatasetObject.of(mask), 7) is None
    here = View((30, 40), np.array([[1.0, 0.0, 15.0], [0.0, 1.0, 10.0]]), np.ones(3))
    seen = seen_through(here, DatasetObject.of(mask, label=5), 7)
    assert (seen.image_index, seen.label, seen.size) == (7, 5, (30, 40))
    assert np.array_equal(seen.mask(), mask[10:40, 15:55])


def test_views_are_spread_evenly_over_the_images(mask):
    objects = [DatasetObject.of(mask, image) for image in (0, 0, 0, 1, 2)]
    indices = [index for index, _ in draw_views(objects, 7, np.random.default_rng(0))]
    assert len(indices) == 7
    assert sorted(indices.count(image) for image in (0, 1, 2)) == [2, 2, 3]
    assert draw_views(objects, 0, np.random.default_rng(0)) == []


def test_a_shot_reads_the_file_as_it_is_or_through_its_view(tmp_path, draw, mask):
    Image.fromarray(painted(mask)).save(tmp_path / "a.png")
    view = draw(3)
    assert np.array_equal(Shot(tmp_path / "a.png").read(), painted(mask))
    assert np.array_equal(Shot(tmp_path / "a.png", view).read(), view.image(painted(mask)))
