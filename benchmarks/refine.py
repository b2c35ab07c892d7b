"""Refine masks that are off by a known amount, and print how near they come.

    python benchmarks/refine.py DATA/plates/val plates.safetensors [--class 4] [--objects 60]

The folder holds images/ and masks/. Each true mask is grown or shrunk by a share of its size (the
square root of its box's area), drawn with 10 pixels across, or left as it is; then `samtune
refine` gets it. "own" is the adapter's mask for a click in the middle, refined as by `segment
--refine`. Scores are means over objects, in percent.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from samtune.adapter import Adapter
from samtune.checkpoints import resolve
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evenly import evenly
from samtune.metrics import boundary_iou, iou
from samtune.polygons import polygons_to_mask
from samtune.predictor import Predictor
from samtune.prompts import box_around, center_point
from samtune.refinement import ROUNDS
from samtune.sam import load_sam

Mask = NDArray[np.bool_]


def size(mask: Mask) -> float:
    """The square root of the area of a mask's box, pixels."""
    x0, y0, x1, y1 = box_around(mask)
    return float(np.sqrt((x1 - x0) * (y1 - y0)))


def grown(share: float) -> Callable[[Mask], Mask]:
    """Grow masks by a share of their size; a negative one shrinks them."""

    def grow(mask: Mask) -> Mask:
        radius = max(1, round(abs(share) * size(mask)))
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        change = cv2.dilate if share > 0 else cv2.erode
        return np.asarray(change(np.pad(mask.astype(np.uint8), 1), disk)[1:-1, 1:-1] > 0)

    return grow


def downsampled(mask: Mask) -> Mask:
    """Draw a mask with about 10 pixels across."""
    factor = max(2.0, size(mask) / 10)
    height, width = mask.shape
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    shares = cv2.resize(mask.astype(np.uint8) * 255, small, interpolation=cv2.INTER_AREA)
    drawn = (shares > 127).astype(np.uint8)
    return np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_NEAREST) > 0)


COARSE: dict[str, Callable[[Mask], Mask]] = {
    **{f"grown by {share} %": grown(share / 100) for share in (2, 4, 6)},
    **{f"shrunk by {share} %": grown(-share / 100) for share in (2, 4, 6)},
    "10 pixels across": downsampled,
    "exact": lambda mask: mask,
}


def main() -> None:
    """Parse, refine, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder with images/ and masks/")
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--class", dest="class_id", type=int)
    parser.add_argument("--objects", type=int, default=60, help="how many, evenly spread")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()

    sam, cache = load_sam(resolve("mobile_sam")), EmbeddingCache()
    predictor = Predictor(sam, Adapter.load(arguments.adapter, sam))
    dataset = load_dataset(arguments.data, class_id=arguments.class_id)
    scores: dict[str, list[list[float]]] = {}
    for thing in evenly(dataset.objects, arguments.objects):
        target = thing.mask()
        image = dataset.pairs[thing.image_index].read()
        _, embedding = cache.encode(image, sam)
        for name, make in COARSE.items():
            coarse = make(target)
            if not coarse.any():
                continue
            polygons = predictor.refine_mask(embedding, coarse, arguments.rounds)
            refined = polygons_to_mask(polygons, coarse.shape)
            scores.setdefault(name, []).append(score(coarse, refined, target))
        (own,) = predictor.predict(embedding, [center_point(target)], refine=True)
        assert own.refined is not None
        scores.setdefault("own", []).append(score(own.mask, own.refined, target))
    print(f"{len(scores['own'])} objects of {arguments.data}, {arguments.rounds} rounds")
    print(table({name: np.mean(values, axis=0).tolist() for name, values in scores.items()}))


def score(before: Mask, after: Mask, target: Mask) -> list[float]:
    """IoU and Boundary IoU of a mask before and after."""
    return [measure(mask, target) for measure in (iou, boundary_iou) for mask in (before, after)]


def table(means: dict[str, list[float]]) -> str:
    """The means as Markdown, and the mean over the coarse masks below them."""
    coarse = [values for name, values in means.items() if name not in ("exact", "own")]
    rows = {**means, "mean of the coarse": np.mean(coarse, axis=0).tolist()}
    lines = ["| mask | IoU | refined | Boundary IoU | refined |", "|---|---|---|---|---|"]
    for name, values in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
