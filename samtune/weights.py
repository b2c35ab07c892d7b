"""Pretrained weights: what kind of SAM a file holds, told by its tensors, never by its name.

Reads PyTorch's and safetensors' files without ever executing code. Nothing here builds a model:
sam.py does, from the tensors.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from samtune.errors import CheckpointError
from samtune.sources import SOURCES

_PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Pretrained weights in memory.

    Attributes:
        path: the file they were read from.
        kind: "mobile_sam", "vit_b", "vit_l" or "vit_h".
        state: float32 tensors under segment-anything's names; batch norms of a MobileSAM
            are folded, as tiny_vit.TinyViT wants them.
    """

    path: Path
    kind: str
    state: dict[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read pretrained weights of any of the four kinds.

    Args:
        path: a .pth or .pt file of PyTorch, or a .safetensors file, whatever its name. Code in
            a pickle never runs.

    Returns:
        The kind and the tensors. Whether these are complete shows when sam.py loads them.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    state = _read_tensors(path)
    kind = _kind(state)
    if kind is None:
        first = min(state, default="none")
        raise CheckpointError(
            f"{path} holds {len(state)} tensors (first by name: {first}), but not those of a SAM. "
            "Give a checkpoint of segment-anything (ViT-B, ViT-L, ViT-H) or MobileSAM."
        )
    state = {name: tensor for name, tensor in state.items() if name.startswith(_PARTS)}
    _check_plain(path, state)
    if kind == "mobile_sam":
        try:
            state = fold_batch_norms(state)
        except KeyError as error:
            raise CheckpointError(
                f"{path} looks like MobileSAM but lacks the tensor {error.args[0]}. "
                "Give an unchanged checkpoint."
            ) from error
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} looks like MobileSAM, but the shapes of its batch norms do not fit its "
                "convolutions. Give an unchanged checkpoint."
            ) from error
    return Checkpoint(path, kind, {name: tensor.float() for name, tensor in state.items()})


def fold_batch_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official MobileSAM's tensors into those of tiny_vit.TinyViT.

    A batch norm in eval mode multiplies and shifts each channel by constants, so it merges
    into the convolution before it: `x.c.weight` and `x.bn.*` become `x.c.weight` and
    `x.c.bias`. The classifier's head, which SAM never runs, is left out.

    Args:
        state: tensors by name, batch norms folded already or not.

    Returns:
        A new state dict.

    Raises:
        KeyError: a batch norm lacks one of its tensors; names it.
    """
    folded = {
        name: tensor
        for name, tensor in state.items()
        if ".bn." not in name
        and not name.startswith(("image_encoder.head.", "image_encoder.norm_head."))
        and not name.endswith(".attention_bias_idxs")  # follows from the window's size
    }
    for name in state:
        if not name.endswith(".bn.weight"):
            continue
        module = name.removesuffix(".bn.weight")
        gamma, beta, mean, variance = (
            state[f"{module}.bn.{part}"].double()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / torch.sqrt(variance + 1e-5)  # epsilon: torch's and TinyViT's default
        weight = state[f"{module}.c.weight"]
        folded[f"{module}.c.weight"] = (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
        folded[f"{module}.c.bias"] = (beta - mean * scale).to(weight.dtype)
    return folded


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors, in the format that its first bytes show."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path} ({error.strerror}). Give a file that exists, "
            f"or one of {', '.join(SOURCES)}."
        ) from error
    try:
        if head[8:9] == b"{":  # after the length of its header
            return safetensors.torch.load_file(path)
        if head.startswith(b"PK"):  # mapped, so that a ViT-H is not in memory twice
            _check_stored(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        elif head.startswith(b"\x80"):  # PyTorch before 1.6
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise CheckpointError(
                f"{path} is no checkpoint: it begins with {head!r}, which is neither PyTorch's "
                "format (.pth, .pt) nor safetensors. Get the file again."
            )
    except CheckpointError:
        raise
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Get the file again.") from error
    except Exception as error:  # on a damaged pickle torch.load may raise anything
        raise CheckpointError(
            f"{path} cannot be read as weights: it is damaged, or holds Python objects besides "
            "tensors, which samtune never opens. Get the file again, from its official address."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not named tensors. "
            "Give a checkpoint of segment-anything or MobileSAM."
        )
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _check_stored(path: Path) -> None:
    """Refuse an archive that would grow as it is unpacked; PyTorch's own are stored as they are."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise CheckpointError(
                f"{path} is a compressed archive, and PyTorch's files are not: unpack it, or get "
                "the file again."
            )


def _check_plain(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no plain numbers, or say that they are more than the file can hold.

    A pickle may spread one stored number over any shape, or sow a few over a sparse tensor. In
    float32 weights take at most twice their file's size, as those in half precision do.
    """
    left = 2 * path.stat().st_size
    for name, tensor in state.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not is_plain or tensor.is_complex() or tensor.is_quantized:
            raise CheckpointError(f"{path} has {name} as no plain numbers. Get the file again.")
        left -= 4 * tensor.numel()  # as float32, which they become
        if left < 0:
            raise CheckpointError(
                f"{path} has {name} of shape {tuple(tensor.shape)}, more numbers than such a file "
                "can hold: it is damaged. Get the file again."
            )


def _kind(state: Mapping[str, Tensor]) -> str | None:
    """Which SAM these tensors are, or None."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if shapes.get("mask_decoder.mask_tokens.weight") != (4, 256) or shapes.get(
        "prompt_encoder.no_mask_embed.weight"
    ) != (1, 256):
        return None
    if shapes.get("image_encoder.patch_embed.seq.0.c.weight") == (32, 3, 3, 3):
        return "mobile_sam"
    widths = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
    positions = shapes.get("image_encoder.pos_embed", ())
    return widths.get(positions[-1]) if positions[:-1] == (1, 64, 64) else None
