"""Training with cells in bfloat16 is the same training, and taken where it is fast."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import build_adapter

from samtune.adapter import Adapter
from samtune.config import FitConfig
from samtune.dataset import load_dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.learner import EncodedImages, Learner
from samtune.precision import settled
from samtune.predictor import Predictor
from samtune.presence_fit import fit_presence
from samtune.prompts import Prompt
from samtune.supervision import supervise
from samtune.training import fit
from samtune.trials import Split

CPU = torch.device("cpu")


@pytest.fixture
def learner(toy_folder, tiny_sam, tmp_path):
    """Makes a learner of a precision, with all that learns."""
    dataset, cache = load_dataset(toy_folder), EmbeddingCache(tmp_path)
    keys = [cache.encode(pair.read(), tiny_sam)[0] for pair in dataset.pairs]
    images = EncodedImages(tiny_sam, cache, dataset.pairs, keys)
    objects = supervise(dataset.objects, tiny_sam.image_size, np.random.default_rng(0))

    def make(precision, **others):
        config = FitConfig(precision=precision, cells=64, warmup_objects=10, **others)
        return Learner(tiny_sam, config, images, objects, total=60, first_offset=1.0)

    return make


def gradients(learner):
    """Of the first step, a vector for each module that learns."""
    learner.train_step()
    return {
        name: torch.cat(
            [grad.flatten() for one in module.parameters() if (grad := one.grad) is not None]
        )
        for name, module in learner.learned.items()
    }


@pytest.mark.parametrize("click_share", [1.0, 0.0], ids=["a click", "several points or a box"])
def test_gradients_in_bfloat16_point_where_those_in_float32_do(learner, click_share):
    exact, short = (
        gradients(learner(precision, click_share=click_share, dense_prompt=True))
        for precision in ("float32", "bfloat16")
    )
    assert exact.keys() == short.keys() == {"plm", "dense_prompt", "selector", "pmm"}
    for name, gradient in exact.items():
        assert torch.cosine_similarity(gradient, short[name], dim=0) > 0.99, name
        assert short[name].norm() / gradient.norm() == pytest.approx(1, abs=0.05), name


@pytest.mark.parametrize("dense", [True, False])
def test_the_loss_falls_as_it_does_in_float32(learner, dense):
    exact, short = (
        learner(precision, dense_prompt=dense, pmm=False) for precision in ("float32", "bfloat16")
    )
    for one in (exact, short):
        for _ in range(one.steps):
            one.train_step()
    wanted, came = (np.reshape(one.losses, (-1, 5)).mean(axis=1) for one in (exact, short))
    assert wanted[0] - wanted[-1] > 1  # it does fall
    np.testing.assert_allclose(came, wanted, rtol=0.1)
    assert all(one.dtype == torch.float32 for one in short.average.state_dict().values())


def test_a_presence_learned_from_bfloat16_judges_clicks_as_one_from_float32(learner, tiny_sam):
    images, objects = learner("float32").images, learner("float32").objects
    adapter = build_adapter(tiny_sam)
    split = Split(objects[:-2], objects[-2:])
    judged = []
    for precision in ("float32", "bfloat16"):
        config = FitConfig(precision=precision)
        head = fit_presence(tiny_sam, adapter.learned, images, (), split, (), config)
        adapter.learned.presence = head
        clicks = [Prompt.of([(x, y)]) for x in range(5, 90, 8) for y in range(5, 60, 8)]
        judged.append(Predictor(tiny_sam, adapter).presence(images.load(0), clicks))
        adapter.learned.presence = None
    assert np.ptp(judged[0]) > 0.2  # it does tell clicks apart
    np.testing.assert_allclose(judged[1], judged[0], atol=0.1)


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16"])
def test_auto_is_bfloat16_where_the_processor_has_instructions_for_it(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, able: True})
    assert settled("auto", CPU) == "bfloat16"
    assert settled("float32", CPU) == "float32"
    assert settled("auto", torch.device("cuda")) == "float32"


def test_auto_is_float32_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert settled("auto", CPU) == "float32"
    assert settled("bfloat16", CPU) == "bfloat16"
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch
    assert settled("auto", CPU) == "float32"


def test_an_adapter_says_in_what_it_was_trained(toy_folder, tiny_sam, tmp_path):
    config = FitConfig(epochs=1, first_offsets=(1.0,), refiner=False, cells=32)
    train, val = split(load_dataset(toy_folder), 0.5, 0)
    for precision, said in (("bfloat16", {"bfloat16"}), ("auto", {"bfloat16", "float32"})):
        result = fit(
            train,
            val,
            tiny_sam,
            EmbeddingCache(tmp_path),
            replace(config, precision=precision),
            checkpoint_name="tiny",
            state_path=tmp_path / "state",
        )
        result.adapter.save(tmp_path / "one.safetensors")
        assert (
            Adapter.load(tmp_path / "one.safetensors", tiny_sam).info.settings["precision"] in said
        )
