"""How long a fit will take, from a few of its own steps, and how much disk it needs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from samtune.config import FitConfig
from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.learner import EncodedImages, Learner
from samtune.predictor import Predictor
from samtune.prompts import center_point
from samtune.refiner_fit import LOOKS, fit_refiner, share_of_refining
from samtune.sam import Sam
from samtune.supervision import supervise
from samtune.trials import objects_to_see

_STEPS = 3  # timed, after one that is not
_LOOK_AT = 100  # held-out objects in a look, as in training.py
_EMBEDDING_BYTES = 2 * 2**20  # 256 × 64 × 64 numbers of 16 bits


@dataclass(frozen=True)
class Forecast:
    """What a fit is going to cost.

    Attributes:
        images: whose embeddings it needs.
        to_encode: those of them that are not cached yet.
        encode_seconds: of those.
        train_seconds: of training, of what refining learns, and of scoring.
        disk_bytes: that the cache will grow by.
        cached_bytes: that it holds of these images already.
    """

    images: int
    to_encode: int
    encode_seconds: float
    train_seconds: float
    disk_bytes: int
    cached_bytes: int


def forecast(
    train: Dataset,
    held_out: Dataset | None,
    sam: Sam,
    cache: EmbeddingCache,
    config: FitConfig,
) -> Forecast:
    """Time one image and a few training steps, and multiply.

    Args:
        train: what will be trained on.
        held_out: what will be held out; None where trainings take turns (trials.py).
        sam: the frozen model.
        cache: where embeddings are kept; those of an image or two are added.
        config: the fit's settings.
    """
    few = train.subset(range(min(2, len(train.pairs))))
    shown = train.with_mirror_images() if config.mirror else train
    kept = () if held_out is None else held_out.pairs
    pairs = [*shown.pairs, *kept, *train.some_empty(config.empty_images)]
    scored = len((held_out or train).objects)
    images = [pair.read() for pair in few.pairs]
    encode = _seconds(lambda: sam.encode_image(images[0]))
    keys = [cache.encode(image, sam)[0] for image in images]
    missing = sum(cache.load(cache.key(p.read(), sam), sam) is None for p in pairs)

    rng = np.random.default_rng(0)
    objects = supervise(few.objects, sam.image_size, rng)[:4]
    encoded = EncodedImages(sam, cache, few.pairs, keys)
    total, looks = _objects_and_looks(len(train.objects), held_out, config)
    timed = max(total, (_STEPS + 1) * config.batch_size)  # a learner has no steps beyond its total
    learner = Learner(sam, config, encoded, objects, timed, max(config.first_offsets))
    step = _seconds(learner.train_step)
    look = _seconds(lambda: learner.held_out_iou(objects[:1]))
    embedding = cache.encode(images[0], sam)[1]
    click = [center_point(few.objects[0].mask())]
    answer = _seconds(lambda: Predictor(sam).predict(embedding, click, all_masks=True))
    seconds = step * total / config.batch_size
    seconds += look * looks * min(_LOOK_AT, scored)
    seconds += answer * 2 * scored
    if config.refiner:
        share = share_of_refining(config, len(train.objects))
        once = _seconds(lambda: fit_refiner(sam, encoded, few.objects[:4], config, share=1 / LOOKS))
        seconds += once * LOOKS * share * (2 if held_out is None else 1)
    return Forecast(
        images=len(pairs),
        to_encode=missing,
        encode_seconds=encode * missing,
        train_seconds=seconds,
        disk_bytes=_EMBEDDING_BYTES * missing,
        cached_bytes=_EMBEDDING_BYTES * (len(pairs) - missing),
    )


def _objects_and_looks(count: int, held_out: Dataset | None, config: FitConfig) -> tuple[int, int]:
    """How many objects all steps see, and how often all that is held out is looked at."""
    starts = len(config.few_first_offsets)

    def tried(given: int, *, kept: bool) -> int:
        every = config.few_first_offsets
        return sum(objects_to_see(config, start, given, kept=kept) for start in every)

    if held_out is None:
        parts = [count - count // config.folds] * config.folds
        last = objects_to_see(config, max(config.few_first_offsets), count, kept=True)
        return sum(tried(part, kept=False) for part in parts) + last, starts
    if count < config.few_masks:
        return tried(count, kept=True), starts
    total = config.objects_to_see(count)
    # Each size of the first offset is tried on some objects; only one of the trials counts.
    probe = (len(config.first_offsets) - 1) * min(config.probe_objects, total)
    return total + probe, config.validations


def _seconds(work: Callable[[], object]) -> float:
    """Mean seconds of doing something, the first time left out: it sets things up."""
    work()
    started = time.monotonic()
    for _ in range(_STEPS):
        work()
    return (time.monotonic() - started) / _STEPS
