"""Following objects from frame to frame of a film.

An adapter that finds objects says in the first frame where they are. In the next, each is looked
for in and around the box that it had before: the most promising place there is asked about, and the
answer is the object if it is like what the adapter knows and has about the shape it had. What is
not seen is looked for in the whole frame; an object that comes into view takes the place of one
that is out of sight. PerSAM is used on films likewise, with the last frame's box
(Zhang et al. 2023, https://arxiv.org/abs/2305.03048, section 4.2); given to the decoder as a
prompt, as there, that box grew from frame to frame with MobileSAM (benchmarks/README.md).
"""

import math

import numpy as np
from numpy.typing import NDArray

from samtune.finding import ACCEPTED, Found, filled, find_objects, same
from samtune.input_frame import Embedding
from samtune.metrics import iou
from samtune.predictor import Predictor
from samtune.prompts import box_around
from samtune.targets import cells_inside

_REACH = 0.5  # of its box's sides: how far around it an object is looked for; a cell at least


class Follower:
    """Finds the same objects in one frame after another.

    Args:
        predictor: with an adapter that finds.
        max_objects: how many are followed at most.
        all_masks: as for `Predictor.predict`.
        refine: as for `Predictor.predict`.
    """

    def __init__(
        self,
        predictor: Predictor,
        max_objects: int = 1,
        *,
        all_masks: bool = False,
        refine: bool = False,
    ) -> None:
        self.predictor, self.max_objects = predictor, max_objects
        self._all_masks, self._refine = all_masks, refine
        self._last: list[NDArray[np.bool_] | None] = []  # masks; None while out of sight

    def follow(self, embedding: Embedding) -> list[Found | str]:
        """Find the objects in the next frame.

        Args:
            embedding: the encoded frame.

        Returns:
            Each object that was seen so far, always in the same place of the list, and new ones
            behind them: where it is, or in words why it is not there. At least one.

        Raises:
            ValueError: plain SAM, or an adapter that needs prompts.
        """
        seen = self._near_where_they_were(embedding)
        free = self.max_objects - sum(one is not None for one in seen)
        masks = [one.prediction.mask for one in seen if one is not None]
        reason = ""
        if free:
            finding = find_objects(
                self.predictor,
                embedding,
                free,
                all_masks=self._all_masks,
                refine=self._refine,
                known=masks,
            )
            reason = finding.reason or "the object is not seen in this frame"
            for one in finding.objects:
                if None in seen:
                    seen[seen.index(None)] = one
                else:
                    seen.append(one)
        self._last = [
            one.prediction.mask if one is not None and one.prediction.mask.any() else None
            for one in seen
        ]
        return [reason if one is None else one for one in seen] or [reason]

    def _near_where_they_were(self, embedding: Embedding) -> list[Found | None]:
        """Each object in and around its last box, where it was in sight and still is."""
        seen: list[Found | None] = []
        if not any(last is not None for last in self._last):
            return [None for _ in self._last]
        assert self.predictor.adapter is not None
        search = self.predictor.adapter.learned.search(embedding)
        outlined: list[NDArray[np.bool_]] = []
        for last in self._last:
            one = None
            if last is not None and last.shape == embedding.original_size:
                prompt = search.propose(_around(last, embedding))
                if prompt is not None:
                    (answer,) = self.predictor.predict(
                        embedding, [prompt], all_masks=self._all_masks, refine=self._refine
                    )
                    presence = search.presence(answer)
                    alike = _likeness_of_shape(last, answer.mask)
                    outline = filled(answer.mask)
                    is_new = not any(same(outline, other) for other in outlined)
                    if is_new and math.sqrt(presence * alike) >= ACCEPTED:
                        one = Found.with_presence(prompt, answer, presence)
                        outlined.append(outline)
                        search.suppress(outline, accepted=True)
            seen.append(one)
        return seen


def _around(mask: NDArray[np.bool_], embedding: Embedding) -> NDArray[np.float32]:
    """(4,) x0, y0, x1, y1 where to look for what was at a mask, which has a pixel."""
    box = box_around(mask)
    rows, columns = cells_inside(embedding)
    cell = mask.shape[1] / columns, mask.shape[0] / rows
    reach = np.maximum(_REACH * (box[2:] - box[:2] + 1), cell)
    return np.concatenate([box[:2] - reach, box[2:] + reach]).astype(np.float32)


def _likeness_of_shape(last: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """IoU of two (H, W) masks, one moved to where the other is; what leaves the frame is lost."""
    if not mask.any():
        return 0.0
    (top, left), (low, right) = (np.argwhere(one).mean(axis=0) for one in (last, mask))
    down, along = round(low - top), round(right - left)
    moved = np.zeros_like(last)
    rows, columns = np.nonzero(last)
    rows, columns = rows + down, columns + along
    height, width = last.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved[rows[inside], columns[inside]] = True
    return iou(moved, mask)
