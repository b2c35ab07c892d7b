"""The visual reference prompt encoder: annotated images become prompt tokens for another image.

Sun et al. 2024, *VRP-SAM: SAM with Visual Reference Prompt* (https://arxiv.org/abs/2402.17726):
learned queries look at the cells of the references, beside each of which stands how much of it is
annotated, then at the cells of the target image, beside each of which stands a first guess of where
the object is. What they have become are prompt tokens for the frozen decoder.

As in the paper: feature augmenter (a cell, the prototype of the object, ten times the mask, through
one layer with ReLU), 50 queries, one layer of four heads, norm after each step, no MLP. Other than
there: SAM's own embedding takes the place of a ResNet's features, so that nothing is encoded twice,
and needs a norm before (image_cells.py); cells of all references are looked at together, so that
an answer costs the same whatever their number; queries take the positions of the target's cells
along, which is what SAM's own prompts are made of; and a dense prompt may be learned beside the
tokens (reference_dense_prompt.py; benchmarks/README.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.reference_dense_prompt import EMPHASIS, ReferenceDensePrompt

WIDTH = 256  # channels of a token and of an image cell, fixed by SAM
HEADS = 4
QUERIES = 50


@dataclass(frozen=True, eq=False)
class CellsAndMask:
    """N cells of an image, without the padding.

    Attributes:
        features: (N, C), each normed.
        pe: (N, C) positional encoding.
        share: (N,) 0 to 1, how much of the object is in a cell: known, or guessed.
        stands_for: (N,) how many cells each one stands for; 1 where none is left out.
    """

    features: Tensor
    pe: Tensor
    share: Tensor
    stands_for: Tensor

    def mean(self) -> Tensor:
        """(C,) of what is the object; a sum, for a product would be slow in bfloat16."""
        weights = self.share * self.stands_for
        return (weights[:, None] * self.features).sum(dim=0) / weights.sum()


@dataclass(frozen=True, eq=False)
class Digest:
    """What references have come to, before any target is seen.

    Attributes:
        tokens: (Q, C) the queries.
        prototype: (C,) mean of the object's normed cells.
    """

    tokens: Tensor
    prototype: Tensor


class VisualReferencePrompts(nn.Module):
    """From references and a target image to prompt tokens.

    Args:
        queries: Q, how many tokens.
        width: C, channels of cells and tokens.
        heads: of each attention.
        first_size: of the tokens at the start, as a share of a normed one's.
        dense: whether a dense prompt is learned beside the tokens.
    """

    def __init__(
        self,
        queries: int = QUERIES,
        width: int = WIDTH,
        heads: int = HEADS,
        first_size: float = 1.0,
        *,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.augment = nn.Linear(2 * width + 1, width, bias=False)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.to_references = _Step(width, heads)
        self.among_themselves = _Step(width, heads)
        self.to_target = _Step(width, heads)
        self.at_the_end = _Step(width, heads)
        nn.init.constant_(self.at_the_end.norm.weight, first_size)
        self.dense_prompt = ReferenceDensePrompt(channels=width) if dense else None

    def digest(self, references: Sequence[CellsAndMask]) -> Digest:
        """Look at the references, at least one, each with something annotated."""
        prototype = torch.stack([one.mean() for one in references]).mean(dim=0)
        memory = torch.cat([self._augmented(one, prototype) for one in references])
        keys = memory + torch.cat([one.pe for one in references])
        stands_for = torch.cat([one.stands_for for one in references])
        tokens = self.to_references(self.queries, keys, memory, stands_for)
        return Digest(self.among_themselves(tokens, tokens, tokens), prototype)

    def forward(self, digest: Digest, target: CellsAndMask) -> Tensor:
        """Look at a target.

        Args:
            digest: of the references.
            target: an image, with a guess of where the object is.

        Returns:
            (Q, C) sparse prompt embeddings.
        """
        located = self._augmented(target, digest.prototype) + target.pe
        tokens = self.to_target(digest.tokens, located, located, target.stands_for)
        prompt: Tensor = self.at_the_end(tokens, tokens, tokens)
        return prompt

    def _augmented(self, cells: CellsAndMask, prototype: Tensor) -> Tensor:
        """(N, C); the prototype is the same for all cells, and so is what the layer makes of it."""
        width = len(prototype)
        weight = self.augment.weight
        of_cell, of_prototype, of_mask = weight[:, :width], weight[:, width:-1], weight[:, -1]
        shared = of_prototype @ prototype
        marked = EMPHASIS * cells.share[:, None] * of_mask
        return F.relu(F.linear(cells.features, of_cell) + shared + marked)


class _Step(nn.Module):
    """Attention with a residual, and a norm after it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Tensor, keys: Tensor, values: Tensor, stands_for: Tensor | None = None
    ) -> Tensor:
        mask = None
        if stands_for is not None:  # a key that stands for two has twice the weight
            mask = stands_for.log().expand(len(tokens), -1)
        taken, _ = self.attention(tokens, keys, values, need_weights=False, attn_mask=mask)
        moved: Tensor = self.norm(tokens + taken)
        return moved
