"""Few masks: which start is chosen, on what, and that an interruption changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import samtune.trials
from samtune.adapter import Adapter
from samtune.config import FitConfig
from samtune.curves import Curves, Start
from samtune.dataset import folds, load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.masks import DatasetObject
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.run import Progress
from samtune.supervision import Supervision
from samtune.training import fit
from samtune.trials import Split, Trials, clicked

QUICK = FitConfig(
    few_first_offsets=(0.0, 1.0),
    mixture_objects=8,
    few_objects=8,
    few_passes=1,
    cells=64,
    warmup_objects=4,
)


class Scored:
    """In place of a TrainingRun: a training whose score is known beforehand."""

    table: dict[tuple[float, str], float]
    log: list[tuple[float, str, str, int]]
    looked_by_plain_sam: list[str]
    speed = 1.0

    def __init__(self, sam, config, images, objects, held_out, total, base_iou, processes):
        (self.start,) = config.first_offsets
        self.held_out, self.base_iou = "".join(held_out), base_iou
        limit = 60 * config.max_minutes if config.max_minutes else np.inf
        self.total, self.seconds = total, min(total / self.speed, limit)
        self.trained = round(self.seconds * self.speed)
        self.log.append((self.start, "".join(objects), self.held_out, total))

    objects_per_second = property(lambda self: self.speed)
    best_iou = property(lambda self: self.table.get((self.start, self.held_out), -1.0))
    best = property(lambda self: {"selector": (self.start, self.held_out)})

    @property
    def curves(self):
        course = Start(self.start, (self.total,), (float(len(self.held_out)),), (1e-3,))
        return Curves(course, (), (), self.base_iou, "finished")

    def train(self, on_progress, save_state):
        if self.held_out and self.base_iou is None:
            self.looked_by_plain_sam.append(self.held_out)
            self.base_iou = 0.25
        on_progress(Progress("train", self.total, self.total))
        return "finished"

    def state(self):
        return {}


@pytest.fixture
def known(monkeypatch):
    """Trials of objects a to d, whose scores a test sets; what was trained is in the log."""
    monkeypatch.setattr(samtune.trials, "TrainingRun", Scored)
    monkeypatch.setattr(samtune.trials, "clicked", list)
    monkeypatch.setattr(Trials, "_modules", lambda self, weights: weights["selector"])

    def trials(table, splits, everything, config=QUICK, mirrored=False):
        Scored.table, Scored.log, Scored.looked_by_plain_sam = table, [], []
        parts = [Split(list(train), list(held), mirrored) for train, held in splits]
        made = Trials(None, config, None, parts, None if everything is None else list(everything))
        made.told = []
        assert made.train(made.told.append, lambda: None) == "finished"
        return made

    return trials


THREE = [("bcd", "a"), ("ad", "bc"), ("abc", "d")]
PAIRS = [("cdef", "ab"), ("abef", "cd"), ("abcd", "ef")]


@pytest.mark.parametrize(
    ("scores", "tried", "chosen"),
    [
        ((0.6, 0.9, 0.95), [0.0], 0.0),  # what SAM can do nearly stays what it is
        ((0.45, 0.5, 0.55), [0.0, 0.1, 1.0], 0.0),
        ((0.1, 0.5, 0.6), [0.0, 0.1, 1.0], 0.1),
        ((0.1, 0.3, 0.6), [0.0, 0.1, 1.0], 1.0),
    ],
)
def test_where_the_mirror_image_is_held_out_little_is_learned_unless_much_is_gained(
    known, scores, tried, chosen
):
    config = replace(QUICK, few_first_offsets=(0.0, 0.1, 1.0))
    table = {(start, "A"): score for start, score in zip((0.0, 0.1, 1.0), scores, strict=True)}
    trials = known(table, [("a", "A")], None, config, mirrored=True)
    assert [start for start, *_ in Scored.log] == tried
    assert trials.first_offset == chosen
    assert trials.best_modules() == (chosen, "A")
    best = max(table, key=lambda trial: table[trial])[0]
    assert known(table, [("a", "A")], None, config).first_offset == best  # an image of its own


def test_every_start_is_tried_on_all_splits_and_the_best_mean_of_objects_trained_on_everything(
    known,
):
    # Two of three splits say the first start, the mean of the four objects the second.
    table = {(0.0, "a"): 0.5, (0.0, "bc"): 0.35, (0.0, "d"): 0.5}
    table |= {(1.0, "a"): 0.45, (1.0, "bc"): 0.45, (1.0, "d"): 0.45}
    trials = known(table, THREE, "abcd")
    tried = [(start, *split) for split in THREE for start in (0.0, 1.0)]
    assert [entry[:3] for entry in Scored.log] == [*tried, (1.0, "abcd", "")]
    assert trials.best_modules() == (1.0, "")
    assert trials.trial_modules() == [(1.0, "a"), (1.0, "bc"), (1.0, "d")]


def test_a_start_that_is_far_behind_after_four_objects_is_given_up(known):
    # Two objects say little: after them it is the other one that is far behind.
    table = {(0.0, "ab"): 0.8, (1.0, "ab"): 0.4, (0.0, "cd"): 0.1, (1.0, "cd"): 0.9}
    trials = known(table | {(1.0, "ef"): 0.1}, PAIRS, "abcdef")
    tried = [entry[::2] for entry in Scored.log]
    starts = [(start, held) for held in ("ab", "cd") for start in (0.0, 1.0)]
    assert tried == [*starts, (1.0, "ef"), (1.0, "")]
    assert trials.best_modules() == (1.0, "")


def test_of_equal_starts_the_one_that_changes_least_is_taken(known):
    table = {(start, held): 0.5 for start in (0.0, 1.0) for _, held in THREE}
    assert known(table, THREE, "abcd").best_modules() == (0.0, "")


def test_with_objects_held_out_for_good_the_best_trial_is_kept(known):
    trials = known({(0.0, "d"): 0.7, (1.0, "d"): 0.3}, [("abc", "d")], None)
    assert [entry[1] for entry in Scored.log] == ["abc", "abc"]
    assert trials.best_modules() == (0.0, "d")


def test_curves_are_those_of_the_training_that_is_kept_and_of_the_other_starts(known):
    curves = known({(0.0, "d"): 0.3, (1.0, "d"): 0.7}, [("abc", "d")], None).curves
    assert curves.chosen == Start(1.0, (8,), (1.0,), (1e-3,))
    assert curves.given_up == (Start(0.0, (8,), (1.0,), (1e-3,)),)
    assert (curves.looks, curves.base_iou) == (((8, 0.7),), 0.25)
    assert curves.tried == ((0.0, 0.3), (1.0, 0.7))
    # Of turns it is the last training, on everything: nobody could look at it.
    table = {(start, held): 0.5 - 0.1 * start for start in (0.0, 1.0) for _, held in THREE}
    curves = known(table, THREE, "abcd").curves
    assert curves.chosen == Start(0.0, (8,), (0.0,), (1e-3,))
    assert [start.losses for start in curves.given_up] == [(1.0,), (2.0,), (1.0,)]
    assert (curves.looks, curves.base_iou) == ((), None)
    assert curves.tried == ((0.0, pytest.approx(0.5)), (1.0, pytest.approx(0.4)))


@pytest.mark.parametrize(("count", "each"), [(1, 9), (2, 9), (10, 6), (40, 1), (100, 1)])
def test_few_objects_are_scored_at_several_clicks_on_each_and_many_in_their_middles(count, each):
    rows, columns = np.mgrid[:64, :64]
    disk = (columns - 40) ** 2 + (rows - 25) ** 2 < 15**2
    rng = np.random.default_rng(0)
    objects = [Supervision.of(DatasetObject.of(disk, index), 64, rng) for index in range(count)]
    shown = clicked(objects)
    assert [one.image_index for one in shown] == [i for i in range(count) for _ in range(each)]
    assert np.array_equal(shown[0].center, objects[0].center)
    places = [tuple(one.center.round().astype(int).tolist()) for one in shown]
    assert all(disk[row, column] for column, row in places)
    assert len(set(places[:each])) == each  # nowhere twice


def test_plain_sam_looks_once_at_what_a_split_holds_out(known):
    known({}, THREE, "abcd")
    assert len(Scored.log) == 7
    assert Scored.looked_by_plain_sam == ["a", "bc", "d"]


def test_starts_are_scored_at_those_clicks_but_on_a_mirror_image(known, monkeypatch):
    monkeypatch.setattr(samtune.trials, "clicked", lambda held_out: 3 * held_out)
    known({}, [("abc", "d")], None)
    assert {entry[2] for entry in Scored.log} == {"ddd"}
    known({}, [("a", "A")], None, mirrored=True)
    assert {entry[2] for entry in Scored.log} == {"A"}


def test_several_trials_of_which_none_could_be_kept_are_refused():
    with pytest.raises(ValueError, match="none is the one to keep"):
        Trials(None, QUICK, None, [Split([], []), Split([], [])], None)


def test_progress_runs_through_all_trainings_to_its_end(known):
    trials = known({}, THREE, "abcd")
    done = [progress.done for progress in trials.told]
    assert done == sorted(done)
    assert {progress.total for progress in trials.told} == {done[-1]} == {trials.seen}
    left = [progress.seconds_left for progress in trials.told]
    assert left == [done[-1] - one for one in done]


def test_trials_see_fewer_objects_than_the_training_whose_weights_are_kept(known):
    config = replace(QUICK, mixture_objects=20, few_objects=100, trial_objects=40, few_passes=30)
    table = {(start, held): 0.1 * start for start in (0.0, 1.0) for _, held in THREE}
    known(table, THREE, "abcd", config)
    assert [entry[3] for entry in Scored.log] == [20, 40, 20, 40, 20, 40, 120]
    known({}, [("abc", "d")], None, config)
    assert [entry[3] for entry in Scored.log] == [20, 100]


def test_a_time_limit_is_shared_by_all_trainings(known, monkeypatch):
    # 7 trainings in 14 seconds: 2 each, of which 97 % hold 19 objects at 10 a second. What those
    # before leave of theirs makes it a little more towards the end.
    monkeypatch.setattr(Scored, "speed", 10.0)
    config = replace(QUICK, few_objects=100, mixture_objects=100, max_minutes=14 / 60)
    trials = known({}, THREE, "abcd", config)
    assert [entry[3] for entry in Scored.log] == [100, 19, 19, 19, 20, 20, 22]
    assert trials.seconds <= 14


def test_a_start_that_is_given_up_leaves_its_time_to_the_others(known, monkeypatch):
    # As many objects each as before; six trainings are done of the seven in 14 seconds.
    monkeypatch.setattr(Scored, "speed", 10.0)
    config = replace(QUICK, few_objects=100, mixture_objects=100, max_minutes=14 / 60)
    table = {(0.0, "ab"): 0.1, (0.0, "cd"): 0.1} | {(1.0, held): 0.9 for _, held in PAIRS}
    trials = known(table, PAIRS, "abcdef", config)
    assert [entry[3] for entry in Scored.log] == [100, 19, 19, 19, 30, 32]
    assert 13 < trials.seconds <= 14


def test_the_training_that_is_kept_has_the_larger_share_of_a_time_limit(known, monkeypatch):
    monkeypatch.setattr(Scored, "speed", 10.0)
    config = replace(QUICK, few_objects=400, mixture_objects=200, trial_objects=200)
    known({}, THREE, "abcd", replace(config, max_minutes=16 / 60))
    totals = [entry[3] for entry in Scored.log]
    assert totals[0] == 200  # planned; the limit stops it after a tenth, as nothing is known yet
    assert totals[-1] > 1.9 * max(totals[1:-1])


# --------------------------------------------------------------------------- in a fit


@pytest.fixture(scope="module")
def run(toy_folder, tiny_sam, tmp_path_factory):
    """Fit without anything held out for good."""
    embeddings = EmbeddingCache(tmp_path_factory.mktemp("embeddings"))
    dataset = load_dataset(toy_folder)

    def run_fit(config=QUICK, **options):
        options.setdefault("state_path", tmp_path_factory.mktemp("state") / "state.resume")
        config = replace(config, objects=16)  # little work on refining, too
        return fit(dataset, None, tiny_sam, embeddings, config, checkpoint_name="tiny", **options)

    return run_fit


@pytest.fixture(scope="module")
def whole(run):
    """What an undisturbed fit ends with."""
    return run()


def same(one, other):
    weights = [result.adapter.learned.state_dict() for result in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_every_object_is_scored_by_a_training_that_had_not_seen_it(whole, toy_folder):
    assert (whole.folds, whole.base.objects, whole.adapted.objects) == (4, 8, 8)
    data = whole.adapter.info.data
    assert [data[name] for name in ("train_objects", "val_objects", "folds")] == [8, 8, 4]
    dataset = load_dataset(toy_folder)
    dealt = sorted(index for part in folds(dataset, 4, 0) for index in part)
    assert dealt == list(range(8))


def test_who_scores_an_image_was_trained_on_others(run, monkeypatch):
    seen, trial_modules = {}, Trials.trial_modules

    def remember(trials):
        learned = trial_modules(trials)
        for one, split in zip(learned, trials.splits, strict=True):
            seen[id(one)] = {thing.image_index for thing in split.objects}
        return learned

    monkeypatch.setattr(Trials, "trial_modules", remember)
    turns = run().turns
    for image in range(8):
        learned_from = seen[id(turns.on(image).adapter.learned)]
        assert image not in learned_from
        assert len(learned_from) == 6


@pytest.mark.parametrize("moment", [3, 40, 66])  # the first trial, a later one, the last training
def test_an_interrupted_fit_of_few_masks_ends_as_if_it_had_not_been(run, whole, tmp_path, moment):
    # Two starts on four splits see 8 objects each, then the better one 8 once more: 72.
    state = tmp_path / "state.resume"

    def interrupt(progress):
        if progress.phase == "train" and progress.done >= moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(state_path=state, on_progress=interrupt)
    again = []
    resumed = run(state_path=state, resume=True, on_progress=again.append)
    first = min(progress.done for progress in again if progress.phase == "train")
    assert first > moment - 10
    assert same(resumed, whole)
    assert resumed.curves == whole.curves
    assert resumed.adapter.info == whole.adapter.info


def test_without_a_plm_the_answer_is_a_mixture_of_plain_sams_masks(
    run, tiny_sam, toy_folder, tmp_path
):
    result = run(replace(QUICK, few_first_offsets=(0.0,)))
    assert result.adapter.learned.plm is None
    assert result.adapter.learned.parameters_in_use() == 2_052 + 1_282
    result.adapter.save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 2e6  # the refiner's
    adapter = Adapter.load(tmp_path / "a.safetensors", tiny_sam)
    embedding = tiny_sam.encode_image(read_image(toy_folder / "images" / "0.png"))
    prompt = Prompt.of(points=[(50, 60)])
    answer = Predictor(tiny_sam, adapter, every_cell=True).predict(embedding, [prompt])[0]
    alone = [
        Output(tiny_sam, output).predict(embedding, [prompt])[0].low_res_logits
        for output in range(4)
    ]
    tokens, _ = adapter.learned.attend(tiny_sam, embedding, [prompt])
    estimates = adapter.learned.selector(tokens, tiny_sam.decoder.predict_iou(tokens))[0]
    weights = np.exp((estimates - estimates.max()).numpy() / 0.05)
    mixed = np.tensordot(weights / weights.sum(), alone, axes=1)
    assert np.abs(answer.low_res_logits - mixed).max() < 1e-3 * np.abs(mixed).max()


class Output(Predictor):
    """Plain SAM, one of its four outputs."""

    def __init__(self, sam, output):
        super().__init__(sam, every_cell=True)
        self.output = output

    def mix(self, prompt, estimates):
        return torch.eye(4)[[self.output]]
