"""PerSAM step by step, and with more references, without clicks.

    python benchmarks/persam.py DATA/face_parts:2 DATA/plates [--draws 3] > tables.md

Each folder holds train/, where references are drawn from, and val/, which is scored; `:2` names a
class id. An image's score is the IoU of the one mask that is returned with the object that it fits
best, in percent; nothing is rejected as absent. Embeddings are cached: this is decoding alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
from few_shot import load_task, unseen_images

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.checkpoints import resolve
from samtune.config import PARTS, Part
from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.found_scores import score_found
from samtune.metrics import iou
from samtune.persam import Persam
from samtune.predictor import Predictor
from samtune.reference_fit import ReferenceFit, fit_references
from samtune.sam import Sam, load_sam
from samtune.targets import Direction

COUNTS = (1, 4, 16)  # references
LADDER: tuple[tuple[str, tuple[Part, ...]], ...] = tuple(  # what is still left out
    (name, PARTS[first:])
    for first, name in enumerate(
        (
            "positive point",
            "+ negative",
            "+ cascade, the paper's",
            "+ agreement",
            "+ guided attention",
            "+ semantic prompt",
        ),
        1,
    )
)


class Task:
    """A folder's references and scored images."""

    def __init__(self, text: str, sam: Sam, cache: EmbeddingCache, most: int) -> None:
        self.name, self.train, self.val = load_task(text)
        self.sam, self.cache = sam, cache
        count = len(self.val.pairs)
        evenly = np.linspace(0, count - 1, min(count, most)).round().astype(int)
        self.val = self.val.subset(evenly.tolist())

    def fit(self, count: int, draw: int, method: str, without: tuple[Part, ...]) -> ReferenceFit:
        """An adapter of some references, none of which is scored."""
        images = unseen_images(self.train, self.val)
        drawn = np.random.default_rng(draw).permutation(images)[:count].tolist()
        return fit_references(
            self.train.subset(drawn),
            self.sam,
            self.cache,
            method,  # type: ignore[arg-type]
            checkpoint_name=self.sam.kind,
            without=without,
        )

    def score(self, learned: Persam, method: str) -> float:
        """Mean over the images of the IoU with the object that the mask fits best."""
        adapter = Adapter(AdapterInfo(method, Base.of(self.sam, self.sam.kind)), learned)
        predictor, scores = Predictor(self.sam, adapter), []
        for index, pair in enumerate(self.val.pairs):
            _, embedding = self.cache.encode(pair.read(), self.sam)
            prompt = learned.search(embedding).propose()
            assert prompt is not None
            (answer,) = predictor.predict(embedding, [prompt])
            scores.append(max(iou(answer.mask, target) for target in targets(self.val, index)))
        return float(np.mean(scores))


def targets(dataset: Dataset, index: int) -> list[np.ndarray]:
    """The masks of an image's objects."""
    return [thing.mask() for thing in dataset.objects if thing.image_index == index]


def rewired(fitted: ReferenceFit, without: Iterable[Part]) -> Persam:
    """The same target and directions with other parts left out."""
    old = fitted.adapter.learned
    assert isinstance(old, Persam)
    where, what = (
        Direction(vector, float(offset))
        for vector, offset in zip(old.directions.numpy(), old.offsets, strict=True)
    )
    return Persam(old.target.numpy(), where, what, tuple(without)).eval().requires_grad_(False)


def ladder(tasks: list[Task], draws: int) -> None:
    """One part after another, with the paper's cosine and against the background."""
    rows: dict[str, dict[str, float]] = {}
    for background in (False, True):
        left_out: tuple[Part, ...] = () if background else ("background",)
        for name, without in LADDER:
            row = f"{name}{', background' if background else ''}"
            rows[row] = {}
            for task in tasks:
                fits = [task.fit(1, draw, "persam", left_out) for draw in range(draws)]
                found = [task.score(rewired(one, without), "persam") for one in fits]
                rows[row][task.name] = float(np.mean(found))
                tell(row, task.name, rows[row][task.name])
    show("one reference", rows)


def methods(tasks: list[Task], draws: int) -> None:
    """PerSAM and PerSAM-F with more references."""
    rows: dict[str, dict[str, float]] = {}
    choices: list[tuple[str, str, tuple[Part, ...]]] = [
        ("persam, cosine", "persam", ("background",)),
        ("persam", "persam", ()),
        ("persam-f", "persam-f", ()),
    ]
    for label, method, without in choices:
        for count in COUNTS:
            row = f"{label}, {count}"
            rows[row] = {}
            for task in tasks:
                tried = range(draws if count == 1 else 1)
                fits = [task.fit(count, draw, method, without) for draw in tried]
                found = [task.score(one.adapter.learned, method) for one in fits]  # type: ignore[arg-type]
                rows[row][task.name] = float(np.mean(found))
                tell(row, task.name, rows[row][task.name])
    show("method, references", rows)


def found(tasks: list[Task], most: int) -> None:
    """Several objects an image, with the stop: precision, recall, mean IoU."""
    print(
        "| task | method | precision | recall | mean IoU | s an image |\n|---|---|---|---|---|---|"
    )
    for task in tasks:
        for method in ("persam", "persam-f"):
            fitted, started = task.fit(16, 0, method, ()), time.monotonic()
            scores = score_found(task.val, Predictor(task.sam, fitted.adapter), task.cache, most)
            seconds = (time.monotonic() - started) / len(task.val.pairs)
            numbers = (scores.precision or 0.0, scores.recall, scores.iou)
            cells = " | ".join(f"{100 * one:.1f}" for one in numbers)
            print(f"| {task.name} | {method} | {cells} | {seconds:.1f} |", flush=True)


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print rows of a task a column, and their mean, as Markdown."""
    names = list(next(iter(rows.values())))
    print(f"\n| {title} | {' | '.join(names)} | mean |\n|{'---|' * (len(names) + 2)}")
    for row, of in rows.items():
        cells = [f"{100 * value:.1f}" for value in (*of.values(), float(np.mean([*of.values()])))]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


def tell(*words: object) -> None:
    """Progress."""
    print(*words, file=sys.stderr, flush=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", help="FOLDER or FOLDER:CLASS, with train/ and val/")
    parser.add_argument("--draws", type=int, default=3, help="single references that are averaged")
    parser.add_argument("--only", choices=("ladder", "methods", "found"))
    parser.add_argument("--max-objects", type=int, default=5, help="in an image, for found")
    parser.add_argument("--images", type=int, default=1000, help="of each val/, evenly, at most")
    arguments = parser.parse_args()
    sam, cache = load_sam(resolve("mobile_sam")), EmbeddingCache()
    tasks = [Task(text, sam, cache, arguments.images) for text in arguments.tasks]
    parts: dict[str, Callable[[], None]] = {
        "ladder": lambda: ladder(tasks, arguments.draws),
        "methods": lambda: methods(tasks, arguments.draws),
        "found": lambda: found(tasks, arguments.max_objects),
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            part()


if __name__ == "__main__":
    main()
