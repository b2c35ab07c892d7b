"""Refinement: a polygon's contours, moved onto the boundary that the image shows.

Two steps (Kim et al. 2024, https://arxiv.org/abs/2403.09199, figure 5): points along a contour,
then a module that tells each of them how far to move (contour_refiner.py). What lies between two
points moves with both, so that a contour keeps its detail where it was right. Every outer contour
and hole is moved on its own. What is too small to see in the features, or would not be a valid
polygon afterwards, stays as it was.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.contour_refiner import POINTS, ContourRefiner
from samtune.image_cells import ImageCells
from samtune.input_frame import Embedding
from samtune.pmm import resample_contour
from samtune.polygons import Polygon, is_simple, is_valid
from samtune.sam import Sam

Move = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Points along a contour, (K, 2) xy, and where they were moved to."""

ROUNDS = 1  # of moving contours: a second wears off what was right (benchmarks/README.md)
_SPACING = 2.0  # pixels of the input frame between the vertices of a refined contour
_VERTICES = tuple(POINTS * times for times in (8, 4, 2, 1))  # that one may have
_SMALLEST = 8.0  # pixels of the input frame across; the features resolve no smaller ones


def is_large(box: NDArray[np.float32]) -> bool:
    """Whether what a box, (4,) in the input frame, is around can be seen in the features."""
    return bool((box[2:] - box[:2]).min() >= _SMALLEST)


def box_of(contour: NDArray[np.float32], embedding: Embedding) -> NDArray[np.float32]:
    """The box around a contour as a prompt, (4,) x0, y0, x1, y1 in the input frame."""
    corners = np.concatenate([contour.min(axis=0), contour.max(axis=0)])
    return (corners * np.tile(_to_input(embedding), 2)).astype(np.float32)


@torch.inference_mode()
def box_features(sam: Sam, image: ImageCells | Tensor, boxes: NDArray[np.float32]) -> Tensor:
    """What plain SAM makes of boxes in an image: what the contour refiner reads.

    Not what an adapter makes of clicks: that fits the images it was trained on better than any
    others, and a refiner that learned from it would trust it too much.

    Args:
        sam: the frozen model.
        image: the prepared image, or (1, C, h, w) its embedding, which is quicker where there are
            but a few boxes, and may be in bfloat16 (precision.py).
        boxes: (B, 4) x0, y0, x1, y1 in the input frame.

    Returns:
        (B, 4h · 4w, 33) upscaled features, and the logit of SAM's single mask; of the embedding's
        type.
    """
    corners = torch.from_numpy(boxes).to(sam.device)
    none = torch.empty(len(boxes), 0, 2, device=sam.device)
    prompt = sam.encode_points(none, none[..., 0], corners)
    if isinstance(image, ImageCells):
        features = image.features
        tokens, cells = sam.decoder.attend_to(image, prompt)
    else:
        features = image
        tokens, cells = sam.decoder.attend(image, sam.image_pe, prompt, sam.no_mask.to(image.dtype))
    single = torch.eye(4, device=sam.device)[:1].expand(len(boxes), -1)
    height, width = features.shape[-2:]
    return sam.decoder.upscaled(tokens, cells, single, (height, width))


def refine_polygon(
    polygon: Polygon,
    refiner: ContourRefiner,
    features: Tensor,
    embedding: Embedding,
    rounds: int,
) -> Polygon:
    """Move a polygon's contours.

    Args:
        polygon: in pixels of the original image.
        refiner: what moves them.
        features: (s·s, C) what it reads, row by row, of the padded square.
        embedding: the encoded image, for its frames.
        rounds: how often.

    Returns:
        The polygon, its moved contours of points at equal distances with fractions of pixels:
        simple, within the image, and the holes among them inside the exterior and apart. Where
        moved holes would get into each other's way or the exterior's, all holes stay.
    """

    def moved(contour: NDArray[np.float32]) -> NDArray[np.float32]:
        return _moved(contour, refiner, features, embedding, rounds)

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
    refiner: ContourRefiner,
    features: Tensor,
    embedding: Embedding,
    rounds: int,
) -> NDArray[np.float32]:
    """The contour after as many rounds as leave it simple."""
    if not is_large(box_of(contour, embedding)):
        return contour
    to_input, side = _to_input(embedding), embedding.padded_side
    height, width = embedding.original_size
    most = np.array([width, height], dtype=np.float32) - 0.5
    for _ in range(rounds):
        points = resample_contour(contour, POINTS)
        shares = torch.from_numpy(((points + 0.5) * to_input / side).astype(np.float32))
        refined = refiner(features[None], shares[None].to(features.device))[0].cpu().numpy()
        offsets = refined * side / to_input - 0.5 - points
        for count in _vertex_counts(contour * to_input):
            moved = resample_contour(contour, count) + _between(offsets, count)
            moved = np.clip(moved, -0.5, most).astype(np.float32)
            if is_simple(moved):
                break
        else:
            break
        contour = moved
    return contour


def _vertex_counts(contour: NDArray[np.float32]) -> list[int]:
    """How many vertices to give a contour, in pixels of the input frame, at best; then fewer.

    A mask may have parts a pixel wide, where a fine outline runs into itself.
    """
    length = float(np.hypot(*(np.roll(contour, -1, axis=0) - contour).T).sum())
    wanted = max(length / _SPACING, POINTS)
    return [count for count in _VERTICES if count <= wanted]


def _between(offsets: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """(count, 2) the offsets of points (K, 2) on a closed contour and of those in between."""
    closed = np.concatenate([offsets, offsets[:1]])
    places = np.arange(count) * (len(offsets) / count)
    columns = [np.interp(places, np.arange(len(closed)), closed[:, axis]) for axis in (0, 1)]
    return np.stack(columns, axis=1).astype(np.float32)


def _to_input(embedding: Embedding) -> NDArray[np.float32]:
    """(2,) factors for x and y from the original image to the input frame."""
    (height, width), frame = embedding.original_size, embedding.input_size
    return np.array([frame[1] / width, frame[0] / height], dtype=np.float32)
