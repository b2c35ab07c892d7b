"""The frozen Segment Anything Model: encode an image, encode prompts, decode masks.

The only importer of segment-anything, of which it uses `modeling` alone: that package's
`__init__` also imports torchvision, which samtune does not need. Its modeling code is therefore
loaded as a package of our own name, and the user's `import segment_anything` is left as it was.

Prompts are given in pixels of the original image and scaled like it (input_frame.py); the prompt
encoder adds the half pixel that makes an integer coordinate a pixel's centre.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from samtune.decoder import FrozenDecoder
from samtune.dense_prompt import DensePrompt
from samtune.errors import CheckpointError
from samtune.image_cells import ImageCells
from samtune.input_frame import IMAGE_SIZE, Embedding, input_size, scale_image
from samtune.prompts import Prompt
from samtune.tiny_vit import TinyViT
from samtune.weights import Checkpoint, read_checkpoint

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, 0 to 255; segment-anything build_sam
PIXEL_STD = (58.395, 57.12, 57.375)
_VIT_SIZES = {  # embedding width, blocks, heads, blocks with global attention: build_sam
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}


class Sam(nn.Module):
    """A frozen SAM. No parameter ever needs a gradient; every module is in eval mode.

    Args:
        kind: which image encoder: "mobile_sam", "vit_b", "vit_l", "vit_h" (or a test's own).
        image_encoder: (B, 3, S, S) normalised pixels to (B, 256, h, w).
        prompt_encoder: segment-anything's PromptEncoder.
        mask_decoder: segment-anything's MaskDecoder.
        image_size: S, the side of the padded input.
    """

    def __init__(
        self,
        kind: str,
        image_encoder: nn.Module,
        prompt_encoder: Any,
        mask_decoder: Any,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.image_size = image_size
        self.image_encoder = image_encoder
        self.prompt_encoder: Any = prompt_encoder
        self.decoder = FrozenDecoder(mask_decoder)
        self._last_cells: tuple[tuple[Embedding, DensePrompt | None, ImageCells], ...] = ()
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.decoder.parameters()).device

    @cached_property
    def image_pe(self) -> Tensor:
        """(1, 256, h, w) the dense positional encoding of the image's cells."""
        with torch.inference_mode(False):  # the PLM's training needs an ordinary tensor
            pe = self.prompt_encoder.get_dense_pe().detach()
            # Cell by cell in memory, as attention takes it.
            return pe.contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]

    @cached_property
    def no_mask(self) -> Tensor:
        """(1, 256, 1, 1) the dense prompt embedding where no mask is given."""
        return self.prompt_encoder.no_mask_embed.weight.detach().view(1, -1, 1, 1)  # type: ignore[no-any-return]

    @cached_property
    def decoder_fingerprint(self) -> str:
        """SHA-256 of the prompt encoder's and mask decoder's tensors: what an adapter fits."""
        modules = {"prompt_encoder": self.prompt_encoder, "mask_decoder": self.decoder.layers}
        return _fingerprint(
            {
                f"{name}.{key}": value
                for name, module in modules.items()
                for key, value in module.state_dict().items()
            }
        )

    @cached_property
    def encoder_fingerprint(self) -> str:
        """SHA-256 of the image encoder's tensors: what a cached embedding comes from."""
        return _fingerprint(self.image_encoder.state_dict())

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """Scale, normalise and pad an image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (1, 3, S, S) float32 on the model's device.
        """
        scaled = scale_image(image, self.image_size)
        height, width, _ = scaled.shape
        pixels = torch.from_numpy(scaled).to(self.device).permute(2, 0, 1).float()
        mean = torch.tensor(PIXEL_MEAN, device=self.device).view(3, 1, 1)
        std = torch.tensor(PIXEL_STD, device=self.device).view(3, 1, 1)
        padding = (0, self.image_size - width, 0, self.image_size - height)
        return F.pad((pixels - mean) / std, padding)[None]

    @torch.inference_mode()
    def encode_image(self, image: NDArray[np.uint8]) -> Embedding:
        """Run the image encoder, the slow part, once.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Its embedding, float32 on the CPU.
        """
        size = (image.shape[0], image.shape[1])
        features = self.image_encoder(self.preprocess(image))[0].float().cpu()
        return Embedding(features, size, input_size(size, self.image_size))

    @torch.inference_mode()
    def image_cells(
        self, embedding: Embedding, dense_prompt: DensePrompt | None = None
    ) -> ImageCells:
        """What the decoder and the PLM need of an image, kept until the next image is asked for.

        Of an image and its mirror image both are kept, and of those with each dense prompt.

        Args:
            embedding: the encoded image.
            dense_prompt: what was learned to add to its cells, if anything.
        """
        for known, learned, cells in self._last_cells:
            if known is embedding and learned is dense_prompt:
                return cells
        features = embedding.features[None].to(self.device, torch.float32)
        dense = self.no_mask if dense_prompt is None else self.no_mask + dense_prompt(features)
        cells = self.decoder.prepare(features, self.image_pe, dense)
        same_image = (
            entry
            for entry in self._last_cells
            if embedding in (entry[0], entry[0].mirror) or entry[0] is embedding.mirror
        )
        self._last_cells = (*same_image, (embedding, dense_prompt, cells))
        return cells

    def encode_points(
        self, point_coords: Tensor, point_labels: Tensor, boxes: Tensor | None = None
    ) -> Tensor:
        """Turn B prompts of equal shape into sparse tokens.

        Args:
            point_coords: (B, N, 2) x, y in the input frame; N may be 0 with a box.
            point_labels: (B, N) 1 object, 0 background.
            boxes: (B, 4) x0, y0, x1, y1 in the input frame.

        Returns:
            (B, P, 256) sparse prompt embeddings f_P. Without a box SAM adds its padding token.
        """
        points = (point_coords, point_labels) if point_coords.shape[1] else None
        sparse, _ = self.prompt_encoder(points=points, boxes=boxes, masks=None)
        return sparse  # type: ignore[no-any-return]

    def encode_prompts(self, prompts: list[Prompt], original_size: tuple[int, int]) -> Tensor:
        """Turn prompts on one image, all with as many points and boxes, into sparse tokens.

        Args:
            prompts: B prompts in pixels of the original image.
            original_size: (H, W) of that image.

        Returns:
            (B, P, 256) sparse prompt embeddings.
        """
        points = torch.from_numpy(np.stack([prompt.points for prompt in prompts]))
        labels = torch.from_numpy(np.stack([prompt.labels for prompt in prompts]))
        boxes = [prompt.box for prompt in prompts if prompt.box is not None]
        box_corners = torch.from_numpy(np.stack(boxes)).view(-1, 2, 2) if boxes else None
        to_input = self._input_scale(original_size)
        return self.encode_points(
            (points * to_input).to(self.device),
            labels.to(self.device),
            None if box_corners is None else (box_corners * to_input).flatten(1).to(self.device),
        )

    def encode_masks(self, low_res_logits: Tensor) -> Tensor:
        """Turn B mask prompts, (B, 1, 4h, 4w) logits, into dense embeddings (B, 256, h, w)."""
        _, dense = self.prompt_encoder(points=None, boxes=None, masks=low_res_logits)
        return dense  # type: ignore[no-any-return]

    def _input_scale(self, original_size: tuple[int, int]) -> Tensor:
        """(2,) factors for x and y from the original image to the input frame."""
        height, width = input_size(original_size, self.image_size)
        return torch.tensor([width / original_size[1], height / original_size[0]])


def load_sam(checkpoint: Path | Checkpoint, device: torch.device | str = "cpu") -> Sam:
    """Load pretrained weights of any of the four kinds, told apart by their tensors.

    Args:
        checkpoint: a .pth, .pt or .safetensors file, or one already read.
        device: where to run.

    Returns:
        The frozen model.

    Raises:
        CheckpointError: the file is missing, damaged or of no known kind.
    """
    if isinstance(checkpoint, Path):
        checkpoint = read_checkpoint(checkpoint)
    with torch.random.fork_rng(devices=[]):  # its random weights are loaded over
        sam = build_sam(checkpoint.kind)
    parts = {
        "image_encoder.": sam.image_encoder,
        "prompt_encoder.": sam.prompt_encoder,
        "mask_decoder.": sam.decoder.layers,
    }
    for prefix, module in parts.items():
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in checkpoint.state.items()
            if name.startswith(prefix)
        }
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            first_line = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{checkpoint.path} looks like {checkpoint.kind}, but its {prefix}* tensors do "
                f"not fit: {first_line} Use an unchanged checkpoint of segment-anything or "
                "MobileSAM."
            ) from error
    return sam.to(device)


def build_sam(kind: str) -> Sam:
    """Build a SAM of one kind with random weights."""
    modeling = _segment_anything_modeling()
    encoder: nn.Module
    if kind == "mobile_sam":
        encoder = TinyViT()
    else:
        width, depth, heads, global_blocks = _VIT_SIZES[kind]
        encoder = modeling.ImageEncoderViT(
            img_size=IMAGE_SIZE,
            patch_size=16,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=4,
            norm_layer=lambda size: nn.LayerNorm(size, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=global_blocks,
            window_size=14,
            out_chans=256,
        )
    return Sam(kind, encoder, *build_decoder(IMAGE_SIZE))


def build_decoder(image_size: int) -> tuple[nn.Module, nn.Module]:
    """Build segment-anything's PromptEncoder and MaskDecoder with random weights."""
    modeling = _segment_anything_modeling()
    grid = image_size // 16
    prompt_encoder = modeling.PromptEncoder(
        embed_dim=256,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    mask_decoder = modeling.MaskDecoder(
        num_multimask_outputs=3,
        transformer=transformer,
        transformer_dim=256,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return prompt_encoder, mask_decoder


def _segment_anything_modeling() -> ModuleType:
    """segment-anything's `modeling`, without its `__init__` and so without torchvision."""
    alias = "samtune._segment_anything"
    if alias not in sys.modules:
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise CheckpointError(
                "the package segment-anything is not installed: pip install segment-anything"
            )
        package = ModuleType(alias)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[alias] = package
    return importlib.import_module(f"{alias}.modeling")


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
