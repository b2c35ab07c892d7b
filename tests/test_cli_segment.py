"""`samtune segment`: masks from images and prompts."""

import errno
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from broken_data import without_permission
from command import (
    command_with_tiny_sam,
    files_in,
    one_error,
    photo,
    run,
    use_instead_of_weights,
    write_adapter,
)
from PIL import Image
from tiny_models import build_adapter, build_tiny_sam

from samtune.adapter import Adapter
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.polygons import Polygon
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.sam import Sam

SIZE = (48, 64)  # (H, W) of every image here


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, monkeypatch):
    """A folder to work in, with a.png and b.png in it, and a small model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path / "home")
    for seed, name in enumerate("ab"):
        Image.fromarray(photo(SIZE, seed)).save(tmp_path / f"{name}.png")
    return tmp_path


def read_mask(path):
    stored = np.asarray(Image.open(path))
    assert stored.dtype == np.uint8
    assert set(np.unique(stored).tolist()) <= {0, 255}
    return stored == 255


def predicted(sam, image, prompt, adapter=None):
    """The library's answer."""
    _, embedding = EmbeddingCache().encode(read_image(Path(image)), sam)
    return Predictor(sam, adapter).predict(embedding, [prompt], all_masks=True)[0]


def told(result):
    """What stdout holds: JSON objects only, one a line."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_point_gives_the_mask_of_plain_sam_under_the_image_s_name(tiny_sam, workplace):
    result = run("segment", "a.png", "--point", "40,20")
    assert result.exit_code == 0, result.output
    expected = predicted(tiny_sam, "a.png", Prompt.of(points=[(40, 20)]))
    assert 0 < expected.mask.sum() < expected.mask.size  # or any mask would do
    assert (read_mask("a.mask.png") == expected.mask).all()
    assert files_in(workplace) == {"a.png", "b.png", "a.mask.png", "home/tiny.safetensors"}
    area = int(expected.mask.sum())
    assert result.stdout == f"a.mask.png  score {expected.score:.2f}, {area:,} px\n"


def test_json_tells_everything_about_a_mask(tiny_sam):
    words = ["--point", "40,20", "--point", "30.5,20", "--negative-point", "5,40"]
    words += ["--box", "10,5,60,40", "-o", "out", "--json"]
    (answer,) = told(run("segment", "a.png", *words))
    prompt = Prompt.of([(40, 20), (30.5, 20)], [(5, 40)], (10, 5, 60, 40))
    expected = predicted(tiny_sam, "a.png", prompt)
    mask = read_mask("out/a.mask.png")
    assert (mask == expected.mask).all()
    ys, xs = np.nonzero(mask)
    x, y, width, height = answer["bbox"]
    assert answer["image"] == "a.png"
    assert answer["mask"] == str(Path("out/a.mask.png"))
    assert answer["prompt"] == {
        "points": [[40, 20], [30.5, 20], [5, 40]],
        "labels": [1, 1, 0],
        "box": [10, 5, 60, 40],
    }
    assert answer["score"] == pytest.approx(expected.score)
    assert answer["area"] == mask.sum()
    assert (x, y, x + width - 1, y + height - 1) == (xs.min(), ys.min(), xs.max(), ys.max())
    assert answer["adapter"] is None
    assert answer["seconds"] > 0


def test_several_boxes_are_several_numbered_masks():
    boxes = ["--box", "0,0,30,30", "--box", "20,10,60,40"]
    answers = told(run("segment", "a.png", *boxes, "--json"))
    assert [answer["mask"] for answer in answers] == ["a.1.mask.png", "a.2.mask.png"]
    assert [answer["prompt"]["box"][0] for answer in answers] == [0, 20]
    assert all(Path(answer["mask"]).is_file() for answer in answers)


def test_images_of_the_same_name_from_two_folders_do_not_overwrite_each_other(workplace):
    for number, folder in enumerate(("one", "two")):
        (workplace / folder).mkdir()
        Image.fromarray(photo(SIZE, number)).save(workplace / folder / "x.png")
    # X.png is the same name to the file systems of Windows and macOS.
    Image.fromarray(photo(SIZE, 3)).save(workplace / "X.png")
    result = run("segment", "one/x.png", "two/x.png", "X.png", "-p", "40,20", "--json", "-o", "out")
    names = [Path(answer["mask"]).name.lower() for answer in told(result)]
    assert len(set(names)) == 3
    assert names[:2] == ["x.mask.png", "x.2.mask.png"]


def test_a_result_never_overwrites_an_image_of_the_same_run(workplace):
    (workplace / "a.mask.png").write_bytes((workplace / "b.png").read_bytes())
    result = run("segment", "a.png", "a.mask.png", "-p", "40,20", "--json")
    assert (workplace / "a.mask.png").read_bytes() == (workplace / "b.png").read_bytes()
    assert [answer["mask"] for answer in told(result)] == ["a.2.mask.png", "a.mask.mask.png"]


def test_a_result_never_overwrites_an_image_that_a_later_line_asks_about(workplace):
    before = (workplace / "b.png").read_bytes()
    (workplace / "a.mask.png").write_bytes(before)
    lines = (line(image=name, points=[[40, 20]]) for name in ("a.png", "a.mask.png"))
    (workplace / "p.jsonl").write_bytes(b"".join(lines))
    result = run("segment", "--prompts", "p.jsonl")
    assert (workplace / "a.mask.png").read_bytes() == before
    assert [answer["mask"] for answer in told(result)] == ["a.2.mask.png", "a.mask.mask.png"]


def test_a_folder_that_holds_its_own_results_is_done_again_as_before(workplace):
    words = ["segment", ".", "-p", "40,20", "--json", "--overlay"]
    first = [(one["image"], one["mask"]) for one in told(run(*words))]
    assert [(one["image"], one["mask"]) for one in told(run(*words))] == first


def test_an_adapter_is_used_and_named(tiny_sam, workplace):
    file = write_adapter(workplace / "plates.safetensors", tiny_sam)
    (answer,) = told(run("segment", "a.png", "-p", "40,20", "-a", file.name, "--json"))
    prompt = Prompt.of(points=[(40, 20)])
    expected = predicted(tiny_sam, "a.png", prompt, Adapter.load(file, tiny_sam))
    plain = predicted(tiny_sam, "a.png", prompt)
    assert (expected.mask != plain.mask).any()  # or the adapter could have been ignored
    assert (read_mask("a.mask.png") == expected.mask).all()
    assert answer["adapter"] == "plates.safetensors"


def test_presence_is_told_with_every_mask_of_an_adapter_that_knows_it(tiny_sam, workplace):
    write_adapter(workplace / "knows.safetensors", tiny_sam, presence=0.25)
    write_adapter(workplace / "old.safetensors", tiny_sam)
    words = ["segment", "a.png", "--point", "20,30", "-a", "knows.safetensors"]
    knows, old = told(run(*words, "-a", "old.safetensors", "--json"))
    assert knows["presence"] == pytest.approx(0.25, abs=1e-6)
    assert old["presence"] is None
    assert "presence 0.25" in run(*words).stdout


def test_whose_answer_it_is_is_told_where_the_adapters_is_far_from_the_click(tiny_sam, workplace):
    """The adapter returns one part alone, so that some clicks are far from it."""
    adapter = build_adapter(tiny_sam, seed=3)
    one_part = replace(adapter.info, least_part=1.0, heeds_clicks=True)
    Adapter(one_part, adapter.learned).save(workplace / "parts.safetensors")
    points = [f"{x},{y}" for x in range(1, 64, 4) for y in range(1, 48, 4)]
    lines = "".join(f'{{"image": "a.png", "points": [[{point}]]}}\n' for point in points)
    words = ["segment", "--prompts", "-", "--adapter", "parts.safetensors"]
    answers = told(run(*words, "--json", stdin=lines.encode()))
    far = [point for point, one in zip(points, answers, strict=True) if one["fallback"]]
    assert 0 < len(far) < len(points)
    words = ["segment", "a.png", "-a", "parts.safetensors", "--point"]
    assert "plain SAM's: the adapter's mask is far from the click" in run(*words, far[0]).stdout
    near = next(point for point in points if point not in far)
    assert "plain SAM" not in run(*words, near).stdout
    (plain,) = told(run("segment", "a.png", "--point", far[0], "--json"))
    (answer,) = told(run(*words, far[0], "--json"))
    assert (read_mask(answer["mask"]) == read_mask(plain["mask"])).all()
    assert (answer["adapter"], plain["fallback"]) == ("parts.safetensors", False)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_below_the_least_score_there_is_nothing_and_no_file(tiny_sam, workplace, share):
    write_adapter(workplace / "knows.safetensors", tiny_sam, presence=0.5)
    words = ["segment", "a.png", "--point", "20,30", "-a", "knows.safetensors"]
    (answer,) = told(run(*words, "--json"))
    Path(answer["mask"]).unlink()
    least = share * 0.5 * answer["score"]  # score times presence counts
    found = run(*words, "--json", "--min-score", str(least))
    assert found.exit_code == 0
    (judged,) = told(found)
    accepted = share < 1
    assert (judged["mask"] is not None) == accepted == Path("a.mask.png").exists()
    assert ("reason" in judged) == (not accepted)
    assert (judged["score"], judged["presence"]) == (answer["score"], answer["presence"])
    if not accepted:
        assert "presence 0.50 is below" in judged["reason"]
        assert judged["area"] == 0
        assert "nothing found: score" in run(*words, "--min-score", str(least)).stdout


def test_several_adapters_share_one_encoding_of_the_image(tiny_sam, workplace, monkeypatch):
    files = [write_adapter(workplace / f"{n}.safetensors", tiny_sam, seed=n) for n in range(2)]
    encoded = []
    encode = Sam.encode_image
    monkeypatch.setattr(Sam, "encode_image", lambda *a: encoded.append(1) or encode(*a))
    words = [word for file in files for word in ("--adapter", file.name)]
    result = run("segment", "a.png", "-p", "40,20", *words)
    lines = result.stdout.splitlines()
    assert encoded == [1]
    assert [line.split()[0] for line in lines] == ["a.1.mask.png", "a.2.mask.png"]
    assert [line.split()[-1] for line in lines] == ["0.safetensors", "1.safetensors"]


def test_all_masks_of_an_ambiguous_click_are_sam_s_three(tiny_sam):
    answers = told(run("segment", "a.png", "-p", "40,20", "--all-masks", "--json"))
    expected = predicted(tiny_sam, "a.png", Prompt.of(points=[(40, 20)]))
    found = [read_mask(answer["mask"]) for answer in answers]
    assert (found[0] == expected.mask).all()  # first the one that is returned without the option
    assert len(answers) == 3
    for mask in expected.alternatives:
        assert any((mask == one).all() for one in found)


def test_overlay_is_a_jpeg_of_the_image_with_something_drawn_on_it():
    (answer,) = told(run("segment", "a.png", "-p", "40,20", "--overlay", "--json"))
    drawn = Image.open("a.overlay.jpg")
    assert answer["overlay"] == "a.overlay.jpg"
    assert drawn.format == "JPEG"
    assert drawn.size == SIZE[::-1]
    red, green, blue = drawn.getpixel((40, 20))
    assert green > red + 50  # the click
    assert green > blue + 50


def inverted(self, embedding, mask):
    """Outlines of all that is not the mask, exactly: a pixel each."""
    return tuple(Polygon(np.array([[x, y]], np.float32)) for y, x in np.argwhere(~mask))


def test_refine_writes_the_refined_mask(tiny_sam, workplace, monkeypatch):
    # A random model's ragged contours cannot be refined: an unmistakable stand-in.
    monkeypatch.setattr(Predictor, "refine_mask", inverted)
    file = write_adapter(workplace / "a.safetensors", tiny_sam, refine_helps=True)
    words = ["segment", "a.png", "-p", "40,20", "-a", file, "--json"]
    (refined,) = told(run(*words, "--refine", "-o", "refined"))
    (plain,) = told(run(*words))
    assert (read_mask(refined["mask"]) == ~read_mask(plain["mask"])).all()
    assert refined["refined"] is True
    assert plain["refined"] is False
    assert refined["area"] == SIZE[0] * SIZE[1] - plain["area"]


def test_refine_says_that_it_did_not_help_and_leaves_the_mask_alone(tiny_sam, workplace):
    file = write_adapter(workplace / "a.safetensors", tiny_sam, refine_helps=False)
    result = run("segment", "a.png", "-p", "40,20", "-a", file, "--refine", "--json")
    expected = predicted(
        tiny_sam, "a.png", Prompt.of(points=[(40, 20)]), Adapter.load(file, tiny_sam)
    )
    assert result.exit_code == 0
    assert "refining did not help" in result.stderr
    assert (read_mask("a.mask.png") == expected.mask).all()
    assert told(result)[0]["refined"] is False


def test_refine_always_refines_also_where_it_did_not_help(tiny_sam, workplace, monkeypatch):
    monkeypatch.setattr(Predictor, "refine_mask", inverted)
    file = write_adapter(workplace / "a.safetensors", tiny_sam, refine_helps=False)
    words = ["segment", "a.png", "-p", "40,20", "-a", file, "--json"]
    result = run(*words, "--refine-always", "-o", "refined")
    (plain,) = told(run(*words))
    (refined,) = told(result)
    assert "refining did not help" in result.stderr
    assert (read_mask(refined["mask"]) == ~read_mask(plain["mask"])).all()
    assert refined["refined"] is True


def test_refine_with_an_adapter_fitted_without_says_so(tiny_sam, workplace):
    file = write_adapter(workplace / "a.safetensors", tiny_sam, refines=False)
    message = one_error(run("segment", "a.png", "-p", "40,20", "-a", file, "--refine"))
    assert "--no-refiner" in message


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["a.png"], "--point"),
        (["-p", "1,1"], "images"),
        (["a.png", "-p", "1"], "--point"),
        (["a.png", "-p", "1,x"], "--point"),
        (["a.png", "-n", "nan,1"], "--negative-point"),
        (["a.png", "-b", "1,2,3"], "--box"),
        (["a.png", "-p", "1,1", "-b", "0,0,9,9", "-b", "1,1,8,8"], "--prompts"),
        (["a.png", "--prompts", "lines.jsonl"], "--prompts"),
        (["--prompts", "lines.jsonl", "-p", "1,1"], "--prompts"),
        (["a.png", "-p", "1,1", "--refine"], "--adapter"),
        (["a.png", "-p", "1,1", "--format", "gif"], "--format"),
        (["a.png", "-p", "1,1", "--device", "abacus"], "--device"),
        *((["a.png", "-p", "1,1", "--shard", no], "--shard") for no in ("0/3", "4/3", "x", "1/0")),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_the_option(words, named, workplace):
    result = run("segment", *words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stderr.startswith("Usage: ")
    assert result.stdout == ""
    assert not list(workplace.glob("*.mask.png"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["a.png", "-p", "64,10"], "64,10"),  # one beyond the last column
        (["a.png", "-p", "-3,10"], "-3,10"),
        (["a.png", "-b", "10,10,80,40"], "10,10,80,40"),
        (["a.png", "-b", "10,10,10,40"], "no area"),
        (["a.png", "-n", "10,10"], "where the object is"),
        (["no_such.png", "-p", "1,1"], "no_such.png"),
        (["text.png", "-p", "1,1"], "text.png"),
        (["truncated.png", "-p", "1,1"], "truncated.png"),
        (["a.png", "-p", "1,1", "-a", "no_such.safetensors"], "no_such.safetensors"),
        (["a.png", "-p", "1,1", "-a", "text.png"], "text.png"),
        (["a.png", "-p", "1,1", "-a", "other.safetensors"], "other.safetensors"),
        (["a.png", "-p", "1,1", "-o", "b.png"], "b.png is not a folder"),
        (["a.png", "-p", "1,1", "--device", "mps"], "--device mps"),
        (["a.png", "-p", "1,1", "--checkpoint", "no_such"], "no_such"),
        (["--prompts", "no_such.jsonl"], "no_such.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(words, named, workplace):
    (workplace / "text.png").write_text("not a photo")
    whole = (workplace / "b.png").read_bytes()
    (workplace / "truncated.png").write_bytes(whole[: len(whole) // 2])
    write_adapter(workplace / "other.safetensors", build_tiny_sam(seed=1))
    before = files_in(workplace)
    result = run("segment", *words)
    assert named in one_error(result)
    assert result.stdout == ""
    assert files_in(workplace) == before


def test_a_text_file_as_checkpoint_is_one_line(monkeypatch, workplace):
    monkeypatch.undo()  # the real load_sam
    monkeypatch.chdir(workplace)
    (workplace / "notes.pth").write_text("I am no checkpoint")
    result = run("segment", "a.png", "-p", "1,1", "--checkpoint", "notes.pth")
    assert "notes.pth is no checkpoint" in one_error(result)


def test_a_folder_that_cannot_be_written_is_found_before_the_model_is_loaded(
    monkeypatch, workplace
):
    (workplace / "locked").mkdir()
    monkeypatch.setattr("samtune.sam.load_sam", lambda *a: pytest.fail("loaded"))
    with without_permission(workplace / "locked"):
        message = one_error(run("segment", "a.png", "-p", "1,1", "-o", "locked"))
    assert "locked" in message


def test_a_full_disk_while_caching_is_one_line_and_leaves_no_file(
    monkeypatch, workplace, samtune_home
):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    message = one_error(run("segment", "a.png", "-p", "1,1"))
    assert "disk is full" in message
    assert not files_in(samtune_home)
    assert not list(workplace.glob("*.mask.png"))


def test_in_a_batch_the_others_are_done_and_the_exit_code_tells(workplace):
    (workplace / "text.png").write_text("not a photo")
    result = run("segment", "a.png", "text.png", "b.png", "-p", "40,20", "--json")
    assert "text.png" in one_error(result)
    assert [answer["image"] for answer in told(result)] == ["a.png", "b.png"]
    assert "1 of 3 images failed" in result.stderr


def test_quiet_says_nothing_but_errors(workplace):
    assert run("segment", "a.png", "-p", "40,20", "--quiet").stderr == ""


def line(**values):
    return json.dumps({"image": "a.png", **values}).encode() + b"\n"


def test_prompt_lines_are_answered_in_order_with_errors_in_their_place(workplace):
    lines = [
        b"\xef\xbb\xbf" + line(points=[[40, 20]]),  # an editor's byte order mark
        b"not json\n",
        b"\n",
        line(image="no_such.png", box=[1, 1, 9, 9]),
        line(points=[[400, 20]]),
        b"\xff\xfe\n",
        line(image="b.png", box=[10, 10, 50, 40], points=[[1, 1]], labels=[0]),
        line(points=[[10, 20]]).rstrip(),  # no newline at the end
    ]
    (workplace / "lines.jsonl").write_bytes(b"".join(lines))
    from_file = run("segment", "--prompts", "lines.jsonl")
    answers = told(from_file)
    assert from_file.exit_code == 1
    assert [answer["line"] for answer in answers] == [1, 2, 4, 5, 6, 7, 8]
    assert ["error" in answer for answer in answers] == [0, 1, 1, 1, 1, 0, 0]
    assert "no_such.png" in answers[2]["error"]
    assert answers[5]["prompt"] == {"points": [[1, 1]], "labels": [0], "box": [10, 10, 50, 40]}
    masks = [answer["mask"] for answer in answers if "mask" in answer]
    assert masks == ["a.mask.png", "b.mask.png", "a.2.mask.png"]
    assert "4 of 7 lines failed" in from_file.stderr

    from_stdin = run("segment", "--prompts", "-", stdin=b"".join(lines))
    for one in (*answers, *(others := told(from_stdin))):
        one.pop("seconds", None)
    assert others == answers


def test_prompt_lines_give_the_masks_that_options_give(tiny_sam, workplace):
    run("segment", "--prompts", "-", stdin=line(points=[[40, 20], [5, 40]], labels=[1, 0]))
    from_line = read_mask("a.mask.png")
    run("segment", "a.png", "-p", "40,20", "-n", "5,40")
    assert (from_line == read_mask("a.mask.png")).all()


def test_prompt_lines_on_one_image_encode_it_once_and_a_changed_image_anew(
    tiny_sam, workplace, monkeypatch
):
    encoded = []
    encode = Sam.encode_image
    monkeypatch.setattr(Sam, "encode_image", lambda *a: encoded.append(1) or encode(*a))
    run("segment", "--prompts", "-", stdin=line(points=[[40, 20]]) * 3)
    assert len(encoded) == 1
    (workplace / "a.png").write_bytes((workplace / "b.png").read_bytes())
    run("segment", "--prompts", "-", stdin=line(points=[[40, 20]]) * 3)
    assert len(encoded) == 2


def test_a_prompt_line_is_answered_before_the_next_one_comes(workplace):
    # Another program asks, waits for the answer, and asks again: nothing may wait in a buffer.
    command = command_with_tiny_sam("segment", "--prompts", "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for number in (1, 2):
            process.stdin.write(line(points=[[40, 20]]))
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())  # would wait forever
            assert answer["line"] == number
            assert Path(answer["mask"]).is_file()
        process.stdin.close()
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "a" * 5000, "/dev/zero", "."])
def test_a_line_whose_image_can_be_no_file_is_answered_like_others(workplace, name):
    lines = [json.dumps({"image": one, "points": [[9, 9]]}) for one in (name, "b.png")]
    result = run("segment", "--prompts", "-", stdin="\n".join(lines).encode())
    refused, answered = map(json.loads, result.stdout.splitlines())
    assert refused["error"]
    assert answered["mask"] == "b.mask.png"


def test_a_photo_whose_results_would_have_too_long_names_does_not_stop_the_others(workplace):
    long = "a" * 251 + ".png"
    (workplace / "a.png").rename(long)
    for form in ("png", "labelme"):
        result = run("segment", long, "b.png", "-p", "9,9", "-f", form)
        assert "its name is too long" in one_error(result)
    assert {"b.mask.png", "b.json"} <= files_in(workplace)


def test_where_the_overlay_cannot_have_its_name_nothing_is_written(workplace):
    name = "a" * 246 + ".png"  # the mask's name has 255 characters, the overlay's 258
    (workplace / "a.png").rename(name)
    before = files_in(workplace)
    result = run("segment", name, "-p", "9,9", "--overlay", "-o", "out")
    assert "overlay.jpg cannot be written: its name is too long" in one_error(result)
    assert {one for one in files_in(workplace) - before if "embeddings" not in one} == set()


def test_with_mirror_both_sides_of_the_image_are_asked(tiny_sam):
    words = ["segment", "a.png", "--point", "20,30", "--json"]
    (plain,) = told(run(*words, "-o", "plain"))
    (both,) = told(run(*words, "--mirror", "-o", "both"))
    _, embedding = EmbeddingCache(mirror=True).encode(read_image(Path("a.png")), tiny_sam)
    (expected,) = Predictor(tiny_sam).predict(embedding, [Prompt.of([(20, 30)])])
    assert np.array_equal(read_mask(both["mask"]), expected.mask)
    assert both["score"] == pytest.approx(expected.score)
    assert not np.array_equal(read_mask(plain["mask"]), expected.mask)
