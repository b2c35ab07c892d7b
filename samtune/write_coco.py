"""COCO: one JSON file for all images of a run, coco.json.

An object without holes is polygons, one a part, in pixels from the image's upper left corner (a
pixel x covers x to x + 1); pycocotools gives back the very mask. One with holes is run lengths,
because COCO's polygons cannot have holes. Boxes are x, y, width, height; "score" comes on top,
which readers of data sets pass over. The image's file_name is its place as seen from
coco.json's folder, or its mere name where it lies elsewhere. Shards of a run write a file each,
coco.1-of-4.json, with ids of their own, so that their lists only need to be joined.
"""

import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from samtune import __version__
from samtune.errors import OutputError
from samtune.files import atomic_write, by_its_name, why_not_written
from samtune.results import Result
from samtune.rle import encode_rle
from samtune.write_polygons import corner_polygons
from samtune.writers import Image, Target, Writer

Note = tuple[str, tuple[int, int], list[dict[str, Any]]]  # the arguments of Coco.note


class Coco(Writer):
    """Collects entries in unnamed temporary files, and makes the file of them at the end."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._path = target.take_annotations(target.shard.stem("coco"), "json")
        self._numbers = target.numbers("coco", first=1)
        self._spools: tuple[BinaryIO, BinaryIO] | None = None  # of images and annotations
        self._id_of: dict[Path, int] = {}
        self._file_names: set[str] = set()
        self._annotation_count = 0

    def plan(self, image: Path, results: Sequence[Result]) -> list[Path | None]:
        """All masks go to one file."""
        return [self._path] * len(results)

    def write(
        self, image: Path, pixels: Image, results: Sequence[Result], paths: Sequence[Path | None]
    ) -> None:
        """Note an image and its objects; an empty mask is no object."""
        height, width = pixels.shape[:2]
        objects = [
            {"category_id": self._numbers[result.label], **_described(result)}
            for result in results
            if result.area
        ]
        self.note(image, (height, width), objects)

    def note(self, image: Path, size: tuple[int, int], objects: list[dict[str, Any]]) -> None:
        """Note an image of a size (H, W), and entries without ids for its objects."""
        try:
            self._note(by_its_name(image), size, objects)
        except OSError as error:
            raise OutputError(why_not_written(self._path, error)) from error

    def _note(self, image: Path, size: tuple[int, int], objects: list[dict[str, Any]]) -> None:
        if self._spools is None:
            self._spools = _spool(self._path.parent), _spool(self._path.parent)
        images, annotations = self._spools
        if image not in self._id_of:
            number = self.target.shard.number(len(self._id_of) + 1)
            name = self._file_name(image)
            entry = {"id": number, "file_name": name, "width": size[1], "height": size[0]}
            _append(images, entry)
            self._id_of[image] = number
            self._file_names.add(name)
        for entry in objects:
            self._annotation_count += 1
            number = self.target.shard.number(self._annotation_count)
            _append(annotations, {"id": number, "image_id": self._id_of[image], **entry})

    def close(self) -> None:
        """Write coco.json of what has come so far; nothing if no image has."""
        if self._spools is None:
            return
        about = {"description": "Made by samtune", "version": __version__}
        categories = [
            {"id": number, "name": label, "supercategory": ""}
            for label, number in self._numbers.items()
        ]
        with (
            self._spools[0] as images,
            self._spools[1] as annotations,
            atomic_write(self._path) as temporary,
            temporary.open("w", encoding="ascii") as file,
        ):
            file.write(f'{{"info": {json.dumps(about)}, "licenses": [],\n"images": [')
            _copy(images, file)
            file.write('],\n"annotations": [')
            _copy(annotations, file)
            file.write(f'],\n"categories": {json.dumps(categories)}}}\n')

    def _file_name(self, image: Path) -> str:
        """Seen from coco.json's folder, or the name with as many folders as tell it apart."""
        folder = self._path.parent.resolve()
        name = image.relative_to(folder).as_posix() if image.is_relative_to(folder) else image.name
        for parent in image.parents:
            if name not in self._file_names:
                break
            name = f"{parent.name}/{name}"
        return name


class CocoNotes(Coco):
    """Keeps what there is to note, in plain values, for the process that writes the file."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._noted: list[Note] = []

    def note(self, image: Path, size: tuple[int, int], objects: list[dict[str, Any]]) -> None:
        """Keep the arguments."""
        self._noted.append((str(image), size, objects))

    def take(self) -> list[Note]:
        """What came since the last time."""
        noted, self._noted = self._noted, []
        return noted


def _spool(folder: Path) -> BinaryIO:
    """A nameless file beside the results: a system's own place for such may be too small."""
    folder.mkdir(parents=True, exist_ok=True)
    return cast(BinaryIO, tempfile.TemporaryFile("w+b", buffering=0, dir=folder))


def _append(spool: BinaryIO, entry: dict[str, Any]) -> None:
    """Add a whole line, or none."""
    end = spool.seek(0, os.SEEK_END)
    line = memoryview(json.dumps(entry).encode("ascii") + b"\n")
    try:
        while line:
            line = line[spool.write(line) :]
    except OSError:
        spool.truncate(end)
        raise


def _copy(spool: BinaryIO, file: IO[str]) -> None:
    spool.seek(0)
    separator = "\n"
    with io.BufferedReader(cast(io.RawIOBase, spool)) as lines:
        for line in lines:
            file.write(separator + line.decode("ascii").rstrip("\n"))
            separator = ",\n"


def _described(result: Result) -> dict[str, Any]:
    polygons = corner_polygons(result.mask)
    segmentation: list[list[float]] | dict[str, Any]
    if any(polygon.holes for polygon in polygons):
        height, width = result.mask.shape
        segmentation = {"size": [height, width], "counts": encode_rle(result.mask)}
    else:
        segmentation = [polygon.exterior.ravel().tolist() for polygon in polygons]
    return {
        "segmentation": segmentation,
        "area": result.area,
        "bbox": result.bbox,
        "iscrowd": 0,
        **result.scored,
    }
