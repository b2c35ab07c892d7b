"""`samtune segment --ray`: many workers, one of them killed, and the result of one machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import files_in, photo, run, use_instead_of_weights, write_adapter
from PIL import Image

from samtune.cli_answers import Question
from samtune.cli_ray import _blocks, _sources
from samtune.errors import SamtuneError
from samtune.ray_blocks import go_to, shared_device

SCRIPT = Path(__file__).with_name("segment_on_ray.py")
IMAGES = [*(f"{number}.png" for number in range(10)), "in/3.png", "gone.png"]


@pytest.fixture
def workplace(tiny_sam, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path / "home")
    monkeypatch.setenv("SAMTUNE_HOME", str(tmp_path / "home"))
    for seed, name in enumerate(IMAGES[:-1]):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(photo((48, 64), seed)).save(name)
    asked = [{"image": name, "box": [number, 2, 50, 40]} for name in IMAGES for number in (1, 9)]
    lines = [*map(json.dumps, asked), "no json"]
    Path("lines.jsonl").write_text("\n".join(lines))
    return tmp_path


def start(folder, *words):
    (folder / "notes").mkdir(exist_ok=True)
    places = [SCRIPT.parent, SCRIPT.parents[1], os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, SCRIPT, folder / "notes", "segment", "--ray", "local", *words],
        cwd=folder,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code):
    told, said = process.communicate(timeout=180)
    assert process.returncode == code, said
    return [json.loads(line) for line in told.splitlines()]


def without_seconds(answers, folder):
    """What was said, without the time that it took and the folder it went to."""
    texts = [json.dumps({**answer, "seconds": 0}) for answer in answers]
    return [text.replace(f'"{folder}/', '"') for text in texts]


@pytest.mark.slow
def test_a_killed_worker_and_a_new_start_leave_the_result_of_one_machine(workplace):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'samtune[ray]'")
    words = ["--prompts", "lines.jsonl", "--format", "png,labelme,coco", "--overlay"]
    process = start(workplace, *words, "-o", "ray")
    deadline = time.monotonic() + 240
    while not list(Path("ray").glob("*.mask.png")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.02)
    workers = [int(path.name) for path in Path("notes").iterdir()]
    os.kill(workers[0], signal.SIGKILL)
    answers = finish(process, 1)
    assert [answer["line"] for answer in answers if "error" in answer] == [23, 24, 25]
    assert [answer["line"] for answer in answers] == list(range(1, 26))
    assert len(list(Path("notes").iterdir())) > 2  # another one took its place

    assert len(json.loads(Path("ray/coco.json").read_text())["images"]) == 11

    Image.fromarray(photo((48, 64), 99)).save("gone.png")
    before = {path: path.stat().st_mtime_ns for path in Path("ray").glob("[!.]*")}
    assert len(before) == 22 + 22 + 11 + 1  # masks, overlays, labels of each image, coco.json
    answers = finish(start(workplace, *words, "-o", "ray", "--overwrite"), 1)
    redone = {path.name.split(".")[0] for path in before if path.stat().st_mtime_ns > before[path]}
    assert redone <= {"9", "3", "coco"}  # what shared a block with the image at fault

    plain = run("segment", *words, "-o", "plain")
    assert plain.exit_code == 1  # one line is no JSON
    expected = [json.loads(line) for line in plain.stdout.splitlines()]
    assert without_seconds(answers, "ray") == without_seconds(expected, "plain")
    names = files_in(Path("plain"))
    made = {name for name in files_in(Path("ray")) if not name.startswith(".samtune-ray-")}
    assert made == names
    for name in names:
        assert (Path("ray") / name).read_bytes() == (Path("plain") / name).read_bytes(), name


@pytest.fixture
def one_process(monkeypatch):
    """Instead of a cluster: blocks of two images, done here, the last one first."""

    def run_blocks(work, shared, blocks, records, *, gpu):
        for index in reversed(range(len(blocks))):
            yield index, json.loads(json.dumps(work(shared, blocks[index])))

    monkeypatch.setattr("samtune.cli_ray.run_blocks", run_blocks)
    monkeypatch.setattr("samtune.cli_ray.connect", lambda address: None)
    monkeypatch.setattr("samtune.cli_ray.shared_device", lambda device: "cpu")
    monkeypatch.setattr("samtune.cli_ray._IMAGES_A_BLOCK", 2)
    _sources.cache_clear()


def test_whatever_block_ends_first_files_and_answers_are_those_of_a_plain_run(
    workplace, one_process
):
    formats = "coco,png,yolo,labelme,geojson,svg,instances,cutout,npz"
    for words in (["--prompts", "lines.jsonl"], [*IMAGES, "-b", "5,5,40,40", "--json"]):
        plain = run("segment", *words, "--format", formats, "-o", "plain", "--overwrite")
        on_ray = run(
            "segment", *words, "--format", formats, "-o", "ray", "--overwrite", "--ray", "local"
        )
        assert plain.exit_code == on_ray.exit_code == 1  # an image that is not there
        assert on_ray.stderr == plain.stderr
        expected, answers = (
            [json.loads(line) for line in result.stdout.splitlines()] for result in (plain, on_ray)
        )
        assert without_seconds(answers, "ray") == without_seconds(expected, "plain")
        for name in files_in(Path("plain")):
            assert (Path("ray") / name).read_bytes() == (Path("plain") / name).read_bytes(), name


def test_labels_made_by_hand_before_the_run_stay_and_are_an_error(workplace, one_process):
    Path("ray").mkdir()
    Path("ray/3.json").write_text("hours of work")
    words = ["3.png", "4.png", "-p", "20,20", "-f", "labelme", "-o", "ray", "--ray", "local"]
    for _ in range(2):  # the second start finds 4.json, which is its own
        result = run("segment", *words)
        assert result.exit_code == 1
        assert "3.json exists" in result.stderr
        assert "4.json" in result.stdout
    assert Path("ray/3.json").read_text() == "hours of work"


RAY_WORDS = ["-p", "20,20", "-f", "labelme", "-o", "ray", "--ray", "local"]


def test_labels_made_by_hand_are_in_no_namesake_s_way_either(workplace, one_process):
    Path("ray").mkdir()
    Path("ray/3.json").write_text("hours of work")
    result = run("segment", "3.png", "in/3.png", *RAY_WORDS)
    assert result.exit_code == 1
    assert "3.json exists" in result.stderr
    assert Path("ray/3.json").read_text() == "hours of work"
    assert json.loads(Path("ray/3.2.json").read_text())["imagePath"].endswith("in/3.png")


@pytest.mark.parametrize("way", ["moved", "--overwrite"])
def test_a_run_goes_on_when_what_was_in_its_way_is_not(workplace, one_process, way):
    Path("ray").mkdir()
    Path("ray/3.json").write_text("hours of work")
    assert run("segment", "3.png", *RAY_WORDS).exit_code == 1
    if way == "moved":
        Path("ray/3.json").rename("mine.json")
    result = run("segment", "3.png", *RAY_WORDS, *[way][way == "moved" :])
    assert result.exit_code == 0, result.output
    assert json.loads(Path("ray/3.json").read_text())["shapes"]
    assert files_in(Path("ray")) == {"3.json"}


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cpu", "cpu"), (2, "cuda", "cuda")],
)
def test_all_workers_compute_on_one_kind_of_device(gpus, device, expected, monkeypatch):
    resources = {"CPU": 4.0, "GPU": float(gpus)}
    fake = SimpleNamespace(cluster_resources=lambda: resources)
    monkeypatch.setitem(sys.modules, "ray", fake)
    assert shared_device(device) == expected


@pytest.mark.parametrize(("gpus", "device"), [(0, "cuda"), (0, "mps"), (1, "mps")])
def test_a_device_that_the_cluster_lacks_is_refused_instead_of_waited_for(
    gpus, device, monkeypatch
):
    fake = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0, "GPU": float(gpus)})
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(SamtuneError, match=f"--device {device} cannot be used"):
        shared_device(device)


def test_a_machine_without_the_folder_to_work_in_is_named(tmp_path):
    said = f"{socket.gethostname()} has no folder {tmp_path / 'gone'} "
    with pytest.raises(SamtuneError, match=re.escape(said)):
        go_to(tmp_path / "gone")


def test_it_says_once_that_refining_did_not_help(workplace, one_process, tiny_sam):
    write_adapter(Path("a.safetensors"), tiny_sam, refine_helps=False)
    words = ("segment", *IMAGES[:5], "-p", "9,9", "-a", "a.safetensors", "--refine", "-o")
    plain, on_ray = run(*words, "plain"), run(*words, "ray", "--ray", "local")
    assert on_ray.exit_code == 0
    assert on_ray.stderr.count("refining did not help") == 1
    assert on_ray.stderr == plain.stderr


def test_a_finished_run_leaves_nothing_but_results(workplace, one_process):
    assert run("segment", "1.png", "-p", "9,9", "-o", "ray", "--ray", "local").exit_code == 0
    assert files_in(Path("ray")) == {"1.mask.png"}


def test_images_of_one_name_share_a_block_and_no_block_names_the_results_of_another():
    names = ["a.png", "x.png", *(f"b{number}.png" for number in range(60)), "in/X.jpg", "x.2.png"]
    questions = [Question(number, Path(name), []) for number, name in enumerate(names, 1)]
    blocks = _blocks(questions)
    assert sorted(q.number for block in blocks for q in block.questions) == list(range(1, 65))
    first, last = blocks[0], blocks[-1]
    assert [str(q.image) for q in first.questions][:4] == ["a.png", "x.png", "in/X.jpg", "b0.png"]
    assert [block.left for block in blocks] == [["x.2"], ["x"]]
    assert Path("x.2.png") in [q.image for q in last.questions]
