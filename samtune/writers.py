"""Writers: what every format's writer does, and the formats that are arrays of pixels.

A writer takes the masks of one image after another and keeps none of them: of a stream of any
length it remembers what images and results are called. An image may come back: what is written
once an image then grows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from samtune.errors import OutputError
from samtune.files import atomic_write, is_there
from samtune.images import read_labels, write_mask, write_png
from samtune.results import Names, Result
from samtune.shards import WHOLE_RUN, Shard

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Target:
    """Where all writers of a run write to, and how.

    Args:
        names: gives the files' names, and the folder.
        labels: the classes' names, each once, in the order of their ids.
        overwrite: whether annotation files of earlier runs may be replaced: such files are often
            corrected by hand, and hours of work would be gone.
        note: told, in a sentence, what a format cannot hold; the same sentence may come again.
        shard: which part of a run this is: files that span all images have it in their name.
        there_before: names, without regard to case, of the files that may not be replaced, if not
            all that are there: others are an earlier worker's.
        own_numbers: by format, the numbers that classes have in files of that format which these
            masks come from, by their names.
    """

    names: Names
    labels: Sequence[str]
    overwrite: bool
    note: Callable[[str], None]
    shard: Shard = WHOLE_RUN
    own_numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    there_before: Collection[str] | None = None

    def numbers(self, form: str, first: int) -> dict[str, int]:
        """The number of each class in a format: its own, or else counted from `first` on."""
        counted = {label: number for number, label in enumerate(self.labels, start=first)}
        return dict(self.own_numbers.get(form) or counted)

    def take_annotations(self, stem: str, ending: str) -> Path:
        """Name a file that people also edit.

        Raises:
            OutputError: it exists, and may not be replaced.
        """
        (path,) = self.names.take(stem, ending)
        if self.keeps(path):
            raise OutputError(
                f"{path} exists and may hold labels made by hand: choose another folder with "
                "--output, or --overwrite it."
            )
        return path

    def keeps(self, path: Path) -> bool:
        """Whether a file is there that may not be replaced."""
        its_own = self.there_before is not None and path.name.casefold() not in self.there_before
        return is_there(path) and not self.overwrite and not its_own


class Writer(ABC):
    """Writes masks in one format."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def plan(self, image: Path, results: Sequence[Result]) -> list[Path | None]:
        """Name the file of each mask, before anything is written; None where there will be none.

        Raises:
            OutputError: a file is in the way.
        """

    @abstractmethod
    def write(
        self, image: Path, pixels: Image, results: Sequence[Result], paths: Sequence[Path | None]
    ) -> None:
        """Write an image's masks.

        Args:
            image: its file, as the user named it.
            pixels: (H, W, 3) uint8 RGB.
            results: the masks.
            paths: what `plan` said about these results.

        Raises:
            OutputError: a file cannot be written, or the format cannot hold this.
        """

    def close(self) -> None:  # noqa: B027, most formats have nothing left to do
        """Complete what spans all images; after an interruption, with those done until then."""


class MaskFiles(Writer):
    """A format with one file a mask."""

    ending: ClassVar[str]

    def plan(self, image: Path, results: Sequence[Result]) -> list[Path | None]:
        """Name a file for each mask; none for an object that was looked for and not found.

        Its number is left out: the second object's file has the 2 also where the first is missing.
        """
        if all(result.reason for result in results):
            return [None for _ in results]
        paths = self.target.names.take(image.stem, self.ending, len(results))
        return [
            None if result.reason else path for result, path in zip(results, paths, strict=True)
        ]

    def write(
        self, image: Path, pixels: Image, results: Sequence[Result], paths: Sequence[Path | None]
    ) -> None:
        """Write each mask to its file."""
        for result, path in zip(results, paths, strict=True):
            if path is not None:
                self.save(path, pixels, result)

    @abstractmethod
    def save(self, path: Path, pixels: Image, result: Result) -> None:
        """Write one mask."""


class ImageFiles(Writer):
    """A format with one file an image."""

    ending: ClassVar[str]
    edited_by_people: ClassVar[bool] = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._path_of: dict[Path, Path] = {}

    def plan(self, image: Path, results: Sequence[Result]) -> list[Path | None]:
        """Name the image's file: the same one when the image comes back."""
        path = self._path_of.get(image)
        if path is None and self.edited_by_people:
            path = self.target.take_annotations(image.stem, self.ending)
        elif path is None:
            (path,) = self.target.names.take(image.stem, self.ending)
        return [path] * len(results)

    def write(
        self, image: Path, pixels: Image, results: Sequence[Result], paths: Sequence[Path | None]
    ) -> None:
        """Write the image's file, with what this run wrote there before."""
        path = paths[0]
        assert path is not None, "every image has its file"
        self.save(path, image in self._path_of, image, pixels, results)
        self._path_of[image] = path

    @abstractmethod
    def save(
        self, path: Path, grows: bool, image: Path, pixels: Image, results: Sequence[Result]
    ) -> None:
        """Write an image's masks; `grows`: behind those that `path` holds."""


class Png(MaskFiles):
    """8-bit PNG of the image's size: 255 on the object, 0 elsewhere."""

    ending = "mask.png"

    def save(self, path: Path, pixels: Image, result: Result) -> None:
        """Write one mask."""
        write_mask(path, result.mask)


class Cutout(MaskFiles):
    """The object alone: RGBA PNG of the mask's box, transparent where the object is not.

    Cut to the box, as a sticker or a training image of a subject is wanted; the "bbox" of --json
    says where it was. What is cut away is gone from the file too, not merely invisible. An empty
    mask makes no file.
    """

    ending = "cutout.png"

    def plan(self, image: Path, results: Sequence[Result]) -> list[Path | None]:
        """Name a file for each mask that is not empty."""
        paths = super().plan(image, results)
        return [path if result.area else None for path, result in zip(paths, results, strict=True)]

    def save(self, path: Path, pixels: Image, result: Result) -> None:
        """Write one object."""
        x, y, width, height = result.bbox
        box = np.s_[y : y + height, x : x + width]
        alpha = np.where(result.mask[box], 255, 0).astype(np.uint8)
        write_png(path, np.dstack([pixels[box] * (alpha > 0)[..., None], alpha]))


class Npz(MaskFiles):
    """numpy's archive, for numpy.load.

    mask (H, W) bool; logits (H, W) float32, positive on the mask (before refinement, if there was
    any); score (); low_res_logits (256, 256) float32, what SAM takes as a mask prompt; and the
    prompt: point_coords (N, 2) xy, point_labels (N,), box (4,) xyxy, empty if there was none. Of
    another tool's mask, which `refine` writes, there is the mask alone.
    """

    ending = "npz"

    def save(self, path: Path, pixels: Image, result: Result) -> None:
        """Write one mask and its numbers."""
        known: dict[str, npt.NDArray[Any]] = {"mask": result.mask}
        if result.logits is not None:
            known["logits"] = result.logits()
        if result.score is not None:
            known["score"] = np.array(result.score, dtype=np.float32)
        if result.low_res_logits is not None:
            known["low_res_logits"] = result.low_res_logits
        if result.prompt is not None:
            box = result.prompt.box
            known["point_coords"] = result.prompt.points
            known["point_labels"] = result.prompt.labels
            known["box"] = np.empty(0, np.float32) if box is None else box
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, **known)  # type: ignore[arg-type]


class Instances(ImageFiles):
    """One label image an image: 16-bit PNG, 0 the background, 1, 2, ... the objects in order.

    `fit` reads it as a mask with instance labels. A pixel has one number only: where objects
    overlap it is that of the later one.
    """

    ending = "instances.png"
    edited_by_people = False

    def save(
        self, path: Path, grows: bool, image: Path, pixels: Image, results: Sequence[Result]
    ) -> None:
        """Write the label image."""
        labels = read_labels(path).astype(np.uint16) if grows else None
        if labels is None:
            labels = np.zeros(pixels.shape[:2], dtype=np.uint16)
        for number, result in enumerate(results, start=int(labels.max(initial=0)) + 1):
            if number > np.iinfo(np.uint16).max:
                raise OutputError(
                    f"{path} cannot hold more than 65,535 objects: use another --format, as coco."
                )
            if labels[result.mask].any():
                self.target.note(
                    "instances: objects overlap; where they do, the later one has the pixel"
                )
            labels[result.mask] = number
        write_png(path, labels)
