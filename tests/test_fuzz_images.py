"""Image files from anybody: read upright and right, or refused in one line."""

import io
import os
import signal
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from broken_data import bomb
from fuzzing import answer_or_refusal, cases, damaged
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from samtune import upright
from samtune.errors import ImageError
from samtune.images import image_size, is_lossy, read_image, read_labels
from samtune.masks import count_values, decide_reading, objects_in

SIZE = (24, 32)  # (H, W)
PIXELS = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
RGBA = np.dstack([PIXELS, GREY])
LABELS = (np.indices(SIZE).sum(axis=0) // 9).astype(np.uint8)  # few numbers in stripes
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(pixels, form, **options):
    """A file's bytes, by Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def oriented(number):
    exif = Image.Exif()
    exif[274] = number
    return exif


def corpus():
    """Files of every kind that a camera, microscope or labelling tool may make; all can be read."""
    palette = Image.fromarray(LABELS).convert("P")
    cmyk, lab, ycbcr = (Image.fromarray(PIXELS).convert(mode) for mode in ("CMYK", "LAB", "YCbCr"))

    def several(more=2):  # new ones each time: Pillow leaves one format's settings on them
        pages = [Image.fromarray(PIXELS[::-1]), Image.fromarray(PIXELS[:, ::-1])]
        return {"save_all": True, "append_images": pages[:more]}

    deep = GREY.astype(np.uint16) * 200
    real = GREY.astype(np.float32) / 255
    holes = np.where(GREY > 200, np.nan, real).astype(np.float32)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "é" * 100, zip=True)
    files = {
        "png 1 bit": encoded(GREY > 99, "PNG"),
        "png grey": encoded(GREY, "PNG"),
        "png grey alpha": encoded(np.dstack([GREY, LABELS]), "PNG"),
        "png rgb": encoded(PIXELS, "PNG", icc_profile=PROFILE, pnginfo=text),
        "png rgba": encoded(RGBA, "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png palette with a hole": encoded(palette, "PNG", transparency=2),
        "png one colour transparent": encoded(PIXELS, "PNG", transparency=(1, 2, 3)),
        "png 16 bit": encoded(deep, "PNG"),
        "png 16 bit rgb": cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)[1].tobytes(),
        "png animated": encoded(PIXELS, "PNG", **several()),
        "jpeg": encoded(PIXELS, "JPEG", icc_profile=PROFILE),
        "jpeg grey": encoded(GREY, "JPEG"),
        "jpeg progressive": encoded(PIXELS, "JPEG", progressive=True, quality=70),
        "jpeg cmyk": encoded(cmyk, "JPEG"),
        "jpeg of several": encoded(PIXELS, "MPO", **several(1)),  # old Pillow has no room for more
        "webp": encoded(PIXELS, "WEBP"),
        "webp lossless": encoded(RGBA, "WEBP", lossless=True),
        "webp animated": encoded(PIXELS, "WEBP", **several()),
        "bmp": encoded(PIXELS, "BMP"),
        "bmp 1 bit": encoded(GREY > 99, "BMP"),
        "bmp palette": encoded(palette, "BMP"),
        "tiff pages": encoded(PIXELS, "TIFF", icc_profile=PROFILE, **several()),
        "tiff cmyk": encoded(cmyk, "TIFF"),
        "tiff lab": encoded(lab, "TIFF"),
        "tiff ycbcr jpeg": encoded(ycbcr, "TIFF", compression="jpeg"),
        "tiff rgba": encoded(RGBA, "TIFF", compression="tiff_lzw"),
        "tiff 16 bit big endian": encoded(deep.astype(">u2"), "TIFF"),
        "tiff 32 bit": encoded(deep.astype(np.int32) * 1000, "TIFF"),
        "tiff float": encoded(real, "TIFF", compression="tiff_adobe_deflate"),
        "tiff float with holes": encoded(holes, "TIFF"),
        "tiff fax": encoded(GREY > 99, "TIFF", compression="group4"),
        "tiff packbits": encoded(LABELS, "TIFF", compression="packbits"),
    }
    for number in range(1, 9):
        files[f"png turned {number}"] = encoded(PIXELS, "PNG", exif=oriented(number))
        files[f"tiff turned {number}"] = encoded(PIXELS, "TIFF", exif=oriented(number))
        files[f"webp turned {number}"] = encoded(
            PIXELS, "WEBP", lossless=True, exif=oriented(number)
        )
        files[f"jpeg turned {number}"] = encoded(PIXELS, "JPEG", exif=oriented(number))
    for form in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        files[f"{form} of one pixel"] = encoded(PIXELS[:1, :1], form)
    return files


CORPUS = corpus()
NO_IMAGES = [
    b"",
    b"\0" * 100,
    b"hello",
    b"GIF89a\1\0\1\0\0\0\0;",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    b"8BPS\0\1",
    bomb(),
]


def read_in_every_way(path):
    """All readers of one file agree on its size, whichever of them take it."""
    image = answer_or_refusal(lambda: read_image(path), ImageError)
    labels = answer_or_refusal(lambda: read_labels(path), ImageError)
    size = answer_or_refusal(lambda: image_size(path), ImageError)
    lossy = answer_or_refusal(lambda: is_lossy(path), ImageError)
    if image is not None:
        assert image.dtype == np.uint8
        assert image.shape == (*image.shape[:2], 3)
        assert min(image.shape) > 0
    if labels is not None:
        assert labels.dtype.kind in "iu"
        assert labels.dtype.isnative
    if labels is not None and lossy:
        assert set(np.unique(labels)) <= {0, 255}
    sizes = {one.shape[:2] for one in (image, labels) if one is not None}
    assert len(sizes | ({size} if size else set())) <= 1
    return image, labels


@pytest.mark.parametrize("kind", CORPUS)
def test_every_kind_of_file_is_read_whatever_it_is_called(kind, tmp_path):
    path = tmp_path / "a.bmp"
    path.write_bytes(CORPUS[kind])
    image, _ = read_in_every_way(path)
    assert image is not None
    assert "one pixel" in kind or image.shape[:2] in (SIZE, SIZE[::-1])


@pytest.mark.parametrize("kind", CORPUS)
def test_a_file_read_in_strips_is_the_same_as_read_at_once(kind, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(CORPUS[kind])
    at_once = read_image(path)
    monkeypatch.setattr(upright, "_STRIP_PIXELS", 5 * SIZE[1])
    assert np.array_equal(read_image(path), at_once)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("form", ["png", "webp", "tiff"])  # without loss
def test_turned_files_look_as_opencv_shows_the_png(form, number, tmp_path):
    (tmp_path / "a").write_bytes(CORPUS[f"{form} turned {number}"])
    png = np.frombuffer(CORPUS[f"png turned {number}"], np.uint8)
    shown = cv2.imdecode(png, cv2.IMREAD_COLOR)
    assert np.array_equal(read_image(tmp_path / "a"), shown[..., ::-1])


@pytest.mark.parametrize("kind", CORPUS)
@cases(10)
@given(data=st.data())
def test_damaged_files_of_every_kind(kind, tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data.draw(damaged(CORPUS[kind])))
    read_in_every_way(path)


@cases(60)
@given(
    start=st.sampled_from([*CORPUS.values(), *NO_IMAGES]),
    end=st.sampled_from([*CORPUS.values(), *NO_IMAGES]),
    share=st.floats(0, 1),
)
def test_files_that_begin_as_one_kind_and_end_as_another(start, end, share, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(start[: int(len(start) * share)] + end[int(len(end) * share) :])
    read_in_every_way(path)


@cases(40)
@given(
    size=st.sampled_from([(1, 20_000), (20_000, 1), (1, 65_535), (3, 9_999), (1, 1), (2, 1)]),
    form=st.sampled_from(["PNG", "TIFF", "BMP", "JPEG"]),
    mode=st.sampled_from(["L", "RGB", "1", "RGBA", "I;16", "F", "CMYK"]),
)
def test_very_long_and_very_small_images(size, form, mode, tmp_path):
    path = tmp_path / "a.jpg"
    try:
        path.write_bytes(encoded(Image.new(mode, size), form))
    except (OSError, ValueError):  # which a format cannot hold
        return
    image, _ = read_in_every_way(path)
    assert image is not None
    assert image.shape[:2] == size[::-1]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width, height, *chunks):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def test_an_image_with_a_side_that_no_viewer_shows_is_refused_with_the_limit(tmp_path):
    # Below Pillow's limit of pixels, and 100 GB in matrices that resize its masks.
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("1", (65_536, 1)), "PNG"))
    for read in (read_image, image_size, read_labels):
        with pytest.raises(ImageError, match=r"65,536 px long.*at most 65,535"):
            read(path)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_text_and_profiles_that_unpack_to_much_take_no_memory(name, tmp_path):
    packed = zlib.compress(b"\0" * 60_000_000, 1)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 9 * 8))
    path = tmp_path / "a.png"
    path.write_bytes(png_of(8, 8, chunk(name, b"k\0\0" + packed), pixels))
    (tmp_path / "small").write_bytes(CORPUS["png rgba"])
    read_in_every_way(path)
    taken = taken_by_reading(tmp_path / "small", path)
    assert len(taken) == 3
    assert max(taken.values()) < 30e6


MEASURE = """
import os, resource, sys
from pathlib import Path
from samtune import images
from samtune import upright
from samtune.errors import ImageError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small, *large = map(Path, sys.argv[1:])
images.read_image(small)  # what is imported late
for path in large:
    for name in ("read_image", "read_labels", "image_size"):
        if os.fork() == 0:  # a process of its own, as the peak never falls
            before = peak()
            try:
                getattr(images, name)(path)
            except ImageError:  # colours are no labels
                pass
            print(path.name, name, peak() - before, flush=True)
            os._exit(0)
        os.wait()
"""


def taken_by_reading(small, *files):
    """How many bytes reading takes at most, by file's name and way; `small` comes first."""
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, small, *files], capture_output=True, text=True, check=True
    )
    return {tuple(line.split()[:2]): int(line.split()[2]) for line in told.stdout.splitlines()}


BYTES_A_PIXEL = 16  # at most, while an image is read: what README promises


def test_reading_takes_a_bounded_number_of_bytes_a_pixel(tmp_path):
    side = 2_000
    modes = ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]
    for mode in modes:
        form = "PNG" if mode in ("RGBA", "P", "LA") else "TIFF"
        (tmp_path / mode).write_bytes(encoded(Image.new(mode, (side, side)), form))
    (tmp_path / "small").write_bytes(CORPUS["png rgba"])
    taken = taken_by_reading(tmp_path / "small", *(tmp_path / name for name in modes))
    assert len(taken) == 3 * len(modes)
    assert max(taken.values()) > side**2  # it is measured at all
    assert {key: n / side**2 for key, n in taken.items() if n > BYTES_A_PIXEL * side**2} == {}


def test_what_is_no_file_with_an_end_is_refused_at_once(tmp_path):
    path = tmp_path / "a.png"
    os.mkfifo(path)
    signal.alarm(10)  # opening it would wait for a writer, and for ever
    try:
        for read in (read_image, image_size, read_labels):
            with pytest.raises(ImageError, match=r"a\.png is no ordinary file"):
                read(path)
    finally:
        signal.alarm(0)


@cases(80)
@given(
    values=st.lists(
        st.integers(0, 3) | st.integers(0, 255) | st.integers(0, 65_535), min_size=1, max_size=6
    ),
    meaning=st.sampled_from([None, "mask", "components", "instances"]),
    class_id=st.none() | st.integers(1, 65_535),
    seed=st.integers(0, 99),
)
def test_masks_of_any_values_become_objects_within_their_foreground(
    values, meaning, class_id, seed, tmp_path
):
    numbers = np.random.default_rng(seed).choice(values, SIZE).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(numbers, "PNG"))
    labels = read_labels(path)
    assert np.array_equal(labels, numbers)
    if meaning == "instances":
        class_id = None
    reading = decide_reading([count_values(labels)], meaning, class_id)
    objects, specks = objects_in(labels, reading, 0)
    union = np.zeros(SIZE, bool)
    for thing in objects:
        assert not (union & thing.mask()).any()
        assert thing.area > 0
        union |= thing.mask()
    expected = labels == class_id if class_id is not None else labels >= reading.threshold
    expected &= labels != (reading.void or 0)
    assert not (union & ~expected).any()
    assert specks or np.array_equal(union, expected)
