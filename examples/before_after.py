"""Draw the same click before and after: plain SAM beside an adapter, on held-out objects.

    python examples/before_after.py DATA ADAPTER OUT.png

Three rows, chosen by how much the adapter changed the IoU, so that nobody sees only the best:
the most improved object, the one in the middle, and the least improved.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
    scaled = Image.fromarray(picture).resize((WIDTH, height), Image.Resampling.LANCZOS)
    font = ImageFont.load_default(size=20)
    write = ImageDraw.Draw(scaled).text
    write((10, 8), text, fill="white", font=font, stroke_width=2, stroke_fill="black")
    return np.asarray(scaled)


if __name__ == "__main__":
    main()
