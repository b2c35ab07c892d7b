"""dataset.py: a folder becomes objects, and a broken one a message that says what to mend."""

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import broken_data
import numpy as np
import pytest
from broken_data import NAMED_BY_FAULT, SIZE, disk, healthy, photo, save
from PIL import Image

from samtune.dataset import load_dataset, split
from samtune.errors import DatasetError


def _images(dataset) -> set[str]:
    return {pair.image.name for pair in dataset.pairs}


# --- a healthy folder ---------------------------------------------------------------------------


def test_a_folder_becomes_pairs_and_objects(tmp_path):
    dataset = load_dataset(healthy(tmp_path, count=3))
    assert [pair.image.name for pair in dataset.pairs] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [pair.mask.name for pair in dataset.pairs] == ["0.png", "1.png", "2.png"]
    assert [thing.image_index for thing in dataset.objects] == [0, 1, 2]
    assert all((thing.mask() == (disk() > 0)).all() for thing in dataset.objects)
    assert dataset.sizes == (SIZE,) * 3
    assert dataset.skipped == ()
    assert dataset.describe() == "3 images with 3 objects, 32×24 px"


def test_the_description_names_the_range_of_sizes(tmp_path):
    healthy(tmp_path, count=1)
    save(tmp_path / "images" / "big.png", photo(size=(30, 50)))
    save(tmp_path / "masks" / "big.png", disk(size=(30, 50)))
    assert load_dataset(tmp_path).describe() == "2 images with 2 objects, 32×24 px to 50×30 px"


def test_whether_labels_are_instances_is_decided_for_all_masks_together(tmp_path):
    healthy(tmp_path, count=2)
    both = disk(1)
    both[0, :5] = 2
    save(tmp_path / "masks" / "1.png", both)
    save(tmp_path / "masks" / "0.png", disk(1))
    dataset = load_dataset(tmp_path)
    assert dataset.reading.meaning == "instances"
    assert [(thing.image_index, thing.label) for thing in dataset.objects] == [
        (0, 1), (1, 1), (1, 2),
    ]  # fmt: skip


def test_every_connected_part_can_be_an_object(tmp_path):
    healthy(tmp_path, count=1)
    two = disk()
    two[1:4, 24:30] = 255
    save(tmp_path / "masks" / "0.png", two)
    assert len(load_dataset(tmp_path).objects) == 1
    assert len(load_dataset(tmp_path, objects="components").objects) == 2


def test_a_class_is_the_target_and_images_without_it_are_skipped(tmp_path):
    healthy(tmp_path, count=3)
    save(tmp_path / "masks" / "0.png", disk(4))
    save(tmp_path / "masks" / "1.png", disk(2))
    mixed = disk(2)
    mixed[-1, -3:] = 4
    save(tmp_path / "masks" / "2.png", mixed)
    dataset = load_dataset(tmp_path, class_id=4)
    # Image 1 drops out, and image 2 moves up to its place.
    assert [pair.image.name for pair in dataset.pairs] == ["0.jpg", "2.jpg"]
    assert [thing.image_index for thing in dataset.objects] == [0, 1]
    assert (dataset.objects[1].mask() == (mixed == 4)).all()
    (skipped,) = dataset.skipped
    assert (skipped.path.name, skipped.reason) == ("1.jpg", "class 4 does not occur")
    assert [pair.image.name for pair in dataset.empty] == ["1.jpg"]


def test_an_image_with_an_empty_mask_is_skipped_with_the_reason(tmp_path):
    healthy(tmp_path)
    save(tmp_path / "masks" / "1.png", disk(0))
    dataset = load_dataset(tmp_path)
    assert _images(dataset) == {"0.jpg", "2.jpg", "3.jpg"}
    assert [(s.path.name, s.reason) for s in dataset.skipped] == [("1.jpg", "empty mask")]
    assert [pair.mask.name for pair in dataset.empty] == ["1.png"]


def test_images_without_an_object_are_to_train_on(tmp_path):
    healthy(tmp_path, count=9)
    for number in (1, 4, 5, 7):
        save(tmp_path / "masks" / f"{number}.png", disk(0))
    train, held_out = split(load_dataset(tmp_path), 0.4, seed=0)
    assert [pair.image.name for pair in train.empty] == ["1.jpg", "4.jpg", "5.jpg", "7.jpg"]
    assert (len(train.pairs), len(held_out.pairs), held_out.empty) == (3, 2, ())
    assert [pair.image.name for pair in train.some_empty(2)] == ["1.jpg", "7.jpg"]
    assert train.some_empty(9) == list(train.empty)
    assert held_out.some_empty(9) == []
    assert train.in_a_mirror().empty == ()  # what is held out has none


def test_a_mask_of_specks_alone_does_not_say_that_there_is_nothing(tmp_path):
    healthy(tmp_path)
    size = (600, 800)
    speck = disk(0, size=size)
    speck[5, 700] = 255
    save(tmp_path / "images" / "1.jpg", photo(size=size))
    save(tmp_path / "masks" / "1.png", speck)
    dataset = load_dataset(tmp_path, objects="components")
    assert "1.jpg" not in _images(dataset)
    assert dataset.empty == ()


def test_specks_left_out_are_told(tmp_path):
    size = (600, 800)
    mask = disk(size=size)
    mask[5, 700] = 255
    save(tmp_path / "a.jpg", photo(size=size))
    save(tmp_path / "a.png", mask)
    dataset = load_dataset(tmp_path, objects="components")
    assert len(dataset.objects) == 1
    (skipped,) = dataset.skipped
    assert (skipped.path.name, skipped.reason) == ("a.png", "1 speck too small to be an object")


@pytest.mark.parametrize("turned_mask", [True, False])
def test_a_rotated_photo_and_its_mask_are_compared_upright(tmp_path, turned_mask):
    exif = Image.Exif()
    exif[274] = 6  # a phone held upright stores its picture lying down
    Image.fromarray(photo()).save(tmp_path / "a.jpg", exif=exif)
    upright = np.rot90(disk(), -1)
    if turned_mask:  # the mask's file carries the rotation too, or was drawn upright
        Image.fromarray(disk()).save(tmp_path / "a.png", exif=exif)
    else:
        Image.fromarray(upright).save(tmp_path / "a.png")
    dataset = load_dataset(tmp_path)
    assert dataset.sizes == (SIZE[::-1],)
    assert (dataset.objects[0].mask() == (upright > 0)).all()


def test_jpeg_masks_are_one_object_and_not_many_labels(tmp_path):
    size = (60, 80)
    save(tmp_path / "images" / "a.jpg", photo(size=size))
    save(tmp_path / "masks" / "a.jpg", disk(size=size))
    dataset = load_dataset(tmp_path)
    (thing,) = dataset.objects
    difference = (thing.mask() != (disk(size=size) > 0)).sum()
    assert difference <= 0.02 * thing.area


def test_a_16_bit_mask_holds_more_labels_than_a_byte(tmp_path):
    save(tmp_path / "a.jpg", photo())
    labels = disk().astype(np.uint16)
    labels[0, :3] = 700
    save(tmp_path / "a.png", labels)
    assert [thing.label for thing in load_dataset(tmp_path).objects] == [255, 700]


def test_progress_counts_the_pairs_read(tmp_path):
    calls = []
    load_dataset(healthy(tmp_path, count=3), on_progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_memory_stays_flat_as_the_folder_grows(tmp_path):
    size = (400, 600)
    image = save(tmp_path / "photo.jpg", np.full((*size, 3), 90, dtype=np.uint8))
    mask = save(tmp_path / "mask.png", disk(size=size))
    for number in range(20):
        for source, name in ((image, f"images/{number}.jpg"), (mask, f"masks/{number}.png")):
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tmp_path / "data" / name)
    tracemalloc.start()
    dataset = load_dataset(tmp_path / "data")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset.objects) == 20
    one_mask = size[0] * size[1]
    assert kept < one_mask  # 20 masks together take less than one unpacked
    assert peak < 20 * one_mask


# --- broken folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", NAMED_BY_FAULT, ids=lambda fault: fault.__name__)
def test_every_fault_is_one_line_that_names_the_place_and_a_remedy(tmp_path, fault):
    folder = fault(tmp_path)
    with pytest.raises(DatasetError) as caught:
        load_dataset(folder)
    message = str(caught.value)
    assert NAMED_BY_FAULT[fault] in message
    assert "\n" not in message
    # A remedy is a sentence that tells what to do.
    assert any(
        word in message.lower()
        for word in ("give", "add", "keep", "export", "replace", "convert", "scale", "save",
                     "expected", "paint", "does not exist")
    )  # fmt: skip


def test_every_fault_of_the_helper_is_tried():
    made = {
        function
        for function in vars(broken_data).values()
        if getattr(function, "__annotations__", {}) == {"folder": Path, "return": Path}
    }
    assert made == set(NAMED_BY_FAULT)


def test_all_faults_come_to_light_in_one_pass(tmp_path):
    for make in (
        broken_data.misspelt_mask,
        broken_data.two_masks_for_one_image,
        broken_data.mask_of_another_size,
    ):
        make(tmp_path)
    (tmp_path / "images" / "1.jpg").write_text("not a photo")
    (tmp_path / "masks" / "3.png").write_bytes(broken_data.bomb())
    with pytest.raises(DatasetError, match="has 5 faults") as caught:
        load_dataset(tmp_path)
    for name in ("images/plate_07.jpg", "images/0.jpg", "masks/2.png", "images/1.jpg", "masks/3"):
        assert name in str(caught.value)
    assert "Plate_7.png" in str(caught.value)


def test_both_files_of_a_pair_are_checked_even_when_the_first_is_broken(tmp_path):
    broken_data.truncated_image(tmp_path)
    (tmp_path / "masks" / "2.png").write_text("not a mask")
    with pytest.raises(DatasetError, match="has 2 faults"):
        load_dataset(tmp_path)


def test_many_faults_are_counted_and_all_of_them_noted(tmp_path):
    healthy(tmp_path, count=1)
    for number in range(12):
        save(tmp_path / "images" / f"extra_{number:02}.jpg", photo())
    with pytest.raises(DatasetError, match=r"has 12 faults.*and 7 more") as caught:
        load_dataset(tmp_path)
    assert caught.value.__notes__ == [
        f"images/extra_{number:02}.jpg has no mask" for number in range(12)
    ]
    assert str(caught.value).count("A mask has its image's name") == 1


def test_a_mask_of_another_size_tells_both_sizes(tmp_path):
    with pytest.raises(DatasetError, match=r"2\.png is 16×12 px, its image 2\.jpg 32×24 px"):
        load_dataset(broken_data.mask_of_another_size(tmp_path))


def test_a_mask_lying_on_its_side_is_recognized(tmp_path):
    # The usual cause: a tool that paid no heed to the photo's EXIF rotation.
    with pytest.raises(DatasetError, match="one of them is turned"):
        load_dataset(broken_data.turned_mask(tmp_path))


def test_a_class_that_never_occurs_lists_those_that_do(tmp_path):
    healthy(tmp_path, count=3)
    for number, value in enumerate((2, 7, 7)):
        save(tmp_path / "masks" / f"{number}.png", disk(value))
    with pytest.raises(
        DatasetError,
        match=r"class 5 occurs in no mask of \S+; these do: 2 \(1 image\), 7 \(2 images\)\.",
    ):
        load_dataset(tmp_path, class_id=5)


def test_a_class_in_empty_masks_says_that_they_are_empty(tmp_path):
    with pytest.raises(DatasetError, match="all 4 masks"):
        load_dataset(broken_data.all_masks_empty(tmp_path), class_id=5)


def test_classes_cannot_be_instances_at_the_same_time(tmp_path):
    with pytest.raises(DatasetError, match="either class ids or instance labels"):
        load_dataset(healthy(tmp_path), class_id=1, objects="instances")


def test_a_folder_without_permission_is_named(tmp_path):
    masks = healthy(tmp_path) / "masks"
    with (
        broken_data.without_permission(masks),
        pytest.raises(DatasetError, match="may not be read: change its permissions"),
    ):
        load_dataset(tmp_path)


# --- parts of a data set --------------------------------------------------------------------------


def _with_several_objects(folder: Path, count: int) -> Path:
    healthy(folder, count)
    for number in range(count):
        labels = disk(1)
        labels[0, :4] = 2 + number
        save(folder / "masks" / f"{number}.png", labels)
    return folder


def test_a_subset_is_numbered_anew_with_its_own_objects(tmp_path):
    dataset = load_dataset(_with_several_objects(tmp_path, 4))
    part = dataset.subset([3, 1])
    assert [pair.image.name for pair in part.pairs] == ["3.jpg", "1.jpg"]
    # The second label is 2 + the image's number: objects went with their images.
    assert [(thing.image_index, thing.label) for thing in part.objects] == [
        (0, 1), (0, 5), (1, 1), (1, 3),
    ]  # fmt: skip
    assert part.fingerprint() == dataset.subset([1, 3]).fingerprint()


def test_by_class_all_of_a_class_in_an_image_is_one_object(tmp_path):
    rng = np.random.default_rng(0)
    drawn = [rng.choice([0, 1, 2, 5], (24, 32)).astype(np.uint8) for _ in range(3)]
    drawn[1][drawn[1] == 5] = 0
    for number, labels in enumerate(drawn):
        save(tmp_path / "images" / f"{number}.png", photo(number, (24, 32)))
        save(tmp_path / "masks" / f"{number}.png", labels)
    dataset = load_dataset(tmp_path, objects="instances")
    whole = dataset.by_class()
    assert [(thing.image_index, thing.label) for thing in whole.objects] == [(0, 1), (1, 1), (2, 1)]
    for thing, labels in zip(whole.objects, drawn, strict=True):
        assert (thing.mask() == (labels > 0)).all()
    some = dataset.by_class([5])
    assert [pair.image.name for pair in some.pairs] == ["0.png", "2.png"]
    assert [(thing.image_index, thing.label) for thing in some.objects] == [(0, 5), (1, 5)]
    assert (some.objects[1].mask() == (drawn[2] == 5)).all()


def test_an_image_is_in_a_subset_once(tmp_path):
    dataset = load_dataset(healthy(tmp_path, 2))
    with pytest.raises(ValueError, match="once"):
        dataset.subset([1, 1])


@pytest.mark.parametrize("seed", range(5))
def test_objects_of_one_image_are_never_on_both_sides(tmp_path, seed):
    dataset = load_dataset(_with_several_objects(tmp_path, 6))
    train, val = split(dataset, 0.34, seed)
    assert _images(train) | _images(val) == _images(dataset)
    assert not _images(train) & _images(val)
    assert (len(train.pairs), len(val.pairs)) == (4, 2)
    assert len(train.objects) + len(val.objects) == len(dataset.objects)


def test_copies_of_one_photo_stay_on_one_side(tmp_path):
    # One mask file an object makes people copy the photo; held out, it would be known.
    for number in range(9):
        save(tmp_path / "images" / f"{number}.png", photo(number // 3))
        save(tmp_path / "masks" / f"{number}.png", disk())
    dataset = load_dataset(tmp_path)
    for seed in range(10):
        train, val = split(dataset, 0.3, seed)
        assert not {d[0] for d in train.digests} & {d[0] for d in val.digests}
        assert (len(train.pairs), len(val.pairs)) == (6, 3)


def test_the_same_seed_holds_out_the_same_images(tmp_path):
    dataset = load_dataset(healthy(tmp_path, 8))
    held_out = [_images(split(dataset, 0.25, seed)[1]) for seed in (0, 0, 1, 2, 3)]
    assert held_out[0] == held_out[1]
    assert len(set(map(frozenset, held_out))) > 1  # another seed draws others


@pytest.mark.parametrize(("fraction", "held_out"), [(0.01, 1), (0.5, 2), (0.99, 2)])
def test_each_side_has_an_image_whatever_the_fraction(tmp_path, fraction, held_out):
    dataset = load_dataset(healthy(tmp_path, 3))
    train, val = split(dataset, fraction, seed=0)
    assert (len(train.pairs), len(val.pairs)) == (3 - held_out, held_out)


def test_one_image_only_says_what_is_needed_to_hold_some_out(tmp_path):
    dataset = load_dataset(healthy(tmp_path, 1))
    with pytest.raises(DatasetError, match=r"only one image with an object \(0\.jpg\).*add images"):
        split(dataset, 0.2, seed=0)


def test_copies_of_one_image_only_are_not_enough_either(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.bmp", photo())
        save(tmp_path / f"{name}.png", disk())
    with pytest.raises(DatasetError, match="copies of one image"):
        split(load_dataset(tmp_path), 0.2, seed=0)


def test_in_a_mirror_are_the_same_images_and_masks_turned_round(tmp_path):
    dataset = load_dataset(healthy(tmp_path, 2))
    mirrored = dataset.in_a_mirror()
    assert mirrored.is_mirrored
    assert not dataset.is_mirrored
    assert not dataset.with_mirror_images().is_mirrored
    for one, other in zip(dataset.pairs, mirrored.pairs, strict=True):
        assert np.array_equal(other.read(), one.read()[:, ::-1])
    for thing, turned in zip(dataset.objects, mirrored.objects, strict=True):
        assert turned.image_index == thing.image_index
        assert np.array_equal(turned.mask(), thing.mask()[:, ::-1])


def test_one_image_is_one_under_several_names_too(tmp_path):
    dataset = load_dataset(healthy(tmp_path, 2))
    assert not dataset.has_one_image
    assert dataset.subset([1]).has_one_image
    assert replace(dataset, digests=2 * dataset.digests[:1]).has_one_image


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_share_of_nothing_or_everything_is_the_callers_bug(tmp_path, fraction):
    dataset = load_dataset(healthy(tmp_path, 2))
    with pytest.raises(ValueError, match="between 0 and 1"):
        split(dataset, fraction, seed=0)


def test_the_fingerprint_knows_contents_and_no_names(tmp_path):
    first = load_dataset(healthy(tmp_path / "first", 3))
    (tmp_path / "second" / "images").mkdir(parents=True)
    (tmp_path / "second" / "masks").mkdir()
    for number, name in enumerate("zyx"):  # the other order too
        for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
            shutil.copy(
                tmp_path / "first" / kind / f"{number}{suffix}",
                tmp_path / "second" / kind / f"{name}{suffix}",
            )
    second = load_dataset(tmp_path / "second")
    assert first.fingerprint() == second.fingerprint()
    changed = disk()
    changed[0, 0] = 255
    save(tmp_path / "second" / "masks" / "y.png", changed)
    assert load_dataset(tmp_path / "second").fingerprint() != first.fingerprint()


def test_the_fingerprint_knows_which_mask_belongs_to_which_image(tmp_path):
    for folder, order in (("one", (0, 1)), ("other", (1, 0))):
        for number, mask in enumerate(order):
            save(tmp_path / folder / f"{number}.bmp", photo(number))
            save(tmp_path / folder / f"{number}.png", disk((1, 255)[mask]))
    one, other = (load_dataset(tmp_path / folder) for folder in ("one", "other"))
    assert one.fingerprint() != other.fingerprint()


def test_the_fingerprint_in_order_knows_what_was_taken_for_an_object_and_where(tmp_path):
    folder = healthy(tmp_path / "data", 2)
    labels = disk(1)
    labels[:3, :3] = 2
    save(folder / "masks" / "0.png", labels)
    save(folder / "masks" / "1.png", disk(1))
    readings = [load_dataset(folder, class_id=number) for number in (1, 2)]
    readings += [load_dataset(folder, objects=meaning) for meaning in ("instances", "mask")]
    readings += [load_dataset(folder), load_dataset(folder).subset([1, 0])]
    prints = [one.fingerprint_in_order() for one in readings]
    assert len(set(prints)) == len(prints) - 1  # instances are what is taken without a word
    assert prints[2] == prints[4]
    shutil.copytree(folder, tmp_path / "copy")
    assert load_dataset(tmp_path / "copy").fingerprint_in_order() == prints[4]


# --- mirror images ------------------------------------------------------------------------------


def test_behind_the_images_come_their_mirror_images_with_the_masks_turned_likewise(tmp_path):
    wedge = np.triu(np.full(SIZE, 255, np.uint8), k=3)
    healthy(tmp_path, count=2)
    save(tmp_path / "masks" / "1.png", wedge)
    plain = load_dataset(tmp_path)
    both = plain.with_mirror_images()
    assert both.pairs[:2] == plain.pairs
    assert both.objects[:2] == plain.objects
    assert [thing.image_index for thing in both.objects] == [0, 1, 2, 3]
    for there, mirrored in ((0, 2), (1, 3)):
        assert np.array_equal(both.pairs[mirrored].read(), both.pairs[there].read()[:, ::-1])
        mask, turned = both.objects[there].mask(), both.objects[mirrored].mask()
        assert np.array_equal(turned, mask[:, ::-1])
    assert not np.array_equal(both.objects[1].mask(), both.objects[3].mask())
    assert both.subset([3]).pairs[0].mirrored
