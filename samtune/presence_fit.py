"""Fit an adapter's presence head: clicks on objects and beside them, on the trained adapter.

Its tokens are those that `segment` will judge, because the adapter does not change any more.
"""

import numpy as np
import torch
from torch import Tensor

from samtune.learner import EncodedImages
from samtune.plm import PromptLearningModule
from samtune.presence import PresenceHead
from samtune.sam import Sam
from samtune.supervision import Supervision

_OBJECTS, _HELD_OUT = 256, 128  # that clicks are tried on, evenly from more; fewer are tried again
_CLICKS = 2  # of each kind for each of them


def fit_presence(
    sam: Sam,
    plm: PromptLearningModule,
    images: EncodedImages,
    objects: list[Supervision],
    held_out: list[Supervision],
    seed: int,
) -> PresenceHead | None:
    """Learn from the training objects, and calibrate on the held-out ones.

    Args:
        sam: the frozen model.
        plm: the trained module.
        images: the embeddings of all images that objects are in.
        objects: what the adapter was trained on.
        held_out: what was held out.
        seed: the same seed gives the same head.

    Returns:
        The head; None where objects fill all their images, so that nothing is beside them.
    """
    rng = np.random.default_rng([seed, 4])
    learned_from, checked_on = (
        _tokens(sam, plm, images, _evenly([one for one in of if len(one.background)], most), rng)
        for of, most in ((objects, _OBJECTS), (held_out, _HELD_OUT))
    )
    if learned_from is None:
        return None
    head = PresenceHead.fit(*learned_from)
    if checked_on is not None:
        head.calibrate(*checked_on)
    return head


def _evenly(objects: list[Supervision], count: int) -> list[Supervision]:
    """So many of them; some again where there are fewer."""
    if not objects:
        return []
    return [objects[i] for i in np.linspace(0, len(objects) - 1, count).round().astype(int)]


@torch.inference_mode()
def _tokens(
    sam: Sam,
    plm: PromptLearningModule,
    images: EncodedImages,
    objects: list[Supervision],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor] | None:
    """Tokens of clicks on the objects, and of clicks beside all objects of their images."""
    found: list[Tensor] = []
    for one in objects:
        clicks = np.concatenate(
            [rng.choice(places, _CLICKS) for places in (one.clicks, one.background)]
        )
        points = torch.from_numpy(clicks)[:, None].to(sam.device)
        labels = torch.ones(len(points), 1, dtype=torch.int64, device=sam.device)
        features = images.batch([one.image_index])
        prompts = plm(sam.encode_points(points, labels), features, sam.image_pe)
        tokens, _ = sam.decoder.attend(features, sam.image_pe, prompts, sam.no_mask)
        found.append(tokens)
    if not found:
        return None
    both = torch.stack(found)
    return both[:, :_CLICKS].flatten(0, 1), both[:, _CLICKS:].flatten(0, 1)
