"""Rough contours of known objects, and how far off they are: what the contour refiner learns from.

Masks are wrong in ways that occur: too large or too small all around, drawn with few pixels, as
SAM's own are, off in whole stretches, or not wrong at all. All of it is drawn in a window around
the object, so that a photo of any size costs the same.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from samtune.contour_refiner import POINTS, outward_normals, reach
from samtune.input_frame import input_size
from samtune.masks import DatasetObject
from samtune.pmm import resample_contour
from samtune.polygons import extent, mask_to_polygons

Kind = Literal["grown", "shrunk", "drawn", "sam", "exact"]
SHARES: dict[Kind, float] = {
    "grown": 0.25,
    "shrunk": 0.25,
    "drawn": 0.15,
    "sam": 0.15,
    "exact": 0.2,
}
GROWTH = (0.008, 0.09)  # of the object's size: the least and the most
_ACROSS = (7, 14)  # pixels that a drawn one has across
_WAVES = 0.03  # of the object's size, at most about: how far stretches are off beside that
_WINDOW = 320  # pixels on a window's long side, at most
_MARGIN = 0.35  # of the object's size, around its box
_STEPS = 97  # across a contour, to find the boundary among


@dataclass(frozen=True, eq=False)
class RoughContour:
    """A contour near an object's boundary.

    Attributes:
        points: (K, 2) float32 xy shares of the padded square.
        offsets: (K,) float32 how far along the outward normal the boundary is, -1 to 1, as a share
            of the contour's reach.
        seen: (K,) bool whether it is within reach.
    """

    points: NDArray[np.float32]
    offsets: NDArray[np.float32]
    seen: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ObjectWindow:
    """An object's surroundings, at a size that is quick to work on.

    Attributes:
        mask: (h, w) bool.
        in_image: (h, w) bool, the pixels that lie in the image.
        scale: (2,) shares of the padded square for each pixel of the window, x and y.
        corner: (2,) the share where the window begins, x and y.
    """

    mask: NDArray[np.bool_]
    in_image: NDArray[np.bool_]
    scale: NDArray[np.float64]
    corner: NDArray[np.float64]

    @classmethod
    def of(cls, thing: DatasetObject, image_size: int) -> "ObjectWindow":
        """Cut an object out.

        Args:
            thing: the object.
            image_size: side of the padded square, pixels.
        """
        x0, y0, x1, y1 = thing.box
        margin = math.ceil(_MARGIN * math.sqrt((x1 - x0) * (y1 - y0))) + 2
        low, high = np.array([x0, y0]) - margin, np.array([x1, y1]) + margin
        size = np.array(thing.size[::-1])  # (H, W) -> (x, y)
        begin, end = np.maximum(low, 0), np.minimum(high, size)
        around = tuple(zip((begin - low)[::-1], (high - end)[::-1], strict=True))
        inside = np.s_[begin[1] : end[1], begin[0] : end[0]]
        seen = thing.mask()[inside]
        factor = min(1.0, _WINDOW / int((high - low).max()))
        width, height = (max(8, round(int(length) * factor)) for length in high - low)
        mask, in_image = (
            cv2.resize(np.pad(255 * one, around), (width, height), interpolation=cv2.INTER_AREA)
            > 127
            for one in (seen.astype(np.uint8), np.ones_like(seen, dtype=np.uint8))
        )
        frame = np.array(input_size(thing.size, image_size)[::-1])
        to_share = frame / size / image_size
        return cls(
            np.asarray(mask),
            np.asarray(in_image),
            (high - low) / [width, height] * to_share,
            low * to_share,
        )

    @cached_property
    def distances(self) -> NDArray[np.float32]:
        """(h, w) pixels to the boundary, positive inside; 0 on border pixels, as contours run."""
        padded = np.pad(self.mask.astype(np.uint8), 1)
        inside, outside = (
            cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
            for side in (padded, 1 - padded)
        )
        return np.where(self.mask, inside - 1, -outside).astype(np.float32)

    @cached_property
    def size(self) -> float:
        """The square root of the area of the object's box, pixels of the window."""
        box = extent(self.mask)
        return math.sqrt((box[2] - box[0]) * (box[3] - box[1])) if box else 0.0

    def coarse(self, kind: Kind, rng: np.random.Generator) -> NDArray[np.bool_]:
        """The object, wrong in one way; "sam" and "exact" are not."""
        if kind in ("grown", "shrunk"):
            by = self.size * math.exp(rng.uniform(*np.log(GROWTH)))
            return self.distances >= (by if kind == "shrunk" else -by)
        if kind == "drawn":
            factor = max(2.0, self.size / rng.uniform(*_ACROSS))
            height, width = (max(1, round(length / factor)) for length in self.mask.shape)
            ink = 255 * self.mask.astype(np.uint8)
            few = cv2.resize(ink, (width, height), interpolation=cv2.INTER_AREA) > 127
            whole = self.mask.shape[::-1]
            drawn = cv2.resize(few.astype(np.uint8), whole, interpolation=cv2.INTER_NEAREST)
            return np.asarray(drawn > 0)
        return self.mask

    def box(self, mask: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """The box from the first to the last pixel of a mask, in the image; None where it has none.

        Args:
            mask: (h, w) bool, in this window.

        Returns:
            (4,) x0, y0, x1, y1 of their centres, in shares of the padded square.
        """
        box = extent(mask & self.in_image)
        if box is None:
            return None
        corners = np.add(box, [0.5, 0.5, -0.5, -0.5])
        return np.asarray(corners * np.tile(self.scale, 2) + np.tile(self.corner, 2))

    def seen_in(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The mask that logits of the whole padded square, (s, s), draw in the window."""
        height, width = self.mask.shape
        columns, rows = (
            ((np.arange(count) + 0.5) * scale + corner) * len(logits) - 0.5
            for count, scale, corner in zip((width, height), self.scale, self.corner, strict=True)
        )
        x, y = (one.astype(np.float32) for one in np.meshgrid(columns, rows))
        return np.asarray(cv2.remap(logits, x, y, cv2.INTER_LINEAR) > 0) & self.in_image

    def rough_contour(
        self, mask: NDArray[np.bool_], side: int, rng: np.random.Generator, *, waves: bool
    ) -> RoughContour | None:
        """Outline a mask near the object.

        Args:
            mask: (h, w) bool, in this window.
            side: of the grid of features.
            rng: draws where the contour begins, and the waves.
            waves: move whole stretches of it.

        Returns:
            Its largest part's outer contour; None where it is a speck.
        """
        outlines = [polygon.exterior for polygon in mask_to_polygons(mask & self.in_image)]
        outline = max(outlines, key=lambda one: float(np.prod(np.ptp(one, axis=0))), default=None)
        if outline is None or np.ptp(outline, axis=0).min() < 2:
            return None
        outline = np.roll(outline, rng.integers(len(outline)), axis=0)
        points = torch.from_numpy(resample_contour(outline, POINTS))[None]
        if waves:
            amount = self.size * _WAVES * rng.random() ** 2
            shift = torch.from_numpy(np.float32(amount) * _waves(rng))
            points = points + shift[None, :, None] * outward_normals(points)
        shares = (points + 0.5) * torch.from_numpy(self.scale) + torch.from_numpy(self.corner)
        shares = shares.clamp(0, 1).float()
        far = float(reach(shares, side)) / float(self.scale.mean())
        offsets, seen = self._offsets(points[0].numpy(), outward_normals(points)[0].numpy(), far)
        return RoughContour(shares[0].numpy(), offsets, seen)

    def _offsets(
        self, points: NDArray[np.float32], normals: NDArray[np.float32], far: float
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """How far along the normals the object ends, as shares of the reach, and where it does."""
        steps = np.linspace(-1, 1, _STEPS, dtype=np.float32)
        across = points[:, None] + np.float32(far) * steps[:, None] * normals[:, None]
        distances = cv2.remap(
            self.distances,
            across[..., 0],
            across[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=-1,
        )
        inside = distances >= 0
        leaves = inside[:, :-1] & ~inside[:, 1:]
        nearest = np.where(leaves, np.abs(steps[:-1] + steps[1:]), np.inf).argmin(axis=1)
        rows, seen = np.arange(len(points)), np.asarray(leaves.any(axis=1))
        last, first = distances[rows, nearest], distances[rows, nearest + 1]
        share = last / np.maximum(last - first, 1e-6)
        offsets = steps[nearest] + share * (steps[1] - steps[0])
        beyond = np.where(inside.mean(axis=1) > 0.5, 1, -1)
        return np.where(seen, offsets, beyond).astype(np.float32), seen


def _waves(rng: np.random.Generator) -> NDArray[np.float32]:
    """(POINTS,) smooth noise along a contour: its lowest frequencies, of about 1."""
    place = 2 * np.pi / POINTS * np.arange(POINTS)
    waves = [np.ones(POINTS)] + [f(k * place) for k in (1, 2, 3) for f in (np.sin, np.cos)]
    strength = rng.standard_normal(7) * [1, 0.7, 0.7, 0.5, 0.5, 0.4, 0.4]
    return np.asarray(strength @ waves, dtype=np.float32)
