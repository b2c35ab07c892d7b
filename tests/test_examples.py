"""The examples: what the drawn task's pictures and masks promise, and the cross-model test."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image
from scripts import ROOT, load_script

from samtune.dataset import load_dataset
from samtune.masks import DatasetObject
from samtune.predictor import Prediction, Predictor

SCRIPT = ROOT / "examples" / "make_banners.py"


@pytest.fixture(scope="module")
def make_banners() -> ModuleType:
    return load_script("examples/make_banners.py")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """What the documented command writes, run as a user would."""
    out = tmp_path_factory.mktemp("banners")
    command = [sys.executable, "-W", "error", str(SCRIPT), str(out), "--images", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return out


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_every_fourth_picture_is_held_out_and_has_its_mask(dataset):
    assert sorted(contents(dataset)) == sorted(
        f"{split}/{kind}/banner_00{index}.{suffix}"
        for index, split in enumerate(["train", "train", "train", "val"] * 2)
        for kind, suffix in (("images", "jpg"), ("masks", "png"))
    )


def test_masks_hold_one_or_two_instances_of_sensible_area(dataset):
    masks = sorted(dataset.glob("*/masks/*.png"))
    assert masks
    for path in masks:
        with Image.open(path) as mask, Image.open(image_of(path)) as photo:
            assert (mask.mode, photo.mode) == ("L", "RGB")
            assert mask.size == photo.size == (768, 576)
            labels = np.asarray(mask)
        assert set(np.unique(labels)) in ({0, 1}, {0, 1, 2})
        for label in range(1, labels.max() + 1):
            banner = labels == label
            assert 0.01 < banner.mean() < 0.35
            # One piece: a banner that another one cut in two would be two objects to a user.
            assert cv2.connectedComponents(banner.astype(np.uint8))[0] == 2


def image_of(mask: Path) -> Path:
    return mask.parent.parent / "images" / f"{mask.stem}.jpg"


def test_the_same_seed_gives_the_same_bytes(make_banners, dataset, tmp_path):
    # Fewer pictures than the data set's eight: the number asked for must not matter either.
    make_banners.make_dataset(tmp_path, images=2, seed=0)
    again = contents(tmp_path)
    whole = contents(dataset)
    assert len(again) == 4
    assert again == {name: whole[name] for name in again}


def test_another_seed_gives_another_picture(make_banners, dataset, tmp_path):
    make_banners.make_dataset(tmp_path, images=1, seed=1)
    name = "train/images/banner_000.jpg"
    assert contents(tmp_path)[name] != contents(dataset)[name]


def test_masks_lie_where_the_photo_shows_the_banners(make_banners, tmp_path, monkeypatch):
    # Banners of plain magenta, a colour that no street has, can be found in the finished JPEG by
    # their hue alone: through perspective, folds, shadow, blur, noise and compression.
    def magenta(rng, h, w):
        return np.full((h, w, 4), (230, 0, 230, 1), np.float32)

    monkeypatch.setattr(make_banners, "draw_banner", magenta)
    make_banners.make_dataset(tmp_path, images=6, seed=0)
    counts = set()
    for path in sorted(tmp_path.glob("*/masks/*.png")):
        labels = np.asarray(Image.open(path))
        red, green, blue = np.asarray(Image.open(image_of(path)), np.float32).transpose(2, 0, 1)
        seen = (green < 0.5 * red) & (green < 0.5 * blue)
        seen = cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5))) > 0
        mask = labels > 0
        assert (seen & mask).sum() / (seen | mask).sum() > 0.97, path
        # Each banner has a label of its own, on all of it.
        found, pieces = cv2.connectedComponents(seen.astype(np.uint8))
        assert found - 1 == labels.max()
        assert len({int(np.median(labels[pieces == i])) for i in range(1, found)}) == found - 1
        counts.add(found - 1)
    assert counts == {1, 2}  # the pictures above cover both


def test_windows_are_masked_where_the_photo_shows_them(
    make_banners, dataset, tmp_path, monkeypatch
):
    # Windows of plain magenta, found by their hue: not where a banner or leaves hide them.
    def magenta(rng, wall, x, y, w, h):
        wall[max(y, 0) : y + h, max(x, 0) : max(x + w, 0)] = (230, 0, 230)

    make_banners.make_dataset(tmp_path / "w", images=2, seed=0, thing="windows")
    assert (
        contents(tmp_path / "w").items()
        >= {  # the same pictures as those of the banners
            name: content
            for name, content in contents(dataset).items()
            if "images/" in name and int(name[-7:-4]) < 2
        }.items()
    )
    monkeypatch.setattr(make_banners, "draw_window", magenta)
    make_banners.make_dataset(tmp_path / "m", images=2, seed=0, thing="windows")
    for path in sorted((tmp_path / "m").glob("*/masks/*.png")):
        labels = np.asarray(Image.open(path))
        red, green, blue = np.asarray(Image.open(image_of(path)), np.float32).transpose(2, 0, 1)
        seen = (green < 0.6 * red) & (green < 0.6 * blue)
        assert labels.max() >= 3
        for label in range(1, labels.max() + 1):
            window = labels == label
            assert window.sum() > 600
            assert seen[window].mean() > 0.9
        # What is magenta and no window: those that are mostly hidden, cut off, or small.
        assert (seen & (labels > 0)).sum() / seen.sum() > 0.5


def test_too_few_pictures_to_hold_one_out_is_refused(make_banners, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_banners.py", str(tmp_path / "out"), "--images", "3"])
    with pytest.raises(SystemExit) as stopped:
        make_banners.main()
    assert stopped.value.code == 2
    assert "at least 4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------- cross_model.py


@pytest.fixture(scope="module")
def cross_model() -> ModuleType:
    return load_script("examples/cross_model.py")


class Painter(Predictor):
    """Answers every click with the same masks in turn, and says that each is its own."""

    def __init__(self, sam, masks):
        super().__init__(sam)
        self.masks = iter(masks)

    def predict(self, embedding, prompts):
        nothing = np.zeros((0, *embedding.original_size))
        masks = [next(self.masks) for _ in prompts]
        return [Prediction(mask, 0.9, *[nothing] * 4, presence=0.75) for mask in masks]


def test_own_things_other_things_and_neither_are_told_apart(cross_model, toy_folder, tiny_sam):
    clicked = load_dataset(toy_folder).subset(range(3))
    own = [thing.mask() for thing in clicked.objects]
    beside = clicked.subset([0, 1])  # of the third image, the other kind is not known
    beside = replace(beside, objects=tuple(map(opposite, beside.objects)))
    painter = Painter(tiny_sam, [own[0], ~own[1], np.zeros_like(own[2])])
    plain, painted = cross_model.click_all(clicked, beside, [Predictor(tiny_sam), painter])
    assert painted.ious == [1, 0, 0]
    assert painted.instead == [False, True]
    assert painted.present == [True, True, True]
    assert len(plain.ious) == 3
    assert plain.present == []


def opposite(thing):
    """All that an object is not."""
    return DatasetObject.of(~thing.mask(), thing.image_index)


def test_a_class_may_stand_behind_a_folder(cross_model, toy_folder):
    assert len(cross_model.read(str(toy_folder)).objects) == 8
    assert cross_model.read(f"{toy_folder}:255").reading.class_id == 255


def run_script(path: str, *words: object) -> None:
    """A script as a user would run it, who sees no warning."""
    command = [sys.executable, "-W", "error", str(ROOT / path), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_film_has_a_balloon_that_moves_and_is_hidden_for_a_while(tmp_path):
    run_script("examples/make_frames.py", tmp_path, "--frames", 9)
    masks = [read(path) > 0 for path in sorted((tmp_path / "masks").iterdir())]
    assert len(masks) == len(list((tmp_path / "frames").iterdir())) == 9
    areas = [int(mask.sum()) for mask in masks]
    assert min(areas[:3] + areas[-2:]) > 2000
    assert min(areas) < 100
    lefts = [np.nonzero(mask)[1].min() for mask in masks if mask.sum() > 2000]
    assert lefts[0] + 100 < lefts[-1]
    red = np.array([209, 73, 91])
    for mask, path in zip(masks, sorted((tmp_path / "frames").iterdir()), strict=True):
        like_red = (np.abs(read(path).astype(int) - red).sum(axis=2) < 120) & mask
        assert mask.sum() < 2000 or like_red.sum() > 0.1 * mask.sum()


def test_the_first_frame_is_what_fit_takes(tmp_path):
    run_script("examples/make_frames.py", tmp_path, "--frames", 2)
    (thing,) = load_dataset(tmp_path / "first").objects
    assert np.array_equal(thing.mask(), read(tmp_path / "masks" / "000.png") > 0)
    first = (tmp_path / "first" / "images" / "000.jpg").read_bytes()
    assert first == (tmp_path / "frames" / "000.jpg").read_bytes()


def test_banners_are_pasted_onto_photos_of_which_every_fourth_is_held_out(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, colour in enumerate(["#3c3c3c", "#5a5a5a", "#787878", "#30c030"]):
        Image.new("RGB", (700, 620), colour).save(tmp_path / "photos" / f"{number}.png")
    out = tmp_path / "out"
    words = ("--train", 4, "--test", 3)
    run_script("benchmarks/facade_banners.py", tmp_path / "photos", out, *words)
    for part, count in (("train", 4), ("val", 3)):
        images = sorted((out / part / "images").iterdir())
        assert len(images) == count
        for image in images:
            labels, photo = read(mask_of(image)), read(image).astype(int)
            assert labels.shape == photo.shape[:2] == (576, 768)
            assert 1 <= labels.max() <= 2
            wall = np.median(photo[labels == 0], axis=0)
            assert (wall[1] > 1.5 * wall[0]) == (part == "val")  # the one green photo
            for label in range(1, labels.max() + 1):
                banner = labels == label
                assert 0.02 < banner.mean() < 0.4


def mask_of(image: Path) -> Path:
    return image.parent.parent / "masks" / f"{image.stem}.png"
