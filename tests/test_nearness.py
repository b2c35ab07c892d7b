"""Answers that are not where they were asked for, and who answers then."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from command import photo
from tiny_models import build_adapter

from samtune.adapter import Adapter
from samtune.nearness import REACH, is_far
from samtune.polygons import polygons_to_mask
from samtune.predictor import Predictor
from samtune.presence import PresenceHead
from samtune.prompts import Prompt

SIZE = (90, 120)  # of the photo: 24 of the 32 rows of logits, four pixels of the input each


def test_far_is_farther_from_all_of_the_mask_than_a_cell():
    rng = np.random.default_rng(0)
    told = []
    for _ in range(200):
        mask = rng.random((20, 30)) > 0.99
        click = rng.integers((30, 20))
        beside = (~mask).astype(np.uint8)
        to_mask = cv2.distanceTransform(beside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        expected = mask.any() and to_mask[click[1], click[0]] > REACH
        told.append(is_far(mask, click[None] + 0.5))
        assert told[-1] == expected
    assert 20 < sum(told) < 180


def test_one_click_of_several_that_is_near_is_enough():
    mask = np.zeros((20, 30), bool)
    mask[5, 5] = True
    far, near = (25.5, 5.5), (9.5, 5.5)
    assert is_far(mask, np.array([far]))
    assert is_far(mask, np.array([far, far]))
    assert not is_far(mask, np.array([near]))
    assert not is_far(mask, np.array([far, near]))


def test_an_answer_of_nothing_is_no_answer_from_elsewhere():
    assert not is_far(np.zeros((20, 30), bool), np.array([(3.5, 3.5)]))


@pytest.fixture
def heedless(tiny_sam):
    """An adapter that returns one part alone, wherever it is."""
    adapter = build_adapter(tiny_sam, seed=3)
    adapter.learned.presence = PresenceHead()
    return Adapter(replace(adapter.info, least_part=1.0), adapter.learned)


def distance(answer, x, y):
    """From the click to the mask, in logits."""
    mask = answer.low_res_logits[:24] > 0
    click = (np.array([y, x]) + 0.5) * 32 / 120
    return np.hypot(*(np.argwhere(mask) + 0.5 - click).T).min()


def test_plain_sam_answers_where_the_adapters_answer_is_far_from_the_click(tiny_sam, heedless):
    heeding = Adapter(replace(heedless.info, heeds_clicks=True), heedless.learned)
    embedding = tiny_sam.encode_image(photo(SIZE))
    places = [(x, y) for x in range(2, 120, 6) for y in range(2, 90, 6)]
    prompts = [Prompt.of([place]) for place in places]
    before, after, plain = (
        Predictor(tiny_sam, one).predict(embedding, prompts, all_masks=True)
        for one in (heedless, heeding, None)
    )
    assert 2 <= sum(answer.fallback for answer in after) < len(places) / 2
    for place, own, answer, sams in zip(places, before, after, plain, strict=True):
        assert answer.fallback == (distance(own, *place) > REACH)
        assert not own.fallback
        expected = sams if answer.fallback else own
        assert np.array_equal(answer.mask, expected.mask)
        assert np.array_equal(answer.alternatives, expected.alternatives)
        assert answer.score == pytest.approx(expected.score, abs=1e-6)
        assert answer.presence == own.presence  # still whether it is on what the adapter knows


def test_plain_sams_answer_is_what_is_refined(tiny_sam, heedless):
    heeding = Adapter(replace(heedless.info, heeds_clicks=True), heedless.learned)
    embedding = tiny_sam.encode_image(photo(SIZE))
    prompts = [Prompt.of([(x, y)]) for x in range(2, 120, 6) for y in range(2, 90, 6)]
    predictor = Predictor(tiny_sam, heeding)
    answers = predictor.predict(embedding, prompts)
    far = [one for one, answer in zip(prompts, answers, strict=True) if answer.fallback]
    assert far
    plain = Predictor(tiny_sam).predict(embedding, far)
    refined = predictor.predict(embedding, far, refine=True)
    for answer, sams in zip(refined, plain, strict=True):
        contours = predictor.refine_mask(embedding, sams.mask)
        assert np.array_equal(answer.refined, polygons_to_mask(contours, SIZE))


def test_a_box_says_itself_where_the_mask_is_to_be(tiny_sam, heedless):
    heeding = Adapter(replace(heedless.info, heeds_clicks=True), heedless.learned)
    embedding = tiny_sam.encode_image(photo(SIZE))
    prompts = [Prompt.of([(x, y)], box=(0, 0, 119, 89)) for x in range(2, 120, 9) for y in (2, 80)]
    for answer in Predictor(tiny_sam, heeding).predict(embedding, prompts):
        assert not answer.fallback


def test_an_exported_adapter_is_compared_without_plain_sams_answers(heedless):
    heeding = Adapter(replace(heedless.info, heeds_clicks=True), heedless.learned)
    as_exported = heeding.as_exported().info
    assert (as_exported.heeds_clicks, as_exported.least_part) == (False, 0.0)
