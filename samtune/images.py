"""Images and masks: from a file to an upright array, and from an array to a whole file.

An image is (H, W, 3) uint8 RGB as a viewer shows it: the EXIF rotation is applied, to masks
as well, so that both can be compared pixel by pixel. What the numbers in a mask mean is decided
in masks.py.
"""

import contextlib
import io
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from samtune.errors import ImageError, OutputError
from samtune.files import atomic_write
from samtune.upright import orientation, upright, upright_rgb

# Only these decoders: Pillow has others that call outside programs (EPS) or are rarely checked.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
FORMATS_IN_WORDS = "JPEG, PNG, WebP, TIFF or BMP"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})

LONGEST_SIDE = 65_535  # pixels, as in a JPEG; what resizes a mask takes a kilobyte for each


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file as upright RGB.

    Grey and palette images become RGB, CMYK is converted, and transparent pixels are laid
    over white, as a page shows them. More than 8 bits are scaled by the depth in use: a
    camera's 12 bits in a 16-bit file fill the range instead of being nearly black. Of a file
    with several pages the first is read.

    Args:
        path: a JPEG, PNG, WebP, TIFF or BMP file; its content counts, not its suffix.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: no such file, no permission, not an image, truncated, or too large to be
            read safely: more than 178,956,970 pixels (Pillow's limit), or 65,535 on a side.
    """
    with _opened(path) as file:
        file.load()  # before its orientation is asked for, see upright.upright
        return upright_rgb(file)


def image_size(path: Path) -> tuple[int, int]:
    """Check that an image can be read to its end, and tell its upright size (H, W).

    A JPEG is decoded at an eighth of its scale, which takes a fraction of the time and
    meets a truncated file all the same.

    Raises:
        ImageError: as read_image.
    """
    with _opened(path) as file:
        width, height = file.size
        file.draft(None, (max(width // 8, 1), max(height // 8, 1)))
        turned = orientation(file) >= 5  # these exchange rows and columns
        stored = (width, height)
        file.load()
        if file.format == "TIFF":  # Pillow turns a TIFF itself, as it loads
            return file.height, file.width
        return stored if turned else stored[::-1]


def read_labels(path: Path | IO[bytes]) -> npt.NDArray[np.integer[Any]]:
    """Read a mask file's numbers as they are stored, upright.

    Grey (8, 16 or 32 bits) as is; a palette's indices; one bit as 0 and 1; colour where the
    three channels are equal, as that channel. Fully transparent pixels are 0.

    Lossy files (JPEG, most WebP) smear a mask's edges and lose any labels: their values are
    taken as 0 below 128 and 255 from there, never as instance or class labels.

    Args:
        path: a JPEG, PNG, WebP, TIFF or BMP file, or such a file opened.

    Returns:
        (H, W) of an integer type.

    Raises:
        ImageError: cannot be read (as read_image), or holds colours instead of numbers.
    """
    with _opened(path) as file:
        lossy = _is_lossy(file)
        # Pillow keeps the upper 8 bits of 16-bit colour, and with them none of the labels.
        shortened = len(file.getbands()) > 1 and ";16" in str(file.tile)
        image = upright(file)
        values = np.asarray(image)
    if shortened:
        raise ImageError(
            f"{path} is a mask in 16-bit colour: save it as a grey or palette PNG "
            "whose numbers are the labels."
        )
    if image.mode == "P":
        return _palette_labels(image, values)
    if image.mode in ("LA", "RGB", "RGBA"):
        values = _single_channel(path, image.mode, values, tolerance=64 if lossy else 0)
    elif image.mode == "F" and _are_whole(values):
        values = values.astype(np.int32)
    elif not (image.mode in ("1", "L") or image.mode.startswith("I")):
        raise _colour_mask(path)
    if lossy:
        return np.where(values >= 128, 255, 0).astype(np.uint8)
    return values.astype(values.dtype.newbyteorder("=") if values.dtype != bool else np.uint8)


def is_lossy(path: Path) -> bool:
    """Whether an image file was saved with loss, as JPEG always is, and WebP and TIFF can be.

    Raises:
        ImageError: as read_image.
    """
    with _opened(path) as file:
        return _is_lossy(file)


def write_mask(path: Path, mask: npt.NDArray[np.bool_]) -> None:
    """Write a mask as an 8-bit PNG, 255 on the object and 0 elsewhere.

    Args:
        path: where to; its folder is made if need be.
        mask: (H, W) bool.

    Raises:
        OutputError: the path is no .png (others may lose pixels), or cannot be written.
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"a mask is (H, W) bool, not {mask.shape} {mask.dtype}")
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} cannot hold a mask: masks are written as PNG; name it .png.")
    _write(path, Image.fromarray(mask.view(np.uint8) * np.uint8(255)))


def write_image(path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) uint8 RGB image in the format of the path's suffix.

    Raises:
        OutputError: no such format, or the path cannot be written.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, not {rgb.shape} {rgb.dtype}")
    check_image_format(path)
    _write(path, Image.fromarray(rgb))


def check_image_format(path: Path) -> None:
    """Make sure that a path's suffix is one of an image format.

    Raises:
        OutputError: it is not.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise OutputError(f"{path} names no image format: end it in {FORMATS_IN_WORDS}.")


def write_png(path: Path, pixels: npt.NDArray[np.uint8 | np.uint16]) -> None:
    """Write an array as a PNG, without loss.

    Args:
        path: where to, a .png; its folder is made if need be.
        pixels: (H, W) uint8 or uint16 grey, or (H, W, 3) RGB or (H, W, 4) RGBA, both uint8.

    Raises:
        OutputError: the path cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} does not end in .png")
    _write(path, Image.fromarray(pixels))


@contextlib.contextmanager
def _opened(path: Path | IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    """Open an image file; any failure to open or decode it becomes an ImageError."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and odd metadata; what it can read is good enough.
            warnings.simplefilter("ignore")
            if isinstance(path, Path) and not _ends(path):
                raise ImageError(
                    f"{path} is no ordinary file, and reading it might never end: give an image "
                    "file."
                )
            with Image.open(path, formats=FORMATS) as image:
                if max(image.size) > LONGEST_SIDE:
                    raise ImageError(
                        f"{path} is {max(image.size):,} px long, and a side may have at most "
                        f"{LONGEST_SIDE:,} px: cut it into parts."
                    )
                yield image
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist: check its name.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder, not an image file.") from error
    except PermissionError as error:
        raise ImageError(f"{path} may not be read: change its permissions.") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is not a {FORMATS_IN_WORDS} image: convert it or move it elsewhere."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path} has too many pixels to be read safely: scale it down or move it elsewhere."
        ) from error
    except Exception as error:  # a broken file makes the decoders raise nearly anything
        raise ImageError(
            f"{path} is damaged or truncated ({error}): replace it or move it elsewhere."
        ) from error


def _ends(path: Path) -> bool:
    """Whether a path is a file or folder, and no pipe or device."""
    mode = path.stat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _is_lossy(image: ImageFile.ImageFile) -> bool:
    if image.format == "WEBP":
        # A lossless WebP has a chunk VP8L, at the front or behind a short header.
        assert image.fp is not None, "an opened image has its file"
        image.fp.seek(0)
        return b"VP8L" not in image.fp.read()
    return image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg"


def _palette_labels(image: Image.Image, indices: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A palette's indices, where black is 0 also in files that list white before black."""
    colours = image.getpalette() or []
    if colours[:6] == [255] * 3 + [0] * 3 and indices.max(initial=0) <= 1:
        return np.where(indices == 0, 1, 0).astype(np.uint8)
    return indices.astype(np.uint8)


def _are_whole(values: npt.NDArray[Any]) -> bool:
    """Whether floats are whole numbers that an integer of 32 bits holds."""
    return bool((np.abs(values) < 2.0**31).all()) and np.array_equal(values, np.round(values))


def _single_channel(
    path: Path | IO[bytes], mode: str, values: npt.NDArray[Any], tolerance: int
) -> npt.NDArray[Any]:
    """The channel that all colour channels repeat; 0 where an alpha channel is 0."""
    colour = values[:, :, : 1 if mode == "LA" else 3]
    first = colour[:, :, 0]
    if np.ptp(colour, axis=2).max(initial=0) > tolerance:
        raise _colour_mask(path)
    if mode in ("LA", "RGBA"):
        return np.where(values[:, :, -1] == 0, 0, first)
    return first


def _colour_mask(path: Path | IO[bytes]) -> ImageError:
    return ImageError(
        f"{path} is a mask in colours, and colours have no order: save it as a grey or palette "
        "PNG whose numbers are 0 for the background and 255, or labels, for objects."
    )


def _write(path: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()  # in memory first: Pillow hides a full disk behind its own errors
    lossy = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    try:
        image.save(encoded, format=Image.registered_extensions()[path.suffix.lower()], **lossy)
    except (OSError, ValueError) as error:  # Pillow's encoders say no more than that
        width, height = image.size
        raise OutputError(
            f"{path} cannot hold {width}×{height} px ({error}): a JPEG's sides end "
            "at 65,500, a WebP's at 16,383."
        ) from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.getvalue())
