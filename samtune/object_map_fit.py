"""Fit an adapter's map of its objects, and what judges the answers to its clicks.

The map learns from the cached embeddings alone, after the adapter. Answers are judged by a logistic
regression on held-out images: on those of training, the map knows where to click. Of images without
an object, most are for the map, and some for the judge.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samtune.config import Precision
from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import encoded_images
from samtune.evenly import evenly
from samtune.found_scores import RIGHT_IOU
from samtune.input_frame import Embedding
from samtune.learner import EncodedImages
from samtune.masks import DatasetObject
from samtune.metrics import ious
from samtune.object_map import FEATURES, ObjectMap
from samtune.object_search import ObjectSearch
from samtune.precision import cells_type, computing
from samtune.predictor import Predictor
from samtune.sam import Sam
from samtune.supervision import STRIDE, Supervision
from samtune.turns import Answering, who_answers

_STEPS = 600  # of training, at most
_FEWEST_STEPS, _STEPS_AN_IMAGE = 200, 6  # of few images, more would learn them by heart
_BATCH = 4  # images a step
_RATE, _DECAY = 1e-3, 0.01  # AdamW; the rate rises for three tenths of the steps, then falls to 0
_SPREAD = 0.15  # standard deviation of a middle, in sides of the square of an object's area
_LEAST_SPREAD = 0.7  # cells
_CALIBRATED_ON = 48  # held-out images, evenly from more
_MOST_CLICKS = 40  # in each of them
_RIDGE = 0.01  # on the squared weights of normed features, per answer
_NEWTON = 20  # steps, of which it takes five or six


def fit_object_maps(
    sam: Sam,
    images: EncodedImages,
    lots: Sequence[Sequence[Supervision]],
    empty: Sequence[int],
    seed: int,
    precision: Precision,
    *,
    on_progress: Callable[[int, int], None],
) -> list[ObjectMap]:
    """Learn where objects are, from one lot of them after another; as `fit_object_map`."""
    ends = list(accumulate(map(_steps, lots)))
    return [
        fit_object_map(
            sam,
            images,
            objects,
            empty,
            seed,
            precision,
            on_progress=lambda done, _, before=before: on_progress(before + done, ends[-1]),  # type: ignore[misc]
        )
        for objects, before in zip(lots, [0, *ends], strict=False)
    ]


def _steps(objects: Sequence[Supervision]) -> int:
    return min(_STEPS, _FEWEST_STEPS + _STEPS_AN_IMAGE * len({one.image_index for one in objects}))


def fit_object_map(
    sam: Sam,
    images: EncodedImages,
    objects: Sequence[Supervision],
    empty: Sequence[int],
    seed: int,
    precision: Precision,
    *,
    steps: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ObjectMap:
    """Learn where objects are.

    Args:
        sam: the frozen model.
        images: the embeddings of all images.
        objects: what to learn from, those of an image in a row.
        empty: the numbers of images without an object, to learn from as well.
        seed: the same seed gives the same map.
        precision: what training computes with cells in (precision.py).
        steps: how many; None: it depends on how many images there are.
        on_progress: called with the steps done and of all.

    Returns:
        The map, which does not judge answers yet.
    """
    steps = _steps(objects) if steps is None else steps
    things = {
        index: list(same_image)
        for index, same_image in groupby(objects, key=lambda one: one.image_index)
    }
    frames = {index: same_image[0].frame for index, same_image in things.items()}
    frames |= {index: images.load(index).input_size for index in empty}
    grid, cells = sam.image_size // STRIDE, cells_type(precision, sam.device)
    rng = np.random.default_rng([seed, 6])
    # The caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[sam.device] if sam.device.type == "cuda" else []):
        torch.manual_seed(seed)
        learned = ObjectMap().to(sam.device).train()
        optimizer = torch.optim.AdamW(learned.parameters(), lr=_RATE, weight_decay=_DECAY)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
        waiting: list[int] = []
        for step in range(steps):
            while len(waiting) < _BATCH:
                # Of images without an object no more than of others, however many there are.
                without = rng.permutation(empty).tolist()[: len(things)]
                waiting += rng.permutation([*things, *without]).tolist()
            chosen, waiting = waiting[:_BATCH], waiting[_BATCH:]
            features = images.batch(chosen, cells)
            middles, cover, inside = (
                torch.stack(kind).to(sam.device)
                for kind in zip(
                    *(_targets(things.get(index, []), frames[index], grid) for index in chosen),
                    strict=True,
                )
            )
            if rng.random() < 0.5:
                # Padding is on the right and at the bottom; the map is shown it on the left, too.
                features, middles, cover, inside = (
                    one.flip(-1) for one in (features, middles, cover, inside)
                )
            optimizer.zero_grad()
            with computing(cells, sam.device):
                found_middles, found_cover = learned(features)
            wrong = loss(found_middles.float(), found_cover.float(), middles, cover, inside)
            wrong.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            on_progress(step + 1, steps)
    return learned.requires_grad_(False).eval()


def for_the_judge(empty: Sequence[int]) -> Sequence[int]:
    """Of images without an object those that no map learns from: every fourth."""
    return empty[3::4]


def calibrate(
    answering: Answering,
    maps: Sequence[ObjectMap],
    held_out: Dataset,
    empty: Sequence[Embedding],
    cache: EmbeddingCache,
) -> None:
    """Fit what judges answers to those on held-out images, and find out how to ask.

    Objects are asked about by clicks and by boxes; the one with the better F1 score stays.

    Args:
        answering: a predictor with the adapter, or several that take turns.
        maps: theirs, and others that are to judge likewise.
        held_out: the images and their objects, which none that answers them has seen.
        empty: images without an object, which nobody has seen.
        cache: where embeddings are kept.
    """
    ways = []
    for boxes in (False, True):
        for one in maps:
            one.ask_with(boxes=boxes)
        features, hits, count = _tried(answering, held_out, empty, cache)
        weight, bias = logistic(features, hits >= 0)
        accepted = features @ weight + bias >= 0
        right = len(set(hits[accepted & (hits >= 0)].tolist()))
        f1 = 2 * right / (right + np.count_nonzero(accepted & (hits < 0)) + count)
        ways.append((f1, not boxes, weight, bias))
    _, clicks, weight, bias = max(ways, key=lambda way: way[:2])
    with torch.no_grad():
        for one in maps:
            one.ask_with(boxes=not clicks)
            one.judge.weight.copy_(torch.from_numpy(weight)[None])
            one.judge.bias.fill_(bias)


def _tried(
    answering: Answering, held_out: Dataset, empty: Sequence[Embedding], cache: EmbeddingCache
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """What is proposed on some held-out images and on those without an object; what comes of it.

    Returns:
        (N, F) features of the answers; (N,) the number of the object that each is right about, -1
        for none; and how many objects there are.
    """
    features, hits, count = [], [], 0
    for predictor, embedding, things in _shown(answering, held_out, empty, cache):
        assert predictor.adapter is not None
        search = predictor.adapter.learned.search(embedding)
        assert isinstance(search, ObjectSearch)
        for _ in range(_MOST_CLICKS):
            prompt = search.propose()
            if prompt is None:
                break
            (answer,) = predictor.predict(embedding, [prompt])
            features.append(search.features(answer))
            overlaps = ious(answer.mask, things)
            is_right = max(overlaps, default=0.0) >= RIGHT_IOU
            hits.append(count + int(np.argmax(overlaps)) if is_right else -1)
        count += len(things)
    known = np.array(features, np.float32).reshape(-1, FEATURES)
    return known, np.array(hits, np.int64), count


def _shown(
    answering: Answering, held_out: Dataset, empty: Sequence[Embedding], cache: EmbeddingCache
) -> Iterator[tuple[Predictor, Embedding, list[DatasetObject]]]:
    """Some held-out images and those without an object: who answers, and the objects."""
    chosen = evenly(range(len(held_out.pairs)), _CALIBRATED_ON)
    for index, embedding, things in encoded_images(held_out, answering.sam, cache, chosen, None):
        yield who_answers(answering, index), embedding, things
    for embedding in empty:  # nobody has seen them, so that anybody may answer
        yield who_answers(answering, chosen[0]), embedding, []


def loss(
    found_middles: Tensor, found_cover: Tensor, middles: Tensor, cover: Tensor, inside: Tensor
) -> Tensor:
    """The penalty-reduced focal loss of CenterNet (equation 1), and cross-entropy of the cover.

    Args:
        found_middles: (B, h, w) logits.
        found_cover: (B, h, w) logits.
        middles: (B, h, w) 1 in the cell of a middle, less around it.
        cover: (B, h, w) shares of the cells that are on objects.
        inside: (B, h, w) 1 in the image, 0 in the padding.
    """
    hit = (middles >= 1).float()
    chance = torch.sigmoid(found_middles)
    missed = F.softplus(-found_middles) * (1 - chance).square() * hit
    false = F.softplus(found_middles) * chance.square() * (1 - middles).pow(4) * (1 - hit)
    points = ((missed + false) * inside).sum() / hit.sum().clamp_min(1)
    covered = F.binary_cross_entropy_with_logits(found_cover, cover, reduction="none") * inside
    return points + covered.sum() / cover.sum().clamp_min(1)


def logistic(
    features: NDArray[np.float32], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], float]:
    """Logistic regression with a little ridge, by Newton's method.

    Args:
        features: (N, F) of answers; N may be 0.
        right: (N,) which of them are.

    Returns:
        (F,) weights and the bias, so that the sigmoid of their sum is the share of right answers.
        With a right and a wrong answer that nothing is known of beside them, all of N being right
        is no certainty.
    """
    width = features.shape[1]
    rows = np.concatenate([features.astype(np.float64), np.zeros((2, width))])
    mean = features.mean(axis=0) if len(features) else np.zeros(width)
    scale = features.std(axis=0) + 1e-6 if len(features) else np.ones(width)
    rows[: len(features)] = (features - mean) / scale
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    wanted = np.concatenate([right.astype(np.float64), [1.0, 0.0]])
    ridge = _RIDGE * len(rows) * np.diag([1.0] * width + [0.0])
    weights = np.zeros(width + 1)
    for _ in range(_NEWTON):
        chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -50, 50)))
        slope = rows.T @ (chance - wanted) + ridge @ weights
        bend = (rows.T * (chance * (1 - chance))) @ rows + ridge
        weights = weights - np.linalg.solve(bend, slope)
    own = weights[:-1] / scale
    return own.astype(np.float32), float(weights[-1] - own @ mean)


def _targets(
    things: list[Supervision], frame: tuple[int, int], grid: int
) -> tuple[Tensor, Tensor, Tensor]:
    """An image's middles, cover and inside, each (grid, grid)."""
    rows, columns = np.mgrid[:grid, :grid]
    middles, cover = np.zeros((2, grid, grid), np.float32)
    for one in things:
        shares = one.cell_shares()
        cover = np.maximum(cover, shares)
        x, y = one.center / STRIDE - 0.5
        spread = max(_LEAST_SPREAD, _SPREAD * float(np.sqrt(shares.sum())))
        near = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))
        middles = np.maximum(middles, np.minimum(near, 0.99).astype(np.float32))
    for one in things:
        column, row = np.clip(one.center // STRIDE, 0, grid - 1).astype(int)
        middles[row, column] = 1
    inside = np.zeros((grid, grid), np.float32)
    height, width = (max(1, round(length / STRIDE)) for length in frame)
    inside[:height, :width] = 1
    return torch.from_numpy(middles), torch.from_numpy(cover), torch.from_numpy(inside)
