"""SAM-F: a mixture of SAM's three masks, and the fit of its two weights."""

import cv2
import numpy as np
import pytest
import torch
from decoding import decode_prompts
from tiny_models import build_tiny_sam

from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image, read_labels
from samtune.losses import score_logits
from samtune.predictor import AT_ONCE, Predictor
from samtune.prompts import Prompt, center_point
from samtune.sam_f import SamF, fit_sam_f, fit_weights

SIZE = (50, 77)
POINT = Prompt.of(points=[(20, 30)])


@pytest.fixture(scope="module")
def embedding(tiny_sam):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return tiny_sam.encode_image(image)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_all_weight_on_one_mask_is_that_mask(tiny_sam, embedding, which):
    weights = tuple(float(n == which) for n in range(3))
    (plain,) = Predictor(tiny_sam, every_cell=True).predict(embedding, [POINT], all_masks=True)
    (mixed,) = SamF(tiny_sam, weights).predict(embedding, [POINT], all_masks=True)
    assert np.array_equal(mixed.mask, plain.alternatives[which])
    assert np.array_equal(mixed.alternatives, plain.alternatives)
    assert mixed.score == pytest.approx(float(plain.alternative_scores[which]), abs=1e-5)


def test_logits_are_mixed_and_not_masks(tiny_sam, embedding):
    weights = (0.5, 0.75, -0.25)
    tokens = tiny_sam.encode_prompts([POINT], SIZE)
    logits = (
        decode_prompts(tiny_sam, embedding.features[None], tokens).low_res_logits[0, 1:].numpy()
    )
    expected = sum(weight * one for weight, one in zip(weights, logits, strict=True))
    predictor = SamF(tiny_sam, weights)
    predictor.every_cell = True
    (mixed,) = predictor.predict(embedding, [POINT])
    np.testing.assert_allclose(mixed.low_res_logits, expected, rtol=1e-3, atol=1e-4)
    assert mixed.alternatives.shape == (0, *SIZE)
    assert mixed.refined is None


def test_prompts_of_all_forms_are_answered_in_their_order(tiny_sam, embedding):
    points = [Prompt.of(points=[(x, 30)]) for x in range(AT_ONCE + 2)]
    prompts = [Prompt.of(box=(5, 10, 50, 45)), *points, Prompt.of([(20, 30)], [(60, 10)])]
    predictor = SamF(tiny_sam, (0.2, 0.5, 0.3))
    together = predictor.predict(embedding, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = predictor.predict(embedding, [prompt])
        np.testing.assert_allclose(found.low_res_logits, alone.low_res_logits, rtol=1e-3, atol=1e-4)


def loss(dataset, sam, weights):
    """Mean of 2.5 · focal + dice over the objects, on all logits, straight from the files."""
    losses = []
    for pair in dataset.pairs:
        target = read_labels(pair.mask) > 0
        _, embedding = EmbeddingCache().encode(read_image(pair.image), sam)
        (found,) = SamF(sam, weights).predict(embedding, [center_point(target)])
        rows, columns = (round(length / 4) for length in embedding.input_size)
        small = cv2.resize(target.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        whole, weight = np.zeros((2, *found.low_res_logits.shape), np.float32)
        whole[:rows, :columns], weight[:rows, :columns] = small, 1
        logits = torch.from_numpy(found.low_res_logits).view(1, 1, -1, 16)
        arrays = (torch.from_numpy(one).view(1, -1, 16) for one in (whole, weight))
        losses.append(float(score_logits(logits, *arrays).loss))
    return np.mean(losses)


def test_fitted_weights_are_as_good_as_the_best_of_a_search(toy_folder, tiny_sam):
    dataset = load_dataset(toy_folder).subset(range(4))
    fitted = fit_sam_f(dataset, tiny_sam, EmbeddingCache())
    assert sum(fitted.weights) == pytest.approx(1)
    steps = (-0.25, 0.0, 1 / 3, 0.5, 0.75, 1.0)
    searched = {(w1, w2, 1 - w1 - w2) for w1 in steps for w2 in steps}
    losses = [loss(dataset, tiny_sam, weights) for weights in searched]
    found = loss(dataset, tiny_sam, fitted.weights)
    assert found < min(losses) + 0.05 * (max(losses) - min(losses))
    again = fit_sam_f(dataset, tiny_sam, EmbeddingCache())
    assert again.weights == fitted.weights


def test_only_the_given_images_are_looked_at(toy_folder):
    sam = build_tiny_sam()
    dataset = load_dataset(toy_folder)
    seen = []
    sam.image_encoder.register_forward_hook(lambda *_: seen.append(None))
    told = []
    some = fit_sam_f(
        dataset,
        sam,
        EmbeddingCache(),
        images=[2, 5],
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert len(seen) == 2
    assert told == [(1, 2), (2, 2)]
    assert some.weights == pytest.approx(
        fit_sam_f(dataset.subset([2, 5]), sam, EmbeddingCache()).weights
    )


def test_the_fit_is_adamw_s():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3, 3, 64, 16, generator=generator)
    target, weight = (logits[:, 1] > 0).float(), torch.ones(3, 64, 16)
    found = fit_weights(logits, target, weight, np.random.default_rng(0))
    two = torch.full((2,), 1 / 3, requires_grad=True)
    optimizer, rng = torch.optim.AdamW([two], lr=5e-3), np.random.default_rng(0)
    for _ in range(200):
        some = torch.from_numpy(rng.integers(3, size=3))
        mixed = sum(w * logits[some, n] for n, w in enumerate([*two, 1 - two.sum()]))
        optimizer.zero_grad()
        score_logits(mixed[:, None], target[some], weight[some]).loss.mean().backward()
        optimizer.step()
    assert found[:2] == pytest.approx(two.tolist(), abs=1e-4)
    assert found[1] > 0.8  # the mask that was wanted
    assert sum(found) == pytest.approx(1)
