"""A SAM and adapters that need no weights and no time: real modules, random but seeded."""

import torch
from torch import nn
from upstream import sharpen

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.contour_refiner import ContourRefiner
from samtune.dense_prompt import DensePrompt
from samtune.plm import PromptLearningModule
from samtune.prompt_learning import PromptLearning
from samtune.sam import Sam, build_decoder
from samtune.selector import OutputSelector

IMAGE_SIZE = 128  # a grid of 8×8 cells, masks of 32×32 logits


class PatchEncoder(nn.Module):
    """The least image encoder: each patch of 16 pixels on its own becomes a cell of features."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 256, 16, stride=16)
        self.norm = nn.LayerNorm(256)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = self.norm(self.patches(images).permute(0, 2, 3, 1))
        return cells.permute(0, 3, 1, 2).contiguous()


def build_tiny_sam(seed: int = 0) -> Sam:
    """segment-anything's own prompt encoder and mask decoder behind a minimal image encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prompt_encoder, mask_decoder = build_decoder(IMAGE_SIZE)
        encoder = PatchEncoder()
    # As torch initialises them, these would give nearly the same mask whatever the image shows.
    sharpen(mask_decoder.output_upscaling, seed + 1)
    sharpen(mask_decoder.output_hypernetworks_mlps, seed + 2)
    return Sam("mobile_sam", encoder, prompt_encoder, mask_decoder, image_size=IMAGE_SIZE)


def build_adapter(sam: Sam, seed: int = 0, refines: bool = True) -> Adapter:
    """An adapter that changes every answer, as if it had been trained for `sam`."""
    info = AdapterInfo(
        method="plm",
        base=Base.of(sam, "tiny.safetensors"),
        settings={"seed": seed, "learning_rate": 3e-4, "dense_prompt": True},
        data={"train_images": 6, "sha256": "0f" * 32},
        scores={"base_iou": 0.125, "adapter_iou": 0.75},
        refine_helps=True,
    )
    modules = PromptLearningModule(), OutputSelector(), ContourRefiner(), DensePrompt()
    plm, selector, refiner, dense_prompt = (
        sharpen(module, seed + number).requires_grad_(False)
        for number, module in enumerate(modules)
    )
    for parameter in dense_prompt.leave.parameters():
        parameter *= 5e-4  # on real embeddings as large as they are, and not noise in their place
    refiner = refiner if refines else None
    learned = PromptLearning(plm, selector, refiner, dense_prompt=dense_prompt)
    return Adapter(info, learned.eval())
