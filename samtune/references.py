"""References that a user names: an image, and what in it is meant."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samtune.embeddings import EmbeddingCache
from samtune.errors import ImageError, PromptError
from samtune.images import read_image, read_labels
from samtune.input_frame import Embedding
from samtune.masks import count_values, objects_in, reading_of
from samtune.pairs import in_pixels
from samtune.prompts import Box, Prompt
from samtune.reference_cells import (
    Marked,
    Share,
    share_of_box,
    share_of_points,
    share_of_scribble,
    together,
    vanishes,
)
from samtune.sam import Sam
from samtune.targets import covered_share

Point = tuple[float, float]


@dataclass(frozen=True)
class Reference:
    """An image and its annotations, which together say what is meant.

    Attributes:
        image: its file.
        masks: mask files of the image's size.
        class_id: the masks' number that is meant; None is all but 0.
        points: x, y in the image's own pixels.
        boxes: x0, y0, x1, y1.
        scribbles: each two points or more, in the order in which they were drawn.
    """

    image: Path
    masks: tuple[Path, ...] = ()
    class_id: int | None = None
    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()
    scribbles: tuple[tuple[Point, ...], ...] = ()

    def read(self, sam: Sam, cache: EmbeddingCache) -> Marked:
        """Encode the image, unless it is cached, and bring the annotations to its cells.

        Args:
            sam: the frozen model.
            cache: where embeddings are kept.

        Raises:
            ImageError: a file cannot be read, or a mask is of another size.
            PromptError: an annotation lies outside of the image, is empty, or vanishes in SAM's
                cells.
        """
        _, embedding = cache.encode(read_image(self.image), sam)
        self._check_inside(embedding.original_size)
        share = together(list(self._shares(embedding)))
        if vanishes(share):
            raise PromptError(
                f"what is annotated in {self.image} covers less than a tenth of any of SAM's "
                f"{embedding.features.shape[-1]}×{embedding.features.shape[-1]} cells and vanishes "
                "there: crop the image around the object, and its mask alike, or give a point."
            )
        return Marked(embedding, share, sparse=not (self.masks or self.boxes))

    def _shares(self, embedding: Embedding) -> Iterator[Share]:
        for path in self.masks:
            yield covered_share(self._mask(path, embedding.original_size), embedding)
        if self.points:
            yield share_of_points(_array(self.points), embedding)
        for box in self.boxes:
            yield share_of_box(np.array(box, dtype=np.float32), embedding)
        for line in self.scribbles:
            yield share_of_scribble(_array(line), embedding)

    def _mask(self, path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
        labels = read_labels(path)
        if labels.shape != size:
            raise ImageError(
                f"{path} is {in_pixels(labels.shape)}, but its image {self.image} is "
                f"{in_pixels(size)}: a mask has a pixel for each of its image."
            )
        found, _ = objects_in(labels, reading_of(labels, "mask", self.class_id), 0)
        if not found:
            there = "it is empty"
            if values := count_values(labels):
                there = f"it has {', '.join(map(str, sorted(values)[:8]))}"
            meant = "nothing" if self.class_id is None else f"no pixel of {self.class_id}"
            raise PromptError(f"{path} marks {meant}: {there}. Give a mask of the object.")
        return found[0].mask()

    def _check_inside(self, size: tuple[int, int]) -> None:
        points = [*self.points, *(point for path in self.scribbles for point in path)]
        asked = [Prompt.of(box=box) for box in self.boxes]
        asked += [Prompt.of(points)] if points else []
        for prompt in asked:
            try:
                prompt.check_inside(size)
            except PromptError as error:
                raise PromptError(f"of the reference {self.image}, {error}") from error


def _array(points: tuple[Point, ...]) -> NDArray[np.float32]:
    return np.array(points, dtype=np.float32)
