"""`samtune cache fill`: images encoded beforehand."""

import sys
from pathlib import Path

import pytest
from command import one_error, photo, run, use_instead_of_weights
from PIL import Image

from samtune.embeddings import EmbeddingCache
from samtune.images import read_image

IMAGES = ["photos/b.png", "photos/deep/a.JPG", "photos/c.png", "other.png"]


@pytest.fixture(autouse=True)
def encoded(tiny_sam, tmp_path, monkeypatch):
    """Images to encode, and how many were."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path / "home")
    for seed, name in enumerate([*IMAGES, "photos/.trash/d.png"]):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo((48, 64), seed)).save(name)
    Path("photos/notes.txt").write_text("no image")
    seen = []
    encode = type(tiny_sam).encode_image
    monkeypatch.setattr(
        type(tiny_sam), "encode_image", lambda sam, image: seen.append(1) or encode(sam, image)
    )
    return seen


def is_cached(name, sam):
    cache = EmbeddingCache()
    return cache.load(cache.key(read_image(Path(name)), sam), sam) is not None


def test_images_and_those_of_folders_are_encoded_once(tiny_sam, encoded):
    result = run("cache", "fill", "photos", "other.png")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "4 images in the cache" in result.stderr
    assert all(is_cached(name, tiny_sam) for name in IMAGES)
    assert not is_cached("photos/.trash/d.png", tiny_sam)
    assert run("cache", "fill", *IMAGES).exit_code == 0
    assert run("segment", "photos", "-p", "20,20").exit_code == 0
    assert len(encoded) == 4


def test_shards_fill_together_what_one_run_would(tiny_sam, encoded):
    assert run("cache", "fill", "photos", "other.png", "--shard", "2/3").exit_code == 0
    assert len(encoded) == 1
    for shard in ("1/3", "3/3"):
        assert run("cache", "fill", "photos", "other.png", "--shard", shard).exit_code == 0
    assert len(encoded) == 4
    assert all(is_cached(name, tiny_sam) for name in IMAGES)


def test_an_image_that_cannot_be_read_keeps_no_other_from_being_encoded(tiny_sam, encoded):
    Path("photos/c.png").write_bytes(b"no image")
    result = run("cache", "fill", "photos", "gone.png")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert ["c.png" in errors[0], "gone.png" in errors[1], len(errors)] == [True, True, 2]
    assert "2 images in the cache" in result.stderr
    assert is_cached("photos/deep/a.JPG", tiny_sam)


def test_more_images_than_the_cache_keeps_are_refused_before_any_work(encoded, monkeypatch):
    monkeypatch.setenv("SAMTUNE_CACHE_GB", "0.005")
    for shard in ("1/1", "2/4"):  # shards fill one cache
        assert "SAMTUNE_CACHE_GB" in one_error(run("cache", "fill", "photos", "--shard", shard))
    assert encoded == []


def test_a_folder_without_images_is_an_error(encoded):
    Path("empty").mkdir()
    assert "empty has no images" in one_error(run("cache", "fill", "empty"))
    assert "empty has no images" in one_error(run("segment", "empty", "-p", "2,2"))


def test_without_ray_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = one_error(run("cache", "fill", "photos", "--ray", "local"))
    assert "pip install 'samtune[ray]'" in message
    message = one_error(run("segment", "photos", "-p", "2,2", "--ray", "local"))
    assert "pip install 'samtune[ray]'" in message


def test_ray_and_shards_exclude_each_other(monkeypatch):
    result = run("segment", "photos", "-p", "2,2", "--ray", "local", "--shard", "1/2")
    assert result.exit_code == 2
    assert "no --shard" in result.stderr
