"""The sensitivity map: the right colour in the right place."""

import cv2
import numpy as np
import pytest

from samtune.sensitivity import grid_of_clicks
from samtune.sensitivity_map import Panel, colours, draw_sensitivity

SIZE = (60, 100)


@pytest.fixture(scope="module")
def scene():
    mask = np.zeros(SIZE, dtype=bool)
    mask[20:40, 30:70] = True
    return np.full((*SIZE, 3), 128, np.uint8), mask, grid_of_clicks([mask], 200)


def area_of(picture, colour, tolerance=0):
    near = np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance
    return int(near.sum()), np.argwhere(near)


def test_the_scale_goes_from_dark_to_light_without_turning_back():
    scale = colours(np.linspace(0, 1, 50))
    assert scale[0].tolist() == [0x44, 0x01, 0x54]  # viridis, as matplotlib has it
    assert scale[-1].tolist() == [0xFD, 0xE7, 0x25]
    lab = cv2.cvtColor(scale[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    assert (np.diff(lab[0, :, 0]) > 0).all()


def test_each_half_of_an_object_has_the_colour_of_its_own_clicks(scene):
    image, mask, clicks = scene
    scores = np.where(clicks.points[:, 0] < 50, 0.25, 0.75)  # left bad, right good
    picture = draw_sensitivity(image, [mask], clicks, [Panel("a", scores)])
    (left, left_places), (right, right_places) = (
        area_of(picture, colours(np.array(score))) for score in (0.25, 0.75)
    )
    assert left > 4000  # half the object, enlarged; the colour scale has but a line of it
    assert left == pytest.approx(right, rel=0.1)
    assert np.median(left_places[:, 1]) < np.median(right_places[:, 1])
    assert np.median(left_places[:, 0]) == pytest.approx(np.median(right_places[:, 0]), abs=5)


def test_clicks_beside_the_object_are_dots_of_their_own_colour(scene):
    image, mask, clicks = scene
    scores = np.where(clicks.inside, 0.25, 0.75)
    picture = draw_sensitivity(image, [mask], clicks, [Panel("a", scores)])
    dots, places = area_of(picture, colours(np.array(0.75)))
    inside, inner = area_of(picture, colours(np.array(0.25)))
    assert dots > 5 * (~clicks.inside).sum()
    assert inside > dots
    bar = places[:, 1] < inner[:, 1].max() + 60  # not the colour scale at the right
    assert places[bar, 0].min() < np.percentile(inner[:, 0], 1)
    assert places[bar, 0].max() > np.percentile(inner[:, 0], 99)


def test_every_model_has_a_panel_of_its_own_with_its_own_scores(scene):
    image, mask, clicks = scene
    panels = [
        Panel(str(n), np.full(len(clicks.points), score)) for n, score in enumerate((0.1, 0.9))
    ]
    one, both = (draw_sensitivity(image, [mask], clicks, panels[:n]) for n in (1, 2))
    assert both.shape[0] == one.shape[0]
    assert both.shape[1] > one.shape[1] + 300
    centres = [np.median(area_of(both, colours(np.array(s)))[1][:, 1]) for s in (0.1, 0.9)]
    assert centres[0] + 300 < centres[1]


def test_the_numbers_below_are_of_these_scores(scene):
    image, mask, clicks = scene
    same = np.full(len(clicks.points), 0.5)
    other = np.where(clicks.inside, 0.5, 0.500001)  # the same colours, the same text
    first, second, third = (
        draw_sensitivity(image, [mask], clicks, [Panel("a", scores)])
        for scores in (same, other, same + 0.002)  # the same colours nearly, another text
    )
    text = slice(-70, None)
    assert np.array_equal(first[text], second[text])
    assert not np.array_equal(first[text], third[text])


def test_a_long_name_is_shortened_at_its_front(scene):
    image, mask, clicks = scene
    scores = np.full(len(clicks.points), 0.5)
    short, long, other = (
        draw_sensitivity(image, [mask], clicks, [Panel(name, scores)])
        for name in ("a", 200 * "x" + "one.safetensors", 200 * "x" + "two.safetensors")
    )
    assert short.shape == long.shape
    assert not np.array_equal(long, other)
    assert (long[20:40, -60:] == short[20:40, -60:]).all()  # it does not run into the scale


@pytest.mark.parametrize("where", [(0, 0), (58, 98)])
def test_a_speck_in_a_corner_can_be_drawn(where):
    y, x = where
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + 2, x : x + 2] = True
    clicks = grid_of_clicks([mask], 200)
    panel = Panel("a", np.full(len(clicks.points), 0.3))
    picture = draw_sensitivity(np.zeros((*SIZE, 3), np.uint8), [mask], clicks, [panel])
    assert area_of(picture, colours(np.array(0.3)))[0] > 1000
