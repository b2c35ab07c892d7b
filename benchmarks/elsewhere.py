"""Click on images that show nothing an adapter is for, and count what is said to be its own.

    python benchmarks/elsewhere.py plates.safetensors DATA/plates/val DATA/nuclei/val ...

The first folder holds images and masks of what the adapter is for, the others images of something
else. Eight clicks are drawn anywhere in each image, twelve images of each folder, evenly. "Clicks":
share that has a presence of a half or more; on the adapter's own images, of clicks beside all
objects, and beside it the share of objects whose middle has less. "Images": those where a search
without a click accepts anything, for adapters that search. All in percent.
"""

import argparse
from pathlib import Path

import numpy as np

from samtune.adapter import Adapter
from samtune.checkpoints import resolve
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import encoded_images
from samtune.evenly import evenly
from samtune.finding import can_find, find_objects
from samtune.obedience import PRESENT
from samtune.predictor import Predictor
from samtune.prompts import Prompt, center_point, points_off
from samtune.sam import load_sam

CLICKS, IMAGES = 8, 12


def main() -> None:
    """Parse, click, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=Path)
    parser.add_argument("own", help="FOLDER or FOLDER:CLASS of what it is for")
    parser.add_argument("others", nargs="+", help="folders of something else")
    arguments = parser.parse_args()
    sam = load_sam(resolve("mobile_sam"))
    predictor = Predictor(sam, Adapter.load(arguments.adapter, sam))
    print("| images of | clicks | its own missed | images |")
    print("|---|---|---|---|")
    for text in (arguments.own, *arguments.others):
        cells = click(predictor, text, own=text == arguments.own)
        print(f"| {text} | {' | '.join(cells)} |", flush=True)


def click(predictor: Predictor, text: str, *, own: bool) -> list[str]:
    """A row of the table."""
    folder, _, class_id = text.partition(":")
    dataset = load_dataset(Path(folder), class_id=class_id or None)
    chosen = evenly(range(len(dataset.pairs)), IMAGES)
    said, missed, found = [], [], []
    for index, embedding, things in encoded_images(
        dataset.subset(chosen), predictor.sam, EmbeddingCache(), None, None
    ):
        masks = [thing.mask() for thing in things]
        covered = np.any(masks, axis=0) if own else np.zeros_like(masks[0])
        places = points_off(covered, np.random.default_rng([index, 9]), CLICKS)
        clicks = [Prompt.of([(x, y)]) for x, y in places.tolist()]
        said += predictor.presence(embedding, clicks)
        if own:
            missed += predictor.presence(embedding, [center_point(mask) for mask in masks])
        assert predictor.adapter is not None
        if can_find(predictor.adapter.learned, told_to=True):
            found.append(bool(find_objects(predictor, embedding, 1).objects))
    return [
        percent([one >= PRESENT for one in said if one is not None]),
        percent([one < PRESENT for one in missed if one is not None]),
        percent(found),
    ]


def percent(values: list[bool]) -> str:
    """Their share; a dash where there are none."""
    return f"{100 * np.mean(values):.1f}" if values else "–"


if __name__ == "__main__":
    main()
