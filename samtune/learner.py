"""What is learned, one step at a time.

A step loads the embeddings of a few objects' images, adapts their prompt tokens with the PLM and
their cells with the dense prompt, decodes some of them (supervision.py) and moves the weights.
Everything random in it is drawn from the seed and the step's number alone, so that a restored
learner goes on as if it had never stopped. Several processes draw the same and take an object or a
few of each step: their gradients add up to those of one process.

What is trained is the mask that will be returned, the mixture of the four outputs (selector.py),
and beside it each output alone, weighted by how good it already is on an object (softmax of the
negative loss): an object improves where it is nearly right, and the outputs keep their different
scales. The weights that count are a moving average over the steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from samtune.config import FitConfig
from samtune.curves import Start
from samtune.dense_prompt import DensePrompt
from samtune.draws import Drawn
from samtune.embeddings import EmbeddingCache
from samtune.input_frame import Embedding
from samtune.losses import MaskScores, score_logits
from samtune.pairs import Pair
from samtune.plm import PromptLearningModule
from samtune.pmm import PointMatchingModule, matching_loss
from samtune.precision import cells_type
from samtune.processes import ALONE, Processes
from samtune.prompt_learning import attend_moved
from samtune.sam import Sam
from samtune.selector import OutputSelector, best_of_three, mixture
from samtune.steps import Stepwise
from samtune.supervision import CellSample, Supervision


class EncodedImages:
    """Loads the embeddings of a few images at a time; memory does not grow with the folder."""

    def __init__(
        self, sam: Sam, cache: EmbeddingCache, pairs: Sequence[Pair], keys: Sequence[str]
    ) -> None:
        self._sam, self._cache, self._pairs, self._keys = sam, cache, pairs, keys

    def load(self, image_index: int) -> Embedding:
        """One of them, as the cache has it."""
        embedding = self._cache.load(self._keys[image_index], self._sam)
        if embedding is None:  # removed meanwhile, by the size limit or by hand
            _, embedding = self._cache.encode(self._pairs[image_index].read(), self._sam)
        return embedding

    def batch(self, image_indices: Sequence[int], kind: torch.dtype = torch.float32) -> Tensor:
        """(B, 256, h, w) features of that type on the model's device."""
        features = [self.load(index).features for index in image_indices]
        cells = torch.stack([one.permute(1, 2, 0) for one in features])  # as they lie in memory
        return cells.to(self._sam.device, kind).permute(0, 3, 1, 2)


class Learner(Stepwise[nn.ModuleDict]):
    """The modules that learn, their optimizer, and the number of the next step.

    Args:
        sam: the frozen model.
        config: the settings.
        images: the embeddings of all images that objects are in.
        objects: what to learn from.
        total: how many objects all steps together will see.
        first_offset: weight of the PLM's last norm at the start; 0 is no PLM and no dense prompt,
            but the choice among SAM's own masks alone.
        processes: who shares the objects of each step.
    """

    def __init__(
        self,
        sam: Sam,
        config: FitConfig,
        images: EncodedImages,
        objects: Sequence[Supervision],
        total: int,
        first_offset: float,
        processes: Processes = ALONE,
    ) -> None:
        self.sam, self.config, self.images, self.objects = sam, config, images, objects
        self.first_offset, self.processes = first_offset, processes
        self.cells_type = cells_type(config.precision, sam.device)
        self.learning_rates: list[float] = []  # of the PLM, or of the selector alone, a step
        super().__init__(
            lambda: _modules(config, first_offset),
            lambda learned: _parameter_groups(learned, config, first_offset),
            seed=config.seed,
            device=sam.device,
            weight_decay=config.weight_decay,
            total=total,
            batch_size=config.batch_size,
            warmup=config.warmup_objects,
            decay=config.average,
        )

    @property
    def course(self) -> Start:
        """How the steps so far went."""
        size = self.config.batch_size
        return Start(
            self.first_offset,
            tuple(min(step * size, self.total) for step in range(1, self.step + 1)),
            tuple(self.losses),
            tuple(self.learning_rates),
        )

    def state(self) -> dict[str, Any]:
        """As Stepwise's."""
        own = {"first_offset": self.first_offset, "learning_rates": self.learning_rates}
        return super().state() | own

    def restore(self, state: dict[str, Any]) -> None:
        """As Stepwise's."""
        super().restore(state)
        self.learning_rates = list(state["learning_rates"])

    def train_step(self) -> None:
        """Learn from the next few objects."""
        config = self.config
        rate = config.learning_rate if "plm" in self.learned else config.selector_rate
        self.learning_rates.append(rate * self.schedule())
        rng = np.random.default_rng([config.seed, 2, self.step])
        batch = [self.objects[index] for index in self.indices()]
        self.start_step()
        self.end_step(self._gradients(Drawn.of(batch, config, rng)))

    def _gradients(self, drawn: Drawn) -> float:
        """Leave the gradients of a step in the parameters; returns the loss of the masks."""
        own = drawn.part(self.processes.own(len(drawn.batch)))
        masks = torch.zeros((), device=self.sam.device)
        if own.batch:  # there may be fewer objects than processes
            share = len(own.batch) / len(drawn.batch)
            masks, others = (share * loss for loss in self._losses(own))
            torch.autograd.backward(masks + others)
        masks = masks.detach()
        if self.processes.count > 1:
            self.processes.add_up([masks, *map(_gradient, self.learned.parameters())])
        return float(masks)

    def _losses(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """The loss of the masks, and all others; means over the objects."""
        features = self.images.batch([one.image_index for one in drawn.batch], self.cells_type)
        tokens = self._tokens(drawn.points, drawn.labels, drawn.boxes)
        tokens, cells = self._attend(self.learned, tokens, features)
        masks, others = self._mask_losses(tokens, cells, drawn.samples)
        if drawn.contours is not None:
            assert drawn.rough is not None
            refined = self.learned["pmm"](cells, drawn.rough.to(cells.device))
            matching = matching_loss(refined, drawn.contours.to(cells.device)).mean()
            others = others + self.config.pmm_weight * matching
        return masks, others

    def _mask_losses(
        self, tokens: Tensor, cells: Tensor, samples: Sequence[CellSample]
    ) -> tuple[Tensor, Tensor]:
        """The loss of the masks, and that of the choice among them."""
        config = self.config
        estimate = self.sam.decoder.predict_iou(tokens)
        # The selector learns from what the decoder gave it, and does not pull on the PLM.
        corrected = self.learned["selector"](tokens.detach(), estimate.detach())
        every = torch.eye(4, device=tokens.device).expand(len(tokens), -1, -1)
        mixing = torch.cat([every, mixture(corrected)[:, None]], dim=1)
        scores = self._score(tokens, cells, samples, mixing)
        alone, iou = scores.loss[:, :4], scores.iou[:, :4]
        good = torch.softmax(-alone.detach() / config.output_temperature, dim=1)
        outputs = (good * (alone + (estimate - iou).square())).sum(dim=1).mean()
        masks = scores.loss[:, 4].mean() + config.outputs_weight * outputs
        return masks, (corrected - iou).square().mean()

    def indices(self) -> list[int]:
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

    @torch.inference_mode()
    def held_out_iou(self, held_out: Sequence[Supervision], *, plain: bool = False) -> float:
        """Mean IoU at the centre point on the logits' grid, which is quick and nearly exact.

        Args:
            held_out: the objects to look at.
            plain: score plain SAM, the best of its three masks by predicted IoU, instead of the
                averaged weights.
        """
        scores: list[float] = []
        starts = range(0, len(held_out), 4)
        for start in starts[self.processes.own(len(starts))]:
            batch = held_out[start : start + 4]
            features = self.images.batch([one.image_index for one in batch], self.cells_type)
            centers = np.stack([one.center for one in batch])[:, None]
            tokens = self._tokens(centers, np.ones((len(batch), 1), dtype=np.int64), None)
            tokens, cells = self._attend(None if plain else self.average, tokens, features)
            every = np.random.default_rng(0)  # draws nothing when all cells are taken
            samples = [one.sample_cells(one.grid**2, every) for one in batch]
            estimate = self.sam.decoder.predict_iou(tokens)
            if plain:
                mixing = best_of_three(estimate)
            else:
                mixing = mixture(self.average["selector"](tokens, estimate))
            scores += self._score(tokens, cells, samples, mixing[:, None]).iou[:, 0].tolist()
        return float(np.mean(self.processes.together(scores)))

    def _attend(
        self, learned: nn.ModuleDict | None, tokens: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The decoder's tokens and cells for prompts, moved by what there is to move them."""
        moving = {} if learned is None else dict(learned.items())
        plm, dense_prompt = moving.get("plm"), moving.get("dense_prompt")
        return attend_moved(self.sam, plm, dense_prompt, tokens, features)

    def _score(
        self, tokens: Tensor, cells: Tensor, samples: Sequence[CellSample], mixing: Tensor
    ) -> MaskScores:
        """Decode each object's sampled cells and compare them with its target."""
        index = self._stack([sample.index for sample in samples])
        chosen = cells.gather(1, index[..., None].expand(-1, -1, cells.shape[-1]))
        return score_logits(
            self.sam.decoder.mask_blocks(tokens, chosen, mixing),
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


def _gradient(parameter: nn.Parameter) -> Tensor:
    """A parameter's gradient, nought where this process had nothing to learn from."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _modules(config: FitConfig, first_offset: float) -> nn.ModuleDict:
    modules = nn.ModuleDict()
    if first_offset:
        modules["plm"] = PromptLearningModule(first_offset=first_offset)
        if config.dense_prompt:
            modules["dense_prompt"] = DensePrompt()
    modules["selector"] = OutputSelector()
    if config.pmm:
        modules["pmm"] = PointMatchingModule()
    return modules


def _parameter_groups(
    learned: nn.ModuleDict, config: FitConfig, first_offset: float
) -> list[dict[str, Any]]:
    """AdamW's groups.

    A small first offset would hardly grow at the rate of the other weights. AdamW makes steps of
    the full size of any gradient above its epsilon: rounding's own, 1e-10, must be below (a bias of
    keys has no other, for softmax does not see it), or every way to add up would end elsewhere.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in learned.named_parameters():
        part = "offset" if name.startswith("plm.final_norm.") else name.split(".")[0]
        groups.setdefault(part, []).append(parameter)
    rates = {
        "plm": config.learning_rate,
        "offset": config.learning_rate / (first_offset or 1.0),
        "dense_prompt": config.dense_rate,
        "selector": config.selector_rate,
        "pmm": config.pmm_rate,
    }
    # The PMM's gradients have a median of 1e-7 at first, all others' are above 1e-5.
    return [
        {"params": members, "lr": rates[part], "eps": 1e-8 if part == "pmm" else 1e-6}
        for part, members in groups.items()
    ]
