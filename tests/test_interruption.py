"""`samtune fit`, killed, interrupted, and beside another one: it goes on, and nothing is broken."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command import files_in
from safetensors import safe_open

pytestmark = pytest.mark.slow  # processes that load torch

SCRIPT = Path(__file__).with_name("interrupted_fit.py")
MOMENTS = {
    "encoding, an embedding half-written": "pathlib:Path.write_bytes@3",
    "the probe": "samtune.learner:Learner.train_step@3",
    "training": "samtune.learner:Learner.train_step@20",
    "saving the first state, half-written": "torch:save@1",
    "saving a later state, half-written": "torch:save@4",
    "a state complete but not yet in its place": "pathlib:Path.replace@11",
    "fitting the presence": "samtune.training:fit_presence@1",
    "scoring": "samtune.predictor:Predictor.predict@2",
    "saving the adapter, half-written": "pathlib:Path.write_bytes@9",  # 8 embeddings before
    "the adapter saved, the state not yet removed": "pathlib:Path.unlink@23",
}
FITS = {
    "of many masks": ("many", ["--auto"]),
    "of few masks": ("few", []),
    "of a reference prompt": ("few", ["--method", "vrp"]),
}


def start(folder, data, *words, masks="many", moment="-", home=None):
    """`samtune fit` in a process of its own, at work in a folder."""
    folder.mkdir(exist_ok=True)
    home = folder / "home" if home is None else home
    home.mkdir(exist_ok=True)
    (home / "tiny.safetensors").write_bytes(b"stands for weights")
    places = [SCRIPT.parents[1], os.environ.get("PYTHONPATH", "")]
    settings = {"SAMTUNE_HOME": str(home), "SAMTUNE_CHECKPOINT": str(home / "tiny.safetensors")}
    command = [SCRIPT, masks, moment, "fit", data, "-o", "a.safetensors", "--force", *words]
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | settings | {"PYTHONPATH": os.pathsep.join(map(str, places))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    """Wait for its end; returns what it said on stderr."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


@pytest.fixture(scope="module")
def whole(toy_folder, tmp_path_factory):
    """The adapter of an undisturbed fit."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder, toy_folder))
    return (folder / "a.safetensors").read_bytes()


def check_files_are_whole(folder):
    """Every file under a name of its own can be read to its end."""
    for name in files_in(folder):
        path = folder / name
        if path.name.startswith(".samtune-") or path.name == "tiny.safetensors":
            continue  # what nobody takes for a result, and the stand-in for weights
        if path.suffix == ".resume":
            assert torch.load(path, weights_only=True)["state"]
        else:
            assert path.suffix == ".safetensors"
            with safe_open(path, framework="pt") as file:
                assert [file.get_tensor(name).shape for name in file.keys()]


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_killed_fit_goes_on_with_resume_to_the_same_adapter(moment, whole, toy_folder, tmp_path):
    folder = tmp_path / "work"
    (which,) = (name for name, one in MOMENTS.items() if one == moment)
    finish(start(folder, toy_folder, moment=moment), -signal.SIGKILL)
    check_files_are_whole(folder)
    assert (folder / "a.safetensors").is_file() == ("adapter saved" in which)
    said = finish(start(folder, toy_folder, "--resume"))
    assert (folder / "a.safetensors").read_bytes() == whole
    check_files_are_whole(folder)
    left = {name for name in files_in(folder) if not Path(name).name.startswith(".samtune-")}
    assert {name for name in left if "/" not in name} == {"a.safetensors"}
    before = ("encoding", "probe", "first state")
    started_anew = "nothing to resume" in said
    assert started_anew == any(word in which for word in before)


@pytest.mark.parametrize(("masks", "words"), FITS.values(), ids=FITS)
def test_a_fit_killed_at_ten_random_moments_still_makes_the_same_adapter(
    masks, words, toy_folder, tmp_path
):
    started = time.monotonic()
    finish(start(tmp_path / "whole", toy_folder, *words, masks=masks))
    seconds = time.monotonic() - started
    folder, moments = tmp_path / "work", random.Random(masks + "".join(words))
    for _ in range(10):
        process = start(folder, toy_folder, "--resume", *words, masks=masks)
        try:
            process.communicate(timeout=seconds * moments.uniform(0.2, 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        check_files_are_whole(folder)
    finish(start(folder, toy_folder, "--resume", *words, masks=masks))
    adapters = [(tmp_path / name / "a.safetensors").read_bytes() for name in ("whole", "work")]
    assert adapters[0] == adapters[1]


def test_control_c_ends_within_two_seconds_and_resume_goes_on(whole, toy_folder, tmp_path):
    folder = tmp_path / "work"
    said = finish(start(folder, toy_folder, moment=f"{MOMENTS['training']} SIGINT"), 130)
    (pressed,) = re.findall(r"pressed at (\S+)", said)
    assert time.monotonic() - float(pressed) < 2  # the clock is the machine's
    assert "--resume goes on" in said.splitlines()[-1]
    assert "Traceback" not in said
    check_files_are_whole(folder)
    assert {name for name in files_in(folder) if "/" not in name} == {"a.safetensors.resume"}
    finish(start(folder, toy_folder, "--resume"))
    assert (folder / "a.safetensors").read_bytes() == whole


def test_two_fits_at_once_share_one_cache(whole, toy_folder, tmp_path):
    home = tmp_path / "home"
    both = [start(tmp_path / name, toy_folder, home=home) for name in ("one", "other")]
    for process in both:
        finish(process)
    assert all((tmp_path / n / "a.safetensors").read_bytes() == whole for n in ("one", "other"))
    assert len([name for name in files_in(home) if name.startswith("embeddings/")]) == 8
    check_files_are_whole(home)
