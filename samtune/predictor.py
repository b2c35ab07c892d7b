"""From an encoded image and prompts to masks: plain SAM, or with an adapter.

Plain SAM answers an ambiguous prompt, one point alone, with three masks and takes the one whose
predicted IoU is best; several points or a box are answered with its single-mask output
(Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, section 3). An adapter brings its own
mixture of all four, because the frozen IoU head does not know the task (selector.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.adapter import Adapter, AdapterInfo
from samtune.clicked import Asked, places_of
from samtune.contour_refiner import ContourRefiner
from samtune.decoded import Decoded
from samtune.input_frame import Embedding
from samtune.nearness import is_far
from samtune.polygons import Polygon, mask_to_polygons, polygons_to_mask
from samtune.prompts import Prompt
from samtune.refinement import ROUNDS, box_features, box_of, is_large, refine_polygon
from samtune.sam import Sam
from samtune.selector import best_of_three
from samtune.specks import without_specks
from samtune.upscaling import upscale_masks

AT_ONCE = 8  # prompts decoded together: 4 MB of cells each, several times over


@dataclass(frozen=True, eq=False)
class Prediction:
    """One prompt's answer.

    Attributes:
        mask: (H, W) bool at the image's own size.
        score: the decoder's estimate of the mask's IoU, 0 to 1.
        presence: how likely it is, 0 to 1, that the prompt is on an object of the trained kind;
            None where that was not learned.
        low_res_logits: (256, 256) float32 in the padded input frame; coarse in the padding and
            far from any boundary (`FrozenDecoder.mask_logits`) unless every cell was decoded.
        alternatives: (M, H, W) bool, the three masks of SAM's multimask output; none (M = 0)
            unless they were asked for.
        alternative_scores: (M,) their estimated IoU.
        alternative_logits: (M, 256, 256) float32, their logits in the padded input frame.
        contours: the polygons of the mask after contour refinement, where it was asked for.
        fallback: whether plain SAM answers, because the adapter's answer was far from the clicks.
    """

    mask: NDArray[np.bool_]
    score: float
    low_res_logits: NDArray[np.float32]
    alternatives: NDArray[np.bool_]
    alternative_scores: NDArray[np.float32]
    alternative_logits: NDArray[np.float32]
    contours: tuple[Polygon, ...] | None = None
    presence: float | None = None
    fallback: bool = False

    @cached_property
    def refined(self) -> NDArray[np.bool_] | None:
        """(H, W) bool, the mask after contour refinement, where it was asked for."""
        if self.contours is None:
            return None
        height, width = self.mask.shape
        return polygons_to_mask(self.contours, (height, width))


class Predictor:
    """Answers prompts on encoded images; on both sides of those that come with a mirror image.

    Args:
        sam: the frozen model.
        adapter: what to plug onto it; None is plain SAM.
        every_cell: also decode cells far from any boundary. The masks are the same; it takes a
            third more time, and `low_res_logits` are exact everywhere.
    """

    def __init__(
        self, sam: Sam, adapter: Adapter | None = None, *, every_cell: bool = False
    ) -> None:
        self.sam = sam
        self.adapter = adapter
        self.every_cell = every_cell

    @property
    def refiner(self) -> ContourRefiner | None:
        """What refines contours; None where the adapter has none, and without one."""
        return None if self.adapter is None else self.adapter.learned.refiner

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
            refine: also refine the contours; the adapter must have a contour refiner.

        Returns:
            A prediction for each prompt.

        Raises:
            PromptError: a point or box lies outside of the image.
            ValueError: refinement without an adapter that can.
        """
        if refine:
            self._needed_refiner()  # raises where there is none
        for prompt in prompts:
            prompt.check_inside(embedding.original_size)
        answers: dict[int, Prediction] = {}
        for chosen in _together(prompts):
            asked = [prompts[i] for i in chosen]
            found = self._answer_alike(embedding, asked, all_masks)
            answers.update(zip(chosen, found, strict=True))
        found = [answers[position] for position in range(len(prompts))]
        if not refine:
            return found
        return [replace(one, contours=self.refine_mask(embedding, one.mask)) for one in found]

    @torch.inference_mode()
    def presence(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[float | None]:
        """Only how likely it is that each prompt is on an object, which takes no mask.

        Args:
            embedding: the encoded image.
            prompts: in pixels of the original image.

        Returns:
            From 0 to 1, in their order; None where that was not learned.
        """
        found: list[float | None] = [None] * len(prompts)
        if self.adapter is None:
            return found
        for chosen in _together(prompts):
            judged = self._judge(embedding, [prompts[i] for i in chosen])
            if judged is not None:
                for position, value in zip(chosen, judged.tolist(), strict=True):
                    found[position] = value
        return found

    def _judge(self, embedding: Embedding, prompts: list[Prompt]) -> Tensor | None:
        """How likely it is that B prompts of one form are on an object, (B,)."""
        judged = self._judge_side(embedding, prompts)
        if judged is None or embedding.mirror is None:
            return judged
        other = self._judge_side(embedding.mirror, _turned(prompts, embedding))
        assert other is not None
        return (judged + other) / 2

    def _judge_side(self, embedding: Embedding, prompts: list[Prompt]) -> Tensor | None:
        """The same of an image without its mirror image."""
        assert self.adapter is not None
        learned, decoder = self.adapter.learned, self.sam.decoder
        tokens, cells = self._attend(embedding, prompts)
        mixing = learned.mix(learned.estimate(tokens, decoder.predict_iou(tokens)))
        return learned.judge(decoder, Asked.of(prompts, embedding, tokens, cells, mixing))

    def _answer_alike(
        self,
        embedding: Embedding,
        prompts: list[Prompt],
        all_masks: bool,
    ) -> list[Prediction]:
        """Answer B prompts with as many points and boxes, decoded together; as `predict`."""
        every_cell = self.every_cell or embedding.mirror is not None  # no average of coarse logits
        decoded = self._decode(embedding, prompts, all_masks, every_cell)
        if embedding.mirror is not None:
            turned = _turned(prompts, embedding)
            other = self._decode(embedding.mirror, turned, all_masks, every_cell)
            decoded = decoded.averaged_with_mirrored(other, embedding)
        scores, low_res = decoded.scores.cpu().numpy(), decoded.logits.cpu().numpy()
        far: list[int] = []
        if self.adapter is not None:
            for position, (logits, prompt) in enumerate(zip(low_res, prompts, strict=True)):
                logits[0], elsewhere = self._tidied(logits[0], prompt, embedding, self.adapter.info)
                far += [position] if elsewhere else []
        masks = upscale_masks(
            torch.from_numpy(low_res),
            self.sam.image_size,
            embedding.input_size,
            embedding.original_size,
        )
        presence = decoded.presence
        answers = [
            Prediction(
                mask=masks[position, 0],
                score=float(scores[position, 0]),
                low_res_logits=low_res[position, 0],
                alternatives=masks[position, 1:],
                alternative_scores=scores[position, 1:],
                alternative_logits=low_res[position, 1:],
                presence=None if presence is None else float(presence[position]),
            )
            for position in range(len(prompts))
        ]
        if far:
            plain = Predictor(self.sam, every_cell=self.every_cell)
            instead = plain._answer_alike(embedding, [prompts[i] for i in far], all_masks)
            for i, answer in zip(far, instead, strict=True):
                answers[i] = replace(answer, presence=answers[i].presence, fallback=True)
        return answers

    @staticmethod
    def _tidied(
        logits: NDArray[np.float32], prompt: Prompt, embedding: Embedding, info: AdapterInfo
    ) -> tuple[NDArray[np.float32], bool]:
        """An answer's logits, (4h, 4w), without specks, and whether it is far from its clicks."""
        side = len(logits)
        rows, columns = embedding.reached((side, side))
        clicks = places_of(prompt, embedding, side)[prompt.labels == 1]
        if info.least_part:
            logits = without_specks(logits, info.least_part, (rows, columns), clicks)
        if prompt.box is not None or not info.heeds_clicks:
            return logits, False
        return logits, is_far(logits[:rows, :columns] > 0, clicks)

    def _decode(
        self, embedding: Embedding, prompts: list[Prompt], all_masks: bool, every_cell: bool
    ) -> Decoded:
        """What the decoder says to B prompts on an image, or on its mirror image."""
        sam, decoder = self.sam, self.sam.decoder
        tokens, cells = self._attend(embedding, prompts)
        estimates = decoder.predict_iou(tokens)
        if self.adapter is not None:
            estimates = self.adapter.learned.estimate(tokens, estimates)
        # Which mask it will be is known before any is decoded.
        mixing = self.mix(prompts[0], estimates)[:, None]
        presence = None
        if self.adapter is not None:
            asked = Asked.of(prompts, embedding, tokens, cells, mixing[:, 0])
            presence = self.adapter.learned.judge(decoder, asked)
        if all_masks:
            multimask = torch.eye(4, device=sam.device)[1:]  # output 0 is the single mask
            mixing = torch.cat([mixing, multimask.expand(len(prompts), -1, -1)], dim=1)
        grid = embedding.features.shape[-2], embedding.features.shape[-1]
        if every_cell:
            low_res_logits = decoder.assemble(decoder.mask_blocks(tokens, cells, mixing), grid)
        else:
            low_res_logits = decoder.mask_logits(
                tokens, cells, mixing, grid, embedding.reached_cells
            )
        scores = (mixing @ estimates[..., None])[..., 0].clip(0, 1)
        return Decoded(low_res_logits, scores, presence)

    def mix(self, prompt: Prompt, estimates: Tensor) -> Tensor:
        """How much of each of the four masks to return, for B prompts of the same form.

        What a baseline overrides to answer otherwise (sam_f.py).

        Args:
            prompt: one of them.
            estimates: (B, 4) IoU that each mask is estimated to have.

        Returns:
            (B, 4) weights of the masks' logits.
        """
        if self.adapter is not None:
            return self.adapter.learned.mix(estimates)
        if prompt.box is None and len(prompt.points) == 1:  # ambiguous
            return best_of_three(estimates)
        return torch.eye(4, device=estimates.device)[0].expand(len(estimates), -1)

    @torch.inference_mode()
    def refine_mask(
        self, embedding: Embedding, mask: NDArray[np.bool_], rounds: int = ROUNDS
    ) -> tuple[Polygon, ...]:
        """Move the contours of a mask, whatever made it.

        Plain SAM decodes each connected part once, for its box: what it sees there does not
        depend on what the adapter learned of the images it was trained on, so that the refiner
        learned from what it will see (refiner_fit.py).

        Args:
            embedding: the encoded image.
            mask: (H, W) bool, of the image's own size.
            rounds: how often the points are moved.

        Returns:
            The polygons of the mask's parts, as `mask_to_polygons` orders them; those that are too
            small to refine, or would not be simple afterwards, are as it gives them.

        Raises:
            ValueError: the mask has another size, or there is nothing to refine with.
        """
        if mask.shape != embedding.original_size:
            raise ValueError(f"a mask of {mask.shape} for an image of {embedding.original_size}")
        refiner = self._needed_refiner()
        polygons = list(mask_to_polygons(mask))
        boxes = [box_of(one.exterior, embedding) for one in polygons]
        large = [i for i, box in enumerate(boxes) if is_large(box)]
        for start in range(0, len(large), AT_ONCE):
            chosen = large[start : start + AT_ONCE]
            asked = np.stack([boxes[i] for i in chosen])
            seen = box_features(self.sam, self.sam.image_cells(embedding), asked)
            for i, features in zip(chosen, seen, strict=True):
                polygons[i] = refine_polygon(polygons[i], refiner, features, embedding, rounds)
        return tuple(polygons)

    def _needed_refiner(self) -> ContourRefiner:
        if self.refiner is None:
            raise ValueError("refining needs an adapter with a contour refiner")
        return self.refiner

    def _attend(self, embedding: Embedding, prompts: list[Prompt]) -> tuple[Tensor, Tensor]:
        """Tokens and cells after the decoder's transformer, for prompts of one form."""
        if self.adapter is not None:
            return self.adapter.learned.attend(self.sam, embedding, prompts)
        image = self.sam.image_cells(embedding)
        prompt_tokens = self.sam.encode_prompts(prompts, embedding.original_size)
        return self.sam.decoder.attend_to(image, prompt_tokens)


def _turned(prompts: Sequence[Prompt], embedding: Embedding) -> list[Prompt]:
    """The same places in the mirror image."""
    return [prompt.mirrored(embedding.original_size[1]) for prompt in prompts]


def _together(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Positions of a few prompts with as many points and boxes: those decode together."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for position, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.points), prompt.box is not None), []).append(position)
    for group in groups.values():
        yield from (group[start : start + AT_ONCE] for start in range(0, len(group), AT_ONCE))
