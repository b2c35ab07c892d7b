"""The method "plm": the Prompt Learning Module moves the prompt's tokens, a selector mixes.

Beside the tokens, the sparse prompt, a dense one is learned (dense_prompt.py). Where few masks say
that moving either does harm, the selector is all there is (trials.py).

Kim et al. 2024 (https://arxiv.org/abs/2403.09199): the modules are in plm.py, dense_prompt.py,
selector.py and, for contours, contour_refiner.py. They are trained by training.py.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from samtune.clicked import Asked
from samtune.contour_refiner import ContourRefiner
from samtune.decoder import FrozenDecoder
from samtune.dense_prompt import DensePrompt
from samtune.input_frame import Embedding
from samtune.method import Method
from samtune.object_map import ObjectMap
from samtune.object_search import ObjectSearch
from samtune.plm import PromptLearningModule
from samtune.precision import computing
from samtune.presence import PresenceHead
from samtune.prompts import Prompt
from samtune.sam import Sam
from samtune.selector import OutputSelector


def attend_moved(
    sam: Sam,
    plm: nn.Module | None,
    dense_prompt: nn.Module | None,
    sparse_prompt_embeddings: Tensor,
    image_embeddings: Tensor,
) -> tuple[Tensor, Tensor]:
    """What the decoder makes of prompts as they were learned to be moved, for training.

    Args:
        sam: the frozen model.
        plm: moves the tokens, if there is one.
        dense_prompt: adds to the images' cells, if there is one.
        sparse_prompt_embeddings: (B, P, C) prompt tokens.
        image_embeddings: (I, C, h, w), float32 or bfloat16; B is a multiple of I, the prompts of
            one image in a row.

    Returns:
        (B, T, C) tokens and (B, N, C) cells of the embeddings' type, as `FrozenDecoder.attend`.
    """
    tokens, dense = sparse_prompt_embeddings, sam.no_mask.to(image_embeddings.dtype)
    if plm is not None:
        tokens = plm(tokens, image_embeddings, sam.image_pe)
    if dense_prompt is not None:
        with computing(image_embeddings.dtype, image_embeddings.device):
            dense = dense + dense_prompt(image_embeddings)
    return sam.decoder.attend(image_embeddings, sam.image_pe, tokens, dense)


class PromptLearning(Method):
    """Mixture of the masks; what moves prompts, refiner and object map if there are any."""

    exports: ClassVar[bool] = True
    refines: ClassVar[bool] = True

    def __init__(
        self,
        plm: PromptLearningModule | None,
        selector: OutputSelector,
        refiner: ContourRefiner | None = None,
        presence: PresenceHead | None = None,
        object_map: ObjectMap | None = None,
        dense_prompt: DensePrompt | None = None,
    ) -> None:
        super().__init__()
        self.plm = plm
        self.dense_prompt = dense_prompt
        self.selector = selector
        self.refiner = refiner
        self.presence = presence
        self.object_map = object_map

    @classmethod
    def _blank(cls, settings: Mapping[str, Any], names: Collection[str]) -> Self:
        """As Method's; with those of the modules that the file has.

        Older files have a Point Matching Module, `pmm.*`, which is not used any more.
        """
        refines, judges, maps = (
            any(name.startswith(prefix) for name in names)
            for prefix in ("refiner.", "presence.", "object_map.")
        )
        moves = settings.get("first_offset") != 0  # learner.py
        return cls(
            PromptLearningModule() if moves else None,
            OutputSelector(),
            ContourRefiner() if refines else None,
            PresenceHead(heeds_mask="presence.on_mask" in names) if judges else None,
            ObjectMap(regions="object_map.boxes" in names) if maps else None,
            DensePrompt() if moves and settings.get("dense_prompt") else None,
        )

    @classmethod
    def trained(cls, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Self:
        """The modules that a training leaves, frozen; the PMM only helped it.

        Args:
            settings: those of the fit, and the `first_offset` it started from.
            weights: by their names in the learner's modules.
        """
        learned = cls.blank(settings, weights.keys())
        kept = {name: one for name, one in weights.items() if not name.startswith("pmm.")}
        learned.load_state_dict(kept)
        return learned.requires_grad_(False).eval()

    def attend(
        self, sam: Sam, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        """As Method's: the prompt's tokens are moved, and the image's cells."""
        image = sam.image_cells(embedding, self.dense_prompt)
        tokens = sam.encode_prompts(list(prompts), embedding.original_size)
        if self.plm is not None:
            tokens = self.plm.adapt(tokens, *image.normed)
        return sam.decoder.attend_to(image, tokens)

    def estimate(self, tokens: Tensor, iou_predictions: Tensor) -> Tensor:
        """As Method's: corrected for the task."""
        return self.selector(tokens, iou_predictions)  # type: ignore[no-any-return]

    @property
    def proposes(self) -> bool:
        """As Method's: where it was learned."""
        return self.object_map is not None

    def search(self, embedding: Embedding) -> ObjectSearch:
        """As Method's; only where `proposes` is true."""
        assert self.object_map is not None
        return ObjectSearch(self.object_map, embedding)

    def parameters_in_use(self) -> int:
        """As Method's; nor is the map for answering a prompt."""
        mapped = [] if self.object_map is None else list(self.object_map.parameters())
        return super().parameters_in_use() - sum(one.numel() for one in mapped)

    def judge(self, decoder: FrozenDecoder, asked: Asked) -> Tensor | None:
        """As Method's, where it was learned."""
        if self.presence is None:
            return None
        on_mask = asked.on_mask(decoder) if self.presence.heeds_mask else None
        return torch.sigmoid(self.presence(asked.tokens, on_mask))
