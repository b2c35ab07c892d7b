"""Predictors that take turns answer each image as the one whose turn it is."""

import pytest
from tiny_models import build_adapter

from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import score_objects
from samtune.obedience import measure_obedience
from samtune.predictor import Predictor
from samtune.turns import Turns, who_answers

PARTS = [[0, 3, 5], [1, 2, 4, 6, 7]]


@pytest.fixture
def scene(toy_folder, tiny_sam, tmp_path):
    """The data set, two predictors that answer differently, and a cache."""
    both = [Predictor(tiny_sam), Predictor(tiny_sam, build_adapter(tiny_sam))]
    return load_dataset(toy_folder), both, EmbeddingCache(tmp_path)


def test_each_image_is_answered_by_the_one_whose_turn_it_is(scene):
    _, both, _ = scene
    turns = Turns(both, PARTS)
    for predictor, part in zip(both, PARTS, strict=True):
        assert all(who_answers(turns, image) is predictor for image in part)
        assert all(who_answers(predictor, image) is predictor for image in range(8))


def test_scores_in_turns_are_each_one_s_own_on_its_part(scene, tiny_sam):
    dataset, both, cache = scene
    *alone, in_turns = score_objects(dataset, tiny_sam, [*both, Turns(both, PARTS)], cache)
    assert alone[0] != alone[1]
    for index, thing in enumerate(dataset.objects):
        (whose,) = (n for n, part in enumerate(PARTS) if thing.image_index in part)
        assert in_turns[index] == alone[whose][index]


class Counting(Predictor):
    """Counts the images on which it was asked."""

    asked = 0

    def predict(self, embedding, prompts, **options):
        self.asked += 1
        return super().predict(embedding, prompts, **options)


def test_clicks_beside_objects_go_to_the_one_whose_turn_it_is(scene, tiny_sam):
    dataset, _, cache = scene
    both = [Counting(tiny_sam, build_adapter(tiny_sam, seed)) for seed in (0, 1)]
    (found,) = measure_obedience(dataset, tiny_sam, [Turns(both, PARTS)], cache)
    assert [one.asked for one in both] == [3, 5]
    assert found.clicks == 4 * 8
