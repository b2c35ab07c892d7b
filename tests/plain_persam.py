"""PerSAM in a few plain lines over segment-anything's own layers: the oracle for persam.py.

Written from the formulas, one prompt at a time, with nothing folded, shared or left out.
"""

import numpy as np
import torch
from torch import Tensor
from upstream import postprocess_masks


def attention(layer, q: Tensor, k: Tensor, v: Tensor, guide: Tensor | None = None) -> Tensor:
    """segment-anything's Attention, the guide added to what softmax gets."""
    q, k, v = layer.q_proj(q), layer.k_proj(k), layer.v_proj(v)
    heads = [one.unflatten(2, (layer.num_heads, -1)).transpose(1, 2) for one in (q, k, v)]
    scores = heads[0] @ heads[1].transpose(2, 3) / heads[0].shape[-1] ** 0.5
    if guide is not None:
        scores = scores + guide
    return layer.out_proj((scores.softmax(dim=-1) @ heads[2]).transpose(1, 2).flatten(2))


def two_way(transformer, cells: Tensor, pe: Tensor, tokens: Tensor, guide, target):
    """The transformer, with guided attention in both layers and the target added before each."""
    target = torch.zeros(tokens.shape[-1]) if target is None else target
    place = tokens + target
    tokens = place
    for number, layer in enumerate(transformer.layers):
        if number == 0:
            tokens = attention(layer.self_attn, tokens, tokens, tokens)
        else:
            tokens = tokens + target
            q = tokens + place
            tokens = tokens + attention(layer.self_attn, q, q, tokens)
        tokens = layer.norm1(tokens)
        given = attention(layer.cross_attn_token_to_image, tokens + place, cells + pe, cells, guide)
        tokens = layer.norm2(tokens + given)
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        given = attention(layer.cross_attn_image_to_token, cells + pe, tokens + place, tokens)
        cells = layer.norm4(cells + given)
    given = attention(transformer.final_attn_token_to_image, tokens + place, cells + pe, cells)
    return transformer.norm_final_attn(tokens + given), cells


def decode(sam, embedding, points, labels, guide, target, box=None, logits=None):
    """(4, 4h, 4w) logits and (4,) predicted IoU for points (N, 2) and a box in input pixels."""
    decoder, encoder = sam.decoder.layers, sam.prompt_encoder
    sparse, dense = encoder(
        points=(torch.tensor([points], dtype=torch.float32), torch.tensor([labels])),
        boxes=None if box is None else torch.tensor([box], dtype=torch.float32),
        masks=None if logits is None else logits[None, None],
    )
    out = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
    image = (embedding.features[None].float() + dense).flatten(2).transpose(1, 2)
    pe = encoder.get_dense_pe().flatten(2).transpose(1, 2)
    tokens = torch.cat([out, sparse], dim=1)
    tokens, cells = two_way(decoder.transformer, image, pe, tokens, guide, target)
    grid = embedding.features.shape[-2:]
    features = decoder.output_upscaling(cells.transpose(1, 2).unflatten(2, grid))
    weights = [m(tokens[:, 1 + k]) for k, m in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("mc,chw->mhw", torch.cat(weights), features[0])
    return masks, decoder.iou_prediction_head(tokens[:, 0])[0]


def tight_box(sam, embedding, logits) -> list[float]:
    """x0, y0, x1, y1 in input pixels, of the mask at the image's own size."""
    full = postprocess_masks(
        logits[None, None], sam.image_size, embedding.input_size, embedding.original_size
    )
    ys, xs = np.nonzero(full[0, 0].numpy() > 0)
    (height, width), (h, w) = embedding.original_size, embedding.input_size
    box = [xs.min() * w / width, ys.min() * h / height, xs.max() * w / width]
    return [*box, ys.max() * h / height]


def overlap(one: Tensor, other: Tensor) -> float:
    """IoU of two masks, given as logits."""
    a, b = one.numpy() > 0, other.numpy() > 0
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def cascade(sam, embedding, points, labels, guide, target, weights=None, *, agreement=True):
    """The last step's four masks (4, 4h, 4w), logits, and their predicted IoU."""
    asked = (sam, embedding, points, labels, guide, target)
    masks, _ = decode(*asked)
    first, box = masks[0], None
    if weights is not None:
        first = sum(w * mask for w, mask in zip(weights, masks[1:], strict=True))
        box = tight_box(sam, embedding, first)
    masks, ious = decode(*asked, box=box, logits=first)
    if agreement:
        ious = [float(iou) * overlap(mask, first) for mask, iou in zip(masks, ious, strict=True)]
    second = masks[1 + int(np.argmax([float(iou) for iou in ious[1:]]))]
    return decode(*asked, box=tight_box(sam, embedding, second), logits=second)
