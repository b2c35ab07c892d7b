"""What `samtune segment` does with one image: read, encode, ask, write in every format."""

import time
import weakref
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from samtune.cli_answers import Answer, Question
from samtune.cli_results import Asker, Source, Wanted

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from samtune.input_frame import Embedding
    from samtune.prompts import Prompt
    from samtune.results import Names, Result
    from samtune.writers import Writer


class Segmenter:
    """Answers prompts with files; remembers the last image it encoded.

    A context manager: at its end, and after an interruption too, the writers complete what spans
    all images.
    """

    def __init__(
        self, sources: list[Source], wanted: Wanted, names: "Names", writers: dict[str, "Writer"]
    ) -> None:
        from samtune.embeddings import EmbeddingCache

        self.sources = sources
        self._askers = [Asker(source, wanted) for source in sources]
        self._cache = EmbeddingCache(mirror=wanted.mirror)
        self._overlay = wanted.overlay
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
        for asker in self._askers:
            found = asker.ask(self._encoded[1], prompts)
            each = (time.monotonic() - started) / len(found)
            results += [replace(one, seconds=each) for one in found]
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
