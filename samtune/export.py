"""Export: an adapter and its frozen model as ONNX files, checked before they appear.

    encoder.onnx    an image to its embedding
    decoder.onnx    an embedding and a prompt to the adapter's mask: segment-anything's signature
    model.yaml      both for the segment-anything model type of AnyLabeling and X-AnyLabeling
    parity.json     how they compare with torch; written last

Whether they answer as torch does is what parity.py tells; if not, none of them appears.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from samtune import __version__
from samtune.adapter import Adapter
from samtune.errors import OutputError
from samtune.files import appearing_whole
from samtune.onnx_files import (
    OPSET,
    check_exportable,
    quantize_decoder,
    quantize_encoder,
    write_decoder,
    write_encoder,
)
from samtune.parity import Parity, Question, compare, require_onnxruntime
from samtune.sam import Sam
from samtune.words import readable

ONNX_FILES = ("encoder.onnx", "decoder.onnx", "model.yaml", "parity.json")
ENCODER, DECODER, MODEL, PARITY = ONNX_FILES

# For AnyLabeling and X-AnyLabeling, with the size in their own files; paths are beside this one.
_MODEL_YAML = """\
type: segment_anything
name: {name}
provider: samtune
display_name: {display_name}
encoder_model_path: {encoder}
decoder_model_path: {decoder}
input_size: {side}
max_width: {side}
max_height: {height}
"""


def export_onnx(
    sam: Sam,
    adapter: Adapter,
    name: str,
    folder: Path,
    questions: Sequence[Question],
    *,
    quantize: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Parity]:
    """Write a model with an adapter as ONNX files, if they answer as torch does.

    Args:
        sam: the frozen model, on the CPU.
        adapter: what to plug onto it.
        name: what labelling tools shall call it.
        folder: where the four files go; it is made if need be.
        questions: what to compare with torch on.
        quantize: keep the weights of the encoder's and the PLM's matrix products as int8, and
            compute those in int8.
        on_progress: called with what is being done, and how much of it of how much.

    Returns:
        How the files compare with torch: one entry.

    Raises:
        ExportError: they do not answer as torch does (nothing is written then), the method cannot
            be exported, ONNX Runtime is missing, or the encoder is too large for one file.
        OutputError: the folder cannot be written, or has another tool's model.yaml.
    """
    require_onnxruntime()  # before a minute of work
    told = on_progress or (lambda phase, done, total: None)
    check_exportable(sam, adapter, folder)
    refuse_others(folder / MODEL, "provider: samtune", "another model")
    with appearing_whole(folder, ONNX_FILES) as temporary:
        told("exporting", 0, 2)
        write_encoder(sam, temporary / ENCODER)
        told("exporting", 1, 2)
        write_decoder(sam, adapter, temporary / DECODER)
        told("exporting", 2, 2)
        if quantize:
            quantize_encoder(temporary / ENCODER)
            told("quantizing", 1, 2)
            quantize_decoder(temporary / DECODER)
            told("quantizing", 2, 2)
        parity = compare(
            sam,
            adapter,
            temporary / ENCODER,
            temporary / DECODER,
            questions,
            lambda done, total: told("comparing with torch", done, total),
        )
        parity.check(quantize)
        (temporary / MODEL).write_text(_model_yaml(name, sam.image_size), encoding="utf-8")
        described = {**asdict(parity), **provenance(sam, adapter, quantize)}
        (temporary / PARITY).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return [parity]


def refuse_others(file: Path, ours: str, what: str) -> None:
    """Make sure that a file is not there, or one of samtune's.

    Args:
        file: what would be overwritten.
        ours: what stands in samtune's own.
        what: what it is called.

    Raises:
        OutputError: it is somebody else's.
    """
    if file.is_file() and ours not in file.read_text(encoding="utf-8", errors="replace"):
        raise OutputError(f"{file} is {what}: give a folder of its own with --output.")


def _model_yaml(name: str, image_size: int) -> str:
    """What labelling tools load as a custom model."""
    return _MODEL_YAML.format(
        name=_in_yaml(f"samtune-{name}"),
        display_name=_in_yaml(f"{name} (samtune)"),
        encoder=ENCODER,
        decoder=DECODER,
        side=image_size,
        height=image_size * 2 // 3,
    )


def _in_yaml(text: str) -> str:
    """What is JSON is YAML too, but for its escapes of characters beyond the first 65,536."""
    return json.dumps(readable(text), ensure_ascii=False)


def provenance(sam: Sam, adapter: Adapter, quantized: bool) -> dict[str, Any]:
    """What was exported, and by what: for the file beside it."""
    onnxruntime = require_onnxruntime()
    return {
        "quantized": quantized,
        "opset": OPSET,
        "encoder": sam.kind,
        "decoder_fingerprint": adapter.info.base.decoder_fingerprint,
        "samtune": __version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
