"""Clicks on a grid in and around objects, and what their answers score."""

import numpy as np
import pytest
from tiny_models import build_adapter, build_tiny_sam

from samtune.predictor import AT_ONCE, Predictor
from samtune.prompts import Prompt, center_point
from samtune.sensitivity import ClickScores, grid_of_clicks, in_object_and_ring, score_clicks

SIZE = (60, 90)  # (H, W)


def rectangle(left, top, width, height, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def places(clicks, inside):
    return set(map(tuple, clicks.points[clicks.inside == inside].tolist()))


def test_clicks_lie_in_the_object_or_in_a_narrow_ring_around_it():
    mask = rectangle(30, 20, 40, 16)  # wider than high: exchanged axes would leave it
    clicks = grid_of_clicks([mask], 100)
    xs, ys = clicks.points.T
    assert (mask[ys, xs] == clicks.inside).all()
    ring = clicks.points[~clicks.inside]
    assert len(ring) > 20
    # A quarter of the radius of a disk of 640 pixels is 3.6 pixels.
    assert (ring.min(axis=0) >= [30 - 4, 20 - 4]).all()
    assert (ring.max(axis=0) <= [69 + 4, 35 + 4]).all()


@pytest.mark.parametrize("count", [1, 10, 80, 400])
def test_there_are_about_as_many_clicks_as_asked_for_however_large_the_object(count):
    for mask in (rectangle(5, 5, 80, 50), rectangle(30, 20, 31, 31)):
        inside = grid_of_clicks([mask], count).inside.sum()
        assert count / 2 <= inside <= 2 * count + 1


def test_an_object_is_always_clicked_at_its_centre_however_thin_it_is():
    mask = rectangle(7, 3, 1, 50)  # one pixel wide: most grids would miss it
    clicks = grid_of_clicks([mask], 2)
    center = tuple(center_point(mask).points[0].astype(int).tolist())
    assert center in places(clicks, inside=True)


def test_with_more_clicks_than_pixels_each_pixel_is_clicked_once():
    mask = rectangle(10, 10, 3, 2)
    clicks = grid_of_clicks([mask], 1000)
    assert places(clicks, inside=True) == {(x, y) for x in (10, 11, 12) for y in (10, 11)}
    assert clicks.inside.sum() == 6


def test_a_click_belongs_to_its_own_object_and_none_in_a_ring_is_in_another():
    left, right = rectangle(20, 20, 20, 20), rectangle(41, 20, 20, 20)  # a pixel apart
    clicks = grid_of_clicks([left, right], 400)
    for index, mask in enumerate((left, right)):
        xs, ys = clicks.points[(clicks.target == index) & clicks.inside].T
        assert mask[ys, xs].all()
    ring = places(clicks, inside=False)
    assert not any((left | right)[y, x] for x, y in ring)
    assert any(x < 20 for x, _ in ring)


def test_each_click_scores_the_returned_mask_against_its_own_target(tiny_sam):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    embedding = tiny_sam.encode_image(image)
    targets = [rectangle(5, 5, 30, 30), rectangle(50, 10, 30, 40)]
    clicks = grid_of_clicks(targets, 10)
    assert len(clicks.points) > AT_ONCE  # or batches would not be tried
    predictor = Predictor(tiny_sam, build_adapter(tiny_sam))
    told = []
    scores = score_clicks(
        predictor, embedding, targets, clicks, lambda done, total: told.append((done, total))
    )
    for point, index, score in zip(clicks.points.tolist(), clicks.target, scores, strict=True):
        mask = predictor.predict(embedding, [Prompt.of(points=[tuple(point)])])[0].mask
        both, either = (mask & targets[index]).sum(), (mask | targets[index]).sum()
        assert score == pytest.approx(both / either, abs=1e-3)  # batches round differently
    assert len(set(scores.round(6).tolist())) > 3
    assert told[-1] == (len(scores), len(scores))


def test_the_image_is_not_encoded_again_for_any_click():
    sam = build_tiny_sam()
    embedding = sam.encode_image(np.zeros((*SIZE, 3), np.uint8))
    runs = []
    sam.image_encoder.register_forward_hook(lambda *_: runs.append(None))
    mask = rectangle(30, 20, 20, 20)
    score_clicks(Predictor(sam), embedding, [mask], grid_of_clicks([mask], 9))
    assert runs == []


def test_summaries_hold_mean_tenth_percentile_and_share_of_good_clicks():
    found = ClickScores.of(np.linspace(0, 1, 11))  # 0.0, 0.1, ..., 1.0
    assert found.clicks == 11
    assert found.mean_iou == pytest.approx(0.5)
    assert found.p10_iou == pytest.approx(0.1)
    assert found.good_share == pytest.approx(3 / 11)  # 0.8 itself is good
    assert ClickScores.of(np.array([])) is None


def test_clicks_in_the_ring_are_kept_apart():
    mask = rectangle(30, 20, 20, 20)
    clicks = grid_of_clicks([mask], 50)
    inside, ring = in_object_and_ring(clicks.inside.astype(float), clicks)
    assert (inside.mean_iou, ring.mean_iou) == (1.0, 0.0)
    assert inside.clicks + ring.clicks == len(clicks.points)
    everything = np.ones(SIZE, dtype=bool)  # nothing beside it
    full = grid_of_clicks([everything], 50)
    assert in_object_and_ring(np.ones(len(full.points)), full)[1] is None
