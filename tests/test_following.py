"""Following: the same object in the next frame, in its place of the list, lost and seen again."""

import numpy as np
import pytest
from looking import Drawn, image_of, square

from samtune.following import Follower
from samtune.input_frame import Embedding
from samtune.predictor import Predictor


@pytest.fixture
def film(tiny_sam):
    """A follower, what shows it the next frame, things with their likeness, and the predictor."""

    def make(max_objects=1):
        predictor = Drawn(tiny_sam, [])
        follower = Follower(predictor, max_objects)

        def show(*things):
            predictor.things, predictor.asked = [mask for mask, _ in things], []
            seen = follower.follow(frame(*things))
            return [one if isinstance(one, str) else one.prediction.mask for one in seen]

        return show, predictor

    return make


def frame(*things):
    """An image in which all cells of each mask are so much like the object."""
    likeness = {}
    for mask, value in things:
        likeness |= {(row, column): value for row, column in np.argwhere(mask[::16, ::16]).tolist()}
    return image_of(likeness)


def places(masks):
    """The first row and column of each mask's cells; None for what is not seen."""
    return [None if isinstance(one, str) else (np.argwhere(one)[0] // 16).tolist() for one in masks]


def test_an_object_is_looked_for_where_it_was_though_another_place_is_likelier(film):
    show, predictor = film()
    assert places(show((square(2, 2, 2, 2), 1.0))) == [[2, 2]]
    assert places(show((square(2, 3, 2, 2), 0.9), (square(6, 6), 1.0))) == [[2, 3]]
    assert predictor.asked == [(2, 3)]


def test_what_has_another_shape_there_is_not_the_object(film):
    show, _ = film()
    show((square(2, 2, 2, 2), 1.0))
    assert places(show((square(0, 0, 8, 5), 0.6), (square(6, 6, 2, 2), 0.9))) == [[6, 6]]


def test_of_the_known_shape_it_may_be_less_like_what_the_adapter_knows(film):
    show, _ = film()
    assert "nothing is like the object" in show((square(2, 2, 2, 2), 0.4))[0]
    show((square(2, 2, 2, 2), 1.0))
    assert places(show((square(2, 2, 2, 2), 0.4))) == [[2, 2]]


def test_an_object_out_of_sight_is_said_to_be_and_found_again_anywhere(film):
    show, _ = film()
    show((square(1, 1), 1.0))
    (gone,) = show()
    assert "nothing is like the object" in gone
    assert places(show((square(6, 3), 0.95))) == [[6, 3]]


def test_each_object_keeps_its_place_in_the_list(film):
    show, _ = film(max_objects=3)
    assert places(show((square(1, 1), 1.0), (square(5, 5), 0.9))) == [[1, 1], [5, 5]]
    assert places(show((square(1, 2), 0.8), (square(5, 6), 1.0))) == [[1, 2], [5, 6]]
    assert places(show((square(5, 6), 1.0))) == [None, [5, 6]]
    all_three = show((square(5, 6), 1.0), (square(1, 1), 0.9), (square(7, 1), 0.8))
    assert places(all_three) == [[1, 1], [5, 6], [7, 1]]


def test_no_more_are_followed_than_asked_for(film):
    show, _ = film(max_objects=1)
    for _ in range(2):
        assert places(show((square(1, 1), 1.0), (square(5, 5), 0.9))) == [[1, 1]]


def test_two_objects_that_meet_are_not_both_the_same(film):
    show, _ = film(max_objects=2)
    show((square(1, 1, 2, 2), 1.0), (square(1, 4, 2, 2), 0.9))
    assert places(show((square(1, 2, 2, 2), 1.0))) == [[1, 2], None]


def test_a_frame_of_another_size_is_searched_anew(tiny_sam):
    follower = Follower(Drawn(tiny_sam, [square(1, 1)[:, :112]]))
    thing = square(1, 1), 1.0
    follower.follow(frame(thing))
    narrower = Embedding(frame(thing).features, (128, 112), (128, 112))
    (seen,) = follower.follow(narrower)
    assert not isinstance(seen, str)


def test_plain_sam_follows_nothing(tiny_sam):
    with pytest.raises(ValueError, match="persam"):
        Follower(Predictor(tiny_sam)).follow(image_of({}))
