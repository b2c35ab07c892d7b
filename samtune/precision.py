"""In which numbers a training computes with an image's cells.

A training's time goes into products of a few rows with the 4,096 cells of an image. Processors with
instructions for bfloat16, which has the range of float32 and 8 bits of its precision, make them
several times as fast, and cells take half of the memory. What is learned, tokens, attention weights
and the loss stay in float32, and so do answers, scores and all that is written.
"""

import torch

from samtune.config import Precision

_FAST = ("avx512_bf16", "amx_bf16")  # AMD from Zen 4 on, Intel's Xeons from Cooper Lake on


def settled(precision: Precision, device: torch.device) -> Precision:
    """In which type a training computes with cells.

    Args:
        precision: what was asked for; "auto" takes bfloat16 where the processor has instructions
            for it.
        device: where the training computes; on others than the CPU, auto is float32.
    """
    if precision != "auto":
        return precision
    fast = device.type == "cpu" and any(_capabilities().get(name, False) for name in _FAST)
    return "bfloat16" if fast else "float32"


def cells_type(precision: Precision, device: torch.device) -> torch.dtype:
    """The same as torch's type."""
    chosen: torch.dtype = getattr(torch, settled(precision, device))
    return chosen


def computing(kind: torch.dtype, device: torch.device) -> torch.autocast:
    """Inside of it, products with cells are of that type, and what needs more stays in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=kind == torch.bfloat16)


def _capabilities() -> dict[str, bool]:
    """What the processor can do, as far as torch tells; older ones do not."""
    return getattr(torch.cpu, "get_capabilities", dict)()
