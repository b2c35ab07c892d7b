"""Prompts: how a user, or a training loop that plays one, says which object to segment.

A prompt is points and at most one box, in pixels of the original image, as SAM defines them
(Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 2): (x, y), an integer being
a pixel's centre. Nothing here knows about embeddings or torch; sam.py makes tokens of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from samtune.errors import PromptError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
MOST_POINTS = 1_000  # in a prompt: SAM compares each with each, and with all cells of the image


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points and at most one box that say which object to segment.

    Args:
        points: (N, 2) float32 xy in pixels of the original image; N may be 0 with a box.
        labels: (N,) int64, 1 on the object and 0 on the background.
        box: (4,) float32 x0, y0, x1, y1, or None.
        everything: no point and no box, for adapters that know what to look for: all of it,
            wherever it is.

    Raises:
        PromptError: a number is not finite, the box has no area, there are more than MOST_POINTS,
            or nothing says where the object is (no point on it and no box).
    """

    points: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    box: npt.NDArray[np.float32] | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 2:
            raise ValueError(f"points are (N, 2), not {self.points.shape}")
        if self.everything:
            if len(self.points) or self.box is not None:
                raise ValueError("a prompt for everything has no point and no box")
            return
        if self.labels.shape != (len(self.points),):
            raise PromptError(
                f"{len(self.points)} points have {self.labels.size} labels: give one label a "
                "point, 1 on the object and 0 on the background."
            )
        if len(self.points) > MOST_POINTS:
            raise PromptError(
                f"{len(self.points):,} points are too many: give at most {MOST_POINTS:,} points, "
                "or a box."
            )
        if not np.isin(self.labels, (0, 1)).all():
            raise PromptError(
                f"the labels {self.labels.tolist()} are not all 0 or 1: "
                "1 is a point on the object, 0 one on the background."
            )
        if not np.isfinite(self.points).all():
            raise PromptError(f"the points {self.points.tolist()} are not all finite numbers.")
        if self.box is None:
            if not (self.labels == 1).any():
                raise PromptError(
                    "nothing says where the object is: give a box, or a point on the object "
                    "(points on the background alone do not)."
                )
            return
        if self.box.shape != (4,):
            raise ValueError(f"a box is (4,), not {self.box.shape}")
        if not np.isfinite(self.box).all():
            raise PromptError(f"the box {_text(self.box)} is not four finite numbers.")
        x0, y0, x1, y1 = self.box.tolist()
        if x0 >= x1 or y0 >= y1:
            raise PromptError(
                f"the box {_text(self.box)} has no area: give x0,y0,x1,y1 with x0 < x1 and y0 < y1."
            )

    @classmethod
    def of(
        cls,
        points: Sequence[tuple[float, float]] = (),
        negative_points: Sequence[tuple[float, float]] = (),
        box: Box | None = None,
    ) -> "Prompt":
        """Make a prompt of plain numbers: points on the object, on the background, a box.

        Example:
            >>> Prompt.of(points=[(120, 340)], negative_points=[(5, 6)]).labels.tolist()
            [1, 0]
        """
        both = [*points, *negative_points]
        return cls(
            points=np.array(both, dtype=np.float32).reshape(-1, 2),
            labels=np.array([1] * len(points) + [0] * len(negative_points), dtype=np.int64),
            box=None if box is None else np.array(box, dtype=np.float32),
        )

    @classmethod
    def of_everything(cls) -> "Prompt":
        """Ask for all that there is of an adapter's kind of thing."""
        return cls(np.empty((0, 2), np.float32), np.empty(0, np.int64), everything=True)

    def mirrored(self, width: int) -> "Prompt":
        """The same place in the mirror image; the image is so many pixels wide.

        Example:
            >>> Prompt.of([(0, 5)], box=(2, 1, 4, 9)).mirrored(10).box.tolist()
            [5.0, 1.0, 7.0, 9.0]
        """
        points, box = self.points.copy(), self.box
        points[:, 0] = width - 1 - points[:, 0]
        if box is not None:
            box = np.array([width - 1 - box[2], box[1], width - 1 - box[0], box[3]], np.float32)
        return replace(self, points=points, box=box)

    def check_inside(self, size: tuple[int, int]) -> None:
        """Make sure that all of the prompt lies in an image.

        A point is inside from -0.5 up to, but not including, W - 0.5: on a pixel. A box may
        end at W or H, where tools that count pixel edges put the end of the whole image.

        Args:
            size: (H, W) of the original image.

        Raises:
            PromptError: names what lies outside, and the image's size.
        """
        height, width = size
        image = (
            f"the image, which is {width} px wide and {height} px high (coordinates are x,y in "
            "the image's own pixels, from its top left)"
        )
        for x, y in self.points.tolist():
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
                raise PromptError(f"the point {x:g},{y:g} lies outside of {image}.")
        if self.box is not None:
            x0, y0, x1, y1 = self.box.tolist()
            if x0 < -0.5 or y0 < -0.5 or x1 > width or y1 > height:
                raise PromptError(f"the box {_text(self.box)} reaches outside of {image}.")


def center_point(mask: npt.NDArray[np.bool_]) -> Prompt:
    """One point in the middle of a mask: where the mask's border is farthest.

    SAM's evaluation protocol: the first maximum, row by row, of the interior distance
    transform. The image's border counts as the mask's border.

    Args:
        mask: (H, W) bool with at least one pixel.

    Example:
        >>> mask = np.zeros((9, 12), dtype=bool)
        >>> mask[2:7, 5:10] = True
        >>> center_point(mask).points.tolist()
        [[7.0, 4.0]]
    """
    inside = _distance_to_border(mask)
    return _points_at(inside.argmax(), mask.shape)


def sample_point(mask: npt.NDArray[np.bool_], rng: np.random.Generator, count: int = 1) -> Prompt:
    """Draw points as a user would click: the farther from the border, the likelier.

    Args:
        mask: (H, W) bool with at least one pixel.
        rng: source of randomness; the same seed gives the same points.
        count: how many points, drawn independently of each other.
    """
    likelihood = np.cumsum(_distance_to_border(mask), dtype=np.float64)
    draws = np.array([rng.random() for _ in range(count)])
    # side="right" skips the pixels outside of the mask, which add nothing to the sum.
    chosen = np.searchsorted(likelihood, draws * likelihood[-1], side="right")
    return _points_at(chosen, mask.shape)


def random_point(mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> Prompt:
    """Draw one point uniformly from a mask's pixels.

    Args:
        mask: (H, W) bool with at least one pixel.
        rng: source of randomness; the same seed gives the same point.
    """
    pixels = np.flatnonzero(mask)
    if pixels.size == 0:
        raise ValueError(f"the {mask.shape} mask has no pixel to point at")
    return _points_at(pixels[rng.integers(pixels.size)], mask.shape)


def points_off(
    mask: npt.NDArray[np.bool_], rng: np.random.Generator, count: int
) -> npt.NDArray[np.float64]:
    """Draw pixels that are not on a mask, each as likely as the other.

    Args:
        mask: (H, W) bool.
        rng: source of randomness.
        count: how many; a pixel can come more than once.

    Returns:
        (count, 2) xy, or (0, 2) where the mask covers the image.
    """
    outside = np.flatnonzero(~mask)
    drawn = rng.choice(outside, count if len(outside) else 0)
    return np.stack([drawn % mask.shape[1], drawn // mask.shape[1]], axis=1).astype(np.float64)


def prompt_for(
    mask: npt.NDArray[np.bool_], points: int, box: bool, rng: np.random.Generator
) -> Prompt:
    """A prompt that asks for a mask: points on it, its box, or both.

    Args:
        mask: (H, W) bool with at least one pixel.
        points: how many; the first is the centre point, the others are drawn.
        box: whether to give the box.
        rng: source of randomness; the same seed gives the same points.
    """
    found = [center_point(mask).points] if points else []
    if points > 1:
        found.append(sample_point(mask, rng, points - 1).points)
    return Prompt(
        points=np.concatenate(found) if found else np.empty((0, 2), dtype=np.float32),
        labels=np.ones(points, dtype=np.int64),
        box=box_around(mask) if box else None,
    )


def point_pair(mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> Prompt | None:
    """The centre point, and a point on the background near the object.

    A user points at the background where a mask ran over: the second point is drawn from the
    background in the object's box grown by half its size, or of the image where that has none.

    Args:
        mask: (H, W) bool with at least one pixel.
        rng: source of randomness; the same seed gives the same points.

    Returns:
        Two points with the labels 1 and 0; None where the object fills the whole image.
    """
    on_object = center_point(mask).points[0].tolist()
    x0, y0, x1, y1 = box_around(mask).astype(int).tolist()
    margin = (max(x1 - x0, y1 - y0) + 1) // 2
    near = np.zeros_like(mask)
    near[max(y0 - margin, 0) : y1 + margin + 1, max(x0 - margin, 0) : x1 + margin + 1] = True
    near &= ~mask
    background = near if near.any() else ~mask
    if not background.any():
        return None
    beside = random_point(background, rng).points[0].tolist()
    return Prompt.of(
        points=[(on_object[0], on_object[1])], negative_points=[(beside[0], beside[1])]
    )


def box_around(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The tight box of a mask, through the centres of its outermost pixels.

    A mask that is one pixel wide or high gets that pixel's full width, as a box without area
    is no prompt.

    Args:
        mask: (H, W) bool with at least one pixel.

    Returns:
        (4,) float32 x0, y0, x1, y1.

    Example:
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1:3, 2:6] = True
        >>> box_around(mask).tolist()
        [2.0, 1.0, 5.0, 2.0]
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        raise ValueError(f"the {mask.shape} mask has no pixel to put a box around")
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)
    for low, high in ((0, 2), (1, 3)):
        if box[low] == box[high]:
            box[low] -= 0.5
            box[high] += 0.5
    return box


def jitter_boxes(
    boxes: npt.NDArray[np.float32], rng: np.random.Generator, amount: float = 0.1
) -> npt.NDArray[np.float32]:
    """Move each side of some boxes a little.

    As in SAM's training: normal noise of a tenth of the box's width or height, here cut at
    twice that, so that some area always remains.

    Args:
        boxes: (..., 4) x0, y0, x1, y1.
        rng: source of randomness.
        amount: standard deviation of the noise as a share of the box's side, below 0.25.

    Returns:
        (..., 4) float32.
    """
    if not 0 <= amount < 0.25:
        raise ValueError(f"amount is at least 0 and below 0.25, not {amount}")
    sides = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
    noise = np.clip(rng.normal(size=boxes.shape), -2, 2) * amount * sides
    return (boxes + noise).astype(np.float32)


def jittered_box(
    mask: npt.NDArray[np.bool_], rng: np.random.Generator, amount: float = 0.1
) -> npt.NDArray[np.float32]:
    """The box of a mask as a user draws it: each side a little off, and within the image.

    Args:
        mask: (H, W) bool with at least one pixel.
        rng: source of randomness; the same seed gives the same box.
        amount: standard deviation of the noise as a share of the box's side, below 0.25.

    Returns:
        (4,) float32 x0, y0, x1, y1.
    """
    box = jitter_boxes(box_around(mask), rng, amount)
    height, width = mask.shape
    most = np.array([width, height, width, height]) - 0.5
    return np.clip(box, -0.5, most).astype(np.float32)


def _distance_to_border(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(H, W) float32: from each pixel of the mask to the nearest one outside; 0 outside."""
    if not mask.any():
        raise ValueError(f"the {mask.shape} mask has no pixel to point at")
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance[1:-1, 1:-1], dtype=np.float32)


def _points_at(pixels: npt.NDArray[np.intp] | np.intp, shape: tuple[int, ...]) -> Prompt:
    ys, xs = np.divmod(np.atleast_1d(pixels), shape[1])
    return Prompt.of(points=list(zip(xs.tolist(), ys.tolist(), strict=True)))


def _text(box: npt.NDArray[np.float32]) -> str:
    return ",".join(f"{number:g}" for number in box.tolist())
