"""What people write today to train a prompt network on SAM: the other side of speed.py.

The same learning as samtune's, in the usual way: segment-anything's own MaskDecoder with every
projection of every cell, the PLM with torch's own attention, the loss on all 256×256 logits of all
masks, one object a step; only which mask to return is not learned. `tests/test_learner.py` holds
that samtune's steps give the same losses.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.supervision import CellSample


class PlainPLM(nn.Module):
    """Kim et al. 2024, section 4.1, as it is written; see samtune/plm.py for the norm on cells."""

    def __init__(self, first_offset: float = 1.0) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(256, 8, batch_first=True)
        self.image_attention = nn.MultiheadAttention(256, 8, batch_first=True)
        self.self_norm, self.image_norm = nn.LayerNorm(256), nn.LayerNorm(256)
        self.mlp = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 256))
        self.final_norm = nn.LayerNorm(256)
        nn.init.constant_(self.final_norm.weight, first_offset)

    def forward(self, prompt: Tensor, image_embedding: Tensor, image_pe: Tensor) -> Tensor:
        """Adapt (1, P, 256) tokens to one image."""
        cells = F.layer_norm(image_embedding.flatten(2).transpose(1, 2), (256,))
        positions = image_pe.flatten(2).transpose(1, 2)
        tokens = self.self_norm(prompt + self.self_attention(prompt, prompt, prompt)[0])
        attended = self.image_attention(tokens + prompt, cells + positions, cells)[0]
        tokens = self.image_norm(tokens + attended)
        adapted: Tensor = prompt + self.final_norm(tokens + self.mlp(tokens))
        return adapted


def mask_loss(
    logits: Tensor, estimates: Tensor, target: Tensor, valid: Tensor, temperature: float
) -> Tensor:
    """2.5 · focal + dice of the masks' mixture by predicted IoU; and half that of each, best first.

    Args:
        logits: (M, 256, 256).
        estimates: (M,) predicted IoU.
        target: (256, 256) share of each logit on the object.
        valid: (256, 256) whether a logit is in the image.
        temperature: of the softmax that weights the masks by how good they already are.
    """
    mixture = torch.softmax(estimates.detach() / 0.05, dim=0) @ logits.flatten(1)
    logits = torch.cat([logits, mixture.view(1, *target.shape)])
    logits, target = logits[:, valid], target[valid].expand(len(logits), -1)
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = probability * target + (1 - probability) * (1 - target)
    focal = ((1 - right) ** 2 * cross_entropy).mean(dim=1)
    overlap = (probability * target).sum(dim=1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=1) + target.sum(dim=1) + 1)
    *alone, mixed = 2.5 * focal + dice
    losses = torch.stack(alone)
    found, true = logits > 0, target > 0.5
    iou = ((found & true).sum(dim=1) / (found | true).sum(dim=1).clamp(min=1))[:-1]
    weights = torch.softmax(-losses.detach() / temperature, dim=0)
    outputs: Tensor = (weights * (losses + (estimates - iou) ** 2)).sum()
    return mixed + 0.5 * outputs


def whole_target(sample: CellSample, grid: int) -> tuple[Tensor, Tensor]:
    """Put a sample of all cells together.

    Args:
        sample: from `Supervision.sample_cells`, asked for as many cells as there are.
        grid: cells on a side.

    Returns:
        (4 · grid, 4 · grid) the target, and whether each of its logits is in the image.
    """
    masks = []
    rows = sample.weight.any(axis=1)  # the others only fill up for cells of padding
    for blocks in (sample.target, sample.weight):
        cells = np.zeros((grid * grid, 16), np.float32)
        cells[sample.index[rows]] = blocks[rows]
        split = cells.reshape(grid, grid, 2, 2, 2, 2)  # cell, coarse half, fine half
        mask = split.transpose(0, 2, 4, 1, 3, 5).reshape(4 * grid, 4 * grid)
        masks.append(torch.from_numpy(np.ascontiguousarray(mask)))
    return masks[0], masks[1] > 0


class PlainLoop:
    """Train a PLM on one object a step, and a dense prompt if there is one.

    Args:
        prompt_encoder: segment-anything's, frozen.
        mask_decoder: segment-anything's, frozen.
        plm: what is trained.
        dense_prompt: (1, 256, h, w) embedding to what is added to the dense prompt; trained, too.
        dense_rate: its learning rate, as a share of the PLM's.
        temperature: see `mask_loss`.
    """

    def __init__(
        self,
        prompt_encoder: Any,
        mask_decoder: Any,
        plm: PlainPLM,
        dense_prompt: nn.Module | None = None,
        dense_rate: float = 1.0,
        temperature: float = 0.25,
    ) -> None:
        self.prompt_encoder, self.mask_decoder, self.plm = prompt_encoder, mask_decoder, plm
        self.dense_prompt, self.temperature = dense_prompt, temperature
        groups = [{"params": list(plm.parameters()), "share": 1.0}]
        if dense_prompt is not None:
            groups.append({"params": list(dense_prompt.parameters()), "share": dense_rate})
        # AdamW's epsilon is that of learner.py.
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, eps=1e-6)

    def step(
        self,
        image_embedding: Tensor,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        target: Tensor,
        valid: Tensor,
        learning_rate: float = 1e-3,
    ) -> float:
        """Learn from one object; returns the loss.

        Args:
            image_embedding: (1, 256, h, w).
            points: (1, N, 2) xy in the input frame and (1, N) labels, or None.
            boxes: (1, 4) in the input frame, or None.
            target: see `mask_loss`.
            valid: see `mask_loss`.
            learning_rate: AdamW's for the PLM, in this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * learning_rate
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=None)
        image_pe = self.prompt_encoder.get_dense_pe()
        adapted = self.plm(sparse, image_embedding, image_pe)
        if self.dense_prompt is not None:
            dense = dense + self.dense_prompt(image_embedding)
        logits, estimates = self.mask_decoder.predict_masks(
            image_embeddings=image_embedding,
            image_pe=image_pe,
            sparse_prompt_embeddings=adapted,
            dense_prompt_embeddings=dense,
        )
        loss = mask_loss(logits[0], estimates[0], target, valid, self.temperature)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())
