"""The embedding cache: never a wrong hit, the same result cold and warm, a size that is kept."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from broken_data import photo, without_permission
from tiny_models import build_tiny_sam

from samtune import embeddings
from samtune.embeddings import EmbeddingCache
from samtune.errors import OutputError
from samtune.input_frame import Embedding
from samtune.sam import Sam, build_decoder


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "embeddings")


@pytest.fixture
def encoder_runs(tiny_sam):
    """A list that grows with each run of tiny_sam's image encoder."""
    runs = []
    handle = tiny_sam.image_encoder.register_forward_hook(lambda *_: runs.append(None))
    yield runs
    handle.remove()


def files(cache):
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def test_an_image_is_encoded_once_whatever_its_file_is_called(cache, tiny_sam, encoder_runs):
    first_key, _ = cache.encode(photo(1), tiny_sam)
    key, _ = EmbeddingCache(cache.folder).encode(photo(1), tiny_sam)  # as in the next command
    assert key == first_key
    assert len(encoder_runs) == 1


def test_with_the_mirror_image_where_it_is_asked_for(cache, tiny_sam, encoder_runs):
    key, plain = cache.encode(photo(1), tiny_sam)
    assert plain.mirror is None
    both = EmbeddingCache(cache.folder, mirror=True)
    assert both.encode(photo(1), tiny_sam)[0] == key
    _, embedding = both.encode(photo(1), tiny_sam)
    assert len(encoder_runs) == 2  # each side once, in whichever cache
    turned = cache.encode(photo(1)[:, ::-1], tiny_sam)[1]
    assert torch.equal(embedding.features, plain.features)
    assert torch.equal(embedding.mirror.features, turned.features)


def test_memory_layout_is_not_content(cache, tiny_sam):
    mirrored = photo(1)[:, ::-1]
    assert cache.key(mirrored, tiny_sam) == cache.key(np.ascontiguousarray(mirrored), tiny_sam)


def test_result_is_the_same_from_a_cold_and_from_a_warm_cache(cache, tiny_sam):
    image = photo(1, size=(50, 77))
    _, cold = cache.encode(image, tiny_sam)
    _, warm = cache.encode(image, tiny_sam)
    assert cold.features.dtype == warm.features.dtype == torch.float16
    assert torch.equal(cold.features, warm.features)
    assert (warm.original_size, warm.input_size) == ((50, 77), (83, 128))
    assert (cold.original_size, cold.input_size) == ((50, 77), (83, 128))
    exact = tiny_sam.encode_image(image).features
    torch.testing.assert_close(warm.features.float(), exact, rtol=2**-11, atol=1e-6)


# --------------------------------------------------------------------- never a wrong hit


def one_grey_level_more(image):
    changed = image.copy()
    changed[-1, -1, -1] ^= 1
    return changed


@pytest.mark.parametrize(
    "change",
    [
        one_grey_level_more,
        lambda image: image[..., ::-1],  # BGR
        lambda image: image.reshape(image.shape[1], image.shape[0], 3),  # the same bytes
    ],
    ids=["one grey level", "channel order", "other shape of the same bytes"],
)
def test_other_pixels_miss(cache, tiny_sam, change):
    cache.encode(photo(1), tiny_sam)
    assert cache.load(cache.key(change(photo(1)), tiny_sam), tiny_sam) is None


def test_other_encoder_weights_miss(cache, tiny_sam):
    cache.encode(photo(1), tiny_sam)
    other = build_tiny_sam()
    other.image_encoder.patches.weight.data[0, 0] += 1e-6  # the smallest of changes
    assert cache.load(cache.key(photo(1), other), other) is None


def test_other_input_size_misses(cache, tiny_sam):
    cache.encode(photo(1), tiny_sam)
    larger = Sam("mobile_sam", tiny_sam.image_encoder, *build_decoder(256), image_size=256)
    assert cache.load(cache.key(photo(1), larger), larger) is None


def test_other_preprocessing_misses(cache, tiny_sam, monkeypatch):
    cache.encode(photo(1), tiny_sam)
    monkeypatch.setattr(embeddings, "PREPROCESSING", "another")
    assert cache.load(cache.key(photo(1), tiny_sam), tiny_sam) is None


def test_checkpoints_that_differ_in_the_decoder_alone_share_embeddings(cache, tiny_sam):
    cache.encode(photo(1), tiny_sam)
    other = build_tiny_sam()
    other.decoder.layers.iou_token.weight.data += 1
    assert cache.load(cache.key(photo(1), other), other) is not None


def truncated(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lambda content: b"",
        lambda content: b"not an embedding",
        lambda content: safetensors.torch.save({"cells": torch.zeros(8, 8, 256)}),
        lambda content: safetensors.torch.save(
            {"other": torch.zeros(256, 8, 8)}, {"original_size": "24,32"}
        ),
        lambda content: safetensors.torch.save(
            {"cells": torch.zeros(8, 8, 256)}, {"original_size": "24"}
        ),
    ],
    ids=["truncated", "empty", "text", "without a size", "another tensor", "half a size"],
)
def test_damaged_file_is_a_miss_and_mended(cache, tiny_sam, encoder_runs, damage):
    _, embedding = cache.encode(photo(1), tiny_sam)
    (path,) = files(cache)
    path.write_bytes(damage(path.read_bytes()))
    key, again = cache.encode(photo(1), tiny_sam)
    assert len(encoder_runs) == 2
    assert torch.equal(again.features, embedding.features)
    assert cache.load(key, tiny_sam) is not None


# --------------------------------------------------------------------- size


def fill(cache, names):
    """Save small embeddings one by one, used at the seconds 0, 1, 2, ... of 1970."""
    for second, name in enumerate(names):
        cache.save(name, Embedding(torch.zeros(256, 8, 8), (24, 32), (96, 128)))
        path = next(path for path in files(cache) if path.stem == name)
        os.utime(path, (second, second))


def test_size_limit_removes_the_least_recently_used(tmp_path, tiny_sam):
    cache = EmbeddingCache(tmp_path, limit_gb=1)
    fill(cache, ["aa", "bb", "cc", "dd"])
    assert cache.load("aa", tiny_sam) is not None  # now the oldest is the most recently used
    each = cache.info().bytes // 4
    limited = EmbeddingCache(tmp_path, limit_gb=4.5 * each / 1e9)
    limited.save("ee", Embedding(torch.zeros(256, 8, 8), (24, 32), (96, 128)))
    assert [path.stem for path in files(limited)] == ["aa", "cc", "dd", "ee"]


def test_size_stays_within_the_limit_over_many_saves(tmp_path):
    unlimited = EmbeddingCache(tmp_path / "one")
    fill(unlimited, ["aa"])
    each = unlimited.info().bytes
    cache = EmbeddingCache(tmp_path / "many", limit_gb=3.5 * each / 1e9)
    for number in range(12):
        fill(cache, [f"{number:02}"])
        assert cache.info().bytes <= 3.5 * each
    assert cache.info().count >= 3


def test_shortage_begins_with_the_image_that_does_not_fit(tmp_path):
    one = Embedding(torch.zeros(256, 64, 64), (768, 1024), (768, 1024))
    cache = EmbeddingCache(tmp_path)
    cache.save("aa", one)
    cache.limit_bytes = 3 * cache.info().bytes
    assert cache.shortage(3) is None
    assert "4 images take 0.0084 GB" in cache.shortage(4)


def test_size_stays_near_the_limit_when_several_processes_save_at_once(tmp_path, monkeypatch):
    # Each knows of its own files alone until it counts again.
    monkeypatch.setattr("samtune.embeddings._COUNT_AFTER", 0.1)
    caches = [EmbeddingCache(tmp_path, limit_gb=1) for _ in range(4)]
    fill(caches[0], ["aa"])
    each = caches[0].info().bytes
    for cache in caches:
        cache.limit_bytes = 20 * each
    for number in range(16):
        for which, cache in enumerate(caches):
            fill(cache, [f"{which}{number:02}"])
    assert caches[0].info().bytes <= (20 + 2 * 4) * each


def test_what_was_just_saved_stays_even_if_it_alone_is_too_large(tmp_path, tiny_sam):
    cache = EmbeddingCache(tmp_path, limit_gb=0)
    key, _ = cache.encode(photo(1), tiny_sam)
    assert cache.load(key, tiny_sam) is not None


def test_info_counts_embeddings_and_their_bytes(cache):
    assert (cache.info().count, cache.info().bytes) == (0, 0)  # the folder is not even there
    fill(cache, ["aa", "bb"])
    info = cache.info()
    assert info.folder == cache.folder
    assert info.count == 2
    assert info.bytes == sum(path.stat().st_size for path in files(cache))
    assert info.limit_bytes == 20_000_000_000


def test_clear_removes_all_embeddings_and_nothing_else(cache):
    fill(cache, ["aa", "bb"])
    (cache.folder / "note.txt").write_text("mine")
    assert cache.clear() == 2
    assert [path.name for path in files(cache)] == ["note.txt"]
    assert cache.clear() == 0


def test_default_folder_is_in_samtunes_own(samtune_home):
    assert EmbeddingCache().folder == samtune_home / "embeddings"


def test_limit_can_be_set_in_the_environment(monkeypatch):
    monkeypatch.setenv("SAMTUNE_CACHE_GB", "0.5")
    assert EmbeddingCache().limit_bytes == 500_000_000


@pytest.mark.parametrize("text", ["5GB", "-1", "nan", "inf"])
def test_limit_that_is_no_size_is_refused_with_an_example(monkeypatch, text):
    monkeypatch.setenv("SAMTUNE_CACHE_GB", text)
    with pytest.raises(OutputError, match=rf"SAMTUNE_CACHE_GB is '{text}': .* for example 20"):
        EmbeddingCache()


# --------------------------------------------------------------------- a disk that refuses


def test_full_disk_is_told_and_leaves_nothing_half_written(cache, tiny_sam):
    resource = pytest.importorskip("resource", reason="no such limits on this system")
    # A limit on file sizes stands in for a full disk: the write itself fails, half done.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            cache.encode(photo(1), tiny_sam)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(cache.folder) in str(caught.value)
    assert files(cache) == []


def test_folder_that_may_not_be_written_to_is_named(tmp_path, tiny_sam):
    folder = tmp_path / "locked"
    folder.mkdir()
    with without_permission(folder), pytest.raises(OutputError, match="may not be written to"):
        EmbeddingCache(folder).encode(photo(1), tiny_sam)


def test_cache_that_may_only_be_read_still_gives_its_embeddings(cache, tiny_sam, monkeypatch):
    # A folder shared by a group, or on a read-only disk: the time of last use cannot be noted.
    key, _ = cache.encode(photo(1), tiny_sam)

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.load(key, tiny_sam) is not None
