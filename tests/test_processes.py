"""Several processes fit together what one would have fitted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from command import files_in, run, use_instead_of_weights
from hypothesis import given
from hypothesis import strategies as st
from interrupted_fit import Quick
from safetensors.torch import load_file

from samtune.config import FitConfig
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.learner import EncodedImages, Learner
from samtune.processes import ALONE, Processes, started
from samtune.supervision import supervise
from samtune.training import fit

SCRIPT = Path(__file__).with_name("interrupted_fit.py")
EXACTLY = ("--precision", "float32", "--force", "--json")


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_everything_once_in_order_and_of_nearly_one_size(total, count):
    shares = [range(total)[Processes(rank, count).own(total)] for rank in range(count)]
    assert [thing for share in shares for thing in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("rank", "count", "expected"),
    [
        ("1", "4", Processes(1, 4)),
        ("0", "1", ALONE),
        (None, None, ALONE),
        ("", "2", ALONE),
        ("2", "2", ALONE),
        ("one", "2", ALONE),
    ],
)
def test_torchrun_tells_which_process_this_is(rank, count, expected, monkeypatch):
    for name, value in (("RANK", rank), ("WORLD_SIZE", count)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert started() == expected


def check_alike(name, found, expected):
    # A gradient that comes to nothing but rounding is still a step of AdamW's: in the PLM's largest
    # matrices one number in 524,288 was off by 1.3e-4 (benchmarks/defaults.md, "AdamW's epsilon").
    if name in ("plm.mlp.0.weight", "plm.mlp.2.weight"):
        apart = (found - expected).abs() > 1e-4
        assert int(apart.sum()) <= found.numel() // 100_000, name
        torch.testing.assert_close(found, expected, atol=3e-4, rtol=0, msg=name)
    else:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=name)


class Threads:
    """What gloo does between processes, between threads of one."""

    def __init__(self, count):
        self.barrier, self.given = threading.Barrier(count), {}

    def exchange(self, rank, value):
        self.given[rank] = value
        self.barrier.wait(30)
        everyones = [self.given[rank] for rank in sorted(self.given)]
        self.barrier.wait(30)
        return everyones


class OneThread(Processes):
    """A process that is a thread."""

    def of(self, threads):
        object.__setattr__(self, "threads", threads)
        return self

    def from_first(self, make):
        return self.threads.exchange(self.rank, make() if self.is_first else None)[0]

    def together(self, own):
        return [thing for one in self.threads.exchange(self.rank, own) for thing in one]

    def add_up(self, tensors):
        everyones = self.threads.exchange(self.rank, [tensor.clone() for tensor in tensors])
        for tensor, parts in zip(tensors, zip(*everyones, strict=True), strict=True):
            tensor.copy_(sum(parts))


@pytest.fixture
def learner(toy_folder, tiny_sam, tmp_path):
    """Make a learner with few steps, for one of the processes; the last step has one object."""
    dataset = load_dataset(toy_folder)
    cache = EmbeddingCache(tmp_path)
    keys = [cache.encode(read_image(pair.image), tiny_sam)[0] for pair in dataset.pairs]
    images = EncodedImages(tiny_sam, cache, dataset.pairs, keys)
    objects = supervise(dataset.objects, tiny_sam.image_size, np.random.default_rng(0))

    def make(batch_size, processes=ALONE):
        config = FitConfig(
            cells=32, precision="float32", batch_size=batch_size, warmup_objects=4, click_share=0.5
        )
        total = 2 * batch_size + 1
        return Learner(tiny_sam, config, images, objects, total, 1.0, processes)

    return make


@pytest.mark.parametrize(("count", "batch_size"), [(3, 2), (2, 5)])
def test_any_number_of_processes_learns_the_same_from_the_same_batches(learner, count, batch_size):
    def train(one):
        for _ in range(one.steps):
            one.train_step()
        return one, one.held_out_iou(one.objects)

    whole, whole_iou = train(learner(batch_size))
    threads = Threads(count)
    ranks = [OneThread(rank, count).of(threads) for rank in range(count)]
    with ThreadPoolExecutor(count) as pool:
        shared = list(pool.map(train, [learner(batch_size, one) for one in ranks]))
    for one, iou in shared:
        np.testing.assert_allclose(one.losses, whole.losses, atol=1e-4)
        assert iou == pytest.approx(whole_iou, abs=1e-4)
        for name, value in whole.average.state_dict().items():
            check_alike(name, one.average.state_dict()[name], value)
    weights = [one.learned.state_dict() for one, _ in shared]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights for name in other)
    start = learner(batch_size).learned.state_dict()["plm.final_norm.weight"]
    assert not torch.allclose(weights[0]["plm.final_norm.weight"], start, atol=1e-3)  # it moved


def test_a_fit_of_few_masks_in_limited_time_is_shared_from_encoding_to_scoring(
    toy_folder, tiny_sam, tmp_path, monkeypatch
):
    config = FitConfig(
        few_first_offsets=(0.0, 1.0),
        few_objects=4,
        mixture_objects=4,
        few_passes=1,
        cells=32,
        warmup_objects=4,
        folds=2,
        max_minutes=60,
        refiner=False,
        precision="float32",
    )
    lock, encoded = threading.Lock(), []

    def make_learner(*arguments, **options):
        with lock:  # all threads have one random number generator
            return Learner(*arguments, **options)

    encode = type(tiny_sam).encode_image
    monkeypatch.setattr(
        type(tiny_sam), "encode_image", lambda sam, image: encoded.append(1) or encode(sam, image)
    )
    monkeypatch.setattr("samtune.training_run.Learner", make_learner)
    monkeypatch.setattr("samtune.presence_fit._OBJECTS", 2)
    monkeypatch.setattr("samtune.presence_fit._HELD_OUT", 2)
    dataset = load_dataset(toy_folder).subset(range(5))

    def fit_it(processes):
        return fit(
            dataset,
            None,
            tiny_sam,
            EmbeddingCache(tmp_path / f"cache of {processes.count}"),
            config,
            checkpoint_name="tiny",
            state_path=tmp_path / f"state {processes.rank} of {processes.count}",
            processes=processes,
        )

    whole = fit_it(ALONE)
    threads = Threads(2)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(fit_it, [OneThread(rank, 2).of(threads) for rank in range(2)]))
    assert len(encoded) == 2 * 5
    assert not (tmp_path / "state 1 of 2").exists()  # the first alone writes
    assert (tmp_path / "state 0 of 2").exists()
    for result in both:
        assert result.adapted.iou == pytest.approx(whole.adapted.iou, abs=1e-4)
        assert result.base == whole.base
        assert result.gain.mean == pytest.approx(whole.gain.mean, abs=1e-4)
        expected = whole.adapter.learned.selector.state_dict()
        for name, found in result.adapter.learned.selector.state_dict().items():
            check_alike(name, found, expected[name])


def test_a_method_that_trains_nothing_refuses_to_be_shared(monkeypatch, toy_folder):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run("fit", toy_folder, "--method", "persam")
    assert result.exit_code == 2
    assert "without torchrun" in result.stderr


def start_two(folder, data, *words):
    """`torchrun --nproc-per-node 2 -m samtune fit`, at work in a folder, on the tiny SAM."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    fit_it = [SCRIPT, "many", "-", "fit", data, "-o", "a.safetensors", *EXACTLY]
    places = [SCRIPT.parents[1], os.environ.get("PYTHONPATH", "")]
    settings = {
        "SAMTUNE_HOME": str(folder / "home"),
        "SAMTUNE_CHECKPOINT": str(folder / "tiny.safetensors"),
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, *map(str, [*launcher, *fit_it]), *words],
        cwd=folder,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_torchrun_interrupted_and_resumed_makes_the_adapter_of_one_process(
    toy_folder, tiny_sam, tmp_path, monkeypatch
):
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path)
    monkeypatch.setenv("SAMTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("samtune.cli_fit.FitConfig", Quick)
    monkeypatch.setattr("samtune.presence_fit._OBJECTS", 4)
    monkeypatch.setattr("samtune.presence_fit._HELD_OUT", 4)
    alone = run("fit", toy_folder, "-o", tmp_path / "alone.safetensors", *EXACTLY)
    expected = json.loads(alone.stdout)

    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "tiny.safetensors").write_bytes(b"stands for weights")
    process = start_two(folder, toy_folder)
    deadline = time.monotonic() + 120
    while not (folder / "a.safetensors.resume").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert told == ""
    assert said.count("--resume goes on") == 1

    process = start_two(folder, toy_folder, "--resume")
    told, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count("going on from") == said.count("held out: ") == 1
    result = json.loads(told)  # one line, of one process
    for name in ("base_iou", "adapter_iou", "adapter_oracle_iou", "refined_iou"):
        assert result[name] == pytest.approx(expected[name], abs=1e-4)
    one, other = (
        load_file(at) for at in (tmp_path / "alone.safetensors", folder / "a.safetensors")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name.startswith("presence."):  # fitted to eight clicks alone, which magnifies
            torch.testing.assert_close(other[name], value, atol=1e-2, rtol=0, msg=name)
        else:
            check_alike(name, other[name], value)
    files = files_in(folder)
    assert {name for name in files if "/" not in name} == {"a.safetensors", "tiny.safetensors"}
    kept = [name for name in files if name.startswith("home/embeddings/")]
    assert len(kept) == 8
