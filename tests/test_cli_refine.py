"""`samtune refine`: any tool's mask, with the same numbers, refined."""

import json

import cv2
import numpy as np
import pytest
from command import files_in, one_error, photo, run, use_instead_of_weights, write_adapter
from PIL import Image

from samtune.polygons import mask_to_polygons
from samtune.predictor import Predictor

SIZE = (48, 64)


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, tmp_path_factory, monkeypatch):
    """A folder to work in: an image, an adapter that refines; refining moves objects down by 5."""
    monkeypatch.chdir(tmp_path)
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path_factory.mktemp("weights"))
    write_adapter(tmp_path / "a.safetensors", tiny_sam, refine_helps=True)
    Image.fromarray(photo(SIZE)).save(tmp_path / "a.png")

    def refine_mask(self, embedding, mask):
        assert embedding.original_size == mask.shape
        return mask_to_polygons(np.roll(mask, 5, axis=0))

    monkeypatch.setattr(Predictor, "refine_mask", refine_mask)
    return tmp_path


def save(labels, name="m.png"):
    Image.fromarray(labels).save(name)


def read(name):
    return np.asarray(Image.open(name))


def rectangles(**values):
    labels = np.zeros(SIZE, values.pop("dtype", np.uint8))
    for name, value in values.items():
        x = {"left": 5, "right": 30, "below": 5}[name]
        y = 23 if name == "below" else 5
        labels[y : y + 18, x : x + 20] = value
    return labels


WORDS = ["refine", "m.png", "--image", "a.png", "-a", "a.safetensors"]


@pytest.mark.parametrize("value", [1, 255, 7])
def test_a_mask_of_one_number_is_refined_and_keeps_that_number(workplace, value):
    mask = rectangles(left=value)
    save(mask)
    result = run(*WORDS)
    assert result.exit_code == 0, result.output
    assert np.array_equal(read("m.refined.png"), np.roll(mask, 5, axis=0))
    assert result.stdout == "m.refined.png  1 object, 200 px changed\n"
    assert np.array_equal(read("m.png"), mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_instances_are_refined_one_by_one_and_keep_their_labels(dtype):
    high = 40_000 if dtype == np.uint16 else 3
    labels = rectangles(left=2, right=high, dtype=dtype)
    save(labels)
    (told,) = map(json.loads, run(*WORDS, "-o", "out/r.png", "--json").stdout.splitlines())
    assert np.array_equal(read("out/r.png"), np.roll(labels, 5, axis=0))
    assert read("out/r.png").dtype == dtype
    assert told["objects"] == 2
    assert told["changed"] == 400
    assert told["area"] == 2 * 18 * 20
    assert told["refined"] is True


def test_no_object_takes_pixels_that_another_one_keeps(monkeypatch):
    def grow(self, embedding, mask):
        return mask_to_polygons(cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0)

    monkeypatch.setattr(Predictor, "refine_mask", grow)
    labels = rectangles(left=2, below=3)  # one above the other, without a gap
    save(labels)
    run(*WORDS)
    refined = read("m.refined.png")
    assert np.array_equal(refined[labels > 0], labels[labels > 0])
    assert (refined[2:5, 5:25] == 2).all()
    assert (refined[41:44, 5:25] == 3).all()


def test_void_pixels_stay_void():
    labels = rectangles(left=1, right=2)
    labels[:, 60:] = 255
    save(labels)
    run(*WORDS)
    assert (read("m.refined.png")[:, 60:] == 255).all()


def test_smeared_edges_are_read_as_fit_reads_them():
    mask = rectangles(left=255)
    mask[4, 5:25] = range(100, 120)
    mask[23, 5:25] = range(130, 150)
    save(mask)
    run(*WORDS)
    assert np.array_equal(read("m.refined.png"), np.roll((mask >= 128) * np.uint8(255), 5, axis=0))


def test_an_adapter_that_refining_did_not_help_leaves_the_mask_alone(tiny_sam, workplace):
    write_adapter(workplace / "b.safetensors", tiny_sam, refine_helps=False)
    mask = rectangles(left=255)
    save(mask)
    words = [*WORDS[:-1], "b.safetensors"]
    result = run(*words, "--json")
    assert "refining did not help" in result.stderr
    assert np.array_equal(read("m.refined.png"), mask)
    told = json.loads(result.stdout)
    assert told["refined"] is False
    assert told["changed"] == 0
    result = run(*words, "--always", "--json")
    assert "all the same" in result.stderr
    assert np.array_equal(read("m.refined.png"), np.roll(mask, 5, axis=0))
    assert json.loads(result.stdout)["refined"] is True


def test_an_adapter_without_a_module_to_refine_with_is_refused(tiny_sam, workplace):
    write_adapter(workplace / "b.safetensors", tiny_sam, pmm=False)
    save(rectangles(left=255))
    assert "--no-pmm" in one_error(run(*WORDS[:-1], "b.safetensors", "--always"))
    assert "m.refined.png" not in files_in(workplace)


@pytest.mark.parametrize(
    ("labels", "words", "named"),
    [
        (np.zeros(SIZE, np.uint8), [], "m.png is an empty mask"),
        (np.ones((48, 63), np.uint8), [], "63 px wide"),
        (np.ones(SIZE, np.uint8), ["-o", "m.png"], "overwrite"),
        (np.ones(SIZE, np.uint8), ["-o", "a.png"], "overwrite"),
        (np.ones(SIZE, np.uint8), ["-o", "out.jpg"], ".png"),
        (np.full(SIZE, 70_000, np.int32), [], "m.png"),
    ],
)
def test_bad_input_gets_one_line_and_nothing_is_written(workplace, labels, words, named):
    Image.fromarray(labels).save("m.png", format="TIFF" if labels.dtype == np.int32 else "PNG")
    before = {name: (workplace / name).read_bytes() for name in files_in(workplace)}
    assert named in one_error(run(*WORDS, *words))
    assert {name: (workplace / name).read_bytes() for name in files_in(workplace)} == before
