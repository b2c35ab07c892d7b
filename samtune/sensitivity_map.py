"""The sensitivity map: one picture with a panel for plain SAM and for each adapter.

Each click in an object colours the object's pixels around it by the IoU of its answer; those in the
ring around it are dots. A white line is the object's outline. All panels share one colour scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from samtune.overlay import draw_outline
from samtune.sensitivity import GOOD_IOU, Clicks, in_object_and_ring
from samtune.words import count

# Viridis of Smith and van der Walt (CC0): even in lightness, and readable by colour-blind people.
_SCALE = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b")
_STOPS = np.array([[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in (*_SCALE, "fde725")])
_INK, _PAPER = (25, 25, 25), (255, 255, 255)
_PANEL = 380  # pixels: long side of a panel's picture, and its width with the text below
_GAP = 20
_LINE = 20  # pixels from one line of text to the next
_SCALE_WIDTH = 75  # pixels kept for the colour scale
_AROUND = 0.25  # of the clicks' extent is shown on each side


@dataclass(frozen=True, eq=False)
class Panel:
    """What one of the compared models gave.

    Attributes:
        name: what stands above it.
        scores: (N,) the IoU of each click's answer.
    """

    name: str
    scores: NDArray[np.float64]


def colours(scores: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The colour of each score: (..., 3) uint8 RGB, dark violet for 0 and yellow for 1."""
    places = np.linspace(0, 1, len(_STOPS))
    channels = [np.interp(scores, places, _STOPS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def draw_sensitivity(
    image: NDArray[np.uint8],
    targets: Sequence[NDArray[np.bool_]],
    clicks: Clicks,
    panels: Sequence[Panel],
) -> NDArray[np.uint8]:
    """Draw the image and the map of each model side by side, with the numbers below.

    Args:
        image: (H, W, 3) uint8 RGB.
        targets: (H, W) bool masks that the clicks were laid over.
        clicks: where the clicks were.
        panels: their scores, model by model.

    Returns:
        (H', W', 3) uint8 RGB, dark text on white.
    """
    rows, columns = _crop(clicks, (image.shape[0], image.shape[1]))
    photo = image[rows, columns]
    scale = _PANEL / max(photo.shape[:2])
    masks = [_scaled(target[rows, columns], scale) for target in targets]
    moved = clicks.points - (columns.start, rows.start)
    pictures = [_scaled(photo, scale)]
    pictures += [
        _painted(pictures[0], masks, clicks, (moved + 0.5) * scale, scale, panel.scores)
        for panel in panels
    ]
    for picture in pictures:
        for mask in masks:
            draw_outline(picture, mask > 0, _PAPER, 1, edge=(0, 0, 0))
    places = count(int(clicks.inside.sum()), "place")
    texts = [["the image", f"{count(len(targets), 'object')} with {places} to click"]]
    texts += [[panel.name, *_in_words(panel.scores, clicks)] for panel in panels]
    return _sheet(pictures, texts)


def _painted(
    photo: NDArray[np.uint8],
    masks: Sequence[NDArray[np.uint8]],
    clicks: Clicks,
    places: NDArray[np.float64],
    scale: float,
    scores: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """The map of one model on a faded photo, all at the panel's scale; places are (N, 2) xy."""
    grey = photo.mean(axis=2, keepdims=True) * 0.5 + 90
    drawn = np.repeat(grey, 3, axis=2).round().astype(np.uint8)
    height, width = drawn.shape[:2]
    painted = colours(scores)
    pixels = np.minimum(places.astype(int), (width - 1, height - 1))
    for index, mask in enumerate(masks):
        own = np.flatnonzero((clicks.target == index) & clicks.inside)
        xs, ys = pixels[own].T
        empty = np.ones((height, width), np.uint8)
        empty[ys, xs] = 0
        _, nearest = cv2.distanceTransformWithLabels(
            empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        click_of = np.zeros(nearest.max() + 1, np.int64)
        click_of[nearest[ys, xs]] = own
        drawn[mask > 0] = painted[click_of[nearest[mask > 0]]]
    for click in np.flatnonzero(~clicks.inside):
        radius = max(2, round(0.3 * clicks.step[click] * scale))
        x, y = pixels[click].tolist()
        colour = tuple(painted[click].tolist())
        cv2.circle(drawn, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)
    return drawn


def _crop(clicks: Clicks, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the image that hold the clicks and some of what is around them."""
    low, high = clicks.points.min(axis=0), clicks.points.max(axis=0) + 1
    margin = max(8, math.ceil(_AROUND * float((high - low).max())))
    (x0, y0), (x1, y1) = np.maximum(low - margin, 0).tolist(), (high + margin).tolist()
    return slice(y0, min(y1, size[0])), slice(x0, min(x1, size[1]))


def _scaled(picture: NDArray[Any], scale: float) -> NDArray[np.uint8]:
    """A picture, or a mask as 0 and 1, at the panel's scale."""
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    method = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture.astype(np.uint8), size, interpolation=method), np.uint8)


def _sheet(
    pictures: Sequence[NDArray[np.uint8]], texts: Sequence[Sequence[str]]
) -> NDArray[np.uint8]:
    """Pictures of one size side by side, the first text of each above and the others below."""
    height, width = pictures[0].shape[:2]
    column = max(width, _PANEL) + _GAP
    top = _GAP + _LINE + 10
    size = (_GAP + len(pictures) * column + _SCALE_WIDTH, top + height + 3 * _LINE + 2 * _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (picture, (title, *lines)) in enumerate(zip(pictures, texts, strict=True)):
        left = _GAP + number * column
        draw.text((left, _GAP), _shortened(title, _PANEL, _font(17)), _INK, _font(17))
        sheet.paste(Image.fromarray(picture), (left, top))
        for row, line in enumerate(lines):
            draw.text((left, top + height + 10 + row * _LINE), line, _INK, _font(14))
    _draw_scale(sheet, (_GAP + len(pictures) * column, top), height)
    return np.asarray(sheet)


def _in_words(scores: NDArray[np.float64], clicks: Clicks) -> list[str]:
    inside, ring = in_object_and_ring(scores, clicks)
    return [
        f"mean IoU {100 * inside.mean_iou:.1f} %,  10th percentile {100 * inside.p10_iou:.1f} %",
        f"{100 * inside.good_share:.0f} % of clicks give an IoU of {100 * GOOD_IOU:.0f} % or more",
        f"beside the object: mean IoU {100 * ring.mean_iou:.1f} %" if ring else "",
    ]


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The end of a text where all of it is too long: a path's end is what tells files apart."""
    if font.getlength(text) <= width:
        return text
    endings = (f"…{text[start:]}" for start in range(1, len(text) + 1))
    return next(ending for ending in endings if font.getlength(ending) <= width)


def _draw_scale(sheet: Image.Image, corner: tuple[int, int], height: int) -> None:
    """A bar of all colours with its values, from 100 above to 0 below."""
    x, y = corner
    bar = colours(np.linspace(1, 0, height)[:, None].repeat(18, axis=1))
    sheet.paste(Image.fromarray(bar), (x, y))
    draw = ImageDraw.Draw(sheet)
    draw.text((x, y - _LINE - 4), "IoU, %", _INK, _font(14))
    for value in range(0, 101, 20):
        level = y + round((height - 1) * (1 - value / 100))
        draw.line([(x + 18, level), (x + 23, level)], _INK)
        draw.text((x + 27, level), str(value), _INK, _font(14), anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels bring FreeType"
    return font
