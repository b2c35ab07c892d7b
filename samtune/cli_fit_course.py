"""How `samtune fit` shows a training's course, and what it says of one that was interrupted."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from samtune.console import Terminal
from samtune.words import percent

if TYPE_CHECKING:
    from samtune.run import Progress

_PHASES = {
    "encode": "encoding",
    "train": "training",
    "refine": "learning to refine",
    "map": "learning where objects are",
    "score": "scoring",
    "coarse": "refining coarse masks",
    "find": "finding objects",
}


def show_progress(terminal: Terminal, progress: "Progress", processes: int = 1) -> None:
    """Show how far a training has come, in one of so many processes."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.2f}")
    if progress.val_iou is not None:
        beside = "" if progress.base_iou is None else f" (SAM {percent(progress.base_iou)})"
        parts.append(f"IoU {percent(progress.val_iou)}{beside}")
    phase = _PHASES[progress.phase]
    if processes > 1 and progress.phase != "train":
        phase += f" (the share of 1 of {processes} processes)"
    terminal.show(
        phase,
        progress.done,
        progress.total,
        ", ".join(parts),
        progress.seconds_left,
    )


def say_where_to_start(terminal: Terminal, state: Path, resume: bool) -> None:
    """Say whether an interrupted fit goes on."""
    if resume and not state.is_file():
        terminal.say(f"nothing to resume: there is no {state}; starting from the beginning")
    elif resume:
        terminal.say(f"going on from {state}")
    elif state.is_file():
        terminal.say(f"{state} is of an interrupted fit and will be replaced (--resume goes on)")


@contextlib.contextmanager
def explained_interruption(state: Path, *, is_first: bool = True) -> Iterator[None]:
    """Say how to go on after Ctrl-C, or after a signal that ends a command in order."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        code = int(error.code or 0) if isinstance(error, SystemExit) else 130
        if not is_first:
            raise typer.Exit(code) from error
        if state.is_file():
            saved = datetime.fromtimestamp(state.stat().st_mtime).strftime("%H:%M:%S")
            hint = f"the same command with --resume goes on from {saved} ({state})"
        else:
            hint = "training had nothing to save yet; images that were encoded stay in the cache"
        typer.echo(f"Interrupted: {hint}.", err=True)
        raise typer.Exit(code) from error
