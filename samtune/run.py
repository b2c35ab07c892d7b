"""The course of a training: which start, how many steps, when to look, when to stop.

A learner (learner.py) knows how to take a step. Here it is decided how far the first offsets of
the PLM reach (the probe), when the held-out objects are looked at, which weights are the best so
far, and what has to be kept to go on after an interruption.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from samtune.evenly import evenly
from samtune.processes import ALONE, Processes

_LOOK_AT = 100  # held-out objects in a look during training; the end scores all of them
SHARE_OF_TIME = 0.97  # planned with, when there is a limit; a machine may become slower
_SAVE_EVERY = 60.0  # seconds between states to resume from


@dataclass(frozen=True)
class Progress:
    """What fit() is doing.

    Attributes:
        phase: "encode", "train", "refine" (its training), "map" (likewise), "score", "coarse"
            (masks, scored) or "find" (objects, scored).
        done, total: images when encoding or scoring, objects or steps when training.
        loss: mean training loss lately.
        val_iou: held-out IoU of the kept weights so far, and `base_iou` of plain SAM.
        base_iou: see `val_iou`; both on the logits' grid, which is quick.
        seconds_left: of training, once it can be told.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None
    val_iou: float | None = None
    base_iou: float | None = None
    seconds_left: float | None = None


class Course(Protocol):
    """The settings that any run needs, as config.py has them."""

    @property
    def batch_size(self) -> int:
        """Objects a step."""

    @property
    def max_minutes(self) -> float | None:
        """After which training stops."""

    @property
    def validations(self) -> int:
        """Looks at the held-out objects."""

    @property
    def patience(self) -> int:
        """Looks without progress after which training stops."""


class StepByStep(Protocol):
    """What any learner does. Whatever is random in a step depends on its number alone."""

    step: int  # the next one's number
    total: int  # objects in all steps
    losses: list[float]

    @property
    def average(self) -> nn.Module:
        """The weights that count."""

    @property
    def steps(self) -> int:
        """How many there are."""

    @property
    def seen(self) -> int:
        """How many objects the steps so far have seen."""

    def train_step(self) -> None:
        """Take the next step."""

    def held_out_iou(self, held_out: Sequence[Any]) -> float:
        """Mean IoU of the averaged weights on some held-out objects."""

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""


LearnerT = TypeVar("LearnerT", bound=StepByStep)


class Run(Generic[LearnerT]):
    """The course of one training: probe, steps, looks at the held-out objects, the best weights.

    Args:
        config: the settings.
        start: makes a learner, from one of the starts.
        held_out: what to look at in between; nothing keeps the weights of the end.
        total: how many objects all steps together will see.
        starts: what to try on a few objects, the one to prefer first.
        probe_objects: on how many; also where there is one start, to know what time allows.
        look_at: how many of the held-out objects, evenly; the end scores all of them.
        processes: who shares the work.
    """

    def __init__(
        self,
        config: Course,
        start: Callable[[float], LearnerT],
        held_out: Sequence[Any],
        total: int,
        starts: Sequence[float] = (1.0,),
        probe_objects: int = 0,
        look_at: int = _LOOK_AT,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.processes = config, processes
        self.starts, self.probe_objects = starts, probe_objects
        self.held_out = evenly(held_out, look_at)
        self.total = total
        self.start, self.started_from = start, starts[0]
        self.learner = start(starts[0])
        self.probed = not probe_objects
        self.seconds = 0.0  # spent in steps, those of the probe included
        self.trained = 0  # objects in those steps
        self.curve: list[tuple[int, float]] = []
        self.base_iou: float | None = None  # plain SAM's in a look, once training has begun
        self.stopped = "finished"  # or "time", "no progress": one that is resumed stays stopped
        self.best_iou = -1.0
        self.best: dict[str, Tensor] = {}

    @property
    def seen(self) -> int:
        """Objects seen by the steps of that start."""
        return self.learner.seen

    @property
    def objects_per_second(self) -> float:
        """How fast the steps were, the probe's included."""
        return self.trained / max(self.seconds, 1e-9)

    def train(self, on_progress: Callable[[Progress], None], save_state: Callable[[], None]) -> str:
        """Train to the end; returns why it ended."""
        if self.base_iou is None:
            self.base_iou = self._plain_iou()

        def tell(learner: LearnerT) -> None:
            on_progress(
                Progress(
                    "train",
                    learner.seen,
                    learner.total,
                    loss=float(np.mean(learner.losses[-50:])),
                    val_iou=self.best_iou if self.curve else None,
                    base_iou=self.base_iou,
                    seconds_left=self._seconds_left(learner),
                )
            )

        if not self.probed:
            self._probe(tell)
            self._fit_into_the_time()
            save_state()
        steps = self.learner.steps
        looks = np.linspace(0, steps, self.config.validations + 1).round()[1:]
        saved = time.monotonic()
        while self.learner.step < steps and self.stopped == "finished":
            self._step(self.learner)
            if self.config.max_minutes and self.seconds > 60 * self.config.max_minutes:
                self.stopped = "time"
            looked = self.learner.step in looks or self.stopped == "time"
            if looked:
                self._look()
                if _looks_since_best(self.curve) >= self.config.patience:
                    self.stopped = "no progress"
            if time.monotonic() - saved > _SAVE_EVERY or looked:
                save_state()
                saved = time.monotonic()
            tell(self.learner)
        if self.stopped == "finished" and self.learner.total < self.total:
            self.stopped = "time"
        if not self.best:  # so few objects that the probe was all of the training
            self._look()
        return self.stopped

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs; there is none before the probe has ended."""
        return {
            "learner": self.learner.state(),
            "start": self.started_from,
            "seconds": self.seconds,
            "trained": self.trained,
            "curve": self.curve,
            "best": self.best,
            "best_iou": self.best_iou,
            "stopped": self.stopped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.started_from = state["start"]
        self.learner = self.start(self.started_from)
        self.learner.restore(state["learner"])
        self.probed = True
        self.curve = [(int(seen), float(iou)) for seen, iou in state["curve"]]
        for name in ("seconds", "trained", "best", "best_iou", "stopped"):
            setattr(self, name, state[name])

    def _plain_iou(self) -> float | None:
        """Plain SAM's IoU on what is looked at, where it has an answer."""
        return None

    def _give_up(self, learners: Sequence[LearnerT]) -> None:
        """The probe's other starts, before they are forgotten."""

    def _probe(self, tell: Callable[[LearnerT], None]) -> None:
        """Try each start, and go on with the one that promises more.

        A small first offset of the PLM keeps what SAM already does and improves it; a large one
        leaves SAM's answer and finds another. Which of them a task needs shows in what they have
        come to at the end of the probe, not before: the large one starts from further away.
        """
        lowest, tried = math.inf, []
        for start in self.starts:
            learner = self.start(start)
            steps = min(max(1, self.probe_objects // self.config.batch_size), learner.steps)
            for _ in range(steps):
                self._step(learner)
                tell(learner)
            tried.append(learner)
            loss = float(np.mean(learner.losses[-max(1, steps // 4) :]))
            if loss < lowest:
                lowest, self.learner, self.started_from = loss, learner, start
        self._give_up([one for one in tried if one is not self.learner])
        self.probed = True

    def _seconds_left(self, learner: LearnerT) -> float:
        seconds = (learner.total - learner.seen) / self.objects_per_second
        if self.config.max_minutes:
            seconds = min(seconds, max(60 * self.config.max_minutes - self.seconds, 0.0))
        return seconds

    def _fit_into_the_time(self) -> None:
        """See fewer objects if that is what the time allows, so that the rate still ends at 0.

        Weights of a training that is cut off while its rate is high are hardly the best it had.
        """
        if self.config.max_minutes:
            left = 60 * self.config.max_minutes - self.seconds
            more = math.floor(SHARE_OF_TIME * max(left, 0.0) * self.objects_per_second)
            self.learner.total = min(self.learner.total, self.learner.seen + more)

    def _step(self, learner: LearnerT) -> None:
        started = time.monotonic()
        learner.train_step()
        self.seconds += time.monotonic() - started
        if self.config.max_minutes:  # by the first's clock, or some would stop without the others
            self.seconds = self.processes.from_first(lambda: self.seconds)
        self.trained += self.config.batch_size

    def _look(self) -> None:
        """Look at the held-out objects, and keep the weights if they are the best so far."""
        if self.held_out:
            score = self.learner.held_out_iou(self.held_out)
            self.curve.append((self.learner.seen, score))
            if self.best and score <= self.best_iou:
                return
            self.best_iou = score
        weights = self.learner.average.state_dict()
        self.best = {name: value.clone() for name, value in weights.items()}


def _looks_since_best(curve: list[tuple[int, float]]) -> int:
    """How long ago the curve was at its highest, the first time."""
    scores = [score for _, score in curve]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0
