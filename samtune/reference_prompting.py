"""The method "vrp": whatever is annotated in a reference image is found in others, without clicks.

Sun et al. 2024 (https://arxiv.org/abs/2402.17726); the network is in vrp.py. The first guess where
the object is comes from Fisher's discriminant between the references' cells (targets.py) in place
of the paper's largest cosine, which is hardly ever on the object with MobileSAM's embedding. The
decoder is given that guess as well, in its own words: a point at its most likely place and a mask
prompt. The learned tokens start small beside them, a learned dense prompt at nought, and training
starts from an answer instead of from noise, which is what makes a few hundred episodes on a CPU
enough (benchmarks/README.md).

Of references only their digest is kept: queries, a prototype and two directions. An adapter that
was trained on one kind of thing carries one; other references are digested when they are given.
The answer is a mask of everything of that kind; a click or a box is an additional prompt.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from samtune.errors import AdapterError
from samtune.input_frame import Embedding
from samtune.location_prior import LocationPrior
from samtune.method import Answer, Method
from samtune.prompts import Prompt
from samtune.reference_cells import Marked
from samtune.sam import Sam
from samtune.targets import Direction, Trace, cells_inside, inner_cells, point_in_cell
from samtune.vrp import QUERIES, WIDTH, CellsAndMask, Digest, VisualReferencePrompts

_MOST_QUERIES = 1000  # that a file may ask for
# Whether an answer is right: logistic regression on its presence as PerSAM has it and on the mean
# probability of its logits, fitted to answers on training images (benchmarks/README.md).
_OF_LIKENESS, _OF_LOGITS, _THRESHOLD = 1.5, 1.3, 4.1
_LEAST = 1e-4  # probability, and most below 1, whose logit is taken
_SUREST, _STEEPNESS, _HALFWAY = 10.0, 16.0, 0.5  # of the mask prompt's logits over likeness


class ReferencePrompting(Method):
    """The encoder, and what it knows of its references.

    Args:
        encoder: the network.
        own: whether it is going to carry references.
    """

    finds: ClassVar[bool] = True
    takes_references: ClassVar[bool] = True

    def __init__(self, encoder: VisualReferencePrompts, *, own: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.references = _Known(len(encoder.queries)) if own else None

    @classmethod
    def _blank(cls, settings: Mapping[str, Any], names: Collection[str]) -> Self:
        """As Method's; with references if the file has them."""
        queries = settings.get("queries", QUERIES)
        if not isinstance(queries, int) or not 1 <= queries <= _MOST_QUERIES:
            raise ValueError(f"{queries!r:.20} queries")
        own, dense = (
            any(name.startswith(prefix) for name in names)
            for prefix in ("references.", "encoder.dense_prompt.")
        )
        return cls(VisualReferencePrompts(queries, dense=dense), own=own)

    def with_references(self, sam: Sam, references: Sequence[Marked]) -> "ReferencePrompting":
        """As Method's: the same encoder with other references.

        What is annotated by points or scribbles alone is completed first: a few cells tell little
        of where else such a thing is (benchmarks/README.md).
        """
        whole = [self._completed(sam, one) if one.sparse else one for one in references]
        return self._with(sam, whole)

    def _completed(self, sam: Sam, reference: Marked) -> Marked:
        """A reference with the answer to its own annotation as annotation."""
        decoder, embedding = sam.decoder, reference.embedding
        with torch.inference_mode():
            learned = self._with(sam, [reference])
            tokens, cells = learned.attend(sam, embedding, [Prompt.of_everything()])
            blocks = decoder.mask_blocks(tokens, cells, single_mask(tokens[:, :1, :4]))
        rows, columns = reference.share.shape
        on_it = (blocks[0, 0] > 0).float().mean(dim=-1).view(embedding.features.shape[-2:])
        answered = on_it[:rows, :columns].cpu().numpy()
        return Marked(embedding, np.maximum(answered, reference.share))

    def _with(self, sam: Sam, references: Sequence[Marked]) -> "ReferencePrompting":
        other = ReferencePrompting(self.encoder, own=True).to(sam.device)
        assert other.references is not None
        where, what = fit_directions(references)
        with torch.inference_mode():
            digest = self.encoder.digest([marked_cells(sam, one) for one in references])
        other.references.fill(digest, where, what)
        return other.requires_grad_(False).eval()

    def attend(
        self, sam: Sam, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        """As Method's: the references' tokens, and those of points and boxes if there are any."""
        known = self._known
        likeness = known.direction(0).likeness(embedding)
        learned = self.encoder(known.digest, target_cells(sam, embedding, likeness))
        asked = [likely_place(likeness, embedding)] if prompts[0].everything else prompts
        own = sam.encode_prompts(list(asked), embedding.original_size)
        tokens = torch.cat([own, learned.expand(len(prompts), -1, -1)], dim=1)
        features = sam.image_cells(embedding).features
        dense = dense_prompt(sam, self.encoder, features, likeness, known.prototype)
        return sam.decoder.attend(features, sam.image_pe, tokens, dense)

    def mix(self, estimates: Tensor) -> Tensor:
        """As Method's: SAM's single mask."""
        return single_mask(estimates)

    def search(self, embedding: Embedding) -> "Everything":
        """As Method's: all of it at once."""
        where, what = (self._known.direction(row).likeness(embedding) for row in (0, 1))
        prior = LocationPrior(where, what, embedding, negative=False)
        return Everything(prior, weighs_logits=self.encoder.dense_prompt is not None)

    @property
    def _known(self) -> "_Known":
        if self.references is None:
            raise AdapterError(
                "the adapter was trained on several classes and carries no reference: segment and "
                "evaluate can be told what to look for, --reference IMAGE --reference-mask FILE."
            )
        return self.references


class Everything:
    """A search (method.Search) that asks once, for all there is; or for what is in a place.

    Args:
        prior: where the object is likely, and whether an answer is on something like it.
        weighs_logits: whether an answer's own logits tell, too, whether it is right: those that a
            learned dense prompt has a part in do.
    """

    def __init__(self, prior: LocationPrior, *, weighs_logits: bool) -> None:
        self.patience = prior.patience
        self._prior, self._weighs_logits, self._asked = prior, weighs_logits, False

    def propose(self, within: NDArray[np.float32] | None = None) -> Prompt | None:
        """Everything, the first time; or a point in the most likely place of a box."""
        if within is not None:
            return self._prior.propose(within)
        if self._asked:
            return None
        self._asked = True
        return Prompt.of_everything()

    def presence(self, answer: Answer) -> float:
        """How likely it is that an answer is right: by its likeness, and by its own logits."""
        alike = self._prior.presence(answer)
        on_it = answer.low_res_logits[answer.low_res_logits > 0]
        if not self._weighs_logits or not on_it.size:
            return alike
        sure = float((1 / (1 + np.exp(-on_it))).mean())
        logit = _OF_LIKENESS * _logit(alike) + _OF_LOGITS * _logit(sure) - _THRESHOLD
        return 1 / (1 + math.exp(-logit))

    def suppress(self, mask: NDArray[np.bool_], *, accepted: bool) -> None:
        """There is no second look."""


def _logit(probability: float) -> float:
    inside = min(max(probability, _LEAST), 1 - _LEAST)
    return math.log(inside / (1 - inside))


class _Known(nn.Module):
    """What is kept of references, as tensors of the adapter file."""

    tokens: Tensor
    prototype: Tensor
    directions: Tensor
    offsets: Tensor

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.zeros(queries, WIDTH))
        self.register_buffer("prototype", torch.zeros(WIDTH))
        self.register_buffer("directions", torch.zeros(2, WIDTH))
        self.register_buffer("offsets", torch.zeros(2))

    @property
    def digest(self) -> Digest:
        return Digest(self.tokens, self.prototype)

    def direction(self, row: int) -> Direction:
        return Direction(self.directions[row].cpu().numpy(), float(self.offsets[row]))

    def fill(self, digest: Digest, where: Direction, what: Direction) -> None:
        self.tokens.copy_(digest.tokens)
        self.prototype.copy_(digest.prototype)
        self.directions.copy_(torch.from_numpy(np.stack([where.vector, what.vector])))
        self.offsets.copy_(torch.tensor([where.offset, what.offset]))


def single_mask(like: Tensor) -> Tensor:
    """Of the four outputs, the one for prompts that are clear; (..., 4) as `like`."""
    return like.new_tensor([1.0, 0.0, 0.0, 0.0]).expand_as(like)


def fit_directions(references: Sequence[Marked]) -> tuple[Direction, Direction]:
    """Where to look for what is marked, and what tells whether something is that (targets.py)."""
    traces = _traces(references)
    where, what = (Direction.fit(traces, background=b, peak=False) for b in (True, False))
    return where, what


def where_to_look(references: Sequence[Marked]) -> Direction:
    """The first of `fit_directions` alone, which is all that a first guess needs."""
    return Direction.fit(_traces(references), background=True, peak=False)


def _traces(references: Sequence[Marked]) -> list[Trace]:
    traces = [Trace.of_shares([one.share], one.embedding) for one in references]
    known = [trace for trace in traces if trace is not None]
    assert len(known) == len(references)
    return known


def likely_place(likeness: NDArray[np.float32], embedding: Embedding) -> Prompt:
    """A point in the cell that is most like the references' object."""
    row, column = divmod(int(likeness.argmax()), likeness.shape[1])
    return Prompt.of([point_in_cell((row, column), embedding)])


def dense_prompt(
    sam: Sam,
    encoder: VisualReferencePrompts,
    features: Tensor,
    likeness: NDArray[np.float32],
    prototype: Tensor,
) -> Tensor:
    """Likeness as a mask prompt, and what was learned to add to it: (1, 256, h, w) embeddings.

    Args:
        sam: the frozen model.
        encoder: what was learned.
        features: (1, 256, h, w) of the target.
        likeness: (rows, columns) of its cells without the padding.
        prototype: (256,) of the references.
    """
    mask = sam.encode_masks(_likely_mask(likeness, features.shape[-2:]).to(sam.device))
    if encoder.dense_prompt is None:
        return mask
    guess = F.pad(torch.from_numpy(likeness.clip(0, 1)), _padding(likeness, features.shape[-2:]))
    learned: Tensor = encoder.dense_prompt(features, guess.to(sam.device), prototype)
    return mask + learned


def _likely_mask(likeness: NDArray[np.float32], grid: tuple[int, ...]) -> Tensor:
    """Likeness as logits of SAM's mask prompt, (1, 1, 4h, 4w)."""
    steep = torch.from_numpy(likeness - _HALFWAY) * _STEEPNESS
    surest = steep.clamp(-_SUREST, _SUREST)
    logits = F.pad(surest, _padding(likeness, grid), value=-_SUREST)
    return F.interpolate(logits[None, None], scale_factor=4, mode="bilinear")


def _padding(likeness: NDArray[np.float32], grid: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What lies behind an image's cells in the (h, w) grid, as F.pad takes it."""
    rows, columns = likeness.shape
    return 0, grid[1] - columns, 0, grid[0] - rows


def target_cells(sam: Sam, embedding: Embedding, likeness: NDArray[np.float32]) -> CellsAndMask:
    """A target's cells as the encoder takes them, with the guess where the object is."""
    return cells_and_mask(sam, embedding, likeness.clip(0, 1))


def marked_cells(sam: Sam, reference: Marked) -> CellsAndMask:
    """A reference's cells as the encoder takes them."""
    return cells_and_mask(sam, reference.embedding, reference.share)


def cells_and_mask(sam: Sam, embedding: Embedding, share: NDArray[np.float32]) -> CellsAndMask:
    """An image's cells as the encoder takes them, with (rows, columns) of each one's share."""
    rows, columns = cells_inside(embedding)
    features = torch.from_numpy(inner_cells(embedding)).flatten(0, 1).to(sam.device)
    pe = sam.image_pe[0, :, :rows, :columns].permute(1, 2, 0).flatten(0, 1)
    mask = torch.from_numpy(share.reshape(-1)).to(sam.device)
    normed = F.layer_norm(features, features.shape[-1:])
    return CellsAndMask(normed, pe, mask, torch.ones_like(mask))
