"""What the commands share: their common options, how they speak, how they fail.

Messages and progress go to stderr, results to stdout; with --json stdout holds one JSON object
a line and nothing else. Nothing here imports torch, numpy or rich before a command needs it.
"""

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import typer
from typer.core import TyperGroup

from samtune.errors import PromptError, SamtuneError
from samtune.processes import started
from samtune.words import duration

if TYPE_CHECKING:
    from rich.progress import TaskID

DEFAULT_CHECKPOINT = "mobile_sam"
Parsed = TypeVar("Parsed")
_LINE_EVERY = 20.0  # seconds between lines of progress where there is no terminal

CheckpointOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        envvar="SAMTUNE_CHECKPOINT",
        help="Pretrained SAM: mobile_sam, vit_b, vit_l, vit_h, or a file. Fetched when missing.",
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(help="Where to compute; auto is a CUDA GPU if there is one, or the CPU."),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no messages, except errors.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object a line, and nothing else.")
]
ClassOption = Annotated[
    str | None,
    typer.Option(
        "--class",
        metavar="ID|NAME",
        help="The target: a mask value (mask values are class ids), or a category of COCO, YOLO "
        "or LabelMe.",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Where the images are that COCO or LabelMe files name, if not beside them.",
    ),
]
ObjectsOption = Annotated[
    Literal["mask", "components", "instances"] | None,
    typer.Option(
        help="What is one object: the whole mask, every connected part, every mask value or "
        "annotation. Told from the data when left out."
    ),
]


def fall_silent() -> None:
    """Leave speaking to the first, in a process that torchrun started beside it.

    Wrong usage or unreadable data would be told by each of them.
    """
    if not started().is_first:
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end a command as an interruption does: what is done is kept.

    Batch systems send them when time is up. A second one ends it at once.
    """

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not nohup's
            signal.signal(number, end)


def speak_of_errors() -> None:
    """From here on a process may fail alone, and has to say why."""
    if not started().is_first and sys.__stderr__ is not None:
        sys.stderr = sys.__stderr__


class Group(TyperGroup):
    """Turns a SamtuneError into one line on stderr and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SamtuneError as error:
            show_error(error)
            raise typer.Exit(1) from error
        except OSError as error:
            show_error(SamtuneError(_told(error)))
            raise typer.Exit(1) from error


def _told(error: OSError) -> str:
    """In words what a system refused, where that is no bug; raises it otherwise."""
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{error.filename} is no file ({error.strerror}): check it."
    if error.errno in (errno.EACCES, errno.EPERM) and error.filename is not None:
        return f"{error.filename} may not be used: change its permissions, or name another one."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) and error.filename is None:
        # What is still to be printed would fail once more at the end, and hide the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return (
            f"the answers cannot be printed to where they go ({error.strerror}): make room there."
        )
    raise error


def show_error(error: SamtuneError) -> None:
    """Print an error as one line on stderr."""
    typer.echo(f"Error: {error}", err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one line of JSON, at once: a program may be waiting for it."""
    typer.echo(json.dumps(value, allow_nan=False))


def parsed(option: str, parse: Callable[[str], Parsed], texts: list[str]) -> list[Parsed]:
    """What an option's texts mean; wrong usage of that option where one means nothing."""
    try:
        return [parse(text) for text in texts]
    except PromptError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


class Terminal:
    """Messages and progress on stderr: a bar in a terminal, elsewhere a line now and then.

    What is finished stays as a line, in either case. A context manager: results are printed
    after it has closed, below the bar.

    Args:
        quiet: say nothing.
    """

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[state]}"),
            console=self._console,
            refresh_per_second=4,
            redirect_stdout=False,
        )
        self._bar: TaskID | None = None
        self._phase = self._state = ""  # of the work that is going on
        self._complete = False
        self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish()
        if self._bars.live.is_started:  # or it would leave an empty line
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print a message, below what is finished."""
        if self._complete:
            self._finish()
        self._print(text)

    def show(
        self,
        phase: str,
        done: int,
        total: int,
        detail: str = "",
        seconds_left: float | None = None,
    ) -> None:
        """Show how far a phase of the work has come.

        Args:
            phase: what is being done, in a word or a few.
            done: how many of `total`.
            total: how many there are.
            detail: what else to tell.
            seconds_left: of this phase, where it can be told.
        """
        left = f"{duration(seconds_left)} left" if seconds_left and done != total else ""
        self._show(phase, done, total, [f"{done}/{total}", detail, left])

    def show_bytes(self, phase: str, done: int, total: int | None) -> None:
        """Show how far a download has come; the callback of `checkpoints.fetch`."""
        state = "..." if total is None else f"{done / 1e6:.1f}/{total / 1e6:.1f} MB"
        self._show(phase, done, total, [state])

    def _show(self, phase: str, done: int, total: int | None, state: list[str]) -> None:
        if phase != self._phase:
            self._finish()
            self._phase, self._last_line = phase, time.monotonic()
            if self._console.is_terminal:
                self._bars.start()
                self._bar = self._bars.add_task(phase, total=total, state="")
        self._state = ", ".join(part for part in state if part)
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, total=total, state=self._state)
        elif done < (total or 0) and time.monotonic() - self._last_line > _LINE_EVERY:
            self._last_line = time.monotonic()
            self._print(f"{self._phase} {self._state}")
        self._complete = done == total

    def _finish(self) -> None:
        """Leave a line of what was going on."""
        if self._bar is not None:
            self._bars.remove_task(self._bar)
        if self._phase:
            self._print(f"{self._phase} {self._state}")
        self._phase, self._bar, self._complete = "", None, False

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left and the others to the right.

    Example:
        >>> print(table(["", "IoU"], [["plain SAM", "56.6"], ["a", "9.1"]]))
                    IoU
        plain SAM  56.6
        a           9.1
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        [first.ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        for first, *rest in (header, *rows)
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)
