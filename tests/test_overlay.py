"""Overlays: what is drawn where."""

import numpy as np

from samtune.overlay import (
    AFTER,
    BACKGROUND_POINT,
    BEFORE,
    COLOURS,
    OBJECT_POINT,
    draw_overlay,
)
from samtune.prompts import Prompt


def grey(size=(60, 90)):
    return np.full((*size, 3), 128, dtype=np.uint8)


def square(size=(60, 90), left=30, top=20, side=20):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_mask_tints_its_inside_and_leaves_what_is_far_from_it():
    image = grey()
    drawn = draw_overlay(image, [square()], [])
    inside, outside = drawn[30, 40], drawn[:, :20]
    assert inside[2] > inside[0]  # the first colour is blue
    assert (outside == 128).all()
    assert (drawn[:10] == 128).all()


def test_the_given_image_stays_as_it_was():
    image = grey()
    draw_overlay(image, [square()], [Prompt.of(points=[(40, 30)])])
    assert (image == 128).all()


def test_each_mask_has_a_colour_of_its_own():
    # One more mask than colours: they start again instead of running out.
    masks = [square(left=2 + 12 * n, side=9) for n in range(len(COLOURS) + 1)]
    drawn = draw_overlay(grey(), masks, [])
    centres = [tuple(drawn[24, 6 + 12 * n]) for n in range(len(masks))]
    assert len(set(centres)) == len(COLOURS)
    assert centres[0] == centres[-1]


def test_points_are_marked_at_their_x_and_y_in_the_colour_of_their_label():
    prompt = Prompt.of(points=[(80, 10)], negative_points=[(10, 50)])  # exchanged: off the image
    drawn = draw_overlay(grey(), [], [prompt])
    assert tuple(drawn[10, 80]) == OBJECT_POINT
    assert tuple(drawn[50, 10]) == BACKGROUND_POINT


def test_a_box_is_drawn_through_its_corners():
    drawn = draw_overlay(grey(), [], [Prompt.of(box=(10, 20, 70, 50))])
    for x, y in ((10, 20), (70, 50), (40, 20), (10, 35)):
        assert tuple(drawn[y, x]) == (255, 255, 255)
    assert (drawn[24:46, 14:66] == 128).all()


def test_an_empty_mask_draws_nothing():
    assert (draw_overlay(grey(), [np.zeros((60, 90), dtype=bool)], []) == 128).all()


def test_marks_grow_with_the_image():
    # In a photo of 4000 px a mark of a few pixels could not be found.
    def marked(size):
        prompt = Prompt.of(points=[(size[1] / 2, size[0] / 2)])
        return int((draw_overlay(grey(size), [], [prompt]) != 128).any(axis=2).sum())

    assert marked((1500, 2000)) > 10 * marked((150, 200))


def test_points_that_refining_moved_are_marked_before_and_after():
    before = np.array([[20, 10], [70, 10], [70, 50], [20, 50]], np.float32)
    after = before + np.float32([0, 6])  # exchanged, x and y would be elsewhere
    drawn = draw_overlay(grey(), [], [], [(before, after)])
    for (x, y), (new_x, new_y) in zip(before.astype(int), after.astype(int), strict=True):
        assert tuple(drawn[y, x]) == BEFORE
        assert tuple(drawn[new_y, new_x]) == AFTER
        assert (drawn[y + 3, x] > 200).all()  # the way between them
    assert (drawn[20:40, 30:60] == 128).all()
