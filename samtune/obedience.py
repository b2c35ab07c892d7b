"""Whether a click means what it says: clicks beside all objects, and what they are answered with.

A false response is a mask of an object that the click is not on. An adapter that learned one kind
of thing is prone to it: it was never asked for anything else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import encoded_images
from samtune.metrics import ious
from samtune.pairs import Pair
from samtune.predictor import Predictor
from samtune.prompts import Prompt, center_point, points_off
from samtune.sam import Sam
from samtune.turns import Answering, who_answers

CLICKS = 4  # beside the objects of each image
FALSE_IOU = 0.5  # a mask is of an object that it overlaps by more
PRESENT = 0.5  # a presence from here on says that there is an object


@dataclass(frozen=True)
class Obedience:
    """How clicks are answered, shares from 0 to 1.

    Attributes:
        clicks: how many clicks beside all of an image's objects were tried.
        false_responses: of those, how many got the mask of an object.
        false_alarms: of those, how many have a presence of 0.5 or more; None where it is not known.
        false_and_present: of those, how many are both.
        missed: of clicks in the middle of objects, how many have a presence below 0.5.
        empty_images: how many images without an object were tried, with as many clicks on each.
        alarmed_images: of those, how many have a click with a presence of 0.5 or more; None where
            there are none, or it is not known.
    """

    clicks: int
    false_responses: float
    false_alarms: float | None
    false_and_present: float | None
    missed: float | None
    empty_images: int = 0
    alarmed_images: float | None = None


def measure_obedience(
    dataset: Dataset,
    sam: Sam,
    predictors: Sequence[Answering],
    cache: EmbeddingCache,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Obedience | None]:
    """Click beside the objects of each image, the same places for each predictor.

    Args:
        dataset: the objects.
        sam: the frozen model of all predictors.
        predictors: plain SAM, adapters.
        cache: where embeddings are kept.
        on_progress: called with the number of images done and of all.

    Returns:
        Of each predictor; None where objects fill all images. Those that take turns are not asked
        about images without an object, from which each has learned.
    """
    beside: list[list[tuple[bool, float | None]]] = [[] for _ in predictors]
    present: list[list[float | None]] = [[] for _ in predictors]
    judged = any(isinstance(one, Predictor) and one.adapter is not None for one in predictors)
    empty = dataset.empty if judged else ()
    total = len(dataset.pairs) + len(empty)
    told = on_progress or (lambda done, total: None)
    images = encoded_images(dataset, sam, cache, None, lambda done, _: told(done, total))
    for index, embedding, things in images:
        covered = np.zeros(embedding.original_size, dtype=bool)
        for thing in things:  # one after another: there may be hundreds
            covered |= thing.mask()
        rng = np.random.default_rng([index + 1, 7])
        places = points_off(covered, rng, CLICKS)
        clicks = [Prompt.of([(x, y)]) for x, y in places.tolist()]
        for number, one in enumerate(predictors):
            predictor = who_answers(one, index)
            beside[number] += [
                (max(ious(answer.mask, things)) > FALSE_IOU, answer.presence)
                for answer in predictor.predict(embedding, clicks)
            ]
            if predictor.adapter is not None:
                centers = [center_point(thing.mask()) for thing in things]
                present[number] += predictor.presence(embedding, centers)
    alarmed = _alarmed(
        empty, sam, predictors, cache, lambda done: told(len(dataset.pairs) + done, total)
    )
    return [
        _shares(own, there, len(dataset.empty), share)
        for own, there, share in zip(beside, present, alarmed, strict=True)
    ]


def _alarmed(
    empty: Sequence[Pair],
    sam: Sam,
    predictors: Sequence[Answering],
    cache: EmbeddingCache,
    on_progress: Callable[[int], None],
) -> list[float | None]:
    """For each predictor, on what share of images without an object it takes a click for one."""
    alarms: list[list[bool]] = [[] for _ in predictors]
    for index, pair in enumerate(empty):
        _, embedding = cache.encode(pair.read(), sam)
        nothing = np.zeros(embedding.original_size, dtype=bool)
        places = points_off(nothing, np.random.default_rng([index + 1, 8]), CLICKS)
        clicks = [Prompt.of([(x, y)]) for x, y in places.tolist()]
        for found, one in zip(alarms, predictors, strict=True):
            if isinstance(one, Predictor):
                known = [told for told in one.presence(embedding, clicks) if told is not None]
                found += [max(known) >= PRESENT] if known else []
        on_progress(index + 1)
    return [float(np.mean(found)) if found else None for found in alarms]


def _shares(
    beside: list[tuple[bool, float | None]],
    present: list[float | None],
    empty_images: int,
    alarmed: float | None,
) -> Obedience | None:
    if not beside:
        return None
    false, presence = (np.array(column) for column in zip(*beside, strict=True))
    if presence[0] is None:
        return Obedience(len(beside), float(false.mean()), None, None, None, empty_images)
    alarms = presence >= PRESENT
    return Obedience(
        clicks=len(beside),
        false_responses=float(false.mean()),
        false_alarms=float(alarms.mean()),
        false_and_present=float((false & alarms).mean()),
        missed=float((np.array(present) < PRESENT).mean()),
        empty_images=empty_images,
        alarmed_images=alarmed,
    )
