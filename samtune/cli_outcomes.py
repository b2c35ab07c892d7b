"""What `samtune segment` says of each image or line, wherever it was answered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import typer

from samtune.cli_answers import Answer, Question
from samtune.console import print_json, show_error
from samtune.errors import SamtuneError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from samtune.write_coco import Note


@dataclass(frozen=True)
class Outcome:
    """What came of a question; plain values only.

    Attributes:
        number: the question's.
        told: what --json says, of each mask.
        words: the same as lines for people.
        error: what went wrong; there are no masks then.
        coco: what another process is to note in the COCO file.
    """

    number: int
    told: list[dict[str, Any]]
    words: list[str]
    error: str | None = None
    coco: "Sequence[Note]" = ()

    @classmethod
    def of(
        cls, question: Question, found: "Future[list[Answer]]", *, name_adapter: bool = False
    ) -> Self:
        """Wait for a question's answers, and put them into words."""
        try:
            answers = found.result()
        except SamtuneError as error:
            return cls(question.number, [], [], str(error))
        words = [answer.in_words(name_adapter) for answer in answers]
        if answers[0].overlay is not None:
            words.append(str(answers[0].overlay))
        return cls(question.number, [answer.as_json() for answer in answers], words)


def say_images(outcomes: Iterable[Outcome], as_json: bool) -> tuple[int, int]:
    """Print what came of images; returns how many failed, of how many."""
    failed = all_of = 0
    for outcome in outcomes:
        all_of += 1
        if outcome.error is not None:
            show_error(SamtuneError(outcome.error))
            failed += 1
        elif as_json:
            for one in outcome.told:
                print_json(one)
        else:
            for line in outcome.words:
                typer.echo(line)
    return failed, all_of


def say_lines(outcomes: Iterable[Outcome]) -> tuple[int, int]:
    """Print what came of prompt lines, in JSON; returns how many failed, of how many."""
    failed = all_of = 0
    for outcome in outcomes:
        all_of += 1
        if outcome.error is not None:
            failed += 1
            print_json({"error": outcome.error, "line": outcome.number})
        for one in outcome.told:
            print_json({**one, "line": outcome.number})
    return failed, all_of
