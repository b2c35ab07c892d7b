"""Masks: what the numbers in mask files mean, and which objects they make.

Seldom does a file say what its numbers mean, so all masks of a data set are looked at
together and read in one way:

    0 and 1, 0 and 255, or one other number      one object an image ("mask")
    other whole numbers                          each number is an object ("instances")
    edges smeared between 0 and 255              one object, from 128 on ("mask")
    a class id is asked for                      that number's pixels are one object ("mask")

Of any foreground, "components" makes every connected part an object.
"""

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from samtune.errors import DatasetError
from samtune.polygons import extent

Labels = npt.NDArray[np.integer[Any]]
Meaning = Literal["mask", "components", "instances"]

_DECODER_SIDE = 256  # SAM's decoder draws masks of 256×256, whatever the image's size


@dataclass(frozen=True)
class DatasetObject:
    """One object in an image: a few hundred bytes, from which its mask can be had.

    Args:
        image_index: which of the data set's pairs.
        size: (H, W) of the image.
        box: x0, y0, x1, y1 in whole pixels, half open: mask[y0:y1, x0:x1] holds the object.
        bits: the mask within the box, packed by np.packbits and compressed by zlib.
        label: the object's number in the mask file (its class id, its instance label).
    """

    image_index: int
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    bits: bytes
    label: int

    @classmethod
    def of(
        cls, mask: npt.NDArray[np.bool_], image_index: int = 0, label: int = 1
    ) -> "DatasetObject":
        """Pack an (H, W) bool mask with at least one pixel.

        Example:
            >>> mask = np.zeros((4, 6), dtype=bool)
            >>> mask[1:3, 2:6] = True
            >>> DatasetObject.of(mask).box
            (2, 1, 6, 3)
        """
        box = extent(mask)
        if box is None:
            raise ValueError(f"the {mask.shape} mask has no pixel")
        x0, y0, x1, y1 = box
        height, width = mask.shape
        return cls(image_index, (height, width), box, _compressed(mask[y0:y1, x0:x1]), label)

    def mask(self) -> npt.NDArray[np.bool_]:
        """The object's mask, (H, W) bool."""
        x0, y0, x1, y1 = self.box
        mask = np.zeros(self.size, dtype=bool)
        mask[y0:y1, x0:x1] = self._crop()
        return mask

    def iou(self, mask: npt.NDArray[np.bool_], area: int) -> float:
        """IoU with an (H, W) mask, which has so many pixels, without making one of the object.

        Example:
            >>> mask = np.array([[True, True, False]])
            >>> DatasetObject.of(np.array([[False, True, True]])).iou(mask, area=2)
            0.3333333333333333
        """
        if mask.shape != self.size:
            raise ValueError(f"a mask of {mask.shape} has no IoU with one of {self.size}")
        x0, y0, x1, y1 = self.box
        crop = self._crop()
        common = int(np.count_nonzero(mask[y0:y1, x0:x1] & crop))
        return common / (int(np.count_nonzero(crop)) + area - common)

    def mirrored(self, image_index: int) -> "DatasetObject":
        """The object as it is in the mirror image, which is this one of the pairs.

        Example:
            >>> mask = np.zeros((4, 6), dtype=bool)
            >>> mask[1:3, 3:6] = True
            >>> DatasetObject.of(mask).mirrored(1).box
            (0, 1, 3, 3)
        """
        x0, y0, x1, y1 = self.box
        width = self.size[1]
        return replace(
            self,
            image_index=image_index,
            box=(width - x1, y0, width - x0, y1),
            bits=_compressed(self._crop()[:, ::-1]),
        )

    @property
    def area(self) -> int:
        """How many pixels the object has."""
        return int(self._crop().sum())

    def _crop(self) -> npt.NDArray[np.bool_]:
        x0, y0, x1, y1 = self.box
        packed = np.frombuffer(zlib.decompress(self.bits), dtype=np.uint8)
        count = (y1 - y0) * (x1 - x0)
        return np.unpackbits(packed, count=count).reshape(y1 - y0, x1 - x0).astype(bool)


def digest_of(things: Iterable[DatasetObject]) -> str:
    """SHA-256 of objects' pixels in their order, which does not depend on names or the format."""
    digest = hashlib.sha256()
    for thing in things:
        digest.update(repr((thing.size, thing.box, thing.label)).encode())
        digest.update(zlib.decompress(thing.bits))
    return digest.hexdigest()


@dataclass(frozen=True)
class LabelReading:
    """How the numbers in a data set's masks are read.

    Args:
        meaning: what is one object.
        class_id: the number that counts, or None for all.
        threshold: the least number that counts when class_id is None.
        void: a number that stands for "neither object nor background", or None.
        note: what had to be assumed, in words for the user; empty when nothing had to.
    """

    meaning: Meaning
    class_id: int | None = None
    threshold: int = 1
    void: int | None = None
    note: str = ""


def class_number(holder: Path, class_id: int | str | None) -> int | None:
    """A class of masks from what the user gave.

    Args:
        holder: the folder or file that holds the masks, for the message.
        class_id: a number from 1 on, or its digits; None is no class.

    Raises:
        DatasetError: it is something else.
    """
    if class_id is None:
        return None
    if re.fullmatch("[0-9]{1,9}", str(class_id)) and int(class_id):
        return int(class_id)
    raise DatasetError(
        f"{holder} holds masks, whose classes are numbers from 1 on: "
        f"give one instead of {class_id!s:.40}."
    )


def check_meaning(meaning: Meaning | None, class_id: int | None) -> None:
    """Make sure that numbers are not to be two things at once.

    Raises:
        DatasetError: they are.
    """
    if class_id is not None and meaning == "instances":
        raise DatasetError(
            f"mask values are either class ids or instance labels: with class {class_id}, "
            'ask for "mask" or "components" objects instead of "instances".'
        )


def count_values(labels: Labels) -> Counter[int]:
    """How many pixels each number above 0 has in a mask.

    Example:
        >>> count_values(np.array([[0, 7], [7, 3]])) == {7: 2, 3: 1}
        True
    """
    if labels.dtype == np.uint8:  # the usual case: several times faster than np.unique
        counts = np.bincount(labels.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(labels, return_counts=True)
    pixels = zip(values.tolist(), counts.tolist(), strict=True)
    return Counter({value: count for value, count in pixels if value > 0})


def solid_values(labels: Labels) -> set[int]:
    """Which numbers fill 3 × 3 pixels somewhere in a mask, as nearly every object does.

    Example:
        >>> labels = np.zeros((4, 6), dtype=np.uint8)
        >>> labels[:, 3:], labels[:, 2] = 255, 128
        >>> solid_values(labels)
        {255}
    """
    below, beside = labels[1:] == labels[:-1], labels[:, 1:] == labels[:, :-1]
    same = below[:, 1:] & below[:, :-1] & beside[1:]  # 2 × 2 pixels that are alike
    middles = labels[1:-1, 1:-1]
    solid = same[:-1, :-1] & same[:-1, 1:] & same[1:, :-1] & same[1:, 1:] & (middles > 0)
    return set(np.unique(middles[solid]).tolist())


def decide_reading(
    counts: Sequence[Counter[int]],
    meaning: Meaning | None = None,
    class_id: int | None = None,
    *,
    solid: Collection[int] | None = None,
) -> LabelReading:
    """Decide what the numbers mean, from all masks of a data set together.

    255 beside labels 1..N is the "void" of Pascal VOC's borders and no object.

    Args:
        counts: one count_values a mask.
        meaning: what the user says is one object, or None to decide by the numbers.
        class_id: the number that is the target; other numbers are other classes.
        solid: the solid_values of all masks, if they are known.
    """
    if class_id is not None:
        return LabelReading(meaning or "mask", class_id=class_id)
    total: Counter[int] = Counter()
    for count in counts:
        total.update(count)
    if meaning != "instances" and _is_smeared(total, solid):
        note = "masks with smeared edges: values from 128 to 255 are the object"
        return LabelReading(meaning or "mask", threshold=128, note=note)
    both = any({1, 255} <= set(count) for count in counts)
    if meaning is None:
        binary = len(total) <= 1 or (set(total) == {1, 255} and not both)
        meaning = "mask" if binary else "instances"
    numbers = sorted(set(total) - {255})
    void = meaning == "instances" and 255 in total and (both or len(numbers) > 1)
    if void and numbers[-1] < 254 and numbers == list(range(1, len(numbers) + 1)):
        return LabelReading(meaning, void=255, note="255 is taken as void, not as an object")
    return LabelReading(meaning)


def reading_of(
    labels: Labels, meaning: Meaning | None = None, class_id: int | None = None
) -> LabelReading:
    """What the numbers of a single mask mean: decide_reading where there is no data set.

    Raises:
        DatasetError: numbers are to be classes and instances at once.
    """
    check_meaning(meaning, class_id)
    return decide_reading([count_values(labels)], meaning, class_id, solid=solid_values(labels))


def objects_in(
    labels: Labels, reading: LabelReading, image_index: int
) -> tuple[list[DatasetObject], int]:
    """The objects of one mask, and how many specks were left out.

    Specks are connected parts smaller than a pixel of the mask that SAM's decoder draws:
    crumbs of a brush or of resampling, which no prompt could bring back. Only "components"
    looks for them.

    Args:
        labels: (H, W) integers.
        reading: what they mean.
        image_index: becomes the objects' image_index.

    Returns:
        Objects in ascending order of their label, and the number of specks.
    """
    if reading.meaning == "instances":
        numbered = np.where((labels > 0) & (labels != (reading.void or 0)), labels, 0)
        return _each_number(numbered, image_index), 0
    if reading.class_id is None:
        foreground, label = labels >= reading.threshold, 1
    else:
        foreground, label = labels == reading.class_id, reading.class_id
    if reading.meaning == "mask":
        return ([DatasetObject.of(foreground, image_index, label)] if foreground.any() else []), 0
    _, parts = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)
    objects = _each_number(np.asarray(parts, dtype=np.int32), image_index)
    least = (max(labels.shape) / _DECODER_SIDE) ** 2
    large = [thing for thing in objects if thing.area >= least]
    return large, len(objects) - len(large)


def _is_smeared(total: Counter[int], solid: Collection[int] | None) -> bool:
    """Whether these are 0/255 masks with soft edges.

    Either mostly 255 and a little of many others, or of no other number more than a thin line, as
    of small and thin objects that were scaled.
    """
    if max(total, default=0) != 255 or set(total) <= {1, 255}:
        return False
    if solid is not None and set(solid) <= {255}:
        numbers = sorted(set(total) - {255})
        are_labels = numbers == list(range(1, len(numbers) + 1))  # of dots, and 255 is one of them
        if not are_labels or total[255] > max(total[number] for number in numbers):
            return True
    return len(total) > 8 and 2 * total[255] > total.total()


def _each_number(labels: Labels, image_index: int) -> list[DatasetObject]:
    """One object for each number above 0, in one sorting instead of a search for each."""
    ys, xs = np.nonzero(labels)
    if xs.size == 0:
        return []
    values = labels[ys, xs]
    order = np.argsort(values, kind="stable")
    ys, xs, values = ys[order], xs[order], values[order]
    starts = np.flatnonzero(np.diff(values, prepend=0))
    return [
        _packed(y, x, labels.shape, image_index, int(values[start]))
        for start, y, x in zip(
            starts, np.split(ys, starts[1:]), np.split(xs, starts[1:]), strict=True
        )
    ]


def _packed(
    ys: npt.NDArray[np.intp],
    xs: npt.NDArray[np.intp],
    size: tuple[int, ...],
    image_index: int,
    label: int,
) -> DatasetObject:
    x0, y0, x1, y1 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
    crop = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    crop[ys - y0, xs - x0] = True
    box = (x0, y0, x1, y1)
    return DatasetObject(image_index, (size[0], size[1]), box, _compressed(crop), label)


def _compressed(crop: npt.NDArray[np.bool_]) -> bytes:
    return zlib.compress(np.packbits(crop).tobytes(), level=1)
