"""Results: a mask with what is known of it, and the names of the files it goes to."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samtune.files import check_name, real_path
from samtune.polygons import extent
from samtune.prompts import Prompt
from samtune.refinement import Move


@dataclass(frozen=True, eq=False)
class Result:
    """One mask to write.

    Args:
        mask: (H, W) bool at the image's own size.
        score: the decoder's estimate of the mask's IoU, 0 to 1; None for another tool's mask.
        presence: how likely it is, 0 to 1, that the prompt is on an object of the adapter's kind;
            None where that is not known.
        label: what the object is called in formats that have classes.
        prompt: what was asked, in the image's pixels, or where an adapter looked by itself; None
            where nobody asked, or where it found nothing.
        adapter: which adapter answered; None is plain SAM.
        refined: whether the mask's contours were refined; the logits are those before.
        low_res_logits: (256, 256) float32 in the padded input frame, as SAM's mask prompt has it;
            None for another tool's mask.
        logits: gives them at the image's own size, (H, W) float32; the mask is where they exceed 0.
        moves: what refining did to the contours.
        seconds: what the mask took; those of an image's masks add up to the image's.
        reason: why there is nothing; the mask is empty then.
        fallback: whether plain SAM answered, because the adapter's answer was far from the clicks.
    """

    mask: npt.NDArray[np.bool_]
    score: float | None
    label: str
    prompt: Prompt | None
    adapter: Path | None
    refined: bool
    low_res_logits: npt.NDArray[np.float32] | None = None
    logits: Callable[[], npt.NDArray[np.float32]] | None = None
    moves: tuple[Move, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    presence: float | None = None
    fallback: bool = False

    @property
    def expected_iou(self) -> float:
        """The score, as far as there is an object at all."""
        assert self.score is not None
        return self.score * (1.0 if self.presence is None else self.presence)

    @property
    def scored(self) -> dict[str, float]:
        """The score as an entry of annotation formats; none where there is no score."""
        return {} if self.score is None else {"score": round(self.expected_iou, 4)}

    @property
    def area(self) -> int:
        """How many pixels the mask has."""
        return int(self.mask.sum())

    @property
    def bbox(self) -> list[int]:
        """x, y, width, height in whole pixels, as COCO has it; zeros for an empty mask."""
        x0, y0, x1, y1 = extent(self.mask) or (0, 0, 0, 0)
        return [x0, y0, x1 - x0, y1 - y0]


class Names:
    """Where results go: no result of a run overwrites another one, or an image of the run.

    Two images a/x.jpg and b/x.jpg become x.mask.png and x.2.mask.png.
    """

    def __init__(self, folder: Path, keep: Sequence[Path]) -> None:
        self.folder = folder
        self._keep: set[Path] = set()
        self._used: set[str] = set()
        self._highest: dict[str, int] = {}
        self._left: set[str] = set()  # stems of another shard's images, which names its results
        for path in keep:
            self.keep(path)

    def keep(self, image: Path) -> None:
        """Never give a result the name of this file, either."""
        with contextlib.suppress(ValueError):  # what no file can be called like is none
            self._keep.add(real_path(image))

    def leave(self, stem: str) -> None:
        """Leave x.mask.png, x.1.mask.png, ... to the shard that has the image x."""
        self._left.add(stem.casefold())

    def take(self, stem: str, ending: str, count: int = 1) -> list[Path]:
        """Name an image's next results; numbered if there are several, or were some before.

        Args:
            stem: the image's name without its suffix.
            ending: what the names end in, such as "mask.png".
            count: how many.

        Raises:
            OutputError: a name is too long.
        """
        kind = f"{stem}|{ending}"
        if count == 1 and kind not in self._highest:
            self._highest[kind] = 1
            path = self.folder / f"{stem}.{ending}"
            if not self._is_left(stem) and self._is_free(path):
                return [path]
        names: list[Path] = []
        while len(names) < count:
            self._highest[kind] = self._highest.get(kind, 0) + 1
            numbered = f"{stem}.{self._highest[kind]}"
            path = self.folder / f"{numbered}.{ending}"
            if not self._is_left(numbered) and self._is_free(path):
                names.append(path)
        return names

    def _is_left(self, name: str) -> bool:
        """Whether another shard may give this name: x.2 is also the second result of an x."""
        stem, _, number = name.casefold().rpartition(".")
        return name.casefold() in self._left or (number.isdecimal() and stem in self._left)

    def _is_free(self, path: Path) -> bool:
        """Whether a name is nobody's; from now on it is taken."""
        name = path.name.casefold()  # some file systems take A and a for the same
        if name in self._used or real_path(path) in self._keep:
            return False
        check_name(path)
        self._used.add(name)
        return True
