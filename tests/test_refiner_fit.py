"""The contour refiner's training: what it learns from rough contours serves other objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import build_adapter

from samtune.coarse_scores import score_coarse
from samtune.config import FitConfig
from samtune.dataset import load_dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.learner import EncodedImages
from samtune.masks import DatasetObject
from samtune.predictor import Predictor
from samtune.prompts import box_around
from samtune.refinement import box_features
from samtune.refiner_fit import STEPS, fit_refiner, fit_refiners


@pytest.fixture(scope="module")
def data(toy_folder):
    """Six images to learn from and two held out."""
    return split(load_dataset(toy_folder), 0.25, seed=0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return EmbeddingCache(tmp_path_factory.mktemp("embeddings"))


@pytest.fixture(scope="module")
def images(data, cache, tiny_sam):
    keys = [cache.encode(read_image(pair.image), tiny_sam)[0] for pair in data[0].pairs]
    return EncodedImages(tiny_sam, cache, data[0].pairs, keys)


@pytest.fixture(scope="module")
def fitted(data, images, tiny_sam):
    """Fit with little work; `share` is of a real fit's."""

    def fit(things=data[0].objects, seed=0, share=0.005, **options):
        return fit_refiner(tiny_sam, images, things, FitConfig(seed=seed), share=share, **options)

    return fit


def same(one, other):
    before, after = one.state_dict(), other.state_dict()
    return all(torch.equal(before[name], after[name]) for name in before)


def test_coarse_masks_of_held_out_objects_come_nearer_to_the_truth(fitted, data, cache, tiny_sam):
    adapter = build_adapter(tiny_sam)
    adapter.learned.refiner = fitted(share=0.1)
    scores = score_coarse(data[1], Predictor(tiny_sam, adapter), cache)
    assert scores.iou < 0.95
    assert scores.refined_iou > scores.iou + 0.02
    assert scores.refined_boundary_iou > scores.boundary_iou
    assert scores.helps


def test_same_seed_gives_the_same_refiner_and_another_seed_another(fitted):
    assert same(fitted(), fitted())
    assert not same(fitted(), fitted(seed=1))


def test_the_callers_random_numbers_and_the_frozen_model_are_left_alone(fitted, tiny_sam):
    before = {name: tensor.clone() for name, tensor in tiny_sam.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    refiner = fitted()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tiny_sam.state_dict()[name], before[name]) for name in before)
    assert not refiner.training
    assert not any(parameter.requires_grad for parameter in refiner.parameters())


def test_each_part_of_the_images_gets_a_refiner_that_has_not_seen_it(
    fitted, data, images, tiny_sam
):
    config, parts, told = FitConfig(objects=60), [[0, 1, 2], [3, 4, 5]], []
    found = fit_refiners(
        tiny_sam,
        images,
        data[0].objects,
        parts,
        config,
        seconds=60.0,
        on_progress=lambda done, total: told.append((done, total)),
    )
    share = 60 / FitConfig.objects  # of a default fit
    others = [one for one in data[0].objects if one.image_index not in parts[0]]
    assert len(found) == 3
    assert same(found[0], fitted(share=share))
    assert same(found[1], fitted(others, share=share / 2))
    assert not same(found[1], found[2])
    steps = round(share * STEPS) + 2 * round(share / 2 * STEPS)
    assert told == [(done, steps) for done in range(1, steps + 1)]


def test_steps_are_told_up_to_the_last(fitted):
    told = []
    fitted(share=0.01, on_progress=lambda done, total: told.append((done, total)))
    count = round(0.01 * STEPS)
    assert told == [(done, count) for done in range(1, count + 1)]


def test_where_the_time_is_over_it_ends_with_what_was_learned(fitted):
    told = []
    refiner = fitted(share=1.0, seconds=0.0, on_progress=lambda *told_of: told.append(told_of))
    assert refiner is not None
    assert told == []


def test_specks_give_nothing_to_learn_from(fitted, data):
    mask = np.zeros(data[0].objects[0].size, bool)
    mask[20, 30] = True
    speck = replace(DatasetObject.of(mask), image_index=0)
    assert fitted([speck]) is None


@pytest.mark.parametrize(("kind", "larger"), [("grown", True), ("shrunk", False)])
def test_sam_is_asked_with_the_box_of_the_rough_mask(fitted, data, monkeypatch, kind, larger):
    boxes = []

    def remember(sam, image, corners):
        boxes.append(corners[0])
        return box_features(sam, image, corners)

    monkeypatch.setattr("samtune.refiner_fit.box_features", remember)
    monkeypatch.setattr("samtune.refiner_fit.SHARES", {kind: 1.0})
    monkeypatch.setattr("samtune.refiner_fit._BOX", 0.0)
    monkeypatch.setattr("samtune.rough_contours.GROWTH", (0.05, 0.09))
    (thing,) = [one for one in data[0].objects if one.image_index == 0]
    fitted([thing])
    x0, y0, x1, y1 = box_around(thing.mask()).tolist()
    scale = 128 / max(thing.size)
    assert boxes
    for left, top, right, bottom in boxes:
        assert (right - left > (x1 - x0) * scale) == larger
        assert (bottom - top > (y1 - y0) * scale) == larger
