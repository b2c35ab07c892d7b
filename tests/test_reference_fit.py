"""Adapters from references: which images are taken, what is left out, and PerSAM-F's numbers."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from answers import answer
from PIL import Image

from samtune.adapter import Adapter
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.errors import DatasetError
from samtune.finding import find_objects
from samtune.images import read_image
from samtune.metrics import iou
from samtune.predictor import Predictor
from samtune.reference_fit import fit_references
from samtune.targets import Trace


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache", limit_gb=1)


def fitted(folder, sam, cache, method="persam", **options):
    return fit_references(
        load_dataset(Path(folder)), sam, cache, method, checkpoint_name="tiny", **options
    )


def write_pair(folder, name, image, mask):
    for part, pixels in (("images", image), ("masks", mask)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / part / name)


def colour_photo(colour, at=(40, 40), size=(96, 128), seed=0):
    """Grey noise with a square of 48 px, and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, np.uint8)
    cv2.rectangle(mask, at, (at[0] + 47, at[1] + 47), 255, -1)
    image[mask > 0] = colour
    return image, mask


def test_the_target_is_the_mean_over_all_images(toy_folder, tiny_sam, cache):
    whole = fitted(toy_folder, tiny_sam, cache)
    assert sorted(whole.references) == [f"{number}.png" for number in range(8)]
    each = [
        fitted(toy_folder, tiny_sam, cache, reference=str(number)).adapter.learned.target.numpy()
        for number in range(8)
    ]
    found = whole.adapter.learned.target.numpy()
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)


def test_auto_takes_the_image_that_is_most_like_the_others(tmp_path, tiny_sam, cache):
    for number, colour in enumerate([(250, 20, 20), (240, 40, 30), (20, 20, 250)]):
        image, mask = colour_photo(colour, seed=number)
        write_pair(tmp_path, f"{number}.png", image, mask)
    one = fitted(tmp_path, tiny_sam, cache, reference="auto")
    assert one.references in (("0.png",), ("1.png",))  # red, as most are
    dataset = load_dataset(tmp_path)
    vectors = []
    for pair, thing in zip(dataset.pairs, dataset.objects, strict=True):
        _, embedding = cache.encode(read_image(pair.image), tiny_sam)
        vector = Trace.of([thing.mask()], embedding).target(peak=False)
        vectors.append(vector / np.linalg.norm(vector))
    medoid = int((np.array(vectors) @ np.array(vectors).T).sum(axis=1).argmax())
    assert one.references == (f"{medoid}.png",)
    assert one.adapter.info.data["train_images"] == 1


def test_a_reference_that_is_not_there_is_named_with_those_that_are(toy_folder, tiny_sam, cache):
    with pytest.raises(DatasetError, match=r"no images .* called dog.*0\.png"):
        fitted(toy_folder, tiny_sam, cache, reference="dog")


def test_an_object_that_vanishes_in_the_cells_is_left_out_and_alone_an_error(
    tmp_path, tiny_sam, cache
):
    image, mask = colour_photo((250, 20, 20))
    speck = np.zeros_like(mask)
    speck[40:42, 40:42] = 255  # 4 of a cell's 256 px
    write_pair(tmp_path / "both", "a.png", image, mask)
    write_pair(tmp_path / "both", "b.png", image + 1, speck)
    both = fitted(tmp_path / "both", tiny_sam, cache)
    assert (both.references, both.left_out) == (("a.png",), ("b.png",))
    write_pair(tmp_path / "alone", "b.png", image, speck)
    with pytest.raises(DatasetError, match="vanishes"):
        fitted(tmp_path / "alone", tiny_sam, cache)


def test_it_looks_at_what_has_the_references_colour(tmp_path, tiny_sam, cache):
    write_pair(tmp_path, "red.png", *colour_photo((250, 20, 20)))
    made = fitted(tmp_path, tiny_sam, cache)
    image, mask = colour_photo((250, 20, 20), at=(70, 10), seed=1)
    image[60:90, 5:35] = (20, 20, 250)  # something else
    _, embedding = cache.encode(image, tiny_sam)
    predictor = Predictor(tiny_sam, made.adapter)
    x, y = predictor.adapter.learned.search(embedding).propose().points[0].round().astype(int)
    assert mask[y, x]
    blue, _ = colour_photo((20, 20, 250), at=(70, 10), seed=1)
    _, other = cache.encode(blue, tiny_sam)
    search = predictor.adapter.learned.search(other)
    assert (
        search.presence(answer(mask > 0))
        < 0.5
        < predictor.adapter.learned.search(embedding).presence(answer(mask > 0))
    )
    assert not find_objects(predictor, other).objects


def test_persam_f_weighs_up_the_mask_that_is_meant(tmp_path, tiny_sam, cache):
    # The wanted mask is one that SAM gives for the very place where PerSAM-F looks.
    image, mask = colour_photo((250, 20, 20))
    write_pair(tmp_path / "asked", "a.png", image, mask)
    first = fitted(tmp_path / "asked", tiny_sam, cache, "persam-f")
    _, embedding = cache.encode(image, tiny_sam)
    prompt = first.adapter.learned.search(embedding).propose()
    (plain,) = Predictor(tiny_sam).predict(embedding, [prompt], all_masks=True)
    for number, wanted in enumerate(plain.alternatives):
        folder = tmp_path / str(number)
        write_pair(folder, "a.png", image, np.where(wanted, 255, 0).astype(np.uint8))
        made = fitted(folder, tiny_sam, cache, "persam-f")
        again = made.adapter.learned.search(embedding).propose()
        (there,) = Predictor(tiny_sam).predict(embedding, [again], all_masks=True)
        w1, w2 = made.adapter.learned.weights.tolist()
        mixed = np.tensordot([w1, w2, 1 - w1 - w2], there.alternative_logits, 1) > 0
        even = there.alternative_logits.mean(axis=0) > 0
        aim = plain.alternative_logits[number] > 0
        assert iou(mixed, aim) > iou(even, aim)


@pytest.mark.parametrize("method", ["persam", "persam-f"])
@pytest.mark.parametrize(
    "without", [(), ("agreement",), ("guided-attention",), ("agreement", "guided-attention")]
)
def test_a_saved_adapter_leaves_out_what_was_left_out(
    toy_folder, tiny_sam, cache, tmp_path, method, without
):
    made = fitted(toy_folder, tiny_sam, cache, method, without=without).adapter
    made.save(tmp_path / "a.safetensors")
    loaded = Adapter.load(tmp_path / "a.safetensors", tiny_sam).learned
    always = {"negative-point"} if method == "persam-f" else set()
    assert loaded.without == made.learned.without == {*without, *always}


def test_the_same_seed_gives_the_same_adapter(toy_folder, tiny_sam, cache, tmp_path):
    for name in ("a", "b"):
        fitted(toy_folder, tiny_sam, cache, "persam-f", seed=3).adapter.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_adapter_says_what_it_is_made_of(toy_folder, tiny_sam, cache):
    info = fitted(toy_folder, tiny_sam, cache, without=["cascade"]).adapter.info
    assert info.method == "persam"
    assert info.settings == {
        "seed": 0,
        "reference": "all",
        "agreement": True,
        "without": ["cascade"],
    }
    assert info.data["train_images"] == info.data["train_objects"] == 8


def test_no_files_name_is_in_the_adapter(tmp_path, tiny_sam, cache):
    write_pair(tmp_path, "our_secret.png", *colour_photo((250, 20, 20)))
    made = fitted(tmp_path, tiny_sam, cache, reference="our_secret.png").adapter
    made.save(tmp_path / "a.safetensors")
    assert b"secret" not in (tmp_path / "a.safetensors").read_bytes()
