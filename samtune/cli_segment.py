"""`samtune segment`: from images and prompts to mask files.

Two ways in: images named on the command line, with one prompt for all of them, or --prompts,
where each line of JSON names its image and a line of JSON answers each mask. In both, what one
image does wrong does not keep the others from being done.
"""

import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from samtune.cli_answers import Question
from samtune.cli_formats import (
    LabelOption,
    OverwriteOption,
    chosen_formats,
    class_labels,
    open_segment_writers,
)
from samtune.cli_inputs import check_writable, open_sam
from samtune.cli_outcomes import Outcome, say_images, say_lines
from samtune.cli_questions import given_prompts, open_lines, own_questions, read_questions
from samtune.cli_ray import Job, RayOption, segment_on_ray
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
)
from samtune.cli_results import Wanted
from samtune.cli_segmenter import Segmenter
from samtune.cli_sources import MirrorOption, Refining, open_source, refining_helps
from samtune.config import EVERY_OBJECT
from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    Terminal,
    parsed,
)
from samtune.shards import Shard

if TYPE_CHECKING:
    from samtune.results import Names


def segment(
    context: typer.Context,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Images to segment, or folders of them."),
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(
            "--point", "-p", metavar="X,Y", help="A pixel on the object; repeat to say it better."
        ),
    ] = None,
    negative_points: Annotated[
        list[str] | None,
        typer.Option("--negative-point", "-n", metavar="X,Y", help="A pixel on the background."),
    ] = None,
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            "--box", "-b", metavar="X0,Y0,X1,Y1", help="A box round the object; each is an object."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help='Lines of JSON, {"image": "a.jpg", "points": [[x, y]], "labels": [1], '
            '"box": [x0, y0, x1, y1]}, from a file or stdin; answers in JSON, line by line.',
        ),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Without a prompt: find all objects of the adapter's kind, for those that were "
            "made with fit --auto or find objects anyway.",
        ),
    ] = False,
    max_objects: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Without a prompt, for adapters that find objects: look for up to so many. "
            "[default: 1, with --auto all]",
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="The images are frames of a film, in their order: look for each object where it "
            "was in the frame before. For adapters that find objects, and for --auto.",
        ),
    ] = False,
    mirror: MirrorOption = False,
    min_score: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="S",
            help="Answer that there is nothing where the score times the presence is below.",
        ),
    ] = 0.0,
    adapters: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            "-a",
            metavar="FILE",
            help="What fit wrote; repeat to compare. Plain SAM without.",
        ),
    ] = None,
    references: ReferenceOption = None,
    reference_masks: ReferenceMaskOption = None,
    reference_class: ReferenceClassOption = None,
    reference_points: ReferencePointOption = None,
    reference_boxes: ReferenceBoxOption = None,
    reference_scribbles: ReferenceScribbleOption = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Move contours onto the boundary, where that helps.")
    ] = False,
    refine_always: Annotated[
        bool, typer.Option("--refine-always", help="Also where fit found that it does not help.")
    ] = False,
    all_masks: Annotated[
        bool, typer.Option("--all-masks", help="Also the masks that SAM considered.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")
    ] = Path(),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            metavar="F",
            help="What to write, several by repeating or with commas: png (0/255 masks), "
            "instances (one 16-bit label image an image), cutout (RGBA, cut to the object's box), "
            "coco (one coco.json for all images), yolo (segmentation labels), labelme, geojson, "
            "svg, npz (mask, logits, score). [default: png]",
        ),
    ] = None,
    label: LabelOption = None,
    overwrite: OverwriteOption = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also draw masks and prompts on the image.")
    ] = False,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Do every N-th image only, starting with the I-th, and leave the others to the "
            "other shards, 1/N to N/N: the same command in a job array or GNU parallel. Images of "
            "one name and lines about one image stay in one shard, so that results are called as "
            "in the whole run; coco.json becomes coco.I-of-N.json.",
        ),
    ] = "1/1",
    ray: RayOption = None,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Segment objects at points or in boxes, or those that an adapter finds by itself.

    Adapters of --method persam and vrp need no prompt; with --auto, those of fit --auto find all
    objects as well. A point or a box takes the place of what
    those of persam would have looked at; to those of vrp, which answer with all there is of what
    their references show, it is an additional prompt.

    Points and boxes are in an image's own pixels, as an image viewer shows them. Writes
    IMAGE.mask.png for each image, IMAGE.1.mask.png and so on where there are several;
    --format has others.
    """
    images = images or []
    shown = parse_references(
        context,
        references,
        reference_masks,
        reference_class,
        reference_points,
        reference_boxes,
        reference_scribbles,
    )
    if prompts is None:
        if auto and (points or negative_points or boxes):
            context.fail("--auto finds objects without points and boxes: give one or the other.")
        if not (points or negative_points or boxes):
            _check_finding(context, adapters or [], auto)
        if not images:
            context.fail("name the images to segment.")
        if len(boxes or []) > 1 and (points or negative_points):
            context.fail(
                "with several boxes it is open which of them a point belongs to: give points "
                "with one box, or use --prompts."
            )
    elif images or points or negative_points or boxes or auto:
        context.fail("--prompts names images, points and boxes itself: give no others, no --auto.")
    if follow and (prompts is not None or points or negative_points or boxes):
        context.fail("--follow is for what an adapter finds by itself: give no prompts.")
    wanted = Wanted(
        all_masks=all_masks,
        overlay=overlay,
        max_objects=max_objects or (EVERY_OBJECT if auto else 1),
        min_score=min_score,
        follow=follow,
        mirror=mirror,
    )
    refining: Refining = "always" if refine_always else "where it helps" if refine else "no"
    if refining != "no" and not adapters:
        context.fail("--refine needs an --adapter: it is the adapter that learned to refine.")
    from samtune.adapter import read_info
    from samtune.checkpoints import resolve
    from samtune.pairs import find_images

    images = find_images(images)
    given = given_prompts(points or [], negative_points or [], boxes or [])
    part = parsed("--shard", Shard.parse, [shard])[0]

    chosen = chosen_formats(context, formats or ["png"])
    if follow and (ray is not None or not part.is_whole):
        context.fail("--follow needs all frames, in their order: give no --shard and no --ray.")
    if ray is not None and not part.is_whole:
        context.fail("--ray shares the images out by itself: give no --shard.")
    labels = class_labels(context, adapters or [], label)

    lines = None if prompts is None else open_lines(prompts)
    check_writable(output / "mask.png")
    read = [*images, *(file for one in shown for file in (one.image, *one.masks))]
    names, writers = open_segment_writers(chosen, output, read, labels, overwrite, quiet, part)
    check_references(context, adapters or [], shown)
    if ray is not None and shown:
        context.fail("--ray does not bring references to its workers: leave out one of the two.")
    paths: list[Path | None] = [*adapters] if adapters else [None]
    asked = [Question(number, image, given) for number, image in enumerate(images, 1)]
    if ray is not None:
        if lines is not None:
            with lines:
                asked = list(read_questions(lines))
        job = Job(
            folder=Path.cwd(),
            keep=tuple(dict.fromkeys(one.image for one in asked if "." in one.image.stem)),
            checkpoint=checkpoint,
            device=device,
            adapters=tuple(paths),
            labels=tuple(labels),
            refining=refining,
            formats=tuple(chosen),
            output=output,
            wanted=wanted,
            overwrite=overwrite,
        )
        with Terminal(quiet) as terminal:
            resolve(checkpoint, terminal.show_bytes)  # fetched once, for the workers here
            if refining != "no":
                for path in adapters or []:  # said once: workers are silent
                    refining_helps(terminal, path, read_info(path), refining == "always")
        outcomes = segment_on_ray(ray, job, asked, writers)
        in_json = lines is not None
        failed, all_of = say_lines(outcomes) if in_json else say_images(outcomes, as_json)
    else:
        with Terminal(quiet) as terminal:
            sam = open_sam(terminal, checkpoint, device)
            marked = read_references(shown, sam)
            make = partial(open_source, terminal, sam, marked, refining, every_cell="npz" in chosen)
            sources = [make(path, label) for path, label in zip(paths, labels, strict=True)]
        with Segmenter(sources, wanted, names, writers) as segmenter:
            if lines is not None:
                failed, all_of = _answer_lines(segmenter, lines, part, names)
            else:
                # A list: all names are known before the first.
                own = list(own_questions(part, names, asked))
                failed, all_of = _answer_images(segmenter, own, as_json)
    if not (all_of or part.is_whole or quiet):
        typer.echo(
            f"Nothing to do for shard {shard}: there are fewer images, and those of one name stay "
            "in one shard.",
            err=True,
        )
    if failed:
        if all_of > 1 and not quiet:
            things = "images" if lines is None else "lines"
            typer.echo(f"{failed} of {all_of} {things} failed.", err=True)
        raise typer.Exit(1)


def _check_finding(context: typer.Context, adapters: list[Path], auto: bool) -> None:
    """Make sure that all adapters find objects by themselves, as no prompt says where they are."""
    from samtune.adapter import read_info

    if not adapters and auto:
        context.fail("--auto finds the kind of object that an --adapter knows: give one.")
    if not adapters:
        context.fail("say what to segment: --point X,Y or --box X0,Y0,X1,Y1 (or --prompts).")
    for path in adapters:
        info = read_info(path)
        if info.finds or (auto and info.proposes):
            continue
        hint = "--auto finds all objects" if info.proposes else "fit --auto makes one that finds"
        context.fail(
            f"{path} answers prompts: say what to segment, --point X,Y or --box X0,Y0,X1,Y1 (or "
            f"--prompts); {hint}. Adapters of --method persam and vrp find objects by themselves."
        )


def _answer_images(
    segmenter: Segmenter, questions: list[Question], as_json: bool
) -> tuple[int, int]:
    """Segment every image; returns how many failed, of how many."""
    several = len(segmenter.sources) > 1
    with closing(segmenter.answer_all(questions, ahead=True)) as answered:
        return say_images((Outcome.of(*one, name_adapter=several) for one in answered), as_json)


def _answer_lines(
    segmenter: Segmenter, lines: BinaryIO, shard: Shard, names: "Names"
) -> tuple[int, int]:
    """Answer prompt lines as they come; returns how many failed, of how many."""
    # Whoever writes into a pipe may wait for an answer before the next line.
    ahead = lines is not sys.stdin.buffer and lines.seekable()
    if ahead:  # all names are known before the first, as with images
        for _ in own_questions(shard, names, read_questions(lines)):
            pass
        lines.seek(0)
    questions = own_questions(shard, names, read_questions(lines))
    with lines, closing(segmenter.answer_all(questions, ahead=ahead)) as answered:
        return say_lines(Outcome.of(*one) for one in answered)
