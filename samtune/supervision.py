"""What the training loop needs to know of one object, in a few kilobytes.

The target at the logits' resolution is kept compressed, training clicks are drawn once, and the
true contour is kept as a few points, so that a folder of thousands of objects fits in memory
without its masks.

A training step decodes only some of the image's cells: half of them on and around the target's
boundary, where the loss is decided, the others drawn from everywhere else in the image (never
from the padding). Each drawn cell is weighted by how many it stands for, so that the sums of
losses.py are estimated without bias; this is PointRend's importance sampling (Kirillov et al.
2019, https://arxiv.org/abs/1912.08193, section 3.3) with the target in place of the prediction.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.input_frame import input_size
from samtune.masks import DatasetObject
from samtune.pmm import resample_contour
from samtune.polygons import mask_to_polygons
from samtune.prompts import box_around, center_point, jitter_boxes, points_off, sample_point

BLOCK = 4  # logits on a side of a cell
STRIDE = 16  # input pixels on a side of a cell
CLICKS = 64  # training clicks kept for each object
ScalarT = TypeVar("ScalarT", bound=np.generic)


@dataclass(frozen=True, eq=False)
class CellSample:
    """Some cells of an object's image, with their targets.

    Attributes:
        index: (K,) int64 which cells, row by row.
        target: (K, 16) float32 share of each logit's area on the object, in `mask_blocks` order.
        weight: (K, 16) float32 how many logits each stands for; 0 for padding.
    """

    index: NDArray[np.int64]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Supervision:
    """One object's target, clicks and contour.

    Attributes:
        image_index: which image of the data set it is in.
        center: (2,) float32 xy in the input frame, SAM's test click.
        clicks: (P, 2) float32 xy in the input frame, drawn to prefer the middle.
        misses: (P, 2) float32 xy in the input frame, drawn off the object; P is 0 where the
            object fills its image.
        background: (P, 2) float32 xy in the input frame, drawn off every object of the image;
            P is 0 where they fill it.
        box: (4,) float32 x0, y0, x1, y1 in the input frame, tight.
        contour: (K, 2) float32 xy shares of the padded square: the largest outer contour.
        frame: (H, W) the input size, where the padding begins.
        grid: cells on a side of the padded square.
        packed: the compressed (4 · grid)² uint8 target, 255 × the share on the object.
    """

    image_index: int
    center: NDArray[np.float32]
    clicks: NDArray[np.float32]
    misses: NDArray[np.float32]
    background: NDArray[np.float32]
    box: NDArray[np.float32]
    contour: NDArray[np.float32]
    frame: tuple[int, int]
    grid: int
    packed: bytes

    @classmethod
    def of(
        cls,
        thing: DatasetObject,
        image_size: int,
        rng: np.random.Generator,
        background: NDArray[np.float64] | None = None,
    ) -> "Supervision":
        """Prepare an object.

        Args:
            thing: the object, at its image's own size.
            image_size: side of the padded square, pixels.
            rng: draws the clicks.
            background: (P, 2) xy in the image's own pixels, off every object of the image; None
                is off this one.
        """
        mask = thing.mask()
        height, width = input_size(thing.size, image_size)
        to_input = np.array([width / thing.size[1], height / thing.size[0]])
        grid = image_size // STRIDE
        side = grid * BLOCK
        rows, columns = (max(1, round(length * side / image_size)) for length in (height, width))
        target = np.zeros((side, side), dtype=np.uint8)
        target[:rows, :columns] = cv2.resize(
            mask.astype(np.uint8) * 255, (columns, rows), interpolation=cv2.INTER_AREA
        )
        clicks = sample_point(mask, rng, CLICKS).points
        misses = points_off(mask, rng, CLICKS)
        background = misses if background is None else background
        outline = max((polygon.exterior for polygon in mask_to_polygons(mask)), key=_extent)
        contour = (resample_contour(outline) + 0.5) * to_input / image_size
        return cls(
            thing.image_index,
            (center_point(mask).points[0] * to_input).astype(np.float32),
            (clicks * to_input).astype(np.float32),
            (misses * to_input).astype(np.float32),
            (background * to_input).astype(np.float32),
            (box_around(mask) * np.tile(to_input, 2)).astype(np.float32),
            contour.astype(np.float32),
            (height, width),
            grid,
            zlib.compress(target.tobytes(), level=1),
        )

    def sample_cells(self, count: int, rng: np.random.Generator) -> CellSample:
        """Draw cells to compute the loss on; `count` of grid² or more takes each cell once.

        Args:
            count: how many cells to draw.
            rng: source of randomness.
        """
        near, far = self._strata
        near_count = max(min(len(near), count // 2), min(len(near), count - len(far)))
        far_count = min(len(far), count - near_count)
        drawn = np.concatenate([_draw(near, near_count, rng), _draw(far, far_count, rng)])
        index = drawn.astype(np.int64)
        stands_for = np.concatenate(
            [
                np.full(near_count, len(near) / max(near_count, 1)),
                np.full(far_count, len(far) / max(far_count, 1)),
            ]
        )
        short = min(count, self.grid**2) - len(index)  # a batch needs as many cells of each object
        index = np.pad(index, (0, max(short, 0)))
        weight = self._valid[index] * np.pad(stands_for, (0, max(short, 0)))[:, None]
        target = self._blocks()[index].astype(np.float32) / np.float32(255)
        return CellSample(index, target, weight.astype(np.float32))

    def cell_shares(self) -> NDArray[np.float32]:
        """How much of each cell is on the object, (grid, grid)."""
        shares: NDArray[np.float32] = self._blocks().mean(axis=1, dtype=np.float32) / 255
        return shares.reshape(self.grid, self.grid)

    def inner_shares(self) -> NDArray[np.float32]:
        """As `cell_shares`, of the cells whose centre lies in the image; at least 1 × 1."""
        rows, columns = (max(1, round(length / STRIDE)) for length in self.frame)
        return self.cell_shares()[:rows, :columns]

    def on_object(self) -> NDArray[np.bool_]:
        """Which logits are on the object, (4 · grid, 4 · grid)."""
        return self._shares() > 127

    @cached_property
    def _strata(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Cells on and around the target's boundary, and all others, without the padding."""
        blocks = self._blocks()
        inside, outside = (
            cv2.dilate(some.reshape(self.grid, self.grid).astype(np.uint8), np.ones((3, 3)))
            for some in (blocks.max(axis=1) > 127, blocks.min(axis=1) <= 127)
        )
        in_image = self._valid.any(axis=1)
        near = (np.minimum(inside, outside).ravel() > 0) & in_image
        strata = np.flatnonzero(near), np.flatnonzero(~near & in_image)
        return strata[0].astype(np.uint16), strata[1].astype(np.uint16)  # kept for each object

    @property
    def _valid(self) -> NDArray[np.bool_]:
        """(N, 16) whether a logit lies in the image rather than the padding."""
        side = self.grid * BLOCK
        height, width = (-(-length * BLOCK // STRIDE) for length in self.frame)
        valid = np.zeros((side, side), dtype=bool)
        valid[:height, :width] = True
        return _as_blocks(valid)

    def _blocks(self) -> NDArray[np.uint8]:
        return _as_blocks(self._shares())

    def _shares(self) -> NDArray[np.uint8]:
        side = self.grid * BLOCK
        return np.frombuffer(zlib.decompress(self.packed), dtype=np.uint8).reshape(side, side)


def supervise(
    objects: Sequence[DatasetObject], image_size: int, rng: np.random.Generator
) -> list[Supervision]:
    """Prepare the objects of some images, in their order, with clicks beside all of an image's.

    Args:
        objects: all objects of each image, one after another.
        image_size: side of the padded square, pixels.
        rng: draws the clicks.
    """
    prepared = []
    for _, same_image in groupby(objects, key=lambda thing: thing.image_index):
        things = list(same_image)
        covered = np.zeros(things[0].size, dtype=bool)
        for thing in things:
            covered |= thing.mask()
        background = points_off(covered, rng, CLICKS)
        prepared += [Supervision.of(thing, image_size, rng, background) for thing in things]
    return prepared


def draw_prompts(
    batch: Sequence[Supervision], click_share: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32] | None]:
    """Draw training prompts of one form for a batch of objects.

    Mostly one click, as the paper trains; sometimes several points, or a box, so that an adapter
    keeps understanding those.

    Args:
        batch: B objects.
        click_share: how often it is one click; the rest is half points, half boxes.
        rng: source of randomness.

    Returns:
        Points (B, N, 2), labels (B, N), and boxes (B, 4) or None, in the input frame.
    """
    form = rng.choice(3, p=[click_share, *[(1 - click_share) / 2] * 2])
    hits = 1 if form == 0 else int(rng.integers(2, 4))
    misses = int(rng.integers(2)) if form == 1 and all(len(one.misses) for one in batch) else 0
    points = np.stack(
        [
            np.concatenate([rng.choice(one.clicks, hits), rng.choice(one.misses, misses)])
            if misses
            else rng.choice(one.clicks, hits)
            for one in batch
        ]
    )
    labels = np.repeat([[1] * hits + [0] * misses], len(batch), axis=0).astype(np.int64)
    if form != 2:
        return points, labels, None
    boxes = np.stack([one.box for one in batch])
    return points[:, :0], labels[:, :0], jitter_boxes(boxes, rng)


def _as_blocks(logits: NDArray[ScalarT]) -> NDArray[ScalarT]:
    """(4·g, 4·g) to (g², 16), within a block the coarse (row, column), then the fine one."""
    grid = logits.shape[0] // BLOCK
    split = logits.reshape(grid, 2, 2, grid, 2, 2)
    return split.transpose(0, 3, 1, 4, 2, 5).reshape(grid * grid, BLOCK * BLOCK)


def _draw(cells: NDArray[np.uint16], count: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    return cells if count == len(cells) else rng.choice(cells, count, replace=False)


def _extent(outline: NDArray[np.float32]) -> float:
    return float(np.prod(np.ptp(outline, axis=0) + 1))
