"""fit(): train an adapter on a data set while SAM stays frozen.

Images are encoded once, into the cache. Then a learner takes one step after another (learner.py),
with looks at the held-out objects in between (run.py); few masks get several short trainings
(trials.py). The best weights are kept, a head that tells clicks on objects from others is fitted
(presence_fit.py), where that is asked for a map of where objects are (object_map_fit.py), and at
the end all is scored beside plain SAM. A callback is told what happens. Several processes do this
together (processes.py).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.coarse_scores import CoarseScores, score_coarse
from samtune.config import EVERY_OBJECT, FitConfig
from samtune.curves import Curves
from samtune.dataset import Dataset, folds
from samtune.embeddings import EmbeddingCache
from samtune.encoding import encode_all
from samtune.errors import SamtuneError
from samtune.evaluation import ObjectScores, Scores, score_objects
from samtune.found_scores import FoundScores, score_found
from samtune.learner import EncodedImages
from samtune.object_map import ObjectMap
from samtune.object_map_fit import calibrate, fit_object_maps, for_the_judge
from samtune.precision import settled
from samtune.predictor import Predictor
from samtune.presence_fit import fit_presence
from samtune.processes import ALONE, Processes
from samtune.refiner_fit import fit_refiners
from samtune.resume import read_state, write_state
from samtune.run import Progress
from samtune.sam import Sam
from samtune.specks import least_part
from samtune.summaries import Gain
from samtune.supervision import Supervision, supervise
from samtune.training_run import TrainingRun
from samtune.trials import Split, Trials
from samtune.turns import Answering, Turns


@dataclass(frozen=True)
class FitResult:
    """A trained adapter and how it came about.

    Attributes:
        adapter: the best weights, with their description.
        base: held-out scores of plain SAM.
        adapted: held-out scores of the adapter, refined ones included.
        coarse: held-out scores of masks that are off, refined; None where it cannot refine.
        found: what it finds on held-out images by itself, those that its judgement was set on
            among them; None where it did not learn to.
        gain: of the adapter over plain SAM, with its interval.
        turns: the trainings that took turns in holding images out, so that each object was scored
            by one that had not seen it; None where objects were held out for good.
        objects_per_second: in training, validation left out.
        seconds: of the phases "encode" and "train", and "total".
        curves: how the training went, step by step.
    """

    adapter: Adapter
    base: Scores
    adapted: Scores
    coarse: CoarseScores | None
    found: FoundScores | None
    gain: Gain
    turns: Turns | None
    objects_per_second: float
    seconds: dict[str, float]
    curves: Curves

    @property
    def folds(self) -> int:
        """How many trainings took turns; 0 where none did."""
        return 0 if self.turns is None else self.turns.count

    @property
    def better(self) -> bool:
        """Whether the adapter beats plain SAM on the held-out objects."""
        return self.adapted.iou > self.base.iou


def fit(
    train: Dataset,
    val: Dataset | None,
    sam: Sam,
    cache: EmbeddingCache,
    config: FitConfig,
    *,
    checkpoint_name: str,
    state_path: Path,
    resume: bool = False,
    processes: Processes = ALONE,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train an adapter.

    Args:
        train: objects to learn from.
        val: objects held out; no image is in both. None: trainings take turns in holding some of
            `train` out, and the adapter is trained on all of it.
        sam: the frozen model.
        cache: where embeddings are kept.
        config: the settings.
        checkpoint_name: what the base is called, for the adapter's description.
        state_path: where to keep what `resume` needs. It stays, for the caller to remove once the
            adapter is saved: a full disk must not cost the training.
        resume: go on from `state_path` if it is there.
        processes: who shares the work; each calls this with the same arguments. The first alone
            reads and writes the state.
        on_progress: told what happens.

    Returns:
        The adapter and its scores, the same in each process. Whether it is good enough to keep is
        the caller's decision.

    Raises:
        SamtuneError: a file cannot be read or written, the state belongs to another fit, or the
            processes are of different fits.
    """
    started = time.monotonic()
    config = replace(config, precision=settled(config.precision, sam.device))
    shown = train.with_mirror_images() if config.mirror else train
    without = train.some_empty(config.empty_images)
    pairs = [*shown.pairs, *(() if val is None else val.pairs), *without]
    keys = encode_all(pairs, sam, cache, processes, on_progress)
    images = EncodedImages(sam, cache, pairs, keys)
    encoded = time.monotonic()
    rng = np.random.default_rng([config.seed, 1])
    objects = supervise(shown.objects, sam.image_size, rng)
    held_out = [
        replace(one, image_index=one.image_index + len(shown.pairs))
        for one in supervise(() if val is None else val.objects, sam.image_size, rng)
    ]
    split = Split(objects, held_out, mirrored=val is not None and val.is_mirrored)
    parts = folds(train, config.folds, config.seed) if val is None else []
    turns = _splits(objects, parts, len(train.pairs))
    run = _plan(sam, config.without_refining(), images, split, turns, processes)
    identity = {
        "settings": asdict(config),
        "base": sam.decoder_fingerprint,
        "encoder": sam.encoder_fingerprint,
        "train": train.fingerprint_in_order(),
        "val": None if val is None else val.fingerprint_in_order(),
        "empty": len(without),
    }
    if any(other != identity for other in processes.together([identity])):
        raise SamtuneError(
            "the processes of this fit have different data, settings or checkpoints: start all of "
            "them with the same command and the same files."
        )

    def save_state() -> None:
        if processes.is_first:
            write_state(state_path, identity, run.state())

    def saved_state() -> dict[str, Any] | None:
        return read_state(state_path, identity) if resume and state_path.is_file() else None

    state = processes.from_first(saved_state)
    if state is not None:
        run.restore(state)
    run.train(on_progress, save_state)
    learned = run.best_modules()
    trials = run.trial_modules() if isinstance(run, Trials) and turns else []
    tried = [*zip(trials, turns, strict=True)]
    empty = range(len(pairs) - len(without), len(pairs))
    judged = for_the_judge(empty) if config.auto else ()
    taught = [index for index in empty if index not in judged]
    learned.presence = fit_presence(sam, learned, images, taught, split, tried, config)
    if config.refiner:
        refiners = fit_refiners(
            sam,
            images,
            train.objects,
            parts,
            config,
            config.seconds_to_refine(run.seconds),
            on_progress=lambda done, total: on_progress(Progress("refine", done, total)),
        )
        for one, refiner in zip((learned, *trials), refiners, strict=True):
            one.refiner = refiner
    maps: list[ObjectMap] = []
    if config.auto:
        maps = fit_object_maps(
            sam,
            images,
            [objects, *(turn.objects for turn in turns)],
            taught,
            config.seed,
            config.precision,
            on_progress=lambda done, total: on_progress(Progress("map", done, total)),
        )
        for one, object_map in zip((learned, *trials), maps, strict=True):
            one.object_map = object_map
    trained = time.monotonic()

    info = AdapterInfo(
        method=config.method,
        base=Base.of(sam, checkpoint_name),
        settings=config.as_settings(run.first_offset),
        data={
            "train_images": len(train.pairs),
            "train_objects": len(train.objects),
            "empty_images": len(without),
            "val_images": len((val or train).pairs),
            "val_objects": len((val or train).objects),
            "folds": len(parts),
            "val_is_mirrored": val is not None and val.is_mirrored,
            "objects_seen": run.seen,
            "sha256": train.fingerprint(),
        },
        proposes=learned.proposes,
        least_part=least_part(one.on_object() for one in objects),
        heeds_clicks=True,
    )
    adapter = Adapter(info, learned)
    in_turns = [Predictor(sam, Adapter(info, trial)) for trial in trials]
    taken = Turns(in_turns, parts) if in_turns else None
    data, answering = val or train, taken or Predictor(sam, adapter)
    base, adapted = _score(data, answering, sam, cache, processes, on_progress)
    means = Scores.mean(base), Scores.mean(adapted)
    coarse = score_coarse(
        data,
        answering,
        cache,
        on_progress=lambda done, total: on_progress(Progress("coarse", done, total)),
    )
    found = None
    if maps:
        calibrate(answering, maps, data, [images.load(index) for index in judged], cache)
        found = score_found(
            data,
            answering,
            cache,
            EVERY_OBJECT,
            on_progress=lambda done, total: on_progress(Progress("find", done, total)),
        )
    ended = time.monotonic()
    return FitResult(
        adapter=replace(adapter, info=_with_scores(info, *means, coarse, found)),
        base=means[0],
        adapted=means[1],
        coarse=coarse,
        found=found,
        gain=Gain.over(base, adapted, [thing.image_index for thing in data.objects]),
        turns=taken,
        objects_per_second=run.objects_per_second,
        seconds={
            "encode": encoded - started,
            "train": trained - encoded,
            "total": ended - started,
        },
        curves=run.curves,
    )


def _plan(
    sam: Sam,
    config: FitConfig,
    images: EncodedImages,
    split: Split,
    turns: list[Split],
    processes: Processes,
) -> TrainingRun | Trials:
    """Which course the training takes: many masks, few, or few of which none is held out."""
    objects, count = split.objects, len(split.objects) // config.views
    if turns:
        return Trials(sam, config, images, turns, objects, processes)
    if count < config.few_masks:
        return Trials(sam, config, images, [split], None, processes)
    total = config.objects_to_see(count)
    return TrainingRun(sam, config, images, objects, split.held_out, total, processes=processes)


def _splits(objects: list[Supervision], parts: list[list[int]], images: int) -> list[Split]:
    """Each part of so many images held out in turn, and their mirror images left out with them."""
    return [
        Split(
            [one for one in objects if one.image_index % images not in part],
            [one for one in objects if one.image_index in part],
        )
        for part in parts
    ]


def _score(
    data: Dataset,
    answering: Answering,
    sam: Sam,
    cache: EmbeddingCache,
    processes: Processes,
    on_progress: Callable[[Progress], None],
) -> tuple[list[ObjectScores], list[ObjectScores]]:
    """Score plain SAM and what was trained at the centre click of each object."""
    plain, moved = score_objects(
        data,
        sam,
        [Predictor(sam), answering],
        cache,
        kinds=("center",),
        images=range(len(data.pairs))[processes.own(len(data.pairs))],
        on_progress=lambda done, total: on_progress(Progress("score", done, total)),
    )
    return processes.together(plain), processes.together(moved)


def _with_scores(
    info: AdapterInfo,
    base: Scores,
    adapted: Scores,
    coarse: CoarseScores | None,
    found: FoundScores | None,
) -> AdapterInfo:
    scores = {
        "base_iou": base.iou,
        "base_oracle_iou": base.oracle_iou,
        "adapter_iou": adapted.iou,
        "adapter_oracle_iou": adapted.oracle_iou,
    }
    if found is not None:
        told = asdict(found).items()
        scores |= {f"found_{name}": value for name, value in told if value is not None}
    if adapted.refined_iou is None:
        return replace(info, scores=scores)
    refined = {
        "boundary_iou": adapted.boundary_iou,
        "refined_iou": adapted.refined_iou,
        "refined_boundary_iou": adapted.refined_boundary_iou,
    }
    scores |= {name: value for name, value in refined.items() if value is not None}
    if coarse is not None:
        scores |= {f"coarse_{name}": value for name, value in asdict(coarse).items()}
    return replace(
        info,
        scores=scores,
        refine_helps=adapted.refining_helps,
        refine_helps_coarse=coarse is not None and coarse.helps,
    )
