"""Scores on a data set, by SAM's protocol: one centre click an object, at full size."""

import numpy as np
import pytest
from tiny_models import build_adapter, build_tiny_sam

from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import (
    ALL_KINDS,
    AnswerScores,
    ObjectScores,
    Scores,
    evaluate,
    score_objects,
)
from samtune.images import read_image, read_labels, write_png
from samtune.predictor import AT_ONCE, Predictor
from samtune.prompts import center_point


@pytest.fixture(scope="module")
def dataset(toy_folder):
    return load_dataset(toy_folder)


def share(mask, target):
    """IoU, counted."""
    return (mask & target).sum() / (mask | target).sum()


def predictions(dataset, predictor):
    """The answer to each object's centre click, and its target, straight from the files."""
    for pair in dataset.pairs:  # one object in each image
        target = read_labels(pair.mask) > 0
        _, embedding = EmbeddingCache().encode(read_image(pair.image), predictor.sam)
        yield predictor.predict(embedding, [center_point(target)], all_masks=True)[0], target


@pytest.mark.parametrize("adapted", [False, True], ids=["plain SAM", "an adapter"])
def test_scores_are_means_over_the_objects_of_the_returned_and_of_the_best_mask(
    dataset, tiny_sam, adapted
):
    predictor = Predictor(tiny_sam, build_adapter(tiny_sam, seed=2) if adapted else None)
    (scores,) = evaluate(dataset, tiny_sam, [predictor], EmbeddingCache())
    answers = list(predictions(dataset, predictor))
    returned = [share(prediction.mask, target) for prediction, target in answers]
    best = [
        max(share(mask, target) for mask in (prediction.mask, *prediction.alternatives))
        for prediction, target in answers
    ]
    assert scores.objects == 8
    assert scores.iou == pytest.approx(np.mean(returned))
    assert scores.oracle_iou == pytest.approx(np.mean(best))
    assert scores.oracle_iou > scores.iou  # else there would be nothing to tell apart


def test_refined_scores_are_given_where_there_is_something_to_refine_with(dataset, tiny_sam):
    plain = Predictor(tiny_sam)
    without = Predictor(tiny_sam, build_adapter(tiny_sam, refines=False))
    refining = Predictor(tiny_sam, build_adapter(tiny_sam))
    found = evaluate(dataset, tiny_sam, [plain, without, refining], EmbeddingCache())
    assert found[0].refined_iou is None
    assert found[1].refined_iou is None
    assert found[2].refined_iou is not None
    assert found[1].iou == found[2].iou  # refining changes no other score


def test_every_predictor_gets_the_same_random_clicks(dataset, tiny_sam):
    # Scored beside an adapter, or twice, or alone: plain SAM's score is plain SAM's score.
    plain, adapted = Predictor(tiny_sam), Predictor(tiny_sam, build_adapter(tiny_sam))
    first, _, third = evaluate(dataset, tiny_sam, [plain, adapted, plain], EmbeddingCache())
    (alone,) = evaluate(dataset, tiny_sam, [plain], EmbeddingCache())
    assert first == third == alone
    assert first.random_iou != first.iou


def test_a_quick_evaluation_leaves_out_random_clicks_and_boundaries(dataset, tiny_sam):
    predictor = Predictor(tiny_sam)
    (thorough,) = evaluate(dataset, tiny_sam, [predictor], EmbeddingCache())
    cache, kinds = EmbeddingCache(), ("center",)
    (scores,) = score_objects(dataset, tiny_sam, [predictor], cache, kinds=kinds, boundary=False)
    quick = Scores.mean(scores)
    assert thorough.random_iou is not None
    assert thorough.boundary_iou is not None
    assert (quick.random_iou, quick.boundary_iou) == (None, None)
    assert (quick.iou, quick.oracle_iou) == (thorough.iou, thorough.oracle_iou)


def test_each_image_is_encoded_once_for_all_predictors_and_progress_told(dataset):
    sam = build_tiny_sam()
    runs, told = [], []
    sam.image_encoder.register_forward_hook(lambda *_: runs.append(None))
    evaluate(
        dataset,
        sam,
        [Predictor(sam), Predictor(sam)],
        EmbeddingCache(),
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert len(runs) == 8
    assert told == [(done, 8) for done in range(1, 9)]


def test_means_are_over_the_objects_that_have_a_score():
    one = ObjectScores({"center": (AnswerScores(0.2, 0.4, refined_iou=0.5),)})
    other = ObjectScores(
        {
            "center": (AnswerScores(0.4, 0.8, boundary_iou=0.3),),
            "random": (AnswerScores(0.0), AnswerScores(0.1), AnswerScores(0.5)),
        }
    )
    assert Scores.mean([one, other]) == Scores(
        objects=2,
        iou=pytest.approx(0.3),
        oracle_iou=pytest.approx(0.6),
        random_iou=pytest.approx(0.2),
        refined_iou=0.5,
        boundary_iou=0.3,
    )


# --------------------------------------------------------------------------- prompts of all kinds


def test_some_images_alone_have_the_prompts_and_scores_that_they_have_among_all(dataset, tiny_sam):
    predictor = Predictor(tiny_sam)
    (everything,) = score_objects(dataset, tiny_sam, [predictor], EmbeddingCache())
    (some,) = score_objects(dataset, tiny_sam, [predictor], EmbeddingCache(), images=[5, 2])
    assert some == [everything[5], everything[2]]
    assert set(some[0].answers) == set(ALL_KINDS)


def test_details_of_other_prompts_than_the_centre_are_left_out_unless_asked_for(dataset, tiny_sam):
    predictor = Predictor(tiny_sam, build_adapter(tiny_sam))
    brief, whole = (
        score_objects(
            dataset, tiny_sam, [predictor], EmbeddingCache(), images=[0], every_detail=detail
        )[0][0].answers["box"][0]
        for detail in (False, True)
    )
    assert (brief.oracle_iou, brief.refined_iou, brief.boundary_iou) == (None, None, None)
    assert None not in (whole.oracle_iou, whole.refined_iou, whole.boundary_iou)
    assert brief.iou == pytest.approx(whole.iou, abs=2e-3)


def test_an_image_with_many_objects_is_scored_as_object_by_object(tmp_path, tiny_sam):
    # More objects than are decoded at once, and images that are not in the objects' order.
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, count in (("a", 2 * AT_ONCE + 1), ("b", 1)):
        labels = np.zeros((60, 64), np.uint8)
        for number in range(count):
            labels[12 * (number // 4) :, 16 * (number % 4) :] = number + 2
        write_png(tmp_path / "masks" / f"{name}.png", labels)
        noise = rng.integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
        write_png(tmp_path / "images" / f"{name}.png", noise)
    dataset = load_dataset(tmp_path, objects="instances")
    assert len(dataset.objects) == 2 * AT_ONCE + 2
    predictor, cache = Predictor(tiny_sam, build_adapter(tiny_sam)), EmbeddingCache()
    (found,) = score_objects(dataset, tiny_sam, [predictor], cache, images=[1, 0])
    expected = []
    for index in (1, 0):
        _, embedding = cache.encode(read_image(dataset.pairs[index].image), tiny_sam)
        for thing in dataset.objects:
            if thing.image_index == index:
                (answer,) = predictor.predict(embedding, [center_point(thing.mask())])
                expected.append(share(answer.mask, thing.mask()))
    assert [one.mean("center") for one in found] == pytest.approx(expected)
    assert len(set(expected)) > 3
