"""Scores of what is found without a prompt, against counting by hand."""

import numpy as np
import pytest
from answers import answer
from looking import square
from PIL import Image

from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.finding import Finding, Found
from samtune.found_scores import FoundScores, matched_ious, score_found
from samtune.masks import DatasetObject
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.turns import Turns


def objects(*masks):
    return [DatasetObject.of(mask) for mask in masks]


def test_found_masks_are_matched_one_to_one_and_the_best_pair_first():
    target, other = square(0, 0, 2, 2), square(5, 5)
    good, better = square(0, 0, 2, 1), square(0, 0, 2, 2)
    assert matched_ious([good, better], objects(target, other)) == [1.0, 0.0]
    assert matched_ious([good, square(5, 5)], objects(target, other)) == [0.5, 1.0]
    assert matched_ious([], objects(target)) == [0.0]


def test_a_mask_over_two_objects_counts_for_one():
    both = square(0, 0, 1, 3)
    assert matched_ious([both], objects(square(0, 0, 1, 2), square(0, 2))) == [2 / 3, 0.0]


@pytest.fixture
def found(monkeypatch):
    """What is found in each image is set by a test: masks by the image's own size."""

    def find(masks_of_size):
        def find_objects(predictor, embedding, max_objects):
            masks = masks_of_size[embedding.original_size]
            return Finding(
                tuple(Found(Prompt.of_everything(), answer(mask)) for mask in masks), None
            )

        monkeypatch.setattr("samtune.found_scores.find_objects", find_objects)

    return find


def test_what_is_found_in_an_image_without_an_object_is_wrong(found, tiny_sam, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    sizes = {"two": (40, 60), "one": (60, 40), "none": (50, 50)}
    for name, size in sizes.items():
        image, labels = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
        labels[2:20, 2:20] = name != "none"
        labels[22:38, 22:38] = 2 * (name == "two")
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "masks" / f"{name}.png")
    data = load_dataset(tmp_path, objects="instances")
    right = {size: np.zeros(size, bool) for size in sizes.values()}
    for mask in right.values():
        mask[2:20, 2:20] = True
    found({size: [mask] * (2 if size == sizes["none"] else 1) for size, mask in right.items()})
    cache, predictor = EmbeddingCache(), Predictor(tiny_sam)
    # Four masks, two of them in the image without an object; two of three objects.
    scores = score_found(data, predictor, cache)
    assert scores == FoundScores(pytest.approx(2 / 3), 0.5, pytest.approx(2 / 3))
    # Those that take turns may have learned from it.
    in_turns = Turns([predictor, predictor], [[0], [1]])
    assert score_found(data, in_turns, cache).precision == 1.0
