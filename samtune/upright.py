"""How a stored image is shown: turned upright, in 8 bits, with white behind what is transparent.

Pillow's images in, numpy's arrays out; images.py opens the files and tells what is wrong.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_STRIP_PIXELS = 1 << 18  # taken over at once

# EXIF tag 274 "Orientation": how the stored pixels have to be turned to stand upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_Show = Callable[[Image.Image], npt.NDArray[np.uint8]]
"""How a part of an image is shown: (H, W, 3) uint8, or (H, W, 1) where it is grey."""


def orientation(image: Image.Image) -> int:
    """EXIF's number for how an image has to be turned, 1 to 8; from 5 on, rows become columns."""
    try:
        return int(image.getexif().get(274, 1))
    except Exception:  # a photo with broken EXIF data is still a photo
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Decode and turn; loaded first, because Pillow turns a TIFF itself as it loads."""
    image.load()
    turn = _UPRIGHT.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def upright_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A loaded image shown upright, taken over some rows at a time.

    Pillow needs up to four bytes a pixel, as many again for each image turned or converted, and
    twice the array for one made at once: of a photo of 100 megapixels that would be gigabytes.

    Args:
        image: of any mode, loaded.

    Returns:
        (H, W, 3) uint8, as `images.read_image` says.
    """
    show = _showing(image)
    width, height = image.size
    turned = orientation(image)
    pixels = np.empty((width, height, 3) if turned >= 5 else (height, width, 3), np.uint8)
    stored = pixels.swapaxes(0, 1) if turned >= 5 else pixels  # a view, as are the next two
    stored = stored[::-1] if turned in (3, 4, 6, 7) else stored
    stored = stored[:, ::-1] if turned in (2, 3, 7, 8) else stored
    for rows, part in _parts(image):
        stored[rows] = show(part)
    return pixels


def _showing(image: Image.Image) -> _Show:
    if image.mode == "F" or image.mode.startswith("I"):
        full = _full_scale(image)
        return lambda part: _scaled_to_8_bits(np.asarray(part), full)[:, :, None]
    if image.has_transparency_data:
        return _over_white
    return lambda part: np.asarray(part if part.mode == "RGB" else part.convert("RGB"))


def _over_white(part: Image.Image) -> npt.NDArray[np.uint8]:
    white = Image.new("RGBA", part.size, "white")
    return np.asarray(Image.alpha_composite(white, part.convert("RGBA")).convert("RGB"))


def _parts(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """An image some rows at a time: which rows of the array, and what is stored there."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        yield slice(top, bottom), image.crop((0, top, width, bottom))


def _full_scale(image: Image.Image) -> float:
    """What is shown as white: the largest number of the depth in use."""
    brightest = max(float(_finite(np.asarray(part)).max()) for _, part in _parts(image))
    if image.mode == "F" and brightest <= 1:
        return 1.0  # floats from 0 to 1 are the convention
    depths = (8, 10, 12, 14, 16, 24, 32)
    return next((2.0**bits - 1 for bits in depths if brightest < 2.0**bits), brightest)


def _scaled_to_8_bits(grey: npt.NDArray[Any], full: float) -> npt.NDArray[np.uint8]:
    return np.clip(np.round(_finite(grey) * (255 / full)), 0, 255).astype(np.uint8)


def _finite(grey: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Numbers as float64; what is none, or infinite, as black."""
    return np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
