"""How surely clicks are on the mask that answers them.

An adapter that tells the decoder of every place whether its things are there answers a click beside
one with its mask all the same, and the decoder's tokens hardly tell such a click from others. Its
mask does: the click is not on it (presence.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.decoder import FrozenDecoder
from samtune.input_frame import Embedding
from samtune.prompts import Prompt

_SURE = 4.0  # beyond about that, logits are all alike
_LOGITS = 4  # on a cell's side


@dataclass(frozen=True, eq=False)
class Asked:
    """B prompts of one form, and what the decoder made of them.

    Attributes:
        tokens: (B, T, C) from `FrozenDecoder.attend`.
        cells: (B, N, C) from the same.
        mixing: (B, 4) how much of each output's logits the returned mask is made of.
        places: (B, P, 2) xy of the points in logits; P may be 0.
        labels: (B, P) 1 object, 0 background.
    """

    tokens: Tensor
    cells: Tensor
    mixing: Tensor
    places: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls,
        prompts: Sequence[Prompt],
        embedding: Embedding,
        tokens: Tensor,
        cells: Tensor,
        mixing: Tensor,
    ) -> Self:
        """The same of prompts in pixels of an image; the others as above."""
        side = _LOGITS * embedding.features.shape[-1]
        places = np.stack([places_of(prompt, embedding, side) for prompt in prompts])
        labels = np.stack([prompt.labels for prompt in prompts])
        at, kinds = torch.from_numpy(places.astype(np.float32)), torch.from_numpy(labels)
        return cls(tokens, cells, mixing, at.to(tokens.device), kinds.to(tokens.device))

    def on_mask(self, decoder: FrozenDecoder) -> Tensor:
        """From -1, surely off the mask, to 1, surely on it, (B,): the mean over the clicks.

        It is 1 where nothing is clicked: a box is around its mask.
        """
        hit = self.labels == 1
        if not hit.any():
            return torch.ones(len(self.labels), device=self.labels.device)
        logits = decoder.logits_at(self.tokens, self.cells, self.mixing, self.places)
        surely = (torch.tanh(logits / _SURE) * hit).sum(dim=1) / hit.sum(dim=1).clamp(min=1)
        return torch.where(hit.any(dim=1), surely, 1.0)


def places_of(prompt: Prompt, embedding: Embedding, side: int) -> NDArray[np.floating]:
    """Where a prompt's points are on a grid over the padded square.

    Args:
        prompt: in pixels of the image.
        embedding: the image.
        side: of the grid.

    Returns:
        (P, 2) xy in steps of the grid; the centre of the first is half of one.
    """
    to_input = np.divide(embedding.input_size, embedding.original_size)[::-1]  # (x, y)
    places: NDArray[np.floating] = (prompt.points + 0.5) * to_input * side / embedding.padded_side
    return places
