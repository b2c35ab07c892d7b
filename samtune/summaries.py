"""From scores of single objects to what a report says of many: means, intervals, verdicts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from samtune.dataset import Dataset
from samtune.evaluation import ALL_KINDS, ObjectScores, PromptKind, prompts_for
from samtune.metrics import bootstrap_interval
from samtune.prompts import Prompt

SIZES = {"small": 32.0, "medium": 96.0, "large": float("inf")}  # COCO's limits: side of a square


def summarize(
    scores: Sequence[ObjectScores],
    base: Sequence[ObjectScores],
    kind: PromptKind,
    groups: Sequence[int],
) -> dict[str, Any]:
    """Means over the objects that have prompts of a kind, with intervals over images.

    Args:
        scores: of one source, object by object.
        base: of plain SAM.
        kind: which prompts.
        groups: which image each object is in.
    """
    rows = [
        (value, value - before, group)
        for one, plain, group in zip(scores, base, groups, strict=True)
        if (value := one.mean(kind)) is not None and (before := plain.mean(kind)) is not None
    ]
    if not rows:
        return {"objects": 0}
    values, gains, images = (list(column) for column in zip(*rows, strict=True))
    found: dict[str, Any] = {
        "objects": len(rows),
        "iou": float(np.mean(values)),
        "interval": bootstrap_interval(values, images),
        "gain": float(np.mean(gains)),
        "gain_interval": bootstrap_interval(gains, images, least=-1.0),
    }
    for score in ("oracle_iou", "refined_iou", "boundary_iou"):
        known = [one.mean(kind, score) for one in scores]
        present = [value for value in known if value is not None]
        found[score] = float(np.mean(present)) if present else None
    return found


@dataclass(frozen=True)
class Gain:
    """What an adapter wins over plain SAM at the centre click, fractions from -1 to 1.

    Attributes:
        mean: of the objects' differences in IoU.
        interval: where that mean lies with other images, in 95 of 100 cases; None for one image.
    """

    mean: float
    interval: tuple[float, float] | None

    @classmethod
    def over(
        cls,
        base: Sequence[ObjectScores],
        scores: Sequence[ObjectScores],
        groups: Sequence[int],
    ) -> "Gain":
        """Compare scores with plain SAM's on the same objects; groups: each one's image."""
        gains = [center_iou(one) - center_iou(was) for one, was in zip(scores, base, strict=True)]
        return cls(float(np.mean(gains)), bootstrap_interval(gains, groups, least=-1.0))

    @property
    def verdict(self) -> str:
        """Whether it is more than the luck of which images were at hand."""
        if self.interval is None:
            return "too few images to tell"
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def by_size(
    dataset: Dataset, scores: Sequence[ObjectScores], image_size: int
) -> dict[str, dict[str, Any]]:
    """Mean IoU at the centre click of small, medium and large objects."""
    groups: dict[str, list[float]] = {name: [] for name in SIZES}
    for thing, one in zip(dataset.objects, scores, strict=True):
        groups[_size_class(thing.area, thing.size, image_size)].append(center_iou(one))
    return {
        name: {"objects": len(values), "iou": float(np.mean(values)) if values else None}
        for name, values in groups.items()
    }


def by_image(dataset: Dataset, scores: Sequence[Sequence[ObjectScores]]) -> list[dict[str, Any]]:
    """Mean IoU at the centre click of each image, for each source."""
    rows = []
    for index, pair in enumerate(dataset.pairs):
        own = [n for n, thing in enumerate(dataset.objects) if thing.image_index == index]
        means = [float(np.mean([center_iou(one[n]) for n in own])) for one in scores]
        rows.append({"image": pair.image.name, "objects": len(own), "iou": means})
    return rows


def by_object(dataset: Dataset, scores: Sequence[Sequence[ObjectScores]]) -> list[dict[str, Any]]:
    """Every prompt that was tried, and what each source scored with it."""
    rows = []
    position, last = 0, -1
    for number, thing in enumerate(dataset.objects):
        position = position + 1 if thing.image_index == last else 0
        last = thing.image_index
        mask = thing.mask()
        prompts = {}
        for kind in ALL_KINDS:
            tried = prompts_for(mask, kind, thing.image_index, position)
            prompts[kind] = [
                {
                    **_described(prompt),
                    "scores": [asdict(one[number].answers[kind][n]) for one in scores],
                }
                for n, prompt in enumerate(tried)
            ]
        x0, y0, x1, y1 = thing.box
        rows.append(
            {
                "image": dataset.pairs[thing.image_index].image.name,
                "label": thing.label,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": thing.area,
                "prompts": prompts,
            }
        )
    return rows


def center_iou(scores: ObjectScores) -> float:
    """IoU of the mask that the centre click returned."""
    value = scores.mean("center")
    assert value is not None, "every object has a centre"
    return value


def _size_class(area: int, size: tuple[int, int], image_size: int) -> str:
    """Small, medium or large for SAM, which sees the long side scaled to `image_size`."""
    side = float(np.sqrt(area)) * image_size / max(size)
    return next(name for name, limit in SIZES.items() if side < limit)


def _described(prompt: Prompt) -> dict[str, Any]:
    return {
        "points": prompt.points.tolist(),
        "labels": prompt.labels.tolist(),
        "box": None if prompt.box is None else prompt.box.tolist(),
    }
