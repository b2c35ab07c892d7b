"""fit(): learns, repeats itself, goes on where it was interrupted, and leaves SAM alone."""

import weakref
from dataclasses import replace

import pytest
import torch
from tiny_models import build_tiny_sam

from samtune.adapter import Adapter
from samtune.config import FitConfig
from samtune.dataset import load_dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.errors import SamtuneError
from samtune.evaluation import evaluate
from samtune.predictor import Predictor
from samtune.training import fit

QUICK = FitConfig(  # 12 steps, a look at the held-out objects after every third
    objects=24,
    batch_size=2,
    validations=4,
    cells=64,  # all of tiny_sam's
    warmup_objects=4,
    learning_rate=1e-3,
    first_offsets=(1.0,),  # one alone is not probed
    probe_objects=4,
)


@pytest.fixture
def data(toy_dataset):
    """Six images to learn from and two held out."""
    return split(load_dataset(toy_dataset), 0.25, seed=0)


@pytest.fixture
def run(data, tiny_sam, tmp_path):
    """Call fit() with little to say."""

    def run_fit(config=QUICK, *, train=data[0], val=data[1], sam=tiny_sam, cache=None, **options):
        return fit(
            train,
            val,
            sam,
            EmbeddingCache() if cache is None else cache,
            config,
            checkpoint_name="tiny.safetensors",
            state_path=options.pop("state_path", tmp_path / "state.resume"),
            **options,
        )

    return run_fit


def tensors(result):
    modules = result.adapter.plm, result.adapter.selector, result.adapter.pmm
    return [
        tensor
        for module in modules
        if module is not None
        for tensor in module.state_dict().values()
    ]


def same(one, other):
    """Whether two fits ended with the same adapter, bit for bit."""
    assert len(tensors(one)) == len(tensors(other))
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


# --------------------------------------------------------------------------- learning


def test_an_adapter_learns_a_task_that_plain_sam_cannot_do(run):
    result = run(replace(QUICK, objects=400))
    print(result)


def test_time(run):
    run()
