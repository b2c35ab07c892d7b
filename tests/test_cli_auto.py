"""`fit --auto`, and what its adapters do with `segment --auto` and `evaluate --auto`."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import run, use_instead_of_weights, write_adapter
from PIL import Image

from samtune.adapter import read_info


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path / "home")
    return tmp_path


@pytest.fixture(scope="module")
def files(toy_folder):
    return sorted((toy_folder / "images").iterdir())


@pytest.fixture
def fitted(toy_folder):
    words = ("--epochs", 1, "--val-fraction", 0.25, "--no-refiner", "--force", "--auto")
    result = run("fit", toy_folder, "-o", "toy.safetensors", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def usage_error(result):
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def told(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_fit_says_what_would_be_found_and_segment_finds_only_where_it_is_told_to(fitted, files):
    assert "`segment --auto` finds " in fitted
    info = read_info(Path("toy.safetensors"))
    assert info.proposes
    assert {"found_recall", "found_iou"} <= set(info.scores)
    assert "segment --auto" in run("info", "toy.safetensors").stdout
    line = usage_error(run("segment", files[0], "-a", "toy.safetensors"))
    assert "--auto finds all objects" in line
    answers = told(run("segment", files[0], "--auto", "-a", "toy.safetensors", "--json"))
    for answer in answers:
        assert answer["image"] == str(files[0])
        if answer["mask"] is None:
            assert "presence" in answer["reason"]
        else:
            assert (np.asarray(Image.open(answer["mask"])) > 0).sum() == answer["area"]
    (scores,) = told(run("evaluate", files[0].parents[1], "-a", "toy.safetensors", "--json"))
    assert "found_recall" not in scores["adapters"][0]  # nobody told it to look
    words = ("evaluate", files[0].parents[1], "-a", "toy.safetensors", "--auto", "--json")
    (scores,) = told(run(*words))
    assert 0 <= scores["adapters"][0]["found_recall"] <= 1


def test_an_adapter_that_did_not_learn_to_find_says_how_to_make_one_that_does(files, tiny_sam):
    write_adapter(Path("plain.safetensors"), tiny_sam)
    line = usage_error(run("segment", files[0], "-a", "plain.safetensors", "--auto"))
    assert "fit --auto makes one" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--auto",), "--adapter"),
        (("--auto", "-p", "3,3"), "without points"),
    ],
)
def test_auto_needs_an_adapter_and_no_prompt(words, said, files):
    assert said in usage_error(run("segment", files[0], *words))


def test_where_masks_are_few_what_is_found_is_scored_in_turns_and_the_report_says_the_same(
    toy_folder, files
):
    words = ("--epochs", 1, "--no-refiner", "--force", "--auto", "--json", "--report", "out")
    (fitted,) = told(run("fit", toy_folder, "-o", "few.safetensors", *words))
    assert fitted["folds"] > 1
    assert 0 <= fitted["found"]["recall"] <= 1
    numbers = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert [one["found"] for one in numbers["sources"]] == [None, None, fitted["found"]]
    for answer in told(run("segment", files[0], "--auto", "-a", "few.safetensors", "--json")):
        assert answer["image"] == str(files[0])


def test_fit_auto_is_for_plm(toy_folder):
    line = usage_error(run("fit", toy_folder, "--auto", "--method", "persam"))
    assert "--method plm" in line
