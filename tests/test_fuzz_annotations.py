"""Annotations from anybody: COCO, YOLO and LabelMe are read, or refused in one line."""

import base64
import io
import json
import os
import signal

import numpy as np
import pytest
from broken_data import disk, photo, save
from command import files_in, one_error, run, use_instead_of_weights, write_adapter
from fuzzing import (
    ANYTHING,
    NUMBERS,
    TEXTS,
    answer_or_refusal,
    cases,
    changed,
    damaged_text,
    everything_below,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from samtune.dataset import load_dataset
from samtune.errors import DatasetError
from samtune.foreign_masks import read_foreign_masks
from samtune.images import image_size
from samtune.prompt_text import parse_prompt_line
from samtune.rle import decode_rle, encode_rle

SIZE = (24, 32)
MASK = disk() > 0


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


COCO = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 24, "width": 32},
        {"id": 2, "file_name": "sub/b.png"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[4, 3, 12, 3, 12, 9, 4, 9]]},
        {
            "id": 2,
            "image_id": 2,
            "category_id": 2,
            "segmentation": {"size": [24, 32], "counts": encode_rle(MASK)},
            "bbox": [1, 2, 3, 4],
            "iscrowd": 0,
        },
        {
            "id": 3,
            "image_id": 1,
            "category_id": 2,
            "segmentation": {"size": [24, 32], "counts": "PP7"},
            "bbox": [1.5, 2, 3, 4],
        },
    ],
    "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "plate"}],
}
LABELME = {
    "version": "6.3.1",
    "flags": {},
    "shapes": [
        {"label": "a", "points": [[4, 3], [12, 3], [12, 9]], "shape_type": "polygon"},
        {"label": "a", "points": [[1, 2], [9, 9]], "shape_type": "rectangle", "group_id": 1},
        {"label": "b", "points": [[15, 9], [18, 9]], "shape_type": "circle", "group_id": 1},
        {"label": "b", "points": [[2, 3], [33, 26]], "shape_type": "mask", "mask": png(MASK[:9])},
    ],
    "imagePath": "a.jpg",
    "imageData": None,
    "imageHeight": 24,
    "imageWidth": 32,
}
YOLO = "0 0.1 0.1 0.9 0.1 0.5 0.8\n1 0.2 0.2 0.4 0.2 0.4 0.6 0.2 0.7 0.93\n"
YAML = "path: ..\nnames:\n  0: car\n  1: plate\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with images that annotations name, and a link that leads out of it."""
    folder = tmp_path_factory.mktemp("data") / "inside"
    save(folder / "a.jpg", photo(1))
    save(folder / "sub" / "b.png", photo(2))
    outside = save(folder.parent / "outside.jpg", photo(3))
    (folder / "link.jpg").symlink_to(outside)
    (folder / "circle.jpg").symlink_to("circle.jpg")
    return folder


def is_read_or_refused(place, folder, **options):
    """A data set of objects within their images, all of them in the folder; or one line."""
    dataset = answer_or_refusal(lambda: load_dataset(place, **options), DatasetError)
    for index, pair in enumerate(dataset.pairs if dataset else ()):
        assert pair.image.resolve().is_relative_to(folder.resolve())
        assert any(thing.image_index == index for thing in dataset.objects)
    for thing in dataset.objects if dataset else ():
        assert thing.mask().shape == dataset.sizes[thing.image_index]
        assert thing.area > 0
    return dataset


_ODD = ["../outside.jpg", "sub/../../outside.jpg", "..\\outside.jpg", "C:\\x.jpg", "//server/x.jpg"]
_ODD += ["link.jpg", "circle.jpg", "sub", "sub/", "./a.jpg", "sub/./b.png", "a.jpg/", "A.JPG"]
_ODD += ["a.jpg/../a.jpg", "/dev/zero", "/proc/self/mem", "a.jpg\0.png", "sub\\b.png"]
NAMES = TEXTS | st.sampled_from([*_ODD, "x/" * 200 + "a.jpg"])
TWICE = changed(COCO).flatmap(lambda once: changed(once) | st.just(once))


@cases(200)
@given(
    content=changed(COCO).flatmap(lambda once: changed(once) | st.just(once)), boxes=st.booleans()
)
def test_coco_files_with_anything_anywhere(content, boxes, data):
    path = data / "coco.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    is_read_or_refused(path, data, boxes=boxes)
    answer_or_refusal(lambda: read_foreign_masks(path, data / "a.jpg"), DatasetError)


@cases(100)
@given(content=damaged_text(json.dumps(COCO)))
def test_coco_files_that_are_damaged_text(content, data):
    path = data / "coco.json"
    path.write_bytes(content)
    is_read_or_refused(path, data)


@cases(100)
@given(name=NAMES)
def test_coco_names_lead_nowhere_else(name, data):
    path = data / "coco.json"
    path.write_text(json.dumps({**COCO, "images": [{"id": 1, "file_name": name}]}))
    annotations = [COCO["annotations"][0]]
    path.write_text(
        json.dumps({**COCO, "images": [{"id": 1, "file_name": name}], "annotations": annotations})
    )
    is_read_or_refused(path, data)


@cases(60)
@given(
    polygon=st.lists(NUMBERS | st.floats(width=32), min_size=0, max_size=12),
    box=st.lists(NUMBERS, min_size=4, max_size=4),
)
def test_coco_polygons_and_boxes_of_any_numbers(polygon, box, data):
    path = data / "coco.json"
    one = {**COCO["annotations"][0], "segmentation": [polygon], "bbox": box}
    other = {**one, "id": 2, "segmentation": None}
    path.write_text(json.dumps({**COCO, "annotations": [one, other]}))
    is_read_or_refused(path, data, boxes=True)


@cases(100)
@given(
    counts=st.lists(st.integers(-3, 800) | NUMBERS, max_size=12)
    | st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12)
    | TEXTS
)
def test_run_lengths_give_a_mask_of_their_size_or_a_valueerror(counts):
    try:
        mask = decode_rle(counts, SIZE)
    except ValueError as error:
        assert str(error)  # noqa: PT017, whichever it is
        return
    assert mask.shape == SIZE
    assert decode_rle(encode_rle(mask), SIZE).tolist() == mask.tolist()


@cases(150)
@given(content=changed(LABELME).flatmap(lambda once: changed(once) | st.just(once)))
def test_labelme_files_with_anything_anywhere(content, data):
    folder = data / "labelme"
    save(folder / "a.jpg", photo(1))
    (folder / "a.json").write_text(json.dumps(content), encoding="utf-8")
    is_read_or_refused(folder, folder)
    answer_or_refusal(lambda: read_foreign_masks(folder / "a.json"), DatasetError)


@cases(60)
@given(name=NAMES, content=st.none() | damaged_text(json.dumps(LABELME)))
def test_labelme_names_and_damaged_text(name, content, data):
    folder = data / "labelme"
    save(folder / "a.jpg", photo(1))
    whole = json.dumps({**LABELME, "imagePath": name}).encode()
    (folder / "a.json").write_bytes(whole if content is None else content)
    is_read_or_refused(folder, folder)


@cases(60)
@given(encoded=TEXTS | st.binary(max_size=80).map(lambda b: base64.b64encode(b).decode()))
def test_labelme_masks_that_are_no_png(encoded, data):
    folder = data / "labelme"
    save(folder / "a.jpg", photo(1))
    shape = {**LABELME["shapes"][3], "mask": encoded}
    (folder / "a.json").write_text(json.dumps({**LABELME, "shapes": [shape]}), encoding="utf-8")
    is_read_or_refused(folder, folder)


@cases(150)
@given(
    labels=damaged_text(YOLO) | st.binary(max_size=30),
    names=st.none() | damaged_text(YAML) | st.binary(max_size=30),
    boxes=st.booleans(),
)
def test_yolo_labels_and_names_that_are_damaged_text(labels, names, boxes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolo")
    save(folder / "images" / "a.jpg", photo())
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_bytes(labels)
    if names is not None:
        (folder / "data.yaml").write_bytes(names)
    is_read_or_refused(folder, folder, boxes=boxes)
    answer_or_refusal(
        lambda: read_foreign_masks(folder / "labels" / "a.txt", folder / "images" / "a.jpg"),
        DatasetError,
    )


YAML_TAGS = ["int", "float", "bool", "timestamp", "binary", "null", "str", "omap", "pairs", "set"]
YAML_VALUES = ["''", "x", "[]", "[1]", "{}", "0x" + "f" * 5000, "2026-99-99", "&a [*a]"]
YAML_PLACES = ["names: [{}]", "names: {{0: {}}}", "names: {}", "{}: 1", "names: {{{}: a}}"]
YAML_TAGS += ["python/object/apply:os.system", "python/name:os.system", "map", "seq", "x"]


@cases(100)
@given(
    tag=st.sampled_from(YAML_TAGS),
    value=st.sampled_from(
        ["''", "x", "[]", "[1]", "{}", "0x" + "f" * 5000, "2026-99-99", "&a [*a]"]
    ),
    place=st.sampled_from(
        ["names: [{}]", "names: {{0: {}}}", "names: {}", "{}: 1", "names: {{{}: a}}"]
    ),
)
def test_yaml_with_any_tag(tag, value, place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolo")
    save(folder / "a.jpg", photo())
    (folder / "a.txt").write_text(YOLO)
    (folder / "data.yaml").write_text(place.format(f"!!{tag} {value}"))
    is_read_or_refused(folder, folder)


def test_the_numbers_of_classes_have_an_end(tmp_path):
    save(tmp_path / "a.jpg", photo())
    (tmp_path / "a.txt").write_text("9" * 5000 + YOLO[1:])
    with pytest.raises(DatasetError, match=r"a\.txt line 1"):
        load_dataset(tmp_path)
    masks = tmp_path / "masks"
    save(masks / "a.png", disk())
    save(masks / "a.jpg", photo())
    with pytest.raises(DatasetError, match="numbers from 1 on"):
        load_dataset(masks, class_id="9" * 5000)


@cases(60)
@given(content=changed(COCO), named=ANYTHING)
def test_prompts_of_any_coco_file_are_lines_for_segment(content, named, data):
    path = data / "coco.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    words = ["--class", named] if isinstance(named, str) and named[:1] != "-" else []
    result = run("prompts", path, "--box", *words)
    if result.exit_code:
        one_error(result)
        return
    for line in result.stdout.splitlines():
        prompt = parse_prompt_line(line)
        assert prompt.image.resolve().is_relative_to(data.resolve())
        prompt.prompt.check_inside(image_size(prompt.image))


def test_pipes_among_annotations_are_not_waited_for(tmp_path):
    save(tmp_path / "a.jpg", photo())
    os.mkfifo(tmp_path / "a.json")
    signal.alarm(10)
    try:
        for place in (tmp_path, tmp_path / "a.json"):
            with pytest.raises(DatasetError):
                load_dataset(place)
    finally:
        signal.alarm(0)


# --- what is written, and where ------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tiny_sam, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter") / "a.safetensors", tiny_sam)


@cases(40)
@given(
    images=st.lists(NAMES, min_size=1, max_size=3),
    names=st.lists(TEXTS, min_size=1, max_size=3),
    form=st.sampled_from(["png", "coco", "yolo", "labelme", "geojson", "svg", "instances,cutout"]),
)
def test_refining_writes_into_its_folder_alone(
    images, names, form, data, adapter, tiny_sam, monkeypatch, tmp_path_factory
):
    """Names of images and classes come from the file, and decide names and contents of others."""
    work = tmp_path_factory.mktemp("work")
    use_instead_of_weights(tiny_sam, monkeypatch, work)
    monkeypatch.setenv("SAMTUNE_HOME", str(work / "home"))
    path = data / "coco.json"
    annotations = [
        {**COCO["annotations"][0], "id": number, "image_id": number, "category_id": number % 3}
        for number, _ in enumerate(images)
    ]
    content = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(images)],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    before = everything_below(data.parent)
    out = work / "out"
    words = ["-o", out, "-f", form, "--json", "--quiet"]
    result = run("refine", path, "--adapter", adapter, *words)
    assert everything_below(data.parent) == before
    outside = {name for name in files_in(work) if name.split("/")[0] not in ("out", "home")}
    assert outside == {"tiny.safetensors"}
    if result.exit_code == 1 and not result.stdout:
        one_error(result)
        return
    told = [json.loads(line) for line in result.stdout.splitlines()]
    for one in told:
        for file in one["files"].values():
            assert file is None or (out / os.path.basename(file)).is_file()  # noqa: PTH119
    if form == "yolo":
        is_read_or_refused_as_written(out, told)


def is_read_or_refused_as_written(out, told):
    """classes.txt and data.yaml have a name a class, whatever characters are in it."""
    import yaml

    told_names = {one["label"] for one in told}
    numbered = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))["names"]
    assert told_names <= set(numbered.values())
    lines = (out / "classes.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(numbered) + 1


@pytest.mark.parametrize("form", ["png", "coco", "yolo", "labelme", "geojson", "svg", "instances"])
def test_links_where_results_go_are_replaced_and_not_followed(
    form, data, adapter, tiny_sam, monkeypatch, tmp_path
):
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    names = ["a.mask.png", "coco.json", "a.txt", "classes.txt", "data.yaml", "a.json"]
    for name in [*names, "a.geojson", "a.svg", "a.instances.png"]:
        (out / name).symlink_to(victim)
    words = ["--adapter", adapter, "-o", out, "-f", form, "--overwrite", "--quiet"]
    result = run("segment", data / "a.jpg", "--point", "9,9", *words)
    assert result.exit_code == 0, result.output
    assert victim.read_bytes() == b"precious"
    assert any(not path.is_symlink() for path in out.iterdir())


def test_links_in_a_circle_where_results_go_are_no_traceback(data, tiny_sam, monkeypatch, tmp_path):
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path)
    for name in ("a.mask.png", "a.json"):
        (tmp_path / name).symlink_to(name)
    for form in ("png", "labelme"):
        result = run("segment", data / "a.jpg", "--point", "9,9", "-o", tmp_path, "-f", form)
        assert result.exit_code == 0 or one_error(result)


def test_what_is_drawn_is_what_numpy_says(data):
    """The corpus itself is whole, or the tests above would test nothing."""
    path = data / "coco.json"
    path.write_text(json.dumps(COCO))
    with pytest.raises(DatasetError, match="annotation 3"):
        load_dataset(path)
    path.write_text(json.dumps({**COCO, "annotations": COCO["annotations"][:2]}))
    dataset = load_dataset(path)
    square = np.zeros(SIZE, bool)
    square[3:9, 4:12] = True
    assert [thing.mask().tolist() for thing in dataset.objects] == [square.tolist(), MASK.tolist()]
