"""The curves of a training, as SVG: loss, IoU on the held-out objects, learning rate."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from samtune.report_parts import colour_of
from samtune.words import count, percent

_LEFT, _RIGHT, _TOP, _WIDTH, _HEIGHT = 62, 24, 10, 374, 130  # of the plotted area, pixels
_GIVEN_UP = "#cc79a7"
_SMOOTHED = 30  # the thick line of the loss is a mean over this part of all steps
_ENDED = {
    "finished": "ran to its end",
    "no progress": "ended early, because the last looks brought no progress",
    "time": "ended at its time limit",
}
_NOBODY_LOOKED = (
    "This is the last training, on all images, so that there were none to look at meanwhile: the "
    "scores on this page are those of the trainings before it, which took turns."
)


@dataclass(frozen=True)
class _Line:
    """A line of a chart: (x, y) in the data's units, and how it is drawn."""

    points: Sequence[tuple[float, float]]
    colour: str
    style: str = 'stroke-width="2.5"'


def curves_section(numbers: dict[str, Any]) -> str:
    """How training went; empty where the report is of no `fit`."""
    training = numbers["training"]
    if training is None:
        return ""
    chosen = training["chosen"]
    own, plain = (colour_of(numbers, numbers["sources"][index]) for index in (-1, 0))
    window, end = max(1, len(chosen["seen"]) // _SMOOTHED), chosen["seen"][-1]
    losses = [
        line
        for start, colour in [(s, _GIVEN_UP) for s in training["given_up"]] + [(chosen, own)]
        for line in _loss_lines(start, colour, window)
    ]
    rates = list(zip(chosen["seen"], chosen["learning_rates"], strict=True))
    looked = bool(training["looks"])
    entries = [(own, "adapter")]
    entries += [(_GIVEN_UP, "a start that was given up")] if training["given_up"] else []
    entries += [(plain, "plain SAM")] if looked else []
    return (
        f"<h2>How training went</h2><p>Training {_ENDED[training['stopped']]}: it showed {end:,} "
        "objects, the same ones again and again where there are fewer. "
        f"{_what_is_kept(training) if looked else _NOBODY_LOOKED}</p>"
        f"{_starts(training)}{_legend(entries)}"
        f"<h3>Loss</h3>{_chart('loss', losses, end)}"
        f"{_looks_chart(training, own, plain) if looked else ''}"
        f"<h3>Learning rate</h3>{_chart('learning rate', [_Line(rates, own)], end)}"
        "<ul><li><b>loss</b>: how wrong the masks of training objects are, which training makes "
        f"less. Thin: each step. Thick: mean of {count(window, 'step')}. A loss that falls while "
        "the IoU on held-out objects does not rise is learning by heart.</li>"
        f"{_about_looks(training) if looked else ''}"
        "<li><b>learning rate</b>: how far a step goes.</li></ul>"
    )


def _what_is_kept(training: dict[str, Any]) -> str:
    kept_at, _ = training["looks"][training["kept"]]
    times = count(len(training["looks"]), "look")
    return (
        f"Kept is what had been learned after {kept_at:,}, the best of {times} at held-out "
        "objects. As these very objects chose, their scores on this page flatter a little."
    )


def _looks_chart(training: dict[str, Any], own: str, plain: str) -> str:
    """The IoU at each look, and plain SAM's."""
    end, base = training["chosen"]["seen"][-1], 100 * training["base_iou"]
    looks = [(seen, 100 * iou) for seen, iou in training["looks"]]
    scores = [
        _Line([(0, base), (end, base)], plain, 'stroke-width="2" stroke-dasharray="6 5"'),
        _Line(looks, own),
    ]
    dots = [(seen, iou, index == training["kept"]) for index, (seen, iou) in enumerate(looks)]
    chart = _chart("held-out IoU", scores, end, dots, own)
    return f"<h3>IoU on held-out objects, %</h3>{chart}"


def _about_looks(training: dict[str, Any]) -> str:
    _, kept_iou = training["looks"][training["kept"]]
    return (
        "<li><b>IoU on held-out objects</b>: each look, quick: on a coarse grid, and on up to 100 "
        "of them, or at several clicks on a few, so that it differs from the scores above. The "
        f"large dot ({percent(kept_iou)}) is what was kept.</li>"
    )


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    dots = " &nbsp; ".join(
        f'<span class="dot" style="background:{colour}"></span>{name}' for colour, name in entries
    )
    return f"<p>{dots}</p>"


def _starts(training: dict[str, Any]) -> str:
    """How the start was chosen, where there was a choice."""
    size = f"{training['chosen']['first_offset']:g}"
    if training["tried"]:
        scores = ", ".join(f"{tried:g}: {percent(iou)}" for tried, iou in training["tried"])
        return (
            "<p>With so few masks, training was tried from each start to its end: a first change "
            "of the prompt by so much, or none (0), where only the choice among SAM's masks is "
            f"learned. IoU on held-out objects, in %: {scores}; kept: {size}. While they are few, "
            "that is the mean of several clicks on each.</p>"
        )
    if training["given_up"]:
        tried = ", ".join(f"{start['first_offset']:g}" for start in training["given_up"])
        return (
            "<p>Training was begun with a small and with a large first change of the prompt, and "
            "went on with the start whose loss was lower at the end of the trial (size "
            f"{size}; given up: {tried}).</p>"
        )
    return ""


def _loss_lines(start: dict[str, Any], colour: str, window: int) -> list[_Line]:
    """Every step thin, and thick a mean that moves along."""
    steps = [
        (seen, loss)
        for seen, loss in zip(start["seen"], start["losses"], strict=True)
        if loss is not None
    ]
    means = []
    for end in range(window, len(steps) + 1):
        some = steps[end - window : end]
        middle = (some[0][0] + some[-1][0]) / 2
        means.append((middle, sum(loss for _, loss in some) / window))
    return [_Line(steps, colour, 'stroke-width="1" opacity=".3"'), _Line(means, colour)]


def _chart(
    name: str,
    lines: Iterable[_Line],
    end: float,
    dots: Sequence[tuple[float, float, bool]] = (),
    colour: str = "",
) -> str:
    """Draw lines over the number of objects seen, from 0 to `end`; dots: (x, y, large)."""
    lines = list(lines)
    values = [y for line in lines for _, y in line.points]
    levels = _ticks(min([0, *values]), max([0, *values]))  # from 0: a small change looks small
    low, high = levels[0], levels[-1]
    bottom = _TOP + _HEIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + _WIDTH * x / end, bottom - _HEIGHT * (y - low) / (high - low)

    marks = []
    for level in levels:
        _, y = place(0, level)
        marks.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        marks.append(_text(_LEFT - 10, y + 4, "end", f"{level:g}"))
    for seen in _ticks(0, end):
        if seen <= end:
            marks.append(_text(place(seen, low)[0], bottom + 20, "middle", f"{seen:,g}"))
    marks.append(_text(_LEFT + _WIDTH / 2, bottom + 40, "middle", "objects seen"))
    for line in lines:
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line.points)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" {line.style}/>')
    for x, y, large in dots:
        cx, cy = place(x, y)
        marks.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{7 if large else 3.5}" fill="{colour}"/>'
        )
    frame = f"0 0 {_LEFT + _WIDTH + _RIGHT} {bottom + 48}"
    return (
        f'<div class="wide"><svg role="img" aria-label="{name} over the objects seen in training" '
        f'viewBox="{frame}">{"".join(marks)}</svg></div>'
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="soft" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers, the first at or below `low` and the last at or above `high`."""
    high = high if high > low else low + 1
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]
