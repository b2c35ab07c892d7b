"""The masks of one image that `samtune segment` writes: asked for, or found by an adapter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samtune.finding import Found
    from samtune.following import Follower
    from samtune.input_frame import Embedding
    from samtune.predictor import Prediction, Predictor
    from samtune.prompts import Prompt
    from samtune.refinement import Move
    from samtune.results import Result


@dataclass(frozen=True)
class Source:
    """What makes masks: plain SAM, or an adapter; and what it calls the objects."""

    adapter: Path | None
    predictor: "Predictor"
    refine: bool
    label: str


@dataclass(frozen=True)
class Wanted:
    """What is made of every image, whatever is asked about it; as the options of `segment`."""

    all_masks: bool
    overlay: bool
    max_objects: int
    min_score: float
    follow: bool
    mirror: bool


class Asker:
    """Asks one source about images; in a film, it knows where the objects were."""

    def __init__(self, source: Source, wanted: Wanted) -> None:
        self._source, self._wanted = source, wanted
        self._follower: Follower | None = None

    def ask(self, embedding: "Embedding", prompts: list["Prompt"]) -> list["Result"]:
        """Every mask for an image.

        Args:
            embedding: the image's.
            prompts: what to segment; with none of them, the adapter looks for objects by itself.

        Returns:
            At least one result, which may say that nothing was found.

        Raises:
            PromptError: a prompt lies outside of the image.
        """
        results: list[Result] = []
        for answered in self._answers(embedding, prompts):
            if isinstance(answered, str):
                results.append(_nothing_found(self._source, embedding, answered))
            else:
                results += self._results(embedding, *answered)
        return [self._accepted(one) for one in results]

    def _answers(
        self, embedding: "Embedding", prompts: list["Prompt"]
    ) -> list["tuple[Prompt | None, Prediction] | str"]:
        """Prompts and their answers, None for everything; or why something was not found."""
        from samtune.finding import find_objects
        from samtune.following import Follower

        predictor, number = self._source.predictor, self._wanted.max_objects
        all_masks, refine = self._wanted.all_masks, self._source.refine
        if prompts:
            answers = predictor.predict(embedding, prompts, all_masks=all_masks, refine=refine)
            return list(zip(prompts, answers, strict=True))
        found: Sequence[Found | str]
        if self._wanted.follow:
            if self._follower is None:
                self._follower = Follower(predictor, number, all_masks=all_masks, refine=refine)
            found = self._follower.follow(embedding)
        else:
            finding = find_objects(predictor, embedding, number, all_masks=all_masks, refine=refine)
            found = finding.objects or [finding.reason]
        return [
            one
            if isinstance(one, str)
            else (None if one.prompt.everything else one.prompt, one.prediction)
            for one in found
        ]

    def _results(
        self, embedding: "Embedding", prompt: "Prompt | None", prediction: "Prediction"
    ) -> list["Result"]:
        """The mask of one answer, and SAM's others where they are wanted."""
        from samtune.polygons import mask_to_polygons
        from samtune.refinement import contour_moves
        from samtune.results import Result

        source = self._source
        masks = [(prediction.mask, prediction.score, prediction.low_res_logits)]
        masks += _others(prediction) if self._wanted.all_masks else []
        first, *others = (
            Result(
                mask=mask,
                score=score,
                label=source.label,
                prompt=prompt,
                adapter=source.adapter,
                refined=False,
                presence=prediction.presence,
                fallback=prediction.fallback,
                low_res_logits=logits,
                logits=_at_full_size(source.predictor, embedding, logits),
            )
            for mask, score, logits in masks
        )
        refined, contours = prediction.refined, prediction.contours
        if refined is not None and contours is not None:
            moves: tuple[Move, ...] = ()
            if self._wanted.overlay:
                moves = contour_moves(mask_to_polygons(prediction.mask), contours)
            first = replace(first, mask=refined, refined=True, moves=moves)
        return [first, *others]

    def _accepted(self, result: "Result") -> "Result":
        """A result, or nothing where it is not likely enough to be an object."""
        least = self._wanted.min_score
        if result.reason or result.expected_iou >= least:
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
            reason=f"{why} is below {least:g}",
        )


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
