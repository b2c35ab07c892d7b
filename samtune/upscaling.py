"""From low-resolution logits to a mask of the image's own size, for as much of it as is needed.

segment-anything's postprocess_masks resizes all logits bilinearly to the padded square, cuts the
padding off and resizes again to the image (segment_anything/modeling/sam.py). Both steps are
linear and act on rows and columns alone, so that together they are R · logits · Cᵀ; and a pixel
can only be on the object where one of the logits that it is made of is, so that only the
rectangle around those is computed.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

MASK_THRESHOLD = 0.0  # a logit above it is on the object
_STRIP = 64  # rows of pixels computed at once: they need few rows of logits, and little memory


def upscale_masks(
    low_res_logits: Tensor,
    image_size: int,
    frame: tuple[int, int],
    original_size: tuple[int, int],
) -> NDArray[np.bool_]:
    """Bring masks back to the original image.

    Args:
        low_res_logits: (B, M, 4h, 4w) in the padded input frame.
        image_size: side of the padded square, pixels.
        frame: (H, W) the input size, where the padding begins.
        original_size: (H, W) of the image.

    Returns:
        (B, M, H, W) bool.
    """
    low_res_logits = low_res_logits.cpu()
    rows, columns = _matrices(low_res_logits, image_size, frame, original_size)
    masks = np.zeros((*low_res_logits.shape[:2], *original_size), dtype=np.bool_)
    flat = masks.reshape(-1, *original_size)  # a view
    for mask, logits in zip(flat, low_res_logits.flatten(0, 1), strict=True):
        _fill(mask, logits, rows, columns)
    return masks


def upscale_logits(
    low_res_logits: Tensor,
    image_size: int,
    frame: tuple[int, int],
    original_size: tuple[int, int],
) -> Tensor:
    """Bring logits back to the original image; arguments as for `upscale_masks`.

    Returns:
        (B, M, H, W) logits, on the CPU.
    """
    rows, columns = _matrices(low_res_logits, image_size, frame, original_size)
    return rows @ (low_res_logits.cpu() @ columns.T)


def _fill(mask: NDArray[np.bool_], logits: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Set a mask's pixels, strip by strip of the rectangle where any can be on the object."""
    on_object = logits > MASK_THRESHOLD
    (top, bottom), (left, right) = (
        _reach(matrix[:, on_object.any(dim=along)].any(dim=1))
        for matrix, along in ((rows, 1), (columns, 0))
    )
    if top == bottom or left == right:  # nothing, or only in the padding
        return
    columns = columns[left:right]
    first, last = _reach(columns.any(dim=0))
    wide = logits[:, first:last] @ columns[:, first:last].T
    for start in range(top, bottom, _STRIP):
        some = rows[start : min(start + _STRIP, bottom)]
        above, below = _reach(some.any(dim=0))
        full = some[:, above:below] @ wide[above:below]
        mask[start : start + len(some), left:right] = (full > MASK_THRESHOLD).numpy()


def _matrices(
    low_res_logits: Tensor, image_size: int, frame: tuple[int, int], original_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """R (H, 4h) and C (W, 4w)."""
    rows, columns = (
        _resizing(side, image_size, framed, length)
        for side, framed, length in zip(
            low_res_logits.shape[-2:], frame, original_size, strict=True
        )
    )
    return rows, columns


def _reach(wanted: Tensor) -> tuple[int, int]:
    """From the first to behind the last that is wanted."""
    places = wanted.nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


@lru_cache(maxsize=8)
def _resizing(side: int, image_size: int, framed: int, length: int) -> Tensor:
    """(length, side) the weights of `side` logits in each of `length` pixels."""
    with torch.inference_mode(False):  # it is kept for whatever comes
        square = F.interpolate(torch.eye(side)[None], image_size, mode="linear")
        return F.interpolate(square[..., :framed], length, mode="linear")[0].T.contiguous()
