"""Small parts of an answer: which they are, and when they are left out."""

from dataclasses import replace

import numpy as np
import pytest
from command import photo
from tiny_models import build_adapter

from samtune.adapter import Adapter
from samtune.parity import Question, compare
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.specks import LEAST_PART, least_part, without_specks

FRAME = (24, 32)


def two_parts(small):
    """A part of 100 logits, and one of `small` in a row beside it."""
    logits = np.full((32, 32), -2.0, np.float32)
    logits[2:12, 2:12] = 3
    logits[15, 4 : 4 + small] = 5
    return logits


def test_parts_below_the_share_of_the_largest_become_background():
    cleaned = without_specks(two_parts(4), 0.05, FRAME)
    assert (cleaned[2:12, 2:12] == 3).all()
    assert (cleaned[15, 4:8] == -5).all()
    assert (cleaned > 0).sum() == 100
    assert np.array_equal(without_specks(two_parts(5), 0.05, FRAME), two_parts(5))


def test_parts_that_touch_by_a_corner_are_one():
    logits = two_parts(0)
    logits[12, 12] = 1
    assert np.array_equal(without_specks(logits, 0.05, FRAME), logits)


@pytest.mark.parametrize("click", [(5.5, 15.2), (4.0, 15.9)])
def test_a_clicked_part_stays(click):
    logits = two_parts(4)
    assert np.array_equal(without_specks(logits, 0.05, FRAME, np.array([click])), logits)
    beside = np.array([(20.0, 20.0), (999.0, -3.0)])
    assert (without_specks(logits, 0.05, FRAME, beside) > 0).sum() == 100


def test_what_lies_in_the_padding_is_no_part():
    logits = two_parts(4)
    logits[24:, :] = 7  # 256 logits
    assert (without_specks(logits, 0.05, FRAME)[:24] > 0).sum() == 100
    logits[23, 3] = 1  # what is on the border and beyond it is a speck of one logit
    cleaned = without_specks(logits, 0.05, FRAME)
    assert (cleaned[:24] > 0).sum() == 100
    assert (cleaned[24:, 3] == -7).all()


def test_an_empty_answer_stays_empty():
    logits = np.full((32, 32), -1.0, np.float32)
    assert np.array_equal(without_specks(logits, 0.05, FRAME), logits)


@pytest.mark.parametrize(("dust", "least"), [(0, LEAST_PART), (1, LEAST_PART), (40, 0.0)])
def test_whoever_learns_from_masks_with_specks_keeps_its_own(dust, least):
    masks = [two_parts(4) > 0 if i < dust else two_parts(0) > 0 for i in range(100)]
    masks.append(np.zeros((32, 32), bool))  # too thin to be seen on this grid
    assert least_part(masks) == least


@pytest.fixture
def plain_and_tidy(tiny_sam):
    adapter = build_adapter(tiny_sam)
    return adapter, Adapter(replace(adapter.info, least_part=0.3), adapter.learned)


def flooded(mask):
    """The parts of a mask, each a set of (row, column), by walking from place to place."""
    left, parts = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            edge += around
        parts.append(part)
    return parts


def test_an_adapter_that_leaves_specks_out_answers_with_its_large_and_its_clicked_parts(
    tiny_sam, plain_and_tidy
):
    embedding = tiny_sam.encode_image(photo((90, 120)))  # four pixels of the input are a logit
    dropped = 0
    for x, y in np.random.default_rng(0).uniform((0, 0), (119, 89), (12, 2)).tolist():
        prompt = [Prompt.of(points=[(x, y)])]
        plain, tidy = (
            Predictor(tiny_sam, one).predict(embedding, prompt, all_masks=True)[0]
            for one in plain_and_tidy
        )
        in_image = plain.low_res_logits[:24] > 0  # 96 of 128 rows
        parts = flooded(in_image)
        click = int((y + 0.5) * 128 / 120 / 4), int((x + 0.5) * 128 / 120 / 4)
        largest = max(map(len, parts))
        kept = [part for part in parts if len(part) >= 0.3 * largest or click in part]
        assert set().union(*kept) == set(
            zip(*np.nonzero(tidy.low_res_logits[:24] > 0), strict=True)
        )
        assert not (tidy.mask & ~plain.mask).any()
        assert np.array_equal(tidy.mask, plain.mask) == (len(kept) == len(parts))
        assert np.array_equal(tidy.alternatives, plain.alternatives)
        assert tidy.score == plain.score
        dropped += len(parts) - len(kept)
    assert dropped > 0


def test_export_is_compared_with_every_part_in(tiny_sam, plain_and_tidy, tmp_path):
    pytest.importorskip("onnxruntime")
    from samtune.export import export_onnx

    questions = [Question(photo((90, 120)), Prompt.of(points=[(40, 20)]))]
    _, tidy = plain_and_tidy
    export_onnx(tiny_sam, tidy, "tidy", tmp_path, questions)
    parity = compare(
        tiny_sam, tidy, tmp_path / "encoder.onnx", tmp_path / "decoder.onnx", questions
    )
    assert parity.mask_iou >= 0.999
