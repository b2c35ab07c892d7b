"""`samtune export`: files for other tools, and what it says of them."""

import builtins
import json
import shutil
from pathlib import Path

import pytest
from command import files_in, one_error, photo, run, use_instead_of_weights, write_adapter
from PIL import Image
from tiny_models import build_tiny_sam

from samtune.cli_export import _read_questions
from samtune.export_web import SITE_FILES
from samtune.parity import Parity

FILES = ["encoder.onnx", "decoder.onnx", "model.yaml", "parity.json"]


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, tmp_path_factory, monkeypatch):
    """A folder to work in with an adapter and an image, and a small model."""
    monkeypatch.chdir(tmp_path)
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path_factory.mktemp("weights"))
    write_adapter(tmp_path / "plates.safetensors", tiny_sam)
    Image.fromarray(photo()).save(tmp_path / "a.png")
    return tmp_path


def test_files_are_named_with_what_they_differ_from_torch_by(workplace):
    result = run("export", "plates.safetensors", "-o", "out")
    assert result.exit_code == 0, result.output
    assert files_in(workplace / "out") == set(FILES)
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == [f"out/{name}" for name in FILES]
    assert "5 prompts" in lines[4]
    assert 'display_name: "plates (samtune)"' in (workplace / "out/model.yaml").read_text()


def test_own_prompts_are_compared_on_and_json_tells(workplace):
    lines = [
        {"image": "a.png", "points": [[40, 20]]},
        {"image": "a.png", "box": [10, 5, 60, 40]},
    ]
    (workplace / "clicks.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    words = ["export", "plates.safetensors", "-o", "out", "--prompts", "clicks.jsonl", "--json"]
    told = json.loads(run(*words).stdout)
    assert told["files"] == [f"out/{name}" for name in FILES]
    assert told["questions"] == 2
    assert told["mask_iou"] >= 0.999
    kept = json.loads((workplace / "out" / "parity.json").read_text())
    assert (kept["questions"], kept["images"]) == (2, 1)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"image": "a.png", "points": [[40, 20]]}\n{"image"', "line 2"),
        ('{"image": "a.png", "points": [[400, 20]]}', "line 1"),
        ('{"image": "missing.png", "points": [[4, 20]]}', "missing.png"),
        ("\n", "no prompt"),
    ],
)
def test_a_bad_line_of_prompts_is_named_before_any_work(workplace, content, named):
    (workplace / "clicks.jsonl").write_text(content)
    words = ["export", "plates.safetensors", "-o", "out", "--prompts", "clicks.jsonl"]
    assert named in one_error(run(*words))
    assert not (workplace / "out").exists()


@pytest.mark.parametrize("read", ["adapter", "prompts"])
def test_what_is_read_is_not_overwritten(workplace, read):
    name, words = "decoder.onnx", ["decoder.onnx"]
    if read == "prompts":
        name, words = "parity.json", ["plates.safetensors", "--prompts", "parity.json"]
        Image.fromarray(photo()).save("a.png")
        Path(name).write_text('{"image": "a.png", "points": [[3, 4]]}')
    else:
        shutil.copy("plates.safetensors", name)
    before = Path(name).read_bytes()
    assert f"{name} is what is read" in one_error(run("export", *words))
    assert Path(name).read_bytes() == before


def test_prompts_keep_no_images_and_those_on_one_are_in_a_row(workplace):
    for name in "ab":
        Image.fromarray(photo()).save(f"{name}.png")
    asked = zip("abab", "1234", strict=True)
    lines = [f'{{"image": "{name}.png", "points": [[{x}, 4]]}}' for name, x in asked]
    Path("clicks.jsonl").write_text("\n".join(lines))
    questions = _read_questions("clicks.jsonl")
    assert [one.prompt.points[0, 0] for one in questions] == [1, 3, 2, 4]
    assert questions[0].image is questions[1].image  # which is encoded once
    assert [one.image for one in questions[::2]] == [Path("a.png"), Path("b.png")]


def test_without_onnxruntime_it_says_how_to_install_it(workplace, monkeypatch):
    load = builtins.__import__

    def without(name, *arguments, **options):
        if name == "onnxruntime":
            raise ImportError(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    message = one_error(run("export", "plates.safetensors", "-o", "out"))
    assert "pip install 'samtune[onnx]'" in message
    assert not (workplace / "out").exists()


def test_files_that_differ_from_torch_are_an_error_and_not_there(workplace, monkeypatch):
    monkeypatch.setattr("samtune.export.compare", lambda *a: Parity(5, 1, 3.0, 0.5, 0.5, 0.1))
    message = one_error(run("export", "plates.safetensors", "-o", "out"))
    assert "0.5" in message
    assert "nothing was written" in message
    assert not (workplace / "out").exists()


def test_an_adapter_of_another_model_is_refused(workplace):
    write_adapter(workplace / "other.safetensors", build_tiny_sam(seed=9))
    assert "--checkpoint" in one_error(run("export", "other.safetensors", "-o", "out"))
    assert not (workplace / "out").exists()


@pytest.fixture
def runtime(tmp_path_factory, monkeypatch):
    """Stands for onnxruntime-web's archive, which npm would bring."""
    path = tmp_path_factory.mktemp("npm") / "archive.tgz"
    monkeypatch.setattr("samtune.web_runtime.runtime_archive", lambda report: path)

    def write(archive, folder):
        assert archive == path
        for name in ("ort.js", "ort.wasm"):
            (folder / name).write_bytes(b"runtime")

    monkeypatch.setattr("samtune.export_web.write_runtime", write)


def test_a_page_is_written_and_how_to_see_it_is_told(workplace, runtime):
    result = run("export", "plates.safetensors", "--to", "web", "-o", "my site")
    assert result.exit_code == 0, result.output
    assert files_in(workplace / "my site") == set(SITE_FILES)
    assert json.loads((workplace / "my site/models.json").read_text())["name"] == "plates"
    first, second = result.stdout.splitlines()
    assert first.startswith("my site/index.html  ")
    assert first.endswith(f" in {len(SITE_FILES)} files")
    assert "5 prompts" in second
    assert "python3 -m http.server --directory 'my site'" in result.stderr


def test_json_names_the_page_s_files_and_the_worse_of_the_two_comparisons(
    workplace, runtime, monkeypatch
):
    answers = iter([Parity(5, 1, 0.004, 0.9995, 1.0, 0.0), Parity(5, 1, 0.002, 0.9992, 1.0, 0.0)])
    monkeypatch.setattr("samtune.export_web.compare", lambda *arguments: next(answers))
    told = json.loads(run("export", "plates.safetensors", "--to", "web", "--json").stdout)
    assert told["files"] == list(SITE_FILES)
    assert (told["low_res_difference"], told["mask_iou"]) == (0.004, 0.9992)


def test_a_page_of_somebody_else_is_not_overwritten(workplace, monkeypatch):
    (workplace / "index.html").write_text("my home page")
    monkeypatch.setattr("samtune.web_runtime.runtime_archive", lambda *a: pytest.fail("brought"))
    message = one_error(run("export", "plates.safetensors", "--to", "web"))
    assert "index.html is another page" in message
    assert (workplace / "index.html").read_text() == "my home page"
