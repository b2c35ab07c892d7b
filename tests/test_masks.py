"""masks.py: what the numbers in mask files mean, and the objects they make."""

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.Image import Resampling

from samtune.masks import (
    DatasetObject,
    LabelReading,
    count_values,
    decide_reading,
    objects_in,
    solid_values,
)
from samtune.metrics import iou

SIDES = st.integers(1, 12)
MASKS = arrays(bool, st.tuples(SIDES, SIDES))


def _meaning(*values_of_masks: set[int]) -> str:
    return decide_reading([Counter(dict.fromkeys(v, 10)) for v in values_of_masks]).meaning


@given(arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 2)))
@settings(max_examples=100, deadline=None)
def test_solid_values_are_those_that_opencv_erodes_to_something(labels):
    kept = {
        value
        for value in (1, 2)
        if cv2.erode((labels == value).astype(np.uint8), np.ones((3, 3)), borderValue=0).any()
    }
    assert solid_values(labels) == kept


def drawn(kind):
    """A mask at twice the size, 0 and 255: a plate, a crack of 4 px, or dots of 9 px."""
    mask = np.zeros((200, 300), np.uint8)
    if kind == "plate":
        cv2.ellipse(mask, (150, 100), (120, 60), 20, 0, 360, 255, -1)
    if kind == "crack":
        cv2.polylines(mask, [np.array([(10, 20), (150, 90), (280, 180)])], False, 255, 4)
    if kind == "dots":
        for x, y in np.random.default_rng(0).integers(10, 190, (30, 2)):
            cv2.circle(mask, (int(x), int(y)), 4, 255, -1)
    return mask


@pytest.mark.parametrize("kind", ["plate", "crack", "dots"])
@pytest.mark.parametrize("scale", [0.5, 0.4])
@pytest.mark.parametrize("way", [Resampling.BOX, Resampling.BILINEAR, Resampling.BICUBIC])
def test_masks_that_were_scaled_with_soft_edges_are_no_labels(kind, scale, way):
    size = (round(300 * scale), round(200 * scale))
    soft = np.asarray(Image.fromarray(drawn(kind)).resize(size, way))
    reading = decide_reading([count_values(soft)], solid=solid_values(soft))
    assert (reading.meaning, reading.threshold) == ("mask", 128)
    assert "smeared" in reading.note


@pytest.mark.parametrize("spread", [1, 5, 85], ids=["1, 2, 3", "5, 10, 15", "85, 170, 255"])
def test_labels_of_small_things_are_labels_whatever_their_numbers(spread):
    labels = np.zeros((40, 60), np.uint8)
    for number in (1, 2, 3):
        labels[10 * number : 10 * number + 3, 5:8] = number * spread
    reading = decide_reading([count_values(labels)], solid=solid_values(labels))
    assert reading.meaning == "instances"
    dots = np.zeros((40, 600), np.uint8)
    dots[5, ::2][:255] = np.arange(1, 256)  # a pixel each
    reading = decide_reading([count_values(dots)], solid=solid_values(dots))
    assert (reading.meaning, reading.threshold) == ("instances", 1)


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_an_object_gives_back_the_mask_it_was_made_of(mask):
    mask[0, 0] = True  # an object has a pixel
    thing = DatasetObject.of(mask)
    assert (thing.mask() == mask).all()
    assert thing.mask().dtype == bool
    assert thing.area == mask.sum()
    x0, y0, x1, y1 = thing.box
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    # Tight: none of the box's four sides is empty.
    crop = mask[y0:y1, x0:x1]
    assert all(side.any() for side in (crop[0], crop[-1], crop[:, 0], crop[:, -1]))


@settings(deadline=None)
@given(st.tuples(*[arrays(bool, (5, 7))] * 2))
def test_an_object_s_iou_is_that_of_its_mask(masks):
    one, other = masks
    if one.any():
        found = DatasetObject.of(one).iou(other, int(other.sum()))
        assert found == iou(other, one)


def test_an_object_of_a_large_image_takes_a_few_kilobytes():
    ys, xs = np.mgrid[:2000, :3000]
    thing = DatasetObject.of((xs - 1500) ** 2 + (ys - 1000) ** 2 < 900**2)
    assert len(thing.bits) < 20_000  # of 6,000,000 pixels


def test_an_empty_mask_is_no_object():
    with pytest.raises(ValueError, match="no pixel"):
        DatasetObject.of(np.zeros((3, 3), dtype=bool))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_are_counted_without_the_background(dtype):
    labels = np.array([[0, 1, 1], [200, 0, 1]], dtype=dtype)
    assert count_values(labels) == {1: 3, 200: 1}


def test_negative_numbers_are_background():
    # Some tools write -1 for "unlabelled".
    assert count_values(np.array([[-1, 2]])) == {2: 1}


@pytest.mark.parametrize(
    "values_of_masks",
    [
        [{1}, {1}],
        [{255}, set()],
        [{1}, {255}],  # two tools had a hand in it
        [{65535}],
        [{38}],  # one class of a palette
    ],
)
def test_one_number_is_one_object_an_image(values_of_masks):
    assert _meaning(*values_of_masks) == "mask"


@pytest.mark.parametrize("values_of_masks", [[{1, 2}], [{1}, {1, 2, 3}, {1}], [{85, 170, 255}]])
def test_several_numbers_are_instances_in_all_masks(values_of_masks):
    # The second: most images have one plate only, and it is still an instance label.
    assert _meaning(*values_of_masks) == "instances"


def test_what_the_user_says_is_one_object_holds():
    counts = [Counter({1: 50, 2: 50})]
    assert decide_reading(counts, "mask").meaning == "mask"
    assert decide_reading(counts, "components").meaning == "components"
    assert decide_reading([Counter({1: 50})], "instances").meaning == "instances"


@pytest.mark.parametrize("several_in_one", [{1, 2, 255}, {1, 255}])
def test_255_beside_instance_labels_is_void(several_in_one):
    # Pascal VOC draws a border of 255 round every object.
    reading = decide_reading([Counter(dict.fromkeys(several_in_one, 9)), Counter({1: 9, 2: 9})])
    assert (reading.meaning, reading.void) == ("instances", 255)
    assert "void" in reading.note
    labels = np.array([[255, 1, 255, 0]])
    objects, _ = objects_in(labels, reading, 0)
    assert [thing.label for thing in objects] == [1]


def test_255_is_an_object_where_the_other_labels_do_not_count_from_1():
    reading = decide_reading([Counter({127: 9, 255: 9})])
    assert (reading.meaning, reading.void) == ("instances", None)
    full = decide_reading([Counter(dict.fromkeys(range(1, 256), 9))])
    assert full.void is None  # the 255th of 255


def test_masks_with_soft_edges_are_one_object_and_not_two_hundred():
    # A 0/255 mask that was resized with interpolation.
    soft = Counter(dict.fromkeys(range(1, 255), 2)) + Counter({255: 5000})
    reading = decide_reading([soft])
    assert (reading.meaning, reading.threshold) == ("mask", 128)
    assert "smeared" in reading.note
    (thing,), _ = objects_in(np.array([[0, 60, 127, 128, 255, 255]]), reading, 0)
    assert thing.mask().tolist() == [[False, False, False, True, True, True]]
    # Parts can still be told apart, and only the user can insist on instances.
    assert decide_reading([soft], "components").threshold == 128
    assert decide_reading([soft], "instances").meaning == "instances"


@given(
    arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 5))
)
@settings(max_examples=50, deadline=None)
def test_every_instance_label_is_an_object_with_exactly_its_pixels(labels):
    objects, specks = objects_in(labels, LabelReading("instances"), image_index=3)
    assert [thing.label for thing in objects] == sorted(set(labels.ravel().tolist()) - {0})
    for thing in objects:
        assert (thing.mask() == (labels == thing.label)).all()
        assert (thing.image_index, thing.size) == (3, labels.shape)
    assert specks == 0


def test_a_class_is_one_object_an_image_and_its_parts_on_demand():
    labels = np.zeros((8, 12), dtype=np.uint8)
    labels[1:3, 1:3] = labels[4:7, 6:11] = 4  # two eyes
    labels[0, :] = 2  # another class
    (whole,), _ = objects_in(labels, LabelReading("mask", class_id=4), 0)
    assert (whole.mask() == (labels == 4)).all()
    assert whole.label == 4
    parts, _ = objects_in(labels, LabelReading("components", class_id=4), 0)
    assert sorted(part.area for part in parts) == [4, 15]
    assert objects_in(labels, LabelReading("mask", class_id=9), 0) == ([], 0)


def test_pixels_that_touch_by_a_corner_are_one_component():
    parts, _ = objects_in(np.eye(5, dtype=np.uint8), LabelReading("components"), 0)
    assert len(parts) == 1


def test_specks_that_sam_cannot_draw_are_left_out_of_components_and_counted():
    labels = np.zeros((1024, 512), dtype=np.uint8)  # a decoder's pixel has 4×4 of these
    labels[10:14, 10:14] = 1
    labels[100:103, 100:105] = 1  # 15 pixels, one too few
    labels[500, 500] = 1
    parts, specks = objects_in(labels, LabelReading("components"), 0)
    assert [part.area for part in parts] == [16]
    assert specks == 2
    # In small images a single pixel counts.
    tiny, specks = objects_in(labels[480:520, 480:], LabelReading("components"), 0)
    assert ([part.area for part in tiny], specks) == ([1], 0)
