"""`export --to web`: the site's files, what they compute, and where their runtime comes from."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib

import numpy as np
import pytest
from command import files_in, photo
from PIL import Image
from scripts import ROOT
from tiny_models import IMAGE_SIZE, build_adapter

import samtune.web_runtime
from samtune.errors import ExportError, OutputError
from samtune.export_web import PAGE_FILES, SITE_FILES, check_place, export_web
from samtune.fetching import integrity
from samtune.parity import Parity, Question, compare
from samtune.prompts import Prompt
from samtune.web_runtime import runtime_archive

WEB = ROOT / "samtune" / "web"
CONTENT = {
    "package/dist/ort.wasm.bundle.min.mjs": b"export const env = {};",
    "package/dist/ort-wasm-simd-threaded.wasm": b"\0asm1234",
    "package/dist/ort.js": b"another build, which nobody wants",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive laid out as onnxruntime-web's."""
    path = tmp_path_factory.mktemp("npm") / "onnxruntime-web-1.30.0.tgz"
    with tarfile.open(path, "w:gz") as package:
        for name, content in CONTENT.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            package.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def adapter(tiny_sam):
    return build_adapter(tiny_sam)


@pytest.fixture(scope="module")
def site(tiny_sam, adapter, archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    export_web(tiny_sam, adapter, 'a "name"', folder, questions, archive)
    return folder


# ---------------------------------------------------------------------------------- the files


def test_the_site_is_the_page_its_runtime_and_the_models(site):
    assert files_in(site) == set(SITE_FILES)
    assert (site / "ort.js").read_bytes() == CONTENT["package/dist/ort.wasm.bundle.min.mjs"]
    assert (site / "ort.wasm").read_bytes() == b"\0asm1234"
    models = json.loads((site / "models.json").read_text())
    assert (models["name"], models["input_size"]) == ('a "name"', IMAGE_SIZE)
    # The page counts bytes by these, and takes a file of another length for a broken one.
    assert models["files"] == {
        name: (site / name).stat().st_size
        for name in ("ort.wasm", "encoder.onnx", "plain.onnx", "adapter.onnx")
    }
    told = json.loads((site / "parity.json").read_text())
    assert told["plain"]["mask_iou"] >= 0.999
    assert told["adapter"]["mask_iou"] >= 0.999


def test_every_file_of_the_page_is_in_the_package():
    assert files_in(WEB) == set(PAGE_FILES)
    names = {path.name for path in WEB.iterdir()}
    linked = {name for name in names if name in (WEB / "index.html").read_text()}
    assert linked == {"page.css", "page.js"}


def test_an_installed_samtune_has_the_page():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = [
        path for pattern in settings["package-data"]["samtune"] for path in WEB.parent.glob(pattern)
    ]
    assert set(WEB.iterdir()) <= set(packed)


def test_another_page_is_not_overwritten_and_an_earlier_export_is(site, tmp_path):
    check_place(tmp_path)
    shutil.copy(site / "index.html", tmp_path)
    check_place(tmp_path)
    (tmp_path / "index.html").write_text("<title>my home page</title>")
    with pytest.raises(OutputError, match="another page"):
        check_place(tmp_path)


@pytest.mark.parametrize("bad", [0, 1], ids=["plain SAM", "adapter"])
def test_models_that_answer_differently_are_not_written(
    tiny_sam, adapter, archive, tmp_path, monkeypatch, bad
):
    answers = iter(
        [Parity(1, 1, 3.0 if bad == number else 0.0, 1.0, 1.0, 0.0) for number in (0, 1)]
    )
    monkeypatch.setattr("samtune.export_web.compare", lambda *arguments: next(answers))
    with pytest.raises(ExportError, match="nothing was written"):
        export_web(tiny_sam, adapter, "a", tmp_path / "out", [], archive)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["plain.onnx", "adapter.onnx"])
def test_the_models_answer_as_the_predictor_on_other_pictures(tiny_sam, adapter, site, file):
    plugged = adapter if file == "adapter.onnx" else None
    image = photo((150, 97), seed=3)
    prompts = [
        Prompt.of(points=[(20, 30)]),
        Prompt.of(points=[(20, 30), (50, 10)], negative_points=[(5, 40)]),
        Prompt.of(box=(10, 5, 60, 40)),
    ]
    questions = [Question(image, prompt) for prompt in prompts]
    parity = compare(tiny_sam, plugged, site / "encoder.onnx", site / file, questions)
    assert parity.mask_iou >= 0.999
    assert parity.low_res_difference <= 1e-2


def test_quantized_models_are_smaller_and_plain_sam_s_decoder_stays(
    tiny_sam, adapter, archive, site, tmp_path
):
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    export_web(tiny_sam, adapter, "a", tmp_path, questions, archive, quantize=True)
    larger = (site / "adapter.onnx").stat().st_size
    assert (tmp_path / "adapter.onnx").stat().st_size < larger - 2_500_000
    assert (tmp_path / "plain.onnx").read_bytes() == (site / "plain.onnx").read_bytes()


# ---------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((48, 64), 128),  # enlarged
        ((300, 211), 128),  # made smaller
        ((128, 50), 128),  # one side as it is
        ((128, 128), 128),
        ((1, 700), 128),
        ((1037, 1600), 1024),
    ],
)
def test_the_page_scales_pictures_as_pillow_does_to_the_last_bit(tmp_path, size, side):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node, which would run the page's resize.js, is not installed")
    image = photo(size, seed=2)
    image[: size[0] // 2] = 255  # flat and full: where rounding up would overflow
    (tmp_path / "rgba").write_bytes(np.dstack([image, np.full(size, 255, np.uint8)]).tobytes())
    shutil.copy(WEB / "resize.js", tmp_path / "resize.mjs")
    (tmp_path / "run.mjs").write_text(f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ inputSize, resize }} from "./resize.mjs";
        const [height, width] = {list(size)};
        const frame = inputSize(height, width, {side});
        writeFileSync("scaled", resize(readFileSync("rgba"), height, width, ...frame));
        console.log(JSON.stringify(frame));
    """)
    command = [node, "run.mjs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    frame = json.loads(done.stdout)
    assert frame == [max(1, int(length * (side / max(size)) + 0.5)) for length in size]
    expected = Image.fromarray(image).resize(frame[::-1], Image.Resampling.BILINEAR)
    scaled = np.frombuffer((tmp_path / "scaled").read_bytes(), np.uint8).reshape(*frame, 3)
    assert np.array_equal(scaled, np.asarray(expected))


# ---------------------------------------------------------------------------------- the runtime


@pytest.fixture
def fake_npm(archive, tmp_path, monkeypatch):
    """An `npm` that brings the small archive, which is the known one; returns its script."""
    if sys.platform == "win32":
        pytest.skip("the stand-in for npm is a shell script")
    package = dataclasses.replace(samtune.web_runtime.ONNXRUNTIME_WEB, integrity=integrity(archive))
    monkeypatch.setattr("samtune.web_runtime.ONNXRUNTIME_WEB", package)
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n/bin/cp '{archive}' .\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    return script


def test_the_runtime_is_brought_once(fake_npm, archive, samtune_home):
    phases = []
    path = runtime_archive(lambda phase, *_: phases.append(phase))
    assert path.read_bytes() == archive.read_bytes()
    assert phases == ["npm pack onnxruntime-web@1.30.0"]
    fake_npm.unlink()
    assert runtime_archive(lambda *_: pytest.fail("brought again")) == path
    assert files_in(samtune_home) == {"npm/onnxruntime-web-1.30.0.tgz"}


def test_a_damaged_archive_is_brought_anew(fake_npm, archive, samtune_home):
    path = runtime_archive(lambda *_: None)
    path.write_bytes(b"half")
    assert runtime_archive(lambda *_: None).read_bytes() == archive.read_bytes()


def test_without_npm_the_message_says_what_to_put_where_and_that_works(
    fake_npm, archive, samtune_home
):
    fake_npm.unlink()
    with pytest.raises(ExportError, match=r"npm pack onnxruntime-web@1\.30\.0") as caught:
        runtime_archive(lambda *_: None)
    place = samtune_home / "npm" / "onnxruntime-web-1.30.0.tgz"
    assert str(caught.value).endswith(f"put that at {place}.")
    assert not files_in(samtune_home)
    shutil.copy(archive, place)
    assert runtime_archive(lambda *_: None) == place


def test_another_archive_than_the_known_one_is_refused_and_not_kept(fake_npm, samtune_home):
    fake_npm.write_text("#!/bin/sh\necho other > other.tgz\n")
    with pytest.raises(ExportError, match="another file than the known one"):
        runtime_archive(lambda *_: None)
    assert not files_in(samtune_home)
