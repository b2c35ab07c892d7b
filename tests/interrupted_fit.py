"""`samtune fit` on the tiny SAM with little to train, which may be killed at an exact moment.

Run as a script by test_interruption.py: MASKS ("many" or "few"), MOMENT, then the words of the
command line. A moment is the N-th call of a function, "module:name@N"; what writes has then written
half of it. "-" is none.
"""

import importlib
import os
import signal
import sys
import time
from dataclasses import dataclass

import torch
from tiny_models import build_tiny_sam

import samtune.cli_fit
import samtune.object_map_fit
import samtune.presence_fit
import samtune.sam
from samtune.cli import main
from samtune.config import FitConfig, VrpConfig


@dataclass(frozen=True)
class Quick(FitConfig):
    """Two steps with each of two first offsets, then 28, with a look after each third."""

    objects: int = 60
    passes: int = 0
    cells: int = 64
    warmup_objects: int = 8
    probe_objects: int = 4
    few_masks: int = 0
    fewest_held_out: int = 0


@dataclass(frozen=True)
class QuickOfFew(FitConfig):
    """Two starts on two splits that take turns, then the better one on all."""

    objects: int = 60  # for the refiner's share
    cells: int = 64
    warmup_objects: int = 4
    few_first_offsets: tuple[float, ...] = (0.0, 1.0)
    mixture_objects: int = 8
    few_objects: int = 16
    few_passes: int = 1
    folds: int = 2


@dataclass(frozen=True)
class QuickVrp(VrpConfig):
    """Ten steps, with a look after each fifth."""

    episodes: int = 20
    validations: int = 2
    look_at: int = 2


def kill_at(moment: str) -> None:
    """Let the N-th call of a function end this process as a power cut would, or press Ctrl-C.

    For Ctrl-C the moment ends in " SIGINT", and the time is said on stderr.
    """
    moment, _, pressed = moment.partition(" ")
    place, count = moment.split("@")
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    function = getattr(owner, name)
    calls = 0

    def call(*args, **options):
        nonlocal calls
        calls += 1
        if calls == int(count) and pressed:
            print(f"\npressed at {time.monotonic()}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGINT)
        if calls < int(count) or pressed:
            return function(*args, **options)
        if name == "write_bytes":
            function(args[0], args[1][: len(args[1]) // 2])
        elif name == "save":
            function(*args, **options)
            args[1].truncate(args[1].tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, call)


if __name__ == "__main__":
    # A job in the background is born deaf to Ctrl-C, and so are the tests that run in one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    masks, moment, *sys.argv[1:] = sys.argv[1:]
    samtune.cli_fit.FitConfig = {"many": Quick, "few": QuickOfFew}[masks]
    samtune.cli_fit.VrpConfig = QuickVrp
    samtune.presence_fit._OBJECTS = samtune.presence_fit._HELD_OUT = 4
    samtune.object_map_fit._STEPS = 20
    samtune.sam.load_sam = lambda path, device: build_tiny_sam()
    if moment != "-":
        kill_at(moment)
    main()
