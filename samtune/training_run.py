"""The course of a training of the PLM: a run (run.py) whose probe is of first offsets."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from samtune.config import FitConfig
from samtune.curves import Curves, Start
from samtune.learner import EncodedImages, Learner
from samtune.processes import ALONE, Processes
from samtune.prompt_learning import PromptLearning
from samtune.run import Run
from samtune.sam import Sam
from samtune.supervision import Supervision


class TrainingRun(Run[Learner]):
    """The course of a training of the PLM.

    Args:
        sam: the frozen model.
        config: the settings.
        images: the embeddings of all images that objects are in.
        objects: what to learn from.
        held_out: what to look at in between; nothing keeps the weights of the end.
        total: how many objects all steps together will see.
        base_iou: plain SAM's IoU on those held-out objects, where another run has looked already.
        processes: who shares the work.
    """

    def __init__(
        self,
        sam: Sam,
        config: FitConfig,
        images: EncodedImages,
        objects: list[Supervision],
        held_out: list[Supervision],
        total: int,
        base_iou: float | None = None,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(
            config,
            partial(Learner, sam, config, images, objects, total, processes=processes),
            held_out,
            total,
            starts=sorted(config.first_offsets, reverse=True),
            probe_objects=config.probe_objects if len(config.first_offsets) > 1 else 0,
            processes=processes,
        )
        self.base_iou = base_iou
        self.given_up: list[Start] = []  # the probe's other starts

    @property
    def first_offset(self) -> float:
        """Of the start that goes on, once the probe has ended."""
        return self.learner.first_offset

    @property
    def curves(self) -> Curves:
        """How the training went."""
        return Curves(
            self.learner.course,
            tuple(self.given_up),
            tuple(self.curve),
            self.base_iou,
            self.stopped,
        )

    def best_modules(self) -> PromptLearning:
        """The modules that answer prompts, with the kept weights."""
        settings = self.learner.config.as_settings(self.first_offset)
        return PromptLearning.trained(settings, self.best).to(self.learner.sam.device)

    def state(self) -> dict[str, Any]:
        """As Run's."""
        return {**super().state(), "given_up": [asdict(start) for start in self.given_up]}

    def restore(self, state: dict[str, Any]) -> None:
        """As Run's."""
        super().restore(state)
        self.given_up = [Start(**start) for start in state["given_up"]]

    def _plain_iou(self) -> float | None:
        return self.learner.held_out_iou(self.held_out, plain=True) if self.held_out else None

    def _give_up(self, learners: Sequence[Learner]) -> None:
        self.given_up = [learner.course for learner in learners]
