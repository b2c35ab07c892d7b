"""Finding objects without a prompt: one after another, from one encoding of the image.

An adapter that can (method.py) proposes where to look; the proposal is answered as any prompt
is, and the answer is judged by its presence score. Places inside a mask that was looked at, and in
its holes, are left out from then on; of a whole and its part the first one found is kept. The
search ends when enough objects are found, nothing is left to look at, or the answers are no longer
accepted.

Some adapters answer with all there is at once. Then that is the object, unless several are asked
for: each connected part is one of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from samtune.input_frame import Embedding
from samtune.method import Method, Search
from samtune.parts import connected_parts
from samtune.polygons import Polygon, mask_to_polygons, polygons_to_mask
from samtune.predictor import Prediction, Predictor
from samtune.prompts import Prompt

ACCEPTED = 0.5  # presence from here on is an object
SAME_SHARE = 0.5  # of the smaller of two masks that lies in the other: then they are one object


@dataclass(frozen=True, eq=False)
class Found:
    """An object that was found.

    Attributes:
        prompt: where it was looked for, in pixels of the image, or everywhere.
        prediction: the answer, with how likely it is an object, 0 to 1, as presence; as score,
            where the adapter does not tell the presence of prompts.
    """

    prompt: Prompt
    prediction: Prediction

    @classmethod
    def with_presence(cls, prompt: Prompt, answer: Prediction, presence: float) -> Self:
        """An answer, with what the search says of it."""
        if answer.presence is None:
            return cls(prompt, replace(answer, score=presence))
        return cls(prompt, replace(answer, presence=presence))


@dataclass(frozen=True, eq=False)
class Finding:
    """What a search found.

    Attributes:
        objects: in the order in which they were found.
        best_rejected: the highest presence among the answers that were not accepted, if any.
    """

    objects: tuple[Found, ...]
    best_rejected: float | None

    @property
    def reason(self) -> str:
        """Why nothing was found, in words; empty where something was."""
        if self.objects:
            return ""
        if self.best_rejected is None:
            return "there is nothing to look at"
        return (
            f"nothing is like the object: presence {self.best_rejected:.2f} at best, and an "
            f"object needs {ACCEPTED:g}"
        )


def can_find(learned: Method, *, told_to: bool) -> bool:
    """Whether an adapter looks for objects, by itself or where it is told to."""
    return learned.finds or (told_to and learned.proposes)


def find_objects(
    predictor: Predictor,
    embedding: Embedding,
    max_objects: int = 1,
    *,
    all_masks: bool = False,
    refine: bool = False,
    known: Sequence[NDArray[np.bool_]] = (),
) -> Finding:
    """Look for objects in an image.

    Args:
        predictor: with an adapter that finds.
        embedding: the encoded image.
        max_objects: when to stop at the latest.
        all_masks: as for `Predictor.predict`.
        refine: as for `Predictor.predict`.
        known: (H, W) bool each, objects that are not to be found again.

    Returns:
        The objects, none of them twice.

    Raises:
        ValueError: plain SAM, or an adapter that needs prompts.
    """
    if predictor.adapter is None or not can_find(predictor.adapter.learned, told_to=True):
        raise ValueError("finding objects needs an adapter that can, such as one of persam")
    search = predictor.adapter.learned.search(embedding)
    found: list[Found] = []
    outlined = [filled(mask) for mask in known]  # these and those that are found, without holes
    for one in outlined:
        search.suppress(one, accepted=True)
    rejected: list[float] = []
    misses = 0
    while len(found) < max_objects and misses < search.patience and (prompt := search.propose()):
        (answer,) = predictor.predict(embedding, [prompt], all_masks=all_masks, refine=refine)
        if prompt.everything and (max_objects > 1 or known):
            parts = connected_parts(answer, embedding, predictor.sam.image_size)
            return _accepted(search, prompt, parts, max_objects, outlined)
        presence = search.presence(answer)
        outline = filled(answer.mask)
        search.suppress(outline, accepted=presence >= ACCEPTED)
        is_known = any(same(outline, other) for other in outlined)
        if is_known or presence < ACCEPTED:
            misses += 1
            rejected += [] if is_known else [presence]
            continue
        misses = 0
        outlined.append(outline)
        found.append(Found.with_presence(prompt, answer, presence))
    return Finding(tuple(found), max(rejected, default=None))


def _accepted(
    search: Search,
    prompt: Prompt,
    parts: Iterable[Prediction],
    max_objects: int,
    outlined: list[NDArray[np.bool_]],
) -> Finding:
    """The largest parts that are objects, and none of the known ones."""
    found: list[Found] = []
    rejected: list[float] = []
    for part in parts:
        presence = search.presence(part)
        if presence < ACCEPTED:
            rejected.append(presence)
        elif len(found) < max_objects and not any(same(part.mask, one) for one in outlined):
            found.append(Found.with_presence(prompt, part, presence))
    return Finding(tuple(found), max(rejected, default=None))


def same(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether two masks are of one object: alike, or a whole and its part."""
    smaller = min(np.count_nonzero(mask), np.count_nonzero(other))
    return bool(np.count_nonzero(mask & other) > SAME_SHARE * smaller)


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its holes: the letters of a sign are no objects beside it."""
    outlines = [Polygon(one.exterior, ()) for one in mask_to_polygons(mask)]
    return polygons_to_mask(outlines, (mask.shape[0], mask.shape[1]))
