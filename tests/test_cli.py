"""The command line as a whole, and its small commands: info, checkpoint, cache."""

import errno
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import typer
from command import one_error, photo, run, write_adapter

from samtune import __version__
from samtune.cli import app
from samtune.cli_questions import open_lines
from samtune.config import FitConfig
from samtune.embeddings import EmbeddingCache
from samtune.errors import PromptError
from samtune.sources import SOURCES


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["segment", "--help"], []])
def test_help_does_not_import_torch(words):
    code = (
        "import sys; from samtune.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'onnx', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "Usage:" in finished.stdout + finished.stderr


def test_python_m_samtune_is_samtune():
    command = [sys.executable, "-m", "samtune", "--version"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout == f"samtune {__version__}\n"


def commands_below(command, *names):
    """Every command that does something, with the words it is called by."""
    if not hasattr(command, "commands"):
        yield names, command
    for name, one in getattr(command, "commands", {}).items():
        yield from commands_below(one, *names, name)


COMMANDS = dict(commands_below(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_option_says_what_it_does(words):
    command = COMMANDS[words]
    assert command.help
    assert not [one.name for one in command.params if not getattr(one, "help", None)]
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].strip()  # below the usage


def test_a_mistyped_command_is_wrong_usage_and_gets_a_suggestion():
    result = run("segmnt")
    assert result.exit_code == 2
    assert "Did you mean 'segment'?" in result.stderr


def test_info_says_what_an_adapter_is(tiny_sam, tmp_path):
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam, refine_helps=True, least_part=0.05)
    result = run("info", file)
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert f"written by samtune {__version__}" in words
    assert "base tiny (mobile_sam image encoder)" in words
    assert "trained on 1 image with 2 objects" in words
    assert "held out 3 images with 4 objects" in words
    assert "held-out IoU 78.9 % refined 80.0 % plain SAM 56.6 %" in words
    assert "refining its own masks: helps" in words
    assert "refining coarse masks: helps" in words
    assert "specks left out: parts of a mask below 5.0 % of its largest" in words
    assert "epochs 3" in words
    assert max(map(len, result.stdout.splitlines())) < 80  # a terminal's width


def test_info_tells_the_settings_that_were_chosen(tiny_sam, tmp_path):
    settings = {**asdict(FitConfig(seed=2, folds=5)), "first_offset": 0.1}
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam, settings=settings)
    words = " ".join(run("info", file).stdout.split())
    assert words.endswith("settings seed 2, folds 5, first_offset 0.1; all others by default")
    told = json.loads(run("info", file, "--json").stdout)["settings"]
    assert told == json.loads(json.dumps(settings))


def test_info_as_json_holds_scores_as_fractions(tiny_sam, tmp_path):
    file = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    told = json.loads(run("info", file, "--json").stdout)
    assert told["adapter"] == str(file)
    assert told["scores"]["adapter_iou"] == 0.789
    assert told["base"]["decoder_fingerprint"] == tiny_sam.decoder_fingerprint
    assert told["refine_helps"] is False


def test_info_of_something_else_is_one_line(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not an adapter")
    assert "notes.txt" in one_error(run("info", file))


def test_checkpoint_list_shows_every_name_and_which_are_here(samtune_home):
    (samtune_home / "checkpoints").mkdir()
    (samtune_home / "checkpoints" / SOURCES["vit_b"].filename).write_bytes(b"")
    lines = run("checkpoint", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(SOURCES)
    assert [line.split()[0] for line in lines if "fetched" in line] == ["vit_b"]
    told = [json.loads(line) for line in run("checkpoint", "list", "--json").stdout.splitlines()]
    assert [one["name"] for one in told if one["path"]] == ["vit_b"]
    for line, one in zip(lines, told, strict=True):
        assert one["licence"] == SOURCES[one["name"]].licence != ""
        assert line.endswith(f"licence {one['licence']}")


def test_checkpoint_path_prints_the_path_alone(samtune_home):
    file = samtune_home / "checkpoints" / SOURCES["vit_b"].filename
    file.parent.mkdir()
    file.write_bytes(b"")
    assert run("checkpoint", "path", "vit_b").stdout == f"{file}\n"


def test_checkpoint_path_of_what_is_not_here_says_how_to_get_it():
    assert "samtune checkpoint fetch vit_h" in one_error(run("checkpoint", "path", "vit_h"))


def test_checkpoint_fetch_shows_how_it_goes_and_prints_the_path(monkeypatch, tmp_path):
    def fetch(name, on_progress):
        on_progress("downloading", 10_000_000, 40_000_000)
        on_progress("downloading", 40_000_000, 40_000_000)
        return tmp_path / name

    monkeypatch.setattr("samtune.checkpoints.fetch", fetch)
    result = run("checkpoint", "fetch", "mobile_sam")
    assert result.stdout == f"{tmp_path / 'mobile_sam'}\n"
    assert result.stderr == "downloading 40.0/40.0 MB\n"
    assert run("checkpoint", "fetch", "mobile_sam", "--quiet").stderr == ""


@pytest.mark.parametrize("command", ["fetch", "path"])
def test_an_unknown_checkpoint_name_gets_the_known_ones(command):
    message = one_error(run("checkpoint", command, "vit_x"))
    assert "vit_x" in message
    assert "mobile_sam" in message


def test_cache_info_counts_and_cache_clear_empties(tiny_sam, samtune_home):
    assert run("cache", "info").stdout.startswith("0 image embeddings")
    for seed in range(2):
        EmbeddingCache().encode(photo(seed=seed), tiny_sam)
    told = json.loads(run("cache", "info", "--json").stdout)
    assert told["count"] == 2
    assert told["folder"] == str(samtune_home / "embeddings")
    assert run("cache", "clear").stdout == "removed 2 image embeddings\n"
    assert json.loads(run("cache", "info", "--json").stdout)["bytes"] == 0


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    def bug(path):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("samtune.adapter.read_info", bug)
    with pytest.raises(ZeroDivisionError):
        run("info", tmp_path)


def test_progress_in_a_terminal_shows_a_bar_and_leaves_a_line(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take stderr for a terminal
    from samtune.console import Terminal

    with Terminal(quiet=False) as terminal:
        terminal.show("training", 5, 10, "loss 0.31", seconds_left=42)
        terminal.show("training", 10, 10, "loss 0.30")
    written = capsys.readouterr().err
    assert "━" in written
    assert "training 10/10, loss 0.30" in written


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    from samtune.console import Terminal

    clock = iter(np.arange(0.0, 1000.0, 7.0))  # 7 seconds pass between any two looks at it
    monkeypatch.setattr("samtune.console.time.monotonic", lambda: float(next(clock)))
    with Terminal(quiet=False) as terminal:
        for done in range(1, 12):
            terminal.show("encoding", done, 11, seconds_left=300.0)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 5
    assert lines[0].startswith("encoding ")
    assert lines[0].endswith("5 min left")
    assert lines[-1] == "encoding 11/11"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\r\u2028b", "a\x85"])
def test_an_error_stays_one_line_whatever_the_names_in_it(name):
    message = one_error(run("info", name))
    assert repr(name)[1:-1] in message
    assert message.splitlines() == [message]
    assert "\x1b" not in message


@pytest.mark.parametrize("command", [["info"], ["check"], ["prompts"], ["fit"]])
def test_what_is_too_long_to_be_a_name_is_one_line(command):
    assert "name" in one_error(run(*command, "a" * 5000))


@pytest.mark.parametrize("command", [["info"], ["check"], ["prompts"], ["fit"]])
def test_a_link_that_leads_to_itself_is_one_line(command, tmp_path):
    (tmp_path / "link").symlink_to("link")
    assert "link" in one_error(run(*command, tmp_path / "link"))


@pytest.mark.parametrize("command", [["info"], ["refine", "--adapter", "a.safetensors"]])
def test_what_may_not_be_read_is_one_line(command, monkeypatch, tmp_path):
    def forbidden(self, *args, **others):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    for reads in ("exists", "is_file"):
        monkeypatch.setattr(Path, reads, forbidden)
    assert "may not be used" in one_error(run(*command, tmp_path / "a.json"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_answers_that_cannot_be_printed_are_one_line(tiny_sam, tmp_path):
    adapter = write_adapter(tmp_path / "a.safetensors", tiny_sam)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "samtune", "info", str(adapter)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the answers cannot be printed")
    assert len(done.stderr.splitlines()) == 1


def test_without_a_stdin_prompts_cannot_be_read_from_it(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(PromptError, match="no stdin"):
        open_lines("-")
