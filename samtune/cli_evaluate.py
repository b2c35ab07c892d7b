"""`samtune evaluate`: scores of plain SAM and of adapters on a folder of masks."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    ClassOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    ObjectsOption,
    QuietOption,
    Terminal,
    count,
    open_sam,
    percent,
    print_json,
    read_data,
    table,
)

if TYPE_CHECKING:
    from samtune.evaluation import Scores


def evaluate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Images and masks, as for fit.")],
    adapters: Annotated[
        list[Path] | None,
        typer.Option("--adapter", "-a", metavar="FILE", help="What to score; may be repeated."),
    ] = None,
    class_id: ClassOption = None,
    objects: ObjectsOption = None,
    images: ImagesOption = None,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Score plain SAM and adapters on images with masks or annotations."""
    from samtune.adapter import Adapter, read_info
    from samtune.embeddings import EmbeddingCache
    from samtune.evaluation import evaluate
    from samtune.predictor import Predictor

    paths = adapters or []
    for path in paths:
        read_info(path)  # whether it is an adapter at all: before a checkpoint is fetched
    with Terminal(quiet) as terminal:
        dataset = read_data(terminal, data, class_id, objects, images)
        sam = open_sam(terminal, checkpoint, device)
        predictors = [Predictor(sam), *(Predictor(sam, Adapter.load(path, sam)) for path in paths)]
        base, *adapted = evaluate(
            dataset,
            sam,
            predictors,
            EmbeddingCache(),
            on_progress=lambda done, total: terminal.show("scoring", done, total),
        )
    if as_json:
        scores = {f"base_{name}": value for name, value in _scores(base).items()}
        scored = [
            {"adapter": str(path), **_scores(one), "refined_iou": one.refined_iou}
            for path, one in zip(paths, adapted, strict=True)
        ]
        print_json({"data": str(data), "objects": base.objects, **scores, "adapters": scored})
        return
    rows = [_row("plain SAM", base)]
    rows += [_row(str(path), one) for path, one in zip(paths, adapted, strict=True)]
    header = ["IoU", "oracle", "random", "refined", "boundary"]
    typer.echo(table([count(base.objects, "object"), *header], rows))
    typer.echo(
        "mean % for one click in the middle of each object (random: anywhere on it); oracle: the "
        "best of SAM's masks; boundary: Boundary IoU"
    )


def _scores(scores: "Scores") -> dict[str, float | None]:
    values = asdict(scores)
    return {name: values[name] for name in ("iou", "oracle_iou", "random_iou", "boundary_iou")}


def _row(name: str, scores: "Scores") -> list[str]:
    columns = (
        scores.iou,
        scores.oracle_iou,
        scores.random_iou,
        scores.refined_iou,
        scores.boundary_iou,
    )
    return [name, *map(percent, columns)]
