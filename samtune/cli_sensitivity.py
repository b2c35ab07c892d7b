"""`samtune sensitivity`: does it matter where in the object one clicks?"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samtune.cli_inputs import check_adapters, check_output, open_sam
from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    ClassOption,
    DeviceOption,
    JsonOption,
    ObjectsOption,
    QuietOption,
    Terminal,
    print_json,
    table,
)
from samtune.errors import ImageError, SamtuneError
from samtune.words import count, percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samtune.masks import Meaning
    from samtune.sensitivity import ClickScores


def sensitivity(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to click on.")],
    mask: Annotated[
        Path, typer.Option("--mask", "-m", metavar="TARGET", help="Its true mask, as for fit.")
    ],
    adapters: Annotated[
        list[Path] | None,
        typer.Option("--adapter", "-a", metavar="FILE", help="What to compare; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The picture. [default: IMAGE.sensitivity.png]"
        ),
    ] = None,
    clicks: Annotated[
        int, typer.Option(min=1, metavar="N", help="About how many clicks in the object.")
    ] = 200,
    fail_under: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="X",
            help="Exit code 1 when an adapter's mean IoU, from 0 to 1, is below (without an "
            "adapter: plain SAM's).",
        ),
    ] = None,
    class_id: ClassOption = None,
    objects: ObjectsOption = None,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Map how good the answer is for a click at each place of the object, and around it.

    Where the mask holds several objects, each click is compared with the one that it is in.
    """
    from samtune.adapter import Adapter
    from samtune.embeddings import EmbeddingCache
    from samtune.images import check_image_format, read_image, write_image
    from samtune.predictor import Predictor
    from samtune.sensitivity import grid_of_clicks, in_object_and_ring, score_clicks
    from samtune.sensitivity_map import Panel, draw_sensitivity

    started = time.monotonic()
    output = Path(f"{image.stem}.sensitivity.png") if output is None else output
    paths = adapters or []
    check_adapters(paths)
    pixels = read_image(image)
    targets = _read_targets(mask, image, (pixels.shape[0], pixels.shape[1]), class_id, objects)
    check_image_format(output)
    check_output(output, (image, mask, *paths))
    with Terminal(quiet) as terminal:
        sam = open_sam(terminal, checkpoint, device)
        names = ["plain SAM", *map(str, paths)]
        predictors = [Predictor(sam), *(Predictor(sam, Adapter.load(path, sam)) for path in paths)]
        _, embedding = EmbeddingCache().encode(pixels, sam)
        places = grid_of_clicks(targets, clicks)
        panels = []
        for name, predictor in zip(names, predictors, strict=True):

            def show(done: int, total: int, name: str = name) -> None:
                terminal.show(f"clicking, {name}", done, total)

            scores = score_clicks(predictor, embedding, targets, places, show)
            panels.append(Panel(name, scores))
        write_image(output, draw_sensitivity(pixels, targets, places, panels))

    found = [in_object_and_ring(panel.scores, places) for panel in panels]
    if as_json:
        scored = [
            {"adapter": name, **_as_json(*one)}
            for name, one in zip(names[1:], found[1:], strict=True)
        ]
        print_json(
            {
                "image": str(image),
                "mask": str(mask),
                "map": str(output),
                "objects": len(targets),
                "base": _as_json(*found[0]),
                "adapters": scored,
                "seconds": time.monotonic() - started,
            }
        )
    else:
        rows = [_row(name, *one) for name, one in zip(names, found, strict=True)]
        header = [count(found[0][0].clicks, "click"), "mean", "10th pct", "80 or more", "beside"]
        typer.echo(table(header, rows))
        typer.echo(
            "IoU in % for clicks all over the object: their mean, what nine of ten exceed, and "
            "how many reach 80;\nbeside: the mean for clicks in a ring around it"
        )
        typer.echo(f"wrote {output}")
    if fail_under is not None:
        _fail_under(fail_under, [(n, one[0]) for n, one in zip(names, found, strict=True)])


def _read_targets(
    path: Path, image: Path, size: tuple[int, int], class_id: str | None, objects: "Meaning | None"
) -> list["NDArray[np.bool_]"]:
    """The objects of a mask file, read as those of a data set with this one file."""
    from samtune.images import read_labels
    from samtune.masks import class_number, count_values, objects_in, reading_of

    labels = read_labels(path)
    if labels.shape != size:
        raise ImageError(
            f"{path} is {labels.shape[1]}×{labels.shape[0]} px, its image {image} "
            f"{size[1]}×{size[0]} px: give the mask of this image, at full size."
        )
    number = class_number(path, class_id)
    found, _ = objects_in(labels, reading_of(labels, objects, number), image_index=0)
    if not found and number is not None and (counts := count_values(labels)):
        occurring = ", ".join(map(str, sorted(counts)[:20]))
        raise ImageError(f"class {number} does not occur in {path}; these do: {occurring}.")
    if not found:
        raise ImageError(f"{path} holds no object: paint it with 255, or with labels from 1 on.")
    return [thing.mask() for thing in found]


def _as_json(inside: "ClickScores", ring: "ClickScores | None") -> dict[str, Any]:
    return {**asdict(inside), "ring": None if ring is None else asdict(ring)}


def _row(name: str, inside: "ClickScores", ring: "ClickScores | None") -> list[str]:
    shares = (inside.mean_iou, inside.p10_iou, inside.good_share)
    return [name, *map(percent, shares), percent(None if ring is None else ring.mean_iou)]


def _fail_under(least: float, found: list[tuple[str, "ClickScores"]]) -> None:
    """Fail when an adapter's mean is too low, or plain SAM's where there is no adapter."""
    judged = found[1:] or found
    low = [f"{name} {one.mean_iou:.3f}" for name, one in judged if one.mean_iou < least]
    if low:
        raise SamtuneError(
            f"the mean IoU over the clicks is below {least:g} (--fail-under): {', '.join(low)}. "
            "The map shows where clicks go wrong; more masks of such objects in `fit` help."
        )
