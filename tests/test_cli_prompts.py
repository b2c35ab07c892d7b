"""`samtune prompts`: lines that `segment --prompts` takes, of what other tools know."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from command import one_error, run, use_instead_of_weights
from PIL import Image

SIZE = (48, 64)


def told(result):
    assert result.exit_code == 0, result.output
    return list(map(json.loads, result.stdout.splitlines()))


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder with data/images/a.png, and data/masks/a.png with two instances."""
    monkeypatch.chdir(tmp_path)
    labels = np.zeros(SIZE, np.uint8)
    cv2.circle(labels, (15, 20), 9, 1, -1)
    labels[30:40, 40:60] = 2
    for name, pixels in (("images", np.zeros((*SIZE, 3), np.uint8)), ("masks", labels)):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "data" / name / "a.png")
    return tmp_path


def test_each_object_is_asked_for_at_its_centre_point_and_segment_takes_the_lines(
    tiny_sam, workplace, monkeypatch, tmp_path_factory
):
    result = run("prompts", "data")
    first, second = told(result)
    assert first == {"image": "data/images/a.png", "points": [[15, 20]], "labels": [1]}
    x, y = second["points"][0]
    assert 40 <= x < 60
    assert 34 <= y <= 35
    assert "2 objects" in result.stderr
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path_factory.mktemp("weights"))
    answers = told(run("segment", "--prompts", "-", stdin=result.stdout.encode()))
    assert [one["prompt"]["points"] for one in answers] == [first["points"], second["points"]]


def test_a_box_alone_or_with_points(workplace):
    _, second = told(run("prompts", "data", "--box"))
    assert second == {"image": "data/images/a.png", "box": [40, 30, 59, 39]}
    _, second = told(run("prompts", "data", "--box", "--points", 1))
    assert set(second) == {"image", "points", "labels", "box"}


def test_several_points_lie_on_their_object_and_come_again_with_the_same_seed(workplace):
    lines = told(run("prompts", "data", "--points", 5))
    labels = np.asarray(Image.open("data/masks/a.png"))
    for number, line in enumerate(lines, start=1):
        assert line["labels"] == [1] * 5
        assert all(labels[y, x] == number for x, y in line["points"])
    assert told(run("prompts", "data", "-n", 5)) == lines
    assert told(run("prompts", "data", "-n", 5, "--seed", 1)) != lines


def test_one_class_can_be_chosen_and_quiet_prints_lines_alone(workplace):
    result = run("prompts", "data", "--class", 2, "--quiet")
    (line,) = told(result)
    assert line["points"][0][0] >= 40
    assert result.stderr == ""


def write_coco(**entry):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **entry}],
        "categories": [{"id": 1, "name": "car"}],
    }
    Path("data/boxes.json").write_text(json.dumps(content))


@pytest.mark.parametrize("segmentation", [{}, {"segmentation": []}, {"segmentation": None}])
def test_a_detector_s_boxes_in_coco_are_taken(workplace, segmentation):
    write_coco(bbox=[10, 20.2, 30, 8], **segmentation)
    (line,) = told(run("prompts", "data/boxes.json", "--box"))
    # x from 10 to 40 from the corner: the pixels 10 to 39.
    assert line["box"] == [10, 20, 39, 27]
    assert line["image"] == "data/images/a.png"


def test_a_detector_s_boxes_in_yolo_are_taken_with_or_without_a_confidence(workplace):
    (workplace / "data" / "labels").mkdir()
    lines = "0 0.25 0.5 0.25 0.25\n0 0.75 0.5 0.125 0.5 0.93\n"
    (workplace / "data" / "labels" / "a.txt").write_text(lines)
    (workplace / "data" / "masks" / "a.png").unlink()
    (workplace / "data" / "masks").rmdir()
    first, second = told(run("prompts", "data", "--box"))
    assert first["box"] == [8, 18, 23, 29]  # 16 ± 8 across, 24 ± 6 down
    assert second["box"] == [44, 12, 51, 35]
    assert told(run("prompts", "data"))[1]["points"][0][0] in (47, 48)


def test_rectangles_of_labelme_are_taken(workplace):
    shape = {"label": "car", "shape_type": "rectangle", "points": [[10, 20], [40, 28]]}
    content = {"shapes": [shape], "imagePath": "a.png"}
    (workplace / "data" / "images" / "a.json").write_text(json.dumps(content))
    (line,) = told(run("prompts", "data/images", "--box"))
    assert line["box"] == [10, 20, 39, 27]


@pytest.mark.parametrize(
    "bbox", [[1, 2, 3], "1,2,3,4", [1, 2, float("nan"), 4], [1, 2, "3", 4], {}]
)
def test_a_box_that_is_none_is_one_line_that_names_it(workplace, bbox):
    write_coco(bbox=bbox)
    assert "annotation 1" in one_error(run("prompts", "data/boxes.json"))


def test_fit_still_learns_from_outlines_alone(workplace):
    write_coco(bbox=[10, 20, 30, 8])
    assert "no object" in one_error(run("fit", "data/boxes.json", "-o", "x.safetensors"))


def test_nothing_to_prompt_with_is_wrong_usage():
    result = run("prompts", "data", "--points", 0)
    assert result.exit_code == 2
    assert "--box" in result.stderr
