"""`samtune segment --format`: other files than masks, for one image and for streams of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command import files_in, one_error, photo, run, use_instead_of_weights, write_adapter
from PIL import Image

from samtune.cli_segmenter import Segmenter
from samtune.formats import FORMATS
from samtune.predictor import Predictor

SIZE = (48, 64)  # (H, W) of every image here
CLICK = ("-p", "40,20")


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path, monkeypatch):
    """A folder to work in, with a.png and b.png in it, and a small model."""
    monkeypatch.chdir(tmp_path)
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path)
    for seed, name in enumerate("ab"):
        Image.fromarray(photo(SIZE, seed)).save(tmp_path / f"{name}.png")
    return tmp_path


def told(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def read_mask(path):
    return np.asarray(Image.open(path)) > 0


def read_npz(path):
    with np.load(path) as archive:
        return dict(archive)


def coco(path="out/coco.json"):
    return json.loads(Path(path).read_text())


def test_every_format_at_once_with_commas_or_by_repeating(workplace):
    by_commas = run("segment", "a.png", *CLICK, "--format", ",".join(FORMATS), "-o", "out")
    assert by_commas.exit_code == 0, by_commas.output
    names = {"classes.txt", "data.yaml", "coco.json", "a.mask.png", "a.instances.png", "a.txt"}
    names |= {"a.cutout.png", "a.json", "a.geojson", "a.svg", "a.npz"}
    assert files_in(workplace / "out") == names
    words = [word for name in FORMATS for word in ("-f", name)]
    run("segment", "a.png", *CLICK, *words, "-o", "again")
    for name in names - {"a.npz"}:  # an archive's members have times
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()


def test_help_names_every_format():
    words = set(re.findall(r"[a-z]+", run("segment", "--help").stdout))
    assert set(FORMATS) <= words


def test_all_formats_of_a_mask_tell_of_the_same_pixels(tiny_sam):
    (answer,) = told(run("segment", "a.png", *CLICK, "-f", "png,npz,instances,coco", "--json"))
    mask = read_mask(answer["files"]["png"])
    assert 0 < mask.sum() < mask.size
    stored = read_npz(answer["files"]["npz"])
    assert (stored["mask"] == mask).all()
    assert ((stored["logits"] > 0) == mask).all()
    assert stored["score"] == pytest.approx(answer["score"])
    assert (read_mask(answer["files"]["instances"]) == mask).all()
    (annotation,) = coco(answer["files"]["coco"])["annotations"]
    assert (annotation["area"], annotation["bbox"]) == (answer["area"], answer["bbox"])


def test_json_names_the_file_of_every_format_and_as_mask_that_of_the_first():
    (answer,) = told(run("segment", "a.png", *CLICK, "-f", "coco,cutout", "-o", "out", "--json"))
    files = {"coco": str(Path("out/coco.json")), "cutout": str(Path("out/a.cutout.png"))}
    assert answer["files"] == files
    assert answer["mask"] == files["coco"]


def test_a_line_for_people_names_the_image_where_the_file_does_not():
    result = run("segment", "a.png", *CLICK, "-f", "coco")
    assert result.stdout.startswith("a.png -> coco.json  score ")


def test_the_alternatives_of_a_click_have_their_own_logits():
    answers = told(run("segment", "a.png", *CLICK, "-f", "npz", "--all-masks", "--json"))
    assert len(answers) == 3
    for answer in answers:
        stored = read_npz(answer["mask"])
        assert ((stored["logits"] > 0) == stored["mask"]).all()
        assert stored["mask"].sum() == answer["area"]


def test_objects_are_called_by_the_adapter_by_label_or_object(tiny_sam, workplace):
    file = write_adapter(workplace / "plates.safetensors", tiny_sam)
    for words, name in ([], "object"), (["-a", file], "plates"), (["--label", "a car"], "a car"):
        (answer,) = told(
            run("segment", "a.png", *CLICK, *words, "-f", "coco", "-o", name, "--json")
        )
        assert answer["label"] == name
        assert [one["name"] for one in coco(f"{name}/coco.json")["categories"]] == [name]


def test_each_adapter_is_a_class_of_its_own(tiny_sam, workplace):
    for number, name in enumerate(("plates", "cars")):
        write_adapter(workplace / f"{name}.safetensors", tiny_sam, seed=number)
    words = ["-a", "plates.safetensors", "-a", "cars.safetensors", "-f", "yolo,coco"]
    run("segment", "a.png", *CLICK, *words, "-o", "out")
    lines = Path("out/a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert Path("out/classes.txt").read_text() == "plates\ncars\n"
    assert [one["category_id"] for one in coco()["annotations"]] == [1, 2]


def nothing_found(monkeypatch):
    """A random model finds something everywhere: a stand-in for one that does not."""
    monkeypatch.setattr("samtune.upscaling.MASK_THRESHOLD", float("inf"))


def test_where_nothing_is_found_no_format_fails(monkeypatch):
    nothing_found(monkeypatch)
    result = run("segment", "a.png", *CLICK, "-f", ",".join(["cutout", *FORMATS]), "--json")
    assert result.exit_code == 0, result.output
    (answer,) = told(result)
    assert answer["area"] == 0
    assert answer["mask"] is None  # the cutout's: there is nothing to cut out
    assert coco("coco.json")["annotations"] == []
    assert len(coco("coco.json")["images"]) == 1
    assert Path("a.txt").read_text() == ""


def test_where_nothing_is_found_the_line_for_people_says_so(monkeypatch):
    nothing_found(monkeypatch)
    out = run("segment", "a.png", *CLICK, "-f", "cutout").stdout
    assert out.startswith("a.png  score ")
    assert "(nothing found)" in out


def lines_of(*images):
    asked = [json.dumps({"image": image, "points": [[40, 20]]}) for image in images]
    return "\n".join(asked).encode()


def test_a_stream_makes_one_coco_file_and_bad_lines_do_not_spoil_it():
    stdin = lines_of("a.png", "no_such.png", "b.png", "a.png")
    result = run("segment", "--prompts", "-", "-f", "coco", "-o", "out", stdin=stdin)
    assert result.exit_code == 1
    assert ["error" in answer for answer in told(result)] == [False, True, False, False]
    assert [image["file_name"] for image in coco()["images"]] == ["a.png", "b.png"]
    assert [one["image_id"] for one in coco()["annotations"]] == [1, 2, 1]


def test_an_interruption_keeps_what_was_done_in_the_coco_file(monkeypatch, workplace):
    segment, seen = Segmenter._segment, []

    def interrupted(self, pixels, prompts):
        seen.append(pixels)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return segment(self, pixels, prompts)

    monkeypatch.setattr(Segmenter, "_segment", interrupted)
    result = run("segment", "a.png", "b.png", *CLICK, "-f", "coco", "-o", "out")
    assert result.exit_code == 130
    assert files_in(workplace / "out") == {"coco.json"}
    assert [image["file_name"] for image in coco()["images"]] == ["a.png"]
    assert len(coco()["annotations"]) == 1


def test_a_stream_into_one_file_an_image_is_complete_after_each_line(monkeypatch):
    seen = []
    answer = Segmenter.answer

    def looked_at(self, image, prompts):
        answers = answer(self, image, prompts)
        seen.append(len(json.loads(Path("a.geojson").read_text())["features"]))
        return answers

    monkeypatch.setattr(Segmenter, "answer", looked_at)
    run("segment", "--prompts", "-", "-f", "geojson", stdin=lines_of("a.png", "a.png", "a.png"))
    assert seen == [1, 2, 3]


def test_what_a_format_cannot_hold_is_said_once_on_stderr_and_not_when_quiet():
    boxes = ["-b", "5,5,60,40", "-b", "5,5,60,41"]
    words = ["segment", "a.png", "b.png", *boxes, "-f", "instances"]
    result = run(*words)
    assert result.stderr.count("objects overlap") == 1
    assert run(*words, "--quiet").stderr == ""


def test_labels_made_by_hand_are_refused_before_the_model_is_loaded(monkeypatch, workplace):
    monkeypatch.setattr("samtune.sam.load_sam", lambda *a: pytest.fail("loaded"))
    (workplace / "coco.json").write_text("{}")
    assert "coco.json exists" in one_error(run("segment", "a.png", *CLICK, "-f", "coco"))


def test_labels_made_by_hand_fail_their_image_alone_and_leave_no_half_of_its_files(workplace):
    (workplace / "a.json").write_text("{}")
    words = ["segment", "a.png", "b.png", *CLICK, "-f", "png,labelme"]
    result = run(*words, "--json")
    assert "a.json exists" in one_error(result)
    assert (workplace / "a.json").read_text() == "{}"
    assert [answer["image"] for answer in told(result)] == ["b.png"]
    assert not Path("a.mask.png").exists()
    assert run(*words, "--overwrite").exit_code == 0
    assert json.loads(Path("a.json").read_text())["imagePath"] == "a.png"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-f", "gif"], "gif"),
        (["-f", "png,"], "png, instances"),
        (["-f", "yolo", "--label", "two\nlines"], "--label"),
        (["--label", " "], "--label"),
    ],
)
def test_wrong_formats_and_names_are_wrong_usage(words, named, workplace, monkeypatch):
    monkeypatch.setattr(Predictor, "predict", lambda *a, **b: pytest.fail("predicted"))
    before = files_in(workplace)
    result = run("segment", "a.png", *CLICK, *words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert files_in(workplace) == before
