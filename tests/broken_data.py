"""Data folders, one function a fault; each takes an empty folder, fills it, and returns it.

They are generated, not committed, so that what is broken about each can be read here.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (24, 32)  # (H, W), not square: exchanged axes would show


def photo(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) uint8 noise; another seed gives another image."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def disk(value: int = 255, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W) uint8, `value` in a disk left of the middle."""
    ys, xs = np.mgrid[: size[0], : size[1]]
    inside = (xs - size[1] * 0.3) ** 2 + (ys - size[0] * 0.5) ** 2 < (min(size) * 0.25) ** 2
    return np.where(inside, value, 0).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def healthy(folder: Path, count: int = 4) -> Path:
    """Nothing wrong: `count` different photos 0.jpg, 1.jpg, ... with a disk each."""
    for number in range(count):
        save(folder / "images" / f"{number}.jpg", photo(number))
        save(folder / "masks" / f"{number}.png", disk())
    return folder


@contextlib.contextmanager
def without_permission(path: Path) -> Iterator[None]:
    """Take all rights to a file or folder away for as long as the block runs."""
    if os.name == "nt":
        pytest.skip("files have no such permissions here")
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)  # root, as a container's user often is, may do everything
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


def bomb() -> bytes:
    """A PNG of 60 bytes that says it has 50,000 × 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def missing_folder(folder: Path) -> Path:
    return folder / "no_such_folder"


def file_instead_of_folder(folder: Path) -> Path:
    return save(folder / "a.png", disk())


def empty_folder(folder: Path) -> Path:
    return folder


def folder_of_hidden_files(folder: Path) -> Path:
    (folder / ".DS_Store").write_bytes(b"\0")
    return folder


def folder_of_data_sets(folder: Path) -> Path:
    healthy(folder / "train")
    healthy(folder / "val")
    return folder


def images_without_masks_folder(folder: Path) -> Path:
    save(folder / "images" / "a.jpg", photo())
    return folder


def image_without_mask(folder: Path) -> Path:
    healthy(folder)
    save(folder / "images" / "plate_07.jpg", photo(7))
    return folder


def misspelt_mask(folder: Path) -> Path:
    image_without_mask(folder)
    save(folder / "masks" / "Plate_7.png", disk())
    return folder


def two_masks_for_one_image(folder: Path) -> Path:
    healthy(folder)
    save(folder / "masks" / "0.tif", disk())
    return folder


def two_images_of_one_name(folder: Path) -> Path:
    healthy(folder)
    save(folder / "images" / "0.png", photo())
    return folder


def mask_of_another_size(folder: Path) -> Path:
    healthy(folder)
    save(folder / "masks" / "2.png", disk(size=(12, 16)))
    return folder


def turned_mask(folder: Path) -> Path:
    healthy(folder)
    save(folder / "masks" / "2.png", disk(size=SIZE[::-1]))
    return folder


def colour_mask(folder: Path) -> Path:
    healthy(folder)
    save(folder / "masks" / "2.png", photo(2))
    return folder


def truncated_image(folder: Path) -> Path:
    healthy(folder)
    path = folder / "images" / "2.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    return folder


def truncated_mask(folder: Path) -> Path:
    healthy(folder)
    path = folder / "masks" / "2.png"
    path.write_bytes(path.read_bytes()[:-30])
    return folder


def text_as_image(folder: Path) -> Path:
    healthy(folder)
    (folder / "images" / "2.jpg").write_text("not a photo")
    return folder


def image_of_no_bytes(folder: Path) -> Path:
    healthy(folder)
    (folder / "images" / "2.jpg").write_bytes(b"")
    return folder


def broken_link_as_image(folder: Path) -> Path:
    healthy(folder)
    (folder / "images" / "2.jpg").unlink()
    (folder / "images" / "2.jpg").symlink_to("moved_away.jpg")
    return folder


def decompression_bomb(folder: Path) -> Path:
    healthy(folder)
    (folder / "images" / "2.jpg").unlink()
    (folder / "images" / "2.png").write_bytes(bomb())
    return folder


def all_masks_empty(folder: Path) -> Path:
    healthy(folder)
    for number in range(4):
        save(folder / "masks" / f"{number}.png", disk(value=0))
    return folder


# What each folder's error has to name, so that the user finds the place.
NAMED_BY_FAULT = {
    missing_folder: "no_such_folder",
    file_instead_of_folder: "a.png",
    empty_folder: "holds no images",
    folder_of_hidden_files: "holds no images",
    folder_of_data_sets: "train, val",
    images_without_masks_folder: "masks",
    image_without_mask: "images/plate_07.jpg",
    misspelt_mask: "images/plate_07.jpg",
    two_masks_for_one_image: "images/0.jpg",
    two_images_of_one_name: "images/0.jpg",
    mask_of_another_size: "masks/2.png",
    turned_mask: "masks/2.png",
    colour_mask: "masks/2.png",
    truncated_image: "images/2.jpg",
    truncated_mask: "masks/2.png",
    text_as_image: "images/2.jpg",
    image_of_no_bytes: "images/2.jpg",
    broken_link_as_image: "images/2.jpg",
    decompression_bomb: "images/2.png",
    all_masks_empty: "all 4 masks",
}
