"""Seconds of stages, and peak memory."""

import time

import numpy as np
import pytest

from samtune.stages import Stages, peak_memory


def test_seconds_of_a_stage_add_up_and_stages_keep_their_order():
    stages = Stages()
    for name in ("read", "score", "read"):
        with stages.measure(name):
            time.sleep(0.02)
    assert list(stages.seconds) == ["read", "score"]
    assert stages.seconds["read"] >= 0.04
    assert 0.02 <= stages.seconds["score"] < stages.seconds["read"] + 1


def test_a_stage_that_fails_is_counted_and_its_error_goes_on():
    stages = Stages()
    with pytest.raises(RuntimeError), stages.measure("read"):
        raise RuntimeError
    assert "read" in stages.seconds


def test_peak_memory_holds_what_was_held_once():
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    size = before + 2**26  # more than the process ever had
    held = np.ones(size, dtype=np.uint8)
    assert peak_memory() >= size
    del held
    assert size <= peak_memory() < 4 * size  # bytes, not KiB
