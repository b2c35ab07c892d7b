"""`samtune refine`: the contours of a mask that any tool made, moved onto the boundary."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli_formats import (
    LabelOption,
    OverwriteOption,
    can_name_a_class,
    chosen_formats,
    class_labels,
    open_segment_writers,
)
from samtune.cli_inputs import check_adapters, check_output, check_writable
from samtune.cli_refine_formats import FormatWriting, Refiner, open_refiner
from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    DeviceOption,
    ImagesOption,
    JsonOption,
    QuietOption,
    Terminal,
    print_json,
)
from samtune.errors import DatasetError, ImageError, OutputError
from samtune.words import count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samtune.foreign_masks import ForeignMasks
    from samtune.masks import DatasetObject

    LabelImage = NDArray[np.uint8 | np.uint16]


def refine(
    context: typer.Context,
    mask: Annotated[
        Path,
        typer.Argument(
            metavar="MASK",
            help="A mask: 0 and 255, or a number for each object, as for fit. Or annotations: a "
            "COCO, LabelMe or YOLO file, or a folder of them.",
        ),
    ],
    adapter: Annotated[
        Path, typer.Option("--adapter", "-a", metavar="FILE", help="What fit wrote for such masks.")
    ],
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="The image that the mask is of. Of annotations, only this image's.",
        ),
    ] = None,
    images: ImagesOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="Where to; beside MASK as .refined.png if not. With --format or annotations, a "
            "folder.",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            metavar="F",
            help="What to write, as segment's --format. Without it, a mask with the same numbers, "
            "or annotations of the same kind.",
        ),
    ] = None,
    label: LabelOption = None,
    overwrite: OverwriteOption = False,
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="Also draw where the contours' points were and are now."),
    ] = False,
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
    same numbers, annotations of the same kind, or what --format says.
    """
    from samtune.foreign_masks import is_annotations

    foreign = is_annotations(mask)
    if image is None and not foreign:
        context.fail("say which image the mask is of: --image IMAGE.")
    if images is not None and not foreign:
        context.fail("--images says where annotations' images are: a mask's is --image IMAGE.")
    if label is not None and not foreign and not formats:
        context.fail("a mask has numbers and no names: --label is for annotations and --format.")
    chosen = chosen_formats(context, formats) if formats else []
    own_label = class_labels(context, [adapter], label)
    check_adapters([adapter])
    load = partial(open_refiner, adapter, checkpoint, device, always=always, draws=overlay)
    if image is not None and not foreign and not chosen:
        _refine_file(mask, image, output, adapter, load, as_json, quiet)
        return
    work = _read_work(mask, image, images, quiet)
    keep = [path for path, _ in work.images] + ([] if foreign else [mask])
    labels = own_label if label is not None or not foreign else _categories(mask, work)
    names, writers = open_segment_writers(
        chosen or [work.form],
        output or Path(),
        keep,
        list(labels),
        overwrite,
        quiet,
        own_numbers={work.form: work.numbers} if labels is work.categories else {},
    )
    check_writable((output or Path()) / "mask.png")
    with Terminal(quiet) as terminal:
        refiner = load(terminal)
    failed = FormatWriting(refiner, adapter, labels, names, writers).write(work.images, as_json)
    if failed:
        if len(work.images) > 1 and not quiet:
            typer.echo(f"{failed} of {len(work.images)} images failed.", err=True)
        raise typer.Exit(1)


def _read_work(mask: Path, image: Path | None, images: Path | None, quiet: bool) -> "ForeignMasks":
    """Annotations, or a mask's own file as if it were such."""
    from samtune.foreign_masks import ForeignMasks, is_annotations, read_foreign_masks

    if not is_annotations(mask):
        assert image is not None
        _, objects, _ = _read_file(mask, image)
        things = tuple(thing for _, thing in objects)
        return ForeignMasks("png", (), {}, ((image, things),), ())
    work = read_foreign_masks(mask, image, images)
    with Terminal(quiet) as terminal:
        for skipped in work.skipped:
            terminal.say(f"left out: {skipped.path.name}, {skipped.reason}")
    return work


def _categories(mask: Path, work: "ForeignMasks") -> Sequence[str]:
    """The annotations' own names of classes."""
    for name in work.categories:
        if not can_name_a_class(name):
            raise DatasetError(
                f"{mask} has a category {name!r:.80}, and no format could hold that name: change "
                "it, or give all objects one with --label NAME."
            )
    return work.categories


def _refine_file(
    mask: Path,
    image: Path,
    output: Path | None,
    adapter: Path,
    load: Callable[[Terminal], Refiner],
    as_json: bool,
    quiet: bool,
) -> None:
    """From a mask's file to one with the same numbers."""
    from samtune.embeddings import EmbeddingCache
    from samtune.images import write_image, write_png
    from samtune.overlay import draw_overlay

    started = time.monotonic()
    output = output or mask.with_name(f"{mask.stem}.refined.png")
    labels, objects, pixels = _read_file(mask, image)
    _check_output(output, keep=(mask, image))
    with Terminal(quiet) as terminal:
        refiner = load(terminal)
        after = labels
        if refiner.refined:
            _, embedding = EmbeddingCache().encode(pixels, refiner.predictor.sam)
            after = _refine_objects(
                labels,
                objects,
                partial(refiner, embedding),
                lambda done: terminal.show("refining", done, len(objects)),
            )
    write_png(output, after)
    drawn = output.with_suffix(".overlay.jpg")
    if refiner.draws:
        masks = [after == value for value, _ in objects]
        write_image(drawn, draw_overlay(pixels, masks, [], refiner.moves))
    changed = int((after != labels).sum())
    if as_json:
        print_json(
            {
                "image": str(image),
                "mask": str(output),
                "adapter": str(adapter),
                "objects": len(objects),
                "refined": refiner.refined,
                "changed": changed,
                "area": sum(int((after == value).sum()) for value, _ in objects),
                "seconds": time.monotonic() - started,
                **({"overlay": str(drawn)} if refiner.draws else {}),
            }
        )
        return
    typer.echo(f"{output}  {count(len(objects), 'object')}, {changed:,} px changed")
    if refiner.draws:
        typer.echo(drawn)


def _read_file(
    mask: Path, image: Path
) -> tuple["LabelImage", list[tuple[int, "DatasetObject"]], "NDArray[np.uint8]"]:
    """A mask's numbers, its objects with theirs, and the image."""
    from samtune.images import read_image

    labels, objects = _read_objects(mask)
    pixels = read_image(image)
    if labels.shape != pixels.shape[:2]:
        raise ImageError(
            f"{mask} is {_in_words(labels.shape)} and {image} is {_in_words(pixels.shape)}: give "
            "the image that the mask is of."
        )
    return labels, objects, pixels


def _read_objects(path: Path) -> tuple["LabelImage", list[tuple[int, "DatasetObject"]]]:
    """A mask's numbers as they can be written again, and each object with its number."""
    import numpy as np

    from samtune.images import read_labels
    from samtune.masks import objects_in, reading_of

    labels = read_labels(path)
    reading = reading_of(labels)
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
    check_output(path, keep)


def _in_words(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} px wide and {shape[0]} px high"
