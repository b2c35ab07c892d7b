"""Scores of plain SAM and of adapters on a data set's objects.

The protocol is that of SAM and of Kim et al. 2024 (methods: https://arxiv.org/abs/2304.02643,
section 7.1): every object is prompted with its centre point, the masks are compared at the
image's own resolution, and the scores of all objects are averaged. "oracle" is the best of the
returned mask and the three masks of SAM's multimask output.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.input_frame import Embedding
from samtune.masks import DatasetObject
from samtune.metrics import boundary_iou, iou
from samtune.predictor import AT_ONCE, Prediction, Predictor
from samtune.prompts import Prompt, center_point, jittered_box, point_pair, random_point
from samtune.sam import Sam
from samtune.turns import Answering, who_answers

RANDOM_SEEDS = 3  # random clicks tried on each object
PromptKind = Literal["center", "random", "pair", "box"]
ALL_KINDS: tuple[PromptKind, ...] = ("center", "random", "pair", "box")


@dataclass(frozen=True)
class AnswerScores:
    """How good the answer to one prompt is, fractions from 0 to 1; None where not asked for.

    Attributes:
        iou: of the returned mask.
        oracle_iou: of the best of it and the three masks of SAM's multimask output.
        refined_iou: of the returned mask after contour refinement; None where it cannot be.
        boundary_iou: Boundary IoU of the returned mask.
        presence: how likely it is, to the adapter, that the prompt is on such an object at all.
        refined_boundary_iou: the same after contour refinement; None where it cannot be.
    """

    iou: float
    oracle_iou: float | None = None
    refined_iou: float | None = None
    boundary_iou: float | None = None
    presence: float | None = None
    refined_boundary_iou: float | None = None


@dataclass(frozen=True)
class ObjectScores:
    """One object's answers.

    Attributes:
        answers: for each kind of prompt that was tried, the answers to its prompts: three for
            "random"; none for "pair" where the object fills its image.
    """

    answers: Mapping[PromptKind, tuple[AnswerScores, ...]]

    def mean(self, kind: PromptKind, score: str = "iou") -> float | None:
        """One field of AnswerScores, averaged over the prompts of a kind that have it."""
        return _mean([getattr(answer, score) for answer in self.answers.get(kind, ())])


@dataclass(frozen=True)
class Scores:
    """Mean scores over objects, fractions from 0 to 1.

    Attributes:
        objects: how many there were.
        iou: of the returned mask, for a click at the centre.
        oracle_iou: of the best mask for that click.
        random_iou: of the returned mask, for random clicks; None if not asked for.
        refined_iou: of the returned mask after contour refinement; None where it cannot be.
        boundary_iou: Boundary IoU of the returned mask; None if not asked for.
        refined_boundary_iou: the same after contour refinement; None where it cannot be.
    """

    objects: int
    iou: float
    oracle_iou: float
    random_iou: float | None
    refined_iou: float | None
    boundary_iou: float | None
    refined_boundary_iou: float | None = None

    @classmethod
    def mean(cls, scores: Sequence[ObjectScores]) -> "Scores":
        """Average over objects, at the centre click where nothing else is said."""

        def of(kind: PromptKind, score: str = "iou") -> float | None:
            return _mean([one.mean(kind, score) for one in scores])

        at_center, oracle = of("center"), of("center", "oracle_iou")
        assert at_center is not None
        assert oracle is not None
        return cls(
            objects=len(scores),
            iou=at_center,
            oracle_iou=oracle,
            random_iou=of("random"),
            refined_iou=of("center", "refined_iou"),
            boundary_iou=of("center", "boundary_iou"),
            refined_boundary_iou=of("center", "refined_boundary_iou"),
        )

    @property
    def refining_helps(self) -> bool:
        """Whether refining raises the Boundary IoU and does not lower the IoU."""
        before, after = self.boundary_iou, self.refined_boundary_iou
        if before is None or after is None or self.refined_iou is None:
            return False
        return after > before and self.refined_iou >= self.iou


def evaluate(
    dataset: Dataset,
    sam: Sam,
    predictors: Sequence[Predictor],
    cache: EmbeddingCache,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Scores]:
    """Score several predictors at the centre and at random clicks; each image is encoded once.

    Args:
        dataset: the objects.
        sam: the frozen model of all predictors.
        predictors: plain SAM, adapters.
        cache: where embeddings are kept.
        on_progress: called with the number of images done and of all.

    Returns:
        Mean scores of each predictor.
    """
    scores = score_objects(
        dataset, sam, predictors, cache, kinds=("center", "random"), on_progress=on_progress
    )
    return [Scores.mean(one) for one in scores]


def score_objects(
    dataset: Dataset,
    sam: Sam,
    predictors: Sequence[Answering],
    cache: EmbeddingCache,
    *,
    kinds: Sequence[PromptKind] = ALL_KINDS,
    boundary: bool = True,
    every_detail: bool = False,
    images: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[ObjectScores]]:
    """Score each object's answers to prompts of several kinds.

    Args:
        dataset: the objects.
        sam: the frozen model of all predictors.
        predictors: plain SAM, adapters.
        cache: where embeddings are kept.
        kinds: which prompts to try.
        boundary: also measure Boundary IoU.
        every_detail: oracle, refined and Boundary IoU of every prompt, not of the centre alone.
        images: only these of the data set's images, with the prompts they have among all.
        on_progress: called with the number of images done and of all.

    Returns:
        For each predictor the objects' scores, in the order of the data set.
    """
    found: list[list[ObjectScores]] = [[] for _ in predictors]
    for index, embedding, things in encoded_images(dataset, sam, cache, images, on_progress):
        for scores, predictor in zip(found, predictors, strict=True):
            one = who_answers(predictor, index)
            answers: list[dict[PromptKind, tuple[AnswerScores, ...]]] = [{} for _ in things]
            for kind in kinds:
                prompts = [
                    prompts_for(thing.mask(), kind, index, n) for n, thing in enumerate(things)
                ]
                detailed = every_detail or kind == "center"
                scored = _score_prompts(one, embedding, things, prompts, detailed, boundary)
                for answer, of_kind in zip(answers, scored, strict=True):
                    answer[kind] = of_kind
            scores += map(ObjectScores, answers)
    return found


def prompts_for(
    mask: NDArray[np.bool_], kind: PromptKind, image_index: int, position: int
) -> tuple[Prompt, ...]:
    """The prompts of one kind for an object.

    They are seeded by the object's place in the data set: any two predictors get the same.

    Args:
        mask: (H, W) bool, the object.
        kind: "center" is SAM's protocol, "random" three points anywhere on it, "pair" the centre
            and a point on the background near the object, "box" its box with each side moved.
        image_index: which image of the data set.
        position: which object of that image.
    """
    if kind == "center":
        return (center_point(mask),)
    if kind == "random":
        rng = np.random.default_rng([image_index + 1, position])
        return tuple(random_point(mask, rng) for _ in range(RANDOM_SEEDS))
    rng = np.random.default_rng([image_index + 1, position, ALL_KINDS.index(kind)])
    if kind == "box":
        x0, y0, x1, y1 = jittered_box(mask, rng).tolist()
        return (Prompt.of(box=(x0, y0, x1, y1)),)
    pair = point_pair(mask, rng)
    return () if pair is None else (pair,)


def encoded_images(
    dataset: Dataset,
    sam: Sam,
    cache: EmbeddingCache,
    images: Sequence[int] | None,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, Embedding, list[DatasetObject]]]:
    """Go through a data set's images, or some: which it is, encoded, and its objects.

    The number of images that were gone through, and of all, is told after each.
    """
    chosen = range(len(dataset.pairs)) if images is None else images
    objects: dict[int, list[DatasetObject]] = {index: [] for index in chosen}
    for thing in dataset.objects:
        if thing.image_index in objects:
            objects[thing.image_index].append(thing)
    for done, index in enumerate(chosen, start=1):
        _, embedding = cache.encode(dataset.pairs[index].read(), sam)
        yield index, embedding, objects[index]
        if on_progress is not None:
            on_progress(done, len(chosen))


def _score_prompts(
    predictor: Predictor,
    embedding: Embedding,
    things: list[DatasetObject],
    prompts: list[tuple[Prompt, ...]],
    detailed: bool,
    boundary: bool,
) -> Iterator[tuple[AnswerScores, ...]]:
    """Answer the prompts of an image, and score them object by object."""
    together = [prompt for of_object in prompts for prompt in of_object]
    answers = _answer_some_at_once(predictor, embedding, together, detailed)
    for thing, of_object in zip(things, prompts, strict=True):
        target = thing.mask()
        yield tuple(
            _score_answer(target, next(answers), detailed, detailed and boundary) for _ in of_object
        )


def _answer_some_at_once(
    predictor: Predictor, embedding: Embedding, prompts: list[Prompt], detailed: bool
) -> Iterator[Prediction]:
    """All answers, few of them at a time.

    An image can have hundreds of objects, and an answer five masks of the image's size.
    """
    refine = detailed and predictor.refiner is not None
    for start in range(0, len(prompts), AT_ONCE):
        some = prompts[start : start + AT_ONCE]
        yield from predictor.predict(embedding, some, all_masks=detailed, refine=refine)


def _score_answer(
    target: NDArray[np.bool_], prediction: Prediction, detailed: bool, boundary: bool
) -> AnswerScores:
    returned = iou(prediction.mask, target)
    refined = prediction.refined
    others = (iou(mask, target) for mask in prediction.alternatives)
    return AnswerScores(
        iou=returned,
        oracle_iou=max([returned, *others]) if detailed else None,
        refined_iou=None if refined is None else iou(refined, target),
        boundary_iou=boundary_iou(prediction.mask, target) if boundary else None,
        presence=prediction.presence,
        refined_boundary_iou=boundary_iou(refined, target)
        if boundary and refined is not None
        else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
