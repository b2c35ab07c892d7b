"""Overlay: masks and the prompts that asked for them, drawn on the image, to look at.

Nothing here is exact: for that there is the mask's own file.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from samtune.polygons import mask_to_polygons
from samtune.prompts import Prompt
from samtune.refinement import Move

Colour = tuple[int, int, int]  # RGB, 0 to 255

# Told apart by most colour-blind people too: Okabe and Ito's, https://jfly.uni-koeln.de/color/
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (204, 121, 167),
    (86, 180, 233),
    (240, 228, 66),
)
OBJECT_POINT: Colour = (0, 200, 80)
BACKGROUND_POINT: Colour = (220, 40, 30)
BEFORE: Colour = (213, 94, 0)  # a contour's point, and where refining moved it
AFTER: Colour = (240, 228, 66)
_WHITE: Colour = (255, 255, 255)
_TINT = 0.45  # how much of a mask's colour lies over the photo


def draw_overlay(
    image: npt.NDArray[np.uint8],
    masks: Sequence[npt.NDArray[np.bool_]],
    prompts: Sequence[Prompt],
    moves: Sequence[Move] = (),
) -> npt.NDArray[np.uint8]:
    """Tint and outline masks, each in a colour of its own, and mark the prompts.

    Points on the object are green, on the background red, boxes white. Points of a contour that
    refining moved are orange where they were and yellow where they are now (Kim et al. 2024,
    https://arxiv.org/abs/2403.09199, figure 5).

    Args:
        image: (H, W, 3) uint8 RGB; it stays as it is.
        masks: (H, W) bool each.
        prompts: in the image's pixels.
        moves: what refining did to the masks' contours.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 400))
    for number, mask in enumerate(masks):
        colour = COLOURS[number % len(COLOURS)]
        tint(drawn, mask, colour)
        draw_outline(drawn, mask, colour, thickness)
    for move in moves:
        _mark_move(drawn, move, thickness)
    for prompt in prompts:
        mark_prompt(drawn, prompt, thickness)
    return drawn


def tint(drawn: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: Colour) -> None:
    """Lay a mask's colour over an image (H, W, 3), which is changed; the photo shows through."""
    mixed = (1 - _TINT) * drawn[mask] + _TINT * np.array(colour)
    drawn[mask] = mixed.round().astype(np.uint8)


def draw_outline(
    drawn: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    colour: Colour,
    thickness: int,
    edge: Colour | None = _WHITE,
) -> None:
    """Draw a mask's contours into an image.

    Args:
        drawn: (H, W, 3) uint8 RGB; it is changed.
        mask: (H, W) bool.
        colour: of the line.
        thickness: of the line, in pixels.
        edge: of a pixel on each side of the line, so that it is seen on any ground.
    """
    contours = [
        contour.astype(np.int32)
        for polygon in mask_to_polygons(mask)
        for contour in (polygon.exterior, *polygon.holes)
    ]
    if edge is not None:
        cv2.polylines(drawn, contours, True, edge, thickness + 2, cv2.LINE_AA)
    cv2.polylines(drawn, contours, True, colour, thickness, cv2.LINE_AA)


def mark_prompt(drawn: npt.NDArray[np.uint8], prompt: Prompt, thickness: int) -> None:
    """Mark a prompt's points and box in an image (H, W, 3), which is changed."""
    if prompt.box is not None:
        x0, y0, x1, y1 = np.rint(prompt.box).astype(int).tolist()
        cv2.rectangle(drawn, (x0, y0), (x1, y1), (0, 0, 0), thickness + 2)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), _WHITE, thickness)
    radius = 3 * thickness
    for point, label in zip(prompt.points, prompt.labels, strict=True):
        x, y = np.rint(point).astype(int).tolist()
        colour = OBJECT_POINT if label == 1 else BACKGROUND_POINT
        cv2.circle(drawn, (x, y), radius + thickness, _WHITE, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(drawn, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)


def _mark_move(drawn: npt.NDArray[np.uint8], move: Move, thickness: int) -> None:
    """Draw points of a contour before and after, in an image (H, W, 3), which is changed."""
    before, after = (np.rint(points).astype(int).tolist() for points in move)
    length = float(np.hypot(*np.diff(move[1], axis=0, append=move[1][:1]).T).sum())
    every = max(1, round(4 * thickness * len(after) / max(length, 1)))  # or they would touch
    pairs = list(zip(before, after, strict=True))[::every]
    for start, end in pairs:
        cv2.line(drawn, start, end, _WHITE, max(1, thickness // 2), cv2.LINE_AA)
    for start, end in pairs:
        cv2.circle(drawn, start, thickness, BEFORE, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(drawn, end, thickness, AFTER, cv2.FILLED, cv2.LINE_AA)
