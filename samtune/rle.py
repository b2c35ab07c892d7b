"""Run-length encoding of masks as COCO has it: pixels down the columns, 0s first.

Written as lists of counts, as COCO's own files have them and every reader takes. Read from
lists and from the compressed strings of pycocotools (maskApi.c, rleToString). It is not done
with pycocotools because that trusts the file: on counts that do not add up to the image it reads
and writes memory that is not its own. The tests compare with it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def encode_rle(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Count the runs of equal pixels of an (H, W) bool mask.

    Example:
        >>> encode_rle(np.array([[False, True], [True, True]]))
        [1, 3]
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    ends = [0] if pixels.size and pixels[0] else []
    counts: list[int] = np.diff([*ends, *changes.tolist(), pixels.size], prepend=0).tolist()
    return counts


def decode_rle(counts: Sequence[int] | str, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of run lengths.

    Args:
        counts: a list, or a compressed string.
        size: (H, W) of the mask.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the counts are none, or are not those of a mask of this size; the text says
            which.

    Example:
        >>> decode_rle([1, 3], (2, 2)).tolist()
        [[False, True], [True, True]]
    """
    runs = _decompressed(counts) if isinstance(counts, str) else list(counts)
    if not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("run lengths are whole numbers from 0 on")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(
            f"its run lengths add up to {sum(runs)} pixels, not to {size[1]}×{size[0]}"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size, order="F")


def _decompressed(text: str) -> list[int]:
    """Five bits a character from "0" on; later counts as differences to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its run lengths are no compressed RLE")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its run lengths end in the middle of a number")
    return runs
