"""Few masks: short trainings, each with other images held out, tell how much may be learned.

The PLM's 1.6 M numbers learn a new thing from a handful of masks, or spoil what SAM can do already,
and one or two held-out images cannot tell which. So each start is tried: no PLM, only the choice
among SAM's masks; a small first offset; a large one. It is trained on all parts of the images but
one and scored on that one, in turns, unless it is far behind; with several clicks on each object,
as long as they are few, because the middles of a handful tell little. The start with the best mean
is trained once more, on all images. Where images are held out for good, each start is trained once
and scored on those.

A mirror image of what was learned from flatters whatever learned most. So where that is all there
is, a PLM is only for what the mixture cannot do at all, and of starts that are not far behind the
one that changes least is taken.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from samtune.config import FitConfig
from samtune.curves import Curves, Start
from samtune.learner import EncodedImages
from samtune.processes import ALONE, Processes
from samtune.prompt_learning import PromptLearning
from samtune.run import SHARE_OF_TIME, Progress
from samtune.sam import Sam
from samtune.supervision import Supervision
from samtune.training_run import TrainingRun

_FAR_BEHIND = 0.15  # in mean IoU: a start that is so much worse is given up,
_FEWEST_JUDGED = 4  # but not before it was scored on so many objects
_MIXED_WELL = 0.5  # IoU of the mixture's mask of a mirror image, from which on no PLM is tried
_CLICKS = 64  # in all, on the objects that a start is scored on,
_MOST_CLICKS = 9  # and on one of them
_LEAST_SECONDS = 0.1  # of a training whose time is over: it makes a step or two
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Split:
    """What one training learns from, and what it is scored on, which may be the mirror image."""

    objects: list[Supervision]
    held_out: list[Supervision]
    mirrored: bool = False


def clicked(objects: Sequence[Supervision]) -> list[Supervision]:
    """Each object as often as it is clicked on: in its middle, and elsewhere if they are few.

    Returns:
        The object with its middle, then with other clicks in place of that, one after another.
    """
    each = max(1, min(_CLICKS // max(1, len(objects)), _MOST_CLICKS))
    return [
        replace(one, center=click) for one in objects for click in (one.center, *one.clicks)[:each]
    ]


def objects_to_see(config: FitConfig, start: float, count: int, *, kept: bool) -> int:
    """How many objects a training sees.

    Args:
        config: the settings.
        start: its first offset.
        count: how many different objects it is given.
        kept: whether its weights may be those of the adapter; others only have to tell the starts
            apart.
    """
    if config.epochs is not None:
        return config.epochs * count
    if start == 0:  # there is little to learn
        return min(config.objects, config.mixture_objects)
    total = min(config.objects, max(config.few_objects, config.few_passes * count))
    return total if kept else min(total, config.trial_objects)


class Trials:
    """The course of a fit of few masks; its user needs not know it from a TrainingRun.

    Args:
        sam: the frozen model.
        config: the settings.
        images: the embeddings of all images that objects are in.
        splits: what to learn from and what to be scored on, in turns.
        everything: what to train the best start on in the end; None keeps its trial, the only one.
        processes: who shares the work.
    """

    def __init__(
        self,
        sam: Sam,
        config: FitConfig,
        images: EncodedImages,
        splits: Sequence[Split],
        everything: list[Supervision] | None,
        processes: Processes = ALONE,
    ) -> None:
        if everything is None and len(splits) != 1:
            raise ValueError("of several trainings of a start none is the one to keep")
        self.sam, self.config, self.images = sam, config, images
        self.splits, self.everything, self.processes = splits, everything, processes
        self.scores: dict[tuple[float, int], float] = {}  # held-out IoU by start and split
        self.weights: dict[tuple[float, int], Weights] = {}  # what each of those trials came to
        self.courses: dict[tuple[float, int], Start] = {}  # how they went
        self.final: Weights | None = None
        self.last: Start | None = None  # how the training on everything went
        self.base_ious: dict[int, float | None] = {}  # plain SAM's, by split
        self.going_on: dict[str, Any] | None = None  # state of a training that was interrupted
        self.run: TrainingRun | None = None
        self.seen = 0  # objects in all trainings that are done
        self.seconds = 0.0  # that they took
        self.stopped = "finished"

    @property
    def objects_per_second(self) -> float:
        """How fast the steps of all trainings were."""
        return self.seen / max(self.seconds, 1e-9)

    @property
    def first_offset(self) -> float:
        """The start whose mean is the best; of equals the one that changes least.

        On a mirror image, all that are not far behind are equals.
        """
        means = self._means(len(self.splits))
        if self.splits[0].mirrored:
            limit = max(means.values()) - _FAR_BEHIND
            return min(start for start, mean in means.items() if mean >= limit)
        return max(means, key=lambda start: means[start])

    @property
    def curves(self) -> Curves:
        """How the training that is kept went, and the trials of the other starts."""
        start = self.first_offset
        others = [course for course in self.courses.values() if course.first_offset != start]
        tried = tuple(self._means(len(self.splits)).items())
        if self.last is not None:
            return Curves(self.last, tuple(others), (), None, self.stopped, tried)
        course = self.courses[start, 0]
        look = course.seen[-1], self.scores[start, 0]
        base_iou = self.base_ious[0]
        return Curves(course, tuple(others), (look,), base_iou, self.stopped, tried)

    def train(self, on_progress: Callable[[Progress], None], save_state: Callable[[], None]) -> str:
        """Try the starts, train the best one; returns why the last training ended."""
        while left := self._left():
            start, index = trial = left[0]
            known = self.base_ious.get(index)
            run = self._train(start, self.splits[index], on_progress, save_state, known)
            self.scores[trial] = run.best_iou
            self.weights[trial] = run.best
            self.courses[trial] = run.curves.chosen
            self.base_ious[index] = run.curves.base_iou
            save_state()
        if self.everything is None:
            self.final = self.weights[self.first_offset, 0]
        elif self.final is None:
            last = Split(self.everything, [])
            run = self._train(self.first_offset, last, on_progress, save_state)
            self.final, self.last = run.best, run.curves.chosen
            save_state()
        return self.stopped

    def best_modules(self) -> PromptLearning:
        """The modules of the best start with the weights to keep."""
        assert self.final is not None, "train first"
        return self._modules(self.final)

    def trial_modules(self) -> list[PromptLearning]:
        """The best start as each trial left it, which has not seen what that trial held out."""
        start = self.first_offset
        return [self._modules(self.weights[start, index]) for index in range(len(self.splits))]

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        names = ("scores", "weights", "final", "base_ious", "seen", "seconds", "stopped")
        return {
            "going_on": None if self.run is None else self.run.state(),
            "courses": {trial: asdict(course) for trial, course in self.courses.items()},
            "last": None if self.last is None else asdict(self.last),
            **{name: getattr(self, name) for name in names},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, value in state.items():
            setattr(self, name, value)
        self.courses = {trial: Start(**course) for trial, course in state["courses"].items()}
        self.last = None if state["last"] is None else Start(**state["last"])

    def _train(
        self,
        start: float,
        split: Split,
        on_progress: Callable[[Progress], None],
        save_state: Callable[[], None],
        base_iou: float | None = None,
    ) -> TrainingRun:
        """Train one start to its end, from the state of before if it was interrupted."""
        config = replace(self.config, first_offsets=(start,), validations=1)
        totals = [self._total(*one) for one in [(start, split), *self._to_come()]]
        if config.max_minutes:
            seconds, totals = self._in_time(60 * config.max_minutes, totals)
            config = replace(config, max_minutes=seconds / 60)
        total, later = totals[0], sum(totals[1:])
        # What a mirror image says is judged by its middle: so _MIXED_WELL was measured.
        shown = split.held_out if split.mirrored else clicked(split.held_out)
        run = TrainingRun(
            self.sam,
            config,
            self.images,
            split.objects,
            shown,
            total,
            base_iou=base_iou,
            processes=self.processes,
        )
        if self.going_on is not None:
            run.restore(self.going_on)
            self.going_on = None
        self.run = run
        tried = max((index for _, index in self.scores), default=0)
        best = max(self._means(tried).values(), default=None)

        def tell(progress: Progress) -> None:
            left = progress.total + later - progress.done
            on_progress(
                replace(
                    progress,
                    done=self.seen + progress.done,
                    total=self.seen + progress.total + later,
                    val_iou=best,
                    seconds_left=left / run.objects_per_second,
                )
            )

        self.stopped = run.train(tell, save_state)
        self.run = None
        self.seen += run.trained
        self.seconds += run.seconds
        return run

    def _means(self, splits: int) -> dict[float, float]:
        """Mean held-out IoU, an object, of each start that was tried on the first so many."""
        sizes = [len(split.held_out) for split in self.splits[:splits]]
        means = {}
        for start in self.config.few_first_offsets:
            scores = [self.scores.get((start, index)) for index in range(splits)]
            known = [score for score in scores if score is not None]
            if known and len(known) == splits:
                means[start] = float(np.average(known, weights=sizes))
        return means

    def _starts(self, index: int) -> list[float]:
        """Which starts a split is for: not those that were far behind after one before it.

        For a mirror image only the mixture, where that is good enough.
        """
        if self.splits[0].mirrored and self.scores.get((0.0, 0), 0.0) >= _MIXED_WELL:
            return [0.0]
        alive = list(self.config.few_first_offsets)
        for splits in range(1, index + 1):
            judged = sum(len(split.held_out) for split in self.splits[:splits])
            if judged >= _FEWEST_JUDGED and (means := self._means(splits)):
                limit = max(means.values()) - _FAR_BEHIND
                alive = [start for start in alive if means.get(start, limit) >= limit]
        return alive

    def _left(self) -> list[tuple[float, int]]:
        """The trials that are not done, in their order, as it looks now."""
        return [
            (start, index)
            for index in range(len(self.splits))
            for start in self._starts(index)
            if (start, index) not in self.scores
        ]

    def _to_come(self) -> list[tuple[float, Split]]:
        """What is trained on after the training that is going on, as it looks now."""
        trainings = [(start, self.splits[index]) for start, index in self._left()]
        if self.everything is not None:
            trainings.append((max(self.config.few_first_offsets), Split(self.everything, [])))
        return trainings[1:]

    def _total(self, start: float, split: Split) -> int:
        """How many objects a training sees where there is time enough."""
        kept = self.everything is None or split.objects is self.everything
        count = len(split.objects) // self.config.views
        total = objects_to_see(self.config, start, count, kept=kept)
        return max(total, self.config.batch_size)

    def _in_time(self, limit: float, totals: list[int]) -> tuple[float, list[int]]:
        """Seconds of the next training, and how many objects it and those after it see by then.

        What is left of the limit is shared in proportion to what is still to come, so that a start
        that was given up leaves its time to the others.
        """
        seconds = max(limit - self.seconds, _LEAST_SECONDS) * totals[0] / sum(totals)
        if not self.seen:  # nothing is known of the speed
            return seconds, totals
        possible = SHARE_OF_TIME * seconds * self.objects_per_second / totals[0]
        shorter = [math.floor(min(1.0, possible) * total) for total in totals]
        return seconds, [max(total, self.config.batch_size) for total in shorter]

    def _modules(self, weights: Weights) -> PromptLearning:
        settings = self.config.as_settings(self.first_offset)
        return PromptLearning.trained(settings, weights).to(self.sam.device)
