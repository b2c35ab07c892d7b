"""Finding: one object after another, none twice, and an end to it."""

import numpy as np
import pytest
import torch
from answers import answer
from looking import NO_LOGITS, SIZE, Drawn, image_of, square

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.finding import find_objects
from samtune.input_frame import Embedding
from samtune.predictor import Prediction, Predictor
from samtune.reference_prompting import ReferencePrompting
from samtune.upscaling import upscale_masks
from samtune.vrp import VisualReferencePrompts


@pytest.fixture
def looking(tiny_sam):
    """A predictor for likenesses given as {(row, column): value}, and the image."""

    def make(likeness, things):
        return Drawn(tiny_sam, things), image_of(likeness)

    return make


def masks(finding):
    return [one.prediction.mask for one in finding.objects]


def test_the_most_similar_object_is_found_first_and_alone_by_default(looking):
    one, two = square(1, 1), square(5, 5)
    predictor, image = looking({(1, 1): 0.95, (5, 5): 1.0}, [one, two])
    found = find_objects(predictor, image)
    assert len(found.objects) == 1
    assert np.array_equal(masks(found)[0], two)
    assert found.objects[0].prompt.points.tolist() == [[87.5, 87.5]]
    assert not found.reason


def test_several_are_found_once_each_and_then_it_ends(looking):
    things = [square(1, 1, 2, 2), square(5, 5), square(3, 6, 1, 2)]
    likeness = {(1, 1): 0.99, (1, 2): 0.98, (2, 1): 0.97, (2, 2): 1.0, (5, 5): 0.96}
    predictor, image = looking({**likeness, (3, 6): 0.95, (3, 7): 0.94}, things)
    found = find_objects(predictor, image, max_objects=10)
    assert len(found.objects) == 3
    assert all(any(np.array_equal(mask, thing) for mask in masks(found)) for thing in things)
    assert len(predictor.asked) == 3 + 3  # three more tries find nothing


def test_an_answer_that_is_known_already_is_no_second_object(looking):
    thing = square(2, 2, 3, 3)
    almost = thing.copy()
    almost[2 * 16 : 2 * 16 + 20] = False  # the rest agrees with it by 0.58
    likeness = {(row, column): 0.9 for row in (2, 3, 4) for column in (2, 3, 4)}
    predictor, image = looking({**likeness, (4, 4): 1.0, (2, 2): 0.99}, [almost, thing])
    # The cell (2, 2) stays open after `almost`, and is then answered with the whole thing.
    found = find_objects(predictor, image, max_objects=5)
    assert [(4, 4), (2, 2)] == predictor.asked[:2]
    assert len(found.objects) == 1


def test_a_part_of_what_is_known_and_what_is_in_its_hole_are_no_second_object(looking):
    ring = square(1, 1, 4, 4) & ~square(2, 2, 2, 2)
    whole = square(1, 1, 6, 6)
    likeness = {(row, column): 0.9 for row in range(1, 7) for column in range(1, 7)}
    # First the ring; its hole is left out; then beside it the whole that the ring is a part of.
    answers = [ring, square(2, 2), whole]
    predictor, image = looking({**likeness, (1, 1): 1.0, (2, 2): 0.99, (6, 6): 0.98}, answers)
    found = find_objects(predictor, image, max_objects=5)
    assert predictor.asked[:2] == [(1, 1), (6, 6)]
    assert len(found.objects) == 1
    assert np.array_equal(masks(found)[0], ring)


def test_where_nothing_is_alike_nothing_is_found_and_it_says_so(looking):
    predictor, image = looking({(4, 4): 0.2}, [])
    found = find_objects(predictor, image, max_objects=5)
    assert not found.objects
    assert "nothing is like the object" in found.reason
    assert f"{found.best_rejected:.2f}" in found.reason
    assert found.best_rejected < 0.5


def test_presence_is_the_score_of_what_is_found(looking):
    predictor, image = looking({(4, 4): 1.0}, [square(4, 4)])
    (found,) = find_objects(predictor, image).objects
    search = predictor.adapter.learned.search(image)
    assert found.prediction.score == search.presence(answer(square(4, 4))) != 0.9


def test_plain_sam_and_adapters_that_need_prompts_find_nothing_by_themselves(looking, tiny_sam):
    _, image = looking({}, [])
    with pytest.raises(ValueError, match="persam"):
        find_objects(Predictor(tiny_sam), image)


class AllAtOnce(Predictor):
    """Answers with one mask of two parts, on the grid of 32×32 logits."""

    def predict(self, embedding, prompts, *, all_masks=False, refine=False):
        (prompt,) = prompts
        assert prompt.everything
        logits = np.full((32, 32), -4.0, np.float32)
        logits[4:8, 4:12] = logits[20:28, 16:28] = 4
        mask = upscale_masks(torch.from_numpy(logits)[None, None], 128, SIZE, SIZE)[0, 0]
        return [Prediction(mask, 0.9, logits, NO_LOGITS, NO_LOGITS, NO_LOGITS)]


@pytest.fixture
def all_at_once(tiny_sam):
    """A predictor whose likeness is 1 in some cells and 0 elsewhere."""

    def make(*places):
        cells = np.zeros((256, 8, 8), np.float32)
        cells[1] = 1.0
        for row, column in places:
            cells[:2, row, column] = 1.0, 0.0
        learned = ReferencePrompting(VisualReferencePrompts(queries=1), own=True)
        learned.references.directions[:, 0] = 1.0
        adapter = Adapter(AdapterInfo("vrp", Base.of(tiny_sam, "tiny")), learned)
        return AllAtOnce(tiny_sam, adapter), Embedding(torch.from_numpy(cells), SIZE, SIZE)

    return make


UPPER = [(1, column) for column in (1, 2)]
LOWER = [(row, column) for row in (5, 6) for column in (4, 5, 6)]


def test_an_answer_with_everything_is_one_object_unless_several_are_asked_for(all_at_once):
    looking = all_at_once(*UPPER, *LOWER)
    (both,) = find_objects(*looking).objects
    assert both.prompt.everything
    assert both.prediction.score > 0.7
    lower, upper = masks(find_objects(*looking, max_objects=5))  # the larger one first
    assert (lower | upper == both.prediction.mask).all()
    assert lower[80:112, 64:112].mean() > 0.9
    assert upper[16:32, 16:48].mean() > 0.9
    # With one place left beside a known one, the union of both would be known, too.
    (other,) = masks(find_objects(*looking, max_objects=1, known=[lower]))
    assert (other == upper).all()


def test_parts_that_are_not_like_the_reference_are_no_objects(all_at_once):
    (upper,) = masks(find_objects(*all_at_once(*UPPER), max_objects=5))
    assert upper[16:32, 16:48].mean() > 0.9
    assert not upper[64:].any()
    nothing = find_objects(*all_at_once(), max_objects=5)
    assert nothing.objects == ()
    assert "nothing is like the object: presence 0." in nothing.reason
