"""Masks that other tools made: one file, or the part of many that is of one image."""

import json

import numpy as np
import pytest
from PIL import Image

from samtune.errors import DatasetError
from samtune.foreign_masks import is_annotations, read_foreign_masks
from samtune.read_labelme import read_labelme_file

# x from 2 to 6 and y from 1 to 4, counted from the corner: pixels 2..5 and 1..3.
SQUARE = [[2, 1], [6, 1], [6, 4], [2, 4]]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (12, 9)).save(tmp_path / name)
    return tmp_path


def expected():
    mask = np.zeros((9, 12), dtype=bool)
    mask[1:4, 2:6] = True
    return mask


def write_coco(path, names):
    polygon = [[number for point in SQUARE for number in point]]
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 12, "height": 9} for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 3, "segmentation": polygon}
            for i in range(len(names))
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    path.write_text(json.dumps(content))
    return path


def labelme(image_path):
    shape = {"label": "dog", "points": SQUARE, "shape_type": "polygon"}
    return json.dumps({"shapes": [shape], "imagePath": image_path})


def only(masks, path):
    ((image, (thing,)),) = masks.images
    assert image == path
    assert np.array_equal(thing.mask(), expected())
    return masks.categories[thing.label - 1]


def test_of_a_coco_file_one_image_can_be_meant_whatever_is_wrong_with_others(folder):
    path = write_coco(folder / "c.json", ["missing.png", "a.png", "b.png"])
    with pytest.raises(DatasetError, match=r"missing\.png"):
        read_foreign_masks(path)
    masks = read_foreign_masks(path, folder / "b.png")
    assert only(masks, folder / "b.png") == "dog"
    assert masks.form == "coco"


def test_all_images_of_a_coco_file_are_meant_without_one(folder):
    masks = read_foreign_masks(write_coco(folder / "c.json", ["a.png", "b.png"]))
    assert [image.name for image, _ in masks.images] == ["a.png", "b.png"]
    assert masks.categories == ("cat", "dog")


def test_a_coco_file_that_does_not_know_the_image_says_so(folder):
    path = write_coco(folder / "c.json", ["a.png"])
    with pytest.raises(DatasetError, match=r"nothing of .*b\.png"):
        read_foreign_masks(path, folder / "b.png")


def test_a_labelme_file_is_of_its_image_path_or_of_the_image_that_is_said(folder):
    (folder / "x.json").write_text(labelme("a.png"))
    (folder / "y.json").write_text(labelme("b.png"))
    assert only(read_foreign_masks(folder / "x.json"), folder / "a.png") == "dog"
    elsewhere = folder / "images"
    elsewhere.mkdir()
    (folder / "a.png").rename(elsewhere / "a.png")
    assert only(read_foreign_masks(folder / "x.json", elsewhere / "a.png"), elsewhere / "a.png")
    assert only(read_foreign_masks(folder / "x.json", None, elsewhere), elsewhere / "a.png")
    with pytest.raises(DatasetError, match="--image"):
        read_foreign_masks(folder / "x.json")


@pytest.mark.parametrize(
    ("content", "said"), [("{", "no JSON: line 1, column 2.*Mend it"), ("{}", "no list of shapes")]
)
def test_a_file_that_is_not_of_labelme_says_why(folder, content, said):
    (folder / "x.json").write_text(content)
    with pytest.raises(DatasetError, match=rf"x\.json is .*{said}"):
        read_labelme_file(folder / "x.json", folder / "a.png")


def test_a_yolo_file_needs_its_image_and_knows_its_classes(folder):
    (folder / "classes.txt").write_text("cat\ndog\n")
    shares = " ".join(f"{x / 12} {y / 9}" for x, y in SQUARE)
    (folder / "x.txt").write_text(f"1 {shares}\n")
    masks = read_foreign_masks(folder / "x.txt", folder / "a.png")
    assert only(masks, folder / "a.png") == "dog"
    assert masks.form == "yolo"


def test_a_folder_is_read_as_fit_reads_it(folder):
    (folder / "a.json").write_text(labelme("a.png"))
    (folder / "b.json").write_text(labelme("b.png"))
    masks = read_foreign_masks(folder)
    assert [image.name for image, _ in masks.images] == ["a.png", "b.png"]
    assert only(read_foreign_masks(folder, folder / "b.png"), folder / "b.png") == "dog"


def test_a_folder_of_mask_files_is_refused(folder):
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    (folder / "a.png").rename(folder / "images" / "a.png")
    with pytest.raises(DatasetError, match="--image"):
        read_foreign_masks(folder)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_foreign_masks(tmp_path / "x.json")


def test_annotations_are_told_from_mask_files_by_their_looks(tmp_path):
    assert is_annotations(tmp_path)
    assert is_annotations(tmp_path / "x.JSON")
    assert not is_annotations(tmp_path / "x.png")
