"""Everything that the frozen decoder can say of some prompts, with no cell left out."""

from typing import NamedTuple

import torch
from torch import Tensor

from samtune.decoder import FrozenDecoder
from samtune.sam import Sam


class Decoded(NamedTuple):
    """Of B prompts: (B, M, 4h, 4w) logits, (B, M) predicted IoU, (B, h·w, 256) image features."""

    low_res_logits: Tensor
    iou_predictions: Tensor
    image_features: Tensor


def decode(decoder: FrozenDecoder, image, image_pe, sparse, dense, outputs=None) -> Decoded:
    tokens, cells = decoder.attend(image, image_pe, sparse, dense)
    mixing = torch.eye(4)[[0, 1, 2, 3] if outputs is None else outputs]
    mixing = mixing.expand(len(tokens), -1, 4)
    estimates = (mixing @ decoder.predict_iou(tokens)[..., None])[..., 0]
    blocks = decoder.mask_blocks(tokens, cells, mixing)
    return Decoded(decoder.assemble(blocks, image.shape[-2:]), estimates, cells)


def decode_prompts(sam: Sam, features: Tensor, tokens: Tensor, dense=None, outputs=None) -> Decoded:
    dense = sam.no_mask if dense is None else dense
    return decode(sam.decoder, features, sam.image_pe, tokens, dense, outputs)
