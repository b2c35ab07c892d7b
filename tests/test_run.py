"""The course of a training: which start goes on, and for how long."""

import time

import pytest

from samtune.config import FitConfig
from samtune.curves import Start
from samtune.learner import EncodedImages
from samtune.supervision import Supervision
from samtune.training_run import TrainingRun


class Playback:
    """A learner of two objects a step whose losses are known beforehand."""

    def __init__(self, first_offset, losses, takes=lambda: None):
        self.first_offset, self.to_come, self.takes = first_offset, iter(losses), takes
        self.losses, self.step, self.total = [], 0, 80

    steps = property(lambda self: self.total // 2)
    seen = property(lambda self: self.step * 2)

    def train_step(self):
        self.takes()
        self.losses.append(next(self.to_come))
        self.step += 1

    def held_out_iou(self, held_out, *, plain=False):
        return 0.5

    @property
    def course(self):
        seen = range(2, 2 * self.step + 1, 2)
        return Start(self.first_offset, tuple(seen), tuple(self.losses), (1e-3,) * self.step)

    @property
    def average(self):
        return self

    def state_dict(self):
        return {}


def playing_back(learners, sam, config, **options):
    nothing: list[Supervision] = []
    images = EncodedImages(sam, None, [], [])
    run = TrainingRun(sam, config, images, nothing, [None], total=80, **options)
    run.learner, run.start = learners[1.0], learners.get
    return run


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
    config = FitConfig(first_offsets=(0.1, 1.0), batch_size=2, probe_objects=40, refiner=False)
    known = {0.1: small, 1.0: large}
    learners = {offset: Playback(offset, losses + [0.0] * 20) for offset, losses in known.items()}
    run = playing_back(learners, tiny_sam, config)
    run.train(lambda progress: None, lambda: None)
    curves = run.curves
    assert run.learner is learners[chosen]
    assert run.learner.step == 40
    (other,) = set(known) - {chosen}
    assert learners[other].step == 20
    assert curves.chosen.losses == (*known[chosen], *[0.0] * 20)
    assert [(start.first_offset, start.losses) for start in curves.given_up] == [
        (other, tuple(known[other]))
    ]


@pytest.mark.parametrize(("known", "told"), [(None, 0.5), (0.0, 0.0), (0.25, 0.25)])
def test_plain_sam_looks_unless_what_it_gets_is_known(tiny_sam, known, told):
    config = FitConfig(first_offsets=(1.0,), batch_size=2, refiner=False)
    learners = {1.0: Playback(1.0, [1.0] * 40)}
    run = playing_back(learners, tiny_sam, config, base_iou=known)
    progress = []
    run.train(progress.append, lambda: None)
    assert {one.base_iou for one in progress} == {run.curves.base_iou} == {told}


@pytest.mark.parametrize(
    ("minutes", "later", "steps", "stopped"),
    [
        (None, 1.0, 40, "finished"),
        (5, 1.0, 40, "finished"),  # there is time for all of them
        (1, 1.0, 20 + 19, "time"),  # the probe takes 40 s of the 60; 97 % of 20 steps
        (1, 2.0, 20 + 11, "time"),  # steps become slower than the probe promised: cut off
        (0.5, 1.0, 20, "time"),
    ],
)
def test_a_training_is_planned_to_end_within_the_time_that_the_probe_leaves(
    tiny_sam, monkeypatch, minutes, later, steps, stopped
):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def takes():
        clock[0] += 1.0 if clock[0] < 40 else later

    config = FitConfig(
        first_offsets=(0.1, 1.0), batch_size=2, probe_objects=40, refiner=False, max_minutes=minutes
    )
    learners = {
        0.1: Playback(0.1, [9.0] * 40, takes),
        1.0: Playback(1.0, [1.0] * 40, takes),
    }
    run = playing_back(learners, tiny_sam, config)
    left = []
    assert run.train(lambda progress: left.append(progress.seconds_left), lambda: None) == stopped
    assert run.learner.step == steps
    assert all(0 <= seconds <= 60 * (minutes or 10) for seconds in left)
