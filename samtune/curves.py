"""The course of a training in numbers, for who wants to see whether it went well."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Start:
    """One way to start that was tried, step by step.

    Attributes:
        first_offset: weight of the PLM's last norm at the start; 0 is no PLM.
        seen: objects seen after each step.
        losses: of the masks, in each step.
        learning_rates: of the PLM, or of the choice among SAM's masks where it is all that learns,
            in each step.
    """

    first_offset: float
    seen: tuple[int, ...]
    losses: tuple[float, ...]
    learning_rates: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """How a training went.

    Attributes:
        chosen: the start that went on, from its first step to the last of all.
        given_up: the other starts, as far as they were trained.
        looks: (objects seen, IoU) at each look at the held-out objects; none where trainings took
            turns in holding them out.
        base_iou: plain SAM's in such a look: on the logits' grid, for some of many objects, or at
            several clicks on few.
        stopped: why training ended: "finished", "no progress", "time".
        tried: few masks (trials.py): (first offset, held-out IoU at several clicks) of each start,
            which chose among them; of many masks none, because the loss of a probe did.
    """

    chosen: Start
    given_up: tuple[Start, ...]
    looks: tuple[tuple[int, float], ...]
    base_iou: float | None
    stopped: str
    tried: tuple[tuple[float, float], ...] = ()


def first_best(looks: Sequence[tuple[int, float]]) -> int:
    """Which look was the best, the first of equals: its weights are the ones that are kept.

    There must be one.

    Example:
        >>> first_best([(300, 0.6), (600, 0.7), (900, 0.7)])
        1
    """
    return max(range(len(looks)), key=lambda index: looks[index][1])
