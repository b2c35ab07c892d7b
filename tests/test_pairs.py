"""pairs.py: file names say which mask belongs to which image."""

import tempfile
import unicodedata
from pathlib import Path

import pytest
from broken_data import without_permission

from samtune.errors import DatasetError
from samtune.pairs import find_images, find_pairs


def _folder(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # names alone count here
    return folder


def _named(folder: Path) -> dict[str, str]:
    return {pair.image.name: pair.mask.name for pair in find_pairs(folder).pairs}


def test_folders_of_images_and_masks_are_paired_by_stem(tmp_path):
    folder = _folder(tmp_path, "images/b.jpg", "images/a.TIF", "masks/a.png", "masks/b.webp")
    assert _named(folder) == {"a.TIF": "a.png", "b.jpg": "b.webp"}


def test_a_mask_ending_is_understood_in_both_layouts(tmp_path):
    two = _folder(tmp_path / "two", "images/a.jpg", "masks/a_mask.png")
    assert _named(two) == {"a.jpg": "a_mask.png"}
    one = _folder(tmp_path / "one", "a.png", "a_mask.png", "b.jpg", "b_mask.jpg")
    assert _named(one) == {"a.png": "a_mask.png", "b.jpg": "b_mask.jpg"}


def test_an_image_whose_own_name_ends_in_mask_keeps_its_mask(tmp_path):
    # Were a_mask.png another mask of a.jpg, that image had two.
    folder = _folder(tmp_path, *(f"{kind}/a{end}" for kind in ("images", "masks") for end in
                                 (".png", "_mask.png")))  # fmt: skip
    assert _named(folder) == {"a.png": "a.png", "a_mask.png": "a_mask.png"}


def test_images_beside_their_masks_are_told_apart_by_format(tmp_path):
    folder = _folder(tmp_path, "a.jpg", "a.png", "b.tif", "b.png", "c.jpeg", "c.tiff")
    assert _named(folder) == {"a.jpg": "a.png", "b.tif": "b.png", "c.jpeg": "c.tiff"}


def test_accents_match_however_the_system_spells_them(tmp_path):
    composed = unicodedata.normalize("NFC", "café")
    decomposed = unicodedata.normalize("NFD", "café")  # from a Mac's zip file
    folder = _folder(tmp_path, f"images/{composed}.jpg", f"masks/{decomposed}.png")
    assert len(find_pairs(folder).pairs) == 1


def test_hidden_files_and_folders_are_passed_over_without_a_word(tmp_path):
    folder = _folder(
        tmp_path, "images/a.jpg", "images/.DS_Store", "images/._a.jpg", "images/Thumbs.db",
        "images/.thumbnails/a.jpg", "masks/a.png", "masks/.a.png.swp", "README.md",
    )  # fmt: skip
    found = find_pairs(folder)
    assert (len(found.pairs), found.skipped, found.faults) == (1, [], [])


def test_other_files_and_masks_of_no_image_are_skipped_with_a_reason(tmp_path):
    folder = _folder(tmp_path, "images/a.jpg", "images/a.json", "masks/a.png", "masks/b.png")
    found = find_pairs(folder)
    assert {skipped.path.name: skipped.reason for skipped in found.skipped} == {
        "a.json": "not a JPEG, PNG, WebP, TIFF or BMP file",
        "b.png": "mask of no image",
    }
    assert found.faults == []


def test_a_lone_mask_in_a_shared_folder_is_not_taken_for_an_image(tmp_path):
    found = find_pairs(_folder(tmp_path, "a.jpg", "a.png", "b_mask.png"))
    assert [skipped.path.name for skipped in found.skipped] == ["b_mask.png"]
    assert found.faults == []


@pytest.mark.parametrize(
    ("image", "mask"), [("plate_07", "plate_7"), ("IMG_1", "img_1"), ("cat", "cat_seg")]
)
def test_an_image_without_mask_names_the_one_that_may_be_meant(tmp_path, image, mask):
    names = ["images/other.jpg", "masks/other.png", f"images/{image}.jpg", f"masks/{mask}.png"]
    (fault,) = find_pairs(_folder(tmp_path, *names)).faults
    assert fault.path.name == f"{image}.jpg"
    assert fault.problem == f"has no mask (is {mask}.png meant?)"


def test_a_mask_in_use_is_not_suggested_for_another_image(tmp_path):
    folder = _folder(tmp_path, "images/img_1.jpg", "images/img_2.jpg", "masks/img_1.png")
    (fault,) = find_pairs(folder).faults
    assert fault.problem == "has no mask"


def test_two_masks_of_one_image_are_a_fault(tmp_path):
    folder = _folder(tmp_path, "a.jpg", "a.png", "a_mask.png")
    (fault,) = find_pairs(folder).faults
    assert (fault.path.name, fault.problem) == ("a.jpg", "has 2 masks, a.png and a_mask.png")


def test_two_images_of_one_name_are_a_fault(tmp_path):
    found = find_pairs(_folder(tmp_path, "images/a.jpg", "images/a.webp", "masks/a.png"))
    assert [fault.path.name for fault in found.faults] == ["a.jpg"]
    assert "a.webp" in found.faults[0].problem
    assert found.skipped == []  # its mask is not said to be without an image


def test_a_misspelt_folder_suggests_the_one_beside_it(tmp_path):
    _folder(tmp_path, "plates/images/a.jpg")
    with pytest.raises(DatasetError, match=r"plaets does not exist\. Is \S*plates meant\?"):
        find_pairs(tmp_path / "plaets")


def test_a_folder_above_data_sets_names_them(tmp_path):
    folder = _folder(tmp_path, "train/images/a.jpg", "val/images/a.jpg", "notes/a.txt")
    with pytest.raises(DatasetError, match="give one of train, val in it"):
        find_pairs(folder)


def test_a_missing_masks_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"has a folder images but none of masks: add \S*masks"):
        find_pairs(_folder(tmp_path, "images/a.jpg"))


def test_images_in_folders_within_are_told_to_be_left_out(tmp_path):
    folder = _folder(tmp_path, "images/a.jpg", "images/b/c.jpg", "images/d/e.txt", "masks/a.png")
    (left,) = find_pairs(folder).skipped
    assert (left.path, left.reason) == (
        folder / "images/b",
        "a folder within is not looked into",
    )


def test_of_a_data_set_s_folder_the_images_are_found_and_no_masks(tmp_path):
    _folder(tmp_path, "images/a/x.jpg", "images/b.png", "masks/b.png", "c.jpg")
    assert [path.name for path in find_images([tmp_path])] == ["x.jpg", "b.png"]


def test_a_folder_within_that_may_not_be_read_is_said():
    with tempfile.TemporaryDirectory() as outside:  # pytest's folders are closed as a whole
        folder = _folder(Path(outside), "a.jpg", "b/c.jpg")
        folder.chmod(0o755)
        with (
            without_permission(folder / "b"),
            pytest.raises(DatasetError, match=r"b may not be read: change its permissions"),
        ):
            find_images([folder])


def test_samtune_s_own_pictures_in_a_folder_are_no_images_unless_they_are_named(tmp_path):
    own = ("a.mask.png", "a.2.MASK.png", "a.instances.png", "a.cutout.png", "a.overlay.jpg")
    _folder(tmp_path, "a.jpg", "mask.png", "a.mask.jpg", "out/a.refined.png", *own)
    found = [path.name for path in find_images([tmp_path])]
    assert found == ["a.jpg", "a.mask.jpg", "mask.png"]
    assert find_images([tmp_path / "a.mask.png"]) == [tmp_path / "a.mask.png"]
