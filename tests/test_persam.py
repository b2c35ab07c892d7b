"""PerSAM: the cascade and its guidance against a plain implementation over upstream's layers."""

import numpy as np
import plain_persam
import pytest
import torch
from tiny_models import build_tiny_sam
from upstream import difference, sharpen

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.config import PARTS
from samtune.persam import Persam, PersamF
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.targets import Direction

SIZE = (88, 120)  # rows of cells end in the padding: 6 of 8 are inside
POINTS, LABELS = [(30.0, 40.0), (100.0, 15.0)], [1, 0]
WEIGHTS = (0.6, -0.3)


def sharp_sam():
    sam = build_tiny_sam(seed=4)
    sharpen(sam.decoder.layers.transformer, 5)
    return sam


@pytest.fixture(scope="module")
def sam():
    return sharp_sam()


@pytest.fixture(scope="module")
def embedding(sam):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return sam.encode_image(noise)


def target():
    return np.random.default_rng(1).normal(size=256).astype(np.float32)


def direction():
    return Direction(np.random.default_rng(2).normal(size=256).astype(np.float32), 0.25)


def adapter(sam, learned, method="persam"):
    return Adapter(AdapterInfo(method, Base.of(sam, "tiny")), learned)


def plain_guide(embedding):
    """0.5 × the standardised likeness of the image's cells, and its least in the padding."""
    cells = embedding.features.numpy()[:, :6, :]  # 88 of 120 px: 94 of 128, six rows of 16
    unit = cells / np.sqrt((cells**2).sum(axis=0))
    likeness = np.einsum("c,chw->hw", direction().vector, unit) - 0.25
    standard = (likeness - likeness.mean()) / likeness.std()
    full = np.full((8, 8), standard.min(), np.float32)
    full[:6] = standard
    return torch.from_numpy(0.5 * full).flatten()


def to_input(embedding, points):
    scale = 128 / 120
    return [[x * scale, y * embedding.input_size[0] / SIZE[0]] for x, y in points]


def answer_of(sam, embedding, learned):
    """To both points, SAM's three masks beside the one that is chosen."""
    predictor = Predictor(sam, adapter(sam, learned), every_cell=True)
    (found,) = predictor.predict(embedding, [Prompt.of(POINTS[:1], POINTS[1:])], all_masks=True)
    return found


def expected_masks(sam, embedding, without=(), weights=None, points=POINTS, labels=LABELS):
    with torch.no_grad():
        return plain_persam.cascade(
            sam,
            embedding,
            to_input(embedding, points),
            labels,
            None if "guided-attention" in without else plain_guide(embedding),
            None if "semantic-prompt" in without else torch.from_numpy(target()),
            weights,
            agreement="agreement" not in without,
        )


@pytest.mark.parametrize(
    "without",
    [(), ("guided-attention",), ("semantic-prompt",), PARTS[4:], ("agreement",)],
    ids=str,
)
def test_answers_are_those_of_the_plain_formulas(sam, embedding, without):
    found = answer_of(sam, embedding, Persam(target(), direction(), direction(), without))
    masks, ious = expected_masks(sam, embedding, without)
    assert difference(torch.from_numpy(found.alternative_logits), masks[1:]) < 1e-3
    chosen = 1 + int(ious[1:].argmax()) if "agreement" in without else 0
    assert difference(torch.from_numpy(found.low_res_logits), masks[chosen]) < 1e-3
    assert found.score == pytest.approx(float(ious[chosen].clip(0, 1)), abs=1e-3)


def test_each_part_of_the_guidance_changes_the_answer(sam, embedding):
    whole, _ = expected_masks(sam, embedding)
    for part in ("guided-attention", "semantic-prompt"):
        without, _ = expected_masks(sam, embedding, (part,))
        assert difference(without, whole) > 0.01


def test_persam_f_weighs_the_first_masks_and_gives_the_second_step_their_box(sam, embedding):
    learned = PersamF(target(), direction(), direction(), WEIGHTS)
    predictor = Predictor(sam, adapter(sam, learned, "persam-f"), every_cell=True)
    (found,) = predictor.predict(embedding, [Prompt.of(POINTS[:1])], all_masks=True)
    weights = (*WEIGHTS, 1 - sum(WEIGHTS))
    masks, _ = expected_masks(sam, embedding, (), weights, POINTS[:1], LABELS[:1])
    assert difference(torch.from_numpy(found.alternative_logits), masks[1:]) < 1e-3
    assert difference(torch.from_numpy(found.low_res_logits), masks[0]) < 1e-3


@pytest.mark.parametrize("without", [(), ("agreement",)])
@pytest.mark.parametrize("surest", [1, 2, 3])
def test_the_second_answer_keeps_to_the_first_where_sam_is_about_as_sure_of_another(
    embedding, surest, without
):
    sam = sharp_sam()
    bias = sam.decoder.layers.iou_prediction_head.layers[-1].bias
    with torch.no_grad():
        bias.fill_(20.0)
        bias[surest] += 1.0
    found = answer_of(sam, embedding, Persam(target(), direction(), direction(), without))
    masks, _ = expected_masks(sam, embedding, without)
    assert difference(torch.from_numpy(found.alternative_logits), masks[1:]) < 1e-3


def test_after_an_empty_first_answer_the_second_is_what_sam_is_surest_of(
    sam, embedding, monkeypatch
):
    nothing = torch.full((1, 1, 32, 32), -10.0)
    monkeypatch.setattr(Persam, "_first_answer", lambda *_: nothing)
    found = answer_of(sam, embedding, Persam(target(), direction(), direction()))
    asked = (sam, embedding, to_input(embedding, POINTS), LABELS)
    guidance = (plain_guide(embedding), torch.from_numpy(target()))
    with torch.no_grad():
        masks, ious = plain_persam.decode(*asked, *guidance, logits=nothing[0, 0])
        second = masks[1 + int(ious[1:].argmax())]
        box = plain_persam.tight_box(sam, embedding, second)
        masks, _ = plain_persam.decode(*asked, *guidance, box=box, logits=second)
    assert difference(torch.from_numpy(found.low_res_logits), masks[0]) < 1e-3


def test_without_cascade_and_guidance_it_is_the_single_mask_of_plain_sam(sam, embedding):
    learned = Persam(target(), direction(), direction(), PARTS[2:])
    prompt = Prompt.of(POINTS[:1], POINTS[1:])  # to two points plain SAM gives its single mask
    (found,) = Predictor(sam, adapter(sam, learned)).predict(embedding, [prompt])
    (plain,) = Predictor(sam).predict(embedding, [prompt])
    assert np.array_equal(found.mask, plain.mask)
    # Plain SAM goes by what is kept of the image (image_cells.py): the same up to rounding.
    assert found.score == pytest.approx(plain.score, abs=1e-5)


def test_prompts_answered_together_are_those_answered_alone(sam, embedding):
    predictor = Predictor(sam, adapter(sam, Persam(target(), direction(), direction())))
    prompts = [Prompt.of([(30, 40)]), Prompt.of([(90, 60)]), Prompt.of(box=(10, 10, 60, 70))]
    together = predictor.predict(embedding, prompts)
    for prompt, one in zip(prompts, together, strict=True):
        (alone,) = predictor.predict(embedding, [prompt])
        assert np.array_equal(alone.mask, one.mask)


def test_a_box_that_was_given_stays(sam, embedding, monkeypatch):
    boxes = []
    encode = sam.encode_prompts

    def encode_prompts(prompts, size):
        boxes.extend(None if one.box is None else one.box.tolist() for one in prompts)
        return encode(prompts, size)

    monkeypatch.setattr(sam, "encode_prompts", encode_prompts)
    learned = Persam(target(), direction(), direction())
    Predictor(sam, adapter(sam, learned)).predict(embedding, [Prompt.of(box=(10, 10, 60, 70))])
    assert boxes == [[10, 10, 60, 70]] * 3


def test_an_answer_of_nothing_has_no_box_and_no_error(sam, embedding, monkeypatch):
    monkeypatch.setattr(
        "samtune.persam.upscale_masks", lambda *_: np.zeros((1, 1, *SIZE), dtype=bool)
    )
    learned = PersamF(target(), direction(), direction(), WEIGHTS)
    predictor = Predictor(sam, adapter(sam, learned, "persam-f"))
    (found,) = predictor.predict(embedding, [Prompt.of(POINTS[:1])])
    assert found.mask.shape == SIZE


def test_guidance_is_refused_in_training(sam, embedding):
    from samtune.two_way import Guidance

    tokens = torch.zeros(1, 2, 256, requires_grad=True)
    features = embedding.features[None]
    with pytest.raises(ValueError, match="inference"):
        sam.decoder.attend(
            features, sam.image_pe, tokens, sam.no_mask, Guidance(target=torch.ones(256))
        )


@pytest.mark.parametrize(
    ("method", "settings", "learned"),
    [
        (
            "persam",
            {"agreement": True, "without": ["cascade"]},
            lambda: Persam(target(), direction(), direction(), ["cascade"]),
        ),
        (
            "persam",
            {"agreement": False},
            lambda: Persam(target(), direction(), direction(), ["agreement"]),
        ),
        (
            "persam",  # of before there was an agreement
            {},
            lambda: Persam(target(), direction(), direction(), ["agreement"]),
        ),
        (
            "persam-f",
            {"agreement": True},
            lambda: PersamF(target(), direction(), direction(), WEIGHTS),
        ),
    ],
)
def test_a_saved_adapter_answers_as_before(sam, embedding, tmp_path, method, settings, learned):
    info = AdapterInfo(method, Base.of(sam, "tiny"), settings=settings)
    Adapter(info, learned()).save(tmp_path / "a.safetensors")
    loaded = Adapter.load(tmp_path / "a.safetensors", sam)
    assert loaded.info.finds
    assert loaded.learned.without == learned().without
    prompt = Prompt.of(POINTS[:1])
    (before,) = Predictor(sam, Adapter(info, learned())).predict(embedding, [prompt])
    (after,) = Predictor(sam, loaded).predict(embedding, [prompt])
    assert np.array_equal(before.low_res_logits, after.low_res_logits)
    assert (tmp_path / "a.safetensors").stat().st_size < 4000
