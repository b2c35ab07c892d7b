"""Means, intervals and verdicts over many objects."""

import numpy as np
import pytest

from samtune.dataset import Dataset
from samtune.evaluation import AnswerScores, ObjectScores
from samtune.masks import DatasetObject, LabelReading
from samtune.pairs import Pair
from samtune.summaries import Gain, by_size, summarize


def scores(*values, kind="center"):
    return [ObjectScores({kind: (AnswerScores(value),)}) for value in values]


def test_the_gain_is_the_difference_to_plain_sam_object_by_object():
    base, adapted = scores(0.2, 0.4, 0.6), scores(0.5, 0.5, 0.8)
    found = summarize(adapted, base, "center", groups=[0, 1, 2])
    assert found["objects"] == 3
    assert found["iou"] == pytest.approx(0.6)
    assert found["gain"] == pytest.approx(0.2)
    low, high = found["gain_interval"]
    half = 4.303 * 0.1 / 3**0.5  # Student's t of two degrees of freedom, from a table
    assert (0.2 - low, high - 0.2) == pytest.approx((half, half), rel=0.15)


def test_objects_without_a_prompt_of_a_kind_are_left_out():
    # An object that fills its image has no background to click on.
    full = [ObjectScores({"pair": ()}), *scores(0.4, 0.8, kind="pair")]
    found = summarize(full, full, "pair", groups=[0, 1, 2])
    assert found["objects"] == 2
    assert found["iou"] == pytest.approx(0.6)
    assert summarize(full[:1], full[:1], "pair", groups=[0]) == {"objects": 0}


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.1, 0.2, 0.1, 0.2], "better"),
        ([-0.1, -0.2, -0.1, -0.2], "worse"),
        ([0.3, -0.3, 0.2, -0.2], "no clear difference"),
        ([0.9, -0.1, -0.1, -0.1], "no clear difference"),  # better on the mean, by one image
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(gains, expected):
    base = scores(*[0.5] * len(gains))
    adapted = scores(*(0.5 + gain for gain in gains))
    assert Gain.over(base, adapted, groups=range(len(gains))).verdict == expected


def test_one_image_gives_no_verdict_however_many_objects_are_in_it():
    gain = Gain.over(scores(0.1, 0.1), scores(0.9, 0.9), groups=[0, 0])
    assert gain.verdict == "too few images to tell"
    assert gain.mean == pytest.approx(0.8)


def test_sizes_are_those_of_the_frame_that_sam_sees(tmp_path):
    def square(side, image_side):
        mask = np.zeros((image_side, image_side // 2), dtype=bool)
        mask[:side, :side] = True
        return DatasetObject.of(mask)

    # In an image of 512 px each side doubles: 15 px are below 32 there, 16 are not.
    things = [square(15, 512), square(16, 512), square(47, 512), square(48, 512), square(40, 2048)]
    dataset = Dataset(
        folder=tmp_path,
        pairs=(Pair(tmp_path / "a.png", tmp_path / "b.png"),),
        sizes=((512, 256),),
        digests=(("", ""),),
        objects=tuple(things),
        skipped=(),
        reading=LabelReading("mask"),
    )
    found = by_size(dataset, scores(0.1, 0.2, 0.4, 0.8, 0.3), image_size=1024)
    assert found["small"] == {"objects": 2, "iou": pytest.approx(0.2)}
    assert found["medium"] == {"objects": 2, "iou": pytest.approx(0.3)}
    assert found["large"] == {"objects": 1, "iou": pytest.approx(0.8)}
