"""How long a fit will take: in proportion to what it has to do."""

import pytest

from samtune.config import FitConfig
from samtune.dataset import load_dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.forecast import forecast
from samtune.training import fit


@pytest.fixture
def halves(toy_folder):
    return split(load_dataset(toy_folder), 0.25, 0)


def test_images_in_the_cache_need_no_encoding_and_no_disk(halves, tiny_sam, tmp_path):
    cache, config = EmbeddingCache(), FitConfig(epochs=1)
    before = forecast(*halves, tiny_sam, cache, config)
    assert before.to_encode == 6  # two of the eight were encoded to time the steps
    assert before.disk_bytes == 6 * 2 * 2**20
    assert before.encode_seconds > 0
    fit(
        *halves,
        tiny_sam,
        cache,
        FitConfig(epochs=1, probe_objects=2),
        checkpoint_name="tiny",
        state_path=tmp_path / "state",
    )
    after = forecast(*halves, tiny_sam, cache, config)
    assert (after.to_encode, after.encode_seconds, after.disk_bytes) == (0, 0, 0)


def test_a_fit_takes_about_as_long_as_was_said(halves, tiny_sam, tmp_path):
    config = FitConfig(epochs=40, first_offsets=(1.0,))
    said = forecast(*halves, tiny_sam, EmbeddingCache(), config)
    result = fit(
        *halves,
        tiny_sam,
        EmbeddingCache(),
        config,
        checkpoint_name="tiny",
        state_path=tmp_path / "state",
    )
    took = result.seconds["total"] - result.seconds["encode"]
    assert took / 4 < said.train_seconds < took * 4  # other work may go on on this machine


def test_twice_the_passes_take_about_twice_as_long(halves, tiny_sam):
    once, ten_times = (
        forecast(*halves, tiny_sam, EmbeddingCache(), FitConfig(epochs=epochs, validations=1))
        for epochs in (100, 1000)
    )
    assert 3 < ten_times.train_seconds / once.train_seconds < 30
