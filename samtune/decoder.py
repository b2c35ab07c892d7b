"""SAM's frozen mask decoder, with less work for the same numbers.

The decoder (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix A) lets a few
tokens T (the IoU token, four mask tokens, the prompt) and the N = 4096 cells of the image
attend to each other, then upscales the cells into masks. segment-anything projects all
cells for every prompt; here the few tokens go to the cells instead. Per head, with x_n a
cell and q_t a token's query:

    tokens to image    q_t · (W_k x_n + b_k)  =  (W_kᵀ q_t) · x_n + a constant that softmax drops
                       Σ_n A_tn (W_v x_n + b_v)  =  W_v (Σ_n A_tn x_n) + b_v
    image to tokens    (W_q x_n + b_q) · k_t  =  (W_qᵀ k_t) · x_n + b_q · k_t
                       W_o Σ_t P_nt v_t  =  Σ_t P_nt (W_o v_t)

so that a layer costs 4 · N · (heads · T) · 256 multiply-accumulates instead of
6 · N · 128 · 256 plus the attention itself, forward and, as no frozen weight needs a gradient,
backward. Prompts of one image share its cells through the first layer.

The upscaling is local: both transposed convolutions have stride = kernel = 2 and the norm and
activations are pointwise, so each cell gives its own 4×4 block of logits and the whole is a
matrix product over cells. `tests/test_decoder.py` holds all this against segment-anything's
own forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Decoded:
    """What the decoder says about B prompts.

    Attributes:
        low_res_logits: (B, M, 256, 256) mask logits in the padded input frame, one for each
            requested mask token; 4 times the grid of the image embedding.
        iou_predictions: (B, M) the decoder's own estimate of each mask's IoU.
        tokens: (B, T, 256) IoU token, mask tokens and prompt after the transformer.
        image_features: (B, N, 256) the cells after the two-way transformer, row by row, before
            upscaling: f_D of Kim et al. 2024 (https://arxiv.org/abs/2403.09199), section 4.2.
    """

    low_res_logits: Tensor
    iou_predictions: Tensor
    tokens: Tensor
    image_features: Tensor


class CellAttention(nn.Module):
    """Attention between few tokens and many cells, projecting only the tokens.

    Wraps the four projections of one attention layer (segment-anything's `Attention`, or the
    PLM's own); gradients reach both its inputs and, where they are not frozen, the projections.
    """

    def __init__(
        self,
        q_proj: nn.Linear,
        k_proj: nn.Linear,
        v_proj: nn.Linear,
        out_proj: nn.Linear,
        heads: int,
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.heads = heads
        self.width = q_proj.out_features // heads  # channels of one head

    def tokens_to_cells(self, tokens: Tensor, cells: Tensor, cells_pe: Tensor) -> Tensor:
        """Let tokens gather from cells.

        Args:
            tokens: (B, T, C) queries, positional part included.
            cells: (I, N, C) values; B is a multiple of I, the prompts of one image in a row.
            cells_pe: (I, N, C) keys: the cells with their positional encoding.

        Returns:
            (B, T, C) the attended values, after the output projection.
        """
        batch, count, _ = tokens.shape
        heads, images = self.heads, cells.shape[0]
        queries = self._split(self.q_proj(tokens)) * self.width**-0.5  # (B, heads, T, width)
        key_weight = self.k_proj.weight.view(heads, self.width, -1)
        folded = (queries @ key_weight).reshape(images, -1, cells.shape[-1])
        weights = torch.softmax(folded @ cells_pe.transpose(1, 2), dim=-1)
        mixed = (weights @ cells).view(batch, heads, count, -1)
        value_weight = self.v_proj.weight.view(heads, self.width, -1)
        values = mixed @ value_weight.transpose(1, 2)  # (B, heads, T, width)
        merged = values.transpose(1, 2).reshape(batch, count, -1) + self.v_proj.bias
        return self.out_proj(merged)  # type: ignore[no-any-return]

    def cells_to_tokens(
        self, cells: Tensor, cells_pe: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Let cells gather from tokens, and add what they gathered to them.

        Args:
            cells: (I, N, C) what the attended values are added to.
            cells_pe: (I, N, C) queries: the cells with their positional encoding.
            keys: (B, T, C) tokens with their positional part; B a multiple of I as above.
            values: (B, T, C) tokens.

        Returns:
            (B, N, C) the cells of each prompt, plus the attended values after the output
            projection.
        """
        batch, count, _ = keys.shape
        heads, images = self.heads, cells_pe.shape[0]
        projected = self._split(self.k_proj(keys)) * self.width**-0.5  # (B, heads, T, width)
        folded = projected @ self.q_proj.weight.view(heads, self.width, -1)
        offset = projected @ self.q_proj.bias.view(heads, self.width, 1)  # (B, heads, T, 1)
        scores = folded.reshape(images, -1, cells_pe.shape[-1]) @ cells_pe.transpose(1, 2)
        scores = scores.view(batch, heads, count, -1) + offset
        weights = torch.softmax(scores, dim=2).flatten(1, 2)  # over tokens: (B, heads·T, N)
        out_weight = self.out_proj.weight.view(-1, heads, self.width).permute(1, 2, 0)
        outputs = self._split(self.v_proj(values)) @ out_weight  # (B, heads, T, C)
        # A cell's weights sum to one in every head, so that each head's tokens can carry their
        # share of the bias; and the residual rides on the same matrix product. Both save a
        # pass over the cells.
        outputs = (outputs + self.out_proj.bias / heads).flatten(1, 2)
        if cells.shape[0] != batch:
            cells = cells.repeat_interleave(batch // images, dim=0)
        return torch.baddbmm(cells, weights.transpose(1, 2), outputs)

    def _split(self, projected: Tensor) -> Tensor:
        batch, count, _ = projected.shape
        return projected.view(batch, count, self.heads, self.width).transpose(1, 2)


class FrozenDecoder(nn.Module):
    """The forward of segment-anything's MaskDecoder over its own frozen layers.

    Args:
        mask_decoder: segment-anything's module; its parameters are used in place.
    """

    def __init__(self, mask_decoder: Any) -> None:
        super().__init__()
        self.layers: Any = mask_decoder  # all weights stay in upstream's module, under its names
        transformer = mask_decoder.transformer
        self._to_image = [_cells(layer.cross_attn_token_to_image) for layer in transformer.layers]
        self._to_tokens = [_cells(layer.cross_attn_image_to_token) for layer in transformer.layers]
        self._final = _cells(transformer.final_attn_token_to_image)

    @property
    def mask_outputs(self) -> int:
        """How many masks there are to ask for: token 0 is the single mask, then the three."""
        return int(self.layers.num_mask_tokens)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        outputs: slice = slice(None),
    ) -> Decoded:
        """Predict masks for B prompts on I images, B / I consecutive prompts for each image.

        Args:
            image_embeddings: (I, C, h, w).
            image_pe: (1, C, h, w) the dense positional encoding.
            sparse_prompt_embeddings: (B, P, C) prompt tokens.
            dense_prompt_embeddings: (1, C, 1, 1), or (I or B, C, h, w) mask prompts; B mask
                prompts make every prompt an image of its own.
            outputs: which of the mask tokens to decode.

        Returns:
            Logits and predicted IoU of those outputs, and the image features.
        """
        height, width = image_embeddings.shape[-2:]
        tokens, cells = self.attend(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        blocks = self.mask_blocks(tokens, cells, outputs)
        batch, masks = blocks.shape[:2]
        # (row, column) of the cell, of its coarse half, of that one's fine half
        blocks = blocks.view(batch, masks, height, width, 2, 2, 2, 2)
        logits = blocks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(batch, masks, 4 * height, -1)
        return Decoded(logits, self.predict_iou(tokens, outputs), tokens, cells)

    def attend(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run the two-way transformer; arguments as for `forward`.

        Returns:
            (B, T, C) tokens (IoU token, mask tokens, prompt) and (B, N, C) cells, row by row.
        """
        if dense_prompt_embeddings.shape[0] > image_embeddings.shape[0]:
            repeats = dense_prompt_embeddings.shape[0] // image_embeddings.shape[0]
            image_embeddings = image_embeddings.repeat_interleave(repeats, dim=0)
        cells = (image_embeddings + dense_prompt_embeddings).flatten(2).transpose(1, 2).contiguous()
        pe = image_pe.flatten(2).transpose(1, 2).contiguous()
        output_tokens = torch.cat([self.layers.iou_token.weight, self.layers.mask_tokens.weight])
        output_tokens = output_tokens.expand(sparse_prompt_embeddings.shape[0], -1, -1)
        prompt = torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)

        transformer = self.layers.transformer
        tokens = prompt
        cells_pe = cells + pe
        for position, layer in enumerate(transformer.layers):
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
            else:
                query = tokens + prompt
                tokens = tokens + layer.self_attn(q=query, k=query, v=tokens)
            tokens = layer.norm1(tokens)
            gathered = self._to_image[position].tokens_to_cells(tokens + prompt, cells, cells_pe)
            tokens = layer.norm2(tokens + gathered)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            cells = self._to_tokens[position].cells_to_tokens(
                cells, cells_pe, tokens + prompt, tokens
            )
            cells = layer.norm4(cells)
            cells_pe = cells + pe
        gathered = self._final.tokens_to_cells(tokens + prompt, cells, cells_pe)
        return transformer.norm_final_attn(tokens + gathered), cells

    def mask_blocks(self, tokens: Tensor, cells: Tensor, outputs: slice = slice(None)) -> Tensor:
        """Decode cells into their own 4×4 blocks of mask logits, without their neighbours.

        Args:
            tokens: (B, T, C) from `attend`.
            cells: (B, K, C) any selection of the cells from `attend`.
            outputs: which of the mask tokens to decode.

        Returns:
            (B, M, K, 16) logits; within a block in the order (row, column) of its coarse half,
            then (row, column) of the fine one.
        """
        first, norm, _, second, _ = self.layers.output_upscaling
        batch, count, _ = cells.shape
        half = _upscale_by_two(cells, first).view(batch, count * 4, -1)
        half = F.gelu(F.layer_norm(half, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        features = F.gelu(_upscale_by_two(half, second).view(batch, count * 16, -1))
        mask_tokens = range(self.mask_outputs)[outputs]
        weights = torch.stack(
            [self.layers.output_hypernetworks_mlps[k](tokens[:, 1 + k]) for k in mask_tokens], dim=2
        )
        logits: Tensor = (features @ weights).transpose(1, 2)
        return logits.reshape(batch, -1, count, 16)

    def predict_iou(self, tokens: Tensor, outputs: slice = slice(None)) -> Tensor:
        """The decoder's estimate of each mask's IoU, (B, M), from `attend`'s tokens."""
        return self.layers.iou_prediction_head(tokens[:, 0])[:, outputs]  # type: ignore[no-any-return]


def _cells(attention: Any) -> CellAttention:
    """Wrap an attention layer of segment-anything."""
    return CellAttention(
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.out_proj,
        attention.num_heads,
    )


def _upscale_by_two(cells: Tensor, convolution: Any) -> Tensor:
    """A transposed convolution with stride = kernel = 2 as one matrix product, (..., 4 · out)."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2·2·out, in)
    return F.linear(cells, weight, convolution.bias.repeat(4))
