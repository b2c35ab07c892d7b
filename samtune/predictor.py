"""From an encoded image and prompts to masks: plain SAM, or with an adapter.

Plain SAM answers an ambiguous prompt, one point alone, with three masks and takes the one whose
predicted IoU is best; several points or a box are answered with its single-mask output
(Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 3). An adapter brings its own
choice among all four, because the frozen IoU head does not know the task (selector.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.adapter import Adapter
from samtune.pmm import resample_contour
from samtune.polygons import Polygon, is_simple, mask_to_polygons, polygons_to_mask
from samtune.prompts import Prompt
from samtune.sam import MASK_THRESHOLD, Embedding, Sam
from samtune.selector import best_of_three

_MULTIMASK = (1, 2, 3)  # outputs with a mask each for an ambiguous prompt; 0 is the single mask
AT_ONCE = 8  # prompts decoded together; more need memory and are no faster on a CPU
_SMALLEST_CONTOUR = (
    8.0  # pixels of the input frame across; the features cannot resolve smaller ones
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """One prompt's answer.

    Attributes:
        mask: (H, W) bool at the image's own size.
        score: the decoder's estimate of the mask's IoU, 0 to 1.
        low_res_logits: (256, 256) float32 in the padded input frame.
        alternatives: (M, H, W) bool, the three masks of SAM's multimask output; none (M = 0)
            unless they were asked for.
        alternative_scores: (M,) their estimated IoU.
        alternative_logits: (M, 256, 256) float32, their logits in the padded input frame.
        refined: (H, W) bool, the mask after contour refinement, where it was asked for.
    """

    mask: NDArray[np.bool_]
    score: float
    low_res_logits: NDArray[np.float32]
    alternatives: NDArray[np.bool_]
    alternative_scores: NDArray[np.float32]
    alternative_logits: NDArray[np.float32]
    refined: NDArray[np.bool_] | None = None


class Predictor:
    """Answers prompts on encoded images.

    Args:
        sam: the frozen model.
        adapter: what to plug onto it; None is plain SAM.
    """

    def __init__(self, sam: Sam, adapter: Adapter | None = None) -> None:
        self.sam = sam
        self.adapter = adapter

    @torch.inference_mode()
    def predict(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompt],
        *,
        all_masks: bool = False,
        refine: bool = False,
    ) -> list[Prediction]:
        """Answer prompts on one image, in their order.

        Args:
            embedding: the encoded image.
            prompts: what to segment, in pixels of the original image.
            all_masks: also give the three masks of the multimask output.
            refine: also refine the contours; the adapter must have a PMM.

        Returns:
            A prediction for each prompt.

        Raises:
            PromptError: a point or box lies outside of the image.
            ValueError: refinement without an adapter that can.
        """
        if refine and (self.adapter is None or self.adapter.pmm is None):
            raise ValueError("refining needs an adapter with a Point Matching Module")
        for prompt in prompts:
            prompt.check_inside(embedding.original_size)
        features = embedding.features[None].to(self.sam.device, torch.float32)
        answers: dict[int, Prediction] = {}
        for group in _alike(prompts):
            for start in range(0, len(group), AT_ONCE):
                chosen = group[start : start + AT_ONCE]
                asked = [prompts[i] for i in chosen]
                found = self._answer(embedding, features, asked, all_masks, refine)
                answers.update(zip(chosen, found, strict=True))
        return [answers[position] for position in range(len(prompts))]

    def _answer(
        self,
        embedding: Embedding,
        features: Tensor,
        prompts: list[Prompt],
        all_masks: bool,
        refine: bool,
    ) -> list[Prediction]:
        sam, decoder = self.sam, self.sam.decoder
        prompt_tokens = sam.encode_prompts(prompts, embedding.original_size)
        if self.adapter is not None:
            prompt_tokens = self.adapter.plm(prompt_tokens, features, sam.image_pe)
        tokens, cells = decoder.attend(features, sam.image_pe, prompt_tokens, sam.no_mask)
        estimates = decoder.predict_iou(tokens)
        if self.adapter is not None:
            estimates = self.adapter.selector(tokens, estimates)
        # Which mask it will be is known before any is decoded.
        outputs = self._choose(prompts[0], estimates)
        if all_masks:
            outputs = torch.cat([outputs, torch.tensor(_MULTIMASK).expand(len(prompts), -1)], dim=1)
        blocks = decoder.mask_blocks(tokens, cells, outputs.to(sam.device))
        low_res_logits = decoder.assemble(blocks, (features.shape[-2], features.shape[-1]))
        logits = sam.upscale_logits(low_res_logits, embedding.input_size, embedding.original_size)
        masks = (logits > MASK_THRESHOLD).cpu().numpy()
        scores = estimates.cpu().gather(1, outputs).clip(0, 1).numpy()
        low_res = low_res_logits.cpu().numpy()
        return [
            Prediction(
                mask=masks[position, 0],
                score=float(scores[position, 0]),
                low_res_logits=low_res[position, 0],
                alternatives=masks[position, 1:],
                alternative_scores=scores[position, 1:],
                alternative_logits=low_res[position, 1:],
                refined=self.refine(embedding, cells[position], masks[position, 0])
                if refine
                else None,
            )
            for position in range(len(prompts))
        ]

    def _choose(self, prompt: Prompt, estimates: Tensor) -> Tensor:
        """Which of the four masks to return, (B, 1), for B prompts of the same form."""
        if self.adapter is not None:
            return estimates.cpu().argmax(dim=1, keepdim=True)
        if prompt.box is None and len(prompt.points) == 1:  # ambiguous
            return best_of_three(estimates.cpu())
        return torch.zeros(len(estimates), 1, dtype=torch.int64)

    def refine(
        self, embedding: Embedding, image_features: Tensor, mask: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Move a mask's contours with the Point Matching Module (Kim et al. 2024, figure 5).

        Each outer contour and hole is refined on its own; one that is too small to see in the
        features, or whose refined polygon would cross itself, stays as it was.

        Args:
            embedding: the encoded image, for its frames.
            image_features: (h·w, 256) of the decoding that the mask came from.
            mask: (H, W) bool.

        Returns:
            (H, W) bool.
        """
        polygons = [
            Polygon(
                self._refine_contour(embedding, image_features, polygon.exterior),
                tuple(self._refine_contour(embedding, image_features, h) for h in polygon.holes),
            )
            for polygon in mask_to_polygons(mask)
        ]
        return polygons_to_mask(polygons, embedding.original_size)

    def _refine_contour(
        self, embedding: Embedding, image_features: Tensor, contour: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        assert self.adapter is not None
        assert self.adapter.pmm is not None
        height, width = embedding.original_size
        to_input = np.array(
            [embedding.input_size[1] / width, embedding.input_size[0] / height], dtype=np.float32
        )
        if (np.ptp(contour, axis=0) * to_input).min() < _SMALLEST_CONTOUR:
            return contour
        shares = (resample_contour(contour) + 0.5) * to_input / self.sam.image_size
        points = torch.from_numpy(shares.astype(np.float32))[None].to(self.sam.device)
        moved = self.adapter.pmm(image_features[None], points)[0].cpu().numpy()
        refined = (moved * self.sam.image_size / to_input - 0.5).astype(np.float32)
        return refined if is_simple(refined) else contour


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Positions of prompts with as many points and boxes: those decode together."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for position, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.points), prompt.box is not None), []).append(position)
    return list(groups.values())
