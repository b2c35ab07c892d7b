"""`samtune fit --method plm`: the course of training a Prompt Learning Module, to its file."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from samtune.cli_fit_course import explained_interruption, say_where_to_start, show_progress
from samtune.cli_fit_data import empty_in_words
from samtune.cli_fit_result import explain_failure, next_command, scores_in_words, summary
from samtune.cli_inputs import check_outputs, open_sam
from samtune.cli_report import report_fit
from samtune.config import FitConfig
from samtune.console import Terminal, print_json, speak_of_errors
from samtune.processes import Processes, joined
from samtune.stages import Stages
from samtune.words import count

if TYPE_CHECKING:
    from samtune.dataset import Dataset
    from samtune.sam import Sam
    from samtune.training import FitResult


def fit_plm(
    read: Callable[[Terminal], tuple["Dataset", "Dataset | None"]],
    output: Path,
    config: FitConfig,
    *,
    checkpoint: str,
    device: str,
    resume: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    files: tuple[Path, Path] | None,
) -> None:
    """Train, save, report, and say what came of it.

    Args:
        read: what to train on, and what is held out.
        output: where to write the adapter.
        config: the settings.
        checkpoint: the name or file of the frozen model.
        device: where to compute.
        resume: go on with an interrupted fit.
        force: keep an adapter that is no better than plain SAM.
        as_json: say it in JSON.
        quiet: say nothing of progress.
        files: the report's page and its numbers, where one is asked for.
    """
    state, stages = Path(f"{output}.resume"), Stages()

    def read_and_check() -> tuple["Dataset", "Dataset | None"]:
        found = read(terminal)
        check_outputs((output, state, *(files or ())), *found)
        if empty := len(found[0].some_empty(config.empty_images)):
            terminal.say(empty_in_words(empty, auto=config.auto))
        return found

    with (
        joined() as processes,
        explained_interruption(state, is_first=processes.is_first),
        Terminal(quiet or not processes.is_first) as terminal,
    ):
        with stages.measure("reading data"):
            train, held_out = processes.from_first(read_and_check)
        if output.is_file():
            terminal.say(f"{output} exists; a better adapter than plain SAM replaces it.")
        say_where_to_start(terminal, state, resume)
        if processes.count > config.batch_size:
            batch = count(config.batch_size, "object")
            terminal.say(
                f"{processes.count} processes share batches of {batch}: some have nothing to do "
                "while training (--batch-size)."
            )
        with stages.measure("loading the model"):
            sam = processes.first_then_others(lambda: open_sam(terminal, checkpoint, device))
        speak_of_errors()
        result = _train(
            terminal, train, held_out, sam, config, checkpoint, state, resume, processes
        )
    if not processes.is_first:
        return

    kept = result.better or force
    path = output if kept else output.with_name(f"{output.stem}.rejected.safetensors")
    with explained_interruption(state, is_first=processes.is_first), Terminal(quiet) as terminal:
        result.adapter.save(path)
        if files is not None:
            stages.seconds |= {
                "encoding": result.seconds["encode"],
                "training": result.seconds["train"],
            }
            report_fit(
                terminal,
                held_out or train,
                sam,
                result.adapter,
                path,
                checkpoint,
                stages,
                files,
                result.curves,
                result.turns,
            )
        state.unlink(missing_ok=True)  # kept so far: going on costs no training

    if as_json:
        print_json(summary(result, path))
    else:
        typer.echo(scores_in_words(result, path, sam))
    if files is not None and not as_json:
        typer.echo(f"wrote {files[0]} and {files[1]}")
    if not result.better:
        explain_failure(result, path, output, kept)
    if not as_json:
        typer.echo(f"next: {next_command(result, path, held_out or train, checkpoint)}")


def _train(
    terminal: Terminal,
    train: "Dataset",
    held_out: "Dataset | None",
    sam: "Sam",
    config: FitConfig,
    checkpoint: str,
    state: Path,
    resume: bool,
    processes: Processes,
) -> "FitResult":
    from samtune.embeddings import EmbeddingCache
    from samtune.training import fit

    cache = EmbeddingCache()
    images = len(train.pairs) * config.views
    shortage = cache.shortage(images + (0 if held_out is None else len(held_out.pairs)))
    if shortage is not None:
        terminal.say(f"Warning: {shortage}: images will be encoded again and again. Set it higher.")

    return fit(
        train,
        held_out,
        sam,
        cache,
        config,
        checkpoint_name=Path(checkpoint).name,
        state_path=state,
        resume=resume,
        processes=processes,
        on_progress=lambda progress: show_progress(terminal, progress, processes.count),
    )
