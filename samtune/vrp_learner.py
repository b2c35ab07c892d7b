"""The training of the visual reference prompt encoder, one step at a time.

An episode is a target image and a few references of the same class, annotated as a user might
(Sun et al. 2024, https://arxiv.org/abs/2402.17726, section 3.4): the encoder learns to follow
references, not a class. Embeddings come from the cache. Everything random in a step is drawn from
the seed and the step's number alone (run.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from samtune.config import VrpConfig
from samtune.evenly import evenly
from samtune.input_frame import Embedding
from samtune.learner import EncodedImages
from samtune.losses import MaskScores, score_logits
from samtune.precision import cells_type, computing
from samtune.prompts import Prompt
from samtune.reference_cells import Marked, draw_annotation, vanishes
from samtune.reference_prompting import (
    ReferencePrompting,
    dense_prompt,
    likely_place,
    marked_cells,
    single_mask,
    target_cells,
    where_to_look,
)
from samtune.sam import Sam
from samtune.steps import Stepwise
from samtune.supervision import Supervision
from samtune.targets import LEAST_SHARE
from samtune.vrp import CellsAndMask, VisualReferencePrompts


@dataclass(frozen=True, eq=False)
class Target:
    """All of a class in an image.

    Attributes:
        label: the class.
        supervision: what is known of it.
    """

    label: int
    supervision: Supervision


class VrpLearner(Stepwise[VisualReferencePrompts]):
    """The encoder, step by step.

    Args:
        sam: the frozen model.
        config: the settings.
        images: the embeddings of all images.
        targets: what to learn from; at least one class is in two images. None vanishes in the
            grid.
        total: how many targets all steps together will see.
    """

    def __init__(
        self,
        sam: Sam,
        config: VrpConfig,
        images: EncodedImages,
        targets: Sequence[Target],
        total: int,
    ) -> None:
        self.sam, self.config, self.images = sam, config, images
        self.cells_type = cells_type(config.precision, sam.device)
        self.classes: dict[int, list[Supervision]] = {}
        for one in targets:
            self.classes.setdefault(one.label, []).append(one.supervision)
        super().__init__(
            lambda: VisualReferencePrompts(
                config.queries, first_size=config.first_size, dense=config.dense_prompt
            ),
            lambda network: _parameter_groups(network, config),
            seed=config.seed,
            device=sam.device,
            weight_decay=config.weight_decay,
            total=total,
            batch_size=config.batch_size,
            warmup=config.warmup_episodes,
            decay=config.average,
        )

    def train_step(self) -> None:
        """Learn from the next few episodes, one after another."""
        config = self.config
        rng = np.random.default_rng([config.seed, 2, self.step])
        self.start_step()
        count = min(config.batch_size, self.total - self.step * config.batch_size)
        losses = []
        for _ in range(count):
            target, references = self.draw_episode(rng)
            loss = self._scores(self._answer(target, references, rng), target, rng).loss.mean()
            torch.autograd.backward(loss / count)
            losses.append(float(loss.detach()))
        self.end_step(float(np.mean(losses)))

    def draw_episode(self, rng: np.random.Generator) -> tuple[Supervision, list[Marked]]:
        """A target, and references of the same class in other images; each class as often."""
        several = [members for members in self.classes.values() if len(members) > 1]
        members = several[int(rng.integers(len(several)))]
        count = int(rng.choice(self.config.references))
        chosen = rng.permutation(len(members))[: 1 + count].tolist()
        references = []
        for index in chosen[1:]:
            one = members[index]
            embedding = self._embedding(one)
            kind = self.config.annotations[int(rng.integers(len(self.config.annotations)))]
            share = draw_annotation(one, embedding, kind, rng)
            if vanishes(share):
                share = one.inner_shares()
            references.append(Marked(embedding, share))
        return members[chosen[0]], references

    def references(self, label: int) -> list[Marked]:
        """The references that an adapter of a class has by itself: masks, evenly from all."""
        marked = []
        for one in evenly(self.classes[label], self.config.own_references):
            embedding = self._embedding(one)
            marked.append(Marked(embedding, one.inner_shares()))
        return marked

    def method(self, label: int | None) -> ReferencePrompting:
        """The averaged weights as a method, with a class's own references, or without any."""
        learned = ReferencePrompting(self.average)
        if label is None:
            return learned
        return learned.with_references(self.sam, self.references(label))

    @torch.inference_mode()
    def held_out_iou(self, held_out: Sequence[Target]) -> float:
        """Mean IoU without clicks on the logits' grid, with each class's own references."""
        learned = {label: self.method(label) for label in sorted({one.label for one in held_out})}
        every = np.random.default_rng(0)  # draws nothing when all cells are taken
        scores = []
        for one in held_out:
            target = one.supervision
            embedding = self._embedding(target)
            both = learned[one.label].attend(self.sam, embedding, [Prompt.of_everything()])
            scores.append(float(self._scores(both, target, every, target.grid**2).iou))
        return float(np.mean(scores))

    def base_iou(self, held_out: Sequence[Target]) -> None:
        """Plain SAM has no answer without a click."""
        return

    def _answer(
        self, target: Supervision, references: list[Marked], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Tokens in float32 and cells of the decoder, with gradient."""
        sam, kind, embedding = self.sam, self.cells_type, self._embedding(target)
        likeness = where_to_look(references).likeness(embedding)
        seen = self.config.seen_cells // len(references)
        known = [_thinned(marked_cells(sam, one), seen, rng) for one in references]
        own = _thinned(target_cells(sam, embedding, likeness), self.config.seen_cells, rng)
        features = embedding.features[None].to(kind)
        with computing(kind, sam.device):
            digest = self.learned.digest(known)
            learned: Tensor = self.learned(digest, own)
            asked = sam.encode_prompts([likely_place(likeness, embedding)], embedding.original_size)
            tokens = torch.cat([asked, learned[None]], dim=1)
            dense = dense_prompt(sam, self.learned, features, likeness, digest.prototype).to(kind)
            tokens, cells = sam.decoder.attend(features, sam.image_pe.to(kind), tokens, dense)
        return tokens.float(), cells

    def _scores(
        self,
        answer: tuple[Tensor, Tensor],
        target: Supervision,
        rng: np.random.Generator,
        count: int | None = None,
    ) -> MaskScores:
        """Decode some of the target's cells and compare them: BCE and dice, as in the paper."""
        tokens, cells = answer
        sample = target.sample_cells(count or self.config.cells, rng)
        index, aim, weight = (
            torch.from_numpy(array)[None].to(cells.device)
            for array in (sample.index, sample.target, sample.weight)
        )
        chosen = cells.gather(1, index[..., None].expand(-1, -1, cells.shape[-1]))
        mixing = single_mask(tokens[:, :1, :4])
        logits = self.sam.decoder.mask_blocks(tokens, chosen, mixing)
        return score_logits(logits, aim, weight, focal_weight=1.0, focal_gamma=0)

    def _embedding(self, one: Supervision) -> Embedding:
        """The target's image in the input frame, where its clicks and its box are."""
        return Embedding(self.images.batch([one.image_index])[0], one.frame, one.frame)


def _parameter_groups(network: VisualReferencePrompts, config: VrpConfig) -> list[dict[str, Any]]:
    """AdamW's groups: what gives the tokens, and what gives the dense prompt, if anything does."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        dense = name.startswith("dense_prompt.")
        rate = config.dense_rate if dense else config.learning_rate
        groups.setdefault(rate, []).append(parameter)
    return [{"params": members, "lr": rate} for rate, members in groups.items()]


def _thinned(cells: CellsAndMask, count: int, rng: np.random.Generator) -> CellsAndMask:
    """Some of the cells, up to half of them on the object, each standing for more."""
    marked = cells.share.cpu().numpy() >= LEAST_SHARE
    on, off = np.flatnonzero(marked), np.flatnonzero(~marked)
    most_on = max(count // 2, count - len(off))
    drawn = [
        one if len(one) <= most else rng.choice(one, most, replace=False)
        for one, most in ((on, most_on), (off, count - min(len(on), most_on)))
    ]
    counts = [len(one) / max(len(some), 1) for one, some in zip((on, off), drawn, strict=True)]
    index = torch.from_numpy(np.concatenate(drawn)).to(cells.share.device)
    stands_for = np.repeat(np.array(counts, np.float32), [len(one) for one in drawn])
    return CellsAndMask(
        cells.features[index],
        cells.pe[index],
        cells.share[index],
        torch.from_numpy(stands_for).to(cells.share),
    )
