"""Which mask a prompt gets: from plain SAM, from an adapter, and after refinement."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from decoding import decode_prompts
from tiny_models import build_adapter, build_tiny_sam
from torch import nn
from upstream import difference, postprocess_masks

from samtune.adapter import Adapter
from samtune.errors import PromptError
from samtune.input_frame import Embedding
from samtune.metrics import iou
from samtune.pmm import contour_frame
from samtune.polygons import polygons_to_mask
from samtune.predictor import AT_ONCE, Predictor
from samtune.presence import PresenceHead
from samtune.prompts import Prompt

SIZE = (50, 77)  # (H, W) of the image
REACHED = 21  # of the 32 rows of logits: the others are in the padding
POINT = Prompt.of(points=[(20, 30)])
POINTS = Prompt.of(points=[(20, 30)], negative_points=[(60, 10)])
BOX = Prompt.of(box=(5, 10, 50, 45))


@pytest.fixture(scope="module")
def tiny_sam():
    """One whose logits are small: a random mask has a boundary everywhere, and must show it."""
    sam = build_tiny_sam()
    for network in sam.decoder.layers.output_hypernetworks_mlps:
        for parameter in network.layers[-1].parameters():
            parameter.mul_(0.02)
    return sam


@pytest.fixture(scope="module")
def embedding(tiny_sam):
    return tiny_sam.encode_image(
        np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    )


@pytest.fixture(scope="module")
def adapter(tiny_sam):
    return build_adapter(tiny_sam)


def decode(sam, embedding, prompt, adapter=None):
    """All four masks of one prompt at the image's size, and what the decoder says of them."""
    tokens = sam.encode_prompts([prompt], embedding.original_size)
    features = embedding.features[None]
    if adapter is not None:
        tokens = adapter.learned.plm(tokens, features, sam.image_pe)
        features = features + adapter.learned.dense_prompt(features)
    decoded = decode_prompts(sam, features, tokens)
    logits = postprocess_masks(decoded.low_res_logits, sam.image_size, embedding.input_size, SIZE)
    return (logits[0] > 0).numpy(), decoded


def with_best_output(sam, output):
    """A copy of tiny_sam whose IoU head prefers one of the four masks."""
    changed = build_tiny_sam()
    changed.load_state_dict(sam.state_dict())
    changed.decoder.layers.iou_prediction_head.layers[2].bias.data[:] = 0.0
    changed.decoder.layers.iou_prediction_head.layers[2].bias.data[output] += 0.5
    return changed


# --------------------------------------------------------------------------- plain SAM


@pytest.mark.parametrize(("preferred", "expected"), [(0, None), (1, 1), (2, 2), (3, 3)])
def test_one_point_alone_gets_the_best_of_three_by_predicted_iou(
    tiny_sam, embedding, preferred, expected
):
    # Mask 0 is for prompts that are not ambiguous: not even the best estimate makes it count.
    sam = with_best_output(tiny_sam, preferred)
    masks, decoded = decode(sam, embedding, POINT)
    scores = decoded.iou_predictions[0].numpy()
    expected = expected or 1 + int(scores[1:].argmax())
    (prediction,) = Predictor(sam).predict(embedding, [POINT])
    assert np.array_equal(prediction.mask, masks[expected])
    assert prediction.score == pytest.approx(float(scores[expected].clip(0, 1)), abs=1e-5)
    assert (
        difference(
            torch.from_numpy(prediction.low_res_logits)[:REACHED],
            decoded.low_res_logits[0, expected, :REACHED],
        )
        < 1e-5
    )


def test_images_that_take_turns_are_not_mixed_up(tiny_sam, embedding, adapter):
    # What depends on the image alone is kept for the next prompt on it.
    other = replace(embedding, features=embedding.features.flip(2).contiguous())
    for predictor in (Predictor(tiny_sam), Predictor(tiny_sam, adapter)):
        first, flipped, again = (
            predictor.predict(one, [POINT])[0].low_res_logits
            for one in (embedding, other, embedding)
        )
        assert (first == again).all()
        assert np.abs(first - flipped).max() > 0.1 * np.abs(first).max()
        _, decoded = decode(tiny_sam, other, POINT, predictor.adapter)
        closest = np.abs(decoded.low_res_logits[0].numpy() - flipped)[:, :REACHED].max(axis=(1, 2))
        assert closest.min() < 1e-4 * np.abs(flipped).max()


@pytest.mark.parametrize("prompt", [POINTS, BOX, Prompt.of(points=[(20, 30)], box=(5, 10, 50, 45))])
def test_other_prompts_get_the_single_mask(tiny_sam, embedding, prompt):
    sam = with_best_output(tiny_sam, 2)
    masks, _ = decode(sam, embedding, prompt)
    (prediction,) = Predictor(sam).predict(embedding, [prompt])
    assert np.array_equal(prediction.mask, masks[0])


def test_alternatives_are_the_three_masks_with_their_scores(tiny_sam, embedding):
    masks, decoded = decode(tiny_sam, embedding, POINT)
    (prediction,) = Predictor(tiny_sam).predict(embedding, [POINT], all_masks=True)
    assert np.array_equal(prediction.alternatives, masks[1:])
    expected = decoded.iou_predictions[0, 1:].clip(0, 1).numpy()
    np.testing.assert_allclose(prediction.alternative_scores, expected, atol=1e-5)


def test_alternatives_are_only_made_when_asked_for(tiny_sam, embedding):
    (alone,) = Predictor(tiny_sam).predict(embedding, [POINT])
    (prediction,) = Predictor(tiny_sam).predict(embedding, [POINT], all_masks=True)
    assert np.array_equal(alone.mask, prediction.mask)
    assert alone.score == prediction.score
    assert alone.alternatives.shape == (0, *SIZE)


def test_masks_have_the_images_own_size_and_scores_are_fractions(tiny_sam, embedding):
    (prediction,) = Predictor(tiny_sam).predict(embedding, [POINT], all_masks=True)
    assert prediction.mask.shape == SIZE
    assert prediction.mask.dtype == bool
    assert prediction.alternatives.shape == (3, *SIZE)
    assert prediction.low_res_logits.shape == (32, 32)
    assert 0 <= prediction.score <= 1
    assert prediction.refined is None


def test_every_cell_is_decoded_on_demand_and_the_mask_is_the_same(tiny_sam, embedding):
    (prediction,) = Predictor(tiny_sam).predict(embedding, [POINT])
    (whole,) = Predictor(tiny_sam, every_cell=True).predict(embedding, [POINT])
    _, decoded = decode(tiny_sam, embedding, POINT)
    output = 1 + int(decoded.iou_predictions[0, 1:].argmax())
    found = torch.from_numpy(whole.low_res_logits)
    assert difference(found, decoded.low_res_logits[0, output]) < 1e-5
    assert np.array_equal(prediction.mask, whole.mask)
    assert not np.array_equal(prediction.low_res_logits, whole.low_res_logits)  # the padding


def test_the_cached_embedding_in_half_precision_is_accepted(tiny_sam, embedding):
    half = Embedding(embedding.features.half(), embedding.original_size, embedding.input_size)
    (prediction,) = Predictor(tiny_sam).predict(half, [POINT])
    (exact,) = Predictor(tiny_sam).predict(embedding, [POINT])
    assert iou(prediction.mask, exact.mask) > 0.98


# --------------------------------------------------------------------------- several prompts


def test_mixed_prompts_are_answered_in_their_order(tiny_sam, embedding):
    # More points than decode at once, and in between prompts of other forms.
    rng = np.random.default_rng(0)
    points = [Prompt.of(points=[tuple(rng.uniform(0, 48, 2))]) for _ in range(AT_ONCE + 3)]
    prompts = [BOX, *points[:5], POINTS, *points[5:], Prompt.of(box=(0, 0, 76, 20)), POINTS]
    together = Predictor(tiny_sam).predict(embedding, prompts)
    assert len(together) == len(prompts)
    for prompt, prediction in zip(prompts, together, strict=True):
        (alone,) = Predictor(tiny_sam).predict(embedding, [prompt])
        np.testing.assert_allclose(
            prediction.low_res_logits, alone.low_res_logits, rtol=1e-3, atol=1e-5
        )
    distinct = {prediction.low_res_logits.round(3).tobytes() for prediction in together}
    assert len(distinct) == len(prompts) - 1  # POINTS came twice


def test_no_prompts_have_no_answers(tiny_sam, embedding):
    assert Predictor(tiny_sam).predict(embedding, []) == []


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        (Prompt.of(points=[(20, 30), (77, 30)]), "the point 77,30"),
        (Prompt.of(points=[(20, 30)], negative_points=[(30, 60)]), "the point 30,60"),
        (Prompt.of(box=(5, 10, 90, 45)), "the box 5,10,90,45"),
    ],
)
def test_prompt_outside_of_the_image_is_refused_before_any_work(tiny_sam, embedding, prompt, named):
    with pytest.raises(PromptError, match=f"{named}.*77 px wide and 50 px high"):
        Predictor(tiny_sam).predict(embedding, [POINT, prompt])


# --------------------------------------------------------------------------- with an adapter


@pytest.mark.parametrize("preferred", [0, 1, 2, 3])
@pytest.mark.parametrize("prompt", [POINT, POINTS, BOX], ids=["point", "points", "box"])
def test_an_adapter_returns_the_mask_that_its_selector_clearly_prefers(
    tiny_sam, embedding, prompt, preferred
):
    # Any of the four, for any prompt: which one is right was learned, not SAM's rule.
    adapter = build_adapter(tiny_sam)
    for parameter in adapter.learned.selector.parameters():
        parameter.zero_()
    adapter.learned.selector.from_iou_token.bias[preferred] = 5.0
    masks, decoded = decode(tiny_sam, embedding, prompt, adapter)
    (prediction,) = Predictor(tiny_sam, adapter).predict(embedding, [prompt])
    assert np.array_equal(prediction.mask, masks[preferred])
    (plain,) = Predictor(tiny_sam).predict(embedding, [prompt])
    expected = decoded.low_res_logits[0, preferred, :REACHED].numpy()
    np.testing.assert_allclose(prediction.low_res_logits[:REACHED], expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(plain.low_res_logits, prediction.low_res_logits, atol=1e-2)


def test_masks_that_are_estimated_to_be_as_good_are_mixed(tiny_sam, embedding):
    adapter = build_adapter(tiny_sam)
    for parameter in (
        *adapter.learned.plm.final_norm.parameters(),
        *adapter.learned.dense_prompt.leave.parameters(),
        *adapter.learned.selector.parameters(),
    ):
        parameter.zero_()
    _, decoded = decode(tiny_sam, embedding, POINT)
    wanted = torch.tensor([0.62, 0.6, 0.65, 0.5])
    adapter.learned.selector.from_iou_token.bias.copy_(wanted - decoded.iou_predictions[0])
    (prediction,) = Predictor(tiny_sam, adapter, every_cell=True).predict(embedding, [POINT])
    weights = torch.softmax(wanted / 0.05, dim=0)
    expected = torch.einsum("m,mhw->hw", weights, decoded.low_res_logits[0]).numpy()
    np.testing.assert_allclose(prediction.low_res_logits, expected, rtol=1e-3, atol=1e-4)
    assert prediction.score == pytest.approx(float(weights @ wanted), abs=1e-5)


def test_an_adapter_answers_the_same_after_saving_and_loading(
    tiny_sam, embedding, adapter, tmp_path
):
    adapter.save(tmp_path / "a.safetensors")
    loaded = Adapter.load(tmp_path / "a.safetensors", tiny_sam)
    prompts = [POINT, BOX]
    before = Predictor(tiny_sam, adapter).predict(embedding, prompts, refine=True)
    after = Predictor(tiny_sam, loaded).predict(embedding, prompts, refine=True)
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one.low_res_logits, other.low_res_logits)
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.refined, other.refined)


# --------------------------------------------------------------------------- refinement


def blob():
    """A mask with a hole, at the right of the image; and a speck."""
    mask = np.zeros(SIZE, np.uint8)
    cv2.circle(mask, (50, 25), 20, 1, -1)
    cv2.circle(mask, (50, 25), 8, 0, -1)
    mask[3, 3] = 1
    return mask.astype(bool)


def refined_mask(predictor, embedding, mask):
    return polygons_to_mask(predictor.refine_mask(embedding, mask, rounds=1), SIZE)


def test_refining_with_a_module_that_moves_nothing_keeps_the_mask(tiny_sam, embedding):
    predictor = shifted(tiny_sam, 0.0, 0.0)
    refined = refined_mask(predictor, embedding, blob())
    # Contours are resampled: corners of the pixel staircase may be cut.
    assert iou(refined, blob()) > 0.98
    assert refined[3, 3]
    assert not refined[25, 50]


class Shift(nn.Module):
    """Moves all points alike, in units of the object's half size."""

    def __init__(self, dx, dy):
        super().__init__()
        self.offset = torch.tensor([dx, dy])

    def forward(self, features, points):
        return points + contour_frame(points)[1] * self.offset


def shifted(sam, dx, dy):
    adapter = build_adapter(sam)
    adapter.learned.refiner = Shift(dx, dy)
    return Predictor(sam, adapter)


@pytest.mark.parametrize(("dx", "dy"), [(0.25, 0.0), (0.0, -0.25)])
def test_points_move_in_the_images_own_directions_and_units(tiny_sam, embedding, dx, dy):
    predictor = shifted(tiny_sam, dx, dy)
    mask = np.zeros(SIZE, np.uint8)
    cv2.circle(mask, (40, 25), 16, 1, -1)
    refined = refined_mask(predictor, embedding, mask.astype(bool))
    before, after = (np.argwhere(one).mean(axis=0)[::-1] for one in (mask, refined))
    np.testing.assert_allclose(after - before, [dx * 16, dy * 16], atol=0.3)
    assert refined.sum() == pytest.approx(mask.sum(), rel=0.03)


@pytest.mark.parametrize("dx", [0.25, -0.25])
def test_an_object_at_the_images_border_is_refined_too(tiny_sam, embedding, dx):
    # Many points of its contour lie, or are moved, on one line or beyond the border.
    predictor = shifted(tiny_sam, dx, 0.0)
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:40, :20] = True
    refined = refined_mask(predictor, embedding, mask)
    assert not refined[:, 26:].any()
    assert refined[25].sum() == pytest.approx(20 if dx > 0 else 17, abs=1.5)
    assert refined[25, 22] == (dx > 0)


def test_objects_too_small_to_see_in_the_features_stay_as_they_were(tiny_sam, embedding):
    predictor = shifted(tiny_sam, 0.48, 0.0)
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:10, 5:10] = True  # 8 pixels of the input frame: half a cell of the features
    mask[20:40, 30:60] = True
    refined = refined_mask(predictor, embedding, mask)
    assert np.array_equal(refined[:15], mask[:15])
    assert not np.array_equal(refined[15:], mask[15:])


class Tangler(nn.Module):
    """Moves every other point to the far side of the contour."""

    def forward(self, features, points):
        order = torch.arange(points.shape[1])
        order[::2] = order[::2].roll(len(order) // 4)
        return points[:, order]


def test_contours_that_would_cross_themselves_stay_as_they_were(tiny_sam, embedding):
    adapter = build_adapter(tiny_sam)
    adapter.learned.refiner = Tangler()
    predictor = Predictor(tiny_sam, adapter)
    assert np.array_equal(refined_mask(predictor, embedding, blob()), blob())


def test_an_empty_mask_is_refined_to_an_empty_mask(tiny_sam, embedding, adapter):
    empty = np.zeros(SIZE, dtype=bool)
    assert not refined_mask(Predictor(tiny_sam, adapter), embedding, empty).any()


def test_refining_is_refused_where_there_is_nothing_to_refine_with(tiny_sam, embedding, adapter):
    for one in (None, build_adapter(tiny_sam, refines=False)):
        with pytest.raises(ValueError, match="contour refiner"):
            Predictor(tiny_sam, one).predict(embedding, [POINT], refine=True)


# --- both sides ---------------------------------------------------------------------------------


def both_sides(sam, size):
    """An image's embedding with its mirror's, the mirror's with the image's, and each alone."""
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    plain, turned = (sam.encode_image(one) for one in (pixels, pixels[:, ::-1].copy()))
    return replace(plain, mirror=turned), replace(turned, mirror=plain), plain, turned


@pytest.mark.parametrize("size", [SIZE, (77, 50)], ids=["landscape", "portrait"])
def test_with_a_mirror_image_the_logits_are_the_mean_of_both_sides(tiny_sam, adapter, size):
    both, _, plain, turned = both_sides(tiny_sam, size)
    every = Predictor(tiny_sam, adapter, every_cell=True)
    here = Prompt.of([(20, 30)], [(40, 10)])
    across = Prompt.of([(size[1] - 21, 30)], [(size[1] - 41, 10)])
    (found,) = Predictor(tiny_sam, adapter).predict(both, [here], all_masks=True)
    (one,) = every.predict(plain, [here], all_masks=True)
    (other,) = every.predict(turned, [across], all_masks=True)
    side = one.low_res_logits.shape[-1]
    width = both.input_size[1] / tiny_sam.image_size * side  # 32 or 20.75 logits
    inside = np.arange(int(width))
    mirrored = [np.interp(width - 1 - inside, np.arange(side), row) for row in other.low_res_logits]
    expected = (one.low_res_logits[:, inside] + np.array(mirrored)) / 2
    assert np.allclose(found.low_res_logits[:, inside], expected, atol=1e-4)
    assert found.score == pytest.approx((one.score + other.score) / 2)
    assert len(found.alternatives) == 3


def test_an_image_and_its_mirror_image_get_the_same_answer(tiny_sam, adapter, monkeypatch):
    both, turned, _, _ = both_sides(tiny_sam, SIZE)
    head = PresenceHead()
    nn.init.normal_(head.linear.weight, std=0.1)
    monkeypatch.setattr(adapter.learned, "presence", head)
    predictor = Predictor(tiny_sam, adapter)
    for prompt in (POINT, POINTS, BOX):
        (one,) = predictor.predict(both, [prompt])
        (other,) = predictor.predict(turned, [prompt.mirrored(SIZE[1])])
        assert iou(one.mask, other.mask[:, ::-1]) > 0.999
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.presence == pytest.approx(other.presence, abs=1e-5)
        assert predictor.presence(both, [prompt]) == pytest.approx([one.presence])


def test_what_both_sides_need_of_an_image_is_computed_once_and_not_kept_for_the_next(tiny_sam):
    both, _, plain, _ = both_sides(tiny_sam, SIZE)
    first = [tiny_sam.image_cells(side) for side in (both, both.mirror)]
    again = [tiny_sam.image_cells(side) for side in (both, both.mirror)]
    assert all(one is other for one, other in zip(first, again, strict=True))
    tiny_sam.image_cells(plain)  # another embedding: as the next image's
    assert tiny_sam.image_cells(both) is not first[0]


def test_plain_sam_and_adapters_that_take_turns_on_an_image_prepare_it_once_each(
    tiny_sam, embedding, adapter
):
    learned = None, adapter.learned.dense_prompt, build_adapter(tiny_sam, 1).learned.dense_prompt
    first = [tiny_sam.image_cells(embedding, one) for one in learned]
    again = [tiny_sam.image_cells(embedding, one) for one in learned]
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert len({id(one) for one in first}) == 3
