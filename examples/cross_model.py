"""Use an adapter on a thing that it was not trained for, and see what happens.

    python examples/cross_model.py ADAPTER TRAINED[:CLASS] OTHER[:CLASS]

The cross-model test of Kim et al. 2024 (https://arxiv.org/abs/2403.09199, figure 6). TRAINED holds
images and masks of what the adapter was trained for, OTHER of something else; `:CLASS` is the
--class of `samtune fit`. Each object is clicked in its middle, and plain SAM and the adapter
answer. Does the adapter segment the other thing as well, return its own thing instead, or say that
what was clicked is none of its own? Needs the images of OTHER in TRAINED, too, to tell the second.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from samtune.adapter import Adapter
from samtune.checkpoints import resolve
from samtune.dataset import Dataset, load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import encoded_images
from samtune.metrics import iou
from samtune.obedience import FALSE_IOU, PRESENT
from samtune.predictor import Predictor
from samtune.prompts import center_point
from samtune.sam import load_sam

Things = dict[str, list[np.ndarray]]  # by image (its SHA-256): (H, W) bool masks


@dataclass
class Answers:
    """What one model answers to clicks on one kind of thing.

    Attributes:
        ious: of the masks with the objects that were clicked.
        instead: whether each mask is of a thing of the other kind, where the image shows one.
        present: whether each click is said to be on a thing that the adapter knows.
    """

    ious: list[float] = field(default_factory=list)
    instead: list[bool] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)


def main() -> None:
    """Parse, click, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", type=Path)
    parser.add_argument("trained", help="FOLDER or FOLDER:CLASS of what it was trained for")
    parser.add_argument("other", help="FOLDER or FOLDER:CLASS of something else")
    arguments = parser.parse_args()

    sam = load_sam(resolve("mobile_sam"))
    predictors = [Predictor(sam), Predictor(sam, Adapter.load(arguments.adapter, sam))]
    trained, other = read(arguments.trained), read(arguments.other)
    print("| clicks on | answered by | IoU | the other thing instead | said to be its own |")
    print("|---|---|---|---|---|")
    for name, clicked, beside in (
        (arguments.trained, trained, other),
        (arguments.other, other, trained),
    ):
        for who, answers in zip(
            ("plain SAM", "the adapter"), click_all(clicked, beside, predictors), strict=True
        ):
            cells = (answers.ious, answers.instead, answers.present)
            print(f"| {name} | {who} | {' | '.join(map(percent, cells))} |")
    folder, _, number = arguments.other.partition(":")
    words = f"{folder} --class {number}" if number else folder
    print(f"\nto look at: samtune evaluate {words} -a {arguments.adapter} --report cross_model")


def read(text: str) -> Dataset:
    """The data set that FOLDER or FOLDER:CLASS names."""
    folder, _, class_id = text.partition(":")
    return load_dataset(Path(folder), class_id=class_id or None)


def click_all(clicked: Dataset, beside: Dataset, predictors: Sequence[Predictor]) -> list[Answers]:
    """Click in the middle of each object.

    Args:
        clicked: the objects.
        beside: those of the other kind, in the same images or in others.
        predictors: who answers.

    Returns:
        What each of them answers.
    """
    found = [Answers() for _ in predictors]
    others = things_by_image(beside)
    cache, sam = EmbeddingCache(), predictors[0].sam
    for index, embedding, things in encoded_images(clicked, sam, cache, None, None):
        around = others.get(clicked.digests[index][0], [])
        targets = [thing.mask() for thing in things]
        clicks = [center_point(target) for target in targets]
        for answers, predictor in zip(found, predictors, strict=True):
            for target, answer in zip(targets, predictor.predict(embedding, clicks), strict=True):
                answers.ious.append(iou(answer.mask, target))
                if around:
                    likest = max(iou(answer.mask, one) for one in around)
                    answers.instead.append(likest > FALSE_IOU)
                if answer.presence is not None:
                    answers.present.append(answer.presence >= PRESENT)
    return found


def things_by_image(dataset: Dataset) -> Things:
    """The masks of each image."""
    things: Things = {}
    for thing in dataset.objects:
        things.setdefault(dataset.digests[thing.image_index][0], []).append(thing.mask())
    return things


def percent(values: Sequence[float]) -> str:
    """Their mean in percent; a dash where there are none."""
    return f"{100 * np.mean(values):.1f}" if values else "–"


if __name__ == "__main__":
    main()
