"""`samtune fit --method persam` and `persam-f`: an adapter from references, in a second or two."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from samtune.cli_fit_result import segment_command
from samtune.cli_inputs import open_sam
from samtune.cli_report import report_fit
from samtune.config import PARTS, Part
from samtune.console import Terminal, print_json, table
from samtune.stages import Stages
from samtune.words import count, duration, file_size, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samtune.dataset import Dataset
    from samtune.evaluation import Scores
    from samtune.found_scores import FoundScores
    from samtune.reference_fit import ReferenceFit, ReferenceMethod
    from samtune.sam import Sam

_NAMED = 3  # references are named up to here, then counted
Held = tuple["Scores", "Scores", "FoundScores"]  # plain SAM, the adapter with clicks, and without


def parse_parts(context: typer.Context, names: list[str]) -> list[Part]:
    """The parts of persam that --without names, several by repeating or with commas."""
    chosen = [name.strip() for text in names for name in text.split(",")]
    for name in chosen:
        if name not in PARTS:
            context.fail(f"--without {name} is none of {', '.join(PARTS)}.")
    return [part for part in PARTS if part in chosen]


def fit_from_references(
    terminal: Terminal,
    train: "Dataset",
    held_out: "Dataset | None",
    output: Path,
    *,
    method: "ReferenceMethod",
    reference: str | None,
    without: "Sequence[Part]",
    seed: int,
    checkpoint: str,
    device: str,
    as_json: bool,
    report: tuple[Path, Path] | None,
) -> None:
    """Make an adapter, score it if objects are held out, write it and say so.

    With files to report to, there are such objects.
    """
    from dataclasses import replace

    from samtune.embeddings import EmbeddingCache
    from samtune.reference_fit import fit_references

    sam, cache = open_sam(terminal, checkpoint, device), EmbeddingCache()
    fitted = fit_references(
        train,
        sam,
        cache,
        method,
        checkpoint_name=Path(checkpoint).name,
        reference=reference,
        without=without,
        seed=seed,
        on_progress=lambda done, total: terminal.show("encoding", done, total),
    )
    for name in fitted.left_out:
        terminal.say(f"  left out: {name}, its object covers less than a tenth of a cell of SAM's")
    adapter, held = fitted.adapter, None
    if held_out is not None:
        held = _score(terminal, held_out, sam, cache, fitted)
        adapter = replace(
            adapter, info=replace(adapter.info, **_described(held_out, held, adapter))
        )
    adapter.save(output)
    if held_out is not None and report is not None:
        stages = Stages()
        taken = fitted.seconds
        stages.seconds |= {"encoding": taken["encode"], "fitting": taken["fit"]}
        report_fit(terminal, held_out, sam, adapter, output, checkpoint, stages, report)
    if as_json:
        print_json(_summary(fitted, held_out, held, output))
        return
    typer.echo(_in_words(fitted, held, output))
    if report is not None:
        typer.echo(f"wrote {report[0]} and {report[1]}")
    typer.echo(f"next: {_next_command(train, held_out, output, checkpoint)}")


def _score(
    terminal: Terminal, held_out: "Dataset", sam: "Sam", cache: Any, fitted: "ReferenceFit"
) -> Held:
    from samtune.evaluation import Scores, score_objects
    from samtune.found_scores import score_found
    from samtune.predictor import Predictor

    predictors = [Predictor(sam), Predictor(sam, fitted.adapter)]
    clicked = score_objects(
        held_out,
        sam,
        predictors,
        cache,
        kinds=("center",),
        boundary=False,
        on_progress=lambda done, total: terminal.show("scoring", done, total),
    )
    found = score_found(
        held_out,
        predictors[1],
        cache,
        on_progress=lambda done, total: terminal.show("finding", done, total),
    )
    base, adapted = map(Scores.mean, clicked)
    return base, adapted, found


def _described(held_out: "Dataset", held: Held, adapter: Any) -> dict[str, Any]:
    """What the adapter's file says of the held-out objects."""
    base, adapted, found = held
    data = {**adapter.info.data, "val_images": len(held_out.pairs), "val_objects": base.objects}
    scores = {
        "base_iou": base.iou,
        "base_oracle_iou": base.oracle_iou,
        "adapter_iou": adapted.iou,
        "adapter_oracle_iou": adapted.oracle_iou,
        "found_iou": found.iou,
    }
    return {"data": data, "scores": scores}


def _in_words(fitted: "ReferenceFit", held: Held | None, path: Path) -> str:
    names = ", ".join(fitted.references[:_NAMED])
    more = len(fitted.references) - _NAMED
    lines = [f"references: {names}" + (f" and {more:,} more" if more > 0 else "")]
    if held is not None:
        base, adapted, found = held
        rows = [
            ["plain SAM, one click", percent(base.iou)],
            ["adapter, one click", percent(adapted.iou)],
            ["adapter, no click", percent(found.iou)],
        ]
        lines += ["", table([f"held out: {count(base.objects, 'object')}", "IoU"], rows)]
        lines += ["mean %; without a click, one object an image is looked for", ""]
    phases = ", ".join(f"{phase} {_seconds(taken)}" for phase, taken in fitted.seconds.items())
    lines.append(f"time: {phases}")
    lines.append(f"wrote {path} ({file_size(path)})")
    return "\n".join(lines)


def _seconds(taken: float) -> str:
    return f"{taken:.1f} s" if taken < 10 else duration(taken)


def _next_command(train: "Dataset", held_out: "Dataset | None", path: Path, checkpoint: str) -> str:
    """A command that shows the adapter, on a held-out image if there is one."""
    image = (train if held_out is None else held_out).pairs[-1].image
    return segment_command(image, ["--adapter", str(path)], checkpoint)


def _summary(
    fitted: "ReferenceFit", held_out: "Dataset | None", held: Held | None, path: Path
) -> dict[str, Any]:
    """What --json prints: the keys of a trained fit, null where nothing was held out."""
    info = fitted.adapter.info
    base, adapted, found = held or (None, None, None)
    return {
        "adapter": str(path),
        "method": info.method,
        "references": list(fitted.references),
        "left_out": list(fitted.left_out),
        "train_images": info.data["train_images"],
        "train_objects": info.data["train_objects"],
        "val_images": None if held_out is None else len(held_out.pairs),
        "val_objects": None if base is None else base.objects,
        "base_iou": None if base is None else base.iou,
        "base_oracle_iou": None if base is None else base.oracle_iou,
        "adapter_iou": None if adapted is None else adapted.iou,
        "adapter_oracle_iou": None if adapted is None else adapted.oracle_iou,
        "found_iou": None if found is None else found.iou,
        "refined_iou": None,
        "parameters": fitted.adapter.learned.parameters_in_use(),
        "seconds": fitted.seconds,
    }
