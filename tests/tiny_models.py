"""A SAM that needs no weights and no time: the real modules, small and random but seeded."""

import torch
from torch import nn

from samtune.sam import Sam, build_decoder
from samtune.tiny_vit import TinyViT

IMAGE_SIZE = 128  # a grid of 8×8 cells, masks of 32×32 logits


def build_tiny_sam(seed: int = 0) -> Sam:
    """segment-anything's own prompt encoder and mask decoder behind a narrow TinyViT."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = TinyViT(
            embed_dims=(8, 16, 16, 24),
            depths=(1, 1, 1, 1),
            num_heads=(2, 2, 3),
            window_sizes=(4, 4, 4),
            out_dim=256,
        )
        for parameter in encoder.parameters():
            if parameter.ndim > 1:  # strong enough that the image, not the biases, decides
                nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        return Sam("mobile_sam", encoder, *build_decoder(IMAGE_SIZE), image_size=IMAGE_SIZE)
