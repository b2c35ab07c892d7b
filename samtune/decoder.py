"""SAM's frozen mask decoder, with less work for the same numbers.

First tokens and cells attend to each other (two_way.py), then the cells are upscaled into masks
(Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix A). The upscaling is local: both
transposed convolutions have stride = kernel = 2 and the norm and activations are pointwise, so
each cell gives its own 4×4 block of logits, any selection of cells can be decoded by itself, and
the whole is a matrix product over cells. `tests/test_decoder.py` holds all this against
segment-anything's own forward.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.attention import meet
from samtune.image_cells import ImageCells, cell_by_cell
from samtune.two_way import Guidance, two_way, two_way_on_image

_PLAIN = 5.0  # logits beyond it, all around, are far from a boundary (benchmarks/defaults.md)
_DIAGONAL = (0, 3)  # of 2×2, and of each again 2×2: with two, no boundary slips between them
_OFF_DIAGONAL = (1, 2)
_FEW = 16  # tokens; from here on upstream's own transformer, which projects all cells, is faster


class FrozenDecoder(nn.Module):
    """The forward of segment-anything's MaskDecoder over its own frozen layers.

    Args:
        mask_decoder: segment-anything's module; its parameters are used in place.
    """

    def __init__(self, mask_decoder: Any) -> None:
        super().__init__()
        self.layers: Any = mask_decoder  # all weights stay in upstream's module, under its names

    def attend(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        guidance: Guidance | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the two-way transformer on B prompts of I images, B / I consecutive ones each.

        A few tokens go to the cells, as two_way.py says; for many the cells are projected.

        Args:
            image_embeddings: (I, C, h, w), float32; for training on a few tokens also bfloat16.
            image_pe: (1, C, h, w) the dense positional encoding.
            sparse_prompt_embeddings: (B, P, C) prompt tokens.
            dense_prompt_embeddings: (1, C, 1, 1), or (I or B, C, h, w) mask prompts, of the
                embeddings' type; B mask prompts make every prompt an image of its own.
            guidance: towards a target, for inference only (two_way.py).

        Returns:
            (B, T, C) tokens (IoU token, mask tokens, prompt) and, in the embeddings' type,
            (B, N, C) cells, row by row, f_D of Kim et al. 2024 (https://arxiv.org/abs/2403.09199),
            section 4.2.
        """
        if dense_prompt_embeddings.shape[0] > image_embeddings.shape[0]:
            repeats = dense_prompt_embeddings.shape[0] // image_embeddings.shape[0]
            image_embeddings = image_embeddings.repeat_interleave(repeats, dim=0)
        prompt = self._with_outputs(sparse_prompt_embeddings)
        if prompt.shape[1] > _FEW and guidance is None:
            prompted = image_embeddings + dense_prompt_embeddings
            prompted = prompted.repeat_interleave(len(prompt) // len(prompted), dim=0)
            answer: tuple[Tensor, Tensor] = self.layers.transformer(prompted, image_pe, prompt)
            return answer
        cells = cell_by_cell(image_embeddings + dense_prompt_embeddings)
        pe = cell_by_cell(image_pe.to(cells.dtype))
        return two_way(self.layers.transformer, prompt, cells, pe, guidance)

    def prepare(
        self, image_embeddings: Tensor, image_pe: Tensor, dense_prompt_embeddings: Tensor
    ) -> ImageCells:
        """Compute what depends on one image alone; arguments as for `attend`, with I = 1."""
        transformer = self.layers.transformer
        return ImageCells.of(transformer, image_embeddings, image_pe, dense_prompt_embeddings)

    def attend_to(
        self, image: ImageCells, sparse_prompt_embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `attend`, for B prompts of an image that was prepared, without gradients.

        Args:
            image: what `prepare` gave.
            sparse_prompt_embeddings: (B, P, C) prompt tokens.

        Returns:
            (B, 5, C) IoU and mask tokens, and (B, N, C) cells.
        """
        prompt = self._with_outputs(sparse_prompt_embeddings)
        wanted = prompt.shape[1] - sparse_prompt_embeddings.shape[1]
        return two_way_on_image(self.layers.transformer, prompt, image, wanted)

    def mask_blocks(self, tokens: Tensor, cells: Tensor, mixing: Tensor | None = None) -> Tensor:
        """Decode cells into their own 4×4 blocks of mask logits, without their neighbours.

        Args:
            tokens: (B, T, C) from `attend`.
            cells: (B, K, C) any selection of the cells from `attend`, of their type.
            mixing: (B, M, 4) how much of each output's logits each wanted mask is made of; None is
                the four outputs as they are.

        Returns:
            (B, M, K, 16) logits; within a block in the order (row, column) of its coarse half,
            then (row, column) of the fine one.
        """
        weights = self._networks(tokens, mixing)
        features = self._upscale(cells).flatten(1, 2)
        logits = meet(weights, features.mT)
        return logits.reshape(*weights.shape[:2], -1, 16)

    def logits_at(self, tokens: Tensor, cells: Tensor, mixing: Tensor, places: Tensor) -> Tensor:
        """Decode single logits of a mask.

        Args:
            tokens: (B, T, C) from `attend`.
            cells: (B, N, C) from `attend`, of a square grid.
            mixing: (B, 4) how much of each output's logits the mask is made of.
            places: (B, P, 2) xy in logits, P at least 1; the centre of the first is half of one.

        Returns:
            (B, P) the logits that the places lie in; of places outside of the square the nearest.
        """
        side = math.isqrt(cells.shape[1])
        column, row = places.floor().long().clamp(0, 4 * side - 1).unbind(dim=-1)
        index = row // 4 * side + column // 4
        chosen = cells.gather(1, index[..., None].expand(-1, -1, cells.shape[-1]))
        blocks = self.mask_blocks(tokens, chosen, mixing[:, None])[:, 0]
        coarse, fine = (2 * (row % 4 // 2) + column % 4 // 2), 2 * (row % 2) + column % 2
        return blocks.gather(2, (4 * coarse + fine)[..., None])[..., 0]

    def mask_logits(
        self,
        tokens: Tensor,
        cells: Tensor,
        mixing: Tensor,
        grid: tuple[int, int],
        inside: tuple[int, int],
    ) -> Tensor:
        """Decode whole masks, without the cells that are plainly on or off the object.

        Of every cell the four logits on the diagonal of its block are decoded. Where these and
        those of the cells around are all beyond 5, or all below -5, the cell keeps the first for
        all 16: it is far from any boundary, as are those in the padding. Each logit near a
        boundary is exact, so that the mask is the same at any size it is brought to.

        Args:
            tokens: (B, T, C) from `attend`.
            cells: (B, N, C) from `attend`.
            mixing: (B, M, 4) how much of each output's logits each wanted mask is made of.
            grid: (h, w) of the cells.
            inside: (rows, columns) of them that the image reaches; behind is padding.

        Returns:
            (B, M, 4h, 4w) logits.
        """
        weights = self._networks(tokens, mixing)
        halves = self._halve(cells, _DIAGONAL)
        probes = self._halve_again(halves, _DIAGONAL) @ weights[:, None].mT  # (B, N, 4, M)
        highest, lowest = (
            F.max_pool2d(side.mT.reshape(len(side), -1, *grid), 3, 1, 1)
            for side in (probes.amax(dim=2), -probes.amin(dim=2))
        )
        undecided = (highest > -_PLAIN) & (lowest > -_PLAIN)
        # Resizing takes a little of the first logits behind the image's edge.
        undecided[..., inside[0] + 1 :, :] = undecided[..., inside[1] + 1 :] = False
        prompt, cell = undecided.any(dim=1).flatten(1).nonzero(as_tuple=True)
        blocks = probes[:, :, 0].mT[..., None].repeat(1, 1, 1, 16)
        known = halves[prompt, cell]
        others = self._halve(cells[prompt, cell], _OFF_DIAGONAL)
        halves = torch.cat([known[:, :1], others, known[:, 1:]], dim=1)
        exact = weights[prompt] @ self._halve_again(halves).mT
        # No mask depends on which others are asked for.
        wanted = undecided.flatten(2)[prompt, :, cell][..., None]
        blocks[prompt, :, cell] = torch.where(wanted, exact, blocks[prompt, :, cell])
        return self.assemble(blocks, grid)

    def upscaled(
        self, tokens: Tensor, cells: Tensor, mixing: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """What masks are made from, and one of them, for the contour refiner.

        Args:
            tokens: (B, T, C) from `attend`.
            cells: (B, N, C) from `attend`.
            mixing: (B, 4) how much of each output's logits the mask is made of.
            grid: (h, w) of the cells.

        Returns:
            (B, 4h · 4w, 33) the upscaled features at each place of the logits' grid, row by row,
            and the mask's logit there, of the cells' type.
        """
        weights = self._networks(tokens, mixing[:, None])
        blocks = self._upscale(cells)
        logits = meet(weights, blocks.flatten(1, 2).mT)
        width = blocks.shape[-1]
        # (row, column) of the cell, of its coarse half, of that one's fine half
        found = blocks.new_empty(len(blocks), grid[0], 2, 2, grid[1], 2, 2, width + 1)
        in_order = found.permute(0, 1, 4, 2, 5, 3, 6, 7)
        in_order[..., :width] = blocks.view(len(blocks), *grid, 2, 2, 2, 2, width)
        in_order[..., width:] = logits.view(*in_order.shape[:-1], 1)
        return found.view(len(blocks), -1, width + 1)

    def _with_outputs(self, sparse_prompt_embeddings: Tensor) -> Tensor:
        """(B, P, C) prompt tokens to (B, T, C): the IoU token, the mask tokens, the prompt."""
        output_tokens = torch.cat([self.layers.iou_token.weight, self.layers.mask_tokens.weight])
        output_tokens = output_tokens.expand(sparse_prompt_embeddings.shape[0], -1, -1)
        return torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)

    def _networks(self, tokens: Tensor, mixing: Tensor | None) -> Tensor:
        """(B, M, 32) what the wanted masks take their logits from the features with.

        Logits are linear in these, so that a mixture of masks costs no more than one of them.
        """
        networks = self.layers.output_hypernetworks_mlps
        weights = torch.stack([mlp(tokens[:, 1 + k]) for k, mlp in enumerate(networks)], dim=1)
        return weights if mixing is None else mixing @ weights

    def _upscale(self, cells: Tensor) -> Tensor:
        """(..., C) cells to (..., 16, 32) features, in `mask_blocks` order."""
        return self._halve_again(self._halve(cells))

    def _halve(self, cells: Tensor, parts: Sequence[int] = range(4)) -> Tensor:
        """(..., C) cells to (..., parts, 64): some of each one's 2×2 coarse halves."""
        convolution, norm, *_ = self.layers.output_upscaling
        halves = _upscale_by_two(cells, convolution, parts)
        weight, bias = norm.weight.to(cells.dtype), norm.bias.to(cells.dtype)
        return _gelu(F.layer_norm(halves, norm.weight.shape, weight, bias, norm.eps))

    def _halve_again(self, halves: Tensor, parts: Sequence[int] = range(4)) -> Tensor:
        """(..., K, 64) coarse halves to (..., K · parts, 32): some of each one's 2×2 fine ones."""
        convolution = self.layers.output_upscaling[3]
        return _gelu(_upscale_by_two(halves, convolution, parts)).flatten(-3, -2)

    def assemble(self, blocks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Put the blocks of all cells, (B, M, N, 16), together as (B, M, 4h, 4w) logits."""
        batch, masks = blocks.shape[:2]
        # (row, column) of the cell, of its coarse half, of that one's fine half
        blocks = blocks.view(batch, masks, *grid, 2, 2, 2, 2)
        return blocks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(batch, masks, 4 * grid[0], -1)

    def predict_iou(self, tokens: Tensor) -> Tensor:
        """The decoder's estimate of each mask's IoU, (B, 4), from `attend`'s tokens."""
        return self.layers.iou_prediction_head(tokens[:, 0])  # type: ignore[no-any-return]


def _gelu(fresh: Tensor) -> Tensor:
    """The exact GELU; in place, which is faster, where no gradient needs what was there."""
    activated: Tensor = F.gelu(fresh) if fresh.requires_grad else torch.ops.aten.gelu_(fresh)
    return activated


def _upscale_by_two(cells: Tensor, convolution: Any, parts: Sequence[int]) -> Tensor:
    """A transposed convolution with stride = kernel = 2 as one matrix product.

    (..., in) to (..., parts, out): of each cell some of its 2×2, which count row by row.
    """
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 1)[list(parts)].flatten(0, 1)
    bias, out = convolution.bias.repeat(len(parts)), convolution.out_channels
    weight, bias = weight.to(cells.dtype), bias.to(cells.dtype)
    return F.linear(cells, weight, bias).view(*cells.shape[:-1], len(parts), out)
