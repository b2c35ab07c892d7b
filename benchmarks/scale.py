"""Measure what docs/scale.md counts with: bytes and seconds for each image, stage by stage.

    pip install zstandard
    python benchmarks/scale.py DATA/plates/val:plates.safetensors DATA/nuclei/val:nuclei.safetensors

Each DATA comes with an adapter that was fitted to such objects. Seconds are those of the processor
in one thread, medians over images. Then embeddings are stored in fewer bytes, and the
masks of centre clicks are compared with those of half precision, as the cache has it.
"""

import argparse
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import zstandard

from samtune.adapter import Adapter
from samtune.checkpoints import resolve
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image, write_mask
from samtune.input_frame import Embedding
from samtune.metrics import iou
from samtune.predictor import Predictor
from samtune.prompts import Prompt, center_point
from samtune.sam import Sam, load_sam

OBJECTS = 2  # of an image, at most

Cells = np.ndarray  # (4096, 256) float32: a row each cell
Result = TypeVar("Result")


@dataclass
class Measured:
    """What was found: seconds of stages, bytes of files, and IoU by store and predictor."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    ious: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, name: str, work: Callable[[], Result]) -> Result:
        """Do something, and note the seconds of the processor."""
        started = time.process_time()
        result = work()
        self.seconds.setdefault(name, []).append(time.process_time() - started)
        return result

    def report(self) -> None:
        """Print three tables."""
        print("| stage | seconds of one core |\n|---|---|")
        for name, seconds in self.seconds.items():
            print(f"| {name} | {statistics.median(seconds):.4f} |")
        print("\n| bytes of | median | mean |\n|---|---|---|")
        for name, count in self.sizes.items():
            print(f"| {name} | {statistics.median(count):,.0f} | {statistics.mean(count):,.0f} |")
        print("\n| embedding, masks | IoU with half precision: mean | 5th percentile | least | n |")
        print("|---|---|---|---|---|")
        for name, values in self.ious.items():
            numbers = np.mean(values), np.percentile(values, 5), min(values)
            print(f"| {name} | {' | '.join(f'{n:.4f}' for n in numbers)} | {len(values)} |")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", metavar="DATA:ADAPTER[:CLASS]")
    parser.add_argument("--images", type=int, default=9, help="of each task")
    parser.add_argument("--encode", type=int, default=2, help="of them, encoded anew")
    options = parser.parse_args()
    measured = Measured()
    for task in options.tasks:
        measure(measured, task, options.images, options.encode)
    measured.report()


def measure(measured: Measured, task: str, images: int, encode: int) -> None:
    """Everything for one data set and its adapter."""
    torch.set_num_threads(1)
    sam, cache = load_sam(resolve("mobile_sam")), EmbeddingCache()
    data, adapter, *chosen = task.split(":")
    dataset = load_dataset(Path(data), class_id=chosen[0] if chosen else None)
    predictors = {
        "plain SAM": Predictor(sam),
        "adapter": Predictor(sam, Adapter.load(Path(adapter), sam)),
    }
    for place, index in enumerate(evenly(len(dataset.pairs), images)):
        path = dataset.pairs[index].image
        image = measured.timed("read and decode the image", partial(read_image, path))
        measured.sizes.setdefault("the image's file", []).append(path.stat().st_size)
        if place < encode:
            measured.timed("encode", partial(sam.encode_image, image))
        _, embedding = cache.encode(image, sam)
        through_disk(measured, image, embedding, sam)
        things = [thing for thing in dataset.objects if thing.image_index == index][:OBJECTS]
        prompts = [center_point(thing.mask()) for thing in things]
        for name, predictor in predictors.items():
            compare(measured, name, predictor, embedding, prompts)
        for name, count in compressed(embedding):
            measured.sizes.setdefault(name, []).append(count)


def evenly(total: int, count: int) -> list[int]:
    """So many of a list, from its start to its end."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(total, count)).round()})


def through_disk(measured: Measured, image: np.ndarray, embedding: Embedding, sam: Sam) -> None:
    """Name, save and load an embedding."""
    with tempfile.TemporaryDirectory() as folder:
        own = EmbeddingCache(Path(folder))
        key = measured.timed("name the embedding (SHA-256)", partial(own.key, image, sam))
        measured.timed("save the embedding", partial(own.save, key, embedding))
        measured.timed("load the embedding", partial(own.load, key, sam))
        measured.sizes.setdefault("the embedding's file", []).append(own.info().bytes)


def compare(
    measured: Measured,
    name: str,
    predictor: Predictor,
    embedding: Embedding,
    prompts: list[Prompt],
) -> None:
    """The masks of an image's objects, from the embedding and from smaller ones."""
    decode = partial(predictor.predict, embedding, prompts[:1])
    first = measured.timed(f"decode a click, {name}", decode)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.png"
        measured.timed("write the mask (PNG)", partial(write_mask, path, first[0].mask))
        measured.sizes.setdefault("the mask's file", []).append(path.stat().st_size)
    expected = [*first, *predictor.predict(embedding, prompts[1:])]
    for store, features in stored(embedding):
        smaller = Embedding(features, embedding.original_size, embedding.input_size)
        for one, other in zip(expected, predictor.predict(smaller, prompts), strict=True):
            found = measured.ious.setdefault(f"{store}, {name}", [])
            found.append(iou(one.mask, other.mask))


def cells_of(embedding: Embedding) -> Cells:
    """The features as a row for each cell, as the cache's files hold them."""
    return embedding.features.float().permute(1, 2, 0).flatten(0, 1).numpy()


def quantized(cells: Cells, axis: int | None, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers of -levels to levels and their scale: one, or one a channel or cell."""
    scale = np.abs(cells).max(axis=axis, keepdims=True) / levels
    scale = np.maximum(scale, 1e-12).astype(np.float16).astype(np.float32)
    return np.clip(np.round(cells / scale), -levels, levels).astype(np.int8), scale


STORES = {
    "int8, one scale": (None, 127),
    "int8, a scale for each cell": (1, 127),
    "int8, a scale for each channel": (0, 127),
    "int4, a scale for each channel": (0, 7),
}


def stored(embedding: Embedding) -> Iterator[tuple[str, torch.Tensor]]:
    """The features after each way of storing them, in half precision."""
    cells = cells_of(embedding)
    shape = embedding.features.shape
    for name, (axis, levels) in STORES.items():
        numbers, scale = quantized(cells, axis, levels)
        back = torch.from_numpy(numbers * scale).half()
        yield name, back.reshape(shape[1], shape[2], shape[0]).permute(2, 0, 1)


def compressed(embedding: Embedding) -> Iterator[tuple[str, int]]:
    """Bytes of half precision and of int8 with a scale for each channel, packed."""
    cells = cells_of(embedding)
    numbers, _ = quantized(cells, 0, 127)
    for name, raw in (("half precision", cells.astype(np.float16)), ("int8", numbers)):
        data = np.ascontiguousarray(raw).tobytes()
        planes = np.frombuffer(data, np.uint8).reshape(-1, raw.itemsize).T.tobytes()
        yield f"{name}, raw", len(data)
        yield f"{name}, deflate 1", len(zlib.compress(data, 1))
        yield f"{name}, zstd 3", len(zstandard.compress(data, 3))
        if raw.itemsize > 1:
            yield f"{name}, high and low bytes apart, zstd 3", len(zstandard.compress(planes, 3))
        channels = np.ascontiguousarray(raw.T).tobytes()
        yield f"{name}, channel by channel, zstd 3", len(zstandard.compress(channels, 3))


if __name__ == "__main__":
    main()
