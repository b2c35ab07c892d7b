"""`samtune fit --method vrp`: an encoder of annotated references, trained on a folder."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from samtune.cli_fit_course import explained_interruption, say_where_to_start, show_progress
from samtune.cli_fit_result import segment_command
from samtune.cli_inputs import check_outputs, open_sam
from samtune.config import VrpConfig
from samtune.console import Terminal, print_json, table
from samtune.errors import DatasetError
from samtune.words import count, duration, file_size, percent

if TYPE_CHECKING:
    from samtune.dataset import Dataset
    from samtune.vrp_fit import VrpFit

ALL_CLASSES = "all"
Classes = frozenset[int] | None  # None is all of them


def parse_classes(context: typer.Context, text: str) -> Classes:
    """The classes of --classes: numbers with commas, or all."""
    if text.strip() == ALL_CLASSES:
        return None
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in numbers):
        context.fail(f"--classes {text}: give {ALL_CLASSES}, or numbers from 1 on, such as 1,2,5.")
    return frozenset(map(int, numbers))


def train_vrp(
    terminal: Terminal,
    read: Callable[[], tuple["Dataset", "Dataset | None"]],
    output: Path,
    config: VrpConfig,
    *,
    classes: Classes,
    several: bool,
    checkpoint: str,
    device: str,
    resume: bool,
    as_json: bool,
) -> None:
    """Train, write the adapter and say so.

    Args:
        terminal: for messages.
        read: reads what to train on and what is held out.
        output: where the adapter goes.
        config: the settings.
        classes: which labels of the objects are classes.
        several: whether they are; if not, all objects are of one class.
        checkpoint: the frozen model.
        device: where to compute.
        resume: go on with an interrupted fit.
        as_json: print JSON.
    """
    from samtune.embeddings import EmbeddingCache
    from samtune.vrp_fit import fit_vrp

    state = Path(f"{output}.resume")
    with explained_interruption(state), terminal:
        train, other = read()
        assert other is not None
        check_outputs((output, state), train, other)
        if several:
            train, held_out = _by_class(train, other, classes)
        else:
            train, held_out = train.by_class(), other.by_class()
        say_where_to_start(terminal, state, resume)
        result = fit_vrp(
            train,
            held_out,
            open_sam(terminal, checkpoint, device),
            EmbeddingCache(),
            config,
            checkpoint_name=Path(checkpoint).name,
            state_path=state,
            resume=resume,
            on_progress=lambda progress: show_progress(terminal, progress),
        )
        result.adapter.save(output)
        state.unlink(missing_ok=True)
    if result.left_out:
        terminal.say(
            f"  left out: {count(result.left_out, 'object')} that cover less than a tenth of a "
            "cell of SAM's"
        )
    if as_json:
        print_json(_summary(result, output))
        return
    typer.echo(_in_words(result, output))
    typer.echo(f"next: {_next_command(result, held_out, output, checkpoint)}")


def _by_class(
    train: "Dataset", held_out: "Dataset", classes: Classes
) -> tuple["Dataset", "Dataset"]:
    """Both with their classes' objects, of classes that both have."""
    held_out = held_out.in_numbers_of(train)
    there = {thing.label for thing in train.objects}
    missing = sorted((classes or there) - there)
    if missing:
        raise DatasetError(
            f"{train.folder} has no class {missing[0]} to train on: it has "
            f"{', '.join(map(str, sorted(there)))}."
        )
    chosen = (classes or there) & {thing.label for thing in held_out.objects}
    if not chosen:
        raise DatasetError(
            f"no image that is held out has one of the classes: hold out others than those of "
            f"{held_out.folder}."
        )
    return train.by_class(classes or there), held_out.by_class(chosen)


def _in_words(result: "VrpFit", path: Path) -> str:
    scores, data = result.adapter.info.scores, result.adapter.info.data
    rows = [
        ["plain SAM, one click", percent(scores["base_iou"])],
        ["adapter, no click", percent(scores["found_iou"])],
    ]
    if len(result.found) > 1:
        rows += [[f"  class {label}", percent(one.iou)] for label, one in result.found.items()]
    phases = ", ".join(f"{phase} {duration(taken)}" for phase, taken in result.seconds.items())
    ended = "" if result.stopped == "finished" else f"; ended early: {result.stopped}"
    references = "carries no reference: give one with --reference"
    if data["references"]:
        references = f"carries {count(data['references'], 'reference')} of its own"
    return "\n".join(
        [
            "",
            table([f"held out: {count(result.base.objects, 'object')}", "IoU"], rows),
            "mean %, all of a class in an image being one object; without a click, with references "
            "from the training images",
            "",
            f"time: {phases}; {result.episodes_per_second:.1f} episodes/s in training{ended}",
            f"wrote {path} ({file_size(path)}), which {references}",
        ]
    )


def _next_command(result: "VrpFit", held_out: "Dataset", path: Path, checkpoint: str) -> str:
    words = ["--adapter", str(path)]
    if not result.adapter.info.data["references"]:
        words += ["--reference", "IMAGE", "--reference-mask", "MASK"]
    return segment_command(held_out.pairs[-1].image, words, checkpoint)


def _summary(result: "VrpFit", path: Path) -> dict[str, Any]:
    """What --json prints: the keys of a trained fit, null where there is no such thing."""
    info = result.adapter.info
    known = ("train_images", "train_objects", "val_images", "val_objects", "references")
    return {
        "adapter": str(path),
        "method": info.method,
        **{key: info.data[key] for key in known},
        "base_iou": result.base.iou,
        "base_oracle_iou": result.base.oracle_iou,
        "adapter_iou": None,
        "adapter_oracle_iou": None,
        "found_iou": info.scores["found_iou"],
        "found": {str(label): asdict(one) for label, one in result.found.items()},
        "refined_iou": None,
        "left_out": result.left_out,
        "parameters": result.adapter.learned.parameters_in_use(),
        "objects_per_second": result.episodes_per_second,
        "seconds": result.seconds,
        "stopped": result.stopped,
    }
