"""Measure the most memory that samtune's commands hold, each in a process of its own.

    python benchmarks/memory.py [--only segment fit score]

Draws what it needs: a JPEG of 12,000×9,000 pixels to segment; 100 and 1,000 small images to fit
on; images with few and many objects to score, as those of cell nuclei are. All small images share
one embedding, put into a cache of their own: encoding a thousand would take a quarter of an hour,
and is done one by one anyway. Prints the peak of each whole process (ru_maxrss), torch included.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.checkpoints import resolve
from samtune.contour_refiner import ContourRefiner
from samtune.embeddings import EmbeddingCache
from samtune.input_frame import Embedding
from samtune.plm import PromptLearningModule
from samtune.prompt_learning import PromptLearning
from samtune.sam import load_sam
from samtune.selector import OutputSelector

Command = tuple[str, list[str]]  # what it is called in the table, arguments of samtune
SIDE = 256  # pixels of the small images
CHECKPOINT = resolve("mobile_sam")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    only = parser.parse_args().only
    print("| what | peak, MB | seconds |\n|---|---|---|")
    # A process starts out with the peak of the one that starts it: that is never this one, which
    # draws large pictures.
    with multiprocessing.get_context("spawn").Pool(1) as starter:
        for name in only:
            with tempfile.TemporaryDirectory(prefix="samtune-memory-") as folder:
                for title, command in SECTIONS[name](Path(folder)):
                    peak, seconds = starter.apply(measure, (command, Path(folder)))
                    print(f"| {title} | {peak / 1e6:,.0f} | {seconds:.0f} |", flush=True)


def measure(arguments: Sequence[str], folder: Path) -> tuple[int, float]:
    """Run samtune with a cache in the folder; returns bytes at the peak and seconds."""
    command = [sys.executable, "-m", "samtune", *arguments, "--checkpoint", str(CHECKPOINT)]
    environment = {**os.environ, "SAMTUNE_HOME": str(folder / "home")}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return usage.ru_maxrss * 1024, time.perf_counter() - started  # Linux counts in KiB


def segment(folder: Path) -> Iterator[Command]:
    """One click on a small image and on a very large one."""
    for width, height in ((1200, 900), (12_000, 9_000)):
        path = folder / f"{width}.jpg"
        photo = np.full((height, width, 3), 90, np.uint8)
        photo[height // 3 : height // 2, width // 4 : width // 2] = (200, 40, 30)
        Image.fromarray(photo).save(path, quality=90)
        del photo
        click = f"{3 * width // 8},{5 * height // 12}"
        yield f"segment {width:,}×{height:,}", ["segment", path.name, "--point", click]


def fit(folder: Path) -> Iterator[Command]:
    """The probe, some steps and the scores at the end, on ten times as many images."""
    for count in (100, 1000):
        data = folder / str(count)
        draw_images(data, folder / "home", [1] * count)
        options = ["--val-fraction", "0.05", "--max-minutes", "0.1", "--force"]
        yield f"fit {count:,} images", ["fit", data.name, "-o", "a.safetensors", *options]


def score(folder: Path) -> Iterator[Command]:
    """Centre and random clicks on every object, plain SAM and an adapter that refines."""
    sam = load_sam(CHECKPOINT)
    info = AdapterInfo("plm", Base.of(sam, "mobile_sam"))
    modules = PromptLearningModule(first_offset=0.1), OutputSelector(), ContourRefiner()
    Adapter(info, PromptLearning(*modules)).save(folder / "a.safetensors")
    for count in (4, 100):
        data = folder / str(count)
        draw_images(data, folder / "home", [count])
        yield (
            f"evaluate {count} objects in an image",
            ["evaluate", data.name, "--adapter", "a.safetensors"],
        )


def draw_images(data: Path, home: Path, objects: Sequence[int]) -> None:
    """Draw images with so many squares each, their masks, and what the cache has of them."""
    sam, cache = load_sam(CHECKPOINT), EmbeddingCache(home / "embeddings")
    rng = np.random.default_rng(0)
    embedding: Embedding | None = None
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
    for number, count in enumerate(objects):
        image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)  # no two are copies
        labels = np.zeros((SIDE, SIDE), np.uint16)
        across = int(np.ceil(np.sqrt(count)))
        step = SIDE // across
        for place in range(count):
            top, left = step * (place // across), step * (place % across)
            square = np.s_[top + step // 4 : top + step - 2, left + step // 4 : left + step - 2]
            image[square] = (220, 160, 40)
            labels[square] = place + 2
        Image.fromarray(image).save(data / "images" / f"{number}.png")
        Image.fromarray(labels).save(data / "masks" / f"{number}.png")
        embedding = embedding or sam.encode_image(image)
        cache.save(cache.key(image, sam), embedding)


SECTIONS: dict[str, Callable[[Path], Iterator[Command]]] = {
    "segment": segment,
    "fit": fit,
    "score": score,
}


if __name__ == "__main__":
    main()
