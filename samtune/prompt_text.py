"""Prompts as text: points and boxes from the shell, lines of JSON from a file or a program."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from samtune.errors import PromptError
from samtune.prompts import Box, Prompt

_LINE_EXAMPLE = '{"image": "a.jpg", "points": [[120, 340]], "labels": [1]}'
_LINE_KEYS = ("image", "points", "labels", "box")
LONGEST_LINE = 2**20  # bytes; a thousand points take a tenth of it
_LARGEST = 2.0**31  # pixels; float32 could not hold every number that Python can


@dataclass(frozen=True, eq=False)
class PromptLine:
    """One line of a prompts file: an image, and which object in it."""

    image: Path
    prompt: Prompt


def parse_point(text: str) -> tuple[float, float]:
    """Read a point from the shell.

    Raises:
        PromptError: not two finite numbers.

    Example:
        >>> parse_point("120,340")
        (120.0, 340.0)
    """
    x, y = _numbers(text, "a point is two numbers x,y in pixels, for example 120,340", 2)
    return x, y


def parse_box(text: str) -> Box:
    """Read a box from the shell.

    Raises:
        PromptError: not four finite numbers. Whether they span an area, Prompt checks.

    Example:
        >>> parse_box("10,20,110,95.5")
        (10.0, 20.0, 110.0, 95.5)
    """
    x0, y0, x1, y1 = _numbers(
        text, "a box is four numbers x0,y0,x1,y1 in pixels, for example 10,20,110,95", 4
    )
    return x0, y0, x1, y1


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream as they come; of one that is too long only its beginning.

    Bytes, because a line that is no text has to fail alone.
    """
    while line := stream.readline(LONGEST_LINE + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST_LINE + 1)
        yield line


def decode_line(line: bytes) -> str:
    """The text of a line of prompts.

    Raises:
        PromptError: it is not UTF-8, or longer than LONGEST_LINE.
    """
    if len(line) > LONGEST_LINE:
        raise PromptError(f"longer than {LONGEST_LINE:,} bytes: expected {_LINE_EXAMPLE}.")
    try:
        return line.decode("utf-8-sig")  # some editors put a mark before the first line
    except UnicodeDecodeError as error:
        raise PromptError(f"not text in UTF-8 ({error}): save the prompts as UTF-8.") from error


def parse_scribble(text: str) -> tuple[tuple[float, float], ...]:
    """Read a line through several points from the shell.

    Raises:
        PromptError: not two points or more, with spaces between them.

    Example:
        >>> parse_scribble("120,340 160,352.5")
        ((120.0, 340.0), (160.0, 352.5))
    """
    points = tuple(parse_point(part) for part in text.split())
    if len(points) < 2:
        raise PromptError(
            f"a scribble is two points or more, for example '120,340 160,352', not {text!r}."
        )
    return points


def parse_prompt_line(text: str) -> PromptLine:
    """Read one line of a prompts file.

    Args:
        text: a JSON object with the keys image, points, labels (1 for each point when left
            out) and box; points or box may be left out.

    Raises:
        PromptError: says what is wrong with the line and what one looks like.

    Example:
        >>> parse_prompt_line('{"image": "a.jpg", "box": [10, 20, 110, 95]}').image.name
        'a.jpg'
    """
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"not a line of JSON ({error}): expected {_LINE_EXAMPLE}.") from error
    if not isinstance(line, dict):
        raise PromptError(f"not a JSON object: expected {_LINE_EXAMPLE}.")
    unknown = [key for key in line if key not in _LINE_KEYS]
    if unknown:
        raise PromptError(f"unknown key {unknown[0]!r}: a line has {', '.join(_LINE_KEYS)}.")
    image = line.get("image")
    if not isinstance(image, str) or not image:
        raise PromptError(f'"image" does not name a file: expected {_LINE_EXAMPLE}.')
    points = []
    if line.get("points") is not None:
        expected = '"points" is a list of [x, y]'
        points = [_json_numbers(p, expected, 2) for p in _json_list(line["points"], expected)]
    given_labels = line.get("labels")
    labels = [1] * len(points) if given_labels is None else given_labels
    labels = _json_list(labels, '"labels" is a list of 1 and 0')
    if any(type(label) is not int or label not in (0, 1) for label in labels):
        raise PromptError(f'"labels" is a list of 1 and 0, one a point, not {labels!r:.80}.')
    box = line.get("box")
    return PromptLine(
        image=Path(image),
        prompt=Prompt(
            points=np.array(points, dtype=np.float32).reshape(-1, 2),
            labels=np.array(labels, dtype=np.int64),
            box=None
            if box is None
            else np.array(_json_numbers(box, '"box" is [x0, y0, x1, y1]', 4), dtype=np.float32),
        ),
    )


def format_prompt_line(image: Path, prompt: Prompt) -> str:
    """Write one line of a prompts file, which `parse_prompt_line` reads.

    Example:
        >>> format_prompt_line(Path("a.jpg"), Prompt.of(points=[(120, 340.5)]))
        '{"image": "a.jpg", "points": [[120, 340.5]], "labels": [1]}'
    """
    line: dict[str, Any] = {"image": str(image)}
    if len(prompt.points):
        line["points"] = [_plain(point) for point in prompt.points.tolist()]
        line["labels"] = prompt.labels.tolist()
    if prompt.box is not None:
        line["box"] = _plain(prompt.box.tolist())
    return json.dumps(line)


def _plain(numbers: list[float]) -> list[float]:
    """Whole numbers without a decimal point."""
    return [int(number) if number.is_integer() else number for number in numbers]


def _numbers(text: str, expected: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(abs(n) < _LARGEST for n in numbers):
        raise PromptError(f"{expected}, not {text!r}.")
    return numbers


def _json_list(value: Any, expected: str) -> list[Any]:
    if not isinstance(value, list):
        raise PromptError(f"{expected}, not {value!r:.80}.")
    return value


def _json_numbers(value: Any, expected: str, count: int) -> list[float]:
    numbers = _json_list(value, expected)
    # bool is an int to Python, and NaN and 1e999 are numbers to its JSON reader.
    if len(numbers) != count or not all(
        type(number) in (int, float) and abs(number) < _LARGEST for number in numbers
    ):
        raise PromptError(f"{expected}, not {value!r:.80}.")
    return numbers
