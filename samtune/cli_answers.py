"""What `samtune segment` does with one image: predict, name and write its masks, describe them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samtune.predictor import Prediction, Predictor
    from samtune.prompts import Prompt
    from samtune.sam import Embedding


@dataclass(frozen=True)
class Source:
    """What makes masks: plain SAM, or an adapter."""

    adapter: Path | None
    predictor: "Predictor"
    refine: bool


@dataclass(frozen=True)
class _Found:
    """One mask to write."""

    prompt: "Prompt"
    mask: "NDArray[np.bool_]"
    score: float
    adapter: Path | None
    refined: bool
    seconds: float = 0.0  # the image's, in equal shares: those of its masks add up


class Segmenter:
    """Answers prompts with files in a folder; remembers the last image it encoded."""

    def __init__(
        self,
        sources: list[Source],
        *,
        folder: Path,
        all_masks: bool,
        overlay: bool,
        keep: Sequence[Path],
    ) -> None:
        from samtune.embeddings import EmbeddingCache

        self.sources = sources
        self._cache = EmbeddingCache()
        self._all_masks, self._overlay = all_masks, overlay
        self._names = _Names(folder, keep)
        self._last: tuple[object, NDArray[np.uint8], Embedding] | None = None

    def answer(self, image: Path, prompts: list["Prompt"]) -> list[dict[str, Any]]:
        """Segment one image and write its masks.

        Returns:
            What --json says about each mask.

        Raises:
            SamtuneError: the image cannot be read, a prompt lies outside of it, or nothing can
                be written.
        """
        from samtune.images import write_image, write_mask
        from samtune.overlay import draw_overlay

        started = time.monotonic()
        pixels, embedding = self._encode(image)
        found: list[_Found] = []
        for source in self.sources:
            found += self._predict(source, embedding, prompts, started)
            started = time.monotonic()
        names = self._names.take(image.stem, "mask.png", len(found))
        for one, name in zip(found, names, strict=True):
            write_mask(name, one.mask)
        answers = [_described(image, name, one) for one, name in zip(found, names, strict=True)]
        if self._overlay:
            (path,) = self._names.take(image.stem, "overlay.jpg", 1)
            write_image(path, draw_overlay(pixels, [one.mask for one in found], prompts))
            answers = [{**answer, "overlay": str(path)} for answer in answers]
        return answers

    def _encode(self, image: Path) -> tuple["NDArray[np.uint8]", "Embedding"]:
        from samtune.images import read_image

        try:
            status = image.stat()
            state: object = (image, status.st_mtime_ns, status.st_size)
        except OSError:
            state = None  # read_image says what is wrong
        if self._last is None or state is None or self._last[0] != state:
            pixels = read_image(image)
            _, embedding = self._cache.encode(pixels, self.sources[0].predictor.sam)
            self._last = (state, pixels, embedding)
        return self._last[1:]

    def _predict(
        self, source: Source, embedding: "Embedding", prompts: list["Prompt"], started: float
    ) -> list[_Found]:
        predictions = source.predictor.predict(
            embedding, prompts, all_masks=self._all_masks, refine=source.refine
        )
        found = []
        for prompt, prediction in zip(prompts, predictions, strict=True):
            refined = prediction.refined is not None
            mask = prediction.mask if prediction.refined is None else prediction.refined
            found.append(_Found(prompt, mask, prediction.score, source.adapter, refined))
            if self._all_masks:
                found += [
                    _Found(prompt, other, score, source.adapter, refined=False)
                    for other, score in _others(prediction)
                ]
        each = (time.monotonic() - started) / len(found)
        return [replace(one, seconds=each) for one in found]


def _others(prediction: "Prediction") -> list[tuple["NDArray[np.bool_]", float]]:
    """SAM's three masks for an ambiguous prompt, less the one that was returned anyway."""
    return [
        (mask, float(score))
        for mask, score in zip(prediction.alternatives, prediction.alternative_scores, strict=True)
        if not (mask == prediction.mask).all()
    ]


def _described(image: Path, name: Path, found: _Found) -> dict[str, Any]:
    prompt = found.prompt
    return {
        "image": str(image),
        "mask": str(name),
        "prompt": {
            "points": prompt.points.tolist(),
            "labels": prompt.labels.tolist(),
            "box": None if prompt.box is None else prompt.box.tolist(),
        },
        "score": found.score,
        "area": int(found.mask.sum()),
        "bbox": _bbox(found.mask),
        "adapter": None if found.adapter is None else str(found.adapter),
        "refined": found.refined,
        "seconds": found.seconds,
    }


def _bbox(mask: "NDArray[np.bool_]") -> list[int]:
    """x, y, width, height in whole pixels, as COCO has it; zeros for an empty mask."""
    ys, xs = mask.nonzero()
    if not xs.size:
        return [0, 0, 0, 0]
    x, y = int(xs.min()), int(ys.min())
    return [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1]


class _Names:
    """Where results go: no result of a run overwrites another one, or an image of the run.

    Two images a/x.jpg and b/x.jpg become x.mask.png and x.2.mask.png.
    """

    def __init__(self, folder: Path, keep: Sequence[Path]) -> None:
        self._folder = folder
        self._keep = {path.resolve() for path in keep}
        self._used: set[str] = set()
        self._highest: dict[str, int] = {}

    def take(self, stem: str, ending: str, count: int) -> list[Path]:
        """Name an image's next results; numbered if there are several, or were some before.

        Args:
            stem: the image's name without its suffix.
            ending: what the names end in, such as "mask.png".
            count: how many.
        """
        kind = f"{stem}|{ending}"
        if count == 1 and kind not in self._highest:
            self._highest[kind] = 1
            path = self._folder / f"{stem}.{ending}"
            if self._is_free(path):
                return [path]
        names: list[Path] = []
        while len(names) < count:
            self._highest[kind] = self._highest.get(kind, 0) + 1
            path = self._folder / f"{stem}.{self._highest[kind]}.{ending}"
            if self._is_free(path):
                names.append(path)
        return names

    def _is_free(self, path: Path) -> bool:
        """Whether a name is nobody's; from now on it is taken."""
        name = path.name.casefold()  # some file systems take A and a for the same
        if name in self._used or path.resolve() in self._keep:
            return False
        self._used.add(name)
        return True
