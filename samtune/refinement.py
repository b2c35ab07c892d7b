"""Refinement: a polygon's contours, moved onto the boundary that the image shows.

Two steps (Kim et al. 2024, https://arxiv.org/abs/2403.09199, figure 5): points along a contour,
then the Point Matching Module, which tells each of them how far to move. Every outer contour and
hole is moved on its own. What is too small to see in the features, or would not be a valid
polygon afterwards, stays as it was.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.pmm import PointMatchingModule, resample_contour
from samtune.polygons import Polygon, is_simple, is_valid
from samtune.sam import Embedding

Move = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Points along a contour, (K, 2) xy, and where they were moved to."""

ROUNDS = 2  # of moving a foreign mask's contours; more wear off what was right
_SMALLEST_CONTOUR = 8.0  # pixels of the input frame across; the features resolve no smaller ones


def is_large(contour: NDArray[np.float32], embedding: Embedding) -> bool:
    """Whether a contour is large enough to be seen in the features of its image."""
    return bool((np.ptp(contour, axis=0) * _to_input(embedding)).min() >= _SMALLEST_CONTOUR)


def refine_polygon(
    polygon: Polygon,
    pmm: PointMatchingModule,
    image_features: Tensor,
    embedding: Embedding,
    rounds: int,
) -> Polygon:
    """Move a polygon's contours.

    Args:
        polygon: in pixels of the original image.
        pmm: what moves them.
        image_features: (h·w, 256) the cells after the decoder's transformer.
        embedding: the encoded image, for its frames.
        rounds: how often.

    Returns:
        The polygon, its moved contours of `pmm.POINTS` points with fractions of pixels: simple,
        within the image, and the holes among them inside the exterior and apart. Where moved
        holes would get into each other's way or the exterior's, all holes stay.
    """

    def moved(contour: NDArray[np.float32]) -> NDArray[np.float32]:
        return _moved(contour, pmm, image_features, embedding, rounds)

    exterior = moved(polygon.exterior)
    if exterior is polygon.exterior:
        return polygon
    holes = tuple(map(moved, polygon.holes))
    pairs = zip(holes, polygon.holes, strict=True)
    changed = tuple(hole for hole, before in pairs if hole is not before)
    if changed and not is_valid(Polygon(exterior, changed)):
        holes = polygon.holes
    return Polygon(exterior, holes)


def contour_moves(before: Sequence[Polygon], after: Sequence[Polygon]) -> tuple[Move, ...]:
    """The points of the contours that refining moved, as the paper's figure 5 shows them.

    Args:
        before: a mask's polygons.
        after: what became of each.

    Returns:
        Of each moved contour the points along it and the same points afterwards.
    """
    rings = [
        (old, new)
        for one, other in zip(before, after, strict=True)
        for old, new in zip((one.exterior, *one.holes), (other.exterior, *other.holes), strict=True)
    ]
    return tuple(
        (resample_contour(old, len(new)), new) for old, new in rings if not np.array_equal(old, new)
    )


def _moved(
    contour: NDArray[np.float32],
    pmm: PointMatchingModule,
    image_features: Tensor,
    embedding: Embedding,
    rounds: int,
) -> NDArray[np.float32]:
    """The contour after as many rounds as leave it simple."""
    if not is_large(contour, embedding):
        return contour
    to_input, side = _to_input(embedding), embedding.padded_side
    height, width = embedding.original_size
    most = np.array([width, height], dtype=np.float32) - 0.5
    for _ in range(rounds):
        shares = (resample_contour(contour) + 0.5) * to_input / side
        points = torch.from_numpy(shares.astype(np.float32))[None].to(image_features.device)
        refined = pmm(image_features[None], points)[0].cpu().numpy() * side / to_input - 0.5
        refined = np.clip(refined, -0.5, most).astype(np.float32)
        if not is_simple(refined):
            break
        contour = refined
    return contour


def _to_input(embedding: Embedding) -> NDArray[np.float32]:
    """(2,) factors for x and y from the original image to the input frame."""
    (height, width), frame = embedding.original_size, embedding.input_size
    return np.array([frame[1] / width, frame[0] / height], dtype=np.float32)
