"""fit_vrp(): train the visual reference prompt encoder on a data set while SAM stays frozen.

As training.py does for the PLM: images are encoded once, into the cache; a learner takes one step
after another (vrp_learner.py), with looks at held-out targets in between (run.py); the best weights
are kept and scored on all that is held out, without clicks. An adapter of one class carries the
digest of references of its own.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.config import VrpConfig
from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.encoding import encode_all
from samtune.errors import DatasetError
from samtune.evaluation import Scores, score_objects
from samtune.found_scores import FoundScores, score_found
from samtune.learner import EncodedImages
from samtune.precision import settled
from samtune.predictor import Predictor
from samtune.processes import ALONE
from samtune.resume import read_state, write_state
from samtune.run import Progress, Run
from samtune.sam import Sam
from samtune.specks import least_part
from samtune.supervision import supervise
from samtune.targets import LEAST_SHARE
from samtune.vrp_learner import Target, VrpLearner

_TIMED = 20  # episodes, after which a training is planned to end in time


@dataclass(frozen=True)
class VrpFit:
    """A trained adapter and how it came about.

    Attributes:
        adapter: the best weights, with their description.
        base: held-out scores of plain SAM, with a click on each target.
        found: held-out scores of the adapter without clicks, by class.
        left_out: training targets that are too small for a cell of SAM's.
        episodes_per_second: in training, looks left out.
        seconds: of the phases "encode" and "train", and "total".
        curve: (episodes, held-out IoU) at each look.
        stopped: why training ended: "finished", "no progress", "time".
    """

    adapter: Adapter
    base: Scores
    found: dict[int, FoundScores]
    left_out: int
    episodes_per_second: float
    seconds: dict[str, float]
    curve: tuple[tuple[int, float], ...]
    stopped: str


def fit_vrp(
    train: Dataset,
    val: Dataset,
    sam: Sam,
    cache: EmbeddingCache,
    config: VrpConfig,
    *,
    checkpoint_name: str,
    state_path: Path,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> VrpFit:
    """Train an adapter.

    Args:
        train: what to learn from, all of a class in an image one object (`Dataset.by_class`).
        val: what is held out, likewise; no image is in both, no class only here.
        sam: the frozen model.
        cache: where embeddings are kept.
        config: the settings.
        checkpoint_name: what the base is called, for the adapter's description.
        state_path: where to keep what `resume` needs; it stays, as with `training.fit`.
        resume: go on from `state_path` if it is there.
        on_progress: told what happens.

    Returns:
        The adapter and its scores.

    Raises:
        DatasetError: no class is in two training images, or none of them is held out.
        SamtuneError: a file cannot be read or written, or the state belongs to another fit.
    """
    started = time.monotonic()
    config = replace(config, precision=settled(config.precision, sam.device))
    keys = encode_all([*train.pairs, *val.pairs], sam, cache, ALONE, on_progress)
    images = EncodedImages(sam, cache, [*train.pairs, *val.pairs], keys)
    encoded = time.monotonic()
    rng = np.random.default_rng([config.seed, 1])
    there = supervised_targets(train, sam, rng)
    targets = _learnable(train, there)
    classes = sorted({one.label for one in targets})
    held_out = [
        one
        for one in supervised_targets(val, sam, rng, first=len(train.pairs))
        if one.label in classes
    ]
    if not held_out:
        raise DatasetError(
            f"nothing that is learned of {train.folder} is held out: hold out other images "
            "(--val, --val-fraction), or learn other classes."
        )
    total = config.episodes if config.epochs is None else config.epochs * len(targets)
    run = Run(
        config,
        lambda _: VrpLearner(sam, config, images, targets, total),
        held_out,
        total,
        probe_objects=_TIMED if config.max_minutes else 0,
        look_at=config.look_at,
    )
    identity = {
        "settings": asdict(config),
        "base": sam.decoder_fingerprint,
        "encoder": sam.encoder_fingerprint,
        "train": train.fingerprint_in_order(),
        "val": val.fingerprint_in_order(),
        "classes": classes,
    }
    if resume and state_path.is_file():
        run.restore(read_state(state_path, identity))
    stopped = run.train(on_progress, lambda: write_state(state_path, identity, run.state()))
    run.learner.average.load_state_dict(run.best)
    trained = time.monotonic()

    learner = run.learner
    own = classes[0] if len(classes) == 1 else None
    info = AdapterInfo(
        method=config.method,
        base=Base.of(sam, checkpoint_name),
        settings=asdict(config),
        data={
            "train_images": len(train.pairs),
            "train_objects": len(targets),
            "val_images": len(val.pairs),
            "val_objects": len(held_out),
            "classes": len(classes),
            "references": 0 if own is None else len(learner.references(own)),
            "episodes_seen": learner.seen,
            "sha256": train.fingerprint(),
        },
        least_part=least_part(one.supervision.on_object() for one in targets),
    )
    base, found = _score(val.by_class(classes), sam, cache, info, learner, on_progress)
    info = replace(
        info, scores={"base_iou": base.iou, "base_oracle_iou": base.oracle_iou, **_mean(found)}
    )
    ended = time.monotonic()
    return VrpFit(
        adapter=Adapter(info, learner.method(own)),
        base=base,
        found={label: scores for label, (scores, _) in found.items()},
        left_out=len(train.objects) - len(there),
        episodes_per_second=run.objects_per_second,
        seconds={
            "encode": encoded - started,
            "train": trained - encoded,
            "total": ended - started,
        },
        curve=tuple(run.curve),
        stopped=stopped,
    )


def supervised_targets(
    dataset: Dataset, sam: Sam, rng: np.random.Generator, first: int = 0
) -> list[Target]:
    """What a data set's objects teach, but for those that leave no trace in the grid.

    Args:
        dataset: all of a class in an image is one object.
        sam: the frozen model.
        rng: draws clicks.
        first: number of its first image.
    """
    supervised = supervise(dataset.objects, sam.image_size, rng)
    return [
        Target(thing.label, replace(one, image_index=one.image_index + first))
        for thing, one in zip(dataset.objects, supervised, strict=True)
        if one.inner_shares().max() >= LEAST_SHARE
    ]


def _learnable(dataset: Dataset, targets: list[Target]) -> list[Target]:
    """Those of classes in two images or more: one is the reference, another the target."""
    images = Counter(one.label for one in targets)
    kept = [one for one in targets if images[one.label] > 1]
    if not kept:
        raise DatasetError(
            f"{dataset.folder} has no class in two images to train on, one as the reference of the "
            "other: add images, or take --method persam, for which one is enough."
        )
    return kept


def _score(
    val: Dataset,
    sam: Sam,
    cache: EmbeddingCache,
    info: AdapterInfo,
    learner: VrpLearner,
    on_progress: Callable[[Progress], None],
) -> tuple[Scores, dict[int, tuple[FoundScores, int]]]:
    """Plain SAM with clicks, and what is found of each class without, of how many."""

    def tell(done: int, total: int) -> None:
        on_progress(Progress("score", done, total))

    (base,) = score_objects(
        val, sam, [Predictor(sam)], cache, kinds=("center",), boundary=False, on_progress=tell
    )
    found = {}
    for label in sorted({thing.label for thing in val.objects}):
        of_class = val.by_class([label])
        predictor = Predictor(sam, Adapter(info, learner.method(label)))
        scores = score_found(of_class, predictor, cache, on_progress=tell)
        found[label] = scores, len(of_class.objects)
    return Scores.mean(base), found


def _mean(found: dict[int, tuple[FoundScores, int]]) -> dict[str, float]:
    """Over all objects."""
    iou, recall = (
        float(np.average([getattr(one, name) for one, _ in found.values()], weights=counts))
        for name, counts in (
            (name, [count for _, count in found.values()]) for name in ("iou", "recall")
        )
    )
    return {"found_iou": iou, "found_recall": recall}
