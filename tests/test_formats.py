"""Formats that samtune writes, each opened by a reader of its own world."""

import base64
import contextlib
import errno
import functools
import io
import json
import tempfile
import tracemalloc
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import yaml
from command import files_in
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools.coco import COCO
from test_polygons import LATTICE, RING

import samtune.write_coco
from samtune.errors import OutputError
from samtune.formats import FORMATS, open_writers
from samtune.images import IMAGE_SUFFIXES
from samtune.pairs import OWN_ENDINGS
from samtune.prompts import Prompt
from samtune.results import Names, Result
from samtune.writers import Target

SIZE = (12, 17)
# Several masks of one image: noise has every kind of hole and part, and may be empty.
MASKS = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda size: st.lists(arrays(bool, size), min_size=1, max_size=3)
)
ODD_ONES = [RING, np.zeros(RING.shape, bool), np.ones(RING.shape, bool), np.eye(5, dtype=bool)]


def result(mask, label="plate", score=0.75):
    """A mask as the predictor answers it."""
    logits = np.where(mask, 1.5, -2).astype(np.float32)
    return Result(
        mask=mask,
        score=score,
        label=label,
        prompt=Prompt.of(points=[(1, 0)]),
        adapter=None,
        refined=False,
        low_res_logits=np.zeros((256, 256), np.float32),
        logits=lambda: logits,
    )


@contextlib.contextmanager
def writing(form, folder, labels=("plate",), overwrite=False, notes=None):
    """A writer; called with an image's name and masks or results, it writes these."""
    notes = [] if notes is None else notes
    target = Target(Names(Path(folder), keep=[]), labels, overwrite, notes.append)
    writer = open_writers([form], target)[form]

    def write(image, masks, pixels=None):
        results = [one if isinstance(one, Result) else result(one) for one in masks]
        size = results[0].mask.shape
        pixels = np.full((*size, 3), 90, np.uint8) if pixels is None else pixels
        paths = writer.plan(Path(image), results)
        writer.write(Path(image), pixels, results, paths)
        return paths

    yield write
    writer.close()


# A bridge to this hole leads right through a pixel's centre, rounded to YOLO's decimals.
BRIDGED = np.ones((3, 7), dtype=bool)
BRIDGED[1, 1] = False


def every_mask(check):
    """Run a check of (folder, masks) on all kinds of masks."""

    def checked(masks):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder), masks)

    checked.__name__ = check.__name__
    tried = settings(max_examples=60, deadline=None)(given(MASKS)(checked))
    for odd in (ODD_ONES, [LATTICE, ~LATTICE], [BRIDGED]):
        tried = example(odd)(tried)
    return tried


def centres_within(area, size):
    """(H, W) bool: which pixels' centres, counted from the image's corner, an area contains."""
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    return shapely.contains_xy(area, xs.ravel(), ys.ravel()).reshape(size)


def parity(rings):
    """What rings enclose by the even-odd rule."""
    areas = [shapely.make_valid(shapely.Polygon(ring)) for ring in rings]
    return functools.reduce(shapely.symmetric_difference, areas, shapely.Polygon())


# --- each format by its own reader ------------------------------------------------------------


@every_mask
def test_coco_is_what_pycocotools_reads_as_the_same_masks(folder, masks):
    with writing("coco", folder) as write:
        write(folder / "a.jpg", masks)
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(folder / "coco.json")
    full = [mask for mask in masks if mask.any()]  # an empty mask is no object
    found = data.loadAnns(data.getAnnIds(imgIds=[1]))
    assert len(found) == len(full)
    for entry, mask in zip(found, full, strict=True):
        assert (data.annToMask(entry) == mask).all()
        ys, xs = np.nonzero(mask)
        x, y, width, height = entry["bbox"]
        assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert entry["area"] == mask.sum()
        assert (entry["iscrowd"], entry["score"]) == (0, 0.75)
    (image,) = data.loadImgs([1])
    assert (image["file_name"], image["height"], image["width"]) == ("a.jpg", *masks[0].shape)
    assert data.loadCats(data.getCatIds(catNms=["plate"]))[0]["id"] == 1


def read_yolo(path, size):
    """An independent parser: (class, contour in pixels) a line."""
    for line in path.read_text().splitlines():
        number, *shares = line.split()
        points = np.array(shares, dtype=float).reshape(-1, 2)
        assert ((points >= 0) & (points <= 1)).all()
        assert len(points) >= 3
        yield int(number), points * size[::-1]


def winding_is_odd(contour, size):
    """(H, W) bool by the textbook's ray for each pixel centre: bridges there and back cancel."""
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, dtype=bool)
    for ends in zip(contour, np.roll(contour, -1, axis=0), strict=True):
        # From above, or rounding could take a bridge through a centre for two different lines.
        (x0, y0), (x1, y1) = sorted(map(tuple, ends), key=lambda point: point[1])
        if y0 < y1:
            passes = (y0 > ys) != (y1 > ys)
            inside ^= passes & (xs < x0 + (ys - y0) * (x1 - x0) / (y1 - y0))
    return inside


@every_mask
def test_yolo_lines_enclose_the_same_pixels_holes_and_parts_included(folder, masks):
    with writing("yolo", folder) as write:
        (path, *_) = write("a.jpg", masks)
    full = [mask for mask in masks if mask.any()]
    size = masks[0].shape
    found = list(read_yolo(path, size))
    assert len(found) == len(full)
    for (number, contour), mask in zip(found, full, strict=True):
        assert number == 0
        assert (winding_is_odd(contour, size) == mask).all()


def test_yolo_as_opencv_draws_it_keeps_holes_and_parts(tmp_path):
    # Ultralytics and others fill with cv2.fillPoly, which draws outlines as well.
    ys, xs = np.mgrid[:200, :300]
    mask = np.hypot(xs - 100, ys - 100) < 80
    mask &= ~(np.hypot(xs - 90, ys - 100) < 40)
    mask |= np.hypot(xs - 250, ys - 100) < 30
    with writing("yolo", tmp_path) as write:
        (path,) = write("a.jpg", [mask])
    ((_, contour),) = read_yolo(path, mask.shape)
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [contour.astype(np.int32)], 1)
    assert (drawn.astype(bool) & mask).sum() / (drawn.astype(bool) | mask).sum() > 0.95
    assert not drawn[100, 90]


def test_yolo_lists_its_classes_for_both_kinds_of_readers(tmp_path):
    labels = ['a "quoted": name', "plates", "nö"]
    with writing("yolo", tmp_path, labels) as write:
        (path,) = write("a.jpg", [result(RING, "nö")])
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8").splitlines() == labels
    told = yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))
    assert told["names"] == dict(enumerate(labels))
    assert path.read_text().startswith("2 ")


# The keys that LabelMe 6.3.1's reader asks for, and their types (labelme/_label_file.py).
LABELME_FILE = {
    "version": str,
    "flags": dict,
    "shapes": list,
    "imagePath": str,
    "imageData": type(None),
    "imageHeight": int,
    "imageWidth": int,
}
LABELME_SHAPE = {
    "label": str,
    "points": list,
    "group_id": (int, type(None)),
    "description": str,
    "shape_type": str,
    "flags": dict,
    "mask": (str, type(None)),
}


def read_labelme(path):
    """An independent parser: masks by group, in the file's order."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for keys, value in ((LABELME_FILE, data), *((LABELME_SHAPE, one) for one in data["shapes"])):
        assert all(isinstance(value[key], kind) for key, kind in keys.items())
    size = (data["imageHeight"], data["imageWidth"])
    objects = {}
    for number, shape in enumerate(data["shapes"]):
        mask = np.zeros(size, dtype=bool)
        points = np.array(shape["points"])
        assert points.ndim == 2
        if shape["shape_type"] == "mask":
            (x0, y0), (x1, y1) = points.astype(int)
            stored = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
            mask[y0 : y1 + 1, x0 : x1 + 1] = np.asarray(stored).astype(bool)
        else:
            assert shape["shape_type"] == "polygon"
            mask = centres_within(shapely.Polygon(points), size)
        group = shape["group_id"] or f"alone {number}"
        objects[group] = objects.get(group, False) | mask
    return data, list(objects.values())


@every_mask
def test_labelme_shapes_are_the_same_masks(folder, masks):
    with writing("labelme", folder) as write:
        (path, *_) = write(folder / "a.jpg", masks)
    data, found = read_labelme(path)
    assert data["imagePath"] == "a.jpg"
    full = [mask for mask in masks if mask.any()]
    assert len(found) == len(full)
    assert all((one == mask).all() for one, mask in zip(found, full, strict=True))


def test_labelme_finds_the_image_in_another_folder(tmp_path):
    with writing("labelme", tmp_path / "labels") as write:
        (path,) = write(tmp_path / "photos" / "a.jpg", [RING])
    assert read_labelme(path)[0]["imagePath"] == "../photos/a.jpg"


@every_mask
def test_geojson_is_valid_geometry_of_the_same_pixels(folder, masks):
    with writing("geojson", folder) as write:
        (path, *_) = write("a.jpg", masks)
    features = json.loads(path.read_text())["features"]
    assert len(features) == len(masks)
    for feature, mask in zip(features, masks, strict=True):
        assert feature["properties"]["classification"] == {"name": "plate"}
        if feature["geometry"] is None:
            assert not mask.any()
            continue
        area = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert area.is_valid
        assert (centres_within(area, mask.shape) == mask).all()
        for part in getattr(area, "geoms", [area]):  # RFC 7946, section 3.1.6
            assert part.exterior.is_ccw
            assert not any(hole.is_ccw for hole in part.interiors)


@every_mask
def test_svg_paths_enclose_the_same_pixels(folder, masks):
    with writing("svg", folder) as write:
        (path, *_) = write("<a&b>.jpg", masks)
    root = ElementTree.parse(path).getroot()
    height, width = masks[0].shape
    assert root.get("viewBox") == f"0 0 {width} {height}"
    paths = root.findall("{*}path")
    assert len(paths) == len(masks)
    for drawn, mask in zip(paths, masks, strict=True):
        assert drawn.get("fill-rule") == "evenodd"
        assert drawn.get("data-label") == "plate"
        rings = [
            [tuple(map(float, point.split(","))) for point in ring.strip(" M").split()]
            for ring in drawn.get("d").split("Z")[:-1]
        ]
        assert (centres_within(parity(rings), mask.shape) == mask).all()


def read_npz(path):
    with np.load(path) as archive:
        return dict(archive)


@every_mask
def test_npz_holds_mask_logits_and_score(folder, masks):
    with writing("npz", folder) as write:
        paths = write("a.jpg", masks)
    for path, mask in zip(paths, masks, strict=True):
        stored = read_npz(path)
        assert stored["mask"].dtype == bool
        assert (stored["mask"] == mask).all()
        assert ((stored["logits"] > 0) == mask).all()
        assert stored["score"] == 0.75
        assert stored["low_res_logits"].shape == (256, 256)
        assert stored["point_coords"].tolist() == [[1, 0]]


@every_mask
def test_instances_number_the_objects_in_their_order(folder, masks):
    with writing("instances", folder) as write:
        (path, *_) = write("a.jpg", masks)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    expected = np.zeros(masks[0].shape)
    for number, mask in enumerate(masks, start=1):
        expected[mask] = number
    assert (stored == expected).all()


@every_mask
def test_a_cutout_is_the_object_and_nothing_of_what_was_round_it(folder, masks):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (*masks[0].shape, 3), dtype=np.uint8)
    with writing("cutout", folder) as write:
        paths = write("a.jpg", masks, pixels)
    for path, mask in zip(paths, masks, strict=True):
        if not mask.any():
            assert path is None
            continue
        blue_green_red_alpha = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        ys, xs = np.nonzero(mask)
        box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        assert (blue_green_red_alpha[..., 3] == 255 * mask[box]).all()
        colours = blue_green_red_alpha[..., 2::-1]
        assert (colours == pixels[box] * mask[box][..., None]).all()


# --- what no format may do ------------------------------------------------------------

ONE_FILE_AN_IMAGE = ["instances", "yolo", "labelme", "geojson", "svg"]


@pytest.mark.parametrize("form", ONE_FILE_AN_IMAGE)
def test_an_image_that_comes_back_adds_to_its_file(tmp_path, form):
    left, right = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    left[2:9, 1:5] = right[3:8, 9:15] = True
    left[4, 2] = False  # a hole
    with writing(form, tmp_path / "once") as write:
        (once, _) = write("a.jpg", [left, right])
    with writing(form, tmp_path / "twice") as write:
        (first,) = write("a.jpg", [left])
        write("b.jpg", [right])
        (second,) = write("a.jpg", [right])
    assert first == second
    assert second.read_bytes() == once.read_bytes()


def test_coco_lists_an_image_that_comes_back_once(tmp_path):
    with writing("coco", tmp_path) as write:
        write("a.jpg", [RING])
        write("b.jpg", [RING])
        write("a.jpg", [RING])
    data = json.loads((tmp_path / "coco.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["a.jpg", "b.jpg"]
    assert [one["image_id"] for one in data["annotations"]] == [1, 2, 1]
    assert [one["id"] for one in data["annotations"]] == [1, 2, 3]


def test_coco_names_images_as_seen_from_its_folder_and_tells_namesakes_apart(tmp_path):
    with writing("coco", tmp_path / "out") as write:
        for image in ("out/x/a.jpg", "one/a.jpg", "two/a.jpg", "three/two/a.jpg"):
            write(tmp_path / image, [RING])
    data = json.loads((tmp_path / "out" / "coco.json").read_text())
    names = [image["file_name"] for image in data["images"]]
    assert names == ["x/a.jpg", "a.jpg", "two/a.jpg", "three/two/a.jpg"]


def test_coco_collects_beside_its_file_and_says_when_that_place_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "too small to be there"))
    append = samtune.write_coco._append
    with writing("coco", tmp_path / "out") as write:
        write("a.jpg", [RING])

        class Full(io.FileIO):
            def write(self, line):
                super().write(line[:5])
                raise OSError(errno.ENOSPC, "No space left on device")

        def full(spool, entry):
            with Full(spool.fileno(), "r+", closefd=False) as there:
                append(there, entry)

        monkeypatch.setattr(samtune.write_coco, "_append", full)
        with pytest.raises(OutputError, match=r"coco\.json cannot be written: the disk is full"):
            write("b.jpg", [RING])
        monkeypatch.setattr(samtune.write_coco, "_append", append)
        write("c.jpg", [RING])
        write("b.jpg", [RING])
    assert files_in(tmp_path / "out") == {"coco.json"}
    told = json.loads((tmp_path / "out" / "coco.json").read_text())  # no half line is in it
    assert [one["file_name"] for one in told["images"]] == ["a.jpg", "c.jpg", "b.jpg"]
    assert len(told["annotations"]) == 3


def test_coco_of_no_image_is_no_file(tmp_path):
    with writing("coco", tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("coco", "coco.json"),
        ("labelme", "a.json"),
        ("yolo", "a.txt"),
        ("yolo", "classes.txt"),
        ("yolo", "data.yaml"),
        ("geojson", "a.geojson"),
    ],
)
def test_labels_that_people_may_have_made_are_replaced_only_when_told_to(tmp_path, form, name):
    (tmp_path / name).write_text("hours of work")
    before = sorted(path.name for path in tmp_path.iterdir())
    with (
        pytest.raises(OutputError, match=f"{name} exists.*--overwrite"),
        writing(form, tmp_path) as write,
    ):
        write("a.jpg", [RING])
    assert (tmp_path / name).read_text() == "hours of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with writing(form, tmp_path, overwrite=True) as write:
        write("a.jpg", [RING])
    assert "hours" not in (tmp_path / name).read_text()


def test_yolo_adds_to_a_folder_with_the_same_classes(tmp_path):
    for image in ("a.jpg", "b.jpg"):
        with writing("yolo", tmp_path) as write:
            write(image, [RING])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.txt", "b.txt", "classes.txt", "data.yaml"}


@pytest.mark.parametrize("form", FORMATS)
def test_memory_stays_flat_however_many_images_there_are(tmp_path, form):
    ys, xs = np.mgrid[:400, :400]
    ring = abs(np.hypot(xs - 200, ys - 200) - 150) < 40  # its run lengths take 5 KB in coco
    tracemalloc.start()
    try:
        with writing(form, tmp_path) as write:
            for number in range(20):
                write(f"{number}.jpg", [ring])
            before, _ = tracemalloc.get_traced_memory()
            for number in range(20, 50):
                write(f"{number}.jpg", [ring])
            after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 30 * 2500  # names are kept, masks are not


def test_what_a_format_cannot_hold_is_said(tmp_path):
    whole = np.ones(RING.shape, dtype=bool)
    notes = {form: [] for form in FORMATS}
    for form, said in notes.items():
        with writing(form, tmp_path / form, notes=said) as write:
            write("a.jpg", [RING])  # a hole, and a part within it
            write("b.jpg", [RING, whole])
    assert {form for form, said in notes.items() if said} == {"instances", "yolo"}
    assert any("overlap" in sentence for sentence in notes["instances"])
    assert any("holes and separate parts" in sentence for sentence in notes["yolo"])


def test_yolo_says_which_labels_tools_would_not_find(tmp_path):
    notes = []
    with writing("yolo", tmp_path, notes=notes) as write:
        for place in ("a/x.jpg", "b/x.jpg", "a/y.jpg"):
            write(place, [np.ones((4, 5), dtype=bool)])
    (said,) = notes
    assert "b/x.jpg is not the only x" in said
    assert "call it x.2.jpg" in said


def test_a_format_that_holds_everything_in_it_says_nothing(tmp_path):
    plain = np.ones(RING.shape, dtype=bool)
    for form in FORMATS:
        said = []
        with writing(form, tmp_path / form, notes=said) as write:
            write("a.jpg", [plain])
        assert said == []


def test_more_objects_than_a_label_image_has_numbers_are_an_error(tmp_path):
    with writing("instances", tmp_path) as write:
        (path,) = write("a.jpg", [RING])
        cv2.imwrite(str(path), np.full(RING.shape, 65_535, np.uint16))  # as if there were so many
        with pytest.raises(OutputError, match=r"65,535 objects.*coco"):
            write("a.jpg", [RING])


def test_an_image_that_can_be_no_file_keeps_no_name_from_results(tmp_path):
    """A line may ask about one, and gets its error in its place."""
    names = Names(
        tmp_path, keep=[Path("a\0.mask.png"), Path("\ud800.png"), tmp_path / "x.mask.png"]
    )
    assert names.take("a", "mask.png") == [tmp_path / "a.mask.png"]
    assert names.take("x", "mask.png") == [tmp_path / "x.2.mask.png"]


def test_every_picture_that_is_written_is_told_from_a_photo():
    endings = [f"x.{writer.ending}" for writer in FORMATS.values() if hasattr(writer, "ending")]
    pictures = [name for name in endings if Path(name).suffix in IMAGE_SUFFIXES]
    assert len(pictures) == 3
    assert all(name.endswith(OWN_ENDINGS) for name in pictures)


def test_a_photo_that_is_a_link_is_called_by_its_own_name(tmp_path):
    """As git-annex and DVC keep photos."""
    store, photos, out = (tmp_path / name for name in ("store", "photos", "out"))
    for folder in (store, photos, out):
        folder.mkdir()
    (store / "0f3ac9e").touch()
    (photos / "x.jpg").symlink_to(store / "0f3ac9e")
    mask = np.ones((4, 5), dtype=bool)
    with writing("coco", out) as write:
        write(photos / "x.jpg", [mask])
        write(photos / ".." / "photos" / "x.jpg", [mask])  # the same one
    (entry,) = json.loads((out / "coco.json").read_text())["images"]
    assert entry["file_name"] == "x.jpg"
    with writing("labelme", out) as write:
        write(photos / "x.jpg", [mask])
    assert json.loads((out / "x.json").read_text())["imagePath"] == "../photos/x.jpg"
