"""`samtune refine`: the contours of a mask that any tool made, moved onto the boundary."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli_segment import shall_refine
from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    Terminal,
    check_adapters,
    check_writable,
    count,
    open_sam,
    print_json,
)
from samtune.errors import ImageError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samtune.masks import DatasetObject

    LabelImage = NDArray[np.uint8 | np.uint16]


def refine(
    mask: Annotated[
        Path,
        typer.Argument(
            metavar="MASK", help="A mask: 0 and 255, or a number for each object, as for fit."
        ),
    ],
    image: Annotated[Path, typer.Option(metavar="IMAGE", help="The image that the mask is of.")],
    adapter: Annotated[
        Path, typer.Option("--adapter", "-a", metavar="FILE", help="What fit wrote for such masks.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to; beside MASK as .refined.png if not."
        ),
    ] = None,
    always: Annotated[
        bool,
        typer.Option(
            "--always", help="Refine also where it did not help on the adapter's held-out objects."
        ),
    ] = False,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Move the contours of any mask onto the boundary.

    Whatever tool made it: outer contours and holes of all its objects. Objects of less than 8
    pixels (after scaling the image's long side to 1024) stay as they are. Writes a mask with the
    same numbers.
    """
    from samtune.adapter import Adapter
    from samtune.embeddings import EmbeddingCache
    from samtune.images import read_image, write_png
    from samtune.polygons import polygons_to_mask
    from samtune.predictor import Predictor

    started = time.monotonic()
    output = output or mask.with_name(f"{mask.stem}.refined.png")
    check_adapters([adapter])
    labels, objects = _read_objects(mask)
    pixels = read_image(image)
    if labels.shape != pixels.shape[:2]:
        raise ImageError(
            f"{mask} is {_in_words(labels.shape)} and {image} is {_in_words(pixels.shape)}: give "
            "the image that the mask is of."
        )
    _check_output(output, keep=(mask, image))
    with Terminal(quiet) as terminal:
        sam = open_sam(terminal, checkpoint, device)
        predictor = Predictor(sam, Adapter.load(adapter, sam))
        refined = shall_refine(terminal, adapter, predictor, always)
        after = labels
        if refined:
            _, embedding = EmbeddingCache().encode(pixels, sam)
            after = _refine_objects(
                labels,
                objects,
                lambda one: polygons_to_mask(predictor.refine_mask(embedding, one), one.shape),
                lambda done: terminal.show("refining", done, len(objects)),
            )
    write_png(output, after)
    changed = int((after != labels).sum())
    if as_json:
        print_json(
            {
                "image": str(image),
                "mask": str(output),
                "adapter": str(adapter),
                "objects": len(objects),
                "refined": refined,
                "changed": changed,
                "area": sum(int((after == value).sum()) for value, _ in objects),
                "seconds": time.monotonic() - started,
            }
        )
        return
    typer.echo(f"{output}  {count(len(objects), 'object')}, {changed:,} px changed")


def _read_objects(path: Path) -> tuple["LabelImage", list[tuple[int, "DatasetObject"]]]:
    """A mask's numbers as they can be written again, and each object with its number."""
    import numpy as np

    from samtune.images import read_labels
    from samtune.masks import count_values, decide_reading, objects_in

    labels = read_labels(path)
    reading = decide_reading([count_values(labels)])
    if reading.threshold > 1:  # smeared edges
        labels = np.where(labels >= reading.threshold, 255, 0)
    objects, _ = objects_in(labels, reading, 0)
    if not objects:
        raise ImageError(f"{path} is an empty mask: there is no object in it to refine.")
    if not 0 <= labels.min() <= labels.max() < 2**16:
        raise ImageError(
            f"{path} has numbers from {labels.min()} to {labels.max()}, and a PNG holds 0 to "
            "65535: number its objects anew."
        )
    one = int(labels.max()) if reading.meaning == "mask" else None  # 1, 255, or another number
    kept: LabelImage = labels.astype(np.uint8) if labels.max() < 2**8 else labels.astype(np.uint16)
    return kept, [(one or thing.label, thing) for thing in objects]


def _refine_objects(
    labels: "LabelImage",
    objects: list[tuple[int, "DatasetObject"]],
    refined: Callable[["NDArray[np.bool_]"], "NDArray[np.bool_]"],
    on_progress: Callable[[int], None],
) -> "LabelImage":
    """Refine object by object; none takes a pixel that another one keeps."""
    after = labels.copy()
    gained = []
    for number, (value, thing) in enumerate(objects, start=1):
        before = thing.mask()
        now = refined(before)
        after[before & ~now] = 0
        gained.append((value, (now & ~before).ravel().nonzero()[0]))
        on_progress(number)
    flat = after.reshape(-1)
    for value, pixels in gained:
        flat[pixels[flat[pixels] == 0]] = value
    return after


def _check_output(path: Path, keep: tuple[Path, ...]) -> None:
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} cannot hold a mask: masks are written as PNG; name it .png.")
    if path.resolve() in {one.resolve() for one in keep}:
        raise OutputError(f"{path} would overwrite what is read: give another --output.")
    check_writable(path)


def _in_words(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} px wide and {shape[0]} px high"
