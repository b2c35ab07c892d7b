"""SAM-F: the baseline of two numbers.

A mask that is the weighted sum of SAM's three, w₁M₁ + w₂M₂ + (1 - w₁ - w₂)M₃ over their logits, the
weights fitted to the user's masks: PerSAM-F (Zhang et al. 2023, https://arxiv.org/abs/2305.03048,
section 3.3) as Kim et al. 2024 (https://arxiv.org/abs/2403.09199) compare with it. It only says
which part of a thing is meant; where it is as good as an adapter, no adapter is needed.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.evenly import evenly
from samtune.input_frame import Embedding
from samtune.losses import score_logits
from samtune.predictor import Predictor
from samtune.prompts import Prompt, center_point
from samtune.sam import Sam
from samtune.supervision import Supervision

_CELLS = 128  # of each object's image, decoded once for the fit
_MOST_OBJECTS = 1000  # taken evenly from more: two numbers need no more
# AdamW's. Zhang et al., section 4.1, take 1000 steps of 1e-3: the same weights to 0.01, and 2 s.
_STEPS, _RATE = 200, 5e-3
_BETAS, _DECAY = (0.9, 0.999), 0.01
_BATCH = 32  # objects a step


class SamF(Predictor):
    """Answers every prompt with the same mixture of SAM's three masks.

    Args:
        sam: the frozen model.
        weights: of the three masks; their sum is 1.
    """

    def __init__(self, sam: Sam, weights: tuple[float, float, float]) -> None:
        super().__init__(sam)
        self.weights = weights

    def mix(self, prompt: Prompt, estimates: Tensor) -> Tensor:
        """The same weights whatever the prompt; the single-mask output has none."""
        return torch.tensor([0.0, *self.weights], device=estimates.device).expand(
            len(estimates), -1
        )


def fit_sam_f(
    dataset: Dataset,
    sam: Sam,
    cache: EmbeddingCache,
    *,
    images: Sequence[int] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SamF:
    """Fit the two weights to centre clicks on a data set's objects: dice + focal, a few seconds.

    Args:
        dataset: the objects.
        sam: the frozen model.
        cache: where embeddings are kept.
        images: only objects of these images; at least one.
        seed: the same seed gives the same weights.
        on_progress: called with the number of objects decoded and of all.

    Returns:
        The predictor.
    """
    chosen = set(range(len(dataset.pairs)) if images is None else images)
    things = [thing for thing in dataset.objects if thing.image_index in chosen]
    if not things:
        raise ValueError("there is no object to fit to")
    rng = np.random.default_rng(seed)
    decoded: list[tuple[Tensor, Tensor, Tensor]] = []
    loaded: tuple[int, Embedding] | None = None
    some = evenly(things, _MOST_OBJECTS)
    for thing in some:
        if loaded is None or loaded[0] != thing.image_index:
            image = dataset.pairs[thing.image_index].read()
            loaded = (thing.image_index, cache.encode(image, sam)[1])
        click = center_point(thing.mask())
        supervised = Supervision.of(thing, sam.image_size, rng)
        decoded.append(three_masks(sam, loaded[1], click, supervised, rng))
        on_progress(len(decoded), len(some))
    logits, target, weight = (torch.stack(parts) for parts in zip(*decoded, strict=True))
    return SamF(sam, fit_weights(logits, target, weight, rng))


def three_masks(
    sam: Sam, embedding: Embedding, prompt: Prompt, one: Supervision, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode an object once, for `fit_weights`.

    Args:
        sam: the frozen model.
        embedding: the object's image.
        prompt: what asks for it.
        one: the object.
        rng: draws the cells to look at.

    Returns:
        The three masks' logits (3, K, 16) in some cells, their target and weight (K, 16).
    """
    sample = one.sample_cells(_CELLS, rng)
    with torch.no_grad():
        features = embedding.features[None].to(sam.device, torch.float32)
        sparse = sam.encode_prompts([prompt], embedding.original_size)
        tokens, cells = sam.decoder.attend(features, sam.image_pe, sparse, sam.no_mask)
        some = cells[:, torch.from_numpy(sample.index).to(sam.device)]
        blocks = sam.decoder.mask_blocks(tokens, some)[0, 1:].cpu()
    return blocks, torch.from_numpy(sample.target), torch.from_numpy(sample.weight)


def fit_weights(
    logits: Tensor, target: Tensor, weight: Tensor, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Fit the weights of the three masks to N objects, by dice and focal loss.

    Args:
        logits: (N, 3, K, 16), each object's from `three_masks`.
        target: (N, K, 16).
        weight: (N, K, 16).
        rng: draws the objects of each step.

    Returns:
        The three weights; their sum is 1.
    """
    first_two = torch.full((2,), 1 / 3)
    mean, square = torch.zeros(2), torch.zeros(2)
    for step in range(1, _STEPS + 1):
        some = torch.from_numpy(rng.integers(len(logits), size=min(_BATCH, len(logits))))
        gradient = _gradient(first_two, logits[some], target[some], weight[some])
        # AdamW with torch's defaults. torch's imports a compiler first, for a second.
        mean.lerp_(gradient, 1 - _BETAS[0])
        square.lerp_(gradient.square(), 1 - _BETAS[1])
        length = (square / (1 - _BETAS[1] ** step)).sqrt() + 1e-8
        first_two = first_two * (1 - _RATE * _DECAY)
        first_two -= _RATE * mean / (1 - _BETAS[0] ** step) / length
    w1, w2 = first_two.tolist()
    return w1, w2, 1 - w1 - w2


def _gradient(first_two: Tensor, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Of the mean loss, (2,)."""
    with torch.enable_grad():
        first_two = first_two.detach().requires_grad_()
        weights = torch.cat([first_two, 1 - first_two.sum(dim=0, keepdim=True)])
        mixed = torch.einsum("bmkc,m->bkc", logits, weights)[:, None]
        loss = score_logits(mixed, target, weight).loss.mean()
    (gradient,) = torch.autograd.grad(loss, first_two)
    return gradient
