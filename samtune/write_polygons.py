"""Polygons for other tools: YOLO, LabelMe, GeoJSON, SVG.

All four count pixels from the image's upper left corner, so that a pixel x covers x to x + 1 and
its centre is x + 0.5, half more than in samtune. The outlines are those of outlines.py: filled by
the pixels whose centre lies within, they give back the mask exactly. Tools that also draw the
outline itself (OpenCV's fillPoly in Ultralytics, Pillow's polygon in LabelMe's own converter) come
out up to half a pixel larger, as with polygons that people draw.
"""

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from samtune.errors import OutputError
from samtune.files import atomic_write, by_its_name
from samtune.outlines import mask_to_outlines
from samtune.polygons import Polygon
from samtune.results import Result
from samtune.words import readable
from samtune.writers import Image, ImageFiles, Target

_SVG_COLOURS = ("#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#f0e442")  # Okabe and Ito, as overlay
_LABELME_VERSION = "6.3.1"  # whose reader this was written against; shape "mask" since 5.3
_MOST_CLASSES = 99_999  # what a list with a line for each number may come to
_NEAR_POINTS = 64  # of a contour, when another one looks for a short way to it


def corner_polygons(mask: npt.NDArray[np.bool_]) -> tuple[Polygon, ...]:
    """A mask's outlines, counted from the image's corner: from 0 to (W, H)."""
    half = np.float32(0.5)
    return tuple(
        Polygon(polygon.exterior + half, tuple(hole + half for hole in polygon.holes))
        for polygon in mask_to_outlines(mask)
    )


class Yolo(ImageFiles):
    """YOLO segmentation labels, as Ultralytics has them: x.txt, with classes.txt and data.yaml.

    A line an object: its class, from 0 on, and one contour, x and y as shares of the image's width
    and height. Holes and separate parts are joined to that contour by lines of no width, there
    and back, which enclose nothing; OpenCV draws them one pixel wide.
    """

    ending = "txt"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._numbers = target.numbers("yolo", first=0)
        named = dict(sorted((number, label) for label, number in self._numbers.items()))
        if (most := max(named)) > _MOST_CLASSES:
            raise OutputError(
                f"the class {most} is too high a number for YOLO's list of classes: give all "
                "objects one with --label NAME, or choose another --format."
            )
        numbered = "".join(
            f"  {number}: {json.dumps(label, ensure_ascii=False)}\n"
            for number, label in named.items()
        )
        # A line a number: one that has no class stands for itself.
        in_lines = "".join(f"{named.get(number, number)}\n" for number in range(most + 1))
        self._lists = [  # written with the first image
            self._take_list("classes", "txt", in_lines),
            self._take_list("data", "yaml", f"names:\n{numbered}"),
        ]

    def _take_list(self, stem: str, ending: str, text: str) -> tuple[Path, str]:
        (path,) = self.target.names.take(stem, ending)
        if self.target.keeps(path) and _content(path) != text:
            raise OutputError(
                f"{path} exists and lists other classes: choose another folder with --output, "
                "other names with --label, or --overwrite it."
            )
        return path, text

    def save(
        self, path: Path, grows: bool, image: Path, pixels: Image, results: Sequence[Result]
    ) -> None:
        """Write a line a mask, and before the first one the lists of classes."""
        while self._lists:
            _write_text(*self._lists.pop())
        if path.stem != image.stem:
            self.target.note(
                f"yolo: {image} is not the only {image.stem}, so its labels are {path.name}; tools "
                f"look for those of an image's own name: call it {path.stem}{image.suffix} for them"
            )
        size = np.array(pixels.shape[1::-1])  # (W, H)
        lines = path.read_text(encoding="utf-8") if grows else ""
        for result in results:
            polygons = corner_polygons(result.mask)
            if not polygons:
                continue
            if len(polygons) > 1 or polygons[0].holes:
                self.target.note(
                    "yolo: one contour an object, so holes and separate parts are joined to it by "
                    "lines of no width (some tools draw them one pixel wide)"
                )
            shares = (_one_contour(polygons) / size).ravel()
            number = str(self._numbers[result.label])
            lines += " ".join([number, *(f"{share:.6f}" for share in shares)]) + "\n"
        _write_text(path, lines)


class LabelMe(ImageFiles):
    """LabelMe's x.json, without the image in it.

    An object is a polygon, or several with one group_id; one with holes, which polygons there
    cannot have, is a shape of type "mask". Where there is a score, a shape has it as "score".
    """

    ending = "json"

    def save(
        self, path: Path, grows: bool, image: Path, pixels: Image, results: Sequence[Result]
    ) -> None:
        """Write a shape for every part of every mask."""
        old = json.loads(path.read_text(encoding="utf-8"))["shapes"] if grows else []
        shapes: list[dict[str, Any]] = list(old)
        group = max((shape["group_id"] or 0 for shape in shapes), default=0)
        for result in results:
            polygons = corner_polygons(result.mask)
            if any(polygon.holes for polygon in polygons):
                shapes.append(_shape(result, "mask", **_boxed_mask(result)))
                continue
            group += len(polygons) > 1
            shapes += [
                _shape(
                    result,
                    "polygon",
                    points=polygon.exterior.tolist(),
                    group_id=group if len(polygons) > 1 else None,
                )
                for polygon in polygons
            ]
        content = {
            "version": _LABELME_VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": _relative(image, path.parent),
            "imageData": None,
            "imageHeight": pixels.shape[0],
            "imageWidth": pixels.shape[1],
        }
        _write_text(path, json.dumps(content, indent=1) + "\n")


class GeoJson(ImageFiles):
    """GeoJSON (RFC 7946) in pixels, y downwards: what QuPath opens as annotations.

    A feature an object: a Polygon, or a MultiPolygon of its parts, with their holes. Exteriors
    have a positive area by the shoelace formula. An empty mask has the geometry null.
    """

    ending = "geojson"

    def save(
        self, path: Path, grows: bool, image: Path, pixels: Image, results: Sequence[Result]
    ) -> None:
        """Write a feature a mask."""
        old = json.loads(path.read_text(encoding="utf-8"))["features"] if grows else []
        features = [*old, *(_feature(result) for result in results)]
        content = {"type": "FeatureCollection", "features": features}
        _write_text(path, json.dumps(content) + "\n")


class Svg(ImageFiles):
    """SVG of the image's size: a path an object, holes left open by the even-odd rule."""

    ending = "svg"
    edited_by_people = False
    _END = "</svg>\n"

    def save(
        self, path: Path, grows: bool, image: Path, pixels: Image, results: Sequence[Result]
    ) -> None:
        """Write a path a mask."""
        height, width = pixels.shape[:2]
        drawing = (
            path.read_text(encoding="utf-8").removesuffix(self._END)
            if grows
            else (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}">\n<title>{_xml(image.name)}</title>\n'
            )
        )
        count = drawing.count("<path ")
        for number, result in enumerate(results, start=count):
            colour = _SVG_COLOURS[number % len(_SVG_COLOURS)]
            score = "" if result.score is None else f'data-score="{result.score:.4f}" '
            drawing += (
                f"<path data-label={quoteattr(result.label)} {score}"
                f'fill="{colour}" fill-opacity="0.5" fill-rule="evenodd" stroke="{colour}" '
                f'd="{_path_data(result)}"/>\n'
            )
        _write_text(path, drawing + self._END)


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _xml(text: str) -> str:
    """Text that XML can hold, also of a file name that is no text."""
    return escape(readable(text))


def _one_contour(polygons: Sequence[Polygon]) -> npt.NDArray[np.float32]:
    """All contours as one, joined by lines that lead there and back."""
    first, *others = (ring for one in polygons for ring in (one.exterior, *one.holes))
    joined = first
    for ring in others:
        tried = np.linspace(0, len(ring), min(len(ring), _NEAR_POINTS), endpoint=False).astype(int)
        distances = ((joined[:, None] - ring[None, tried]) ** 2).sum(axis=2)
        at, place = divmod(int(distances.argmin()), len(tried))
        round_trip = np.roll(ring, -tried[place], axis=0)
        joined = np.concatenate([joined[: at + 1], round_trip, round_trip[:1], joined[at:]])
    return joined


def _shape(result: Result, kind: str, **others: Any) -> dict[str, Any]:
    return {
        "label": result.label,
        "points": [],
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        **result.scored,
        **others,
    }


def _boxed_mask(result: Result) -> dict[str, Any]:
    """LabelMe's mask: a PNG of the box, and the box's first and last pixel, not corners."""
    x, y, width, height = result.bbox
    png = io.BytesIO()
    crop = result.mask[y : y + height, x : x + width].astype(np.uint8) * np.uint8(255)
    Pillow.fromarray(crop).save(png, format="PNG")
    return {
        "points": [[x, y], [x + width - 1, y + height - 1]],
        "mask": base64.b64encode(png.getvalue()).decode("ascii"),
    }


def _relative(image: Path, folder: Path) -> str:
    """The image as seen from a folder; by its whole path where they share no drive."""
    whole = by_its_name(image)
    try:
        return Path(os.path.relpath(whole, folder.resolve())).as_posix()
    except ValueError:
        return whole.as_posix()


def _feature(result: Result) -> dict[str, Any]:
    parts = [
        [[*ring.tolist(), ring[0].tolist()] for ring in (polygon.exterior, *polygon.holes)]
        for polygon in corner_polygons(result.mask)
    ]
    geometry: dict[str, Any] | None = None
    if len(parts) == 1:
        geometry = {"type": "Polygon", "coordinates": parts[0]}
    elif parts:
        geometry = {"type": "MultiPolygon", "coordinates": parts}
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",  # this and the classification are QuPath's words
            "classification": {"name": result.label},
            **result.scored,
            "area": result.area,
        },
    }


def _path_data(result: Result) -> str:
    rings = (
        ring
        for polygon in corner_polygons(result.mask)
        for ring in (polygon.exterior, *polygon.holes)
    )
    return " ".join(
        "M" + " ".join(f"{x:g},{y:g}" for x, y in ring.tolist()) + "Z" for ring in rings
    )
