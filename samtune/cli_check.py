"""`samtune check`: what fit would find in a folder, before any hour is spent."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli_fit_data import empty_in_words, held_out_in_words, hold_out, in_words
from samtune.cli_inputs import open_sam, read_data
from samtune.config import FitConfig
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
)
from samtune.errors import DatasetError
from samtune.words import count, duration

if TYPE_CHECKING:
    from samtune.check import Finding
    from samtune.dataset import Dataset
    from samtune.forecast import Forecast

_NAMED = 3  # files named after a finding; --json has all


def check(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Images with masks or annotations, as for fit.")
    ],
    val: Annotated[
        Path | None, typer.Option(metavar="DATA", help="What fit would hold out, as its --val.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Encode no images: no search for held-out images that are nearly training images.",
        ),
    ] = False,
    class_id: ClassOption = None,
    objects: ObjectsOption = None,
    images: ImagesOption = None,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Say what fit would find: faults, odd objects, copies, time and disk.

    Exit code 1 when fit could not work; what is only worth a look does not fail. The images that
    are encoded on the way stay in the cache, for fit.
    """
    from samtune.check import check_objects, nearly_same
    from samtune.dataset import folds
    from samtune.embeddings import EmbeddingCache
    from samtune.forecast import forecast

    config, cache = FitConfig(), EmbeddingCache()
    with Terminal(quiet) as terminal:
        try:
            # Without --json, how much there is stands in the first line of the result.
            dataset = read_data(terminal, data, class_id, objects, images, describe=as_json)
            train, held_out = hold_out(terminal, dataset, val, None, class_id, images, config)
        except DatasetError as error:
            _list_faults(data, error, as_json)
            raise
        sam = open_sam(terminal, checkpoint, device)
        empty = len(train.some_empty(config.empty_images))
        findings = check_objects(dataset, sam.image_size)
        if not quick:
            sides = []
            if held_out is None:
                for part in folds(train, config.folds, config.seed):
                    others = set(range(len(train.pairs))) - set(part)
                    sides.append((train.subset(sorted(others)), train.subset(part)))
            elif not held_out.is_mirrored:
                sides.append((train, held_out))
            for learned_from, kept in sides:
                similar = nearly_same(
                    learned_from,
                    kept,
                    sam,
                    cache,
                    lambda done, total: terminal.show("encoding", done, total),
                )
                if similar is not None:
                    findings.append(similar)
                    break  # with turns, the same images would be found from the other side
        costs = forecast(train, held_out, sam, cache, config)  # of what is still to be done
    if as_json:
        print_json(
            {
                "data": str(data),
                "images": len(dataset.pairs),
                "objects": len(dataset.objects),
                "train_images": len(train.pairs),
                "train_objects": len(train.objects),
                "val_images": len((held_out or dataset).pairs),
                "val_objects": len((held_out or dataset).objects),
                "empty_images": empty,
                "folds": 0 if held_out else min(config.folds, len(dataset.pairs)),
                "faults": [],
                "left_out": [f"{one.path.name}: {one.reason}" for one in dataset.skipped],
                "findings": [asdict(finding) for finding in findings],
                "forecast": asdict(costs),
            }
        )
    else:
        kept_apart = held_out_in_words(train, held_out, config)
        taught = f"; {empty_in_words(empty)}" if empty else ""
        would = f"fit would train on {in_words(train)}; {kept_apart}{taught}"
        _report(dataset, would, findings, costs)


def _list_faults(data: Path, error: DatasetError, as_json: bool) -> None:
    """All faults, each in a line: the error itself names the first few."""
    faults = getattr(error, "__notes__", [])
    if as_json:
        print_json({"data": str(data), "faults": faults or [str(error)]})
    else:
        for fault in faults:
            typer.echo(fault)


def _report(
    dataset: "Dataset", what_fit_would_do: str, findings: list["Finding"], costs: "Forecast"
) -> None:
    in_image = sorted(Counter(thing.image_index for thing in dataset.objects).values())
    middle = in_image[len(in_image) // 2]
    typer.echo(f"{dataset.folder}: {dataset.describe()}")
    typer.echo(f"objects in an image: {in_image[0]} to {in_image[-1]}, median {middle}")
    typer.echo(what_fit_would_do)
    if costs.to_encode:
        encoding = (
            f"{count(costs.to_encode, 'image')} to encode, about {duration(costs.encode_seconds)} "
            f"and {costs.disk_bytes / 1e6:,.0f} MB of disk"
        )
    else:
        cached = f"{costs.cached_bytes / 1e6:,.0f} MB of disk"
        encoding = f"all {costs.images} images are encoded, in {cached}"
    typer.echo(f"{encoding}; training and scoring about {duration(costs.train_seconds)}")
    if not findings:
        typer.echo("nothing to look at: ready for samtune fit")
    for finding in findings:
        named = ", ".join(finding.files[:_NAMED])
        more = f" and {len(finding.files) - _NAMED} more" if len(finding.files) > _NAMED else ""
        typer.echo(f"look at: {finding.text} ({named}{more}). {finding.remedy}")
