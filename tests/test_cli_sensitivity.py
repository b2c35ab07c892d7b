"""`samtune sensitivity`: a picture, a table or JSON, and a limit to hold."""

import json

import numpy as np
import pytest
from command import files_in, one_error, run, use_instead_of_weights, write_adapter
from PIL import Image

from samtune.adapter import Adapter
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image, read_labels
from samtune.predictor import Predictor
from samtune.sensitivity import grid_of_clicks, in_object_and_ring, score_clicks


@pytest.fixture(autouse=True)
def small_model(tiny_sam, tmp_path_factory, monkeypatch, tmp_path):
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path_factory.mktemp("weights"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image(toy_folder):
    return toy_folder / "images" / "1.png"


@pytest.fixture
def mask(toy_folder):
    return toy_folder / "masks" / "1.png"


def expected(sam, image, mask, adapter=None, count=20):
    targets = [read_labels(mask) > 0]
    clicks = grid_of_clicks(targets, count)
    _, embedding = EmbeddingCache().encode(read_image(image), sam)
    return in_object_and_ring(
        score_clicks(Predictor(sam, adapter), embedding, targets, clicks), clicks
    )


def test_numbers_are_classes_or_instances_and_not_both(image, mask):
    words = ["--mask", mask, "--class", 1, "--objects", "instances", "-o", "map.png"]
    message = one_error(run("sensitivity", image, *words))
    assert "either class ids or instance labels" in message


def test_json_holds_the_library_s_numbers_for_plain_sam_and_each_adapter(
    tiny_sam, image, mask, tmp_path
):
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    words = ["--adapter", file, "--clicks", 20, "-o", "map.png", "--json"]
    told = json.loads(run("sensitivity", image, "--mask", mask, *words).stdout)
    assert (told["image"], told["mask"], told["map"]) == (str(image), str(mask), "map.png")
    assert told["objects"] == 1
    (adapted,) = told["adapters"]
    assert adapted.pop("adapter") == str(file)
    for found, adapter in ((told["base"], None), (adapted, Adapter.load(file, tiny_sam))):
        inside, ring = expected(tiny_sam, image, mask, adapter)
        assert found["clicks"] == inside.clicks
        assert found["mean_iou"] == pytest.approx(inside.mean_iou)
        assert found["p10_iou"] == pytest.approx(inside.p10_iou)
        assert found["good_share"] == pytest.approx(inside.good_share)
        assert found["ring"]["mean_iou"] == pytest.approx(ring.mean_iou)
    assert told["base"]["mean_iou"] != adapted["mean_iou"]


def test_the_picture_goes_where_it_is_wanted_or_beside_nothing_else(image, mask, tmp_path):
    result = run("sensitivity", image, "--mask", mask, "--clicks", 5)
    assert result.exit_code == 0
    assert "wrote 1.sensitivity.png" in result.stdout
    run("sensitivity", image, "--mask", mask, "--clicks", 5, "-o", "sub/map.jpg")
    assert files_in(tmp_path) == {"1.sensitivity.png", "sub/map.jpg"}
    with Image.open(tmp_path / "1.sensitivity.png") as picture:
        assert picture.width > 800  # the image and plain SAM side by side


def test_the_table_has_a_row_for_plain_sam_and_each_adapter(tiny_sam, image, mask, tmp_path):
    files = [write_adapter(tmp_path / f"{n}.safetensors", tiny_sam, seed=n) for n in (1, 2)]
    words = ["--mask", mask, "--clicks", 10, "-a", files[0], "-a", files[1]]
    header, *rows = run("sensitivity", image, *words).stdout.splitlines()[:4]
    assert header.split()[1] == "clicks"
    told = json.loads(run("sensitivity", image, *words, "--json").stdout)
    means = [one["mean_iou"] for one in (told["base"], *told["adapters"])]
    assert [row.split()[-4] for row in rows] == [f"{100 * mean:.1f}" for mean in means]
    assert len(set(means)) == 3


def test_fail_under_fails_after_the_picture_was_written(tiny_sam, image, mask, tmp_path):
    words = ["sensitivity", image, "--mask", mask, "--clicks", 5, "-o", "map.png"]
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    message = one_error(run(*words, "--adapter", file, "--fail-under", 1))
    assert "below 1" in message
    assert "a.safetensors" in message
    assert "plain SAM" not in message  # it is the adapter that is judged
    assert (tmp_path / "map.png").is_file()
    assert "plain SAM" in one_error(run(*words, "--fail-under", 1))
    assert run(*words, "--adapter", file, "--fail-under", 0).exit_code == 0


def test_fail_under_judges_the_adapter_and_not_plain_sam(tiny_sam, image, mask, tmp_path):
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    words = ["sensitivity", image, "--mask", mask, "--clicks", 20, "--json", "-a", file]
    told = json.loads(run(*words).stdout)
    base, adapted = told["base"]["mean_iou"], told["adapters"][0]["mean_iou"]
    middle = (base + adapted) / 2
    assert run(*words, "--fail-under", middle).exit_code == (1 if adapted < base else 0)
    assert run(*words[:-2], "--fail-under", middle).exit_code == (1 if base < adapted else 0)


def test_a_limit_in_percent_is_wrong_usage(image, mask):
    assert run("sensitivity", image, "--mask", mask, "--fail-under", 80).exit_code == 2


def test_labels_in_a_mask_are_objects_and_a_class_is_one_target(image, mask, tmp_path):
    labels = np.zeros(read_labels(mask).shape, np.uint8)
    labels[10:30, 10:30], labels[50:80, 60:100] = 3, 7
    Image.fromarray(labels).save(tmp_path / "labels.png")
    words = ["sensitivity", image, "--mask", "labels.png", "--clicks", 9, "--json"]
    assert json.loads(run(*words).stdout)["objects"] == 2
    assert json.loads(run(*words, "--class", 7).stdout)["objects"] == 1
    assert "class 5 does not occur in labels.png; these do: 3, 7." in one_error(
        run(*words, "--class", 5)
    )


@pytest.mark.parametrize("shape", [(10, 10), (128, 96)], ids=["other", "turned"])
def test_a_mask_of_another_size_is_one_line(image, tmp_path, shape):
    Image.fromarray(np.full(shape, 255, np.uint8)).save(tmp_path / "other.png")
    message = one_error(run("sensitivity", image, "--mask", "other.png"))
    assert f"other.png is {shape[1]}×{shape[0]} px" in message
    assert files_in(tmp_path) == {"other.png"}


def test_an_empty_mask_is_one_line(image, mask, tmp_path):
    Image.fromarray(np.zeros(read_labels(mask).shape, np.uint8)).save(tmp_path / "empty.png")
    assert "empty.png holds no object" in one_error(run("sensitivity", image, "-m", "empty.png"))


def test_what_is_read_is_never_overwritten(toy_dataset):
    image, mask = toy_dataset / "images" / "1.png", toy_dataset / "masks" / "1.png"
    for path in (image, mask):
        before = path.read_bytes()
        assert str(path) in one_error(run("sensitivity", image, "--mask", mask, "-o", path))
        assert path.read_bytes() == before


def test_a_name_of_no_image_format_is_found_before_any_work(image, mask, monkeypatch):
    monkeypatch.setattr("samtune.sam.load_sam", lambda *a: pytest.fail("loaded"))
    words = ["sensitivity", image, "--mask", mask, "-o", "map.pdf"]
    assert "map.pdf names no image format" in one_error(run(*words))
