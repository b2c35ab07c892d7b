"""`samtune evaluate`: scores of plain SAM and of adapters on a folder of masks."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli_inputs import check_outputs, open_sam, read_data
from samtune.cli_references import (
    ReferenceBoxOption,
    ReferenceClassOption,
    ReferenceMaskOption,
    ReferenceOption,
    ReferencePointOption,
    ReferenceScribbleOption,
    check_references,
    parse_references,
    read_references,
    referring,
)
from samtune.cli_report import report_files, write_report
from samtune.cli_sources import MirrorOption
from samtune.config import EVERY_OBJECT
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
    print_json,
    table,
)
from samtune.words import count, percent

if TYPE_CHECKING:
    from samtune.dataset import Dataset
    from samtune.embeddings import EmbeddingCache
    from samtune.evaluation import Scores
    from samtune.found_scores import FoundScores
    from samtune.obedience import Obedience
    from samtune.predictor import Predictor


def evaluate(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Images and masks, as for fit.")],
    adapters: Annotated[
        list[Path] | None,
        typer.Option("--adapter", "-a", metavar="FILE", help="What to score; may be repeated."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write DIR/report.html, a page to read, and DIR/report.json, its numbers: more "
            "kinds of prompts, intervals, pictures. Takes several times as long.",
        ),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Also score what adapters find by themselves: all objects."),
    ] = False,
    mirror: MirrorOption = False,
    max_objects: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="For adapters that find objects: look for up to so many in an image. "
            "[default: 1, with --auto all]",
        ),
    ] = None,
    references: ReferenceOption = None,
    reference_masks: ReferenceMaskOption = None,
    reference_class: ReferenceClassOption = None,
    reference_points: ReferencePointOption = None,
    reference_boxes: ReferenceBoxOption = None,
    reference_scribbles: ReferenceScribbleOption = None,
    class_id: ClassOption = None,
    objects: ObjectsOption = None,
    images: ImagesOption = None,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Score plain SAM and adapters on images with masks or annotations."""
    from samtune.adapter import Adapter
    from samtune.embeddings import EmbeddingCache
    from samtune.evaluation import evaluate
    from samtune.obedience import measure_obedience
    from samtune.predictor import Predictor
    from samtune.report import Source
    from samtune.stages import Stages

    paths = adapters or []
    if auto and not paths:
        context.fail("--auto finds the kind of object that an --adapter knows: give one.")
    if max_objects is None:
        max_objects = EVERY_OBJECT if auto else 1
    shown = parse_references(
        context,
        references,
        reference_masks,
        reference_class,
        reference_points,
        reference_boxes,
        reference_scribbles,
    )
    check_references(context, paths, shown)
    files = None if report is None else report_files(report)
    stages = Stages()
    with Terminal(quiet) as terminal:
        with stages.measure("reading data"):
            dataset = read_data(terminal, data, class_id, objects, images)
            check_outputs(files or (), dataset)
        with stages.measure("loading the model"):
            sam = open_sam(terminal, checkpoint, device)
            marked = read_references(shown, sam)
            adapted = [referring(Adapter.load(path, sam), marked, sam) for path in paths]
        predictors = [Predictor(sam), *(Predictor(sam, adapter) for adapter in adapted)]
        obeyed: list[Obedience | None] = [None] * len(predictors)
        if files is not None:
            names = ["plain SAM", *_short_names(paths)]
            sources = [
                Source(name, predictor, path)
                for name, predictor, path in zip(names, predictors, [None, *paths], strict=True)
            ]
            made = write_report(
                terminal,
                dataset,
                sources,
                checkpoint,
                stages,
                files,
                auto=auto,
                max_objects=max_objects,
                mirror=mirror,
            )
            base, *scored = made.scores
            obeyed = made.obedience if paths else obeyed
            found = made.found[1:]
        else:
            cache = EmbeddingCache(mirror=mirror)
            base, *scored = evaluate(
                dataset,
                sam,
                predictors,
                cache,
                on_progress=lambda done, total: terminal.show("scoring", done, total),
            )
            if paths:
                obeyed = measure_obedience(
                    dataset,
                    sam,
                    predictors,
                    cache,
                    on_progress=lambda done, total: terminal.show("clicking beside", done, total),
                )
            found = [
                _score_found(terminal, dataset, one, cache, auto, max_objects)
                for one in predictors[1:]
            ]
    if auto:
        for path, looked in zip(paths, found, strict=True):
            if looked is None:
                terminal.say(f"{path} finds nothing by itself: fit --auto makes one that does.")
    if as_json:
        scores = {f"base_{name}": value for name, value in _scores(base).items()}
        adapters_json = [
            {
                "adapter": str(path),
                **_scores(one),
                "refined_iou": one.refined_iou,
                "refined_boundary_iou": one.refined_boundary_iou,
                **({} if looked is None else _found_scores(looked)),
                "beside": None if clicks is None else asdict(clicks),
            }
            for path, one, looked, clicks in zip(paths, scored, found, obeyed[1:], strict=True)
        ]
        print_json(
            {"data": str(data), "objects": base.objects, **scores, "adapters": adapters_json}
        )
        return
    _print_table(paths, base, scored)
    _print_found(paths, found, max_objects)
    _print_obedience(["plain SAM", *map(str, paths)], obeyed)
    if files is not None:
        typer.echo(f"wrote {files[0]} and {files[1]}")


def _print_table(paths: list[Path], base: "Scores", scored: list["Scores"]) -> None:
    rows = [_row("plain SAM", base)]
    rows += [_row(str(path), one) for path, one in zip(paths, scored, strict=True)]
    header = ["IoU", "oracle", "random", "refined", "boundary"]
    typer.echo(table([count(base.objects, "object"), *header], rows))
    typer.echo(
        "mean % for one click in the middle of each object (random: anywhere on it); oracle: the "
        "best of SAM's masks; boundary: Boundary IoU"
    )


def _print_obedience(names: list[str], obeyed: Sequence["Obedience | None"]) -> None:
    """What clicks beside all objects get, where there is an adapter."""
    known = [(name, one) for name, one in zip(names, obeyed, strict=True) if one is not None]
    if not known:
        return
    typer.echo()
    first = known[0][1]
    rows = [
        [
            name,
            *map(
                percent,
                (one.false_responses, one.false_alarms, one.false_and_present, one.missed),
            ),
            *([percent(one.alarmed_images)] if first.empty_images else []),
        ]
        for name, one in known
    ]
    clicks = f"{count(first.clicks, 'click')} beside"
    header = [clicks, "an object's mask", "presence", "both", "missed"]
    typer.echo(table([*header, *(["empty"] if first.empty_images else [])], rows))
    typer.echo(
        "% of clicks beside all objects that get an object's mask, that have a presence of 0.5 or "
        "more, and both; missed: % of objects whose own click has less"
    )
    if first.empty_images:
        images = count(first.empty_images, "image")
        typer.echo(
            f"empty: % of {images} without an object where one of four clicks has 0.5 or more"
        )


def _score_found(
    terminal: Terminal,
    dataset: "Dataset",
    predictor: "Predictor",
    cache: "EmbeddingCache",
    auto: bool,
    max_objects: int,
) -> "FoundScores | None":
    """What an adapter finds without a click; None if it cannot."""
    from samtune.finding import can_find
    from samtune.found_scores import score_found

    if predictor.adapter is None or not can_find(predictor.adapter.learned, told_to=auto):
        return None
    return score_found(
        dataset,
        predictor,
        cache,
        max_objects,
        on_progress=lambda done, total: terminal.show("finding", done, total),
    )


def _found_scores(scores: "FoundScores") -> dict[str, float | None]:
    return {f"found_{name}": value for name, value in asdict(scores).items()}


def _print_found(
    paths: list[Path], found: Sequence["FoundScores | None"], max_objects: int
) -> None:
    rows = [
        [str(path), percent(one.iou), percent(one.precision), percent(one.recall)]
        for path, one in zip(paths, found, strict=True)
        if one is not None
    ]
    if rows:
        typer.echo("\n" + table(["without a click", "IoU", "precision", "recall"], rows))
        most = f"with up to {count(max_objects, 'object')} found in an image (--max-objects)"
        if max_objects == EVERY_OBJECT:
            most = "with all objects looked for (--auto)"
        typer.echo(f"mean % {most}, matched one to one; right from IoU 50 on")


def _short_names(paths: list[Path]) -> list[str]:
    """Files' names without folder and suffix where that tells them apart."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


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
