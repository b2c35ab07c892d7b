"""ONNX files: onnx_graphs.py's graphs traced into files, and made smaller.

Graphs are made by torch's exporter from TorchScript: the newer one needs a further package, and
sizes that are known only when the graph runs (an image's own size) are not for it. Whether a
trace may take for constant what it took for constant is what parity.py tells.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from samtune.adapter import Adapter
from samtune.errors import ExportError, OutputError
from samtune.onnx_graphs import (
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    DecoderGraph,
    EncoderGraph,
)
from samtune.sam import Sam

OPSET = 17  # the first with LayerNormalization; ONNX Runtime reads it from 1.13 on
_LARGEST_ENCODER = 2**31 - 2**26  # bytes of weights; a protobuf file ends at 2 GiB


def check_exportable(sam: Sam, adapter: Adapter, folder: Path) -> None:
    """Make sure, before any work, that files can hold the image encoder and the adapter.

    Raises:
        ExportError: the encoder is too large, or the adapter's method is not one decoding.
        OutputError: the folder's name is no text, and ONNX's libraries open no such file.
    """
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(
            f"{folder} is no name in UTF-8, which ONNX files need: choose another --output."
        ) from error
    if not adapter.learned.exports:
        raise ExportError(
            f"an adapter of {adapter.info.method} cannot be exported: it finds objects by itself "
            "before it decodes, and SAM's ONNX signature has no room for that. Adapters of "
            "--method plm can be."
        )
    weights = sum(p.numel() * p.element_size() for p in sam.image_encoder.parameters())
    if weights > _LARGEST_ENCODER:
        raise ExportError(
            f"the image encoder of {sam.kind} has {weights / 1e9:.1f} GB of weights, and an ONNX "
            "file ends at 2.1 GB: export an adapter of a smaller checkpoint."
        )


def write_encoder(sam: Sam, path: Path) -> None:
    """Write the image encoder."""
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


def write_decoder(sam: Sam, adapter: Adapter | None, path: Path) -> None:
    """Write the decoder with an adapter, or that of plain SAM."""
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


def quantize_encoder(path: Path) -> None:
    """Turn the weights of the encoder's matrix products into int8, in place."""
    _quantize(path)


def quantize_decoder(path: Path) -> None:
    """Turn the weights of the PLM's MLP into int8, in place; an adapter may have none.

    The frozen decoder in int8 is off by a tenth of an object (benchmarks/README.md).
    """
    _quantize(path, within="/plm/mlp/")


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
    if chosen := [node.name for node in nodes if within in node.name]:  # none would mean all
        quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=["MatMul"],  # int8 convolutions are slower and lose most
            nodes_to_quantize=chosen,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # 7 bits: without VNNI, sums of products of 8 bits overflow
        )
    prepared.unlink()
