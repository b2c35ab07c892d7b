"""Annotations: what files of other tools say of the objects in images, as they are read.

COCO, YOLO and LabelMe (read_coco.py, read_yolo.py, read_labelme.py) each give images with shapes;
annotation_objects.py draws them. Polygons in files count pixels from the image's upper left
corner, so that a pixel x covers x to x + 1; in samtune its centre is x, half less. The pixels whose
centre lies within a polygon are the object (outlines.py).

Such files come from elsewhere and are not trusted: a name in them never leads out of the folder.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from samtune.outlines import outlines_to_mask
from samtune.pairs import Pairing
from samtune.polygons import Polygon

Mask = npt.NDArray[np.bool_]
_LISTED = 20  # categories in a message
_FARTHEST = 1e9  # pixels; a vertex farther off is drawn as if it were there


@dataclass(frozen=True)
class Shape:
    """One object, as a file describes it.

    Args:
        name: what a message calls it, such as "annotation 17".
        category: a key of the annotations' categories.
        draw: makes its mask, (H, W) bool, for an image's size (H, W); a ValueError says what is
            wrong with it, as a sentence that begins behind the name.
    """

    name: str
    category: str
    draw: Callable[[tuple[int, int]], Mask]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its shapes.

    Args:
        image: its file.
        source: the file that describes it.
        shapes: its objects.
        size: (H, W) that the source tells, if it does.
    """

    image: Path
    source: Path
    shapes: list[Shape]
    size: tuple[int, int] | None = None


@dataclass
class Annotations:
    """What a file or folder of annotations holds; `found` has what was skipped, and faults."""

    form: str  # "coco", "yolo" or "labelme"
    images: list[AnnotatedImage] = field(default_factory=list)
    categories: dict[str, str] = field(default_factory=dict)  # names by id; LabelMe's by name
    found: Pairing = field(default_factory=Pairing)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it cannot be read; the text says why, as a sentence that begins behind the
            file's name, with line and column where it is no JSON.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("is no ordinary file")  # a pipe might never end
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is no text in UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is no JSON: {where}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise ValueError(f"is no JSON that can be read ({error})") from error


def find_image(name: object, folder: Path, root: Path) -> Path | None:
    """The file that a name in an annotation file means, if it is there.

    Args:
        name: what the file says, with either kind of slashes.
        folder: what it is relative to.
        root: what it must not lead out of: neither by .., nor as an absolute path, nor through a
            symbolic link.

    Raises:
        ValueError: it is no file name, or leads out; the text begins behind the name.
    """
    if not isinstance(name, str) or not name.strip("/\\. ") or "\0" in name:
        raise ValueError("is no file name")
    windows = PureWindowsPath(name)
    path = folder / windows.as_posix()
    outside = bool(windows.drive or windows.root or Path(name).is_absolute())
    try:
        outside = outside or not path.resolve().is_relative_to(root.resolve())
        there = not outside and path.is_file()
    except (OSError, RuntimeError) as error:  # too long, links in a circle
        raise ValueError(f"is no file name ({error})") from error
    if outside:
        raise ValueError(f"leads out of {root}, where it may not be followed")
    return path if there else None


def told_size(height: object, width: object) -> tuple[int, int] | None:
    """(H, W) as a file tells it, if it does."""
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def contour(numbers: object) -> npt.NDArray[np.float64]:
    """Check a contour's numbers, and bring them to samtune's coordinates.

    Args:
        numbers: x, y, x, y, ... in pixels from the image's corner.

    Returns:
        (N, 2) float64 xy, an integer being a pixel's centre.

    Raises:
        ValueError: what is wrong with it, as in Shape.
    """
    if not isinstance(numbers, Sequence) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
    ):
        raise ValueError("has a polygon that is no list of numbers")
    if len(numbers) % 2:
        raise ValueError(f"has a polygon of {len(numbers)} numbers: each x needs its y")
    if len(numbers) < 6:
        points = "1 point" if len(numbers) == 2 else f"{len(numbers) // 2} points"
        raise ValueError(f"has a polygon of {points}: an outline has three or more")
    try:
        values = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    except OverflowError:
        values = np.array([[np.inf, np.inf]])
    if not np.isfinite(values).all():
        raise ValueError("has a polygon whose numbers are not all finite")
    return np.clip(values - 0.5, -_FARTHEST, _FARTHEST)


def draw_contours(contours: Sequence[npt.NDArray[np.floating]], size: tuple[int, int]) -> Mask:
    """The union of what contours enclose, (H, W) bool."""
    return outlines_to_mask([Polygon(ring.astype(np.float32)) for ring in contours], size)


def draw_box(corners: Sequence[float], size: tuple[int, int]) -> Mask:
    """The pixels of a box x0, y0, x1, y1, counted from the image's corner; (H, W) bool."""
    x0, y0, x1, y1 = corners
    return draw_contours([contour([x0, y0, x1, y0, x1, y1, x0, y1])], size)


def listed(names: Sequence[str]) -> str:
    """Names for a message, cut off where they are many."""
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
