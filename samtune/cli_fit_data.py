"""What `samtune fit` reads: what to learn from, and what is held out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.cli_inputs import read_data
from samtune.config import FitConfig
from samtune.console import Terminal
from samtune.errors import DatasetError
from samtune.words import count

if TYPE_CHECKING:
    from samtune.dataset import Dataset
    from samtune.masks import Meaning


def read_references(
    terminal: Terminal,
    data: Path,
    val: Path | None,
    val_fraction: float | None,
    class_id: str | None,
    objects: "Meaning | None",
    images: Path | None,
    config: FitConfig,
) -> tuple["Dataset", "Dataset | None"]:
    """Read references, and what is held out if that was asked for: one image may be all."""
    if val is not None or val_fraction is not None:
        return read_train_and_held_out(
            terminal, data, val, val_fraction, class_id, objects, images, config
        )
    return read_data(terminal, data, class_id, objects, images), None


def read_train_and_held_out(
    terminal: Terminal,
    data: Path,
    val: Path | None,
    val_fraction: float | None,
    class_id: str | None,
    objects: "Meaning | None",
    images: Path | None,
    config: FitConfig,
) -> tuple["Dataset", "Dataset | None"]:
    """Read what to train on and what is held out, and say what was found.

    What is held out is None where it would be too few objects to tell anything, and nobody asked
    for a share: trainings take turns then. Of one image alone it is the mirror image.
    """
    dataset = read_data(terminal, data, class_id, objects, images)
    train, held_out = hold_out(terminal, dataset, val, val_fraction, class_id, images, config)
    terminal.say(f"training on {in_words(train)}; {held_out_in_words(train, held_out, config)}")
    return train, held_out


def hold_out(
    terminal: Terminal,
    dataset: "Dataset",
    val: Path | None,
    val_fraction: float | None,
    class_id: str | None,
    images: Path | None,
    config: FitConfig,
) -> tuple["Dataset", "Dataset | None"]:
    """Tell what to train on from what to hold out, as `read_train_and_held_out`."""
    from samtune.dataset import split

    if val is not None:
        # Held-out masks mean what the training masks mean, whatever numbers happen to be in them.
        held_out = read_data(terminal, val, class_id, dataset.reading.meaning, images)
        return leave_copies_out(terminal, dataset, held_out), held_out
    if val_fraction is None and dataset.has_one_image and not config.mirror:
        return dataset, dataset.in_a_mirror()
    train, held_out = split(dataset, config.val_fraction, config.seed)
    if val_fraction is None and len(held_out.objects) < config.fewest_held_out:
        return dataset, None
    return train, held_out


def in_words(dataset: "Dataset") -> str:
    """How many images and objects."""
    return f"{count(len(dataset.pairs), 'image')} with {count(len(dataset.objects), 'object')}"


def held_out_in_words(train: "Dataset", held_out: "Dataset | None", config: FitConfig) -> str:
    """What a fit holds out."""
    if held_out is not None and held_out.is_mirrored:
        return "held out, for want of others: the mirror image, which tells little of other images"
    if held_out is not None:
        return f"held out: {in_words(held_out)}"
    parts = min(config.folds, len(train.pairs))
    return f"these are few, so {parts} parts of them take turns in being held out"


def empty_in_words(images: int, *, auto: bool = False) -> str:
    """What a fit learns from images without an object."""
    who = "the presence and what finds objects also learn" if auto else "the presence also learns"
    return f"{who} from {count(images, 'image')} without an object"


def leave_copies_out(terminal: Terminal, dataset: "Dataset", held_out: "Dataset") -> "Dataset":
    """Leave copies of held-out images out of training: their scores would tell nothing.

    Raises:
        DatasetError: nothing would be left.
    """
    from samtune.mask_files import sha256_of

    unseen = {image for image, _ in held_out.digests}
    unseen |= {sha256_of(one.image) for one in held_out.empty}
    kept = [index for index, (image, _) in enumerate(dataset.digests) if image not in unseen]
    left = dataset.subset(kept)
    empty = tuple(one for one in dataset.empty if sha256_of(one.image) not in unseen)
    all_left = {*left.pairs, *empty}
    copies = [one for one in (*dataset.pairs, *dataset.empty) if one not in all_left]
    if not copies:
        return dataset
    if not kept:
        raise DatasetError(
            f"every image of {dataset.folder} is also in {held_out.folder}, so that nothing is "
            "left to train on: held-out images must be others. Leave out --val to hold some out."
        )
    terminal.say(
        f"  left out of training: {count(len(copies), 'image')} (first: {copies[0].image.name}), "
        f"also held out in {held_out.folder}"
    )
    return replace(left, empty=empty)
