"""Paste drawn banners onto photos of facades: the banner task of the paper, with masks.

    python benchmarks/facade_banners.py FACADES OUT [--train 300] [--test 100] [--seed 0]

FACADES is a folder of photos, or holds them in images/. OUT/train and OUT/val get images/*.jpg and
masks/*.png with instance labels. Every fourth photo is kept for val/, so that no background of it
was trained on. The banners are those of examples/make_banners.py (letters, patterns, folds,
shadows), a third of them with a photo printed on the cloth; leaves, posts and cut-outs of other
photos stand in front of every other picture's, and are not part of the masks.
"""

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray
Rng = np.random.Generator
PHOTOS = {".jpg", ".jpeg", ".png"}
LEAST_SEEN = 0.6  # of a banner behind what stands in front of it, or it is hung elsewhere


def load_make_banners() -> ModuleType:
    """The example's generator, which is a script and not part of a package."""
    path = Path(__file__).parents[1] / "examples" / "make_banners.py"
    spec = importlib.util.spec_from_file_location("make_banners", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mb = load_make_banners()


def crop(rng: Rng, photo: Path, size: tuple[int, int]) -> Array:
    """A window of a photo, perhaps mirrored, as (H, W, 3) float32 of the given size (H, W)."""
    high, wide = size
    with Image.open(photo) as image:
        most = min(image.width / wide, image.height / high)
        scale = most * rng.uniform(0.6, 1)
        w, h = int(scale * wide), int(scale * high)
        x, y = (int(rng.integers(room + 1)) for room in (image.width - w, image.height - h))
        window = image.convert("RGB").crop((x, y, x + w, y + h))
        pixels = np.asarray(window.resize((wide, high), Image.Resampling.LANCZOS), np.float32)
    return pixels[:, ::-1] if rng.uniform() < 0.5 else pixels


def draw_banner(rng: Rng, photos: list[Path], h: int, w: int) -> Array:
    """A banner, RGBA, seen squarely; a third have a photo on half of the cloth, or on all of it."""
    banner: Array = mb.draw_banner(rng, h, w)
    kind = rng.choice(["drawn", "half", "whole"], p=[0.65, 0.2, 0.15])
    if kind == "drawn":
        return banner
    photo = photos[int(rng.integers(len(photos)))]
    if kind == "half" and w > h:
        half = int(w * rng.uniform(0.35, 0.6))
        banner[:, :half, :3] = crop(rng, photo, (h, half))
    elif kind == "half":
        half = int(h * rng.uniform(0.35, 0.6))
        banner[:half, :, :3] = crop(rng, photo, (half, w))
    else:
        sheet = Image.fromarray(crop(rng, photo, (h, w)).astype(np.uint8))
        ink = str(rng.choice(["#ffffff", "#ffd23f", "#111111"]))
        mb.draw_lines(rng, ImageDraw.Draw(sheet), h, w, ink)
        banner[..., :3] = np.asarray(sheet, np.float32)
    return banner


def stand_in_front(rng: Rng, scene: Array, photos: list[Path]) -> Array:
    """Draw leaves, a post or a cut-out of another photo into the scene, in place.

    Returns:
        (H, W) bool, what it covers.
    """
    h, w = mb.SIZE
    before = scene.copy()
    kind = rng.choice(["leaves", "post", "cut-out"])
    if kind == "leaves":
        mb.draw_foliage(rng, scene)
    elif kind == "post":
        x, wide = int(rng.integers(w)), int(rng.integers(6, 16))
        round_off = np.sin(np.linspace(0.2, np.pi - 0.2, wide))[None, :, None]
        seen = scene[int(rng.integers(h // 2)) :, x : x + wide]
        seen[:] = (rng.uniform(40, 160, 3) * round_off[:, : seen.shape[1]]).astype(np.float32)
    else:  # of the size and upright, as a passer-by or a parked car would be
        shape = np.zeros((h, w), np.uint8)
        half = rng.uniform((20, 30), (90, 110))
        middle = rng.uniform((0, 0.5 * h), (w, h))
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([np.cos(turns), np.sin(turns)], 1) * half * rng.uniform(0.8, 1.2, (24, 1))
        cv2.fillPoly(shape, [(middle + ring).astype(np.int32)], 1)
        photo = photos[int(rng.integers(len(photos)))]
        scene[shape > 0] = crop(rng, photo, (h, w))[shape > 0]
    covered: Array = (scene != before).any(axis=2)
    return covered


def make_picture(rng: Rng, background: Path, photos: list[Path]) -> tuple[Image.Image, Array]:
    """A photo with one or two banners, and their labels 1..N (H, W)."""
    h, w = mb.SIZE
    while True:
        scene, labels = crop(rng, background, (h, w)), np.zeros((h, w), np.uint8)
        turned = rng.uniform(-0.12, 0.12, (4, 2)) * (w, h)  # the wall is seen a little askew
        front = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float64) + turned
        for label in range(1, int(rng.integers(2, 4))):
            corners = mb.choose_corners(rng, front, labels)
            right, down = corners[1] - corners[0], corners[3] - corners[0]
            size = int(1.5 * np.hypot(*down)), int(1.5 * np.hypot(*right))
            scene, mask = mb.paste(rng, scene, draw_banner(rng, photos, *size), corners)
            labels[mask] = label
        areas = np.bincount(labels.ravel())
        for _ in range(int(rng.integers(1, 3)) if rng.uniform() < 0.5 else 0):
            labels[stand_in_front(rng, scene, photos)] = 0
        seen = np.bincount(labels.ravel(), minlength=len(areas))
        if (seen[1:] >= LEAST_SEEN * areas[1:]).all():
            return mb.photograph(rng, scene), labels


def make_dataset(facades: Path, out: Path, train: int, test: int, seed: int) -> None:
    """Write both parts; a picture depends on the seed, its part and its number alone."""
    folder = facades / "images" if (facades / "images").is_dir() else facades
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOS)
    kept = photos[3::4]
    if not kept:
        raise SystemExit(f"{folder}: {len(photos)} photos; at least 4 are needed")
    parts = {"train": [one for one in photos if one not in kept], "val": kept}
    for number, (part, count) in enumerate((("train", train), ("val", test))):
        backgrounds = parts[part]
        for name in ("images", "masks"):
            (out / part / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            rng = np.random.default_rng((seed, number, index))
            photo, labels = make_picture(rng, backgrounds[index % len(backgrounds)], backgrounds)
            stem, quality = f"banner_{index:03d}", int(rng.integers(75, 93))
            photo.save(out / part / "images" / f"{stem}.jpg", quality=quality)
            Image.fromarray(labels).save(out / part / "masks" / f"{stem}.png")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Paste drawn banners onto photos of facades.")
    parser.add_argument("facades", type=Path, help="folder of photos")
    parser.add_argument("out", type=Path, help="folder to write train/ and val/ into")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_dataset(arguments.facades, arguments.out, arguments.train, arguments.test, arguments.seed)


if __name__ == "__main__":
    main()
