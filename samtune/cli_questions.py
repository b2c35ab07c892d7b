"""What `samtune segment` is asked: prompts from its options, or lines of JSON."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from samtune.cli_answers import Question
from samtune.console import parsed
from samtune.errors import PromptError, SamtuneError
from samtune.shards import Shard

if TYPE_CHECKING:
    from samtune.prompts import Prompt
    from samtune.results import Names


def given_prompts(
    points: list[str], negative_points: list[str], boxes: list[str]
) -> list["Prompt"]:
    """The prompts that the options make: one a box, or one of all points."""
    from samtune.prompt_text import parse_box, parse_point
    from samtune.prompts import Prompt

    on_object = parsed("--point", parse_point, points)
    on_background = parsed("--negative-point", parse_point, negative_points)
    corners = parsed("--box", parse_box, boxes)
    if not (on_object or on_background or corners):
        return []
    if not corners:
        return [Prompt.of(on_object, on_background)]
    return [Prompt.of(on_object, on_background, box) for box in corners]


def open_lines(name: str) -> BinaryIO:
    """Open --prompts: bytes, because a line that is no text has to fail alone.

    Raises:
        PromptError: the file cannot be read.
    """
    if name == "-" and sys.stdin is None:
        raise PromptError("there is no stdin to read prompts from: give a file of them.")
    if name == "-":
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise PromptError(
            f"{name} cannot be read ({error.strerror}): give a file of prompts, or - for stdin."
        ) from error


def read_questions(lines: BinaryIO) -> Iterator[Question]:
    """What the lines ask, blank ones left out."""
    from samtune.prompt_text import decode_line, parse_prompt_line, read_lines

    for number, line in enumerate(read_lines(lines), start=1):
        if not line.strip():
            continue
        try:
            asked = parse_prompt_line(decode_line(line))
        except SamtuneError as error:
            yield Question(number, Path(), [], error)
        else:
            yield Question(number, asked.image, [asked.prompt])


def own_questions(
    shard: Shard, names: "Names", questions: Iterable[Question]
) -> Iterator[Question]:
    """The shard's questions; the names of the others' results are left to them.

    No result takes the name of an image that was asked about by then.
    """

    def name(question: Question) -> str | None:
        return question.image.stem if question.error is None else None

    for question, is_own in shard.deal(questions, name):
        if question.error is None:
            names.keep(question.image)
        if is_own:
            yield question
        elif question.error is None:
            names.leave(question.image.stem)
