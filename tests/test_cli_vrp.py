"""`samtune fit --method vrp`, and what its adapters do with references in every other command."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import one_error, run, use_instead_of_weights, write_adapter
from PIL import Image
from test_reference_fit import colour_photo, write_pair

from samtune.adapter import read_info

COLOURS = {1: (250, 20, 20), 2: (20, 20, 250)}  # classes are colours


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, monkeypatch):
    """data/ has six photos, with a square of either class in turn."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path / "home")
    for number in range(6):
        label = 1 + number % 2
        place = (10 + 8 * number, 16 + 4 * number)
        image, mask = colour_photo(COLOURS[label], at=place, seed=number)
        labels = np.where(mask > 0, label, 0).astype(np.uint8)
        write_pair(tmp_path / "data", f"{number}.png", image, labels)
    return tmp_path


def fit(*words):
    return run("fit", "data", "--method", "vrp", "--epochs", 1, *words)


def told(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def made():
    """An adapter, trained once for all tests."""
    files = {}

    def make(name, *words):
        if name not in files:
            result = fit(*words, "--val-fraction", 0.3, "-o", name, "-q")
            assert result.exit_code == 0, result.output
            files[name] = Path(name).read_bytes()
        Path(name).write_bytes(files[name])
        return name

    return make


@pytest.fixture
def one_class(made):
    return made("one.safetensors", "--class", 1)


@pytest.fixture
def two_classes(made):
    return made("two.safetensors", "--classes", "1,2")


def test_info_tells_plain_sams_score_from_its_oracle(one_class):
    lines = run("info", one_class).stdout.splitlines()
    (iou,), (oracle,) = (
        [line.split()[-2] for line in lines if line.lstrip().startswith(title)]
        for title in ("plain SAM, one click", "its oracle")
    )
    assert float(iou) <= float(oracle)
    assert not any(line.startswith("refining") for line in lines)


def test_an_adapter_of_one_class_needs_neither_prompt_nor_reference():
    (summary,) = told(fit("--class", 1, "--val-fraction", 0.3, "--json"))
    assert (summary["adapter"], summary["method"]) == ("data.safetensors", "vrp")
    assert (summary["train_objects"], summary["val_objects"], summary["references"]) == (2, 1, 2)
    assert 0 <= summary["found_iou"] <= 1
    (answer,) = told(run("segment", "data/images/0.png", "--adapter", "data.safetensors", "--json"))
    assert answer["prompt"] is None
    if answer["mask"] is None:
        assert answer["reason"]
    else:
        assert (np.asarray(Image.open(answer["mask"])) > 0).sum() == answer["area"] > 0
    printed = run("info", "data.safetensors").stdout
    assert "2 of its own" in printed
    assert "without a prompt" in printed
    assert not Path("data.safetensors.resume").exists()


def test_options_are_the_settings_that_the_adapter_keeps():
    words = ["--seed", 3, "--max-minutes", 5, "--precision", "bfloat16", "--no-dense-prompt"]
    told(fit("--class", 1, "--val-fraction", 0.3, *words, "--json"))
    settings = read_info(Path("data.safetensors")).settings
    chosen = {"seed": 3, "max_minutes": 5, "precision": "bfloat16", "dense_prompt": False}
    assert {name: settings[name] for name in chosen} == chosen


def test_the_table_says_what_is_found_without_a_click_by_class():
    result = fit("--classes", "all", "--val-fraction", 0.3, "-o", "two.safetensors")
    assert result.exit_code == 0, result.output
    for words in ("plain SAM, one click", "adapter, no click", "  class 2", "carries no reference"):
        assert words in result.stdout
    assert "--reference IMAGE --reference-mask MASK" in result.stdout
    assert "none of its own" in run("info", "two.safetensors").stdout


@pytest.mark.parametrize(
    "annotation",
    [
        ["--reference-mask", "data/masks/2.png"],
        ["--reference-mask", "data/masks/2.png", "--reference-class", "1"],
        ["--reference-point", "40,40", "--reference-point", "60,60"],
        ["--reference-box", "26,24,73,71"],
        ["--reference-scribble", "30,30 70,40 40,60"],
    ],
    ids=["mask", "class", "points", "box", "scribble"],
)
def test_a_reference_says_what_to_look_for(two_classes, annotation):
    words = ["segment", "data/images/1.png", "data/images/4.png", "--adapter", two_classes]
    answers = told(run(*words, "--reference", "data/images/2.png", *annotation, "--json"))
    assert [one["image"] for one in answers] == ["data/images/1.png", "data/images/4.png"]
    if annotation[0] in ("--reference-mask", "--reference-box"):
        # What presence knows, it knows from the reference alone: the other colour is another thing.
        # Points and scribbles are completed first, by a decoder of random weights in this test.
        other, same = answers
        assert same["score"] > other["score"] or other["mask"] is None


def test_several_references_have_a_mask_each(two_classes):
    words = ["segment", "data/images/5.png", "--adapter", two_classes, "-p", "60,50", "-f", "npz"]
    for image in (1, 3):
        words += ["--reference", f"data/images/{image}.png"]
    logits = []
    for masks in ((1, 3), (1, 1)):  # and no reference takes another one's
        shown = [f"--reference-mask=data/masks/{mask}.png" for mask in masks]
        (answer,) = told(run(*words, *shown, "--json", "-o", f"masks{masks[1]}"))
        assert answer["image"] == "data/images/5.png"
        logits.append(np.load(answer["mask"])["low_res_logits"])
    assert not np.allclose(*logits, atol=1e-3)


def test_the_reference_takes_the_place_of_those_that_an_adapter_carries(one_class):
    words = ["segment", "data/images/3.png", "--adapter", one_class, "--json", "-f", "npz"]
    of_other = ["--reference", "data/images/1.png", "--reference-mask", "data/masks/1.png"]
    own = run(*words, "-p", "60,50", "-o", "own")
    assert told(own)[0]["mask"]
    assert told(run(*words, "-p", "60,50", "-o", "other", *of_other))[0]["mask"]
    logits = [np.load(f"{folder}/3.npz")["low_res_logits"] for folder in ("own", "other")]
    assert not np.allclose(*logits, atol=1e-3)


def test_evaluate_takes_references_too(two_classes):
    words = ["evaluate", "data", "--class", 1, "--adapter", two_classes, "--json"]
    reference = ["--reference", "data/images/2.png", "--reference-mask", "data/masks/2.png"]
    (result,) = told(run(*words, *reference))
    assert 0 <= result["adapters"][0]["found_iou"] <= 1
    refused = run(*words)
    assert refused.exit_code == 2
    assert "has to be told what to look for" in " ".join(refused.stderr.split())


MASK = ["--reference-mask", "data/masks/2.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "has to be told what to look for"),
        (MASK, "needs its image"),
        (["--reference", "data/images/2.png"], "what in the image is meant"),
        (["--reference", "a.png", "--reference", "b.png", *MASK], "each needs one annotation"),
        (["--reference", "a.png", "--reference-point", "5"], "two numbers"),
        (["--reference", "a.png", "--reference-scribble", "5,5"], "two points or more"),
        (["--reference", "a.png", "--reference-point", "5,5", "--reference-class", "2"], "values"),
    ],
)
def test_references_that_say_too_little_are_wrong_usage(two_classes, words, said):
    result = run("segment", "data/images/0.png", "--adapter", two_classes, *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_adapters_of_other_methods_take_no_reference(tiny_sam):
    plm = write_adapter(Path("plm.safetensors"), tiny_sam)
    reference = ["--reference", "data/images/2.png", *MASK, "-p", "5,5"]
    for adapter, said in (([], "needs an --adapter"), (["-a", plm], "takes no reference")):
        result = run("segment", "data/images/0.png", *reference, *adapter)
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.replace("│", " ").split())


def test_a_reference_that_cannot_be_used_is_an_error_of_one_line(two_classes):
    Image.fromarray(np.ones((5, 9), np.uint8)).save("small.png")
    words = ["--reference", "data/images/2.png", "--reference-mask", "small.png"]
    result = run("segment", "data/images/0.png", "--adapter", two_classes, *words)
    assert "small.png is 9×5 px" in one_error(result)


def test_refine_and_export_say_why_not(one_class):
    mask = "data/masks/0.png"
    refused = run("refine", mask, "--image", "data/images/0.png", "--adapter", one_class)
    assert "cannot refine" in one_error(refused)
    assert "cannot be exported" in one_error(run("export", one_class, "-o", "onnx"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "vrp", "--reference", "auto"], "takes all images as references in turn"),
        (["--method", "vrp", "--no-pmm"], "--method plm"),
        (["--method", "vrp", "--report", "out"], "is for the other methods"),
        (["--method", "vrp", "--no-refiner"], "--method plm"),
        (["--method", "persam", "--no-dense-prompt"], "for --method plm and vrp"),
        (["--classes", "1,2"], "--classes is for --method vrp"),
        (["--method", "vrp", "--classes", "1", "--class", "1"], "takes the place of --class"),
        (["--method", "vrp", "--classes", "1,x"], "numbers from 1 on"),
    ],
)
def test_options_of_fit_that_do_not_go_together_are_wrong_usage(words, said):
    result = run("fit", "data", *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_classes_that_are_not_there_are_named(workplace):
    assert "no class 7" in one_error(fit("--classes", "1,7", "--val-fraction", 0.3))


def test_classes_that_no_held_out_image_has_are_an_error_that_names_its_folder(workplace):
    image, mask = colour_photo(COLOURS[2])
    write_pair(workplace / "other", "a.png", image, np.where(mask > 0, 2, 0).astype(np.uint8))
    message = one_error(fit("--classes", "1", "--val", "other"))
    assert "no image that is held out has one of the classes" in message
    assert "others than those of other" in message
