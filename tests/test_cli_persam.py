"""`samtune fit --method persam` and what its adapters do in every other command."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import files_in, one_error, run, use_instead_of_weights, write_adapter
from PIL import Image
from pycocotools.coco import COCO
from test_reference_fit import colour_photo, write_pair
from tiny_models import build_tiny_sam

from samtune.adapter import read_info
from samtune.finding import Finding, find_objects

RED, BLUE = (250, 20, 20), (20, 20, 250)


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, monkeypatch):
    """data/ has one reference of something red; red.png and blue.png are to be segmented."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path / "home")
    write_pair(tmp_path / "data", "one.png", *colour_photo(RED))
    for seed, (name, colour) in enumerate({"red": RED, "blue": BLUE}.items(), start=1):
        image, _ = colour_photo(colour, at=(30, 30), seed=seed)
        image[:, 20:] = colour  # nearly all: so that a random decoder's mask of it is of it
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def adapter():
    assert run("fit", "data", "--method", "persam", "-o", "red.safetensors", "-q").exit_code == 0
    return "red.safetensors"


def told(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_seed_is_the_adapter_s_and_info_tells_only_what_is_unusual():
    told(run("fit", "data", "--method", "persam", "--seed", 3, "--json"))
    assert read_info(Path("data.safetensors")).settings["seed"] == 3
    assert "seed 3; all others by default" in run("info", "data.safetensors").stdout


@pytest.mark.parametrize("method", ["persam", "persam-f"])
def test_one_image_is_enough_and_segmenting_needs_no_prompt(method):
    (fit,) = told(run("fit", "data", "--method", method, "--json"))
    assert (fit["adapter"], fit["method"]) == ("data.safetensors", method)
    assert (fit["references"], fit["train_objects"]) == (["one.png"], 1)
    assert fit["found_iou"] is fit["base_iou"] is fit["val_images"] is None
    assert fit["parameters"] == (2 if method == "persam-f" else 0)
    (answer,) = told(run("segment", "red.png", "--adapter", "data.safetensors", "--json"))
    assert answer["mask"] == "red.mask.png"
    mask = np.asarray(Image.open("red.mask.png")) > 0
    assert mask.sum() == answer["area"] > 0
    assert 0.5 <= answer["score"] <= 1
    (x, y), *_ = answer["prompt"]["points"]  # where it looked: on the red square
    assert x >= 16
    assert 0 <= y <= 95


def test_where_nothing_is_found_the_mask_is_null_with_a_reason_and_exit_code_0(adapter, workplace):
    before = files_in(workplace)
    (answer,) = told(run("segment", "blue.png", "--adapter", adapter, "--json", "-o", "out"))
    assert answer["mask"] is None
    assert answer["files"] == {"png": None}
    assert answer["prompt"] is None
    assert "nothing is like the object" in answer["reason"]
    assert (answer["area"], answer["bbox"], answer["score"]) == (0, [0, 0, 0, 0], 0)
    assert not any(name.startswith("out") for name in files_in(workplace) - before)
    result = run("segment", "red.png", "blue.png", "--adapter", adapter)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith("red.mask.png  score ")
    assert second.startswith("blue.png  nothing found: ")


def test_an_image_without_the_object_stands_in_annotations_without_one(adapter):
    words = ["--adapter", adapter, "--format", "coco,instances,yolo,npz,cutout", "-o", "out"]
    result = run("segment", "red.png", "blue.png", *words)
    assert result.exit_code == 0, result.output
    coco = COCO("out/coco.json")
    assert len(coco.imgs) == 2
    of_image = {coco.imgs[one["image_id"]]["file_name"] for one in coco.anns.values()}
    assert {Path(name).name for name in of_image} == {"red.png"}
    assert not np.asarray(Image.open("out/blue.instances.png")).any()
    assert Path("out/blue.txt").read_text() == ""
    assert not list(Path("out").glob("blue*.npz"))
    assert not list(Path("out").glob("blue*.cutout.png"))


def test_several_objects_are_looked_for_and_numbered(adapter, monkeypatch):
    asked = []

    def found_twice(predictor, embedding, max_objects=1, **options):
        asked.append(max_objects)
        found = find_objects(predictor, embedding)
        return Finding(2 * found.objects, found.best_rejected)

    monkeypatch.setattr("samtune.finding.find_objects", found_twice)
    monkeypatch.setattr("samtune.found_scores.find_objects", found_twice)
    answers = told(run("segment", "red.png", "--adapter", adapter, "--max-objects", 4, "--json"))
    assert [one["mask"] for one in answers] == ["red.1.mask.png", "red.2.mask.png"]
    told(run("evaluate", "data", "--adapter", adapter, "--max-objects", 3, "--json"))
    assert asked == [4, 3]


def write_film(*colours):
    """Frames that are nearly all of a colour, as red.png and blue.png are."""
    Path("film").mkdir()
    for number, colour in enumerate(colours):
        picture, _ = colour_photo(colour, at=(30, 30), seed=number)
        picture[:, 20:] = colour
        Image.fromarray(picture).save(f"film/{number:02d}.png")


def test_frames_are_followed_in_their_order_and_a_lost_object_is_said_to_be_lost(adapter):
    write_film(RED, RED, BLUE, RED)
    answers = told(run("segment", "film", "--adapter", adapter, "--follow", "--json", "-o", "out"))
    assert [Path(one["image"]).stem for one in answers] == ["00", "01", "02", "03"]
    free = told(run("segment", "film", "--adapter", adapter, "--json", "-o", "free"))
    assert answers[0]["prompt"] == free[0]["prompt"]
    assert answers[2]["mask"] is None
    assert "nothing is like the object" in answers[2]["reason"]
    assert answers[3]["mask"] == "out/03.mask.png"


def test_an_object_keeps_its_number_where_another_one_is_lost(adapter, monkeypatch):
    write_film(RED, RED)
    shown = iter([["a", "b"], [None, "b"]])

    def follow(self, embedding):
        (found,) = find_objects(self.predictor, embedding).objects
        return [found if name else "it is gone" for name in next(shown)]

    monkeypatch.setattr("samtune.following.Follower.follow", follow)
    words = ["--adapter", adapter, "--follow", "--max-objects", 2, "--json", "-o", "out"]
    answers = told(run("segment", "film", *words))
    assert [one["mask"] for one in answers] == [
        "out/00.1.mask.png",
        "out/00.2.mask.png",
        None,
        "out/01.2.mask.png",
    ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--point", "10,10"], "give no prompts"),
        (["--shard", "1/2"], "all frames, in their order"),
        (["--ray", "local"], "all frames, in their order"),
    ],
)
def test_following_refuses_what_it_cannot_do(adapter, words, why):
    result = run("segment", "red.png", "--adapter", adapter, "--follow", *words)
    assert result.exit_code == 2
    assert why in result.stderr


def test_a_point_takes_the_place_of_what_it_would_look_at(adapter):
    words = ["--point", "10,10", "--adapter", adapter, "--json"]
    (answer,) = told(run("segment", "blue.png", *words))
    assert answer["prompt"]["points"] == [[10, 10]]
    assert answer["mask"] == "blue.mask.png"


def test_without_a_prompt_every_adapter_has_to_find(adapter, tiny_sam):
    plm = write_adapter(Path("plm.safetensors"), tiny_sam)
    result = run("segment", "red.png", "--adapter", adapter, "--adapter", plm)
    assert result.exit_code == 2
    assert "plm.safetensors answers prompts" in result.stderr
    together = ["--adapter", adapter, "--adapter", plm, "--point", "40,40", "--json"]
    assert [one["adapter"] for one in told(run("segment", "red.png", *together))] == [
        adapter,
        str(plm),
    ]


def test_the_overlay_shows_where_it_looked(adapter):
    run("segment", "red.png", "--adapter", adapter, "--overlay")
    drawn = np.asarray(Image.open("red.overlay.jpg")).astype(int)
    green = (abs(drawn - (0, 200, 80)) < 60).all(axis=2)
    assert green[:, 10:].any()


def test_held_out_images_are_scored_with_and_without_a_click(toy_dataset):
    words = ["--method", "persam-f", "--val-fraction", 0.25, "--json", "-o", "a.safetensors"]
    (fit,) = told(run("fit", toy_dataset, *words))
    assert (fit["train_images"], fit["val_images"], fit["val_objects"]) == (6, 2, 2)
    for score in ("base_iou", "adapter_iou", "found_iou"):
        assert 0 <= fit[score] <= 1
    (about,) = told(run("info", "a.safetensors", "--json"))
    assert about["scores"]["found_iou"] == fit["found_iou"]
    words = run("info", "a.safetensors").stdout
    assert "persam-f" in words
    assert "without a prompt" in words
    assert "refining" not in words  # there is nothing that a new fit could learn


def test_a_report_is_written_where_images_are_held_out(toy_dataset):
    words = ["--method", "persam", "--val-fraction", 0.25, "--report", "out", "-o", "a.safetensors"]
    result = run("fit", toy_dataset, *words)
    assert f"wrote {Path('out/report.html')}" in result.stdout
    numbers = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    (about,) = told(run("info", "a.safetensors", "--json"))
    assert numbers["sources"][2]["prompts"]["center"]["iou"] == pytest.approx(
        about["scores"]["adapter_iou"]
    )
    assert numbers["training"] is None
    assert "How training went" not in Path("out/report.html").read_text(encoding="utf-8")


def test_evaluate_scores_it_with_clicks_and_without(adapter):
    (result,) = told(run("evaluate", "data", "--adapter", adapter, "--json"))
    (one,) = result["adapters"]
    assert one["found_recall"] in (0, 1)
    assert 0 <= one["found_iou"] <= 1
    printed = run("evaluate", "data", "--adapter", adapter).stdout
    assert "without a click" in printed
    assert "precision" in printed


def test_sensitivity_takes_it_and_refine_and_export_say_why_not(adapter):
    mask = "data/masks/one.png"
    words = ["--mask", mask, "--adapter", adapter, "--clicks", 4]
    assert run("sensitivity", "data/images/one.png", *words).exit_code == 0
    refused = run("refine", mask, "--image", "data/images/one.png", "--adapter", adapter)
    assert "no contour refiner" in one_error(refused)
    assert "cannot be exported" in one_error(run("export", adapter, "-o", "onnx"))
    assert not Path("onnx").exists()


def test_an_adapter_of_another_checkpoint_is_refused_by_name(adapter, monkeypatch):
    other = build_tiny_sam(seed=7)
    monkeypatch.setattr("samtune.sam.load_sam", lambda path, device="cpu": other)
    assert "was trained on" in one_error(run("segment", "red.png", "--adapter", adapter))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "persam", "--epochs", 3], "trains nothing step by step"),
        (["--method", "persam", "--resume"], "trains nothing step by step"),
        (["--reference", "auto"], "are for --method persam"),
        (["--method", "persam", "--without", "colour"], "is none of background"),
        (["--method", "persam-f", "--without", "cascade"], "weighs the first"),
        (["--method", "persam", "--report", "out"], "give --val or --val-fraction"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(words, said):
    result = run("fit", "data", *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_parts_that_are_left_out_are_said_by_info():
    words = ["--method", "persam", "--without", "cascade,negative-point", "-o", "a.safetensors"]
    assert run("fit", "data", *words).exit_code == 0
    (about,) = told(run("info", "a.safetensors", "--json"))
    assert about["settings"]["without"] == ["cascade", "negative-point"]
