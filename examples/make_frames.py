"""Draw frames of a film: a balloon drifts through a street, passes behind a tree and comes back.

    python examples/make_frames.py OUT [--frames 32] [--seed 0]

writes OUT/frames/000.jpg and so on, and OUT/masks/*.png of the same stems, 255 on the balloon.
OUT/first/images and OUT/first/masks have the first frame and its mask alone: what `samtune fit`
takes. The camera moves as well, and a second balloon of other colours flies about.

Everything is drawn, with what make_banners.py draws streets with.
"""

import argparse
import shutil
from pathlib import Path

import cv2
import make_banners as mb
import numpy as np
from PIL import Image, ImageColor

Array = np.ndarray
Rng = np.random.Generator

BALLOONS = (("#d1495b", "#f4e285"), ("#1d70b8", "#f0ebe0"))  # the one to follow, the other
FRAME = (432, 576)  # (H, W) of a frame: a window of the street


def draw_balloon(colours: tuple[str, str], radius: float, turn: float) -> Array:
    """A balloon of stripes with a basket, RGBA, upright in its middle; `turn` moves the stripes."""
    side = int(4 * radius) + 8
    ys, xs = np.mgrid[:side, :side].astype(np.float32) - side / 2
    x, y = xs / radius, (ys + 0.25 * radius) / radius
    pinched = np.where(y > 0, np.clip(1 - 0.55 * y**2, 0.05, 1), 1)
    body = (x / pinched) ** 2 + (y / 1.15) ** 2 <= 1
    longitude = np.arcsin(
        np.clip(x / pinched / np.sqrt(np.clip(1 - (y / 1.2) ** 2, 0.05, 1)), -1, 1)
    )
    stripes = np.sin(4 * longitude + turn) > 0
    light = 0.55 + 0.45 * np.clip(1 - (x + 0.4) ** 2 - 0.3 * (y + 0.5) ** 2, 0, 1)
    rgb = np.where(stripes[..., None], *(np.array(ImageColor.getrgb(one)) for one in colours))
    basket = (np.abs(x) < 0.2) & (y > 1.25) & (y < 1.6)
    ropes = (np.abs(np.abs(x) - 0.16) < 0.025) & (y > 0.9) & (y < 1.3)
    rgb = np.where((basket | ropes)[..., None], (92, 64, 40), rgb * light[..., None])
    alpha = (body | basket | ropes).astype(np.float32)[..., None]
    return np.concatenate([rgb * alpha, alpha], axis=2).astype(np.float32)


def lay(scene: Array, balloon: Array, middle: Array, swing: float) -> tuple[Array, Array]:
    """The scene (H, W, 3) with a balloon at xy, and the share (H, W) of each pixel it covers."""
    side = len(balloon)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), swing, 1)
    matrix[:, 2] += middle - side / 2
    size = (scene.shape[1], scene.shape[0])
    laid = cv2.warpAffine(balloon, matrix, size, flags=cv2.INTER_AREA)
    return mb.over(scene, laid), laid[..., 3]


def draw_tree(rng: Rng, size: tuple[int, int], x: float) -> Array:
    """A tree, RGBA (H, W, 4): a trunk and a crown wide enough to hide a balloon."""
    h, w = size
    tree = np.zeros((h, w, 4), np.float32)
    cv2.line(tree, (int(x), h), (int(x), int(0.55 * h)), (70.0, 55.0, 42.0, 1.0), 14)
    for depth in np.linspace(0, 1, 1800):
        angle, away = rng.uniform(0, 2 * np.pi), 85 * np.sqrt(rng.uniform())
        at = (int(x + away * np.cos(angle)), int(0.36 * h + 1.15 * away * np.sin(angle)))
        leaf = rng.uniform((55, 80, 35), (95, 115, 55)) * (0.45 + 0.6 * depth)
        axes = rng.integers(5, 12, 2).tolist()
        cv2.ellipse(tree, at, axes, rng.uniform(0, 180), 0, 360, (*leaf.tolist(), 1.0), -1)
    return tree


def draw_film(frames: int, seed: int) -> list[tuple[Image.Image, Array]]:
    """All frames, each with its mask (H, W) bool of the balloon's pixels that can be seen."""
    rng = np.random.default_rng(seed)
    street, *_ = mb.draw_street(rng)
    h, w = street.shape[:2]
    tree = draw_tree(rng, (h, w), 0.56 * w)
    phases = rng.uniform(0, 2 * np.pi, 6)
    film = []
    for time in np.linspace(0, 1, frames):
        waves = np.sin(2 * np.pi * time * np.array([1, 2, 1, 3, 2, 1]) + phases)
        radius = 34 + 12 * time + 3 * waves[0]
        place = np.array([(0.13 + 0.74 * time) * w, 0.36 * h + 26 * waves[1]])
        other = np.array([(0.9 - 0.6 * time) * w, 0.2 * h + 20 * waves[2]])
        scene, _ = lay(street, draw_balloon(BALLOONS[1], 30, 2 * time), other, 4 * waves[3])
        scene, seen = lay(scene, draw_balloon(BALLOONS[0], radius, 5 * time), place, 6 * waves[4])
        scene = mb.over(scene, tree)
        seen = seen * (1 - tree[..., 3])
        room = np.array([w - FRAME[1], h - FRAME[0]])
        left, top = (room * (0.12 + 0.76 * np.array([time, 0.5 + 0.4 * waves[5]]))).astype(int)
        window = slice(top, top + FRAME[0]), slice(left, left + FRAME[1])
        blurred = cv2.GaussianBlur(scene[window], (0, 0), 0.7)
        noisy = blurred + rng.normal(0, 3, blurred.shape)
        film.append((Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), seen[window] > 0.5))
    return film


def main() -> None:
    """Read the command line, draw, write."""
    parser = argparse.ArgumentParser(description="Draw frames of a film to follow a balloon in.")
    parser.add_argument("out", type=Path, help="folder to write frames/, masks/ and first/ into")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="same seed, same film")
    arguments = parser.parse_args()
    out, first = arguments.out, arguments.out / "first"
    for folder in (out / "frames", out / "masks", first / "images", first / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
    for number, (photo, mask) in enumerate(draw_film(arguments.frames, arguments.seed)):
        photo.save(out / "frames" / f"{number:03d}.jpg", quality=90)
        Image.fromarray(mask.astype(np.uint8) * 255).save(out / "masks" / f"{number:03d}.png")
    shutil.copy(out / "frames" / "000.jpg", first / "images")
    shutil.copy(out / "masks" / "000.png", first / "masks")


if __name__ == "__main__":
    main()
