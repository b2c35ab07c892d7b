"""Run `samtune ...` inside the test's process."""

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import samtune
from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.cli import app
from samtune.contour_refiner import ContourRefiner
from samtune.plm import PromptLearningModule
from samtune.presence import PresenceHead
from samtune.prompt_learning import PromptLearning
from samtune.sam import Sam
from samtune.selector import OutputSelector


def run(*words: object, stdin: bytes | None = None) -> Result:
    """Run the command; a bug's exception goes on, as it should reach the user with traceback."""
    return CliRunner().invoke(app, [str(word) for word in words], stdin, catch_exceptions=False)


def command_with_tiny_sam(*words: object) -> list[str]:
    """`samtune ...` for a process of its own, which takes any checkpoint for the tiny SAM."""
    places = [str(Path(__file__).parent), str(Path(samtune.__file__).parents[1])]
    code = f"""
        import signal, sys
        # A job in the background is born deaf to Ctrl-C, and so are the tests that run in one.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.path[:0] = {places!r}
        import samtune.sam
        from tiny_models import build_tiny_sam
        samtune.sam.load_sam = lambda path, device: build_tiny_sam()
        from samtune.cli import main
        main()
    """
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]


def use_instead_of_weights(sam: Sam, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let --checkpoint be a file that loads as this model, so that commands take no time."""
    file = folder / "tiny.safetensors"
    file.write_bytes(b"stands for weights")
    monkeypatch.setenv("SAMTUNE_CHECKPOINT", str(file))
    monkeypatch.setattr("samtune.sam.load_sam", lambda path, device="cpu": sam)


def one_error(result: Result) -> str:
    """The message of a command that failed with one line, exit code 1 and no result."""
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert "Traceback" not in result.output
    return errors[0]


def files_in(folder: Path) -> set[str]:
    """All files below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def photo(size: tuple[int, int] = (48, 64), seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_adapter(
    path: Path,
    sam: Sam,
    *,
    seed: int = 0,
    refines: bool = True,
    refine_helps: bool = False,
    refine_helps_coarse: bool | None = None,
    presence: float | None = None,
    least_part: float = 0.0,
    settings: Mapping[str, Any] = MappingProxyType({"epochs": 3}),
) -> Path:
    """An adapter with random weights, strong enough to change masks; always of one presence.

    What it says of refining coarse masks is what it says of its own, unless told otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plm, selector = PromptLearningModule(), OutputSelector()
        refiner = ContourRefiner() if refines else None
    info = AdapterInfo(
        method="plm",
        base=Base.of(sam, "tiny"),
        settings=dict(settings),
        data={"train_images": 1, "train_objects": 2, "val_images": 3, "val_objects": 4},
        scores={"base_iou": 0.5664, "adapter_iou": 0.789, "refined_iou": 0.8, "coarse_iou": 0.7},
        refine_helps=refine_helps,
        refine_helps_coarse=refine_helps if refine_helps_coarse is None else refine_helps_coarse,
        least_part=least_part,
    )
    head = None
    if presence is not None:
        head = PresenceHead()
        head.linear.bias.data.fill_(np.log(presence / (1 - presence)))
    Adapter(info, PromptLearning(plm, selector, refiner, head)).save(path)
    return path
