"""A question to `samtune segment` about one image, and its answers, in JSON and in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.errors import SamtuneError

if TYPE_CHECKING:
    from samtune.prompts import Prompt
    from samtune.results import Result


@dataclass(frozen=True)
class Question:
    """A line or an image of a run: what is asked of which image, or why that is not understood."""

    number: int  # counted from 1
    image: Path
    prompts: list["Prompt"]
    error: SamtuneError | None = None


@dataclass(frozen=True)
class Answer:
    """A mask that was written."""

    image: Path
    result: "Result"
    files: dict[str, Path | None]  # by format; None for a format without a file for empty masks
    overlay: Path | None

    def as_json(self) -> dict[str, Any]:
        """What --json says."""
        result, prompt = self.result, self.result.prompt
        asked = None
        if prompt is not None:
            asked = {
                "points": prompt.points.tolist(),
                "labels": prompt.labels.tolist(),
                "box": None if prompt.box is None else prompt.box.tolist(),
            }
        files = {name: None if path is None else str(path) for name, path in self.files.items()}
        told = {
            "image": str(self.image),
            "mask": next(iter(files.values())),
            "files": files,
            "prompt": asked,
            "score": result.score,
            "presence": result.presence,
            "fallback": result.fallback,
            "area": result.area,
            "bbox": result.bbox,
            "label": result.label,
            "adapter": None if result.adapter is None else str(result.adapter),
            "refined": result.refined,
            "seconds": result.seconds,
        }
        told |= {"mask": None, "reason": result.reason} if result.reason else {}
        return told if self.overlay is None else {**told, "overlay": str(self.overlay)}

    def in_words(self, name_adapter: bool) -> str:
        """A line for people: the files, how sure the model is, and how large the object."""
        paths = [path for path in self.files.values() if path is not None]
        names = ", ".join(map(str, paths))
        if not any(path.name.startswith(self.image.stem) for path in paths):
            names = f"{self.image} -> {names}" if paths else str(self.image)
        if self.result.reason:
            words = f"{names}  nothing found: {self.result.reason}"
            return f"{words}, {self.result.adapter}" if name_adapter else words
        assert self.result.score is not None
        words = f"{names}  score {self.result.score:.2f}"
        if self.result.presence is not None:
            words += f", presence {self.result.presence:.2f}"
        words += f", {self.result.area:,} px"
        if self.result.fallback:
            words += " (plain SAM's: the adapter's mask is far from the click)"
        if not self.result.area:
            words += " (nothing found)"
        return f"{words}, {self.result.adapter}" if name_adapter else words
