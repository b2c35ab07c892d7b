"""Every method from a few annotated images, asked without a click.

    python benchmarks/without_clicks.py DATA/face_parts:2 DATA/plates --methods plm vrp -o ROWS

Each folder holds train/, where the images to learn from are drawn, all objects of each, and val/,
which is scored; `:2` names a class id. "first": mean over images of the IoU of the answer to the
adapter's first proposal with the object of the image that it fits best, nothing rejected as absent
(persam.py's protocol). "found": precision, recall and mean IoU of all that the adapter finds by its
own judgement; where images have several objects, each connected part of vrp's mask is one. "click":
mean IoU for one click in the middle of each object. All in percent. One draw is one fit with the
defaults; what the output already has is not done again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from few_shot import load_task, unseen_images

from samtune.adapter import Adapter
from samtune.allocation import keep_freed_memory
from samtune.checkpoints import resolve
from samtune.cli_fit_data import hold_out
from samtune.config import EVERY_OBJECT, FitConfig, VrpConfig
from samtune.console import Terminal
from samtune.dataset import Dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import Scores, encoded_images, score_objects
from samtune.found_scores import score_found
from samtune.metrics import iou
from samtune.predictor import Predictor
from samtune.reference_fit import fit_references
from samtune.sam import Sam, load_sam
from samtune.training import fit
from samtune.vrp_fit import fit_vrp

METHODS = ("persam", "persam-f", "vrp", "plm")


@dataclass(frozen=True)
class Row:
    """One fit and its scores on val/, in percent; None where there is nothing to tell."""

    task: str
    method: str
    images: int
    draw: int
    first: float
    found_iou: float
    found_precision: float | None
    found_recall: float
    click: float | None
    seconds: float


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", help="FOLDER or FOLDER:CLASS, with train/ and val/")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--images", type=int, nargs="+", default=[16], help="to learn from")
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--episodes", type=int, default=VrpConfig.episodes, help="of vrp")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()  # as samtune's commands do
    sam, cache = load_sam(resolve("mobile_sam")), EmbeddingCache()
    kept = arguments.output
    rows = [Row(**json.loads(line)) for line in kept.open()] if kept.exists() else []
    done = {(row.task, row.method, row.images, row.draw) for row in rows}
    fits: dict[str, Callable[[Dataset], Adapter]] = {
        "persam": lambda some: of_references(some, sam, cache, "persam"),
        "persam-f": lambda some: of_references(some, sam, cache, "persam-f"),
        "vrp": lambda some: of_episodes(some, sam, cache, arguments.episodes),
        "plm": lambda some: of_masks(some, sam, cache),
    }
    for text in arguments.tasks:
        task, train, val = load_task(text)
        for method in arguments.methods:
            for images in arguments.images:
                for draw in arguments.draws:
                    if (task, method, images, draw) in done:
                        continue
                    started = time.monotonic()
                    adapter = fits[method](draw_images(train, val, images, draw))
                    seconds = time.monotonic() - started
                    scores = score(adapter, val, sam, cache)
                    rows.append(Row(task, method, images, draw, **scores, seconds=seconds))
                    with kept.open("a") as file:
                        print(json.dumps(asdict(rows[-1])), file=file)
    print(table(rows))


def draw_images(train: Dataset, val: Dataset, count: int, draw: int) -> Dataset:
    """So many images that are not in `val`, with all their objects."""
    order = np.random.default_rng(draw).permutation(unseen_images(train, val))
    return train.subset(order[:count].tolist())


def of_references(some: Dataset, sam: Sam, cache: EmbeddingCache, method: str) -> Adapter:
    """PerSAM or PerSAM-F."""
    made = fit_references(some, sam, cache, method, checkpoint_name=sam.kind)  # type: ignore[arg-type]
    return made.adapter


def of_episodes(some: Dataset, sam: Sam, cache: EmbeddingCache, episodes: int) -> Adapter:
    """VRP, a fifth of the images held out to choose the weights by."""
    config = VrpConfig(episodes=episodes)
    both = split(some, config.val_fraction, config.seed)
    train, held_out = (part.by_class() for part in both)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        made = fit_vrp(
            train, held_out, sam, cache, config, checkpoint_name=sam.kind, state_path=state
        )
    return made.adapter


def of_masks(some: Dataset, sam: Sam, cache: EmbeddingCache) -> Adapter:
    """PLM, which learns where objects are as well."""
    config = FitConfig(auto=True, refiner=False)  # which changes no mask that is not refined
    train, held_out = hold_out(Terminal(quiet=True), some, None, None, None, None, config)
    with tempfile.TemporaryDirectory() as folder:
        made = fit(
            train,
            held_out,
            sam,
            cache,
            config,
            checkpoint_name=sam.kind,
            state_path=Path(folder) / "state",
        )
    return made.adapter


def score(
    adapter: Adapter, val: Dataset, sam: Sam, cache: EmbeddingCache
) -> dict[str, float | None]:
    """The scores of a row."""
    predictor, first = Predictor(sam, adapter), []
    for _, embedding, things in encoded_images(val, sam, cache, None, None):
        prompt = adapter.learned.search(embedding).propose()
        mask = None if prompt is None else predictor.predict(embedding, [prompt])[0].mask
        first.append(0.0 if mask is None else max(iou(mask, thing.mask()) for thing in things))
    of_parts = adapter.info.method != "vrp" or len(val.objects) > len(val.pairs)
    found, click = score_found(val, predictor, cache, EVERY_OBJECT if of_parts else 1), None
    if adapter.info.method == "plm":
        scores = score_objects(val, sam, [predictor], cache, kinds=("center",), boundary=False)
        click = 100 * Scores.mean(scores[0]).iou
    return {
        "first": 100 * float(np.mean(first)),
        **{
            f"found_{name}": None if value is None else 100 * value
            for name, value in asdict(found).items()
        },
        "click": click,
    }


def table(rows: list[Row]) -> str:
    """All fits as Markdown."""
    heads = "task | method | images | draw | first | found: IoU | precision | recall | click | s"
    lines = [f"| {heads} |", "|---" * 10 + "|"]
    for row in sorted(rows, key=lambda one: (one.task, one.method, one.images, one.draw)):
        told = (
            row.first,
            row.found_iou,
            row.found_precision,
            row.found_recall,
            row.click,
            row.seconds,
        )
        cells = ["–" if value is None else f"{value:.1f}" for value in told]
        lines.append(
            f"| {row.task} | {row.method} | {row.images} | {row.draw} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
