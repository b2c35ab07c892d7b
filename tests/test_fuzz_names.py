"""Files of any name: read and answered like others, and results go where they should."""

import json
import os
import shutil

import pytest
from broken_data import disk, photo, save
from command import files_in, one_error, run, use_instead_of_weights
from fuzzing import cases, everything_below, file_names
from hypothesis import assume, example, given
from hypothesis import strategies as st

from samtune.dataset import load_dataset

FORMATS = ["png", "coco", "yolo", "labelme", "geojson", "svg", "npz", "instances", "cutout"]


def put(source, target):
    """Copy a file under a name that the file system may not take."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except OSError:
        assume(False)
    return target


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for number in (1, 2, 3):
        save(folder / f"{number}.png", photo(number))
    save(folder / "mask.png", disk())
    return folder


@pytest.fixture
def tiny(tiny_sam, monkeypatch, tmp_path):
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path)


@cases(80)
@given(name=file_names(".png"), form=st.sampled_from(FORMATS), overlay=st.booleans())
@example(name="a" * 251 + ".png", form="labelme", overlay=False)
@example(name="a" * 251 + ".png", form="png", overlay=True)
def test_segment_answers_an_image_of_any_name(
    name, form, overlay, originals, tiny, monkeypatch, tmp_path_factory
):
    work = tmp_path_factory.mktemp("work")
    image = put(originals / "1.png", work / "in" / name)
    before = everything_below(work)
    monkeypatch.chdir(work / "in")
    words = ["--point", "9,9", "-o", "../out", "-f", form, "--json", "--quiet"]
    result = run("segment", *words, *["--overlay"] * overlay, "--", image.name)
    after = everything_below(work)
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before)
    assert all(name.startswith("out/") for name in new)
    if result.exit_code:
        assert "too long" in one_error(result)
        assert len(os.fsencode(name)) > 230
        assert not new
        return
    told = json.loads(result.stdout)
    assert told["image"] == name
    for path in told["files"].values():
        assert (
            path is None
            or path[3:] in {one.removeprefix("out/") and one for one in new}
            or (os.path.relpath(path, "..") in new)
        )


@cases(60)
@given(names=st.lists(file_names(".png"), min_size=2, max_size=2, unique=True))
def test_a_data_set_with_images_of_any_name(names, originals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / os.fsdecode(b"a \xff'\n\"b")
    for number, name in enumerate(names, start=1):
        put(originals / f"{number}.png", folder / "images" / name)
        put(originals / "mask.png", folder / "masks" / name)
    visible = [name for name in names if not name.startswith(".")]
    assume(visible)
    assume(len({os.path.splitext(name)[0].casefold() for name in names}) == 2)  # noqa: PTH122
    result = run("prompts", folder, "--quiet")
    if result.exit_code:
        # Names that differ in how é is written are one name; and é.png may be two files.
        assert "name of" in one_error(result) or "2 masks" in one_error(result)
        return
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(os.path.basename(line["image"]) for line in lines) == sorted(visible)  # noqa: PTH119


@cases(6)
@given(
    names=st.lists(file_names(".png"), min_size=2, max_size=2, unique=True),
    folder=file_names(""),
)
def test_check_and_fit_take_a_folder_of_any_name(
    names, folder, originals, tiny, monkeypatch, tmp_path_factory
):
    work = tmp_path_factory.mktemp("work")
    assume(folder not in (".", "..") and len(os.fsencode(folder)) < 200)
    assume(not any(name.startswith(".") for name in names))
    for number, name in enumerate(names, start=1):
        put(originals / f"{number}.png", work / folder / "images" / name)
        put(originals / "mask.png", work / folder / "masks" / name)
    assume(len(load_or_none(work / folder)) == 2)
    monkeypatch.chdir(work)
    checked = run("check", "--json", "--quiet", "--", folder)
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)
    words = ["--method", "persam", "-o", "a.safetensors", "--json", "--quiet"]
    fitted = run("fit", *words, "--", folder)
    assert fitted.exit_code == 0, fitted.output
    assert {name for name in files_in(work) if "/" not in name} == {"a.safetensors"}


def load_or_none(folder):
    try:
        return load_dataset(folder).pairs
    except Exception:  # as the tests above say
        return ()


@pytest.mark.parametrize("command", [["segment", "-p", "1,1"], ["check"], ["fit"], ["info"]])
def test_a_leading_dash_is_an_option_unless_two_dashes_come_before(command, tiny, tmp_path):
    assert run(*command, "-x.png").exit_code == 2
    message = one_error(run(*command, "--", "-x.png"))
    assert "-x.png" in message


@cases(20)
@given(name=file_names(".png"))
def test_errors_that_name_a_file_stay_one_line(name, tmp_path):
    for words in (
        ["segment", "-p", "1,1", "--quiet", "--label", "x", "-a"],
        ["info"],
        ["check", "--quiet"],
        ["prompts", "--quiet"],
        ["fit", "--quiet"],
        ["export", "-o", "x"],
    ):
        extra = ["image.png"] if "-a" in words else []
        result = run(*words, tmp_path / name, *extra)
        message = one_error(result)
        assert not {char for char in message if ord(char) < 32 or 127 <= ord(char) < 160}
