"""References by cells: which cells of an annotated image the annotation is on.

A reference is annotated by a mask, boxes, points or scribbles (Sun et al. 2024,
https://arxiv.org/abs/2402.17726). Whatever it was, what is left of it is a number for each cell of
SAM's grid, 16 px on a side in the input frame. In training the annotations of an object are drawn
from its mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from samtune.config import Annotation
from samtune.input_frame import Embedding
from samtune.prompts import jitter_boxes
from samtune.supervision import Supervision
from samtune.targets import LEAST_SHARE, cells_inside

Share = NDArray[np.float32]
_MOST = 20  # points or scribbles drawn on an object; Sun et al. 2024, section 4.1
_STEP = 0.25  # cells between the places where a scribble is looked at
_TURNS = 3  # of a scribble drawn in training, at most


@dataclass(frozen=True, eq=False)
class Marked:
    """An annotated image.

    Attributes:
        embedding: the image.
        share: (rows, columns) float32, 0 to 1, how much of each cell is annotated; not all 0. The
            padding has no part in it.
        sparse: whether only some of the object is annotated, by points or scribbles.
    """

    embedding: Embedding
    share: Share
    sparse: bool = False


def share_of_points(points: NDArray[np.float32], embedding: Embedding) -> Share:
    """The cells that points, (N, 2) xy in pixels of the original image, are in."""
    return _cells_at(_in_cells(points, embedding), embedding)


def share_of_scribble(path: NDArray[np.float32], embedding: Embedding) -> Share:
    """The cells along straight lines from point to point, (N, 2) xy in the original image."""
    turns = _in_cells(path, embedding)
    places = [turns[:1]]
    for start, end in pairwise(turns):
        steps = 1 + int(np.abs(end - start).max() / _STEP)
        places.append(np.linspace(start, end, steps + 1)[1:])
    return _cells_at(np.concatenate(places), embedding)


def share_of_box(box: NDArray[np.float32], embedding: Embedding) -> Share:
    """How much of each cell a filled box covers; x0, y0, x1, y1 in the original image."""
    (x0, y0), (x1, y1) = _in_cells(box.reshape(2, 2), embedding)
    rows, columns = (
        (np.minimum(high, index + 1) - np.maximum(low, index)).clip(0)
        for low, high, index in zip(
            (y0, x0), (y1, x1), map(np.arange, cells_inside(embedding)), strict=True
        )
    )
    return np.outer(rows, columns).astype(np.float32)


def draw_annotation(
    one: Supervision, embedding: Embedding, kind: Annotation, rng: np.random.Generator
) -> Share:
    """Annotate a training object as a user might.

    Args:
        one: the object.
        embedding: its image, whose original size is the input size.
        kind: what to annotate it with.
        rng: source of randomness.

    Returns:
        (rows, columns); what vanishes in the grid, `vanishes` tells.
    """
    if kind == "mask":
        return one.inner_shares()
    if kind == "box":
        return share_of_box(jitter_boxes(one.box, rng), embedding)
    count = int(rng.integers(1, _MOST + 1))
    if kind == "point":
        return share_of_points(rng.choice(one.clicks, count), embedding)
    paths = [rng.choice(one.clicks, int(rng.integers(2, _TURNS + 2))) for _ in range(count)]
    drawn = together([share_of_scribble(path, embedding) for path in paths])
    return drawn * (one.inner_shares() > 0)  # nobody scribbles across a gap


def together(shares: Sequence[Share]) -> Share:
    """What several annotations of one image cover."""
    return np.max(shares, axis=0)  # type: ignore[no-any-return]


def vanishes(share: Share) -> bool:
    """Whether an annotation covers less than a tenth of any cell."""
    return float(share.max()) < LEAST_SHARE


def _cells_at(places: NDArray[np.floating], embedding: Embedding) -> Share:
    """1 in the cells of places, (N, 2) xy counted in cells, and 0 in the others."""
    share = np.zeros(cells_inside(embedding), dtype=np.float32)
    columns, rows = np.floor(places).astype(int).T
    share[rows.clip(0, share.shape[0] - 1), columns.clip(0, share.shape[1] - 1)] = 1
    return share


def _in_cells(points: NDArray[np.float32], embedding: Embedding) -> NDArray[np.float32]:
    """(N, 2) xy from pixels of the original image, an integer a pixel's centre, to cells."""
    (height, width), (framed_height, framed_width) = embedding.original_size, embedding.input_size
    to_input = np.array([framed_width / width, framed_height / height], dtype=np.float32)
    stride = embedding.padded_side / embedding.features.shape[-1]
    return (points + np.float32(0.5)) * to_input / np.float32(stride)
