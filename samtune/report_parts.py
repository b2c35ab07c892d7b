"""Pieces of the report's page: its style, tables, the chart, and how numbers are written."""

from collections.abc import Iterable
from html import escape
from typing import Any

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), grey for plain SAM.
_COLOURS = ("#8a8f98", "#e69f00", "#2f8fd0", "#cc79a7", "#009e73", "#d55e00")
STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --paper: #fff; --soft: #5c636e; --line: #d9dde3;
  --card: #f4f6f8; --good: #0a7d4f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --soft: #a2a9b4;
  --line: #353a42; --card: #1e2228; --good: #4cc38a; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; padding: 1rem 1.5rem 4rem; max-width: 66rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p, li { max-width: 48rem; } .soft, figcaption, th { color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0; }
.card { background: var(--card); border-radius: .6rem; padding: .8rem 1.2rem; flex: 1 1 18rem; }
.card strong { display: block; font-size: 1.6rem; } .better { color: var(--good); }
.worse, .warning { color: var(--bad); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { font-weight: 500; }
table small { color: var(--soft); display: block; }
th:first-child, td:first-child, .text td { text-align: left; }
td { white-space: nowrap; }
.text td:last-child { white-space: normal; overflow-wrap: anywhere; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
svg { width: 100%; max-width: 38rem; }
code { overflow-wrap: anywhere; }
svg text { fill: var(--ink); font-size: 13px; paint-order: stroke; stroke: var(--paper);
  stroke-width: 4px; } svg .soft { fill: var(--soft); }
svg .grid { stroke: var(--line); }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: start; }
.object { display: flex; gap: .4rem; margin: 0; flex-wrap: wrap; }
.object > figcaption { flex-basis: 100%; overflow-wrap: anywhere; font-size: .85rem; width: 0; }
.object div { font-size: .85rem; } .object img { display: block; border-radius: .3rem; }
.object .soft { display: block; }
.map { margin: 1rem 0 2rem; } .map img { max-width: 100%; border-radius: .4rem; background: #fff; }
.map small { display: block; }
details { margin: .8rem 0; } summary { cursor: pointer; }
"""


def chart(numbers: dict[str, Any]) -> str:
    """Draw a dot with its interval for each kind of prompt and each source, as SVG."""
    left, width, row, gap = 10, 390, 20, 14  # narrow: a phone shows it at a legible size
    y = 20
    marks = []
    for kind, about in numbers["prompts"].items():
        y += 18
        marks.append(f'<text x="{left}" y="{y}">{escape(about["name"])}</text>')
        y += row
        for source in numbers["sources"]:
            found = source["prompts"][kind]
            if found["objects"]:
                marks.append(_whisker(found, colour_of(numbers, source), left, width, y))
            y += row
        y += gap
    grid = "".join(
        f'<line class="grid" x1="{left + width * tick / 100:g}" x2="{left + width * tick / 100:g}" '
        f'y1="20" y2="{y - gap - 6}"/><text class="soft" text-anchor="middle" y="13" '
        f'x="{left + width * tick / 100:g}">{tick}</text>'
        for tick in range(0, 101, 20)
    )
    frame = f"0 0 {left + width + 60} {y - gap}"
    return (
        '<div class="wide"><svg role="img" aria-label="IoU by the kind of prompt" '
        f'viewBox="{frame}">{grid}{"".join(marks)}</svg></div>'
    )


def _whisker(found: dict[str, Any], colour: str, left: int, width: int, y: int) -> str:
    x = left + width * found["iou"]
    low, high = found["interval"] or (found["iou"], found["iou"])
    return (
        f'<line x1="{left + width * low:.1f}" x2="{left + width * high:.1f}" y1="{y}" y2="{y}" '
        f'stroke="{colour}" stroke-width="4" opacity=".55"/>'
        f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{colour}"/>'
        f'<text x="{left + width + 18}" y="{y + 4}">{100 * found["iou"]:.1f}</text>'
    )


def name_of(numbers: dict[str, Any], source: dict[str, Any]) -> str:
    """A source's name behind a dot of its colour."""
    dot = f'<span class="dot" style="background:{colour_of(numbers, source)}"></span>'
    return f"{dot}{escape(source['name'])}"


def colour_of(numbers: dict[str, Any], source: dict[str, Any]) -> str:
    """A source's colour: the same wherever it occurs, also where SAM-F is missing."""
    position = numbers["sources"].index(source)
    return _COLOURS[(position + (position > 0 and not numbers["sam_f_weights"])) % len(_COLOURS)]


def adapters_in(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the sources that were learned beforehand, and so get a verdict."""
    return [source for source in numbers["sources"] if source["verdict"] is not None]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def interval(ends: tuple[float, float] | None, *, signed: bool = False) -> str:
    """The ends of an interval in percent; empty where there is none."""
    if ends is None:
        return ""
    low, high = (f"{100 * end:+.1f}" if signed else f"{100 * end:.1f}" for end in ends)
    return f"{low} to {high}"


def small(text: str) -> str:
    """A second line in a cell."""
    return f"<small>{text}</small>" if text else ""
