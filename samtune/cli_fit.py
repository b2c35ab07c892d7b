"""`samtune fit`: from a folder of masks to an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from samtune.cli_fit_data import read_references, read_train_and_held_out
from samtune.cli_fit_plm import fit_plm
from samtune.cli_fit_references import fit_from_references, parse_parts
from samtune.cli_fit_vrp import parse_classes, train_vrp
from samtune.cli_inputs import check_outputs
from samtune.cli_report import report_files
from samtune.config import PARTS, FitConfig, MethodName, Precision, VrpConfig
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
)
from samtune.files import real_path
from samtune.processes import started


def fit(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A COCO file, or a folder: images/ and masks/, x.jpg beside x.png or x_mask.png, "
            "YOLO segmentation labels, or LabelMe files.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="ADAPTER", help="Where to write it. [default: DATA's name]"
        ),
    ] = None,
    method: Annotated[
        MethodName,
        typer.Option(
            help="plm trains the Prompt Learning Module; persam takes the images as references of "
            "an object, trains nothing, and finds it without clicks; persam-f also learns which "
            "of SAM's masks is meant; vrp learns to find what is annotated in any reference."
        ),
    ] = "plm",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|auto",
            help="persam: one image only, or the one most like the others. [default: all]",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help=f"persam: leave out a part, to see what it does: {', '.join(PARTS)}.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="all|ID,ID,...",
            help="vrp: the masks' values, or categories counted from 1, are classes: learn all of "
            "them or these, to find any class that a reference shows.",
        ),
    ] = None,
    class_id: ClassOption = None,
    objects: ObjectsOption = None,
    images: ImagesOption = None,
    val: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="Hold out these images, and train on all of the first DATA."
        ),
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help=f"Share of images to hold out. [default: {FitConfig.val_fraction}, in turns where "
            f"that is under {FitConfig.fewest_held_out} objects; persam: none]",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=f"Passes over the objects, in each training. [default: {FitConfig.passes}, within "
            f"{FitConfig.objects:,} to {FitConfig.most_objects:,} objects, or once where there are "
            "more; less for few masks and for vrp]",
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Plan training to end within so long. Encoding and scoring come on top.",
        ),
    ] = FitConfig.max_minutes,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror",
            help="Learn from the images in a mirror as well, for twice the encoding: for things "
            "that will be seen from the other side, too.",
        ),
    ] = False,
    pmm: Annotated[
        bool | None,
        typer.Option(
            "--pmm/--no-pmm",
            help="Train with the Point Matching Module beside, or without. "
            f"[default: {'--pmm' if FitConfig.pmm else '--no-pmm'}]",
        ),
    ] = None,
    dense_prompt: Annotated[
        bool | None,
        typer.Option(
            "--dense-prompt/--no-dense-prompt",
            help="plm, vrp: learn what to tell the decoder of each place of an image, too, or the "
            "prompt's tokens alone, as the papers do. "
            f"[default: {'--dense-prompt' if FitConfig.dense_prompt else '--no-dense-prompt'}]",
        ),
    ] = None,
    no_refiner: Annotated[
        bool,
        typer.Option(
            "--no-refiner", help="Do not learn to refine contours, which takes about 15 s."
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**63 - 1,
            metavar="N",
            help="Same seed, same adapter on the same machine.",
        ),
    ] = FitConfig.seed,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Objects a step; the processes of torchrun share them."
        ),
    ] = FitConfig.batch_size,
    precision: Annotated[
        Precision,
        typer.Option(
            help="plm, vrp: what training computes with an image's cells in; auto takes bfloat16 "
            "where the processor is fast at it, for three fifths (plm) or seven tenths of the time."
        ),
    ] = FitConfig.precision,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted fit, same options.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write DIR/report.html, a page about the held-out images with the training's "
            "curves, and DIR/report.json, its numbers.",
        ),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="plm: also learn where objects are, for segment --auto to find all of them "
            "without a prompt; takes a minute more, or a few where masks are few.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Keep an adapter that is no better than plain SAM.")
    ] = False,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Make an adapter from images and masks, or from annotations of COCO, YOLO or LabelMe.

    torchrun --nproc-per-node N -m samtune fit ... shares the work of one fit among N processes.
    """
    if val is not None and val_fraction is not None:
        context.fail("--val and --val-fraction exclude each other: give one.")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise typer.BadParameter("it is between 0 and 1.", param_hint="--val-fraction")
    if max_minutes is not None and not 0 < max_minutes < float("inf"):
        raise typer.BadParameter("it is more than 0.", param_hint="--max-minutes")
    left_out = parse_parts(context, without or [])
    if method == "plm" and (reference is not None or without):
        context.fail("--reference and --without are for --method persam and persam-f.")
    if method == "vrp" and (reference is not None or without):
        context.fail(
            "--method vrp takes all images as references in turn, and has no parts: leave out "
            "--reference and --without."
        )
    if method != "plm" and (pmm is not None or no_refiner):
        context.fail(
            "--pmm, --no-pmm and --no-refiner are for --method plm: the others have neither a "
            "Point Matching Module nor a contour refiner."
        )
    if method.startswith("persam") and dense_prompt is not None:
        context.fail(
            f"--method {method} learns no dense prompt: --dense-prompt and --no-dense-prompt are "
            "for --method plm and vrp."
        )
    if method != "plm" and auto:
        context.fail(
            "--auto is for --method plm: adapters of the others find objects by themselves."
        )
    if method.startswith("persam") and precision != "auto":
        context.fail("--precision is for --method plm and vrp: the others compute in float32.")
    if method != "plm" and mirror:
        context.fail("--mirror is for --method plm: the others take images as they are.")
    if classes is not None and (method != "vrp" or class_id is not None):
        context.fail("--classes is for --method vrp, and takes the place of --class.")
    if classes is not None and objects is not None:
        context.fail("--objects is not for --classes: all of a class in an image is one object.")
    if method != "plm" and batch_size != FitConfig.batch_size:
        context.fail("--batch-size is for --method plm: the others have no batches to choose.")
    if method.startswith("persam") and (epochs or max_minutes or resume):
        context.fail(
            f"--method {method} trains nothing step by step: --epochs, --max-minutes and --resume "
            "are for --method plm and vrp."
        )
    if method != "plm" and started().count > 1:
        context.fail(f"--method {method} is for one process: start it without torchrun.")
    if method == "vrp" and report is not None:
        context.fail("--report is for the other methods: vrp's table is what it prints.")
    if method != "plm" and report is not None and val is None and val_fraction is None:
        context.fail(
            f"--report is about held-out images, and --method {method} holds none out by itself: "
            "give --val or --val-fraction, too."
        )
    if method == "persam-f" and set(left_out) & {"cascade", "negative-point"}:
        context.fail(
            "--method persam-f has no negative point, and weighs the first of its cascade's "
            "answers: leave out another part, or take --method persam."
        )
    several = None if classes is None else parse_classes(context, classes)
    config = FitConfig(
        method=method,
        seed=seed,
        epochs=epochs,
        max_minutes=max_minutes,
        val_fraction=FitConfig.val_fraction if val_fraction is None else val_fraction,
        mirror=mirror,
        pmm=FitConfig.pmm if pmm is None else pmm,
        dense_prompt=FitConfig.dense_prompt if dense_prompt is None else dense_prompt,
        refiner=not no_refiner,
        batch_size=batch_size,
        precision=precision,
        auto=auto,
    )
    name = real_path(data).stem if data.is_file() else real_path(data).name
    output = Path(f"{name}.safetensors") if output is None else output
    files = None if report is None else report_files(report)
    if method == "vrp":
        terminal = Terminal(quiet)
        train_vrp(
            terminal,
            lambda: read_train_and_held_out(
                terminal,
                data,
                val,
                config.val_fraction,  # some are held out however few there are
                class_id,
                objects if classes is None else "instances",
                images,
                config,
            ),
            output,
            VrpConfig(
                seed=seed,
                epochs=epochs,
                max_minutes=max_minutes,
                val_fraction=config.val_fraction,
                dense_prompt=config.dense_prompt,
                precision=precision,
            ),
            classes=several,
            several=classes is not None,
            checkpoint=checkpoint,
            device=device,
            resume=resume,
            as_json=as_json,
        )
        return
    if method != "plm":
        with Terminal(quiet) as terminal:
            train, held = read_references(
                terminal, data, val, val_fraction, class_id, objects, images, config
            )
            check_outputs((output, *(files or ())), train, held)
            fit_from_references(
                terminal,
                train,
                held,
                output,
                method=method,
                reference=reference,
                without=left_out,
                seed=seed,
                checkpoint=checkpoint,
                device=device,
                as_json=as_json,
                report=files,
            )
        return
    fit_plm(
        lambda terminal: read_train_and_held_out(
            terminal, data, val, val_fraction, class_id, objects, images, config
        ),
        output,
        config,
        checkpoint=checkpoint,
        device=device,
        resume=resume,
        force=force,
        as_json=as_json,
        quiet=quiet,
        files=files,
    )
