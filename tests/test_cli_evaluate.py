"""`samtune evaluate`: a table of scores, or one JSON object."""

import json
import os
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from broken_data import NAMED_BY_FAULT
from command import files_in, one_error, run, use_instead_of_weights, write_adapter
from PIL import Image
from test_formats import writing
from tiny_models import build_tiny_sam

from samtune.adapter import Adapter
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import evaluate
from samtune.images import image_size
from samtune.obedience import measure_obedience
from samtune.predictor import Predictor


@pytest.fixture(autouse=True)
def small_model(tiny_sam, tmp_path_factory, monkeypatch):
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("words", [[], ["--mirror"]])
def test_json_is_one_object_with_the_library_s_scores(words, tiny_sam, toy_dataset, tmp_path):
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    result = run("evaluate", toy_dataset, "--adapter", file, "--json", *words)
    told = json.loads(result.stdout)
    predictors = [Predictor(tiny_sam), Predictor(tiny_sam, Adapter.load(file, tiny_sam))]
    data, cache = load_dataset(toy_dataset), EmbeddingCache(mirror=bool(words))
    base, adapted = evaluate(data, tiny_sam, predictors, cache)
    _, beside = measure_obedience(data, tiny_sam, predictors, cache)
    assert told["data"] == str(toy_dataset)
    assert told["objects"] == 8
    assert told["base_iou"] == base.iou
    assert told["base_oracle_iou"] == base.oracle_iou
    (one,) = told["adapters"]
    assert one == {
        "adapter": str(file),
        "iou": adapted.iou,
        "oracle_iou": adapted.oracle_iou,
        "random_iou": adapted.random_iou,
        "refined_iou": adapted.refined_iou,
        "boundary_iou": adapted.boundary_iou,
        "refined_boundary_iou": adapted.refined_boundary_iou,
        "beside": asdict(beside),
    }
    assert one["iou"] != told["base_iou"]  # or one column could be the other


def test_images_without_an_object_are_clicked_on_too(tiny_sam, toy_dataset, tmp_path):
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    words = ["evaluate", toy_dataset, "--adapter", file]
    assert "empty" not in run(*words).stdout
    Image.fromarray(np.zeros((96, 128), np.uint8)).save(toy_dataset / "masks" / "3.png")
    assert "empty: % of 1 image without an object" in run(*words).stdout
    (one,) = json.loads(run(*words, "--json").stdout)["adapters"]
    assert one["beside"]["empty_images"] == 1


def test_the_table_has_a_row_for_plain_sam_and_each_adapter(tiny_sam, toy_dataset, tmp_path):
    files = [
        write_adapter(tmp_path / "one.safetensors", tiny_sam, seed=1),
        write_adapter(tmp_path / "two.safetensors", tiny_sam, seed=2, refines=False),
    ]
    words = [word for file in files for word in ("--adapter", file)]
    told = json.loads(run("evaluate", toy_dataset, *words, "--json").stdout)
    header, *rows = run("evaluate", toy_dataset, *words).stdout.splitlines()[:4]
    assert header.split() == ["8", "objects", "IoU", "oracle", "random", "refined", "boundary"]
    assert rows[0].split()[:3] == ["plain", "SAM", f"{100 * told['base_iou']:.1f}"]
    assert rows[1].split()[:2] == [str(files[0]), f"{100 * told['adapters'][0]['iou']:.1f}"]
    assert rows[2].split()[4] == "–"  # the second one cannot refine
    assert told["adapters"][1]["refined_iou"] is None


def test_the_class_is_the_target(toy_dataset):
    told = json.loads(run("evaluate", toy_dataset, "--class", "255", "--json").stdout)
    assert told["objects"] == 8
    assert "255 (8 images)" in one_error(run("evaluate", toy_dataset, "--class", "3"))


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme"])
def test_annotations_score_as_the_masks_they_were_made_of(form, toy_dataset):
    of_masks = json.loads(run("evaluate", toy_dataset, "--json").stdout)
    folder = {"coco": toy_dataset, "yolo": toy_dataset / "labels", "labelme": toy_dataset}[form]
    with writing(form, folder) as write:
        for path in sorted((toy_dataset / "masks").iterdir()):
            write(toy_dataset / "images" / path.name, [np.asarray(Image.open(path)) > 0])
    shutil.rmtree(toy_dataset / "masks")
    words = ["evaluate", toy_dataset, "--class", "plate", "--json"]
    assert json.loads(run(*words).stdout) == of_masks


@pytest.mark.parametrize("fault", NAMED_BY_FAULT, ids=lambda fault: fault.__name__)
def test_a_faulty_folder_is_one_line(fault, tmp_path):
    folder = fault(tmp_path)
    assert NAMED_BY_FAULT[fault] in one_error(run("evaluate", folder))


def test_an_adapter_of_another_base_is_refused_with_nothing_written(toy_dataset, tmp_path):
    file = write_adapter(tmp_path / "other.safetensors", build_tiny_sam(seed=1))
    before = files_in(tmp_path)
    assert "other.safetensors" in one_error(run("evaluate", toy_dataset, "--adapter", file))
    assert files_in(tmp_path) == before


# --------------------------------------------------------------------------- --report


@pytest.fixture
def three_images(toy_dataset):
    """The toy data set cut short: a report takes its time."""
    for number in range(3, 8):
        for part in ("images", "masks"):
            (toy_dataset / part / f"{number}.png").unlink()
    return toy_dataset


def test_a_report_is_a_page_and_its_numbers_beside_the_usual_output(
    tiny_sam, three_images, tmp_path
):
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    words = ["evaluate", three_images, "--adapter", file, "--json"]
    usual = json.loads(run(*words).stdout)
    told = json.loads(run(*words, "--report", tmp_path / "out").stdout)
    assert files_in(tmp_path / "out") == {"report.html", "report.json"}
    for name in ("base_iou", "base_oracle_iou", "base_boundary_iou", "objects", "data"):
        assert told[name] == usual[name]
    assert told["adapters"][0].keys() == usual["adapters"][0].keys()
    assert told["adapters"][0]["refined_iou"] == usual["adapters"][0]["refined_iou"]
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    by_name = {one["name"]: one["prompts"]["center"]["iou"] for one in numbers["sources"]}
    assert by_name["plain SAM"] == told["base_iou"]
    assert by_name["a"] == told["adapters"][0]["iou"]
    assert set(by_name) == {"plain SAM", "SAM-F", "a"}
    assert list(numbers["cost"]["seconds"])[:2] == ["reading data", "loading the model"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"{100 * by_name['a']:.1f}" in page


@pytest.mark.parametrize("command", ["check", "evaluate", "prompts", "sensitivity"])
def test_what_is_one_object_is_said_by_the_option(command, three_images, tmp_path):
    image, mask = (three_images / part / "0.png" for part in ("images", "masks"))
    labels = np.zeros(image_size(image), np.uint8)
    labels[10:30, 10:30] = labels[50:80, 60:90] = 255
    Image.fromarray(labels).save(mask)
    data, *words = {
        "check": [three_images, "--quick"],
        "sensitivity": [image, "--mask", mask, "--clicks", 9, "-o", tmp_path / "map.png"],
    }.get(command, [three_images])
    words += ["--json"] if command != "prompts" else []
    counts = []
    for objects in ([], ["--objects", "components"]):
        answers = [
            json.loads(line) for line in run(command, data, *words, *objects).stdout.splitlines()
        ]
        counts.append(len(answers) if command == "prompts" else answers[0]["objects"])
    assert counts[1] == counts[0] + 1


def test_a_report_overwrites_nothing_that_it_is_about(three_images):
    images = sorted((three_images / "images").iterdir())
    sizes = [image_size(one) for one in images]
    data = {
        "images": [
            {"id": n, "file_name": f"images/{one.name}", "height": size[0], "width": size[1]}
            for n, (one, size) in enumerate(zip(images, sizes, strict=True))
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [[40, 30, 80, 30, 60, 70]]}
            for n in range(len(images))
        ],
        "categories": [{"id": 1, "name": "disk"}],
    }
    annotations = three_images / "report.json"
    annotations.write_text(json.dumps(data))
    message = one_error(run("evaluate", annotations, "--report", three_images))
    assert "report.json is what is read" in message
    assert json.loads(annotations.read_text()) == data


def test_a_photo_whose_name_is_no_text_is_in_the_report_all_the_same(three_images, tmp_path):
    for part in ("images", "masks"):
        (three_images / part / "1.png").rename(three_images / part / os.fsdecode(b"\xff.png"))
    result = run("evaluate", three_images, "--report", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "?.png" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_looking_for_objects_needs_an_adapter_that_can(tiny_sam, three_images, tmp_path):
    without = run("evaluate", three_images, "--auto")
    assert without.exit_code == 2
    assert "--adapter" in without.stderr
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    said = run("evaluate", three_images, "--auto", "-a", file)
    assert said.exit_code == 0
    assert "a.safetensors finds nothing by itself: fit --auto" in said.stderr


def test_adapters_of_one_name_are_told_apart_by_their_folder(tiny_sam, three_images, tmp_path):
    files = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        files.append(
            write_adapter(
                tmp_path / str(seed) / "a.safetensors", tiny_sam, seed=seed, refines=False
            )
        )
    run("evaluate", three_images, "-a", files[0], "-a", files[1], "--report", tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    names = [one["name"] for one in numbers["sources"] if one["verdict"]]
    assert names == [str(file) for file in files]


def test_a_report_that_cannot_be_written_is_one_line_before_any_work(three_images, tmp_path):
    (tmp_path / "out").write_text("a file")
    result = run("evaluate", three_images, "--report", tmp_path / "out")
    assert str(tmp_path / "out") in one_error(result)
    assert "scoring" not in result.stderr
