"""fit(): train an adapter on a data set while SAM stays frozen.

Images are encoded once, into the cache; a step then loads the embeddings of a few objects'
images, adapts their prompt tokens with the PLM and decodes some of their cells
(supervision.py). Everything random in a step is drawn from the seed and the step's number alone,
so that a resumed run is the run that was interrupted. What happens is told to a callback.

All four mask outputs are trained, each object's weighted by how good it already is (softmax of the
negative loss): an object improves where it is nearly right, and the outputs keep their different
scales. Which of the four to return is learned beside it (selector.py).

The weights that are validated and kept are a moving average over the steps.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.config import FitConfig
from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import Scores, evaluate
from samtune.images import read_image
from samtune.losses import MaskScores, score_logits
from samtune.plm import PromptLearningModule
from samtune.pmm import PointMatchingModule, jitter, matching_loss
from samtune.predictor import Predictor
from samtune.resume import read_state, write_state
from samtune.sam import Sam
from samtune.selector import OutputSelector
from samtune.supervision import CellSample, Supervision

_LOOK_AT = 100  # held-out objects in a look during training; the end scores all of them
_SAVE_EVERY = 60.0  # seconds between states to resume from


@dataclass(frozen=True)
class Progress:
    """What fit() is doing.

    Attributes:
        phase: "encode", "train" or "score".
        done, total: images when encoding or scoring, objects when training.
        loss: mean training loss lately.
        val_iou: held-out IoU of the kept weights so far, and `base_iou` of plain SAM.
        base_iou: see `val_iou`; both on the logits' grid, which is quick.
        seconds_left: of training, once it can be told.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None
    val_iou: float | None = None
    base_iou: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class FitResult:
    """A trained adapter and how it came about.

    Attributes:
        adapter: the best weights, with their description.
        base: held-out scores of plain SAM.
        adapted: held-out scores of the adapter, refined ones included.
        objects_per_second: in training, validation left out.
        seconds: of the phases "encode" and "train", and "total".
        val_curve: (objects seen, held-out IoU) at each look.
        stopped: why training ended: "finished", "no progress", "time".
    """

    adapter: Adapter
    base: Scores
    adapted: Scores
    objects_per_second: float
    seconds: dict[str, float]
    val_curve: tuple[tuple[int, float], ...]
    stopped: str

    @property
    def better(self) -> bool:
        """Whether the adapter beats plain SAM on the held-out objects."""
        return self.adapted.iou > self.base.iou


def fit(
    train: Dataset,
    val: Dataset,
    sam: Sam,
    cache: EmbeddingCache,
    config: FitConfig,
    *,
    checkpoint_name: str,
    state_path: Path,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train an adapter.

    Args:
        train: objects to learn from.
        val: objects held out; no image is in both.
        sam: the frozen model.
        cache: where embeddings are kept.
        config: the settings.
        checkpoint_name: what the base is called, for the adapter's description.
        state_path: where to keep what `resume` needs; removed at the end.
        resume: go on from `state_path` if it is there.
        on_progress: told what happens.

    Returns:
        The adapter and its scores. Whether it is good enough to keep is the caller's decision.

    Raises:
        SamtuneError: a file cannot be read or written, or the state belongs to another fit.
    """
    started = time.monotonic()
    keys = _encode([*train.pairs, *val.pairs], sam, cache, on_progress)
    images = _Embeddings(sam, cache, [*train.pairs, *val.pairs], keys)
    encoded = time.monotonic()
    rng = np.random.default_rng([config.seed, 1])
    objects = [Supervision.of(thing, sam.image_size, rng) for thing in train.objects]
    held_out = [
        replace(one, image_index=one.image_index + len(train.pairs))
        for one in (Supervision.of(thing, sam.image_size, rng) for thing in val.objects)
    ]
    identity = {
        "settings": asdict(config),
        "base": sam.decoder_fingerprint,
        "encoder": sam.encoder_fingerprint,
        "train": train.fingerprint(),
        "val": val.fingerprint(),
    }
    run = _Run(sam, config, images, objects, held_out)
    if resume and state_path.is_file():
        run.restore(read_state(state_path, identity))
    stopped = run.train(on_progress, lambda: write_state(state_path, identity, run.state()))
    trained = time.monotonic()

    adapter = run.best_adapter(
        AdapterInfo(
            method=config.method,
            base=Base.of(sam, checkpoint_name),
            settings={**asdict(config), "first_offset": run.first_offset},
            data={
                "train_images": len(train.pairs),
                "train_objects": len(train.objects),
                "val_images": len(val.pairs),
                "val_objects": len(val.objects),
                "objects_seen": run.seen,
                "sha256": train.fingerprint(),
            },
        )
    )
    base, adapted = evaluate(
        val,
        sam,
        [Predictor(sam), Predictor(sam, adapter)],
        cache,
        thorough=False,
        on_progress=lambda done, total: on_progress(Progress("score", done, total)),
    )
    adapter = replace(adapter, info=_with_scores(adapter.info, base, adapted))
    state_path.unlink(missing_ok=True)
    ended = time.monotonic()
    return FitResult(
        adapter=adapter,
        base=base,
        adapted=adapted,
        objects_per_second=run.seen / max(run.seconds, 1e-9),
        seconds={
            "encode": encoded - started,
            "train": trained - encoded,
            "total": ended - started,
        },
        val_curve=tuple(run.curve),
        stopped=stopped,
    )


def _with_scores(info: AdapterInfo, base: Scores, adapted: Scores) -> AdapterInfo:
    scores = {
        "base_iou": base.iou,
        "base_oracle_iou": base.oracle_iou,
        "adapter_iou": adapted.iou,
        "adapter_oracle_iou": adapted.oracle_iou,
    }
    if adapted.refined_iou is None:
        return replace(info, scores=scores)
    scores["refined_iou"] = adapted.refined_iou
    return replace(info, scores=scores, refine_helps=adapted.refined_iou > adapted.iou)


def _encode(
    pairs: Sequence[Any], sam: Sam, cache: EmbeddingCache, on_progress: Callable[[Progress], None]
) -> list[str]:
    """Make sure that every image's embedding is in the cache; return the keys."""
    keys = []
    started = time.monotonic()
    on_progress(Progress("encode", 0, len(pairs)))
    for done, pair in enumerate(pairs, start=1):
        key, _ = cache.encode(read_image(pair.image), sam)
        keys.append(key)
        left = (time.monotonic() - started) / done * (len(pairs) - done)
        on_progress(Progress("encode", done, len(pairs), seconds_left=left))
    return keys


class _Embeddings:
    """Loads the embeddings of a few images at a time; memory does not grow with the folder."""

    def __init__(
        self, sam: Sam, cache: EmbeddingCache, pairs: Sequence[Any], keys: Sequence[str]
    ) -> None:
        self._sam, self._cache, self._pairs, self._keys = sam, cache, pairs, keys

    def batch(self, image_indices: Sequence[int]) -> Tensor:
        """(B, 256, h, w) float32 features on the model's device."""
        features = []
        for index in image_indices:
            embedding = self._cache.load(self._keys[index], self._sam)
            if embedding is None:  # removed meanwhile, by the size limit or by hand
                _, embedding = self._cache.encode(read_image(self._pairs[index].image), self._sam)
            features.append(embedding.features)
        return torch.stack(features).to(self._sam.device, torch.float32)


class _Run:
    """One training run: its modules, its optimizer, and where it stands."""

    def __init__(
        self,
        sam: Sam,
        config: FitConfig,
        images: _Embeddings,
        objects: list[Supervision],
        held_out: list[Supervision],
    ) -> None:
        self.sam, self.config, self.images = sam, config, images
        self.objects = objects
        looked_at = np.linspace(0, len(held_out) - 1, min(len(held_out), _LOOK_AT)).round()
        self.held_out = [held_out[int(index)] for index in looked_at]
        self.total = (
            config.epochs * len(objects)
            if config.epochs is not None
            else max(config.objects, len(objects))
        )
        self.steps = -(-self.total // config.batch_size)
        self.seconds = 0.0  # spent in steps
        self.first_offset: float | None = None  # until the probe has decided
        self.curve: list[tuple[int, float]] = []
        self.best_iou = -1.0
        self.best: dict[str, Tensor] = {}
        self._start(config.first_offsets[0])

    def _start(self, first_offset: float) -> None:
        """Put everything that is learned at its beginning."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.learned = _modules(self.config, first_offset)
            self.average = _modules(self.config, first_offset)
        self.average.load_state_dict(self.learned.state_dict())
        self.learned.to(self.sam.device)
        self.average.to(self.sam.device).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.learned, self.config, first_offset),
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.losses: list[float] = []  # of the masks alone

    @property
    def seen(self) -> int:
        """How many objects the steps so far have seen."""
        return min(self.step * self.config.batch_size, self.total)

    def train(self, on_progress: Callable[[Progress], None], save_state: Callable[[], None]) -> str:
        """Train to the end; returns why it ended."""
        looks = np.linspace(0, self.steps, self.config.validations + 1).round()[1:]
        base_iou = self._held_out_iou(None)

        def tell() -> None:
            on_progress(
                Progress(
                    "train",
                    self.seen,
                    self.total,
                    loss=float(np.mean(self.losses[-50:])),
                    val_iou=self.best_iou if self.curve else None,
                    base_iou=base_iou,
                    seconds_left=self.seconds / max(self.step, 1) * (self.steps - self.step),
                )
            )

        if self.first_offset is None:
            self._probe(tell)
        saved = time.monotonic()
        stopped = "finished"
        while self.step < self.steps:
            self._train_step()
            out_of_time = (
                self.config.max_minutes is not None and self.seconds > 60 * self.config.max_minutes
            )
            if self.step in looks or out_of_time:
                self._validate()
                looks_without_progress = len(self.curve) - 1 - _first_best(self.curve)
                if out_of_time:
                    stopped = "time"
                    break
                if looks_without_progress >= self.config.patience:
                    stopped = "no progress"
                    break
            if time.monotonic() - saved > _SAVE_EVERY or self.step in looks:
                save_state()
                saved = time.monotonic()
            tell()
        if not self.curve:  # so few objects that the probe was all of the training
            self._validate()
        return stopped

    def _probe(self, tell: Callable[[], None]) -> None:
        """Start with each size of the first offset, and go on with the one that promises more.

        A small offset keeps what SAM already does and improves it; a large one leaves SAM's
        answer and finds another. Which of them a task needs shows within some dozens of steps.
        A large one is still on its way then, so a small one has to be clearly better.
        """
        steps = min(self.config.probe_objects // self.config.batch_size, self.steps)
        lowest = math.inf
        chosen: dict[str, Any] = {}
        for first_offset in sorted(self.config.first_offsets, reverse=True):
            self._start(first_offset)
            self.first_offset = first_offset
            if len(self.config.first_offsets) == 1:
                return
            for _ in range(steps):
                self._train_step()
                tell()
            loss = float(np.mean(self.losses[steps // 2 :]))
            if loss < lowest * (self.config.probe_margin if chosen else 1):
                lowest, chosen = loss, self.state()
        self.restore(chosen)

    def best_adapter(self, info: AdapterInfo) -> Adapter:
        """The kept weights as an adapter."""
        self.average.load_state_dict(self.best)
        pmm = self.average["pmm"] if self.config.pmm else None
        plm, selector = self.average["plm"], self.average["selector"]
        assert isinstance(plm, PromptLearningModule)
        assert isinstance(selector, OutputSelector)
        assert pmm is None or isinstance(pmm, PointMatchingModule)
        return Adapter(info, plm, selector, pmm)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "learned": self.learned.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "first_offset": self.first_offset,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "best": self.best,
            "best_iou": self.best_iou,
            "losses": self.losses[-50:],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._start(state["first_offset"])
        self.learned.load_state_dict(state["learned"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve = [(int(seen), float(iou)) for seen, iou in state["curve"]]
        for name in ("first_offset", "step", "seconds", "best", "best_iou", "losses"):
            setattr(self, name, state[name])

    def _train_step(self) -> None:
        started = time.monotonic()
        config, sam = self.config, self.sam
        rng = np.random.default_rng([config.seed, 2, self.step])
        batch = [self.objects[index] for index in self._batch_indices()]
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self._schedule()
        features = self.images.batch([one.image_index for one in batch])
        tokens = self._tokens(*_training_prompts(batch, config, rng))
        adapted = self.learned["plm"](tokens, features, sam.image_pe)
        tokens, cells = sam.decoder.attend(features, sam.image_pe, adapted, sam.no_mask)
        samples = [one.sample_cells(config.cells, rng) for one in batch]
        loss = self._mask_loss(tokens, cells, samples)
        self.losses.append(float(loss.detach()))
        if config.pmm:
            loss = loss + config.pmm_weight * self._contour_loss(cells, batch, rng)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self._move_average()
        self.step += 1
        self.seconds += time.monotonic() - started

    def _mask_loss(self, tokens: Tensor, cells: Tensor, samples: list[CellSample]) -> Tensor:
        scores = self._score(tokens, cells, samples)
        estimate = self.sam.decoder.predict_iou(tokens)
        good = torch.softmax(-scores.loss.detach() / self.config.output_temperature, dim=1)
        masks = (good * (scores.loss + (estimate - scores.iou).square())).sum(dim=1).mean()
        # The selector learns from what the decoder gave it, and does not pull on the PLM.
        choice = self.learned["selector"](tokens.detach(), estimate.detach())
        loss: Tensor = masks + (choice - scores.iou).square().mean()
        return loss

    def _contour_loss(
        self, cells: Tensor, batch: list[Supervision], rng: np.random.Generator
    ) -> Tensor:
        contours = torch.from_numpy(np.stack([one.contour for one in batch]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rough = jitter(contours, generator, self.config.pmm_jitter).to(cells.device)
        refined = self.learned["pmm"](cells, rough)
        return matching_loss(refined, contours.to(cells.device)).mean()

    def _batch_indices(self) -> list[int]:
        """The objects of this step: passes over all of them, each in an order of its own."""
        first = self.step * self.config.batch_size
        last = min(first + self.config.batch_size, self.total)
        indices = []
        for position in range(first, last):
            epoch, place = divmod(position, len(self.objects))
            order = np.random.default_rng([self.config.seed, 3, epoch]).permutation(
                len(self.objects)
            )
            indices.append(int(order[place]))
        return indices

    def _schedule(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        warm = (self.step + 1) * self.config.batch_size / self.config.warmup_objects
        return min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    def _move_average(self) -> None:
        # Early on the average must follow the weights, or it would still be their random start.
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, value in zip(
                self.average.parameters(), self.learned.parameters(), strict=True
            ):
                kept.lerp_(value, 1 - decay)

    def _validate(self) -> None:
        """Look at the held-out objects, and keep the weights if they are the best so far."""
        score = self._held_out_iou(self.average)
        self.curve.append((self.seen, score))
        if score > self.best_iou:
            self.best_iou = score
            self.best = {name: value.clone() for name, value in self.average.state_dict().items()}

    @torch.inference_mode()
    def _held_out_iou(self, learned: nn.ModuleDict | None) -> float:
        """Mean IoU at the centre point on the logits' grid, which is quick and nearly exact.

        Args:
            learned: the PLM and the selector; None is plain SAM, the best of its three masks by
                predicted IoU.
        """
        scores: list[float] = []
        for start in range(0, len(self.held_out), 4):
            batch = self.held_out[start : start + 4]
            features = self.images.batch([one.image_index for one in batch])
            centers = np.stack([one.center for one in batch])[:, None]
            tokens = self._tokens(centers, np.ones((len(batch), 1), dtype=np.int64), None)
            if learned is not None:
                tokens = learned["plm"](tokens, features, self.sam.image_pe)
            tokens, cells = self.sam.decoder.attend(
                features, self.sam.image_pe, tokens, self.sam.no_mask
            )
            every = np.random.default_rng(0)  # draws nothing when all cells are taken
            samples = [one.sample_cells(one.grid**2, every) for one in batch]
            found = self._score(tokens, cells, samples).iou
            estimate = self.sam.decoder.predict_iou(tokens)
            if learned is not None:
                chosen = learned["selector"](tokens, estimate).argmax(dim=1)
            else:
                chosen = 1 + estimate[:, 1:].argmax(dim=1)
            scores += found.gather(1, chosen[:, None])[:, 0].tolist()
        return float(np.mean(scores))

    def _score(self, tokens: Tensor, cells: Tensor, samples: list[CellSample]) -> MaskScores:
        """Decode each object's sampled cells and compare them with its target."""
        index = self._stack([sample.index for sample in samples])
        chosen = cells.gather(1, index[..., None].expand(-1, -1, cells.shape[-1]))
        return score_logits(
            self.sam.decoder.mask_blocks(tokens, chosen),
            self._stack([sample.target for sample in samples]),
            self._stack([sample.weight for sample in samples]),
        )

    def _tokens(
        self,
        points: np.ndarray[Any, Any],
        labels: np.ndarray[Any, Any],
        boxes: np.ndarray[Any, Any] | None,
    ) -> Tensor:
        device = self.sam.device
        return self.sam.encode_points(
            torch.from_numpy(points).to(device),
            torch.from_numpy(labels).to(device),
            None if boxes is None else torch.from_numpy(boxes).to(device),
        )

    def _stack(self, arrays: list[Any]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self.sam.device)


def _modules(config: FitConfig, first_offset: float) -> nn.ModuleDict:
    modules = nn.ModuleDict({"plm": PromptLearningModule(first_offset=first_offset)})
    modules["selector"] = OutputSelector()
    if config.pmm:
        modules["pmm"] = PointMatchingModule()
    return modules


def _parameter_groups(
    learned: nn.ModuleDict, config: FitConfig, first_offset: float
) -> list[dict[str, Any]]:
    """AdamW's groups; a small first offset would hardly grow at the rate of the other weights."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in learned.named_parameters():
        part = "offset" if name.startswith("plm.final_norm.") else name.split(".")[0]
        groups.setdefault(part, []).append(parameter)
    rates = {
        "plm": config.learning_rate,
        "offset": config.learning_rate / first_offset,
        "selector": config.selector_rate,
        "pmm": config.pmm_rate,
    }
    return [{"params": members, "lr": rates[part]} for part, members in groups.items()]


def _training_prompts(
    batch: list[Supervision], config: FitConfig, rng: np.random.Generator
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Points (B, N, 2), labels (B, N) and boxes (B, 4) or None, of one form for the batch.

    Mostly one click, as the paper trains; some steps show several points, or a box, so that
    the adapter keeps understanding those.
    """
    form = rng.choice(3, p=[config.click_share, *[(1 - config.click_share) / 2] * 2])
    hits = 1 if form == 0 else int(rng.integers(2, 4))
    misses = int(rng.integers(2)) if form == 1 and all(len(one.misses) for one in batch) else 0
    points = np.stack(
        [
            np.concatenate([rng.choice(one.clicks, hits), rng.choice(one.misses, misses)])
            if misses
            else rng.choice(one.clicks, hits)
            for one in batch
        ]
    )
    labels = np.repeat([[1] * hits + [0] * misses], len(batch), axis=0).astype(np.int64)
    if form != 2:
        return points, labels, None
    boxes = np.stack([one.box for one in batch])
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    noise = np.clip(rng.normal(size=boxes.shape), -2, 2) * 0.1 * sides
    return points[:, :0], labels[:, :0], (boxes + noise).astype(np.float32)


def _first_best(curve: list[tuple[int, float]]) -> int:
    """Where the curve is highest, the first time."""
    return int(np.argmax([score for _, score in curve]))
