"""Clicks beside all objects: how many get an object's mask, and how many are said to be on one."""

import numpy as np
import pytest
from tiny_models import build_adapter

from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_labels
from samtune.obedience import measure_obedience
from samtune.predictor import Prediction, Predictor


class Known(Predictor):
    """Answers with what it is told to, and remembers the clicks."""

    def __init__(self, sam, adapter, answer, presence):
        super().__init__(sam, adapter)
        self.answer, self.told = answer, presence
        self.asked = []

    def predict(self, embedding, prompts):
        self.asked += [prompt.points[0] for prompt in prompts]
        nothing = np.zeros((0, *embedding.original_size))
        return [
            Prediction(self.answer(prompt), 0.9, *[nothing] * 4, contours=None, presence=self.told)
            for prompt in prompts
        ]

    def presence(self, embedding, prompts):
        return [self.told] * len(prompts)


@pytest.fixture
def adapter(tiny_sam):
    return build_adapter(tiny_sam)


@pytest.fixture
def one_image(toy_folder):
    """A data set of one image, and its object."""
    dataset = load_dataset(toy_folder).subset([0])
    return dataset, read_labels(dataset.pairs[0].mask) > 0


def measure(one_image, tiny_sam, tmp_path, adapter, answer, presence):
    predictor = Known(tiny_sam, adapter, answer, presence)
    (found,) = measure_obedience(one_image[0], tiny_sam, [predictor], EmbeddingCache(tmp_path))
    return found, predictor


def test_the_objects_mask_for_a_click_beside_it_is_a_false_response(
    one_image, tiny_sam, adapter, tmp_path
):
    mask = one_image[1]
    found, predictor = measure(one_image, tiny_sam, tmp_path, adapter, lambda prompt: mask, 0.3)
    assert found.clicks == len(predictor.asked) == 4
    for x, y in predictor.asked:
        assert not mask[int(y), int(x)]
    assert (found.false_responses, found.false_alarms) == (1.0, 0.0)
    assert (found.false_and_present, found.missed) == (0.0, 1.0)


def test_another_mask_is_not_and_a_presence_of_a_half_is_an_alarm(
    one_image, tiny_sam, adapter, tmp_path
):
    mask = one_image[1]
    found, _ = measure(one_image, tiny_sam, tmp_path, adapter, lambda prompt: ~mask, 0.5)
    assert (found.false_responses, found.false_alarms) == (0.0, 1.0)
    assert (found.false_and_present, found.missed) == (0.0, 0.0)


def test_without_a_presence_only_masks_are_judged(one_image, tiny_sam, tmp_path):
    mask = one_image[1]
    found, _ = measure(one_image, tiny_sam, tmp_path, None, lambda prompt: mask, None)
    assert found.false_responses == 1.0
    assert found.false_alarms is found.false_and_present is found.missed is None
