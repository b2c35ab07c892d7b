"""The methods "persam" and "persam-f": an object from one annotated image, and no training.

Zhang et al. 2023, *Personalize Segment Anything Model with One Shot*
(https://arxiv.org/abs/2305.03048). What is kept of the references is a target vector and the
direction of the object's cells (targets.py). On another image the direction gives a location prior,
the most similar place as a point on the object and the least similar as one on the background, and
both guide the frozen decoder (two_way.Guidance). The answer comes in a cascade of three: the points
alone; the points with the first answer's logits as a mask prompt; the same with the second answer's
box and logits. In the paper the second and third answer are what SAM is surest of, often the whole
where the first was a part. With "agreement" the second keeps to the first, and the third is SAM's
single mask (benchmarks/README.md has what that does).

PerSAM-F learns two numbers, which weigh the first answer's three masks: that is how it knows
whether the part or the whole is meant. It has the positive point alone.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samtune.config import Part
from samtune.input_frame import Embedding
from samtune.location_prior import LocationPrior
from samtune.method import Method
from samtune.prompts import Prompt, box_around
from samtune.sam import Sam
from samtune.selector import best_of_three
from samtune.targets import Direction
from samtune.two_way import Guidance
from samtune.upscaling import upscale_masks

_SINGLE = torch.eye(4)[:1]  # as mixing: of the four outputs, the one for prompts that are clear
_THREE = torch.eye(4)[1:]  # and those of SAM's multimask answer
WIDTH = 256  # channels of a token and of an image cell, fixed by SAM
_ALPHA = 0.5  # of guided attention: measured, see benchmarks/README.md
_OUTPUT_TOKENS = 5  # the IoU token and four mask tokens: what choosing and decoding need


class Persam(Method):
    """PerSAM: a target vector, and the decoder guided by it.

    Args:
        target: (256,) float32, the target vector.
        where: the direction to look in.
        what: the target vector's own, to tell whether what was found is the object.
        without: parts to leave out, to see what each of them does; "background" is a matter of
            the direction alone.
    """

    finds: ClassVar[bool] = True
    target: Tensor
    directions: Tensor
    offsets: Tensor
    _box_at_once: ClassVar[bool] = False  # whether the cascade's second step has a box already

    def __init__(
        self,
        target: NDArray[np.float32],
        where: Direction,
        what: Direction,
        without: Collection[Part] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("target", torch.from_numpy(target))
        vectors = np.stack([where.vector, what.vector])
        self.register_buffer("directions", torch.from_numpy(vectors))
        self.register_buffer("offsets", torch.tensor([where.offset, what.offset]))
        self.without = frozenset(without)

    @classmethod
    def _blank(cls, settings: Mapping[str, Any], names: Collection[str]) -> Self:
        """As Method's; the settings say which parts are left out.

        Those of before there was an agreement do not name it, and answer as they did.
        """
        before = () if settings.get("agreement") else ("agreement",)
        return cls(*_zeros(), without={*settings.get("without", ()), *before})

    def attend(
        self, sam: Sam, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        """As Method's: each prompt's cascade, up to the last choice of a mask."""
        guidance = self._guidance(sam, embedding)
        decoding = _Decoding(sam, embedding, guidance)
        answers = [self._cascade(decoding, one) for one in prompts]
        tokens, cells = (torch.cat(parts) for parts in zip(*answers, strict=True))
        return tokens, cells

    def mix(self, estimates: Tensor) -> Tensor:
        """As Method's: SAM's single mask, or the best of three as the paper's cascade has it."""
        if "agreement" in self.without and "cascade" not in self.without:
            return best_of_three(estimates)
        return _SINGLE.to(estimates).expand(len(estimates), -1)

    def search(self, embedding: Embedding) -> "LocationPrior":
        """As Method's: by similarity with the target."""
        negative = "negative-point" not in self.without
        where, what = (self.likeness(embedding, row) for row in (0, 1))
        return LocationPrior(where, what, embedding, negative=negative)

    def likeness(self, embedding: Embedding, row: int = 0) -> NDArray[np.float32]:
        """How much each cell of an image is like the object, (rows, columns).

        Args:
            embedding: the image.
            row: 0 is where to look, 1 what it is.
        """
        direction = Direction(self.directions[row].cpu().numpy(), float(self.offsets[row]))
        return direction.likeness(embedding)

    def _guidance(self, sam: Sam, embedding: Embedding) -> Guidance:
        attention = None
        if "guided-attention" not in self.without:
            grid = embedding.features.shape[-2:]
            preferred = _preference(self.likeness(embedding), (grid[0], grid[1]))
            attention = torch.from_numpy(preferred).view(1, -1).to(sam.device)
        semantic = None if "semantic-prompt" in self.without else self.target
        return Guidance(attention, semantic)

    def _cascade(self, decoding: "_Decoding", prompt: Prompt) -> tuple[Tensor, Tensor]:
        tokens, cells = decoding.attend(prompt)
        if "cascade" in self.without:
            return tokens, cells
        first = self._first_answer(decoding, tokens, cells)
        asked = decoding.with_box(prompt, first) if self._box_at_once else prompt
        tokens, cells = decoding.attend(asked, first)
        second = decoding.surest(tokens, cells, None if "agreement" in self.without else first)
        return decoding.attend(decoding.with_box(prompt, second), second)

    def _first_answer(self, decoding: "_Decoding", tokens: Tensor, cells: Tensor) -> Tensor:
        """(1, 1, 4h, 4w) logits of the cascade's first answer: SAM's single mask."""
        return decoding.logits(tokens, cells, _SINGLE)


class PersamF(Persam):
    """PerSAM-F: the first answer is the weighted sum of SAM's three masks.

    Args:
        target: (256,) float32, the target vector.
        where: the direction to look in.
        what: the target vector's own.
        weights: of the first two masks; all three sum to 1.
        without: parts to leave out; the cascade cannot be, nor is there a negative point.
    """

    _box_at_once: ClassVar[bool] = True

    def __init__(
        self,
        target: NDArray[np.float32],
        where: Direction,
        what: Direction,
        weights: tuple[float, float] = (0.0, 0.0),
        without: Collection[Part] = (),
    ) -> None:
        super().__init__(target, where, what, {*without, "negative-point"} - {"cascade"})
        self.weights = nn.Parameter(torch.tensor(weights))

    def _first_answer(self, decoding: "_Decoding", tokens: Tensor, cells: Tensor) -> Tensor:
        weights = torch.cat([self.weights, 1 - self.weights.sum(dim=0, keepdim=True)])
        return decoding.logits(tokens, cells, (weights @ _THREE.to(weights))[None])


def _preference(likeness: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
    """What the tokens' attention to the cells is raised by, (h, w); the padding is unlike all."""
    standard = (likeness - likeness.mean()) / max(float(likeness.std()), 1e-6)
    preferred = np.full(grid, standard.min(), dtype=np.float32)
    preferred[: likeness.shape[0], : likeness.shape[1]] = standard
    return _ALPHA * preferred


class _Decoding:
    """One image on the frozen decoder, for one prompt after another."""

    def __init__(self, sam: Sam, embedding: Embedding, guidance: Guidance) -> None:
        self.sam, self.embedding, self.guidance = sam, embedding, guidance
        self.features = sam.image_cells(embedding).features

    def attend(self, prompt: Prompt, logits: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output tokens and the cells for a prompt, with a mask prompt if there is one."""
        sam = self.sam
        dense = sam.no_mask if logits is None else sam.encode_masks(logits)
        sparse = sam.encode_prompts([prompt], self.embedding.original_size)
        tokens, cells = sam.decoder.attend(
            self.features, sam.image_pe, sparse, dense, self.guidance
        )
        return tokens[:, :_OUTPUT_TOKENS], cells

    def logits(self, tokens: Tensor, cells: Tensor, mixing: Tensor) -> Tensor:
        """(1, M, 4h, 4w) logits of mixtures of the outputs, (M, 4)."""
        decoder = self.sam.decoder
        grid = self.features.shape[-2], self.features.shape[-1]
        return decoder.assemble(decoder.mask_blocks(tokens, cells, mixing[None].to(tokens)), grid)

    def surest(self, tokens: Tensor, cells: Tensor, before: Tensor | None) -> Tensor:
        """(1, 1, 4h, 4w) logits of the one of the three masks that has the best predicted IoU.

        Args:
            tokens: as `attend` gives them.
            cells: likewise.
            before: logits of an answer to keep to: the IoU with it counts as much.
        """
        three = self.logits(tokens, cells, _THREE)
        good = self.sam.decoder.predict_iou(tokens)[:, 1:]
        if before is not None and (known := before > 0).any():
            both, either = ((three > 0) & known).sum((2, 3)), ((three > 0) | known).sum((2, 3))
            good = good * both / either
        return three[:, good.argmax(dim=1)]

    def with_box(self, prompt: Prompt, logits: Tensor) -> Prompt:
        """The prompt with the answer's tight box, unless it has one or nothing was found."""
        if prompt.box is not None:
            return prompt
        image = self.embedding
        mask = upscale_masks(logits, self.sam.image_size, image.input_size, image.original_size)
        if not mask.any():
            return prompt
        return Prompt(prompt.points, prompt.labels, box_around(mask[0, 0]))


def _zeros() -> tuple[NDArray[np.float32], Direction, Direction]:
    """A target and two directions for a file's tensors to be loaded into."""
    vector = np.zeros(WIDTH, np.float32)
    return vector, Direction(vector, 0.0), Direction(vector, 0.0)
