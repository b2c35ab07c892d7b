"""Shards: several runs of `samtune segment` that together are the whole run."""

import json
from pathlib import Path

import numpy as np
import pytest
from command import files_in, photo, run, use_instead_of_weights
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from samtune.shards import Shard

SIZE = (48, 64)  # (H, W) of every image here
# In the order of the command line; x.2 is also how a second result of x is called.
IMAGES = ["a.png", "one/x.png", "b.png", "two/X.png", "x.2.png", "c.png", "d.png", "e.png"]


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, monkeypatch):
    """A folder to work in, with images in it, and a small model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path / "home")
    for seed, name in enumerate(IMAGES):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(photo(SIZE, seed)).save(name)
    return tmp_path


def run_shards(count, *words, **options):
    """All shards, in the worst order for whoever relies on another one."""
    numbers = range(count, 0, -1)
    results = [run("segment", *words, "--shard", f"{i}/{count}", **options) for i in numbers]
    return list(reversed(results))


def told(results):
    """What all of them said, without the time that it took and the folder it went to."""
    answers = [json.loads(line) for result in results for line in result.stdout.splitlines()]
    for answer in answers:
        answer.pop("seconds", None)
        if "files" in answer:
            answer["files"] = {name: Path(file).name for name, file in answer["files"].items()}
            answer["mask"] = Path(answer["mask"]).name
    return answers


def in_order(answers):
    return sorted(answers, key=lambda answer: json.dumps(answer, sort_keys=True))


def contents(folder):
    return {name: (Path(folder) / name).read_bytes() for name in files_in(Path(folder))}


@given(st.lists(st.sampled_from("abcdefgABC") | st.none()), st.integers(1, 6))
def test_every_item_is_of_exactly_one_shard_and_equal_names_of_the_same(names, count):
    dealt = [list(Shard(i, count).deal(names, lambda name: name)) for i in range(1, count + 1)]
    owners = {}
    for place, name in enumerate(names):
        assert all(shard[place][0] == name for shard in dealt)
        (owner,) = (i for i, shard in enumerate(dealt) if shard[place][1])
        if name is not None:
            assert owners.setdefault(name.casefold(), owner) == owner


@given(st.integers(0, 50), st.integers(1, 7))
def test_of_different_names_a_shard_has_every_nth(length, count):
    for i in range(1, count + 1):
        own = [item for item, is_own in Shard(i, count).deal(range(length), str) if is_own]
        assert own == list(range(length))[i - 1 :: count]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_of_images_are_together_the_whole_run(count):
    images = [image for image in IMAGES if image != "x.2.png"]
    words = [*images, "-b", "5,5,40,40", "--overlay", "--json", "-f", "png,yolo,instances,npz"]
    whole = run("segment", *words, "-o", "whole")
    shards = run_shards(count, *words, "-o", "shards")
    assert [shard.exit_code for shard in shards] == [0] * count
    for answer in (answers := told([whole])) + (others := told(shards)):
        answer["overlay"] = Path(answer["overlay"]).name
    assert in_order(others) == in_order(answers)
    assert {"x.mask.png", "X.2.mask.png", "x.txt", "X.2.txt"} <= files_in(Path("whole"))
    assert contents("shards") == contents("whole")


def lines():
    """Two objects in each image, a bad line, a blank one, and an image that is not there."""
    asked = [
        json.dumps({"image": image, "box": [number, 2, 50, 40]})
        for number in (1, 9)
        for image in IMAGES
        if image != "x.2.png"
    ]
    return "\n".join([*asked[:3], "no json", "", '{"image": "no.png"}', *asked[3:]]).encode()


@pytest.mark.parametrize("piped", [False, True])
def test_shards_of_lines_are_together_the_whole_run_with_its_line_numbers(piped):
    Path("lines.jsonl").write_bytes(lines())
    words = ["--prompts", "-" if piped else "lines.jsonl", "-f", "png,labelme,instances"]
    options = {"stdin": lines()} if piped else {}
    whole = run("segment", *words, "-o", "whole", **options)
    shards = run_shards(3, *words, "-o", "shards", **options)
    assert whole.exit_code == 1
    assert sorted(shard.exit_code for shard in shards) == [0, 1, 1]  # the two that had bad lines
    assert in_order(told(shards)) == in_order(told([whole]))
    numbers = [[answer["line"] for answer in told([shard])] for shard in shards]
    assert all(own == sorted(own) for own in numbers)
    assert contents("shards") == contents("whole")


@pytest.mark.parametrize("way", ["images", "file", "stdin"])
@pytest.mark.parametrize("names", [IMAGES, IMAGES[::-1]], ids=["x first", "x.2 first"])
def test_no_shard_names_a_result_as_another_one_does(names, way):
    # One of x's results would be x.2.mask.png, and so would the result of x.2.png.
    options = {"stdin": None}
    words = [*names, "-b", "5,5,40,40", "-b", "9,9,60,45", "--json"]
    if way != "images":
        boxes = ([5, 5, 40, 40], [9, 9, 60, 45])
        asked = [json.dumps({"image": name, "box": box}) for name in names for box in boxes]
        options["stdin"] = "\n".join(asked).encode()
        Path("lines.jsonl").write_bytes(options["stdin"])
        words = ["--prompts", "lines.jsonl" if way == "file" else "-"]
    answers = told(run_shards(len(names), *words, "-o", "out", **options))
    written = [answer["mask"] for answer in answers]
    assert len(written) == 2 * len(names)
    assert len({name.casefold() for name in written}) == len(written)
    assert set(written) == files_in(Path("out"))


def test_each_shard_has_a_coco_file_and_their_lists_only_need_to_be_joined():
    words = [*IMAGES, "-b", "5,5,40,40", "-b", "9,9,60,45", "-f", "coco", "--json", "-o", "out"]
    run_shards(3, *words)
    assert files_in(Path("out")) == {f"coco.{i}-of-3.json" for i in (1, 2, 3)}
    parts = [json.loads(Path(f"out/coco.{i}-of-3.json").read_text()) for i in (1, 2, 3)]
    images = {entry["id"]: entry for part in parts for entry in part["images"]}
    assert len(images) == len(IMAGES)
    annotations = {entry["id"]: entry for part in parts for entry in part["annotations"]}
    assert len(annotations) == 2 * len(IMAGES)
    run("segment", *words)
    whole = json.loads(Path("out/coco.json").read_text())

    def objects(images, annotations):
        """File, box and area of each object."""
        name = {entry["id"]: Path(entry["file_name"]).name for entry in images}
        return sorted((name[e["image_id"]], e["bbox"], e["area"]) for e in annotations)

    assert objects(images.values(), annotations.values()) == objects(
        whole["images"], whole["annotations"]
    )


def test_a_shard_without_images_says_so_and_is_no_failure():
    result = run("segment", "a.png", "-p", "20,20", "--shard", "3/3")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Nothing to do for shard 3/3" in result.stderr
    quiet = run("segment", "a.png", "-p", "20,20", "--shard", "3/3", "--quiet")
    assert quiet.stderr == ""


def test_a_shard_does_not_encode_the_images_of_the_others(tiny_sam, monkeypatch):
    encoded = []
    encode = type(tiny_sam).encode_image
    monkeypatch.setattr(
        type(tiny_sam), "encode_image", lambda *a: encoded.append(np.sum(a[1])) or encode(*a)
    )
    run("segment", *IMAGES, "-p", "20,20", "--shard", "1/4")
    assert len(encoded) == 2  # the 1st, a.png, and the 5th other name, d.png
