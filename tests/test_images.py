"""images.py: every kind of file becomes an upright array, and back."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from broken_data import bomb, photo, save, without_permission
from PIL import Image

from samtune import upright
from samtune.errors import ImageError, OutputError
from samtune.images import (
    image_size,
    read_image,
    read_labels,
    write_image,
    write_mask,
)

SUFFIXES = (".jpg", ".png", ".webp", ".tif", ".bmp")

# What a viewer does to the stored pixels for each value of EXIF's Orientation tag (EXIF 2.32,
# table 6), written with numpy: Pillow's own table is what is under test.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


def _oriented(path: Path, stored: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(stored).save(path, exif=exif, **lossless)
    return path


def _palette(path: Path, indices: list[list[int]], colours: list[list[int]]) -> Path:
    image = Image.new("P", (len(indices[0]), len(indices)))
    image.putdata([index for row in indices for index in row])
    image.putpalette([level for colour in colours for level in colour])
    image.save(path)
    return path


# --- reading images ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read_as_the_colours_that_were_written(tmp_path, suffix):
    # Broad flat areas: a lossy format keeps these within a few levels.
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    pixels[:16, :, 0], pixels[16:, :24, 1], pixels[16:, 24:, 2] = 200, 150, 250
    path = save(tmp_path / f"a{suffix}", pixels)
    difference = np.abs(read_image(path).astype(int) - pixels)
    # Away from the edges between the areas, where halved chroma bleeds.
    assert difference[4:12, 4:-4].max() <= 4
    assert difference[20:28, 28:-4].max() <= 4
    if suffix in (".png", ".tif", ".bmp"):
        assert difference.max() == 0


def test_the_content_and_not_the_suffix_tells_the_format(tmp_path):
    path = save(tmp_path / "a.png", photo()).rename(tmp_path / "a.JPEG")
    assert (read_image(path) == photo()).all()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_rotation_is_applied_to_images_and_masks_alike(tmp_path, suffix, orientation):
    stored = np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3, 1) * 40, 3, axis=2)
    path = _oriented(tmp_path / f"a{suffix}", stored, orientation)
    upright = UPRIGHT[orientation](stored)
    assert (read_image(path) == upright).all()
    assert (read_labels(path) == upright[:, :, 0]).all()
    assert image_size(path) == upright.shape[:2]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_rotated_jpeg_stands_upright(tmp_path, orientation):
    stored = np.zeros((40, 64, 3), dtype=np.uint8)
    stored[:16, :16] = 255  # one bright corner says where the top left went
    path = _oriented(tmp_path / "a.jpg", stored, orientation)
    upright = UPRIGHT[orientation](stored)
    assert np.abs(read_image(path).astype(int) - upright).mean() < 2
    assert image_size(path) == upright.shape[:2]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_large_image_is_upright_in_all_its_strips(tmp_path, orientation, monkeypatch):
    monkeypatch.setattr(upright, "_STRIP_PIXELS", 7 * 100)
    stored = np.random.default_rng(0).integers(0, 256, (1030, 7, 3), dtype=np.uint8)
    path = _oriented(tmp_path / "a.png", stored, orientation)
    assert (read_image(path) == UPRIGHT[orientation](stored)).all()


def test_a_photo_with_broken_exif_is_still_read(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(photo()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish")
    assert (read_image(path) == photo()).all()


def test_grey_and_one_bit_and_palette_images_become_rgb(tmp_path):
    grey = photo()[:, :, 0]
    assert (read_image(save(tmp_path / "grey.png", grey)) == grey[:, :, None]).all()
    bits = grey > 127
    assert (read_image(save(tmp_path / "bits.png", bits)) == bits[:, :, None] * 255).all()
    colours = [[9, 8, 7], [60, 50, 40], [255, 0, 128]]
    path = _palette(tmp_path / "palette.png", [[2, 1, 0]], colours)
    assert read_image(path).tolist() == [colours[::-1]]


def test_transparent_pixels_lie_over_white(tmp_path):
    # Exporters leave any colour under transparent pixels; a viewer does not show it.
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    read = read_image(save(tmp_path / "a.png", pixels))
    assert read.tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_cmyk_is_converted_to_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")  # printed red
    red, green, blue = read_image(tmp_path / "a.jpg")[8, 8].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_images_fill_the_range_by_the_depth_in_use(tmp_path, suffix):
    full = np.array([[0, 257, 65535]], dtype=np.uint16)
    read = read_image(save(tmp_path / f"full{suffix}", full))
    assert read[0, :, 0].tolist() == [0, 1, 255]
    # A microscope's 12 bits in a 16-bit file: by 1/257 all of it would be nearly black.
    camera = np.array([[0, 2048, 4095]], dtype=np.uint16)
    read = read_image(save(tmp_path / f"camera{suffix}", camera))
    assert read[0, :, 0].tolist() == [0, 128, 255]


def test_float_tiffs_are_read_from_0_to_1_with_holes_as_black(tmp_path):
    values = np.array([[0, 0.5, 1, np.nan]], dtype=np.float32)
    assert read_image(save(tmp_path / "a.tif", values))[0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("read", [read_image, image_size, read_labels])
def test_a_truncated_file_is_named_and_not_half_read(tmp_path, suffix, read):
    path = save(tmp_path / f"a{suffix}", photo(size=(64, 96)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ImageError, match=rf"^\S*a{suffix} is damaged or truncated") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"hello", "is not a JPEG, PNG, WebP, TIFF or BMP image"),
        (b"", "is not a JPEG, PNG, WebP, TIFF or BMP image"),
        (b"GIF89a\1\0\1\0\0\0\0;", "is not a JPEG, PNG, WebP, TIFF or BMP image"),
        # Pillow would hand this to Ghostscript.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a JPEG"),
        (bomb(), "has too many pixels"),
    ],
)
@pytest.mark.parametrize("read", [read_image, image_size, read_labels])
def test_what_is_no_image_is_refused_by_name(tmp_path, content, told, read):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"a.png {told}"):
        read(path)


def test_a_file_without_permission_is_not_called_damaged(tmp_path):
    path = save(tmp_path / "a.png", photo())
    with without_permission(path), pytest.raises(ImageError, match=r"a\.png may not be read"):
        read_image(path)


def test_a_picture_that_its_format_cannot_hold_is_said_so(tmp_path):
    with pytest.raises(OutputError, match=r"a\.jpg cannot hold 65520×3 px"):
        write_image(tmp_path / "a.jpg", np.zeros((3, 65_520, 3), np.uint8))
    assert not (tmp_path / "a.jpg").exists()


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ImageError, match=r"b\.png does not exist"):
        read_image(tmp_path / "b.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)


def test_a_large_image_is_read_without_a_warning(tmp_path, monkeypatch):
    # Pillow warns above this many pixels and refuses above twice as many; pytest makes
    # warnings errors, and a 100-megapixel photo is none.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    path = save(tmp_path / "a.png", photo(size=(24, 32)))
    assert read_image(path).shape == (24, 32, 3)


@pytest.mark.parametrize("size", [(81, 123), (3, 5), (1, 1)])
def test_image_size_of_a_jpeg_is_that_of_the_file_and_not_of_its_quick_decoding(tmp_path, size):
    assert image_size(save(tmp_path / "a.jpg", photo(size=size))) == size


# --- reading labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_labels_are_read_as_stored(tmp_path, suffix, dtype):
    labels = np.array([[0, 1, 2], [7, 250, np.iinfo(dtype).max]], dtype=dtype)
    read = read_labels(save(tmp_path / f"a{suffix}", labels))
    assert read.dtype.kind in "iu"
    assert (read == labels).all()


def test_big_endian_labels_are_usable_like_any_others(tmp_path):
    Image.fromarray(np.array([[1, 300]], dtype=">u2")).save(tmp_path / "a.tif")
    read = read_labels(tmp_path / "a.tif")
    assert read.tolist() == [[1, 300]]
    assert read.dtype.isnative


def test_one_bit_and_whole_float_labels_become_integers(tmp_path):
    bits = np.array([[True, False]])
    assert read_labels(save(tmp_path / "a.png", bits)).tolist() == [[1, 0]]
    floats = np.array([[0, 3]], dtype=np.float32)
    read = read_labels(save(tmp_path / "a.tif", floats))
    assert read.dtype.kind == "i"
    assert read.tolist() == [[0, 3]]


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -np.inf, 3e38])
def test_floats_that_no_label_can_be_are_refused(tmp_path, value):
    path = save(tmp_path / "a.tif", np.array([[0, value]], dtype=np.float32))
    with pytest.raises(ImageError, match=r"a\.tif is a mask"):
        read_labels(path)


def test_a_palette_gives_its_indices(tmp_path):
    # Pascal VOC's masks: the colours are for the eye, the indices are the labels.
    path = _palette(tmp_path / "a.png", [[0, 1, 2]], [[0, 0, 0], [128, 0, 0], [0, 128, 0]])
    assert read_labels(path).tolist() == [[0, 1, 2]]


def test_black_is_background_also_where_the_palette_lists_white_first(tmp_path):
    # What PNG optimizers make of a 0/255 mask; by its indices it would be inside out.
    path = _palette(tmp_path / "a.png", [[0, 1, 1]], [[255, 255, 255], [0, 0, 0]])
    assert read_labels(path).tolist() == [[1, 0, 0]]


def test_equal_colour_channels_are_read_as_one(tmp_path):
    labels = np.array([[0, 3, 255]], dtype=np.uint8)
    path = save(tmp_path / "a.png", np.repeat(labels[:, :, None], 3, axis=2))
    assert (read_labels(path) == labels).all()


def test_transparent_pixels_of_a_mask_are_background(tmp_path):
    # An object cut out: white everywhere, and transparent around it.
    cut_out = np.full((1, 3, 4), 255, dtype=np.uint8)
    cut_out[0, 1:, 3] = 0
    assert read_labels(save(tmp_path / "a.png", cut_out)).tolist() == [[255, 0, 0]]
    grey = cut_out[:, :, 2:]
    assert read_labels(save(tmp_path / "b.png", grey)).tolist() == [[255, 0, 0]]


def test_a_mask_in_colours_is_refused_with_the_remedy(tmp_path):
    path = save(tmp_path / "a.png", np.array([[[255, 0, 0], [0, 0, 0]]], dtype=np.uint8))
    with pytest.raises(ImageError, match=r"a\.png is a mask in colours.*save it as a grey"):
        read_labels(path)
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif is a mask in colours"):
        read_labels(tmp_path / "a.tif")
    colourful = save(tmp_path / "a.jpg", np.full((16, 16, 3), (255, 0, 0), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"a\.jpg is a mask in colours"):
        read_labels(colourful)


def test_a_mask_in_16_bit_colour_is_refused_instead_of_losing_its_labels(tmp_path):
    # Pillow drops the lower 8 bits: labels 1 and 2 would both be read as 0.
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((4, 4, 3), 2, dtype=np.uint16))
    with pytest.raises(ImageError, match="16-bit colour"):
        read_labels(path)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_masks_are_thresholded_instead_of_read_as_labels(tmp_path, suffix, channels):
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:33, 7:40] = 255  # off the 8×8 blocks, so that the edges ring
    stored = mask if channels == 1 else np.repeat(mask[:, :, None], 3, axis=2)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(stored).save(path, quality=60)
    assert len(np.unique(np.asarray(Image.open(path)))) > 2  # it is smeared indeed
    assert (read_labels(path) == mask).all()


def test_a_lossless_webp_keeps_its_labels(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = tmp_path / "a.webp"
    Image.fromarray(labels).save(path, lossless=True)
    assert (read_labels(path) == labels).all()


def test_a_tiff_with_jpeg_inside_is_lossy_too(tmp_path):
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[10:33, 7:40] = 255
    Image.fromarray(mask).save(tmp_path / "a.tif", compression="jpeg", quality=60)
    assert set(np.unique(read_labels(tmp_path / "a.tif"))) == {0, 255}


# --- writing ----------------------------------------------------------------------------------


def test_a_written_mask_is_an_8_bit_png_of_0_and_255(tmp_path):
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 2:6] = True
    path = tmp_path / "new folder" / "a.png"  # made as needed
    write_mask(path, mask)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        assert (np.asarray(image) == mask * 255).all()


def test_a_mask_is_not_written_where_pixels_could_be_lost(tmp_path):
    with pytest.raises(OutputError, match=r"a\.jpg cannot hold a mask.*\.png"):
        write_mask(tmp_path / "a.jpg", np.ones((2, 2), dtype=bool))
    with pytest.raises(ValueError, match="bool"):
        write_mask(tmp_path / "a.png", np.ones((2, 2), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_written_image_has_the_format_of_its_suffix(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, photo())
    with Image.open(path) as image:
        assert Image.registered_extensions()[suffix] == image.format
        assert image.size == photo().shape[1::-1]


def test_an_unknown_image_format_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"a\.xyz names no image format.*PNG"):
        write_image(tmp_path / "a.xyz", photo())


def test_png_bomb_of_the_tests_is_a_valid_header():
    # The bomb has to be refused for its size, not for being broken.
    assert struct.unpack(">II", bomb()[16:24]) == (50_000, 50_000)
