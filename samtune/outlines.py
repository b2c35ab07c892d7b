"""Outlines: a mask's border along the edges of its pixels, and the mask within such a border.

What other tools call a polygon encloses an area: a pixel belongs to it when its centre lies
within (COCO, YOLO, LabelMe, GeoJSON, SVG). The contours of polygons.py run through the centres of
border pixels instead, half a pixel further in, as refining needs them.

Coordinates are samtune's here too, an integer being a pixel's centre, so that the image reaches
from -0.5 to W - 0.5; the writers and readers of formats that count from the image's corner add or
take that half. Corners that are no steps of a slanted line stay sharp, steps become slanted
lines, and no two contours ever touch: shapely calls them valid.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from samtune.polygons import Polygon, extent

# Contours pass every pixel's centre at least this far off (half of the diagonal of half a pixel),
# so points may be left out as long as the line moves by less: no pixel changes sides.
_CLEARANCE = 0.25 * 2**0.5
_TOLERANCE = 0.8 * _CLEARANCE
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)], dtype=np.int64)  # east, south, west, north
_INSIDE = np.array([(0, 0), (-1, 0), (-1, -1), (0, -1)], dtype=np.int64)  # the pixel to the right
_AT_ONCE = 1 << 20  # crossings of lines and rows worked on together: bounds the memory


def mask_to_outlines(mask: npt.NDArray[np.bool_]) -> tuple[Polygon, ...]:
    """Outline every connected part of a mask (pixels that touch by a corner are connected).

    `outlines_to_mask` gives the same mask again, pixel by pixel.

    Args:
        mask: (H, W) bool.

    Returns:
        One polygon a part, with its holes; exteriors have a positive area by the shoelace
        formula in (x, y), holes a negative one.

    Example:
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1:3, 2:6] = True
        >>> (polygon,) = mask_to_outlines(mask)
        >>> polygon.exterior.tolist()
        [[1.5, 0.5], [5.5, 0.5], [5.5, 2.5], [1.5, 2.5]]
    """
    box = extent(mask)
    if box is None:
        return ()
    x0, y0, x1, y1 = box
    crop = mask[y0:y1, x0:x1]
    _, parts = cv2.connectedComponents(crop.astype(np.uint8), connectivity=8)
    corner = np.array([x0 - 0.5, y0 - 0.5])
    exteriors: dict[int, npt.NDArray[np.float32]] = {}
    holes: dict[int, list[npt.NDArray[np.float32]]] = {}
    for vertices, directions, crossings in _loops(crop):
        column, row = vertices[0] + _INSIDE[directions[0]]
        part = int(parts[row, column])
        contour = _simplified(_smoothed(vertices, directions, crossings))
        moved = (contour + corner).astype(np.float32)
        if _area(vertices) > 0:
            exteriors[part] = moved
        else:
            holes.setdefault(part, []).append(moved)
    return tuple(
        Polygon(exterior, tuple(holes.get(part, ())))
        for part, exterior in sorted(exteriors.items())
    )


def outlines_to_mask(polygons: Iterable[Polygon], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Fill polygons: the pixels whose centre lies within any of them.

    A contour that crosses itself encloses what it goes round an odd number of times; a centre on
    a contour belongs to the area to its right or below it. Contours may leave the image.

    Args:
        polygons: what to fill.
        size: (H, W) of the mask.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: a vertex is not finite.

    Example:
        >>> square = Polygon(np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]], np.float32))
        >>> outlines_to_mask([square], (4, 5)).sum(axis=1).tolist()
        [0, 2, 2, 0]
    """
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        if polygon.exterior.size == 0:
            continue
        if not all(np.isfinite(ring).all() for ring in (polygon.exterior, *polygon.holes)):
            raise ValueError("cannot fill a polygon whose vertices are not finite")
        # Within the exterior's bounding box: most objects are small.
        x0, y0 = np.clip(np.floor(polygon.exterior.min(axis=0)), 0, (size[1], size[0])).astype(int)
        x1, y1 = np.clip(np.ceil(polygon.exterior.max(axis=0)) + 1, 0, (size[1], size[0]))
        seen = mask[y0 : int(y1), x0 : int(x1)]
        if seen.size == 0:
            continue
        filled = _enclosed(polygon.exterior - (x0, y0), seen.shape)
        for hole in polygon.holes:
            filled &= ~_enclosed(hole - (x0, y0), seen.shape)
        seen |= filled
    return mask


def _loops(
    mask: npt.NDArray[np.bool_],
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Walk round every part and hole on the edges of pixels, the object to the right.

    Returns:
        For each loop the (N, 2) xy of the pixel corners where an edge begins, its (N,) direction
        (an index of _STEPS), and (N,) whether two loops, or one loop twice, meet in that corner.
    """
    height, width = mask.shape
    padded = np.pad(mask, 1)
    above, here = padded[:-1], padded[1:]
    horizontal = here[:, 1:-1].astype(np.int8) - above[:, 1:-1]  # (H + 1, W): 1 where it begins
    vertical = padded[1:-1, 1:].astype(np.int8) - padded[1:-1, :-1]  # (H, W + 1)
    leaving = np.zeros((height + 1, width + 1, 4), dtype=bool)
    leaving[:, :-1, 0] = horizontal > 0
    leaving[:, 1:, 2] = horizontal < 0
    leaving[:-1, :, 1] = vertical < 0
    leaving[1:, :, 3] = vertical > 0

    edges = np.flatnonzero(leaving)
    corners, directions = edges // 4, edges % 4
    ends = corners + _STEPS[directions] @ (1, width + 1)
    # Where two edges leave a corner, the one to the left joins pixels that touch there.
    straight = leaving.reshape(-1, 4)[ends[:, None], (directions[:, None] + (3, 0, 1)) % 4]
    turned = (directions + np.array((3, 0, 1))[straight.argmax(axis=1)]) % 4
    following = np.searchsorted(edges, ends * 4 + turned).tolist()
    twice = (leaving.sum(axis=2) > 1).ravel()

    loops = []
    unseen = np.ones(len(edges), dtype=bool)
    for first in range(len(edges)):
        if not unseen[first]:
            continue
        order, edge = [first], following[first]
        while edge != first:
            order.append(edge)
            edge = following[edge]
        unseen[order] = False
        at = corners[order]
        vertices = np.stack([at % (width + 1), at // (width + 1)], axis=1)
        loops.append((vertices, directions[order], twice[at]))
    return loops


def _smoothed(
    vertices: npt.NDArray[np.int64],
    directions: npt.NDArray[np.int64],
    crossings: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """The loop with steps cut from the middle of one edge to the middle of the next."""
    turns = (directions - np.roll(directions, 1)) % 4
    corners = np.flatnonzero(turns)
    turn = turns[corners]
    run = np.roll(np.append(corners[1:], corners[0] + len(turns)) - corners, 1)  # before a corner
    # A step turns one way and, an edge later, the other way.
    step_before = (run == 1) & (turn != np.roll(turn, 1))
    cut = step_before | np.roll(step_before, -1) | crossings[corners]
    at = vertices[corners].astype(np.float64)
    before = at - 0.5 * _STEPS[directions[corners - 1]] * cut[:, None]
    after = at + 0.5 * _STEPS[directions[corners]] * cut[:, None]
    points = np.stack([before, after], axis=1).reshape(-1, 2)
    distinct: npt.NDArray[np.float64] = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    return distinct


def _simplified(contour: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Leave points out as far as no pixel changes sides (Douglas and Peucker 1973)."""
    fewer = cv2.approxPolyDP(contour.astype(np.float32)[:, None], _TOLERANCE, closed=True)
    return np.asarray(fewer, dtype=np.float64)[:, 0] if len(fewer) > 3 else contour


def _area(ring: npt.NDArray[np.integer]) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _enclosed(ring: npt.NDArray[np.floating], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Even-odd rule on the rows of pixel centres."""
    height, width = shape
    corner: npt.NDArray[np.float64] = ring.astype(np.float64)
    beside = np.roll(corner, -1, axis=0)
    # Always downwards: a line that leads there and back has to be the same to the last bit.
    rises = (corner[:, 1] > beside[:, 1])[:, None]
    start, end = np.where(rises, beside, corner), np.where(rises, corner, beside)
    first = np.clip(np.ceil(start[:, 1]), 0, height).astype(np.int64)
    rows = np.clip(np.ceil(end[:, 1]), 0, height).astype(np.int64) - first
    crossed = np.zeros(height * (width + 1), dtype=np.int64)
    chunk = np.cumsum(rows) // _AT_ONCE
    for number in np.unique(chunk[rows > 0]):
        chosen = np.flatnonzero((chunk == number) & (rows > 0))
        line = np.repeat(chosen, rows[chosen])
        begun = np.cumsum(rows[chosen]) - rows[chosen]
        row = first[line] + np.arange(len(line)) - np.repeat(begun, rows[chosen])
        share = (row - start[line, 1]) / (end[line, 1] - start[line, 1])
        x = start[line, 0] + share * (end[line, 0] - start[line, 0])
        column = np.clip(np.ceil(x), 0, width).astype(np.int64)
        crossed += np.bincount(row * (width + 1) + column, minlength=crossed.size)
    crossed_before = np.cumsum(crossed.reshape(height, width + 1), axis=1)[:, :width]
    return np.asarray(crossed_before % 2 == 1)
