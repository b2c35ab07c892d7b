"""The commands one after another on the real MobileSAM, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samtune
from samtune.prompts import center_point

pytestmark = pytest.mark.slow


def samtune_command(*words, folder, stdin=None):
    """Run `samtune` as a user's shell does."""
    result = subprocess.run(
        [sys.executable, "-m", "samtune", *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(samtune.__file__).parents[1])},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


def test_fit_evaluate_and_segment_on_the_real_weights(mobile_sam_path, toy_dataset, tmp_path):
    image, mask = toy_dataset / "images" / "0.png", toy_dataset / "masks" / "0.png"
    target = np.asarray(Image.open(mask)) > 0
    x, y = center_point(target).points[0]
    click = ["--point", f"{x:g},{y:g}"]

    def iou(path):
        found = np.asarray(Image.open(tmp_path / path)) > 0
        return (found & target).sum() / (found | target).sum()

    # A bright shape on dark noise is something that SAM knows without any training.
    samtune_command("segment", image, *click, "-o", "plain", folder=tmp_path)
    assert iou("plain/0.mask.png") > 0.8

    words = ["fit", toy_dataset, "-o", "toy.safetensors", "--epochs", 4, "--force", "--json"]
    words += ["--val-fraction", 0.25]
    summary = json.loads(samtune_command(*words, folder=tmp_path).stdout)
    assert 0.5 < summary["base_iou"] <= 1
    words = ["evaluate", toy_dataset, "--adapter", "toy.safetensors", "--json"]
    scores = json.loads(samtune_command(*words, folder=tmp_path).stdout)
    assert scores["objects"] == 8

    words = ["sensitivity", image, "--mask", mask, "--clicks", 20, "--fail-under", 0.5, "--json"]
    clicked = json.loads(samtune_command(*words, "-o", "map.png", folder=tmp_path).stdout)
    assert clicked["base"]["mean_iou"] > 0.5
    assert clicked["base"]["ring"]["mean_iou"] < clicked["base"]["mean_iou"]
    assert (tmp_path / "map.png").stat().st_size > 10_000

    asked = json.dumps({"image": str(image), "points": [[float(x), float(y)]]})
    words = ["segment", "--prompts", "-", "--adapter", "toy.safetensors"]
    answer = json.loads(samtune_command(*words, folder=tmp_path, stdin=asked).stdout)
    assert answer["adapter"] == "toy.safetensors"
    assert (np.asarray(Image.open(tmp_path / answer["mask"])) > 0).sum() == answer["area"]


def test_export_writes_files_that_find_the_object_in_onnx_runtime_alone(
    mobile_sam_path, toy_dataset, tmp_path
):
    onnxruntime = pytest.importorskip("onnxruntime")
    words = ["fit", toy_dataset, "-o", "toy.safetensors", "--epochs", 4, "--force", "--no-refiner"]
    words += ["--val-fraction", 0.25]
    samtune_command(*words, folder=tmp_path)
    words = ["export", "toy.safetensors", "-o", "onnx", "--quantize", "--json"]
    told = json.loads(samtune_command(*words, folder=tmp_path).stdout)
    assert told["mask_iou"] >= 0.97

    image = Image.open(toy_dataset / "images" / "0.png")
    target = np.asarray(Image.open(toy_dataset / "masks" / "0.png")) > 0
    scale = 1024 / max(image.size)
    size = [int(side * scale + 0.5) for side in image.size]
    scaled = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32)
    encoder = onnxruntime.InferenceSession(tmp_path / "onnx" / "encoder.onnx")
    decoder = onnxruntime.InferenceSession(tmp_path / "onnx" / "decoder.onnx")
    x, y = center_point(target).points[0]
    masks, _, _ = decoder.run(
        None,
        {
            "image_embeddings": encoder.run(None, {"input_image": scaled})[0],
            "point_coords": np.array([[[x * scale, y * scale], [0, 0]]], np.float32),
            "point_labels": np.array([[1, -1]], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(target.shape, np.float32),
        },
    )
    found = masks[0, 0] > 0
    assert (found & target).sum() / (found | target).sum() > 0.8


@pytest.mark.parametrize("method", ["persam", "persam-f"])
def test_one_reference_finds_such_a_thing_elsewhere_and_nothing_where_there_is_none(
    mobile_sam_path, toy_dataset, tmp_path, method
):
    for number in range(1, 8):  # one pair is left
        for part in ("images", "masks"):
            (toy_dataset / part / f"{number}.png").rename(tmp_path / f"{part}{number}.png")
    words = ["fit", toy_dataset, "--method", method, "-o", "a.safetensors"]
    samtune_command(*words, folder=tmp_path)
    noise = np.random.default_rng(0).integers(10, 70, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    words = ["segment", *(f"images{number}.png" for number in range(1, 8)), "noise.png"]
    result = samtune_command(*words, "--adapter", "a.safetensors", "--json", folder=tmp_path)
    *found, nothing = map(json.loads, result.stdout.splitlines())
    scores = []
    for number, answer in enumerate(found, start=1):
        target = np.asarray(Image.open(tmp_path / f"masks{number}.png")) > 0
        mask = np.zeros_like(target)
        if answer["mask"]:
            mask = np.asarray(Image.open(tmp_path / answer["mask"])) > 0
        scores.append((mask & target).sum() / (mask | target).sum())
    assert np.mean(scores) > 0.8
    assert nothing["mask"] is None
    assert "nothing is like the object" in nothing["reason"]


def test_a_reference_instead_of_a_click_on_the_real_weights(mobile_sam_path, toy_dataset, tmp_path):
    words = ["fit", toy_dataset, "--method", "vrp", "--epochs", 1, "-o", "toy.safetensors"]
    summary = json.loads(samtune_command(*words, "--json", folder=tmp_path).stdout)
    assert summary["found_iou"] > 0.6

    image, mask = toy_dataset / "images" / "7.png", toy_dataset / "masks" / "7.png"
    target = np.asarray(Image.open(mask)) > 0
    other = np.asarray(Image.open(toy_dataset / "masks" / "1.png")) > 0
    x, y = center_point(other).points[0]
    words = ["segment", image, "--adapter", "toy.safetensors", "--json", "-o", "shown"]
    words += ["--reference", toy_dataset / "images" / "1.png", "--reference-point", f"{x:g},{y:g}"]
    answer = json.loads(samtune_command(*words, folder=tmp_path).stdout)
    found = np.asarray(Image.open(tmp_path / answer["mask"])) > 0
    assert (found & target).sum() / (found | target).sum() > 0.5
