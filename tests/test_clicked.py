"""How surely clicks are on the masks that answer them, told by those masks themselves."""

import numpy as np
import pytest
import torch
from tiny_models import build_adapter

from samtune.clicked import Asked, places_of
from samtune.predictor import Predictor
from samtune.presence import PresenceHead
from samtune.prompts import Prompt

SIZE = (50, 77)  # (H, W) of the image: 77 pixels are the 32 logits of the padded square


@pytest.fixture(scope="module")
def embedding(tiny_sam):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return tiny_sam.encode_image(noise)


@pytest.fixture(scope="module")
def adapter(tiny_sam):
    return build_adapter(tiny_sam)


@pytest.fixture(scope="module")
def on_mask(tiny_sam, embedding, adapter):
    """Asks the adapter, and how surely prompts of one form are on its masks."""

    def ask(*prompts):
        learned, decoder = adapter.learned, tiny_sam.decoder
        tokens, cells = learned.attend(tiny_sam, embedding, prompts)
        mixing = learned.mix(learned.estimate(tokens, decoder.predict_iou(tokens)))
        return Asked.of(prompts, embedding, tokens, cells, mixing).on_mask(decoder)

    return ask


def test_a_click_is_on_its_mask_as_surely_as_the_mask_s_logit_there_says(
    tiny_sam, embedding, adapter, on_mask
):
    places = [(x, y) for x in (0, 20, 41, 76) for y in (0, 17, 49)]
    clicks = [Prompt.of([place]) for place in places]
    predictor = Predictor(tiny_sam, adapter, every_cell=True)
    expected = []
    for (x, y), decoded in zip(places, decoded_logits(predictor, embedding, clicks), strict=True):
        column, row = (int((place + 0.5) * 32 / 77) for place in (x, y))
        expected.append(np.tanh(decoded[row, column] / 4))
    assert np.ptp(expected) > 1  # some are on their masks, some are not
    np.testing.assert_allclose(on_mask(*clicks).numpy(), expected, atol=1e-4)


def decoded_logits(predictor, embedding, clicks):
    """Those of the adapter's masks, before plain SAM answers far clicks."""
    decoded = predictor._decode(embedding, clicks, all_masks=False, every_cell=True)
    return decoded.logits[:, 0].numpy()


def test_of_several_points_those_on_the_object_count_alike_and_others_do_not(
    tiny_sam, embedding, adapter
):
    places = [(20, 17), (60, 30), (5, 44)]
    prompts = [Prompt.of(places[:count], places[count:]) for count in (3, 2, 1)]
    learned, decoder = adapter.learned, tiny_sam.decoder
    tokens, cells = learned.attend(tiny_sam, embedding, prompts)
    mixing = torch.eye(4)[:1].expand(3, -1)
    whole = decoder.assemble(decoder.mask_blocks(tokens, cells, mixing[:, None]), (8, 8))[:, 0]
    columns, rows = (places_of(prompts[0], embedding, 32).T).astype(int)
    surely = torch.tanh(whole[:, rows, columns] / 4)
    expected = [surely[row, :count].mean() for row, count in enumerate((3, 2, 1))]
    found = Asked.of(prompts, embedding, tokens, cells, mixing).on_mask(decoder)
    assert torch.allclose(found, torch.stack(expected), atol=1e-4)
    assert found.max() - found.min() > 0.05


def test_what_is_not_clicked_is_not_off_its_mask(on_mask):
    box = (5, 10, 50, 45)
    assert on_mask(Prompt.of(box=box)).tolist() == [1.0]
    assert on_mask(Prompt.of((), [(20, 17)], box)).tolist() == [1.0]
    together = on_mask(Prompt.of([(20, 17)], box=box), Prompt.of((), [(20, 17)], box))
    assert together[1] == 1.0
    assert together[0] != 1.0


def test_places_count_from_the_corner_of_the_padded_square(embedding):
    corners = Prompt.of([(0, 0), (76, 49)])
    np.testing.assert_allclose(
        places_of(corners, embedding, 77), [[0.5, 0.5], [76.5, 49.5]], atol=0.6
    )


@pytest.mark.parametrize("heeds_mask", [True, False])
def test_the_presence_of_an_answer_heeds_its_mask_where_the_head_has_learned_to(
    tiny_sam, embedding, adapter, on_mask, monkeypatch, heeds_mask
):
    head = PresenceHead(heeds_mask=heeds_mask).requires_grad_(False)
    if heeds_mask:
        head.on_mask.fill_(0.4)
    monkeypatch.setattr(adapter.learned, "presence", head)
    clicks = [Prompt.of([(x, 20)]) for x in range(2, 76, 8)]
    predictor = Predictor(tiny_sam, adapter)
    found = [one.presence for one in predictor.predict(embedding, clicks)]
    expected = torch.sigmoid(2 * on_mask(*clicks)) if heeds_mask else torch.full((10,), 0.5)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(predictor.presence(embedding, clicks), found, atol=1e-4)
