"""Fit an adapter's contour refiner: from rough contours of the training objects to the true ones.

Plain SAM decodes the box of each rough mask, as it does when that mask is refined: of a box that is
too small it sees something else than of the object's own. What lies across the mask's contours
(rough_contours.py) is kept, so that a step of training needs no decoder and takes milliseconds.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samtune.config import FitConfig
from samtune.contour_refiner import PLACES, ContourRefiner, sample_across
from samtune.input_frame import input_size
from samtune.joining import joined
from samtune.learner import EncodedImages
from samtune.masks import DatasetObject
from samtune.metrics import iou
from samtune.precision import cells_type
from samtune.refinement import box_features, is_large
from samtune.rough_contours import SHARES, Kind, ObjectWindow, RoughContour
from samtune.sam import Sam

LOOKS = 160  # at objects, evenly at some of more, and again at fewer
_MASKS = 2  # rough ones in a look, each with a box to decode for
_BOX = 0.02  # of an object's size: how far each side of that box is off, at most
_CONTOURS = 8  # of each mask
STEPS = 400  # of training
_BATCH = 16  # contours a step
_RATE, _DECAY, _WARMUP = 2e-3, 0.01, 20  # AdamW; steps of linear warm-up, then a cosine to 0
_OFFSET_WEIGHT, _BETA = 4.0, 0.05  # smooth L1, in reaches
_PLACES_WEIGHT = 0.2  # of telling the place among those across the contour
_UNSEEN = 0.3  # weight of points whose boundary is out of reach
_ALIKE = 0.5  # IoU from which on SAM's own mask is a rough one of the object
_WAVED = 0.3  # of the contours that are exact otherwise
_AIM = 0.8  # deviation of the aimed-at distribution, in places


@dataclass(frozen=True, eq=False)
class Profiles:
    """What lies across N rough contours, and where the boundary is.

    Attributes:
        features: (N, K, PLACES, C) float16.
        points: (N, K, 2) xy shares of the padded square.
        offsets: (N, K) as shares of the reach.
        seen: (N, K) whether the boundary is within it.
    """

    features: Tensor
    points: Tensor
    offsets: Tensor
    seen: Tensor


def fit_refiners(
    sam: Sam,
    images: EncodedImages,
    things: Sequence[DatasetObject],
    parts: Sequence[Collection[int]],
    config: FitConfig,
    seconds: float,
    *,
    on_progress: Callable[[int, int], None],
) -> list[ContourRefiner | None]:
    """Learn from all objects, and once more for each part of the images without it.

    Args:
        sam: the frozen model.
        images: the embeddings of all images that objects are in.
        things: the objects.
        parts: images that take turns in being held out (trials.py); may be none. Those refiners,
            which are for scoring alone, share the work of one.
        config: the fit's settings.
        seconds: that all may take.
        on_progress: called with the steps done and of all.

    Returns:
        One of everything, then one for each part.
    """
    share, turns = share_of_refining(config, len(things)), len(parts)
    lots = [(things, share)]
    for part in parts:
        lots.append(([one for one in things if one.image_index not in part], share / turns))
    total, before, fitted = sum(_steps(some) for _, some in lots), 0, []
    for objects, some in lots:
        fitted.append(
            fit_refiner(
                sam,
                images,
                objects,
                config,
                share=some,
                seconds=seconds * some / sum(each for _, each in lots),
                on_progress=lambda done, _, before=before: on_progress(before + done, total),  # type: ignore[misc]
            )
        )
        before += _steps(some)
    return fitted


def share_of_refining(config: FitConfig, count: int) -> float:
    """How much of the usual work is due, given so many objects: a short fit is to stay short."""
    planned = config.objects if config.epochs is None else config.epochs * count
    return min(1.0, planned / FitConfig.objects)


def _steps(share: float) -> int:
    return max(1, round(share * STEPS))


def fit_refiner(
    sam: Sam,
    images: EncodedImages,
    things: Sequence[DatasetObject],
    config: FitConfig,
    *,
    share: float = 1.0,
    seconds: float = math.inf,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ContourRefiner | None:
    """Learn from the training objects.

    Args:
        sam: the frozen model.
        images: the embeddings of all images that objects are in.
        things: the objects.
        config: the fit's settings; the same seed gives the same refiner.
        share: of the looks and steps, for short fits.
        seconds: after which it ends with what was learned so far.
        on_progress: called with the steps done and of all.

    Returns:
        The refiner; None where every object is a speck.
    """
    started = time.monotonic()
    large = [
        one
        for one in things
        if is_large(np.array(one.box, np.float32) * (sam.image_size / max(one.size)))
    ]
    if not large:
        return None
    rng = np.random.default_rng([config.seed, 5])
    looks, steps = max(1, round(share * LOOKS)), _steps(share)
    kind = cells_type(config.precision, sam.device)
    profiles = _profiles(sam, images, large, looks, rng, kind, seconds / 2)
    if profiles is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        refiner = ContourRefiner(profiles.features.shape[-1])
    refiner.normalise(profiles.features)
    refiner.to(sam.device)
    optimizer = torch.optim.AdamW(refiner.parameters(), _RATE, weight_decay=_DECAY, fused=True)
    for step in range(steps):
        if time.monotonic() - started > seconds:
            break
        rate = min(1, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = _RATE * rate
        chosen = torch.from_numpy(rng.integers(len(profiles.points), size=_BATCH))
        optimizer.zero_grad()
        torch.autograd.backward(_loss(refiner, profiles, chosen))
        optimizer.step()
        on_progress(step + 1, steps)
    return refiner.requires_grad_(False).eval()


def _profiles(
    sam: Sam,
    images: EncodedImages,
    things: Sequence[DatasetObject],
    looks: int,
    rng: np.random.Generator,
    kind: torch.dtype,
    seconds: float,
) -> Profiles | None:
    """Decode objects and outline them roughly, for so long at most."""
    started = time.monotonic()
    contours: list[RoughContour] = []

    def look() -> Iterator[Tensor]:
        evenly = np.linspace(0, len(things) - 1, looks).round().astype(int)
        for position in rng.permutation(evenly).tolist():
            if contours and time.monotonic() - started > seconds:
                return
            thing = things[position]
            seen, drawn = _look_at(sam, images.batch([thing.image_index], kind), thing, rng)
            if drawn:
                contours.extend(drawn)
                yield seen

    features = joined(look(), looks * _MASKS * _CONTOURS)
    if not contours:
        return None
    points, offsets, within = (
        torch.from_numpy(np.stack(part)).to(sam.device)
        for part in zip(*((one.points, one.offsets, one.seen) for one in contours), strict=True)
    )
    return Profiles(features, points, offsets, within)


@torch.inference_mode()
def _look_at(
    sam: Sam, image_embedding: Tensor, thing: DatasetObject, rng: np.random.Generator
) -> tuple[Tensor, list[RoughContour]]:
    """Rough contours of an object, and the profiles of what SAM makes of their boxes."""
    window, frame = ObjectWindow.of(thing, sam.image_size), input_size(thing.size, sam.image_size)
    mistakes: list[Kind] = rng.choice(list(SHARES), _MASKS, p=list(SHARES.values())).tolist()
    rough = [(mistake, window.coarse(mistake, rng)) for mistake in mistakes]
    boxes = [_box_near(window.box(mask), sam.image_size, frame, rng) for _, mask in rough]
    known = [box for box in boxes if box is not None]
    if not known:
        return torch.empty(0), []
    upscaled = box_features(sam, image_embedding, np.stack(known))
    side = math.isqrt(upscaled.shape[1])
    features: list[Tensor] = []
    found: list[RoughContour] = []
    asked = (one for one, box in zip(rough, boxes, strict=True) if box is not None)
    for (mistake, mask), answer in zip(asked, upscaled, strict=True):
        if mistake == "sam":
            seen = window.seen_in(answer[:, -1].view(side, side).float().cpu().numpy())
            mask = seen if iou(seen, mask) > _ALIKE else mask
        drawn = []
        for _ in range(_CONTOURS):
            waves = mistake != "exact" or rng.random() < _WAVED
            contour = window.rough_contour(mask, side, rng, waves=waves)
            drawn += [] if contour is None else [contour]
        if drawn:
            points = torch.from_numpy(np.stack([one.points for one in drawn])).to(sam.device)
            features.append(sample_across(answer.expand(len(drawn), -1, -1), points).half())
            found += drawn
    return torch.cat(features) if features else torch.empty(0), found


def _box_near(
    box: NDArray[np.float64] | None,
    image_size: int,
    frame: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.float32] | None:
    """A box, a little off as those that people draw are.

    Args:
        box: (4,) x0, y0, x1, y1 in shares of the padded square, if there is one.
        image_size: the square's side, pixels.
        frame: (H, W) of the input, which the box does not leave.
        rng: source of randomness.

    Returns:
        (4,) in the input frame; None where nothing is left of it.
    """
    if box is None:
        return None
    size = math.sqrt(float(np.prod(box[2:] - box[:2])))
    corners = (box + rng.uniform(-_BOX, _BOX, 4) * size) * image_size - 0.5
    corners = corners.clip(0, np.tile(frame[::-1], 2) - np.float64(1))
    return corners.astype(np.float32) if (corners[2:] - corners[:2] >= 1).all() else None


def _loss(refiner: ContourRefiner, profiles: Profiles, chosen: Tensor) -> Tensor:
    """How far the offsets are off, and how well the place among those across is told."""
    aims, seen = profiles.offsets[chosen], profiles.seen[chosen]
    offsets, logits = refiner.judge(profiles.features[chosen].float(), profiles.points[chosen])
    weights = torch.where(seen, 1.0, _UNSEEN)
    places = torch.linspace(-1, 1, PLACES, device=aims.device)
    away = (places - aims[..., None]) * (PLACES - 1) / 2  # in steps from place to place
    wanted = (-0.5 * (away / _AIM).square()).softmax(dim=2)
    told = -(wanted * logits.log_softmax(dim=2)).sum(dim=2)
    off = F.smooth_l1_loss(offsets, aims, reduction="none", beta=_BETA)
    return ((_OFFSET_WEIGHT * off + _PLACES_WEIGHT * told) * weights).mean()
