"""The curves of a training: the lines lie where the numbers are."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from samtune.curves import Curves, Start
from samtune.report_curves import curves_section
from samtune.report_data import about_training

SEEN = tuple(range(2, 601, 2))
LOSSES = tuple(2 + np.sin(np.arange(300)) - np.arange(300) / 200)
RATES = tuple(1e-3 * np.linspace(1, 0, 300, endpoint=False))
LOOKS = ((200, 0.55), (400, 0.72), (600, 0.70))


def section(**changes):
    """The section of a training, and its numbers."""
    given = {
        "chosen": Start(0.1, SEEN, LOSSES, RATES),
        "given_up": (Start(1.0, SEEN[:50], LOSSES[:50][::-1], RATES[:50]),),
        "looks": LOOKS,
        "base_iou": 0.4,
        "stopped": "finished",
    }
    training = about_training(Curves(**{**given, **changes}))
    names = [("plain SAM", None), ("SAM-F", None), ("a", "better")]
    sources = [{"name": name, "verdict": verdict} for name, verdict in names]
    return curves_section({"training": training, "sources": sources, "sam_f_weights": [[0, 0, 1]]})


def charts(text):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text)]


def scales(chart):
    """From pixels to the data's units, read off the axes' labels as a person does."""
    rows = [float(line.get("y1")) for line in chart.iter("line")]
    texts = [(text.text, text) for text in chart.iter("text")]
    levels = [float(text) for text, mark in texts if mark.get("text-anchor") == "end"]
    ticks = [
        (float(text.replace(",", "")), float(mark.get("x")))
        for text, mark in texts
        if mark.get("text-anchor") == "middle" and text != "objects seen"
    ]
    assert len(rows) == len(levels) >= 3
    y_slope, y_start = np.polyfit(rows, levels, 1)
    x_slope, x_start = np.polyfit(*np.array(ticks).T[::-1], 1)
    return lambda x, y: (x * x_slope + x_start, y * y_slope + y_start)


def points(line, read):
    return np.array([read(*map(float, pair.split(","))) for pair in line.get("points").split()])


def test_every_step_and_look_lies_at_its_numbers():
    loss, iou, rate = charts(section())
    thin_other, thick_other, thin, thick = (
        points(line, scales(loss)) for line in loss.iter("polyline")
    )
    np.testing.assert_allclose(thin, np.transpose([SEEN, LOSSES]), rtol=0, atol=0.6)
    np.testing.assert_allclose(thin[:, 1], LOSSES, atol=0.02)
    np.testing.assert_allclose(thin_other[:, 1], LOSSES[:50][::-1], atol=0.02)
    # The thick lines are means of ten steps, each drawn in the middle of its ten.
    means = np.convolve(LOSSES, np.full(10, 0.1), "valid")
    np.testing.assert_allclose(thick[:, 1], means, atol=0.02)
    np.testing.assert_allclose(thick[:, 0], np.arange(11, 11 + 2 * len(means), 2), atol=0.6)
    assert len(thick_other) == 41

    plain, held_out = (points(line, scales(iou)) for line in iou.iter("polyline"))
    np.testing.assert_allclose(held_out, [(200, 55), (400, 72), (600, 70)], atol=0.6)
    np.testing.assert_allclose(plain[:, 1], 40, atol=0.3)
    (line,) = rate.iter("polyline")
    np.testing.assert_allclose(points(line, scales(rate))[:, 1], RATES, atol=1e-5)


def test_the_kept_look_is_marked_and_named():
    text = section()
    (_, iou, _) = charts(text)
    dots = {float(dot.get("r")): dot for dot in iou.iter("circle")}
    assert len(list(iou.iter("circle"))) == 3
    x, y = scales(iou)(float(dots[7].get("cx")), float(dots[7].get("cy")))
    assert (x, y) == (pytest.approx(400, abs=1), pytest.approx(72, abs=0.3))
    assert "learned after 400, the best of 3 looks" in text


def test_why_training_ended_and_what_was_given_up_are_told():
    assert "(size 0.1; given up: 1)" in section()
    alone = section(given_up=(), stopped="no progress")
    assert "given up" not in alone
    assert "ended early, because the last looks brought no progress" in alone
    assert "at its time limit" in section(stopped="time")


def test_of_few_masks_the_score_of_each_start_is_told():
    text = section(tried=((0.0, 0.312), (0.1, 0.72), (1.0, 0.4)))
    assert "0: 31.2, 0.1: 72.0, 1: 40.0; kept: 0.1" in text
    assert "whose loss was lower" not in text


def test_where_trainings_took_turns_nobody_looked_and_no_held_out_iou_is_drawn():
    text = section(looks=(), base_iou=None, tried=((0.1, 0.7), (1.0, 0.6)))
    assert len(charts(text)) == 2  # loss and learning rate
    assert "took turns" in text
    assert "plain SAM" not in text
    assert "IoU on held-out objects, in %: 0.1: 70.0, 1: 60.0; kept: 0.1." in text
    assert "mean of several clicks" in text


@pytest.mark.parametrize(
    "chosen",
    [
        Start(1.0, (1,), (0.5,), (1e-3,)),  # one step
        Start(1.0, (2, 4), (0.5, 0.5), (0.0, 0.0)),  # nothing changes
        Start(1.0, (2, 4), (float("nan"), float("inf")), (1e-3, 1e-3)),  # it burst
    ],
)
def test_odd_courses_make_charts_too(chosen):
    text = section(chosen=chosen, given_up=(), looks=((4, 0.0),), base_iou=0.0)
    assert len(charts(text)) == 3
    assert "nan" not in text
    assert "inf" not in text


def test_a_report_of_no_fit_has_none():
    assert curves_section({"training": None}) == ""
