"""`samtune refine`: any tool's mask, with the same numbers, refined."""

import json
import shutil

import cv2
import numpy as np
import pytest
import yaml
from command import files_in, one_error, photo, run, use_instead_of_weights, write_adapter
from PIL import Image

import samtune.images
from samtune.dataset import load_dataset
from samtune.errors import ImageError
from samtune.formats import FORMATS
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
    # It is masks of other tools that count here, not the adapter's own.
    file = workplace / "b.safetensors"
    write_adapter(file, tiny_sam, refine_helps=True, refine_helps_coarse=False)
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
    write_adapter(workplace / "b.safetensors", tiny_sam, refines=False)
    save(rectangles(left=255))
    assert "--no-refiner" in one_error(run(*WORDS[:-1], "b.safetensors", "--always"))
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


# ---------------------------------------------------------------------- formats, out and in

FOREIGN = ["-a", "a.safetensors", "-o", "out"]
LEFT = np.roll(rectangles(left=1), 5, axis=0) > 0  # what refining makes of it here
RIGHT = np.roll(rectangles(right=1), 5, axis=0) > 0


def objects_of(place, **options):
    """What `fit` would read: (category or label, mask) of each object."""
    return [(one.label, one.mask()) for one in load_dataset(place, **options).objects]


def test_every_format_holds_the_refined_objects(workplace):
    save(rectangles(left=2, right=3))
    words = [*WORDS, "-f", ",".join(FORMATS), "-o", "out", "--label", "plate", "--json"]
    told = list(map(json.loads, run(*words).stdout.splitlines()))
    assert [one["changed"] for one in told] == [200, 200]
    assert [one["label"] for one in told] == ["plate", "plate"]
    assert all(list(one["files"]) == list(FORMATS) for one in told)
    for number, expected in ((1, LEFT), (2, RIGHT)):
        assert np.array_equal(read(f"out/a.{number}.mask.png") > 0, expected)
        assert np.array_equal(read("out/a.instances.png") == number, expected)
        with np.load(f"out/a.{number}.npz") as archive:
            assert list(archive) == ["mask"]  # nothing was predicted
            assert np.array_equal(archive["mask"], expected)
    entry = json.loads((workplace / "out/coco.json").read_text())["annotations"][0]
    assert "score" not in entry
    assert "score" not in (workplace / "out/a.geojson").read_text()
    assert "score" not in (workplace / "out/a.json").read_text()
    assert "score" not in (workplace / "out/a.svg").read_text()


@pytest.mark.parametrize("form", ["coco", "labelme", "yolo"])
def test_annotations_are_refined_to_annotations_of_the_same_kind(workplace, form):
    save(rectangles(left=1, right=2))
    (workplace / "data").mkdir()
    shutil.copy("a.png", "data/a.png")
    write = ["refine", "m.png", "--image", "data/a.png", "-a", "a.safetensors", "-f", form]
    assert run(*write, "-o", "data", "--label", "plate").exit_code == 0
    place = "data/coco.json" if form == "coco" else "data"
    result = run("refine", place, *FOREIGN)
    assert result.exit_code == 0, result.output
    assert "2 objects, 400 px changed" in result.stdout
    shutil.copy("a.png", "out/a.png")
    images = {} if form == "yolo" else {"images": workplace / "data"}
    found = objects_of(workplace / ("out/coco.json" if form == "coco" else "out"), **images)
    assert len(found) == 2
    for (label, mask), once in zip(found, (LEFT, RIGHT), strict=True):
        assert label == 1
        assert np.array_equal(mask, np.roll(once, 5, axis=0))  # refined once, and once more
    written = {"coco": "coco.json", "labelme": "a.json", "yolo": "classes.txt"}[form]
    assert "plate" in (workplace / "out" / written).read_text()


def test_annotations_that_exist_are_not_replaced_unasked(workplace):
    save(rectangles(left=1))
    run(*WORDS, "-f", "coco")
    before = (workplace / "coco.json").read_bytes()
    words = ["refine", "coco.json", "-a", "a.safetensors"]
    assert "--overwrite" in one_error(run(*words))
    assert (workplace / "coco.json").read_bytes() == before
    assert run(*words, "--overwrite").exit_code == 0
    ((_, mask),) = objects_of(workplace / "coco.json")
    assert np.array_equal(mask, np.roll(LEFT, 5, axis=0))


def test_categories_keep_their_names_their_order_and_their_ids(workplace):
    square = [[5, 5, 25, 5, 25, 23, 5, 23]]
    entries = [
        {"id": i, "image_id": 1, "category_id": c, "segmentation": square, "iscrowd": 0}
        for i, c in ((1, 7), (2, 4))
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": entries,
        "categories": [{"id": 4, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    (workplace / "c.json").write_text(json.dumps(content))
    told = list(map(json.loads, run("refine", "c.json", *FOREIGN, "--json").stdout.splitlines()))
    assert [one["label"] for one in told] == ["dog", "cat"]
    written = json.loads((workplace / "out/coco.json").read_text())
    assert [one["name"] for one in written["categories"]] == ["cat", "dog"]
    assert [one["id"] for one in written["categories"]] == [4, 7]
    assert [one["category_id"] for one in written["annotations"]] == [7, 4]
    # Ids of COCO are no classes of YOLO, which count from 0 on without a gap.
    assert run("refine", "c.json", *FOREIGN, "-f", "yolo").exit_code == 0
    assert numbers_in(workplace / "out/a.txt") == [1, 0]


def numbers_in(path):
    """The classes of a YOLO file's lines."""
    return [int(line.split()[0]) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("names", [{}, {0: "person", 2: "car", 7: "truck", 8: "bus"}])
@pytest.mark.parametrize("alone", [True, False], ids=["a file", "a folder"])
def test_yolo_classes_keep_their_numbers(workplace, names, alone):
    """A number is all that a line says about its class; data.yaml may lie elsewhere."""
    (workplace / "data").mkdir()
    shutil.copy("a.png", "data/a.png")
    square = "0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n"
    (workplace / "data/a.txt").write_text(f"7 {square}2 {square}")
    if names:
        (workplace / "data/data.yaml").write_text(yaml.safe_dump({"names": names}))
    words = ["data/a.txt", "--image", "data/a.png"] if alone else ["data"]
    assert run("refine", *words, *FOREIGN).exit_code == 0
    assert numbers_in(workplace / "out/a.txt") == [7, 2]
    written = yaml.safe_load((workplace / "out/data.yaml").read_text())["names"]
    assert written == (names or {2: "2", 7: "7"})
    lines = (workplace / "out/classes.txt").read_text().splitlines()
    assert [lines[number] for number in written] == list(written.values())
    assert run("refine", *words, *FOREIGN, "--label", "x", "--overwrite").exit_code == 0
    assert numbers_in(workplace / "out/a.txt") == [0, 0]


def test_a_yolo_class_of_a_huge_number_makes_no_huge_list(workplace):
    (workplace / "m.txt").write_text("999999999 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n")
    assert "999999999 is too high" in one_error(
        run("refine", "m.txt", "--image", "a.png", *FOREIGN)
    )
    assert not (workplace / "out").exists()


@pytest.mark.parametrize("name", ["a\nb", "", " ", "\ud800", "\x1b[2J"])
def test_a_category_that_lists_of_classes_could_not_hold_is_refused(workplace, name):
    square = [[5, 5, 25, 5, 25, 23, 5, 23]]
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "segmentation": square}],
        "categories": [{"id": 4, "name": name}],
    }
    (workplace / "c.json").write_text(json.dumps(content))
    for form in ("yolo", "svg", "coco"):
        message = one_error(run("refine", "c.json", *FOREIGN, "-f", form))
        assert "c.json has a category" in message
        assert run("refine", "c.json", *FOREIGN, "-f", form, "--label", "x").exit_code == 0


def test_a_broken_image_does_not_keep_the_others_from_being_refined(workplace, monkeypatch):
    save(rectangles(left=1))
    Image.fromarray(photo(SIZE, seed=4)).save("b.png")
    for name in ("a", "b"):
        words = ["refine", "m.png", "--image", f"{name}.png", "-a", "a.safetensors", "-o", "lm"]
        run(*words, "-f", "labelme")
        shutil.copy(f"{name}.png", "lm")
        path = workplace / "lm" / f"{name}.json"
        path.write_text(path.read_text().replace("../", ""))
    whole = samtune.images.read_image

    def broken(path):
        if path.name == "a.png":
            raise ImageError("a.png is damaged")
        return whole(path)

    monkeypatch.setattr("samtune.images.read_image", broken)
    result = run("refine", "lm", *FOREIGN)
    assert "a.png is damaged" in one_error(result)
    assert "1 of 2 images failed" in result.stderr
    assert files_in(workplace / "out") == {"b.json"}


def test_the_overlay_shows_where_the_points_were_and_are(workplace):
    Image.new("RGB", SIZE[::-1], (60, 60, 60)).save("a.png")
    save(rectangles(left=255))
    result = run(*WORDS, "--overlay", "--json")
    assert json.loads(result.stdout)["overlay"] == "m.refined.overlay.jpg"
    plain, drawn = (
        np.asarray(Image.open(name), int) for name in ("a.png", "m.refined.overlay.jpg")
    )
    assert drawn.shape == plain.shape
    changed = np.abs(drawn - plain).max(axis=2) > 60
    assert changed[5, 4:7].all()  # the contour's first point was here, above the mask of now
    assert changed[10, 5:25].mean() > 0.9
    assert not changed[:, 40:].any()
    run(*WORDS, "--overlay", "-f", "png", "-o", "out")
    assert files_in(workplace / "out") == {"a.mask.png", "a.overlay.jpg"}


def test_a_mask_without_its_image_is_wrong_usage():
    save(rectangles(left=255))
    result = run("refine", "m.png", "-a", "a.safetensors")
    assert result.exit_code == 2
    assert "--image" in result.stderr


@pytest.mark.parametrize("words", [["--images", "."], ["--label", "plate"]])
def test_what_only_annotations_have_is_wrong_usage_of_a_mask(workplace, words):
    save(rectangles(left=255))
    result = run(*WORDS, *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr
    assert "m.refined.png" not in files_in(workplace)


@pytest.mark.parametrize(
    ("name", "content", "words", "named"),
    [
        ("x.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5", [], "--image"),
        ("x.json", "{", [], "line 1, column 2"),
        ("x.json", '{"shapes": [], "imagePath": "../../b.png"}', [], "--image"),
        (
            "x.json",
            '{"images": [], "annotations": [], "categories": []}',
            ["--image", "a.png"],
            "a.png",
        ),
        ("x.txt", "0 0.1 0.1 0.5", ["--image", "a.png"], "3 numbers"),
        ("x.txt", "0 0.1 0.1 0.5 0.1", ["--image", "a.png"], "is a box"),
    ],
)
def test_bad_annotations_get_one_line_and_nothing_is_written(
    workplace, name, content, words, named
):
    (workplace / name).write_text(content)
    assert named in one_error(run("refine", name, *FOREIGN, *words))
    assert not (workplace / "out").exists()
