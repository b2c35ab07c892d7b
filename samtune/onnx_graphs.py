"""SAM, alone or with an adapter, as two graphs that torch's ONNX exporter can follow.

The encoder takes an image as it is: RGB numbers from 0 to 255, scaled so that the long side is
the model's input size; normalising and padding are part of the graph, as AnyLabeling wants it. The
decoder is prompt encoder, PLM and dense prompt, mask decoder and the mixture of the masks, behind
the signature of segment-anything's own export (`SamOnnxModel`, https://arxiv.org/abs/2304.02643).

A tracer records what happens to tensors. So there is none of two_way.py's own autograd here but
segment-anything's forward over the same weights, and nothing may depend on how many points the
example had. tests/test_onnx_graphs.py holds both against the predictor.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.adapter import Adapter
from samtune.prompt_learning import PromptLearning
from samtune.sam import PIXEL_MEAN, PIXEL_STD, Sam
from samtune.selector import mixture

ENCODER_INPUTS = ("input_image",)
ENCODER_OUTPUTS = ("image_embeddings",)
DECODER_INPUTS = (
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
)
DECODER_OUTPUTS = ("masks", "iou_predictions", "low_res_masks")


class EncoderGraph(nn.Module):
    """A scaled image to its embedding."""

    mean: Tensor
    std: Tensor

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.image_encoder = sam.image_encoder
        self.image_size = sam.image_size
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN))
        self.register_buffer("std", torch.tensor(PIXEL_STD))

    def forward(self, input_image: Tensor) -> Tensor:
        """Encode an image.

        Args:
            input_image: (H, W, 3) float32 RGB, 0 to 255, the long side at most `image_size`.

        Returns:
            (1, 256, h, w) the image embedding.
        """
        pixels = ((input_image - self.mean) / self.std).permute(2, 0, 1)[None]
        side = self.image_size
        padded = F.pad(pixels, (0, side - input_image.shape[1], 0, side - input_image.shape[0]))
        embeddings: Tensor = self.image_encoder(padded.reshape(1, 3, side, side))
        return embeddings


class DecoderGraph(nn.Module):
    """An embedding and a prompt to a mask, with the official SAM signature.

    Args:
        sam: the frozen model.
        adapter: what to plug onto it; None is plain SAM.
    """

    image_pe: Tensor

    def __init__(self, sam: Sam, adapter: Adapter | None) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.layers = sam.decoder.layers
        learned = None if adapter is None else adapter.learned
        assert learned is None or isinstance(learned, PromptLearning), "export refuses the others"
        self.selector = None if learned is None else learned.selector
        self.dense_prompt = None if learned is None else learned.dense_prompt
        self.plm = None if learned is None else copy.deepcopy(learned.plm)
        if self.plm is not None:
            self.plm.self_attention = _SelfAttention(self.plm.self_attention)  # type: ignore[assignment]
        self.image_size = sam.image_size
        self.register_buffer("image_pe", sam.image_pe.contiguous())

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer one prompt.

        Args:
            image_embeddings: (1, 256, h, w).
            point_coords: (1, N, 2) xy in the input frame: points, then the two corners of a box.
            point_labels: (1, N) float32: 1 object, 0 background, 2 and 3 a box's corners, -1
                padding. Without a box the last point is a padding point, at 0, 0.
            mask_input: (1, 1, 4h, 4w) logits of an earlier answer; zeros without.
            has_mask_input: (1,) float32, 1 to use `mask_input`, 0 not to.
            orig_im_size: (2,) float32 H, W of the image's own size.

        Returns:
            masks (1, 1, H, W) logits, of which those above 0 are the mask; iou_predictions
            (1, 1) its estimated IoU; low_res_masks (1, 1, 4h, 4w) logits in the padded frame.
        """
        prompt = self._embed_points(point_coords, point_labels)
        if self.plm is not None:
            prompt = self.plm(prompt, image_embeddings, self.image_pe)
        cells = image_embeddings + self._embed_mask(mask_input, has_mask_input)
        if self.dense_prompt is not None:
            cells = cells + self.dense_prompt(image_embeddings)
        given = (point_labels >= 0).sum()
        low_res_masks, iou_predictions = self._decode(prompt, cells, given)
        masks = self._to_original_size(low_res_masks, orig_im_size)
        return masks, iou_predictions, low_res_masks

    def _embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        encoder: Any = self.prompt_encoder
        labels = point_labels[..., None]
        tokens = encoder.pe_layer._pe_encoding((point_coords + 0.5) / self.image_size)
        tokens = tokens * (labels != -1) + encoder.not_a_point_embed.weight * (labels == -1)
        for label, embedding in enumerate(encoder.point_embeddings):
            tokens = tokens + embedding.weight * (labels == label)
        return tokens  # type: ignore[no-any-return]

    def _embed_mask(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        encoder: Any = self.prompt_encoder
        no_mask = encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        embedded = encoder.mask_downscaling(mask_input)
        return has_mask_input * embedded + (1 - has_mask_input) * no_mask  # type: ignore[no-any-return]

    def _decode(self, prompt: Tensor, image_cells: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        layers: Any = self.layers
        output_tokens = torch.cat([layers.iou_token.weight, layers.mask_tokens.weight])[None]
        tokens, cells = layers.transformer(
            image_cells, self.image_pe, torch.cat([output_tokens, prompt], dim=1)
        )
        estimates = layers.iou_prediction_head(tokens[:, 0])
        if self.selector is not None:
            estimates = self.selector(tokens, estimates)
            mixing = mixture(estimates)
        else:
            # As the predictor: one point alone is ambiguous and gets the best of the three
            # masks for that, anything else the single mask, output 0.
            single = F.one_hot(torch.zeros(1, dtype=torch.int64), estimates.shape[1])
            ranked = estimates + (given.to(estimates.dtype) - 1.5) * 1000 * single
            mixing = F.one_hot(ranked.argmax(dim=1), estimates.shape[1]).to(estimates.dtype)
        mixing = mixing[:, None]
        networks = layers.output_hypernetworks_mlps
        weights = torch.stack([mlp(tokens[:, 1 + k]) for k, mlp in enumerate(networks)], dim=1)
        grid = image_cells.shape[-2:]
        features = layers.output_upscaling(cells.transpose(1, 2).unflatten(2, grid))
        low_res_masks = (mixing @ weights @ features.flatten(2)).unflatten(2, features.shape[-2:])
        score = (mixing @ estimates[..., None])[..., 0]
        return low_res_masks, score.clip(0, 1)

    def _to_original_size(self, low_res_masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """As segment-anything's postprocess_masks, with sizes known only when the graph runs."""
        side = self.image_size
        size = orig_im_size.to(torch.int64)
        # sam.input_size in whole numbers; in float32, one image in a few thousand is a pixel off.
        longest = size.max()
        frame = torch.div(2 * side * size + longest, 2 * longest, rounding_mode="trunc")
        frame = frame.clamp(min=1)
        full = F.interpolate(low_res_masks, (side, side), mode="bilinear", align_corners=False)
        cropped = full[..., : frame[0], : frame[1]]
        return F.interpolate(
            cropped,
            (size[0], size[1]),  # type: ignore[arg-type]
            mode="bilinear",
            align_corners=False,
        )


class _SelfAttention(nn.Module):
    """torch's MultiheadAttention among tokens, of which a trace would fix the number."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool
    ) -> tuple[Tensor, None]:
        """Attend among (B, P, C) tokens; key and value are the query."""
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        split: Tensor = projected.unflatten(  # type: ignore[no-untyped-call]
            -1, (3, self.heads, -1)
        )
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(2, 3) * queries.shape[-1] ** -0.5
        mixed = torch.softmax(scores, dim=-1) @ values
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None
