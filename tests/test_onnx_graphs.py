"""The graphs for export answer as the predictor and as segment-anything's own modules."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import photo
from tiny_models import IMAGE_SIZE, build_adapter
from upstream import difference, postprocess_masks

from samtune.input_frame import input_size, scale_image
from samtune.onnx_graphs import DecoderGraph, EncoderGraph
from samtune.parity import decoder_inputs
from samtune.predictor import Predictor
from samtune.prompt_learning import PromptLearning
from samtune.prompts import Prompt

PROMPTS = [
    Prompt.of(points=[(20, 30)]),
    Prompt.of(points=[(20, 30), (50, 10)], negative_points=[(5, 40)]),
    Prompt.of(box=(10, 5, 60, 40)),
    Prompt.of(points=[(30, 20)], box=(10, 5, 60, 40)),
]


@pytest.fixture(scope="module")
def adapter(tiny_sam):
    return build_adapter(tiny_sam)


def asked(prompt, embedding):
    features = embedding.features[None].numpy()
    inputs = decoder_inputs(prompt, embedding.original_size, features, IMAGE_SIZE)
    return {name: torch.from_numpy(value) for name, value in inputs.items()}


@pytest.mark.parametrize("size", [(48, 64), (70, 50), (200, 333)])
def test_the_encoder_s_graph_gives_the_model_s_embedding_of_a_scaled_image(tiny_sam, size):
    image = photo(size)
    scaled = torch.from_numpy(scale_image(image, IMAGE_SIZE)).float()
    with torch.no_grad():
        found = EncoderGraph(tiny_sam)(scaled)
    assert difference(found[0], tiny_sam.encode_image(image).features) <= 1e-5


@pytest.mark.parametrize("prompt", PROMPTS, ids=["click", "points", "box", "box and point"])
@pytest.mark.parametrize("size", [(48, 64), (64, 61)])
@pytest.mark.parametrize("which", ["plain SAM", "adapter", "mixture alone"])
def test_the_decoder_s_graph_gives_the_predictor_s_answer(tiny_sam, adapter, prompt, size, which):
    mixture = replace(adapter, learned=PromptLearning(None, adapter.learned.selector))
    plugged = {"plain SAM": None, "adapter": adapter, "mixture alone": mixture}[which]
    image = photo(size)
    embedding = tiny_sam.encode_image(image)
    (expected,) = Predictor(tiny_sam, plugged, every_cell=True).predict(embedding, [prompt])
    inputs = asked(prompt, embedding)
    with torch.no_grad():
        masks, iou_predictions, low_res_masks = DecoderGraph(tiny_sam, plugged)(**inputs)
    if which == "adapter":
        assert 0.02 < expected.mask.mean() < 0.98  # or nearly any mask would agree
    expected_logits = torch.from_numpy(expected.low_res_logits)
    assert difference(low_res_masks[0, 0], expected_logits) <= 1e-4
    assert (masks[0, 0].numpy() > 0).shape == size
    assert ((masks[0, 0].numpy() > 0) == expected.mask).mean() > 0.999
    assert float(iou_predictions[0, 0]) == pytest.approx(expected.score, abs=1e-4)


def test_a_mask_input_counts_if_the_flag_says_so_as_in_upstream(tiny_sam, adapter):
    image, prompt = photo(), PROMPTS[0]
    embedding = tiny_sam.encode_image(image)
    inputs = asked(prompt, embedding)
    generator = torch.Generator().manual_seed(0)
    inputs["mask_input"] = 10 * torch.randn(inputs["mask_input"].shape, generator=generator)
    graph = DecoderGraph(tiny_sam, adapter)
    with torch.no_grad():
        ignored = graph(**inputs)[2]
        used = graph(**{**inputs, "has_mask_input": torch.ones(1)})[2]
        sparse, dense = tiny_sam.prompt_encoder(
            points=(inputs["point_coords"][:, :1], torch.ones(1, 1)),
            boxes=None,
            masks=inputs["mask_input"],
        )
        features = inputs["image_embeddings"]
        tokens = adapter.learned.plm(sparse, features, tiny_sam.image_pe)
        dense = dense + adapter.learned.dense_prompt(features)
        decoder = tiny_sam.decoder.layers  # segment-anything's MaskDecoder
        logits, _ = decoder.predict_masks(features, tiny_sam.image_pe, tokens, dense)
        without = graph(**{**inputs, "mask_input": torch.zeros_like(inputs["mask_input"])})[2]
    assert torch.equal(ignored, without)
    assert difference(used, ignored) > 0.01
    assert min(float((used - one).abs().max()) for one in logits[0]) <= 1e-3


def test_sizes_are_scaled_as_everywhere_else(tiny_sam, adapter):
    # float32, as upstream's export scales, is a row off for one size in a few thousand.
    graph = DecoderGraph(tiny_sam, adapter)
    logits = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    sizes = [(1, 500), (500, 1), *((int(h), int(w)) for h, w in rng.integers(1, 300, (40, 2)))]
    for size in sizes:
        found = graph._to_original_size(logits, torch.tensor(size, dtype=torch.float32))
        frame = input_size(size, IMAGE_SIZE)
        expected = postprocess_masks(logits, IMAGE_SIZE, frame, size)
        assert found.shape == expected.shape
        assert torch.equal(found, expected), size


def test_padding_points_are_segment_anything_s_own(tiny_sam, adapter):
    coords, labels = torch.tensor([[[31.0, 47.0], [0.0, 0.0]]]), torch.tensor([[1.0, -1.0]])
    with torch.no_grad():
        found = DecoderGraph(tiny_sam, adapter)._embed_points(coords, labels)
    expected, _ = tiny_sam.prompt_encoder(
        points=(coords[:, :1], labels[:, :1]), boxes=None, masks=None
    )  # pads by itself
    assert F.mse_loss(found, expected) <= 1e-10
    assert found.shape == expected.shape == (1, 2, 256)
