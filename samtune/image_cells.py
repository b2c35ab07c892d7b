"""What depends on an image alone, computed once for all prompts on it.

In the decoder's first layer the cells are still the image's own, whatever the prompt: what
segment-anything projects for every prompt (keys and values for the tokens to gather from, queries
of the cells themselves; 3 · N · 256 · 128 multiply-accumulates) is the same for all of them. Per
prompt there remain products with 16 channels a head instead of 256. The later layers' cells know
the prompt, and go the way of attention.py.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from samtune.attention import Projections, fold_outputs, split_heads


@dataclass(frozen=True, eq=False)
class ImageCells:
    """The N cells of one image, with C channels, as prompts meet them.

    Attributes:
        features: (1, C, h, w) the image embedding.
        cells: (1, N, C) the same with the dense prompt embedding added.
        pe: (1, N, C) positional encoding.
        keys: (heads, c, N) of the first layer's attention from tokens to cells.
        values: (heads, N, c) of the same; their bias is in them.
        queries: (heads, c, N) of its attention from cells to tokens.
        normed: what the PLM takes, see `normalise_cells`: (1, N, C), and the same with `pe` added.
    """

    features: Tensor
    cells: Tensor
    pe: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    normed: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls,
        transformer: Any,
        image_embeddings: Tensor,
        image_pe: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> Self:
        """Prepare an image.

        Args:
            transformer: segment-anything's TwoWayTransformer, frozen.
            image_embeddings: (1, C, h, w).
            image_pe: (1, C, h, w) the dense positional encoding.
            dense_prompt_embeddings: (1, C, 1, 1), or (1, C, h, w) one dense prompt for the image.
        """
        cells = cell_by_cell(image_embeddings + dense_prompt_embeddings)
        pe = cell_by_cell(image_pe)
        gather = transformer.layers[0].cross_attn_token_to_image
        ask = transformer.layers[0].cross_attn_image_to_token
        return cls(
            image_embeddings,
            cells,
            pe,
            keys=_by_head(gather, gather.k_proj(cells + pe)).mT.contiguous(),
            values=_by_head(gather, gather.v_proj(cells)),
            queries=_by_head(ask, ask.q_proj(cells + pe)).mT.contiguous(),
            normed=normalise_cells(image_embeddings, image_pe),
        )


def first_layer(layer: Any, prompt: Tensor, image: ImageCells) -> tuple[Tensor, Tensor]:
    """The transformer's first layer on all prompts of an image.

    Args:
        layer: segment-anything's TwoWayAttentionBlock.
        prompt: (B, T, C) tokens.
        image: the image.

    Returns:
        (B, T, C) tokens and (B, N, C) cells.
    """
    to_cells, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    tokens = layer.norm1(layer.self_attn(q=prompt, k=prompt, v=prompt))
    scores = _side_by_side(to_cells, to_cells.q_proj(tokens + prompt)) @ image.keys
    gathered = torch.softmax(scores, dim=-1) @ image.values
    gathered = gathered.view(-1, *prompt.shape[:2], gathered.shape[-1])
    gathered = gathered.permute(1, 2, 0, 3).flatten(2)
    tokens = layer.norm2(tokens + to_cells.out_proj(gathered))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    scores = _side_by_side(to_tokens, to_tokens.k_proj(tokens + prompt)) @ image.queries
    scores = scores.view(-1, *prompt.shape[:2], scores.shape[-1])
    shares = torch.softmax(scores, dim=2)
    shares = shares.transpose(0, 1).flatten(1, 2)
    cells = image.cells.expand(len(prompt), -1, -1)
    moved = torch.baddbmm(cells, shares.mT, fold_outputs(to_tokens, tokens))
    return tokens, layer.norm4(moved)


def cell_by_cell(features: Tensor) -> Tensor:
    """(I, C, h, w) to (I, N, C), row by row; a view where they lie in memory like that."""
    return features.flatten(2).transpose(1, 2).contiguous()


def normalise_cells(image_embeddings: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
    """Bring each cell to mean 0 and standard deviation 1, as the PLM takes it.

    SAM's embeddings are small (a standard deviation of 0.1 with MobileSAM) beside the positional
    encoding and the tokens; without a norm the tokens hardly see the image.

    Args:
        image_embeddings: (I, C, h, w).
        image_pe: (1, C, h, w).

    Returns:
        (I, N, C) what tokens take of the cells, and (I, N, C) what they attend to: the same with
        the positional encoding added.
    """
    cells = cell_by_cell(image_embeddings)
    normed = F.layer_norm(cells, cells.shape[-1:])
    return normed, normed + cell_by_cell(image_pe.to(normed.dtype))


def _side_by_side(attention: Projections, projected: Tensor) -> Tensor:
    """(B, T, heads · c) to (heads, B · T, c), scaled: all prompts meet the same cells."""
    split = split_heads(attention, projected).transpose(0, 1).flatten(1, 2)
    scaled: Tensor = split * split.shape[-1] ** -0.5
    return scaled


def _by_head(attention: Projections, projected: Tensor) -> Tensor:
    """(1, N, heads · c) to (heads, N, c)."""
    return split_heads(attention, projected)[0].contiguous()
