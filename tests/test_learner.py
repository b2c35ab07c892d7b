"""A training step is the plain one, only with less work."""

import copy

import numpy as np
import pytest
import torch
from scripts import load_script

from samtune.config import FitConfig
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.learner import EncodedImages, Learner
from samtune.supervision import Supervision, draw_prompts


@pytest.fixture(scope="module")
def plain_loop():
    """What people write, from the benchmarks: segment-anything's decoder and torch's attention."""
    return load_script("benchmarks/plain_loop.py")


@pytest.fixture
def images(toy_folder, tiny_sam, tmp_path):
    dataset = load_dataset(toy_folder)
    cache = EmbeddingCache(tmp_path)
    keys = [cache.encode(read_image(pair.image), tiny_sam)[0] for pair in dataset.pairs]
    return EncodedImages(tiny_sam, cache, dataset.pairs, keys)


@pytest.fixture
def objects(toy_folder, tiny_sam):
    rng = np.random.default_rng(0)
    dataset = load_dataset(toy_folder)
    return [Supervision.of(thing, tiny_sam.image_size, rng) for thing in dataset.objects]


def start_from(plain_plm, plm):
    """Give the plain PLM the weights of samtune's."""
    state = {
        name: value
        for name, value in plm.state_dict().items()
        if name.startswith(("self_", "image_norm", "mlp", "final_norm"))
    }
    projections = plm.q_proj, plm.k_proj, plm.v_proj
    state["image_attention.in_proj_weight"] = torch.cat([one.weight for one in projections])
    state["image_attention.in_proj_bias"] = torch.cat([one.bias for one in projections])
    state["image_attention.out_proj.weight"] = plm.out_proj.weight
    state["image_attention.out_proj.bias"] = plm.out_proj.bias
    plain_plm.load_state_dict(state)
    return plain_plm


@pytest.mark.parametrize("dense", [False, True])
def test_with_all_cells_the_loss_curve_is_that_of_the_plain_loop(
    plain_loop, tiny_sam, images, objects, dense
):
    still = {"pmm": False, "selector_rate": 0.0}  # the plain loop has neither
    config = FitConfig(
        cells=64,
        precision="float32",
        batch_size=1,
        warmup_objects=10,
        dense_prompt=dense,
        **still,
    )
    learner = Learner(tiny_sam, config, images, objects, total=50, first_offset=1.0)
    plm = start_from(plain_loop.PlainPLM(), learner.learned["plm"])
    plain = plain_loop.PlainLoop(
        tiny_sam.prompt_encoder,
        tiny_sam.decoder.layers,
        plm,
        copy.deepcopy(learner.learned["dense_prompt"]) if dense else None,
        config.dense_rate / config.learning_rate,
        config.output_temperature,
    )
    expected = []
    for _ in range(learner.steps):
        rng = np.random.default_rng([config.seed, 2, learner.step])
        (index,) = learner.indices()
        one = objects[index]
        points, labels, boxes = draw_prompts([one], config.click_share, rng)
        target, valid = plain_loop.whole_target(one.sample_cells(64, rng), 8)
        expected.append(
            plain.step(
                images.batch([one.image_index]),
                (torch.from_numpy(points), torch.from_numpy(labels)) if points.size else None,
                None if boxes is None else torch.from_numpy(boxes),
                target,
                valid,
                config.learning_rate * learner.schedule(),
            )
        )
        learner.train_step()
    assert max(expected) - min(expected) > 0.1  # it did learn
    np.testing.assert_allclose(learner.losses, expected, atol=1e-3)
