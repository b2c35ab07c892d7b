"""Draw the same click before and after: plain SAM beside an adapter, on held-out objects.

    python examples/before_after.py DATA ADAPTER OUT.png

Three rows, chosen by how much the adapter changed the IoU, so that nobody sees only the best:
the most improved object, the one in the middle, and the least improved.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from samtune.adapter import Adapter
from samtune.checkpoints import resolve
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image, write_image
from samtune.metrics import iou
from samtune.overlay import draw_overlay
from samtune.predictor import Predictor
from samtune.prompts import center_point
from samtune.sam import load_sam

WIDTH = 480  # pixels of one picture


def main() -> None:
    """Parse, segment, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    sam = load_sam(resolve("mobile_sam"))
    cache = EmbeddingCache()
    predictors = [Predictor(sam), Predictor(sam, Adapter.load(arguments.adapter, sam))]
    dataset = load_dataset(arguments.data)
    tried = []
    for thing in dataset.objects:
        image = read_image(dataset.pairs[thing.image_index].image)
        target = thing.mask()
        prompt = center_point(target)
        _, embedding = cache.encode(image, sam)
        masks = [predictor.predict(embedding, [prompt])[0].mask for predictor in predictors]
        before, after = (iou(mask, target) for mask in masks)
        tried.append((after - before, len(tried), image, prompt, masks, (before, after)))
    tried.sort(key=lambda one: one[:2])
    rows = [
        np.hstack(
            [
                labelled(draw_overlay(image, [mask], [prompt]), f"{name}  IoU {100 * score:.0f}")
                for name, mask, score in zip(("SAM", "adapter"), masks, scores, strict=True)
            ]
        )
        for _, _, image, prompt, masks, scores in (tried[-1], tried[len(tried) // 2], tried[0])
    ]
    write_image(arguments.out, np.vstack(rows))


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """Scale a picture (H, W, 3) to WIDTH and write a line into its upper left corner."""
    height = round(picture.shape[0] * WIDTH / picture.shape[1])
    picture = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            picture, text, (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, thickness, cv2.LINE_AA
        )
    return picture


if __name__ == "__main__":
    main()
