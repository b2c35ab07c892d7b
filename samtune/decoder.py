"""SAM's frozen mask decoder, with less work for the same numbers.

First tokens and cells attend to each other (two_way.py), then the cells are upscaled into masks
(Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix A). The upscaling is local: both
transposed convolutions have stride = kernel = 2 and the norm and activations are pointwise, so
each cell gives its own 4×4 block of logits, any selection of cells can be decoded by itself, and
the whole is a matrix product over cells. `tests/test_decoder.py` holds all this against
segment-anything's own forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.two_way import two_way


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


class FrozenDecoder(nn.Module):
    """The forward of segment-anything's MaskDecoder over its own frozen layers.

    Args:
        mask_decoder: segment-anything's module; its parameters are used in place.
    """

    def __init__(self, mask_decoder: Any) -> None:
        super().__init__()
        self.layers: Any = mask_decoder  # all weights stay in upstream's module, under its names

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        outputs: Tensor | None = None,
    ) -> Decoded:
        """Predict masks for B prompts on I images, B / I consecutive prompts for each image.

        Args:
            image_embeddings: (I, C, h, w).
            image_pe: (1, C, h, w) the dense positional encoding.
            sparse_prompt_embeddings: (B, P, C) prompt tokens.
            dense_prompt_embeddings: (1, C, 1, 1), or (I or B, C, h, w) mask prompts; B mask
                prompts make every prompt an image of its own.
            outputs: (B, M) int64 which mask outputs each prompt wants; None is all four.

        Returns:
            Logits and predicted IoU of those outputs, and the image features.
        """
        height, width = image_embeddings.shape[-2:]
        tokens, cells = self.attend(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        logits = self.assemble(self.mask_blocks(tokens, cells, outputs), (height, width))
        estimates = self.predict_iou(tokens)
        if outputs is not None:
            estimates = estimates.gather(1, outputs)
        return Decoded(logits, estimates, tokens, cells)

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
        return two_way(self.layers.transformer, prompt, cells, pe)

    def mask_blocks(self, tokens: Tensor, cells: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Decode cells into their own 4×4 blocks of mask logits, without their neighbours.

        Args:
            tokens: (B, T, C) from `attend`.
            cells: (B, K, C) any selection of the cells from `attend`.
            outputs: (B, M) int64 which mask outputs each prompt wants; None is all four.

        Returns:
            (B, M, K, 16) logits; within a block in the order (row, column) of its coarse half,
            then (row, column) of the fine one.
        """
        first, norm, _, second, _ = self.layers.output_upscaling
        batch, count, _ = cells.shape
        half = _upscale_by_two(cells, first).view(batch, count * 4, -1)
        half = F.gelu(F.layer_norm(half, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        features = F.gelu(_upscale_by_two(half, second).view(batch, count * 16, -1))
        networks = self.layers.output_hypernetworks_mlps
        weights = torch.stack([mlp(tokens[:, 1 + k]) for k, mlp in enumerate(networks)], dim=1)
        if outputs is not None:
            weights = weights.gather(1, outputs[..., None].expand(-1, -1, weights.shape[-1]))
        logits: Tensor = (features @ weights.transpose(1, 2)).transpose(1, 2)
        return logits.reshape(batch, -1, count, 16)

    def assemble(self, blocks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Put the blocks of all cells, (B, M, N, 16), together as (B, M, 4h, 4w) logits."""
        batch, masks = blocks.shape[:2]
        # (row, column) of the cell, of its coarse half, of that one's fine half
        blocks = blocks.view(batch, masks, *grid, 2, 2, 2, 2)
        return blocks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(batch, masks, 4 * grid[0], -1)

    def predict_iou(self, tokens: Tensor) -> Tensor:
        """The decoder's estimate of each mask's IoU, (B, 4), from `attend`'s tokens."""
        return self.layers.iou_prediction_head(tokens[:, 0])  # type: ignore[no-any-return]


def _upscale_by_two(cells: Tensor, convolution: Any) -> Tensor:
    """A transposed convolution with stride = kernel = 2 as one matrix product, (..., 4 · out)."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2·2·out, in)
    return F.linear(cells, weight, convolution.bias.repeat(4))
