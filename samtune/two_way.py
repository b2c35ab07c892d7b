"""The decoder's two-way transformer, frozen, with less work for the same numbers.

A few tokens T (the IoU token, four mask tokens, the prompt) and the N = 4096 cells of an image
attend to each other (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix A).
segment-anything projects all cells for every prompt; here the few tokens go to the cells
instead, from tokens to cells as in attention.py, and from cells to tokens, per head, with x_n a
cell, k_t and v_t a token's key and value:

    (W_q x_n + b_q) · k_t  =  (W_qᵀ k_t) · x_n + b_q · k_t
    W_o Σ_t P_nt v_t       =  Σ_t P_nt (W_o v_t)

so that a layer costs 4 · N · (heads · T) · 256 multiply-accumulates instead of
6 · N · 128 · 256 plus the attention itself. Prompts of one image share its cells through the
first layer.

Backward, the tokens need a gradient, and the cells where a dense prompt is learned. What is done
to tokens is left to autograd; what is done to cells is written out, because each use of the cells
adds a product of two thin matrices to their gradient, Σ_k a_kn b_k: put side by side, all uses of
a layer's cells are one matrix product onto the gradient that came from above, and none makes a
gradient of all cells of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from samtune.attention import (
    Projections,
    fold_outputs,
    fold_queries,
    gather,
    gather_backward,
    meet,
    softmax_backward,
    split_heads,
    unfold_values,
)
from samtune.image_cells import ImageCells, first_layer


@dataclass(frozen=True, eq=False)
class Guidance:
    """What is known of a target, for the frozen transformer to use (persam.py).

    Zhang et al. 2023 (https://arxiv.org/abs/2305.03048), section 3.2.

    Attributes:
        attention: (I, N) target-guided attention: what every attention from tokens to cells of the
            layers prefers; None leaves it as it is.
        target: (C,) target-semantic prompting: added to all tokens before each layer, or None.
    """

    attention: Tensor | None = None
    target: Tensor | None = None


def two_way(
    transformer: Any,
    prompt: Tensor,
    cells: Tensor,
    cells_pe: Tensor,
    guidance: Guidance | None = None,
) -> tuple[Tensor, Tensor]:
    """Let tokens and cells attend to each other.

    Args:
        transformer: segment-anything's TwoWayTransformer, frozen.
        prompt: (B, T, C) tokens.
        cells: (I, N, C), B a multiple of I, the prompts of one image in a row.
        cells_pe: (1, N, C) positional encoding.
        guidance: towards a target; for inference only.

    Returns:
        (B, T, C) tokens and (B, N, C) cells.

    Raises:
        ValueError: guidance where a gradient is asked for.
    """
    guidance = guidance or Guidance()
    result = _Attend.apply(prompt, cells, cells_pe, transformer, guidance)  # type: ignore[no-untyped-call]
    return cast(tuple[Tensor, Tensor], result)


def two_way_on_image(
    transformer: Any, prompt: Tensor, image: ImageCells, wanted: int
) -> tuple[Tensor, Tensor]:
    """The same for prompts of one image that was prepared for them, without gradients.

    Args:
        transformer: as for `two_way`.
        prompt: (B, T, C) tokens.
        image: the image.
        wanted: how many of the tokens, the first ones, the caller wants back.

    Returns:
        (B, wanted, C) tokens and (B, N, C) cells.
    """
    first, *others = transformer.layers
    tokens, cells = first_layer(first, prompt, image)
    for upstream in others:
        layer = _Layer(upstream, tokens, prompt, cells, image.pe, keep=False, first=False)
        tokens, cells = layer.tokens, layer.moved
    attention, tokens = transformer.final_attn_token_to_image, tokens[:, :wanted]
    queries = fold_queries(attention, tokens + prompt[:, :wanted])
    _, mixed = gather(queries, cells, cells + image.pe)
    tokens = tokens + unfold_values(attention, mixed, wanted)
    return transformer.norm_final_attn(tokens), cells


def _fold_answers(
    attention: Projections, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What cells see of the tokens: (B, heads · T, C), (B, heads · T, 1), and take from them."""
    heads, width = attention.num_heads, keys.shape[-1]
    projected = split_heads(attention, attention.k_proj(keys))
    projected = projected * projected.shape[-1] ** -0.5
    folded = projected @ attention.q_proj.weight.view(heads, -1, width)
    offset = projected @ attention.q_proj.bias.view(heads, -1, 1)
    return folded.flatten(1, 2), offset.flatten(1, 2), fold_outputs(attention, values)


class _Stage:
    """A step on tokens, with autograd's graph of it alone."""

    def __init__(self, step: Callable[..., Any], inputs: tuple[Tensor, ...], keep: bool) -> None:
        with torch.set_grad_enabled(keep):
            inputs = tuple(one.detach().requires_grad_(keep) for one in inputs)
            result = step(*inputs)
        graph: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
        self.outputs = tuple(one.detach() for one in graph)
        if keep:
            self.inputs, self.graph = inputs, graph

    def backward(self, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the inputs from those of the outputs."""
        return torch.autograd.grad(self.graph, self.inputs, gradients)


class _Layer:
    """One layer's forward, and what its backward needs."""

    def __init__(
        self,
        layer: Any,
        tokens: Tensor,
        prompt: Tensor,
        cells: Tensor,
        pe: Tensor,
        *,
        keep: bool,
        first: bool,
        guide: Tensor | None = None,
    ) -> None:
        self.cells, self.cells_pe = cells, cells + pe
        self.heads = layer.cross_attn_image_to_token.num_heads
        self.ask = _Stage(lambda *given: _ask(layer, *given), (tokens, prompt), keep)
        held, self.queries = self.ask.outputs
        self.weights, mixed = gather(self.queries, cells, self.cells_pe, guide)
        self.tell = _Stage(lambda *given: _tell(layer, *given), (held, mixed, prompt), keep)
        self.tokens, self.folded, offset, self.given = self.tell.outputs
        scores = self.folded.reshape(cells.shape[0], -1, cells.shape[-1])
        scores = meet(scores, self.cells_pe.transpose(1, 2)).view(*self.folded.shape[:2], -1)
        self.shares = torch.softmax(self._by_head(scores + offset), dim=2).flatten(1, 2)
        cells = _for_each_prompt(cells, len(prompt))
        # The first layer's cells are the caller's; the next one's are used up, if none asks back.
        add = torch.baddbmm if keep or first else Tensor.baddbmm_
        shares, given = self.shares.to(cells.dtype), self.given.to(cells.dtype)
        moved = add(cells, shares.transpose(1, 2), given)
        self.norm = _Stage(partial(_normalised, layer.norm4), (moved,), keep)
        (self.moved,) = self.norm.outputs

    def _by_head(self, scores: Tensor) -> Tensor:
        return scores.view(len(scores), self.heads, -1, scores.shape[-1])

    def backward(
        self, d_tokens: Tensor, d_moved: Tensor, *, to_cells: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of the layer's tokens, prompt and, where they are wanted, cells."""
        images, count, _ = self.cells.shape
        (d_cells,) = self.norm.backward(d_moved)
        d_given = meet(self.shares, d_cells)
        d_scores = self._by_head(meet(self.given, d_cells.transpose(1, 2)))
        d_scores = softmax_backward(d_scores, self._by_head(self.shares), 2).flatten(1, 2)
        d_folded = meet(d_scores.reshape(images, -1, count), self.cells_pe)
        d_offset = d_scores.sum(dim=2, keepdim=True)
        d_held, d_mixed, d_prompt = self.tell.backward(
            d_tokens, d_folded.view(self.folded.shape), d_offset, d_given
        )
        d_weights, d_queries = gather_backward(d_mixed, self.weights, self.cells, self.cells_pe)
        d_tokens, more = self.ask.backward(d_held, d_queries)
        if not to_cells:
            return d_tokens, d_prompt + more, None
        if images < len(d_cells):  # in the first layer, where all prompts pull on their image's
            d_cells = d_cells.view(images, -1, *d_cells.shape[1:]).sum(dim=1)
        width = d_cells.shape[-1]
        rows = d_scores.reshape(images, -1, count), d_weights, self.weights
        columns = (one.reshape(images, -1, width) for one in (self.folded, self.queries, d_mixed))
        thin, vectors = (torch.cat([*one], dim=1).to(d_cells.dtype) for one in (rows, columns))
        return d_tokens, d_prompt + more, d_cells.baddbmm_(thin.transpose(1, 2), vectors)


def _normalised(norm: nn.LayerNorm, cells: Tensor) -> Tensor:
    """Normalise cells of any type; a GPU's layer_norm takes weights of no other, the CPU's does."""
    if cells.device.type == "cpu":
        return cast(Tensor, norm(cells))
    weight, bias = norm.weight.to(cells.dtype), norm.bias.to(cells.dtype)
    return F.layer_norm(cells, norm.normalized_shape, weight, bias, norm.eps)


def _for_each_prompt(cells: Tensor, prompts: int) -> Tensor:
    """(I, N, C) to (B, N, C), without a copy where all prompts are on one image."""
    each = prompts // cells.shape[0]
    return cells[:, None].expand(-1, each, -1, -1).flatten(0, 1)


def _ask(layer: Any, tokens: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Attention among tokens; what they go to the cells with."""
    if layer.skip_first_layer_pe:
        tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
    else:
        query = tokens + prompt
        tokens = tokens + layer.self_attn(q=query, k=query, v=tokens)
    tokens = layer.norm1(tokens)
    return tokens, fold_queries(layer.cross_attn_token_to_image, tokens + prompt)


def _tell(layer: Any, tokens: Tensor, mixed: Tensor, prompt: Tensor) -> tuple[Tensor, ...]:
    """What tokens make of the cells they gathered, and what they have for the cells."""
    gathered = unfold_values(layer.cross_attn_token_to_image, mixed, tokens.shape[1])
    tokens = layer.norm2(tokens + gathered)
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    return tokens, *_fold_answers(layer.cross_attn_image_to_token, tokens + prompt, tokens)


class _Attend(torch.autograd.Function):
    """All layers and the last attention as one node of autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any,
        prompt: Tensor,
        cells: Tensor,
        pe: Tensor,
        transformer: Any,
        guidance: Guidance,
    ) -> tuple[Tensor, Tensor]:
        keep = prompt.requires_grad or cells.requires_grad
        guide, target = guidance.attention, guidance.target
        if keep and not (guide is None and target is None):
            raise ValueError("guidance has no backward: it is for inference")
        if target is not None:
            prompt = prompt + target
        attention, norm = transformer.final_attn_token_to_image, transformer.norm_final_attn
        tokens, layers = prompt, []
        for number, upstream in enumerate(transformer.layers):
            if target is not None and number:
                tokens = tokens + target
            first = number == 0
            layer = _Layer(upstream, tokens, prompt, cells, pe, keep=keep, first=first, guide=guide)
            tokens, cells = layer.tokens, layer.moved
            if keep:
                layers.append(layer)
            del layer
        cells_pe = cells + pe
        ask = _Stage(
            lambda tokens, prompt: fold_queries(attention, tokens + prompt), (tokens, prompt), keep
        )
        weights, mixed = gather(ask.outputs[0], cells, cells_pe)
        finish = _Stage(
            lambda tokens, mixed: norm(tokens + unfold_values(attention, mixed, tokens.shape[1])),
            (tokens, mixed),
            keep,
        )
        if keep:
            ctx.layers, ctx.final = layers, (ask, finish, weights, cells, cells_pe)
        # New tensors: were one that ctx holds to be returned, each would keep the other alive.
        return finish.outputs[0].detach(), cells.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_tokens: Tensor, d_cells: Tensor) -> Any:
        ask, finish, weights, cells, cells_pe = ctx.final
        d_held, d_mixed = finish.backward(d_tokens)
        d_weights, d_queries = gather_backward(d_mixed, weights, cells, cells_pe)
        d_tokens, d_prompt = ask.backward(d_queries)
        d_tokens = d_tokens + d_held
        thin = torch.cat([d_weights, weights], dim=1).to(d_cells.dtype)
        vectors = torch.cat([ask.outputs[0], d_mixed], dim=1).to(d_cells.dtype)
        d_cells = torch.baddbmm(d_cells, thin.transpose(1, 2), vectors)
        wanted = ctx.needs_input_grad[1]
        for number, layer in reversed(list(enumerate(ctx.layers))):
            to_cells = number > 0 or wanted
            d_tokens, more, d_cells = layer.backward(d_tokens, d_cells, to_cells=to_cells)
            d_prompt = d_prompt + more
        return d_tokens + d_prompt, d_cells, None, None, None
