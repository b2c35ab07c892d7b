"""What the report says of the data and of the adapters: what was trained on what."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from samtune.adapter import AdapterInfo
from samtune.curves import Curves, Start, first_best
from samtune.dataset import Dataset, split
from samtune.errors import DatasetError
from samtune.predictor import Predictor
from samtune.turns import Turns


def about_data(dataset: Dataset) -> dict[str, Any]:
    """What is evaluated, and what of the folder is not."""
    return {
        "folder": str(dataset.folder),
        "images": len(dataset.pairs),
        "objects": len(dataset.objects),
        "left_out": [f"{one.path.name}: {one.reason}" for one in dataset.skipped],
        "one_object_is": dataset.reading.meaning,
        "class_id": dataset.reading.class_id,
        "note": dataset.reading.note,
        "sha256": dataset.fingerprint(),
    }


def about_adapter(
    name: str, file: Path, predictor: Predictor, dataset: Dataset, turns: Turns | None
) -> dict[str, Any]:
    """What an adapter says about its training, and how many of these images were in it.

    Where trainings took turns in answering for it, none was in that of the one who answered.
    """
    adapter = predictor.adapter
    assert adapter is not None, "who has a file has an adapter"
    return {
        "name": name,
        "file": str(file),
        "turns": 0 if turns is None else turns.count,
        "images_seen_in_training": 0 if turns else images_seen(adapter.info, dataset),
        **asdict(adapter.info),
    }


def images_seen(info: AdapterInfo, dataset: Dataset) -> int:
    """How many images of a data set an adapter is known to have learned from.

    An adapter keeps one hash of all that it learned from. So it is known for these very files,
    and for the folder that `fit` parted into training and held-out images; of other overlaps
    nothing is known, and 0 is no promise.

    Args:
        info: the adapter's description.
        dataset: what it is evaluated on.
    """
    trained_on = info.data.get("sha256")
    if dataset.fingerprint() == trained_on:
        return len(dataset.pairs)
    fraction, seed = info.settings.get("val_fraction"), info.settings.get("seed")
    if not (isinstance(fraction, float) and isinstance(seed, int)):  # a method that trains nothing
        return 0
    if not 0 < fraction < 1 or seed < 0:
        return 0
    try:
        train, _ = split(dataset, fraction, seed)
    except DatasetError:  # one image alone cannot be parted
        return 0
    return len(train.pairs) if train.fingerprint() == trained_on else 0


def about_training(curves: Curves) -> dict[str, Any]:
    """How a training went; `kept` is the position of the look whose weights were kept, if any."""
    return {
        **asdict(curves),
        "chosen": _finite(curves.chosen),
        "given_up": [_finite(start) for start in curves.given_up],
        "kept": first_best(curves.looks) if curves.looks else None,
    }


def _finite(start: Start) -> dict[str, Any]:
    """A start's numbers; JSON has no word for the loss of a training that burst."""
    losses = [loss if math.isfinite(loss) else None for loss in start.losses]
    return {**asdict(start), "losses": losses}
