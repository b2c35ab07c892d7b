"""Fit an adapter's presence head: clicks on objects and beside them, on the trained adapter.

Its tokens are those that `segment` will judge, because the adapter does not change any more. Where
there are images without an object, it also learns from those clicks on them that it would take for
clicks on one. It learns from tokens of cells in the training's own type (precision.py). What is
calibrated on are clicks on held-out objects, or, where trainings took turns in holding objects out,
the judgements of each trial's head on those it has not seen: in float32, as all answers are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.clicked import Asked
from samtune.config import FitConfig
from samtune.joining import joined
from samtune.learner import EncodedImages
from samtune.precision import cells_type
from samtune.presence import Evidence, PresenceHead
from samtune.prompt_learning import PromptLearning, attend_moved
from samtune.sam import Sam
from samtune.supervision import BLOCK, STRIDE, Supervision
from samtune.trials import Split

_OBJECTS, _HELD_OUT = 256, 128  # that clicks are tried on, evenly from more
_AGAIN = 8  # times an object is tried at most, where there are fewer
_CLICKS = 2  # of each kind for each of them
_TRIED, _TAKEN = 16, 6  # clicks on an image without an object, and those most like one


def fit_presence(
    sam: Sam,
    learned: PromptLearning,
    images: EncodedImages,
    empty: Sequence[int],
    split: Split,
    trials: Sequence[tuple[PromptLearning, Split]],
    config: FitConfig,
) -> PresenceHead | None:
    """Learn from the training objects, and calibrate on the held-out ones.

    Args:
        sam: the frozen model.
        learned: the trained modules.
        images: the embeddings of all images.
        empty: the numbers of those without an object.
        split: what the adapter was trained on, and what was held out.
        trials: modules of trainings that took turns, and what each was trained on, where nothing
            was held out for good.
        config: the fit's settings; the same seed gives the same head.

    Returns:
        The head; None where objects fill all their images, so that nothing is beside them.
    """
    kind = cells_type(config.precision, sam.device)
    clicks = _Clicks(sam, images, empty, kind, np.random.default_rng([config.seed, 4]))
    head = clicks.learn(learned, split.objects)
    if head is None:
        return None
    judged = [clicks.judge(head, learned, split.held_out)]
    for modules, trial in trials:
        of_trial = clicks.learn(modules, trial.objects)
        judged.append(None if of_trial is None else clicks.judge(of_trial, modules, trial.held_out))
    known = [kinds for kinds in judged if kinds is not None]
    if known:
        head.calibrate(*(torch.cat(logits) for logits in zip(*known, strict=True)))
    return head


class _Clicks:
    """Clicks on objects and beside them, drawn one after another, as an adapter answers them.

    Args:
        sam: the frozen model.
        images: the embeddings of all images.
        empty: the numbers of those without an object.
        kind: of the cells in learning.
        rng: draws the clicks.
    """

    def __init__(
        self,
        sam: Sam,
        images: EncodedImages,
        empty: Sequence[int],
        kind: torch.dtype,
        rng: np.random.Generator,
    ) -> None:
        self.sam, self.images, self.empty, self.kind, self.rng = sam, images, empty, kind, rng

    def learn(self, learned: PromptLearning, objects: list[Supervision]) -> PresenceHead | None:
        """A head that tells them apart; None where there are none of a kind."""
        known = self._answers(learned, _evenly(objects, _OBJECTS), self.kind)
        if known is None:
            return None
        on_object, beside = known
        head = PresenceHead.fit(on_object, beside)
        if not self.empty:
            return head
        mistaken = [self._most_like_one(head, learned, image) for image in self.empty]
        tokens, surely = map(torch.cat, zip(beside, *mistaken, strict=True))
        return PresenceHead.fit(on_object, (tokens, surely))

    def judge(
        self, head: PresenceHead, learned: PromptLearning, objects: list[Supervision]
    ) -> tuple[Tensor, Tensor] | None:
        """A head's logits for clicks on objects, and beside them."""
        known = self._answers(learned, _evenly(objects, _HELD_OUT), torch.float32)
        with torch.no_grad():
            return None if known is None else (head(*known[0]), head(*known[1]))

    @torch.inference_mode()
    def _answers(
        self, learned: PromptLearning, objects: list[Supervision], kind: torch.dtype
    ) -> tuple[Evidence, Evidence] | None:
        """Of clicks on the objects, and of clicks beside all objects of their images."""
        if not objects:
            return None
        sure: list[list[float]] = []

        def tokens_of(one: Supervision) -> Tensor:
            clicks = np.concatenate(
                [self.rng.choice(places, _CLICKS) for places in (one.clicks, one.background)]
            )
            features = self.images.batch([one.image_index], kind)
            tokens, on_mask = self._ask(learned, clicks, features)
            sure.append(on_mask.tolist())
            return tokens[None]

        tokens = joined(map(tokens_of, objects), len(objects))
        surely = torch.tensor(sure, device=tokens.device)
        on_object, beside = (
            (tokens[:, part].flatten(0, 1), surely[:, part].flatten())
            for part in (slice(_CLICKS), slice(_CLICKS, None))
        )
        return on_object, beside

    @torch.inference_mode()
    def _most_like_one(
        self, head: PresenceHead, learned: PromptLearning, image_index: int
    ) -> Evidence:
        """Of clicks on an image without an object those that are taken for one the most."""
        embedding = self.images.load(image_index)
        height, width = embedding.input_size
        clicks = self.rng.uniform(0, (width - 1, height - 1), (_TRIED, 2)).astype(np.float32)
        features = embedding.features[None].to(self.sam.device, self.kind)
        tokens, on_mask = self._ask(learned, clicks, features)
        most = head(tokens, on_mask).topk(_TAKEN).indices
        return tokens[most], on_mask[most]

    def _ask(
        self, learned: PromptLearning, clicks: NDArray[np.float32], features: Tensor
    ) -> Evidence:
        """Of (N, 2) clicks in the input frame of the one image of a batch."""
        points = torch.from_numpy(clicks)[:, None].to(self.sam.device)
        labels = torch.ones(len(points), 1, dtype=torch.int64, device=self.sam.device)
        prompts = self.sam.encode_points(points, labels)
        decoder = self.sam.decoder
        tokens, cells = attend_moved(self.sam, learned.plm, learned.dense_prompt, prompts, features)
        mixing = learned.mix(learned.estimate(tokens, decoder.predict_iou(tokens)))
        asked = Asked(tokens, cells, mixing, (points + 0.5) * BLOCK / STRIDE, labels)
        return tokens, asked.on_mask(decoder)


def _evenly(objects: list[Supervision], most: int) -> list[Supervision]:
    """Of those that have something beside them, so many; some again where there are fewer."""
    possible = [one for one in objects if len(one.background)]
    if not possible:
        return []
    count = min(most, _AGAIN * len(possible))
    return [possible[i] for i in np.linspace(0, len(possible) - 1, count).round().astype(int)]
