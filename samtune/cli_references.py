"""The options that say what an adapter is to look for: annotated images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.console import parsed

if TYPE_CHECKING:
    from samtune.adapter import Adapter
    from samtune.reference_cells import Marked
    from samtune.references import Reference
    from samtune.sam import Sam

ReferenceOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference",
        metavar="IMAGE",
        help="For adapters of --method vrp: an image that shows what to look for; repeat for more.",
    ),
]
ReferenceMaskOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference-mask",
        metavar="FILE",
        help="Its mask, of the same size: all that is not 0 is meant.",
    ),
]
ReferenceClassOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="ID", help="Of the masks' values, the one that is meant."),
]
ReferencePointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reference-point", metavar="X,Y", help="Or a pixel on it; repeat to say it better."
    ),
]
ReferenceBoxOption = Annotated[
    list[str] | None,
    typer.Option("--reference-box", metavar="X0,Y0,X1,Y1", help="Or a box round it."),
]
ReferenceScribbleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reference-scribble",
        metavar='"X,Y X,Y ..."',
        help="Or a line across it. Several references have one annotation each, in the same order.",
    ),
]


def parse_references(
    context: typer.Context,
    images: list[Path] | None,
    masks: list[Path] | None,
    class_id: int | None,
    points: list[str] | None,
    boxes: list[str] | None,
    scribbles: list[str] | None,
) -> list["Reference"]:
    """What the options ask for; wrong usage where it is open which image an annotation is of."""
    from samtune.prompt_text import parse_box, parse_point, parse_scribble
    from samtune.references import Reference

    all_of = Reference(
        images[0] if images else Path(),
        tuple(masks or ()),
        class_id,
        tuple(parsed("--reference-point", parse_point, points or [])),
        tuple(parsed("--reference-box", parse_box, boxes or [])),
        tuple(parsed("--reference-scribble", parse_scribble, scribbles or [])),
    )
    counts = [len(one) for one in (masks, points, boxes, scribbles) if one]
    if not images:
        if counts or class_id is not None:
            context.fail("an annotation needs its image: name it with --reference.")
        return []
    if not counts:
        context.fail(
            "--reference needs to say what in the image is meant: --reference-mask FILE, or "
            "--reference-point, --reference-box or --reference-scribble."
        )
    if class_id is not None and not masks:
        context.fail("--reference-class is one of a mask's values: give --reference-mask.")
    if len(images) == 1:
        return [all_of]
    if counts != [len(images)]:
        context.fail(
            f"of {len(images)} references each needs one annotation, all of the same kind and in "
            "the same order: it would be open which image another one is of."
        )
    return [
        Reference(
            image,
            all_of.masks[position : position + 1],
            class_id,
            all_of.points[position : position + 1],
            all_of.boxes[position : position + 1],
            all_of.scribbles[position : position + 1],
        )
        for position, image in enumerate(images)
    ]


def check_references(
    context: typer.Context, adapters: list[Path], references: list["Reference"]
) -> None:
    """Make sure, before anything is loaded, that adapters can do with what is given.

    Raises:
        AdapterError: one of the files is no adapter.
    """
    from samtune.adapter import read_info

    if references and not adapters:
        context.fail("--reference needs an --adapter of --method vrp: plain SAM takes clicks.")
    for path in adapters:
        about = read_info(path)
        if references and not about.takes_references:
            context.fail(
                f"{path} is of --method {about.method}, which takes no reference: leave out "
                "--reference, or give an adapter of --method vrp."
            )
        if not references and about.needs_reference:
            context.fail(
                f"{path} was trained on several classes, and has to be told what to look for: "
                "--reference IMAGE --reference-mask FILE."
            )


def read_references(references: list["Reference"], sam: "Sam") -> list["Marked"]:
    """Encode the images that are not cached, and read their annotations.

    Raises:
        SamtuneError: as `Reference.read`.
    """
    from samtune.embeddings import EmbeddingCache

    cache = EmbeddingCache()
    return [one.read(sam, cache) for one in references]


def referring(adapter: "Adapter", references: list["Marked"], sam: "Sam") -> "Adapter":
    """The adapter with these references in place of its own; with its own where there are none."""
    from dataclasses import replace

    if not references:
        return adapter
    return replace(adapter, learned=adapter.learned.with_references(sam, references))
