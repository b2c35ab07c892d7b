"""`samtune segment --prompts -` in a shell's pipeline: ends, interruptions, memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import command_with_tiny_sam, files_in, photo
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

COMMAND = ["segment", "--prompts", "-", "--json", "--format", "png,coco"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder to work in with two images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"stands for weights")
    monkeypatch.setenv("SAMTUNE_CHECKPOINT", str(tmp_path / "weights.safetensors"))
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(photo((120, 160), seed)).save(name)
    return tmp_path


def lines(count):
    images = ("a.png", "b.png")
    asked = ({"image": images[n % 2], "points": [[40, 20]]} for n in range(count))
    return "".join(json.dumps(line) + "\n" for line in asked).encode()


def start(folder="out", **streams):
    command = command_with_tiny_sam(*COMMAND, "-o", folder)
    return subprocess.Popen(command, stderr=subprocess.PIPE, **streams)


def test_a_reader_that_has_enough_ends_it_without_a_word(workplace):
    # As `| head -1`: the pipe is closed while many lines wait.
    Path("lines.jsonl").write_bytes(lines(200))
    with (
        Path("lines.jsonl").open("rb") as asked,
        start(stdin=asked, stdout=subprocess.PIPE) as process,
    ):
        assert json.loads(process.stdout.readline())["line"] == 1
        process.stdout.close()
        said = process.stderr.read()
        code = process.wait(timeout=60)
    assert said == b""
    assert code == 1
    masks = [name for name in files_in(workplace / "out") if name.endswith(".mask.png")]
    assert 1 <= len(masks) < 100  # it did not go on to the end for nobody
    assert not any(Path(name).name.startswith(".") for name in files_in(workplace / "out"))


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_what_ends_it_has_its_exit_code_and_leaves_whole_files(workplace, number, expected):
    with start(stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(lines(3))
        process.stdin.flush()
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(number)  # while it waits for the next line
        said = process.stderr.read()
        code = process.wait(timeout=60)
        process.stdin.close()
    assert code == expected
    assert b"Traceback" not in said
    written = json.loads((workplace / "out" / "coco.json").read_text())
    assert len(written["images"]) == 2
    names = {"coco.json", "a.mask.png", "b.mask.png", "a.2.mask.png"}
    assert files_in(workplace / "out") == names


def test_what_runs_in_one_process_alone_speaks_whatever_its_rank(workplace, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with start(stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        told, _ = process.communicate(lines(1), timeout=60)
    assert json.loads(told)["line"] == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_lines(workplace):
    for seed, name in enumerate(("a.png", "b.png")):
        Image.fromarray(photo((800, 1000), seed)).save(name)

    def peak(count):
        """Megabytes that answering so many lines takes at most."""
        Path("lines.jsonl").write_bytes(lines(count))
        with Path("lines.jsonl").open("rb") as asked, Path("answers").open("wb") as answers:
            process = start(f"out{count}", stdin=asked, stdout=answers)
            said = process.stderr.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            process.stderr.close()
        assert (process.returncode, said) == (0, b"")
        assert len(Path("answers").read_bytes().splitlines()) == count
        return used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

    # An image of these is 2.4 MB, a mask 0.8: kept, they would take some hundred.
    assert peak(90) - peak(10) < 60
