"""Export: an adapter and its frozen model as ONNX files, checked before they appear.

    encoder.onnx    an image to its embedding
    decoder.onnx    an embedding and a prompt to the adapter's mask: segment-anything's signature
    model.yaml      both for the segment-anything model type of AnyLabeling and X-AnyLabeling
    parity.json     how they compare with torch; written last

Graphs are made by torch's exporter from TorchScript: the newer one needs a further package, and
sizes that are known only when the graph runs (an image's own size) are not for it. Whether a
trace may take for constant what it took for constant is what parity.py tells.
"""

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from samtune import __version__
from samtune.adapter import Adapter
from samtune.errors import ExportError, OutputError
from samtune.files import why_not_written
from samtune.onnx_graphs import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    DecoderGraph,
    EncoderGraph,
)
from samtune.parity import Parity, Question, compare, require_onnxruntime
from samtune.predictor import Predictor
from samtune.sam import Sam

OPSET = 17  # the first with LayerNormalization; ONNX Runtime reads it from 1.13 on
_LARGEST_ENCODER = 2**31 - 2**26  # bytes of weights; a protobuf file ends at 2 GiB
ENCODER, DECODER, MODEL, PARITY = "encoder.onnx", "decoder.onnx", "model.yaml", "parity.json"

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
) -> Parity:
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
        How the files compare with torch.

    Raises:
        ExportError: they do not answer as torch does (nothing is written then), the method cannot
            be exported, ONNX Runtime is missing, or the encoder is too large for one file.
        OutputError: the folder cannot be written.
    """
    if not adapter.learned.exports:
        raise ExportError(
            f"an adapter of {adapter.info.method} cannot be exported: it answers by decoding three "
            "times, which SAM's ONNX signature has no room for. Adapters of --method plm can be."
        )
    require_onnxruntime()  # before a minute of work
    told = on_progress or (lambda phase, done, total: None)
    weights = sum(p.numel() * p.element_size() for p in sam.image_encoder.parameters())
    if weights > _LARGEST_ENCODER:
        raise ExportError(
            f"the image encoder of {sam.kind} has {weights / 1e9:.1f} GB of weights, and an ONNX "
            "file ends at 2.1 GB: export an adapter of a smaller checkpoint."
        )
    with _appearing_whole(folder, (ENCODER, DECODER, MODEL, PARITY)) as temporary:
        told("exporting", 0, 2)
        _write_encoder(sam, temporary / ENCODER)
        told("exporting", 1, 2)
        _write_decoder(sam, adapter, temporary / DECODER)
        told("exporting", 2, 2)
        if quantize:
            _quantize(temporary / ENCODER)
            told("quantizing", 1, 2)
            # The frozen decoder in int8 is off by a tenth of an object (benchmarks/README.md).
            _quantize(temporary / DECODER, within="/plm/mlp/")
            told("quantizing", 2, 2)
        parity = compare(
            Predictor(sam, adapter, every_cell=True),
            temporary / ENCODER,
            temporary / DECODER,
            questions,
            lambda done, total: told("comparing with torch", done, total),
        )
        parity.check(quantize)
        (temporary / MODEL).write_text(_model_yaml(name, sam.image_size), encoding="utf-8")
        described = _described(sam, adapter, parity, quantize)
        (temporary / PARITY).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return parity


def _write_encoder(sam: Sam, path: Path) -> None:
    side = sam.image_size
    example = torch.zeros(side * 2 // 3, side, 3)  # neither square nor full: padding is traced
    _trace(
        EncoderGraph(sam),
        (example,),
        path,
        ENCODER_INPUTS,
        ENCODER_OUTPUTS,
        {"input_image": {0: "height", 1: "width"}},
    )


def _write_decoder(sam: Sam, adapter: Adapter, path: Path) -> None:
    side, grid = sam.image_size, sam.image_pe.shape[2:]
    example = (
        torch.zeros(1, sam.image_pe.shape[1], *grid),
        torch.tensor([[[side / 2, side / 3], [0.0, 0.0]]]),
        torch.tensor([[1.0, -1.0]]),
        torch.zeros(1, 1, 4 * grid[0], 4 * grid[1]),
        torch.zeros(1),
        torch.tensor([side * 2.0, side * 3.0]),
    )
    _trace(
        DecoderGraph(sam, adapter),
        example,
        path,
        DECODER_INPUTS,
        DECODER_OUTPUTS,
        {
            "point_coords": {1: "num_points"},
            "point_labels": {1: "num_points"},
            "masks": {2: "height", 3: "width"},
        },
    )


def _trace(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_axes: dict[str, dict[int, str]],
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # That there is a newer exporter, and each number that the trace takes for constant.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=dynamic_axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _quantize(path: Path, within: str = "") -> None:
    """Turn the weights of a file's matrix products into int8, in place.

    Args:
        path: the file.
        within: only of the nodes whose name, which is their module's path, holds this.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(path, prepared, skip_optimization=True, skip_symbolic_shape=True)
    nodes = onnx.load(prepared, load_external_data=False).graph.node
    quantize_dynamic(
        prepared,
        path,
        op_types_to_quantize=["MatMul"],  # int8 convolutions are slower and lose most
        nodes_to_quantize=[node.name for node in nodes if within in node.name],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,  # 7 bits: without VNNI, sums of products of 8 bits overflow
    )
    prepared.unlink()


def _model_yaml(name: str, image_size: int) -> str:
    """What labelling tools load as a custom model."""
    return _MODEL_YAML.format(
        # What is JSON is YAML too, whatever characters a name has.
        name=json.dumps(f"samtune-{name}"),
        display_name=json.dumps(f"{name} (samtune)"),
        encoder=ENCODER,
        decoder=DECODER,
        side=image_size,
        height=image_size * 2 // 3,
    )


def _described(sam: Sam, adapter: Adapter, parity: Parity, quantized: bool) -> dict[str, Any]:
    """What was compared, with what."""
    onnxruntime = require_onnxruntime()
    return {
        **asdict(parity),
        "quantized": quantized,
        "opset": OPSET,
        "encoder": sam.kind,
        "decoder_fingerprint": adapter.info.base.decoder_fingerprint,
        "samtune": __version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


@contextlib.contextmanager
def _appearing_whole(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give a folder to write to, whose files appear in `folder` only if all goes well.

    The last name is moved last, and an old file of that name is gone before the first: where it
    is, the others belong to it.
    """
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".samtune-", dir=folder))
        yield temporary
        (folder / names[-1]).unlink(missing_ok=True)
        for name in names:
            (temporary / name).replace(folder / name)
    except OSError as error:
        raise OutputError(why_not_written(folder / names[0], error)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if it is empty: then it was made for nothing
