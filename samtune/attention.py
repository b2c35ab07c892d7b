"""Attention from a few tokens to many cells, projecting only the tokens.

Attention of T tokens to the N = 4096 cells of an image usually projects all cells. The other way
round, per head, with x_n a cell and q_t a token's query:

    q_t · (W_k x_n + b_k)      =  (W_kᵀ q_t) · x_n + a constant that softmax drops
    Σ_n A_tn (W_v x_n + b_v)   =  W_v (Σ_n A_tn x_n) + b_v

The query is folded through the key weights, the cells are mixed as they are, and what was mixed
is unfolded through the value weights: 2 · N · (heads · T) · C multiply-accumulates.
"""

from typing import Any, Protocol

import torch
from torch import Tensor


class Projections(Protocol):
    """The four linear layers of an attention: segment-anything's `Attention` has them."""

    q_proj: Any
    k_proj: Any
    v_proj: Any
    out_proj: Any
    num_heads: int


def fold_queries(attention: Projections, tokens: Tensor) -> Tensor:
    """Take tokens' queries through the key weights, to meet cells as they are.

    Args:
        attention: the layer.
        tokens: (B, T, C), positional part included.

    Returns:
        (B, heads · T, C) folded and scaled queries.
    """
    queries: Tensor = split_heads(attention, attention.q_proj(tokens))
    keys = attention.k_proj.weight.view(attention.num_heads, -1, tokens.shape[-1])
    folded: Tensor = (queries * queries.shape[-1] ** -0.5) @ keys
    return folded.flatten(1, 2)


def unfold_values(attention: Projections, mixed: Tensor, count: int) -> Tensor:
    """Take mixed cells through value and output weights.

    Args:
        attention: the layer.
        mixed: (B, heads · T, C) from `gather`.
        count: T.

    Returns:
        (B, T, C) what plain attention returns.
    """
    heads = attention.num_heads
    weight = attention.v_proj.weight.view(heads, -1, mixed.shape[-1])
    values = mixed.view(-1, heads, count, mixed.shape[-1]) @ weight.transpose(1, 2)
    merged = values.transpose(1, 2).flatten(2) + attention.v_proj.bias
    return attention.out_proj(merged)  # type: ignore[no-any-return]


def fold_outputs(attention: Projections, tokens: Tensor) -> Tensor:
    """The other way round: what cells take from tokens, as it is added to them.

    A cell's weights sum to one in every head, so that each head's tokens can carry their share
    of the output's bias.

    Args:
        attention: the layer, from cells to tokens.
        tokens: (B, T, C) the values.

    Returns:
        (B, heads · T, C), of which each cell takes Σ_t P_nt per head.
    """
    heads = attention.num_heads
    weight = attention.out_proj.weight.view(tokens.shape[-1], heads, -1).permute(1, 2, 0)
    outputs = split_heads(attention, attention.v_proj(tokens)) @ weight
    shared: Tensor = outputs + attention.out_proj.bias / heads
    return shared.flatten(1, 2)


def gather(
    queries: Tensor, cells: Tensor, cells_pe: Tensor, guide: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Let folded queries attend to cells.

    Args:
        queries: (B, Q, C) from `fold_queries`.
        cells: (I, N, C) what is mixed; B a multiple of I.
        cells_pe: (I, N, C) what is attended to.
        guide: (I, N) what to add to every query's scores; None is plain attention.

    Returns:
        (I, B / I · Q, N) attention weights and (B, Q, C) mixed cells.
    """
    scores = meet(queries.reshape(cells.shape[0], -1, cells.shape[-1]), cells_pe.transpose(1, 2))
    if guide is not None:
        scores = scores + guide[:, None]
    weights = torch.softmax(scores, dim=-1)
    return weights, meet(weights, cells).view(queries.shape)


def meet(few: Tensor, cells: Tensor) -> Tensor:
    """A product of a few rows with cells, in the cells' type; the result has that of the rows.

    Cells may be in bfloat16 (precision.py), where the product takes a third of the time.
    """
    return (few.to(cells.dtype) @ cells).to(few.dtype)


def gather_backward(
    d_mixed: Tensor, weights: Tensor, cells: Tensor, cells_pe: Tensor
) -> tuple[Tensor, Tensor]:
    """The backward of `gather`, less the gradient of the cells.

    Args:
        d_mixed: (B, Q, C) gradient of the mixed cells.
        weights: (I, B / I · Q, N) from `gather`.
        cells: as for `gather`.
        cells_pe: as for `gather`.

    Returns:
        Gradients of the scores (I, B / I · Q, N) and of the queries (B, Q, C).
    """
    d_weights = meet(d_mixed.reshape(cells.shape[0], -1, cells.shape[-1]), cells.transpose(1, 2))
    d_scores = softmax_backward(d_weights, weights, -1)
    return d_scores, meet(d_scores, cells_pe).view(d_mixed.shape)


def softmax_backward(gradient: Tensor, shares: Tensor, dim: int) -> Tensor:
    """The gradient of the scores from that of their softmax; the latter is used up."""
    return gradient.sub_((gradient * shares).sum(dim=dim, keepdim=True)).mul_(shares)


def split_heads(attention: Projections, projected: Tensor) -> Tensor:
    """(B, T, heads · c) to (B, heads, T, c)."""
    batch, count, _ = projected.shape
    return projected.view(batch, count, attention.num_heads, -1).transpose(1, 2)
