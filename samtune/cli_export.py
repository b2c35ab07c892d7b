"""`samtune export`: an adapter as ONNX files for other tools, or as a page for browsers."""

import shlex
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from samtune.cli_inputs import check_adapters, check_not_read, open_sam
from samtune.cli_questions import open_lines
from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    JsonOption,
    QuietOption,
    Terminal,
    print_json,
)
from samtune.errors import PromptError
from samtune.words import count

if TYPE_CHECKING:
    from samtune.parity import Parity, Question


def export(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="What fit wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files.")
    ] = Path(),
    to: Annotated[
        Literal["onnx", "web"],
        typer.Option(help="ONNX files for other tools, or a page for browsers with its models."),
    ] = "onnx",
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
    """Export an adapter with its frozen model as ONNX files, or as a page.

    onnx writes encoder.onnx, decoder.onnx (the signature of segment-anything's own export, so
    that tools which take SAM take it), model.yaml for AnyLabeling and X-AnyLabeling, and
    parity.json. web writes a page for any server of static files: open a picture, click, and see
    plain SAM's mask and the adapter's side by side. The models are compared with torch first; if
    they differ, nothing is written.
    """
    from samtune.adapter import Adapter
    from samtune.export import ONNX_FILES, export_onnx
    from samtune.export_web import SITE_FILES, check_place, export_web
    from samtune.parity import drawn_questions, require_onnxruntime
    from samtune.web_runtime import runtime_archive

    started = time.monotonic()
    check_adapters([adapter])
    require_onnxruntime()
    questions = drawn_questions() if prompts is None else _read_questions(prompts)
    name = adapter.name.removesuffix(".safetensors")
    files = [output / file for file in (SITE_FILES if to == "web" else ONNX_FILES)]
    check_not_read(files, [adapter] if prompts is None else [adapter, Path(prompts)])
    with Terminal(quiet) as terminal:
        write: Callable[..., Sequence[Parity]] = export_onnx
        if to == "web":
            check_place(output)
            write = partial(export_web, runtime=runtime_archive(terminal.show_bytes))
        sam = open_sam(terminal, checkpoint, "cpu")
        parities = write(
            sam,
            Adapter.load(adapter, sam),
            name,
            output,
            questions,
            quantize=quantize,
            on_progress=terminal.show,
        )
    difference = max(parity.low_res_difference for parity in parities)
    mask_iou = min(parity.mask_iou for parity in parities)
    if as_json:
        print_json(
            {
                "adapter": str(adapter),
                "files": [str(file) for file in files],
                "quantized": quantize,
                "questions": len(questions),
                "low_res_difference": difference,
                "mask_iou": mask_iou,
                "seconds": time.monotonic() - started,
            }
        )
        return
    for line in _in_words(files) if to == "onnx" else [_site_in_words(files)]:
        typer.echo(line)
    typer.echo(
        f"as torch on {count(len(questions), 'prompt')}: logits differ by up to "
        f"{difference:.1g}, least IoU of masks {mask_iou:.4f}"
    )
    if to == "web" and not quiet:
        typer.echo(
            f"to see it: python3 -m http.server --directory {shlex.quote(str(output))}, and open "
            "http://localhost:8000",
            err=True,
        )


def _in_words(files: list[Path]) -> list[str]:
    """Each file, and how large the models are."""
    sizes = [f"  {file.stat().st_size / 1e6:.1f} MB" * (file.suffix == ".onnx") for file in files]
    return [f"{file}{size}" for file, size in zip(files, sizes, strict=True)]


def _site_in_words(files: list[Path]) -> str:
    size = sum(file.stat().st_size for file in files)
    return f"{files[0]}  {size / 1e6:.1f} MB in {len(files)} files"


def _read_questions(name: str) -> list["Question"]:
    """Read what to compare on; a bad line is the end of it, as nothing is done yet."""
    from samtune.images import image_size
    from samtune.parity import Question
    from samtune.prompt_text import decode_line, parse_prompt_line, read_lines

    questions: dict[Path, list[Question]] = {}  # those on one image in a row
    sizes: dict[Path, tuple[int, int]] = {}
    with open_lines(name) as lines:
        for number, line in enumerate(read_lines(lines), start=1):
            if not line.strip():
                continue
            try:
                asked = parse_prompt_line(decode_line(line))
                if asked.image not in sizes:
                    sizes[asked.image] = image_size(asked.image)
                asked.prompt.check_inside(sizes[asked.image])
            except PromptError as error:
                raise PromptError(f"{name}, line {number}: {error}") from error
            known = questions.setdefault(asked.image, [])
            image = known[0].image if known else asked.image  # the same, to be encoded once
            known.append(Question(image, asked.prompt))
    if not questions:
        raise PromptError(f"{name} holds no prompt to compare on: write a line of JSON into it.")
    return [question for known in questions.values() for question in known]
