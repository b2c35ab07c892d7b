"""`samtune prompts`: other tools' masks and boxes as prompts for `segment --prompts`."""

from pathlib import Path
from typing import Annotated

import typer

from samtune.cli_inputs import read_data
from samtune.console import ClassOption, ImagesOption, ObjectsOption, QuietOption, Terminal


def prompts(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Images with masks or annotations, as for fit; boxes of COCO and YOLO, too.",
        ),
    ],
    box: Annotated[bool, typer.Option("--box", "-b", help="Give each object's box.")] = False,
    points: Annotated[
        int | None,
        typer.Option(
            "--points",
            "-n",
            metavar="N",
            min=0,
            help="Points on each object: its centre point, then drawn ones. [default: 1, or 0 "
            "with --box]",
        ),
    ] = None,
    class_id: ClassOption = None,
    objects: ObjectsOption = None,
    images: ImagesOption = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same points.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Make prompts of other tools' masks and boxes.

    Prints a line of JSON for each object, as segment --prompts reads it:
    samtune prompts DATA --box | samtune segment --prompts -
    """
    if points is None:
        points = 0 if box else 1
    if points == 0 and not box:
        context.fail("--points 0 leaves nothing to prompt with: add --box.")
    import numpy as np

    from samtune.prompt_text import format_prompt_line
    from samtune.prompts import prompt_for

    with Terminal(quiet) as terminal:
        dataset = read_data(terminal, data, class_id, objects, images, boxes=True)
    for number, thing in enumerate(dataset.objects):
        prompt = prompt_for(thing.mask(), points, box, np.random.default_rng([seed, number]))
        typer.echo(format_prompt_line(dataset.pairs[thing.image_index].image, prompt))
