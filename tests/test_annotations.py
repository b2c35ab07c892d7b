"""COCO, YOLO and LabelMe become the objects that they describe; faults are told by file."""

import base64
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from broken_data import photo, save, without_permission
from hypothesis import given, settings
from PIL import Image
from pycocotools import mask as coco
from test_formats import MASKS, writing

from samtune.dataset import load_dataset
from samtune.errors import DatasetError
from samtune.rle import encode_rle

SIZE = (24, 32)  # (H, W)
SQUARE = [4, 3, 12, 3, 12, 9, 4, 9]  # x, y from the image's corner: pixels 4 to 11 and 3 to 8
SQUARE_MASK = np.zeros(SIZE, dtype=bool)
SQUARE_MASK[3:9, 4:12] = True
CORNER = [0, 0, 5, 0, 5, 4, 0, 4]  # 20 pixels
APART = [20, 15, 30, 15, 30, 20, 20, 20]  # 50 pixels


def masks_of(dataset):
    return [thing.mask() for thing in dataset.objects]


def refused(place, **options):
    """The one line that a data set is refused with."""
    with pytest.raises(DatasetError) as caught:
        load_dataset(place, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- COCO ----------------------------------------------------------------------------------------


def annotation(segmentation=(SQUARE,), **others):
    plain = isinstance(segmentation, tuple)
    return {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": list(segmentation) if plain else segmentation,
        **others,
    }


def write_coco(folder, *annotations, images=None, categories=("car", "plate"), **others):
    """annotations.json with a.jpg beside it; what is None is left out."""
    save(folder / "a.jpg", photo())
    height, width = SIZE
    content = {
        "images": images or [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "annotations": [{**one, "id": number} for number, one in enumerate(annotations, start=1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, start=1)],
        **others,
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps({key: one for key, one in content.items() if one is not None}))
    return path


def test_a_coco_file_becomes_its_objects(tmp_path):
    path = write_coco(tmp_path, annotation(), annotation((CORNER,), category_id=2))
    dataset = load_dataset(path)
    assert [pair.image.name for pair in dataset.pairs] == ["a.jpg"]
    assert dataset.sizes == (SIZE,)
    first, second = masks_of(dataset)
    assert (first == SQUARE_MASK).all()
    assert second.sum() == 20
    assert [thing.label for thing in dataset.objects] == [1, 2]
    assert dataset.describe() == "1 image with 2 objects, 32×24 px"
    assert "2 classes taken together (car, plate)" in dataset.reading.note


def test_every_kind_of_coco_segmentation_gives_the_mask_that_pycocotools_gives(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.random(SIZE) < 0.5
    compressed = coco.encode(np.asfortranarray(noise.astype(np.uint8)))
    size = list(SIZE)
    slanted = [[3.5, 2.25, 30.0, 7.5, 9.75, 20.0], CORNER]
    kinds = [
        {"size": size, "counts": encode_rle(noise)},
        {"size": size, "counts": compressed["counts"].decode()},
        slanted,
    ]
    dataset = load_dataset(write_coco(tmp_path, *(annotation(kind) for kind in kinds)))
    counted, packed, polygons = masks_of(dataset)
    assert (counted == noise).all()
    assert (packed == noise).all()
    theirs = coco.decode(coco.merge(coco.frPyObjects(slanted, *SIZE))).astype(bool)
    # They round vertices to a fifth of a pixel, so centres right at the outline may differ.
    outlines = shapely.MultiLineString([np.reshape(ring + ring[:2], (-1, 2)) for ring in slanted])
    ys, xs = np.nonzero(polygons != theirs)
    assert shapely.distance(outlines, shapely.points(xs + 0.5, ys + 0.5)).max(initial=0) < 0.15
    assert theirs.sum() > 200


@pytest.mark.parametrize("place", [".", "images", "../images", "elsewhere"])
def test_images_are_beside_the_file_in_a_folder_images_or_where_the_user_says(tmp_path, place):
    path = write_coco(tmp_path / "data", annotation())
    (tmp_path / "data" / place).mkdir(exist_ok=True)
    (tmp_path / "data" / "a.jpg").rename(tmp_path / "data" / place / "a.jpg")
    images = tmp_path / "data" / place if place == "elsewhere" else None
    assert len(load_dataset(path, images=images).objects) == 1


def test_a_folder_with_one_coco_file_is_that_file(tmp_path):
    write_coco(tmp_path, annotation())
    assert len(load_dataset(tmp_path).objects) == 1


@pytest.mark.parametrize("wanted", ["plate", "Plate", "2", 2])
def test_a_class_is_chosen_by_name_or_id(tmp_path, wanted):
    path = write_coco(tmp_path, annotation(), annotation((CORNER,), category_id=2))
    dataset = load_dataset(path, class_id=wanted)
    assert [mask.sum() for mask in masks_of(dataset)] == [20]
    assert dataset.reading.note == ""


def test_a_name_that_is_a_number_wins_over_an_id(tmp_path):
    two = [annotation(), annotation((CORNER,), category_id=2)]
    path = write_coco(tmp_path, *two, categories=("2", "1"))
    assert masks_of(load_dataset(path, class_id="2"))[0].sum() == SQUARE_MASK.sum()


def test_an_unknown_class_gets_those_that_there_are(tmp_path):
    path = write_coco(tmp_path, annotation(), annotation())
    message = refused(path, class_id="plates")
    assert "no class plates" in message
    assert "1 car (2), 2 plate (0)" in message
    assert "Is plate meant?" in message
    assert "no object of class plate;" in refused(path, class_id="plate")


def test_images_without_the_class_are_skipped_with_the_reason(tmp_path):
    save(tmp_path / "b.jpg", photo(1))
    images = [{"id": n, "file_name": name} for n, name in ((1, "a.jpg"), (2, "b.jpg"))]
    other = annotation(image_id=2, category_id=2)
    path = write_coco(tmp_path, annotation(), other, images=images)
    dataset = load_dataset(path, class_id="plate")
    assert [pair.image.name for pair in dataset.pairs] == ["b.jpg"]
    skipped = [(one.path.name, one.reason) for one in dataset.skipped]
    assert skipped == [("a.jpg", "class plate does not occur")]


def test_objects_of_an_image_can_be_taken_as_one_or_by_parts(tmp_path):
    path = write_coco(tmp_path, annotation((SQUARE, APART)), annotation())
    areas = {
        meaning: [int(mask.sum()) for mask in masks_of(load_dataset(path, objects=meaning))]
        for meaning in (None, "instances", "mask", "components")
    }
    assert areas == {
        None: [98, 48], "instances": [98, 48], "mask": [98], "components": [48, 50],
    }  # fmt: skip


def test_crowds_boxes_and_objects_without_a_pixel_are_left_out_and_told(tmp_path):
    crowd = annotation({"size": list(SIZE), "counts": [0, 768]}, iscrowd=1)
    speck = annotation(([4.6, 3.6, 4.9, 3.6, 4.9, 3.9],))
    path = write_coco(tmp_path, annotation(), crowd, annotation([]), speck)
    dataset = load_dataset(path)
    assert len(dataset.objects) == 1
    reasons = {one.reason for one in dataset.skipped}
    assert reasons == {
        "1 annotation of a crowd", "1 annotation without an outline", "1 object without a pixel",
    }  # fmt: skip


def test_nothing_but_boxes_says_what_is_needed(tmp_path):
    assert "polygons or masks" in refused(write_coco(tmp_path, annotation([])))


def test_missing_images_are_listed(tmp_path):
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(1, 4)]
    message = refused(write_coco(tmp_path, annotation(), images=images))
    assert "has 3 faults" in message
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        assert name in message
    assert "--images" in message


@pytest.mark.parametrize(
    "name",
    [
        "../outside.jpg",
        "sub/../../outside.jpg",
        "..\\outside.jpg",
        "{outside}",
        "C:\\outside.jpg",
        "\\\\server\\share\\outside.jpg",
        "link.jpg",
        "linked/outside.jpg",
    ],
)
def test_a_file_name_never_leads_out_of_the_folder(tmp_path, name):
    outside = save(tmp_path / "outside.jpg", photo())
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "link.jpg").symlink_to(outside)
    (data / "linked").symlink_to(tmp_path)
    images = [{"id": 1, "file_name": name.format(outside=outside)}]
    message = refused(write_coco(data, annotation(), images=images))
    assert "leads out of" in message
    assert repr(images[0]["file_name"]) in message


@pytest.mark.parametrize("name", [None, 7, "", "..", "a\0b", "a" * 5000])
def test_what_is_no_file_name_is_a_fault(tmp_path, name):
    path = write_coco(tmp_path, annotation(), images=[{"id": 1, "file_name": name}])
    assert "no file name" in refused(path)


def test_a_folder_reached_by_a_link_is_as_good_as_any(tmp_path):
    write_coco(tmp_path / "data", annotation())
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(load_dataset(tmp_path / "link" / "annotations.json").objects) == 1


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (annotation(([1, 2, 3, 4],)), "polygon of 2 points: an outline has three or more"),
        (annotation(([1, 2],)), "polygon of 1 point:"),
        (annotation(([1, 2, 3, 4, 5, 6, 7],)), "7 numbers"),
        (annotation(([1, 2, 3, "4", 5, 6],)), "no list of numbers"),
        (annotation(([1, 2, 3, float("nan"), 5, 6],)), "not all finite"),
        (annotation(([1, 2, 3, 10**400, 5, 6],)), "not all finite"),
        (annotation("polygon"), "neither polygons nor run lengths"),
        (annotation({"size": [9, 9], "counts": [81]}), "size [9, 9], its image is [24, 32]"),
        (annotation({"size": list(SIZE), "counts": [5]}), "add up to 5 pixels"),
        (annotation({"size": list(SIZE), "counts": "~~~"}), "no compressed RLE"),
        (annotation({"size": list(SIZE)}), "without counts"),
        (annotation(category_id=9), "unknown category 9 (there are 1 car, 2 plate)"),
        (annotation(image_id=5), "the image 5"),
    ],
)
def test_a_faulty_annotation_is_named_with_what_is_wrong(tmp_path, broken, said):
    message = refused(write_coco(tmp_path, annotation(), broken))
    assert "annotations.json annotation 2" in message
    assert said in message


def test_vertices_far_beyond_the_image_are_cut_off(tmp_path):
    far = annotation(([10, 5, 1e300, 5, 1e300, 1e300, 10, 1e300],))
    (mask,) = masks_of(load_dataset(write_coco(tmp_path, far)))
    assert mask[5:, 10:].all()
    assert mask.sum() == mask[5:, 10:].size


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [],\n "annotations": [,]}', "line 2, column 18"),
        ("", "line 1, column 1"),
        ("[" * 100_000, "no JSON"),
        ("[]", "holds a list"),
        ('{"images": []}', 'no list "annotations"'),
        ('{"shapes": []}', "LabelMe"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "without id or name"),
        ('{"images": [{}], "annotations": [], "categories": []}', "without an id"),
        ('{"images": [], "annotations": [1], "categories": []}', "is no object"),
        ('{"images": [], "annotations": [], "categories": []}', "holds no object"),
    ],
)
def test_a_file_that_is_no_coco_is_one_line(tmp_path, content, said):
    path = tmp_path / "annotations.json"
    path.write_text(content)
    message = refused(path)
    assert "annotations.json" in message
    assert said in message


def test_a_file_that_is_no_text_or_may_not_be_read_is_one_line(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_bytes(b'{"a": "\xff"}')
    assert "UTF-8" in refused(path)
    with without_permission(path):
        assert "may not be read" in refused(path)


def test_an_image_of_another_size_than_annotated_tells_both(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", "height": 32, "width": 24}]
    message = refused(write_coco(tmp_path, annotation(), images=images))
    assert "is 32×24 px, and 24×32 px in annotations.json (one of them is turned)" in message


def test_a_broken_image_is_a_fault_beside_the_others(tmp_path):
    path = write_coco(tmp_path, annotation(), annotation(category_id=9))
    (tmp_path / "a.jpg").write_text("not a photo")
    assert "has 2 faults" in refused(path)


def test_a_folder_of_images_that_is_not_there_is_named(tmp_path):
    path = write_coco(tmp_path, annotation())
    assert "no_such" in refused(path, images=tmp_path / "no_such")


# --- YOLO ----------------------------------------------------------------------------------------

YOLO_SQUARE = "0 0.125 0.125 0.375 0.125 0.375 0.375 0.125 0.375"  # SQUARE over 32 and 24
YOLO_CORNER = "1 0 0 0.15625 0 0.15625 0.166667 0 0.166667"


def write_yolo(folder, *lines, layout="images", names="names: [car, plate]\n"):
    """A data set of one image in one of the layouts that are found; returns what to read."""
    images, labels, given = {
        "images": ("images", "labels", "."),
        "splits": ("images/train", "labels/train", "."),
        "one split": ("images/train", "labels/train", "images/train"),
        "beside": (".", ".", "."),
    }[layout]
    save(folder / images / "a.jpg", photo())
    (folder / labels).mkdir(parents=True, exist_ok=True)
    (folder / labels / "a.txt").write_text("\n".join(lines) + "\n")
    if names:
        (folder / "data.yaml").write_text(names)
    return folder / given


@pytest.mark.parametrize("layout", ["images", "splits", "one split", "beside"])
def test_yolo_labels_are_found_where_they_use_to_be(tmp_path, layout):
    dataset = load_dataset(write_yolo(tmp_path, YOLO_SQUARE, YOLO_CORNER, layout=layout))
    assert [pair.image.name for pair in dataset.pairs] == ["a.jpg"]
    square, corner = masks_of(dataset)
    assert (square == SQUARE_MASK).all()
    assert corner.sum() == 20


@pytest.mark.parametrize(
    "names", ["names: [car, plate]", "names:\n  0: car\n  1: plate", "names: {1: plate, 0: car}"]
)
def test_yolo_classes_are_chosen_by_name_or_number(tmp_path, names):
    folder = write_yolo(tmp_path, YOLO_SQUARE, YOLO_CORNER, names=names)
    for wanted in ("plate", "1"):
        (mask,) = masks_of(load_dataset(folder, class_id=wanted))
        assert mask.sum() == 20
    assert "0 car (1), 1 plate (1)" in refused(folder, class_id="2")


def test_yolo_classes_without_names_go_by_number_and_classes_txt_names_them(tmp_path):
    folder = write_yolo(tmp_path, YOLO_SQUARE, YOLO_CORNER, names="")
    assert "it has 0 (1), 1 (1)" in refused(folder, class_id="car")
    (folder / "labels" / "classes.txt").write_text("car\nplate\n")
    assert len(load_dataset(folder, class_id="car").objects) == 1


def test_yolo_images_without_labels_and_labels_without_image_are_skipped(tmp_path):
    folder = write_yolo(tmp_path, YOLO_SQUARE)
    save(folder / "images" / "b.jpg", photo(1))
    save(folder / "images" / "c.jpg", photo(2))
    (folder / "labels" / "c.txt").write_text("")
    (folder / "labels" / "gone.txt").write_text(YOLO_SQUARE)
    reasons = {one.path.name: one.reason for one in load_dataset(folder).skipped}
    assert reasons == {
        "b.jpg": "no label file", "c.jpg": "no object", "gone.txt": "labels of no image",
    }  # fmt: skip


def test_how_sure_a_model_was_may_follow_a_yolo_line(tmp_path):
    folder = write_yolo(tmp_path, f"{YOLO_SQUARE} 0.93")
    assert (masks_of(load_dataset(folder))[0] == SQUARE_MASK).all()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.2 0.2", "is a box and no outline"),
        ("0 0.5 0.5", "polygon of 1 point"),
        ("0 0.1 0.1 0.5 0.1 0.5 x", "something else than numbers"),
        ("0 10 10 50 10 50 50", "not from 0 to 1"),
        ("0 0.1 nan 0.5 0.1 0.5 0.5", "not from 0 to 1"),
        ("car 0.1 0.1 0.5 0.1 0.5 0.5", "'car' instead of a class's number"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "class's number"),
        ("7 0.1 0.1 0.5 0.1 0.5 0.5", "unknown class 7 (there are 0 car, 1 plate)"),
    ],
)
def test_a_faulty_yolo_line_is_named_with_its_file(tmp_path, line, said):
    message = refused(write_yolo(tmp_path, YOLO_SQUARE, line))
    assert "labels/a.txt line 2" in message
    assert said in message


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("names: [car\nnc: 2", "line 2"),
        ("names: {a: car}", "numbered from 0"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, car]", "numbered from 0"),  # grows when told
        ("names: [!!float '']", "no YAML that can be read"),  # PyYAML raises an IndexError
        ("names: [!!bool x]", "no YAML that can be read"),  # a KeyError
        ("names: [!!timestamp x]", "no YAML that can be read"),  # an AttributeError
        ("names: [a\0b]", "no YAML that can be read"),  # an error of three lines
        (f"names: [0x{'f' * 5000}]", "numbered from 0"),  # which Python does not write out
    ],
)
def test_a_broken_list_of_yolo_classes_is_one_line(tmp_path, names, said):
    message = refused(write_yolo(tmp_path, YOLO_SQUARE, names=names))
    assert "data.yaml" in message
    assert said in message


@pytest.mark.parametrize("number", ["9" * 5000, "٣", "-1", "1e3"])
def test_a_yolo_class_is_a_number_of_a_few_digits(tmp_path, number):
    message = refused(write_yolo(tmp_path, YOLO_SQUARE.replace("0", number, 1)))
    assert "instead of a class's number" in message
    assert len(message) < 500


def test_masks_beside_labels_are_what_counts(tmp_path):
    folder = write_yolo(tmp_path, YOLO_SQUARE)
    save(folder / "masks" / "a.png", np.full(SIZE, 255, np.uint8))
    assert masks_of(load_dataset(folder))[0].all()


# --- LabelMe -------------------------------------------------------------------------------------


def shape(points=None, label="car", **others):
    points = np.reshape(SQUARE, (-1, 2)).tolist() if points is None else points
    return {"label": label, "points": points, "shape_type": "polygon", **others}


def write_labelme(folder, *shapes, name="a.json", **others):
    """A LabelMe file with its image beside it."""
    if not (folder / "a.jpg").exists():
        save(folder / "a.jpg", photo())
    content = {
        "version": "6.3.1",
        "shapes": list(shapes),
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        **others,
    }
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def test_every_labelme_shape_with_an_area_becomes_its_object(tmp_path):
    ring = np.zeros((6, 8), np.uint8)
    ring[:] = 255
    ring[2:4, 3:5] = 0
    png = io.BytesIO()
    Image.fromarray(ring).save(png, format="PNG")
    folder = write_labelme(
        tmp_path,
        shape(),
        shape([[12, 9], [4, 3]], shape_type="rectangle"),
        shape([[16, 12], [20, 15]], shape_type="circle"),  # centre, and a point 5 away
        shape(
            [[4, 3], [11, 8]],
            shape_type="mask",
            mask=base64.b64encode(png.getvalue()).decode(),
        ),
    )
    polygon, rectangle, circle, mask = masks_of(load_dataset(folder))
    assert (polygon == SQUARE_MASK).all()
    assert (rectangle == SQUARE_MASK).all()
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    assert (circle == (np.hypot(xs - 16, ys - 12) <= 5)).all()
    assert (mask[3:9, 4:12] == (ring > 0)).all()
    assert mask.sum() == 44


def test_labelme_shapes_of_a_group_are_one_object(tmp_path):
    apart = np.reshape(APART, (-1, 2)).tolist()
    shapes = [
        shape(group_id=1),
        shape(apart, group_id=1),
        shape(apart, "plate", group_id=1),  # another label is another object
        shape(),
    ]
    dataset = load_dataset(write_labelme(tmp_path, *shapes))
    assert [int(mask.sum()) for mask in masks_of(dataset)] == [98, 50, 48]


def test_labelme_labels_are_chosen_by_name(tmp_path):
    folder = write_labelme(tmp_path, shape(), shape(label="plate"))
    assert len(load_dataset(folder, class_id="plate").objects) == 1
    assert "it has car (1), plate (1)" in refused(folder, class_id="1")


def test_labelme_points_and_lines_are_left_out_and_told(tmp_path):
    line = shape([[1, 1], [5, 5]], shape_type="line")
    dataset = load_dataset(write_labelme(tmp_path, shape(), line, line))
    assert [one.reason for one in dataset.skipped] == ["2 line (no area)"]


def test_labelme_images_are_beside_the_file_in_the_folder_or_where_the_user_says(tmp_path):
    data = tmp_path / "data"
    write_labelme(data, shape())
    # Labels in a folder of their own: LabelMe writes the way to the image.
    (data / "images").mkdir()
    (data / "a.jpg").rename(data / "images" / "a.jpg")
    (data / "a.json").unlink()
    save(data / "a.jpg", photo())
    write_labelme(data, shape(), name="labels/a.json", imagePath="..\\images\\a.jpg")
    (data / "a.jpg").unlink()
    assert load_dataset(data).pairs[0].image.resolve() == (data / "images" / "a.jpg").resolve()
    labels = data / "labels"
    assert "leads out of" in refused(labels)
    assert len(load_dataset(labels, images=data / "images").objects) == 1


def test_a_labelme_file_renamed_with_its_image_still_finds_it(tmp_path):
    folder = write_labelme(tmp_path, shape(), imagePath="before.jpg")
    assert load_dataset(folder).pairs[0].image.name == "a.jpg"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (shape([[1, 2], [3, 4]]), "polygon of 2 points"),
        (shape([[1, 2, 3], [3, 4]]), "no list of [x, y]"),
        (shape([[1, 2]], shape_type="rectangle"), "rectangle of 1 points"),
        (shape([[1, 2], [3, 4]], shape_type="mask"), "without a PNG"),
        (shape([[1, 2], [3, 4]], shape_type="mask", mask="AAAA"), "without a PNG"),
        ({"points": []}, "without a label"),
    ],
)
def test_a_faulty_labelme_shape_is_named_with_its_file(tmp_path, broken, said):
    message = refused(write_labelme(tmp_path, shape(), broken))
    assert "a.json" in message
    assert said in message


def test_a_labelme_mask_that_leaves_the_image_is_a_fault(tmp_path):
    png = io.BytesIO()
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(png, format="PNG")
    far = shape(
        [[28, 3], [35, 8]], shape_type="mask", mask=base64.b64encode(png.getvalue()).decode()
    )
    assert "leaves the image" in refused(write_labelme(tmp_path, far))


def test_faults_of_several_labelme_files_come_together(tmp_path):
    write_labelme(tmp_path, shape())
    write_labelme(tmp_path, shape(), name="b.json", imagePath="gone.jpg")
    write_labelme(tmp_path, shape(), name="c.json", imagePath="../out.jpg")
    (tmp_path / "d.json").write_text('{"shapes": [\n}')
    message = refused(tmp_path)
    assert "has 3 faults" in message
    for said in ("b.json", "'gone.jpg', which is not there", "c.json", "leads out of", "d.json"):
        assert said in message
    assert "line 2, column 1" in message


def test_classes_of_one_name_are_one_class(tmp_path):
    """As where a project and its only class are called the same."""
    of_both = [annotation(category_id=number) for number in (1, 2)]
    path = write_coco(tmp_path, *of_both, categories=("plate", "plate", "car"))
    assert len(load_dataset(path, class_id="plate").objects) == 2
    assert len(load_dataset(path, class_id="PLATE").objects) == 2
    assert len(load_dataset(path, class_id="1").objects) == 1


def test_labels_of_another_data_set_are_told_by_the_classes_names(tmp_path):
    names = ("eye", "mouth", "nose")
    train = load_dataset(write_labelme(tmp_path / "train", *(shape(label=name) for name in names)))
    val = [shape(label=name) for name in ("ear", "mouth", "nose")]
    held_out = load_dataset(write_labelme(tmp_path / "val", *val))
    assert [one.label for one in train.objects] == [1, 2, 3]
    assert [one.label for one in held_out.in_numbers_of(train).objects] == [0, 2, 3]
    assert train.in_numbers_of(train.subset([0])) is train
    save(tmp_path / "masks" / "a.bmp", photo())
    save(tmp_path / "masks" / "a.png", np.full(SIZE, 5, np.uint8))
    masks = load_dataset(tmp_path / "masks")
    assert masks.in_numbers_of(train) is masks  # numbers in masks mean what they are
    assert train.in_numbers_of(masks) is train


def test_other_json_files_beside_labelme_s_are_skipped(tmp_path):
    write_labelme(tmp_path, shape())
    (tmp_path / "notes.json").write_text("{}")
    reasons = [one.reason for one in load_dataset(tmp_path).skipped]
    assert reasons == ["not of LabelMe"]


# --- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme", "instances"])
def test_what_samtune_writes_it_reads_as_the_same_objects(form):
    @given(MASKS)
    @settings(max_examples=60, deadline=None)
    def check(masks):
        full = [mask for mask in masks if mask.any()]
        if not full or (form == "instances" and sum(full).max() > 1):
            return  # label images cannot hold what overlaps
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            save(folder / "a.jpg", photo(size=masks[0].shape))
            with writing(form, folder) as write:
                write(folder / "a.jpg", full)
            if form == "instances":
                (folder / "a.instances.png").rename(folder / "a.png")
            options = {"objects": "instances"} if form == "instances" else {"class_id": "plate"}
            dataset = load_dataset(folder, **options)
            assert len(dataset.objects) == len(full)
            for thing, mask in zip(dataset.objects, full, strict=True):
                assert (thing.mask() == mask).all()

    check()


def test_the_same_objects_in_two_formats_have_one_fingerprint(tmp_path):
    coco_file = write_coco(tmp_path / "coco", annotation(), categories=("car",))
    labelme = write_labelme(tmp_path / "labelme", shape())
    other = write_coco(tmp_path / "other", annotation((CORNER,)), categories=("car",))
    first, second, third = (load_dataset(place) for place in (coco_file, labelme, other))
    assert first.fingerprint() == second.fingerprint() != third.fingerprint()
