"""`samtune export`: an adapter as ONNX files for other tools."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from samtune.cli_segment import decode_line, open_lines
from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    JsonOption,
    QuietOption,
    Terminal,
    check_adapters,
    count,
    open_sam,
    print_json,
)
from samtune.errors import PromptError

if TYPE_CHECKING:
    from samtune.parity import Question


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="What fit wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files.")
    ] = Path(),
    to: Annotated[Literal["onnx"], typer.Option(help="What to export to.")] = "onnx",
    quantize: Annotated[
        bool,
        typer.Option("--quantize", help="int8 in the encoder and the PLM: smaller, a bit off."),
    ] = False,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Compare with torch on these images and prompts, lines of JSON as for segment; "
            "a drawing when left out.",
        ),
    ] = None,
    as_json: JsonOption = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    quiet: QuietOption = False,
) -> None:
    """Export an adapter with its frozen model as ONNX files.

    Writes encoder.onnx, decoder.onnx (the signature of segment-anything's own export, so that
    tools which take SAM take it), model.yaml for AnyLabeling and X-AnyLabeling, and parity.json.
    They are compared with torch first; if they differ, nothing is written.
    """
    from samtune.adapter import Adapter
    from samtune.export import DECODER, ENCODER, MODEL, PARITY, export_onnx
    from samtune.parity import drawn_questions, require_onnxruntime

    started = time.monotonic()
    check_adapters([adapter])
    require_onnxruntime()
    questions = drawn_questions() if prompts is None else _read_questions(prompts)
    with Terminal(quiet) as terminal:
        sam = open_sam(terminal, checkpoint, "cpu")
        parity = export_onnx(
            sam,
            Adapter.load(adapter, sam),
            adapter.name.removesuffix(".safetensors"),
            output,
            questions,
            quantize=quantize,
            on_progress=terminal.show,
        )
    files = [output / name for name in (ENCODER, DECODER, MODEL, PARITY)]
    if as_json:
        print_json(
            {
                "adapter": str(adapter),
                "files": [str(file) for file in files],
                "quantized": quantize,
                "questions": parity.questions,
                "low_res_difference": parity.low_res_difference,
                "mask_iou": parity.mask_iou,
                "seconds": time.monotonic() - started,
            }
        )
        return
    for file in files[:2]:
        typer.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    for file in files[2:]:
        typer.echo(file)
    typer.echo(
        f"as torch on {count(parity.questions, 'prompt')}: logits differ by up to "
        f"{parity.low_res_difference:.1g}, least IoU of masks {parity.mask_iou:.4f}"
    )


def _read_questions(name: str) -> list["Question"]:
    """Read what to compare on; a bad line is the end of it, as nothing is done yet."""
    from samtune.images import read_image
    from samtune.parity import Question
    from samtune.prompt_text import parse_prompt_line

    questions: dict[Path, list[Question]] = {}  # those on one image in a row
    with open_lines(name) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                asked = parse_prompt_line(decode_line(line))
                known = questions.setdefault(asked.image, [])
                image = known[0].image if known else read_image(asked.image)
                asked.prompt.check_inside((image.shape[0], image.shape[1]))
            except PromptError as error:
                raise PromptError(f"{name}, line {number}: {error}") from error
            known.append(Question(image, asked.prompt))
    if not questions:
        raise PromptError(f"{name} holds no prompt to compare on: write a line of JSON into it.")
    return [question for known in questions.values() for question in known]
