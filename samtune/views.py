"""Views: further looks at a training image, encoded and cached beside it.

The encoder is frozen, so a training image always gives the same embedding, and with dozens of
images the PLM soon knows them by heart. A view is the photo through a window that is turned,
mirrored, moved, of another size and in other light: a new embedding with a known mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.images import read_image
from samtune.masks import DatasetObject

BORDER = (124, 116, 104)  # RGB beyond the photo: SAM's mean pixel, as good as its padding
TURN = 15.0  # degrees to either side
ZOOM = (0.5, 1.2)  # side of the window as a share of the photo's
LIGHT = 0.2  # relative change of each colour channel
KEPT = 0.7  # an object stays if as much of it is in the window


@dataclass(frozen=True, eq=False)
class View:
    """A window onto a photo, in pixels of the same size.

    Attributes:
        size: (H, W) of the window.
        to_image: (2, 3) affine map of xy from the window to the photo.
        gain: (3,) factors of red, green and blue.
    """

    size: tuple[int, int]
    to_image: NDArray[np.float64]
    gain: NDArray[np.float64]

    @classmethod
    def draw(
        cls, size: tuple[int, int], box: tuple[int, int, int, int], rng: np.random.Generator
    ) -> "View":
        """Draw a view that shows an object.

        Args:
            size: (H, W) of the photo.
            box: x0, y0, x1, y1 of the object.
            rng: source of randomness.
        """
        height, width = size
        corners = np.array(box, dtype=float).reshape(2, 2)
        middle, extent = corners.mean(axis=0), np.ptp(corners, axis=0)
        least = max(1.3 * extent / (width, height))
        zoom = max(rng.uniform(*ZOOM), min(least, ZOOM[1]))
        window = np.maximum(np.round(zoom * np.array([width, height])), 1)
        # Anywhere that keeps the object in the window, and the window mostly on the photo.
        slack = np.maximum((window - extent) / 2, 0)
        low, high = np.maximum(window / 2, 0), np.array([width, height]) - window / 2
        low, high = np.minimum(low, high), np.maximum(low, high)
        center = np.clip(rng.uniform(middle - slack, middle + slack), low, high)
        center = np.clip(center, middle - slack, middle + slack)
        angle = np.radians(rng.uniform(-TURN, TURN))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if rng.random() < 0.5:
            turn[:, 0] *= -1  # mirrored
        shift = center - 0.5 - turn @ ((window - 1) / 2)
        gain = rng.uniform(1 - LIGHT, 1 + LIGHT) * rng.uniform(1 - LIGHT / 2, 1 + LIGHT / 2, 3)
        return cls((int(window[1]), int(window[0])), np.column_stack([turn, shift]), gain)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The photo, (H, W, 3) uint8 RGB, through the window."""
        seen = self._warp(image, cv2.INTER_LINEAR, BORDER)
        return np.clip(np.rint(seen * self.gain), 0, 255).astype(np.uint8)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """An (H, W) bool mask through the window."""
        return self._warp(mask.astype(np.uint8), cv2.INTER_NEAREST, 0) > 0

    def _warp(
        self, array: NDArray[np.uint8], flags: int, border: int | tuple[int, ...]
    ) -> NDArray[np.uint8]:
        flags |= cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(
            array, self.to_image, self.size[::-1], flags=flags, borderValue=border
        )
        return warped.astype(np.uint8)


@dataclass(frozen=True)
class Shot:
    """An image to encode: a file, as it is or through a view."""

    path: Path
    view: View | None = None

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        image = read_image(self.path)
        return image if self.view is None else self.view.image(image)


def draw_views(
    objects: Sequence[DatasetObject], count: int, rng: np.random.Generator
) -> list[tuple[int, View]]:
    """Draw views of images, spread evenly over them.

    Args:
        objects: what is in the images.
        count: how many views.
        rng: source of randomness.

    Returns:
        The image's index and the view, `count` times.
    """
    by_image: dict[int, list[DatasetObject]] = {}
    for thing in objects:
        by_image.setdefault(thing.image_index, []).append(thing)
    order = rng.permutation(sorted(by_image))
    views = []
    for position in range(count):
        things = by_image[int(order[position % len(order)])]
        thing = things[int(rng.integers(len(things)))]
        views.append((thing.image_index, View.draw(thing.size, thing.box, rng)))
    return views


def seen_through(view: View, thing: DatasetObject, image_index: int) -> DatasetObject | None:
    """An object as a view shows it, or None where too little of it is left.

    Args:
        view: the window.
        thing: the object in the photo.
        image_index: the number that the view goes by among the images.
    """
    mask = view.mask(thing.mask())
    if mask.sum() < KEPT * thing.area:
        return None
    return DatasetObject.of(mask, image_index, thing.label)
