"""`samtune check`: what fit would find, told without doing it."""

import json

import numpy as np
import pytest
from broken_data import NAMED_BY_FAULT, disk, photo, save
from command import files_in, one_error, run, use_instead_of_weights

from samtune.images import read_image


@pytest.fixture(autouse=True)
def small_model(tiny_sam, tmp_path_factory, monkeypatch):
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path_factory.mktemp("weights"))


def add_twin(folder, name):
    """An image that is image 0 but for one pixel, with a mask in two parts."""
    image = read_image(folder / "images" / "0.png").copy()
    image[0, 0] ^= 1
    save(folder / "images" / f"{name}.png", image)
    mask = disk(size=image.shape[:2])
    mask[:, -20:] = 255
    save(folder / "masks" / f"{name}.png", mask)


def test_a_sound_folder_is_ready_and_nothing_is_written(toy_dataset):
    before = files_in(toy_dataset)
    result = run("check", toy_dataset)
    assert result.exit_code == 0
    assert "8 images with 8 objects" in result.stdout
    assert "objects in an image: 1 to 1, median 1" in result.stdout
    assert "train on 8 images with 8 objects; these are few, so 4 parts" in result.stdout
    assert "nothing to look at" in result.stdout
    assert "training and scoring about" in result.stdout
    assert files_in(toy_dataset) == before


def test_how_much_there_is_stands_once_in_a_terminal_and_first_in_a_pipeline(toy_dataset):
    # A terminal shows stdout and stderr together; with --json, stdout is not for people.
    line = f"{toy_dataset}: 8 images with 8 objects, 90×120 px to 128×96 px"
    result = run("check", toy_dataset, "--quick")
    assert result.stdout.splitlines()[0] == line
    assert result.output.count(line) == 1
    assert line in run("check", toy_dataset, "--quick", "--json").stderr.splitlines()


SQUARE = [[20, 20], [60, 20], [60, 50], [20, 50]]


def annotated(folder, form):
    """Two photos with a square each, as another tool writes it; returns what to give to check."""
    folder.mkdir()
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    for number in (0, 1):
        save(folder / f"{number}.png", photo(number, (100, 100)))
        flat = [value for point in SQUARE for value in point]
        if form == "yolo":
            shares = " ".join(str(value / 100) for value in flat)
            (folder / f"{number}.txt").write_text(f"0 {shares}\n")
        if form == "labelme":
            shape = {"label": "a", "points": SQUARE, "shape_type": "polygon"}
            content = {"shapes": [shape], "imagePath": f"{number}.png"}
            (folder / f"{number}.json").write_text(json.dumps(content))
        entry = {"id": number, "image_id": number, "category_id": 1, "segmentation": [flat]}
        coco["annotations"].append(entry)
        coco["images"].append({"id": number, "file_name": f"{number}.png"})
    if form == "coco":
        (folder / "coco.json").write_text(json.dumps(coco))
    return folder / "coco.json" if form == "coco" else folder


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme"])
def test_annotations_of_other_tools_are_checked_as_masks_are(tmp_path, form):
    result = run("check", annotated(tmp_path / "data", form))
    assert result.exit_code == 0, result.output
    assert "2 images with 2 objects" in result.stdout
    assert "nothing to look at" in result.stdout


def test_findings_are_named_with_what_to_do_and_are_no_failure(toy_dataset):
    add_twin(toy_dataset, "twin")
    result = run("check", toy_dataset, "--quick")
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("look at: ")]
    assert "1 of 9 masks is in several large parts" in line
    assert "(twin.png)" in line
    assert "--objects components" in line


def test_json_is_one_object_with_all_of_it(toy_dataset):
    add_twin(toy_dataset, "twin")
    told = json.loads(run("check", toy_dataset, "--json").stdout)
    assert (told["images"], told["objects"], told["faults"]) == (9, 9, [])
    assert (told["train_images"], told["val_images"], told["folds"]) == (9, 9, 4)  # in turns
    (parts,) = [one for one in told["findings"] if one["kind"] == "parts"]
    assert parts["files"] == ["twin.png"]
    assert told["forecast"]["train_seconds"] > 0


def test_what_the_search_for_copies_has_encoded_is_not_told_as_still_to_be_done(toy_dataset):
    empty = toy_dataset / "masks" / "0.png"
    save(empty, np.zeros(read_image(empty).shape[:2], np.uint8))
    quick = json.loads(run("check", toy_dataset, "--quick", "--json").stdout)["forecast"]
    assert (quick["images"], quick["to_encode"]) == (8, 6)  # two of them to time the steps
    told = json.loads(run("check", toy_dataset, "--json").stdout)["forecast"]
    assert (told["images"], told["to_encode"]) == (8, 1)  # the search needs none without an object
    run("cache", "fill", toy_dataset / "images")
    result = run("check", toy_dataset)
    assert "all 8 images are encoded, in 17 MB of disk" in result.stdout


def test_held_out_images_that_are_nearly_training_images_are_found(toy_dataset, tmp_path):
    add_twin(toy_dataset, "twin")
    for part in ("images", "masks"):
        (tmp_path / "val" / part).mkdir(parents=True)
        for name in ("twin", "5"):
            source = toy_dataset / part / f"{name}.png"
            source.rename(tmp_path / "val" / part / f"{name}.png")
    words = ["check", toy_dataset, "--val", tmp_path / "val", "--json"]
    told = json.loads(run(*words).stdout)
    assert (told["train_images"], told["val_images"]) == (7, 2)
    (similar,) = [one for one in told["findings"] if one["kind"] == "similar"]
    assert similar["files"] == ["twin.png like 0.png"]
    assert "similar" not in run(*words, "--quick").stdout


def test_copies_of_held_out_images_are_left_out_as_in_fit(toy_dataset, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "val" / part).mkdir(parents=True)
        copy = tmp_path / "val" / part / "other.png"
        copy.write_bytes((toy_dataset / part / "3.png").read_bytes())
    result = run("check", toy_dataset, "--val", tmp_path / "val", "--quick")
    assert "train on 7 images" in result.stdout
    assert "first: 3.png" in result.stderr


@pytest.mark.parametrize("fault", NAMED_BY_FAULT, ids=lambda fault: fault.__name__)
def test_a_folder_that_fit_cannot_read_fails(fault, tmp_path):
    folder = fault(tmp_path)
    assert NAMED_BY_FAULT[fault] in one_error(run("check", folder))


def test_all_faults_are_listed_where_fit_names_the_first_few(toy_dataset):
    for number in range(7):
        save(toy_dataset / "masks" / f"{number}.png", np.zeros((10, 11), np.uint8))
    result = run("check", toy_dataset)
    assert result.exit_code == 1
    listed = result.stdout.splitlines()
    assert [line.split()[0] for line in listed] == [f"masks/{n}.png" for n in range(7)]
    failed = run("check", toy_dataset, "--json")
    assert json.loads(failed.stdout)["faults"] == listed
    assert failed.exit_code == 1


def test_of_one_image_the_mirror_image_is_held_out_and_is_no_finding(toy_dataset):
    for number in range(1, 8):
        for part in ("images", "masks"):
            (toy_dataset / part / f"{number}.png").unlink()
    result = run("check", toy_dataset)
    assert result.exit_code == 0
    assert "held out, for want of others: the mirror image" in " ".join(result.stdout.split())
    told = json.loads(run("check", toy_dataset, "--json").stdout)
    assert (told["train_images"], told["val_images"], told["folds"]) == (1, 1, 0)
    assert "similar" not in {finding["kind"] for finding in told["findings"]}


def test_images_without_an_object_are_told_and_encoding_them_is_forecast(toy_dataset):
    for number in range(2):
        empty = toy_dataset / "masks" / f"{number}.png"
        save(empty, np.zeros(read_image(empty).shape[:2], np.uint8))
    told = json.loads(run("check", toy_dataset, "--quick", "--json").stdout)
    assert (told["images"], told["empty_images"]) == (6, 2)
    assert told["forecast"]["to_encode"] == 6  # of eight, two were encoded to time the steps
    result = run("check", toy_dataset, "--quick")
    assert "presence also learns from 2 images without an object" in " ".join(result.stdout.split())
