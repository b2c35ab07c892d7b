"""What is odd in a data set: each oddity is found, and what is sound is not."""

import numpy as np
import pytest
from broken_data import SIZE, disk, healthy, photo, save
from PIL import Image
from tiny_models import build_tiny_sam

from samtune.check import check_objects, nearly_same
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache


def found(folder, **options):
    return {one.kind: one for one in check_objects(load_dataset(folder, **options), 1024)}


def write(folder, number, mask, suffix="png"):
    """A new mask for one image of a healthy folder."""
    (folder / "masks" / f"{number}.png").unlink(missing_ok=True)
    save(folder / "masks" / f"{number}.{suffix}", mask)


def test_nothing_is_found_in_a_healthy_folder(tmp_path):
    assert found(healthy(tmp_path)) == {}


def test_objects_below_a_cell_of_sam_are_tiny(tmp_path):
    folder = healthy(tmp_path / "a", count=2)
    for number, side in ((5, 15), (6, 17)):  # in an image whose long side is 1024 already
        save(folder / "images" / f"{number}.jpg", photo(number, (600, 1024)))
        mask = np.zeros((600, 1024), np.uint8)
        mask[100 : 100 + side, 50 : 50 + side] = 255
        write(folder, number, mask)
    tiny = found(folder)["tiny"]
    assert tiny.files == ("5.jpg",)
    assert tiny.text.startswith("1 of 4 objects is smaller")


def test_objects_that_touch_are_counted_and_those_a_pixel_apart_are_not(tmp_path):
    folder = healthy(tmp_path, count=2)
    labels = np.zeros(SIZE, np.uint8)
    labels[2:10, 2:10], labels[10:18, 10:18] = 1, 2  # corner to corner
    labels[2:10, 20:30] = 3  # far from both
    write(folder, 0, labels)
    apart = np.zeros(SIZE, np.uint8)
    apart[2:10, 2:10], apart[2:10, 11:20] = 1, 2  # one column between them
    write(folder, 1, apart)
    touching = found(folder)["touching"]
    assert touching.text.startswith("2 of 5 objects are touching")
    assert touching.files == ("0.jpg",)


def test_a_mask_in_several_large_parts_is_told_and_crumbs_are_not(tmp_path):
    folder = healthy(tmp_path, count=3)
    several = disk()
    several[2:10, 24:30] = 255  # beside the disk, half as large
    write(folder, 1, several)
    crumbs = disk()
    crumbs[2, 30] = 255
    write(folder, 2, crumbs)
    parts = found(folder)["parts"]
    assert parts.files == ("1.jpg",)
    assert "--objects components" in parts.remedy
    assert "parts" not in found(folder, objects="components")


def test_masks_saved_with_loss_are_named_whatever_their_suffix(tmp_path):
    folder = healthy(tmp_path, count=3)
    write(folder, 1, disk(), "jpg")
    Image.fromarray(disk()).save(folder / "masks" / "2.png", format="JPEG")
    assert found(folder)["lossy"].files == ("1.jpg", "2.png")


def test_copies_of_an_image_are_named_and_the_first_of_them_is_not(tmp_path):
    folder = healthy(tmp_path, count=3)
    for name in ("8", "9"):
        (folder / "images" / f"{name}.jpg").write_bytes((folder / "images" / "1.jpg").read_bytes())
        write(folder, name, disk())
    assert found(folder)["copies"].files == ("8.jpg", "9.jpg")


# --------------------------------------------------------------------------- nearly the same


def scene(seed):
    """(96, 128, 3) a photo with large bright shapes, which even a tiny encoder tells apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC))


@pytest.fixture
def folders(tmp_path):
    """Images to train on and to hold out; nothing in common."""
    for name, seeds in (("train", range(6)), ("val", range(10, 14))):
        for seed in seeds:
            save(tmp_path / name / "images" / f"{seed}.png", scene(seed))
            save(tmp_path / name / "masks" / f"{seed}.png", disk(size=(96, 128)))
    return tmp_path / "train", tmp_path / "val"


def test_different_images_are_not_nearly_the_same(folders, tiny_sam):
    train, val = map(load_dataset, folders)
    assert nearly_same(train, val, tiny_sam, EmbeddingCache()) is None


def test_what_all_images_have_in_common_makes_none_of_them_a_copy(folders, tiny_sam):
    # As photos from one microscope: the same ground, other things on it.
    ground = scene(99).astype(np.float32)
    for folder in folders:
        for path in (folder / "images").iterdir():
            own = scene(int(path.stem)).astype(np.float32)
            save(path, (0.8 * ground + 0.2 * own).round().astype(np.uint8))
    train, val = map(load_dataset, folders)
    assert nearly_same(train, val, tiny_sam, EmbeddingCache()) is None


def test_an_image_saved_again_is_found_and_named_with_its_twin(folders, tiny_sam):
    twin = Image.fromarray(scene(3)).resize((64, 48), Image.Resampling.LANCZOS)
    twin.save(folders[1] / "images" / "twin.jpg", quality=90)
    save(folders[1] / "masks" / "twin.png", disk(size=(48, 64)))
    train, val = map(load_dataset, folders)
    similar = nearly_same(train, val, tiny_sam, EmbeddingCache())
    assert similar.files == ("twin.jpg like 3.png",)
    assert similar.text.startswith("1 of 5 held-out images is nearly the same")


def test_what_it_encodes_stays_in_the_cache(folders):
    sam = build_tiny_sam()
    runs, told = [], []
    sam.image_encoder.register_forward_hook(lambda *_: runs.append(None))
    train, val = map(load_dataset, folders)
    nearly_same(train, val, sam, EmbeddingCache(), lambda done, total: told.append((done, total)))
    assert len(runs) == 10
    assert told == [(done, 10) for done in range(1, 11)]
    nearly_same(train, val, sam, EmbeddingCache())
    assert len(runs) == 10
