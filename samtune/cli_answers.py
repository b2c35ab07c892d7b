"""What `samtune segment` does with one image: predict, write in every format, describe."""

import time
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from samtune.errors import SamtuneError

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from samtune.finding import Found
    from samtune.following import Follower
    from samtune.predictor import Prediction, Predictor
    from samtune.prompts import Prompt
    from samtune.refinement import Move
    from samtune.results import Names, Result
    from samtune.sam import Embedding
    from samtune.writers import Writer


@dataclass(frozen=True)
class Source:
    """What makes masks: plain SAM, or an adapter; and what it calls the objects."""

    adapter: Path | None
    predictor: "Predictor"
    refine: bool
    label: str


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
        if not self.result.area:
            words += " (nothing found)"
        return f"{words}, {self.result.adapter}" if name_adapter else words


@dataclass(frozen=True)
class Question:
    """A line or an image of a run: what is asked of which image, or why that is not understood."""

    number: int  # counted from 1
    image: Path
    prompts: list["Prompt"]
    error: SamtuneError | None = None


class Segmenter:
    """Answers prompts with files; remembers the last image it encoded.

    A context manager: at its end, and after an interruption too, the writers complete what spans
    all images.
    """

    def __init__(
        self,
        sources: list[Source],
        names: "Names",
        writers: dict[str, "Writer"],
        *,
        all_masks: bool,
        overlay: bool,
        max_objects: int = 1,
        min_score: float = 0.0,
        follow: bool = False,
        mirror: bool = False,
    ) -> None:
        from samtune.embeddings import EmbeddingCache

        self.sources = sources
        self._cache = EmbeddingCache(mirror=mirror)
        self._all_masks, self._overlay = all_masks, overlay
        self._max_objects, self._min_score, self._follow = max_objects, min_score, follow
        self._followers: dict[Source, Follower] = {}
        self._names, self._writers = names, writers
        self._read: tuple[object, NDArray[np.uint8]] | None = None
        self._encoded: tuple[weakref.ref[NDArray[np.uint8]], Embedding] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def answer(self, image: Path, prompts: list["Prompt"]) -> list[Answer]:
        """Segment one image and write its masks.

        Args:
            image: the file.
            prompts: what to segment; with none of them, adapters look for objects by themselves.

        Returns:
            An answer for each mask.

        Raises:
            SamtuneError: the image cannot be read, a prompt lies outside of it, or nothing can
                be written.
        """
        pixels = self._pixels(image)
        return self._write(image, pixels, prompts, self._segment(pixels, prompts))

    def answer_all(
        self, questions: Iterable[Question], *, ahead: bool
    ) -> "Generator[tuple[Question, Future[list[Answer]]], None, None]":
        """Answer many, in their order.

        Args:
            questions: what is asked.
            ahead: read the next image, and write the last one's masks, meanwhile; or answer each
                before the next is asked for.

        Yields:
            Each question, with its answers or what went wrong.
        """
        from samtune.pipeline import one_by_one, overlap

        def asked(question: Question) -> Question:
            if question.error is not None:
                raise question.error
            return question

        def whole(question: Question) -> list[Answer]:
            return self.answer(asked(question).image, question.prompts)

        def segment(question: Question, pixels: "NDArray[np.uint8]") -> Any:
            return pixels, self._segment(pixels, question.prompts)

        def write(question: Question, found: Any) -> list[Answer]:
            pixels, results = found
            return self._write(question.image, pixels, question.prompts, results)

        if not ahead:
            return one_by_one(questions, whole)
        return overlap(
            questions, lambda question: self._pixels(asked(question).image), segment, write
        )

    def _pixels(self, image: Path) -> "NDArray[np.uint8]":
        """Read an image; the same array where it is the one that was read last."""
        from samtune.images import read_image

        try:
            status = image.stat()
            state: object = (image, status.st_mtime_ns, status.st_size)
        except (OSError, ValueError):  # also of what can be no name
            state = None  # read_image says what is wrong
        if self._read is None or state is None or self._read[0] != state:
            self._read = None  # a large one is let go before the next is read
            self._read = (state, read_image(image))
        return self._read[1]

    def _segment(self, pixels: "NDArray[np.uint8]", prompts: list["Prompt"]) -> list["Result"]:
        """Encode an image, unless it is the last one, and ask all sources."""
        started = time.monotonic()
        if self._encoded is None or self._encoded[0]() is not pixels:
            _, embedding = self._cache.encode(pixels, self.sources[0].predictor.sam)
            self._encoded = (weakref.ref(pixels), embedding)
        results: list[Result] = []
        for source in self.sources:
            results += self._predict(source, self._encoded[1], prompts, started)
            started = time.monotonic()
        return results

    def _write(
        self,
        image: Path,
        pixels: "NDArray[np.uint8]",
        prompts: list["Prompt"],
        results: list["Result"],
    ) -> list[Answer]:
        from samtune.images import write_image
        from samtune.overlay import draw_overlay

        # Where every file goes is settled before the first is written.
        planned = {name: one.plan(image, results) for name, one in self._writers.items()}
        overlay = self._names.take(image.stem, "overlay.jpg")[0] if self._overlay else None
        for name, writer in self._writers.items():
            writer.write(image, pixels, results, planned[name])
        if overlay is not None:
            moves = [move for one in results for move in one.moves]
            masks = [one.mask for one in results]
            shown = prompts or [one.prompt for one in results if one.prompt is not None]
            write_image(overlay, draw_overlay(pixels, masks, shown, moves))
        return [
            Answer(image, result, {name: paths[i] for name, paths in planned.items()}, overlay)
            for i, result in enumerate(results)
        ]

    def _predict(
        self, source: Source, embedding: "Embedding", prompts: list["Prompt"], started: float
    ) -> list["Result"]:
        from samtune.polygons import mask_to_polygons
        from samtune.refinement import contour_moves
        from samtune.results import Result

        results: list[Result] = []
        for answered in self._answer_or_find(source, embedding, prompts):
            if isinstance(answered, str):
                results.append(_nothing_found(source, embedding, answered))
                continue
            prompt, prediction = answered
            refined, contours = prediction.refined, prediction.contours
            answers = [(prediction.mask, prediction.score, prediction.low_res_logits)]
            answers += _others(prediction) if self._all_masks else []
            results += [
                Result(
                    mask=mask,
                    score=score,
                    label=source.label,
                    prompt=prompt,
                    adapter=source.adapter,
                    refined=False,
                    presence=prediction.presence,
                    low_res_logits=logits,
                    logits=_at_full_size(source.predictor, embedding, logits),
                )
                for mask, score, logits in answers
            ]
            if refined is not None and contours is not None:
                first = len(results) - len(answers)
                moves: tuple[Move, ...] = ()
                if self._overlay:
                    moves = contour_moves(mask_to_polygons(prediction.mask), contours)
                results[first] = replace(results[first], mask=refined, refined=True, moves=moves)
        each = (time.monotonic() - started) / len(results)
        return [self._accepted(replace(one, seconds=each)) for one in results]

    def _accepted(self, result: "Result") -> "Result":
        """A result, or nothing where it is not likely enough to be an object."""
        if result.reason or result.expected_iou >= self._min_score:
            return result
        assert result.score is not None
        why = f"score {result.score:.2f}"
        if result.presence is not None:
            why += f" × presence {result.presence:.2f}"
        return replace(
            result,
            mask=result.mask & False,
            low_res_logits=None,
            logits=None,
            moves=(),
            reason=f"{why} is below {self._min_score:g}",
        )

    def _answer_or_find(
        self, source: Source, embedding: "Embedding", prompts: list["Prompt"]
    ) -> list["tuple[Prompt | None, Prediction] | str"]:
        """Prompts and their answers, None for everything; or why something was not found."""
        from samtune.finding import find_objects
        from samtune.following import Follower

        predictor, number = source.predictor, self._max_objects
        all_masks, refine = self._all_masks, source.refine
        if prompts:
            answers = predictor.predict(embedding, prompts, all_masks=all_masks, refine=refine)
            return list(zip(prompts, answers, strict=True))
        found: Sequence[Found | str]
        if self._follow:
            follower = self._followers.get(source)
            if follower is None:
                follower = Follower(predictor, number, all_masks=all_masks, refine=refine)
                self._followers[source] = follower
            found = follower.follow(embedding)
        else:
            finding = find_objects(predictor, embedding, number, all_masks=all_masks, refine=refine)
            found = finding.objects or [finding.reason]
        return [
            one
            if isinstance(one, str)
            else (None if one.prompt.everything else one.prompt, one.prediction)
            for one in found
        ]


def _nothing_found(source: Source, embedding: "Embedding", reason: str) -> "Result":
    """What stands for an image in which nothing was found, or an object that is not in it."""
    import numpy as np

    from samtune.results import Result

    return Result(
        mask=np.zeros(embedding.original_size, dtype=bool),
        score=0.0,
        label=source.label,
        prompt=None,
        adapter=source.adapter,
        refined=False,
        reason=reason,
    )


def _others(
    prediction: "Prediction",
) -> list[tuple["NDArray[np.bool_]", float, "NDArray[np.float32]"]]:
    """SAM's three masks for an ambiguous prompt, less the one that was returned anyway."""
    return [
        (mask, float(score), logits)
        for mask, score, logits in zip(
            prediction.alternatives,
            prediction.alternative_scores,
            prediction.alternative_logits,
            strict=True,
        )
        if not (mask == prediction.mask).all()
    ]


def _at_full_size(
    predictor: "Predictor", embedding: "Embedding", low_res_logits: "NDArray[np.float32]"
) -> Callable[[], "NDArray[np.float32]"]:
    """Few formats hold logits of the image's size, and they are large: made when asked for."""

    def logits() -> "NDArray[np.float32]":
        import torch

        from samtune.upscaling import upscale_logits

        full = upscale_logits(
            torch.from_numpy(low_res_logits)[None, None],
            predictor.sam.image_size,
            embedding.input_size,
            embedding.original_size,
        )
        return full[0, 0].numpy()

    return logits
