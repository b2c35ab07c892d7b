"""Polygons: a mask's outlines with their holes, and the mask within given outlines.

Coordinates are (x, y) in pixels, an integer being a pixel's centre. An outline runs through
the centres of the object's own border pixels, that of a hole too, and whatever lies on an
outline belongs to the object. With that a mask becomes polygons and the same mask again.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

_SHIFT = 8  # OpenCV takes vertices in fixed point: steps of 1/256 pixel
_MARGIN = 16  # pixels drawn round the image, for polygons that leave it
_FARTHEST = 2.0**20  # pixels; farther vertices would overflow that fixed point


@dataclass(frozen=True, eq=False)
class Polygon:
    """One connected part of a mask: its outer contour, and those of its holes.

    Contours are (N, 2) float32 xy, closed without repeating the first point. N can be 1 or 2:
    the outlines of objects of a pixel, or of a line.
    """

    exterior: npt.NDArray[np.float32]
    holes: tuple[npt.NDArray[np.float32], ...] = ()


def extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The box of a mask, x0, y0, x1, y1 in whole pixels, half open; None for an empty mask.

    Example:
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1:3, 2:6] = True
        >>> extent(mask)
        (2, 1, 6, 3)
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_to_polygons(mask: npt.NDArray[np.bool_]) -> tuple[Polygon, ...]:
    """Outline every connected part of a mask (pixels that touch by a corner are connected).

    A part within another one's hole is a polygon of its own. Points in the middle of straight
    runs are left out.

    Args:
        mask: (H, W) bool.

    Returns:
        One polygon a part; none for an empty mask.

    Example:
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1:3, 2:6] = True
        >>> (polygon,) = mask_to_polygons(mask)
        >>> polygon.exterior.tolist()
        [[2.0, 1.0], [2.0, 2.0], [5.0, 2.0], [5.0, 1.0]]
    """
    contours, hierarchy = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    if not contours:
        return ()
    points = [contour.reshape(-1, 2).astype(np.float32) for contour in contours]
    holes: dict[int, list[npt.NDArray[np.float32]]] = {}
    parents = hierarchy.reshape(-1, 4)[:, 3]
    for contour_index, parent in enumerate(map(int, parents)):
        if parent < 0:
            holes.setdefault(contour_index, [])
        else:
            holes.setdefault(parent, []).append(points[contour_index])
    return tuple(Polygon(points[outer], tuple(inner)) for outer, inner in sorted(holes.items()))


def polygons_to_mask(polygons: Iterable[Polygon], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Fill polygons: the union of them all.

    Vertices may lie between pixels and outside of the image. Pixels that an outline passes
    through belong to the object: on average the mask reaches half a pixel beyond the outline,
    as pixels reach half a pixel beyond their centres. So a contour that is a little off still
    gives the mask it came from.

    Args:
        polygons: what to fill.
        size: (H, W) of the mask.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: a vertex is not finite.

    Example:
        >>> triangle = Polygon(np.array([[0, 0], [3, 0], [0, 3]], dtype=np.float32))
        >>> polygons_to_mask([triangle], (4, 5)).sum(axis=1).tolist()
        [4, 3, 2, 1]
    """
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        _add(polygon, mask)
    return mask


def _add(polygon: Polygon, mask: npt.NDArray[np.bool_]) -> None:
    """Set the polygon's pixels, working within its bounding box: most objects are small."""
    if polygon.exterior.size == 0:
        return
    if not np.isfinite(polygon.exterior).all():
        raise ValueError("cannot fill a polygon whose vertices are not finite")
    height, width = mask.shape
    # OpenCV draws lines that it has to cut a pixel or two off, so they are cut beyond the image.
    most = np.array([width, height]) + _MARGIN
    low = np.clip(np.floor(polygon.exterior.min(axis=0)), -_MARGIN, most).astype(int)
    high = np.clip(np.ceil(polygon.exterior.max(axis=0)) + 1, -_MARGIN, most).astype(int)
    columns, rows = (high - low).tolist()
    if columns == 0 or rows == 0:
        return
    filled = _filled(polygon.exterior - low, (rows, columns))
    for hole in polygon.holes:
        within = _filled(hole - low, (rows, columns)) & ~_outlined(hole - low, (rows, columns))
        filled &= ~within
    left, top = np.maximum(-low, 0).tolist()
    x, y = np.maximum(low, 0).tolist()
    seen = filled[top:, left:][: max(height - y, 0), : max(width - x, 0)]
    mask[y : y + seen.shape[0], x : x + seen.shape[1]] |= seen


def _filled(contour: npt.NDArray[np.floating], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    canvas = np.zeros(shape, dtype=np.uint8)
    cv2.fillPoly(canvas, [_fixed_point(contour)], (1,), shift=_SHIFT)
    return canvas.astype(bool)


def _outlined(contour: npt.NDArray[np.floating], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    canvas = np.zeros(shape, dtype=np.uint8)
    cv2.polylines(canvas, [_fixed_point(contour)], True, (1,), shift=_SHIFT)
    return canvas.astype(bool)


def _fixed_point(contour: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    near = np.clip(contour, -_FARTHEST, _FARTHEST)
    return np.asarray(np.round(near * 2**_SHIFT), dtype=np.int32)


def is_simple(contour: npt.NDArray[np.floating]) -> bool:
    """Whether a closed contour never crosses or touches itself.

    A vertex may be repeated right after itself.

    Args:
        contour: (N, 2) xy; the last vertex is joined to the first.

    Example:
        >>> bow_tie = np.array([[0, 0], [4, 4], [4, 0], [0, 4]])
        >>> is_simple(bow_tie), is_simple(bow_tie[[0, 2, 1, 3]])
        (False, True)
    """
    repeated = (contour == np.roll(contour, 1, axis=0)).all(axis=1)
    start: npt.NDArray[np.float64] = contour[~repeated].astype(np.float64)
    count = len(start)
    if count < 3:
        return False
    end = np.roll(start, -1, axis=0)

    meet = _edges_meet(start, end, start, end)
    distance = np.abs(np.arange(count)[:, None] - np.arange(count)[None])
    neighbours = np.minimum(distance, count - distance) <= 1
    # Neighbours always meet, in the vertex they share; one that turns back lies on the other.
    into, out = start - np.roll(start, 1, axis=0), end - start
    turns_back = (into[:, 0] * out[:, 1] == into[:, 1] * out[:, 0]) & ((into * out).sum(axis=1) < 0)
    return not bool((meet & ~neighbours).any() or turns_back.any())


def is_valid(polygon: Polygon) -> bool:
    """Whether a polygon's contours are simple and apart, its holes inside it, none in another.

    Args:
        polygon: what to look at.

    Example:
        >>> square = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], dtype=np.float32)
        >>> is_valid(Polygon(square, (square / 3 + 2,))), is_valid(Polygon(square, (square + 2,)))
        (True, False)
    """
    contours = [polygon.exterior, *polygon.holes]
    if not all(is_simple(contour) for contour in contours):
        return False
    for position, one in enumerate(contours):
        for other in contours[position + 1 :]:
            ends = (np.roll(contour, -1, axis=0) for contour in (one, other))
            if _edges_meet(one, next(ends), other, next(ends)).any():
                return False
    # What does not cross is inside as a whole or not at all.
    inside_exterior = all(_is_inside(hole[0], polygon.exterior) for hole in polygon.holes)
    return inside_exterior and not any(
        _is_inside(one[0], other)
        for one in polygon.holes
        for other in polygon.holes
        if one is not other
    )


def _is_inside(point: npt.NDArray[np.float32], contour: npt.NDArray[np.float32]) -> bool:
    x, y = map(float, point)
    return cv2.pointPolygonTest(contour.astype(np.float32), (x, y), False) > 0


def _edges_meet(
    start: npt.NDArray[np.floating],
    end: npt.NDArray[np.floating],
    other_start: npt.NDArray[np.floating],
    other_end: npt.NDArray[np.floating],
) -> npt.NDArray[np.bool_]:
    """(N, M) whether edges from `start` to `end` cross or touch those of another contour."""
    start, end, other_start, other_end = (
        np.asarray(vertices, dtype=np.float64) for vertices in (start, end, other_start, other_end)
    )
    separates = _parts(start, end, other_start, other_end)
    separates &= _parts(other_start, other_end, start, end).T
    # Two edges on one line pass through each other's ends, however far apart they are.
    low, high = np.minimum(start, end), np.maximum(start, end)
    other_low, other_high = np.minimum(other_start, other_end), np.maximum(other_start, other_end)
    apart = (low[:, None] > other_high[None]) | (other_low[None] > high[:, None])
    return separates & ~apart.any(axis=2)


def _parts(
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    one: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """(N, M) whether each edge's line passes between, or through, two points."""
    along = (end - start)[:, None]
    sides = []
    for points in (one, other):
        towards = points[None] - start[:, None]
        sides.append(np.sign(along[..., 0] * towards[..., 1] - along[..., 1] * towards[..., 0]))
    between: npt.NDArray[np.bool_] = sides[0] * sides[1] <= 0
    return between
