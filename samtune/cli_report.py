"""What `evaluate` and `fit` do for --report: a page to read, and its numbers as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.config import EVERY_OBJECT
from samtune.console import Terminal
from samtune.files import atomic_write

if TYPE_CHECKING:
    from samtune.adapter import Adapter
    from samtune.curves import Curves
    from samtune.dataset import Dataset
    from samtune.report import Report, Source
    from samtune.sam import Sam
    from samtune.stages import Stages
    from samtune.turns import Turns


def report_files(folder: Path) -> tuple[Path, Path]:
    """The page and its numbers."""
    return folder / "report.html", folder / "report.json"


def write_report(
    terminal: Terminal,
    dataset: "Dataset",
    sources: "Sequence[Source]",
    checkpoint: str,
    stages: "Stages",
    files: tuple[Path, Path],
    curves: "Curves | None" = None,
    *,
    auto: bool = False,
    max_objects: int = 1,
    mirror: bool = False,
) -> "Report":
    """Measure, and write the page and its numbers.

    Raises:
        OutputError: a file cannot be written.
    """
    from samtune.embeddings import EmbeddingCache
    from samtune.report import make_report
    from samtune.report_page import render

    made = make_report(
        dataset,
        sources,
        EmbeddingCache(mirror=mirror),
        Path(checkpoint).name,
        stages=stages,
        auto=auto,
        max_objects=max_objects,
        curves=curves,
        tell=terminal.show,
    )
    page, numbers = files
    with atomic_write(page) as temporary:
        # A file's name may be no text, which UTF-8 cannot hold.
        temporary.write_text(render(made), encoding="utf-8", errors="replace")
    with atomic_write(numbers) as temporary:
        temporary.write_text(json.dumps(made.numbers, indent=1, allow_nan=False), encoding="utf-8")
    return made


def report_fit(
    terminal: Terminal,
    held_out: "Dataset",
    sam: "Sam",
    adapter: "Adapter",
    path: Path,
    checkpoint: str,
    stages: "Stages",
    files: tuple[Path, Path],
    curves: "Curves | None" = None,
    turns: "Turns | None" = None,
) -> None:
    """Report what a fit came to: plain SAM and the adapter it wrote, on what it held out.

    Where trainings took turns in holding images out, they answer in its place.

    Raises:
        OutputError: a file cannot be written.
    """
    from samtune.predictor import Predictor
    from samtune.report import Source

    sources = [
        Source("plain SAM", Predictor(sam)),
        Source(path.stem, Predictor(sam, adapter), path, turns),
    ]
    proposes = adapter.learned.proposes
    write_report(
        terminal,
        held_out,
        sources,
        checkpoint,
        stages,
        files,
        curves,
        auto=proposes,
        max_objects=EVERY_OBJECT if proposes else 1,
    )
