"""The course of a training: which start goes on."""

import pytest

from samtune.config import FitConfig
from samtune.learner import EncodedImages
from samtune.run import TrainingRun
from samtune.supervision import Supervision


class Playback:
    """A learner whose losses are known beforehand."""

    steps, total, seen = 40, 40, 0

    def __init__(self, losses):
        self.to_come = iter(losses)
        self.losses, self.step = [], 0

    def train_step(self):
        self.losses.append(next(self.to_come))
        self.step += 1

    def held_out_iou(self, held_out, *, plain=False):
        return 0.5

    @property
    def average(self):
        return self

    def state_dict(self):
        return {}


@pytest.mark.parametrize(
    ("small", "large", "chosen"),
    [
        ([2.0] * 20, [9.0] * 15 + [1.0] * 5, 1.0),  # it came from far, and is the better one now
        ([2.0] * 20, [1.0] * 15 + [3.0] * 5, 0.1),
        ([2.0] * 20, [2.0] * 20, 1.0),
    ],
)
def test_the_start_whose_loss_is_lower_at_the_end_of_the_probe_goes_on(
    tiny_sam, small, large, chosen
):
    config = FitConfig(first_offsets=(0.1, 1.0), batch_size=2, probe_objects=40, pmm=False)
    nothing: list[Supervision] = []
    run = TrainingRun(
        tiny_sam, config, EncodedImages(tiny_sam, None, [], []), nothing, [None], total=80
    )
    learners = {0.1: Playback(small + [0.0] * 20), 1.0: Playback(large + [0.0] * 20)}
    run.learner, run.start = learners[1.0], learners.get
    run.train(lambda progress: None, lambda: None)
    assert run.learner is learners[chosen]
    assert run.learner.step == 40
    assert learners[0.1 if chosen == 1.0 else 1.0].step == 20
