"""The location prior: where to look, and what is left out afterwards."""

import numpy as np
import torch
from answers import answer

from samtune.input_frame import Embedding
from samtune.location_prior import LocationPrior

SIZE = (96, 128)  # 6 of 8 rows of cells, 16 px each
IMAGE = Embedding(torch.zeros(256, 8, 8), SIZE, SIZE)


def search(negative=True, familiar=None, **values):
    """Likeness 0, but for cells given as r1c2=0.5; familiarity the same, or one number."""
    likeness = np.zeros((6, 8), np.float32)
    for place, value in values.items():
        likeness[int(place[1]), int(place[3])] = value
    known = likeness if familiar is None else np.full_like(likeness, familiar)
    return LocationPrior(likeness, known, IMAGE, negative=negative)


def covering(*cells):
    mask = np.zeros(SIZE, dtype=bool)
    for row, column in cells:
        mask[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = True
    return mask


def test_it_points_at_the_most_and_the_least_similar_place():
    prompt = search(r1c2=0.9, r5c7=-0.5).propose()
    assert prompt.points.tolist() == [[39.5, 23.5], [119.5, 87.5]]
    assert prompt.labels.tolist() == [1, 0]


def test_the_negative_point_can_be_left_out():
    prompt = search(negative=False, r1c2=0.9, r5c7=-0.5).propose()
    assert prompt.points.tolist() == [[39.5, 23.5]]


def test_the_next_place_is_outside_of_what_was_answered():
    looking = search(r1c2=0.9, r1c3=0.8, r4c6=0.7)
    looking.propose()
    looking.suppress(covering((1, 2), (1, 3)), accepted=False)
    assert looking.propose().points[0].tolist() == [103.5, 71.5]


def test_a_place_is_not_proposed_twice_although_the_answer_leaves_it_out():
    looking = search(r1c2=0.9, r4c6=0.7)
    looking.propose()
    looking.suppress(np.zeros(SIZE, dtype=bool), accepted=False)
    assert looking.propose().points[0].tolist() == [103.5, 71.5]


def test_it_ends_when_everything_is_known():
    looking = search(r1c2=0.9)
    looking.suppress(np.ones(SIZE, dtype=bool), accepted=False)
    assert looking.propose() is None


def test_presence_grows_with_the_likeness_of_what_the_mask_covers():
    looking = search(r1c2=1.0, r1c3=1.0, r4c6=0.3)
    there, half, weak, none = (
        looking.presence(answer(mask))
        for mask in (
            covering((1, 2), (1, 3)),
            covering((1, 2), (0, 0)),
            covering((4, 6)),
            covering((5, 5)),
        )
    )
    assert 1 > there > half > weak > none > 0
    assert there > 0.5 > weak


def test_an_empty_mask_is_nothing():
    assert search(r1c2=1.0).presence(answer(np.zeros(SIZE, dtype=bool))) == 0


def test_what_stands_out_but_is_not_the_object_is_not_accepted():
    mask = covering((1, 2))
    assert search(r1c2=1.0).presence(answer(mask)) > 0.5
    assert search(r1c2=1.0, familiar=0.1).presence(answer(mask)) < 0.5
    assert search(r1c2=1.0, familiar=-1e6).presence(answer(mask)) < 1e-6
