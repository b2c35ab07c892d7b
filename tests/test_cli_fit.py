"""`samtune fit`: from a folder to an adapter."""

import errno
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from broken_data import NAMED_BY_FAULT, disk, healthy, photo, save
from command import files_in, one_error, run, use_instead_of_weights
from interrupted_fit import QuickOfFew
from PIL import Image

import samtune.report
import samtune.training
from samtune.adapter import Adapter, read_info
from samtune.errors import OutputError
from samtune.learner import Learner
from samtune.rle import encode_rle
from samtune.summaries import Gain

QUICK = ("--epochs", 1, "--val-fraction", 0.25)


@pytest.fixture(autouse=True)
def workplace(tiny_sam, tmp_path_factory, monkeypatch):
    """An empty folder to work in, and a small model."""
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path_factory.mktemp("weights"))
    folder = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def base_iou(monkeypatch):
    """Sets plain SAM's score: whether training beats it in seconds is no matter of this file.

    Training tries one start only, which saves half of the time.
    """
    fit = samtune.training.fit

    def set_base(value):
        def fit_and_replace(train, val, sam, cache, config, **others):
            config = replace(config, first_offsets=(0.1,), few_first_offsets=(0.1,))
            result = fit(train, val, sam, cache, config, **others)
            return replace(result, base=replace(result.base, iou=value))

        monkeypatch.setattr(samtune.training, "fit", fit_and_replace)

    return set_base


def told(result):
    """The one JSON object on stdout."""
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_fit_writes_an_adapter_named_after_the_folder(base_iou, toy_dataset, tiny_sam, workplace):
    base_iou(0.0)
    result = run("fit", toy_dataset, *QUICK)
    assert result.exit_code == 0, result.output
    assert files_in(workplace) == {"toy.safetensors"}  # nothing left to resume from
    info = Adapter.load(Path("toy.safetensors"), tiny_sam).info
    assert info.base.checkpoint == "tiny.safetensors"  # the file's name, without its folder
    assert info.data["train_images"] == 6


def test_fit_warns_where_the_cache_cannot_hold_all_images(base_iou, toy_dataset, monkeypatch):
    base_iou(0.0)
    monkeypatch.setenv("SAMTUNE_CACHE_GB", "0.016")  # seven of eight, at SAM's usual size
    assert "Warning: 8 images take 0.017 GB" in run("fit", toy_dataset, "--epochs", 1).stderr


def test_fit_says_what_it_found_before_it_works(base_iou, toy_dataset):
    base_iou(0.0)
    save(toy_dataset / "masks" / "3.png", disk(value=0, size=(96, 128)))
    lines = run("fit", toy_dataset, *QUICK).stderr.splitlines()
    assert f"{toy_dataset}: 7 images with 7 objects, 90×120 px to 128×96 px" in lines
    assert "  left out: 3.png, empty mask" in lines
    assert "training on 5 images with 5 objects; held out: 2 images with 2 objects" in lines
    assert "the presence also learns from 1 image without an object" in lines
    about = " ".join(run("info", "toy.safetensors").stdout.split())
    assert "knows it from 1 image without an object" in about
    assert lines.index("encoding 8/8") > lines.index("  left out: 3.png, empty mask")


def test_fit_ends_with_the_scores_the_share_of_parameters_and_what_to_try_next(
    base_iou, toy_dataset, tiny_sam
):
    base_iou(0.0)
    words = ["fit", toy_dataset, *QUICK]
    report = run(*words).stdout
    scores = told(run(*words, "--json"))
    rows = {line[:16].strip(): line.split() for line in report.splitlines()}
    assert rows["plain SAM"][2:4] == ["0.0", f"{100 * scores['base_oracle_iou']:.1f}"]
    names = ("adapter_iou", "adapter_oracle_iou", "boundary_iou")
    assert rows["adapter"][1:] == [f"{100 * scores[name]:.1f}" for name in names]
    refined = (f"{100 * scores[name]:.1f}" for name in ("refined_iou", "refined_boundary_iou"))
    assert rows["adapter, refined"][2:] == [next(refined), "–", next(refined)]
    for command, helps in (
        ("segment --refine", "refine_helps"),
        ("samtune refine", "refine_helps_coarse"),
    ):
        (line,) = [line for line in report.splitlines() if line.startswith(f"`{command}`")]
        assert ("does not help" in line) != scores[helps]
    trained = scores["parameters"]
    everything = trained + sum(p.numel() for p in tiny_sam.parameters())
    assert f"trainable: {trained:,} of {everything:,} parameters" in report

    (command,) = [line for line in report.splitlines() if line.startswith("next: ")]
    program, *words = shlex.split(command.removeprefix("next: "))
    assert program == "samtune"
    assert ("--refine" in words) == scores["refine_helps"]
    assert run(*words).exit_code == 0


def test_json_is_a_summary_with_scores_as_fractions(base_iou, toy_dataset):
    base_iou(0.0)
    result = run("fit", toy_dataset, "-o", "out/a.safetensors", *QUICK, "--json")
    summary = told(result)
    assert summary["adapter"] == str(Path("out/a.safetensors"))
    assert Path("out/a.safetensors").is_file()
    assert summary["method"] == "plm"
    counts = ("train_images", "val_images", "val_objects")
    assert [summary[name] for name in counts] == [6, 2, 2]
    for name in ("base_oracle_iou", "adapter_iou", "adapter_oracle_iou", "refined_iou"):
        assert 0 < summary[name] < 1
    assert summary["base_iou"] == 0.0
    low, high = summary["gain_interval"]
    assert -1 <= low <= high <= 1
    assert summary["objects_per_second"] > 0
    seconds = summary["seconds"]
    assert seconds["encode"] + seconds["train"] <= seconds["total"]
    scores = read_info(Path("out/a.safetensors")).scores
    assert summary["adapter_iou"] == scores["adapter_iou"]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.02, 0.09), "+5.0 points on plain SAM, +2.0 to +9.0 with other images like these (95 %"),
        ((-0.01, 0.09), "no clear difference; hold out more to know"),
        ((-0.04, -0.01), "-4.0 to -1.0 with other images like these (95 %): worse"),
        (None, "one held-out image cannot tell"),
    ],
)
def test_how_sure_the_gain_is_stands_below_the_scores(
    base_iou, toy_dataset, monkeypatch, interval, words
):
    base_iou(0.0)
    fit, gain = samtune.training.fit, Gain(mean=0.05, interval=interval)
    monkeypatch.setattr(
        samtune.training, "fit", lambda *given, **named: replace(fit(*given, **named), gain=gain)
    )
    assert words in run("fit", toy_dataset, *QUICK).stdout


def test_without_a_refiner_there_is_no_refined_score(base_iou, toy_dataset):
    base_iou(0.0)
    result = run("fit", toy_dataset, *QUICK, "--no-refiner", "--json")
    assert told(result)["refined_iou"] is None
    assert Adapter.load(Path("toy.safetensors")).learned.refiner is None


@pytest.mark.parametrize(("words", "learned"), [([], True), (["--no-dense-prompt"], False)])
def test_a_dense_prompt_is_learned_unless_it_is_left_out(base_iou, toy_dataset, words, learned):
    base_iou(0.0)
    summary = told(run("fit", toy_dataset, *QUICK, "--no-refiner", "--json", *words))
    assert summary["parameters"] == 1_582_086 + 177_280 * learned
    dense_prompt = Adapter.load(Path("toy.safetensors")).learned.dense_prompt
    assert (dense_prompt is not None) == learned
    if learned:
        assert dense_prompt.leave.weight.any()  # it began as nought
    assert read_info(Path("toy.safetensors")).settings["dense_prompt"] == learned


def test_an_adapter_that_is_not_better_is_not_written_as_if_it_were(
    base_iou, toy_dataset, workplace
):
    base_iou(0.99)
    (workplace / "toy.safetensors").write_bytes(b"a good one of yesterday")
    result = run("fit", toy_dataset, *QUICK, "--json")
    message = one_error(result)
    summary = told(result)
    assert summary["adapter"] == "toy.rejected.safetensors"
    assert summary["better"] is False
    assert f"IoU {100 * summary['adapter_iou']:.1f}, plain SAM 99.0" in message
    assert "--force" in message
    assert (workplace / "toy.safetensors").read_bytes() == b"a good one of yesterday"
    assert read_info(workplace / "toy.rejected.safetensors").method == "plm"


def test_force_keeps_an_adapter_that_is_not_better(base_iou, toy_dataset, workplace):
    base_iou(0.99)
    result = run("fit", toy_dataset, *QUICK, "--force")
    assert result.exit_code == 0
    assert "not better than plain SAM" in result.stderr
    assert files_in(workplace) == {"toy.safetensors"}


def test_an_interrupted_fit_goes_on_with_resume_and_ends_as_if_it_had_not_been(
    base_iou, toy_dataset, workplace, monkeypatch
):
    base_iou(0.0)
    words = ["fit", toy_dataset, "--epochs", 1]
    assert run(*words, "-o", "whole.safetensors").exit_code == 0

    with monkeypatch.context() as patch:
        fit = samtune.training.fit

        def interrupted(*args, on_progress, **others):
            def press_control_c(progress):
                on_progress(progress)
                if progress.phase == "train" and progress.done >= progress.total / 2:
                    raise KeyboardInterrupt

            return fit(*args, on_progress=press_control_c, **others)

        patch.setattr(samtune.training, "fit", interrupted)
        result = run(*words, "-o", "parts.safetensors")
    assert result.exit_code == 130
    assert "--resume goes on" in result.stderr.splitlines()[-1]
    assert files_in(workplace) == {"whole.safetensors", "parts.safetensors.resume"}

    resumed = run(*words, "-o", "parts.safetensors", "--resume")
    assert "going on from parts.safetensors.resume" in resumed.stderr
    assert files_in(workplace) == {"whole.safetensors", "parts.safetensors"}
    whole = (workplace / "whole.safetensors").read_bytes()
    assert (workplace / "parts.safetensors").read_bytes() == whole


def test_starting_anew_where_a_fit_was_interrupted_says_that_its_state_goes(
    base_iou, toy_dataset, workplace
):
    base_iou(0.0)
    Path("toy.safetensors.resume").write_bytes(b"hours of training")
    result = run("fit", toy_dataset, *QUICK, "--no-refiner")
    assert result.exit_code == 0
    assert "toy.safetensors.resume is of an interrupted fit and will be replaced" in result.stderr
    assert files_in(workplace) == {"toy.safetensors"}


def test_a_full_disk_at_the_end_does_not_cost_the_training(
    base_iou, toy_dataset, workplace, monkeypatch
):
    base_iou(0.0)
    words = ["fit", toy_dataset, *QUICK, "-o", "a.safetensors"]

    def full(adapter, path):
        raise OutputError(f"{path} cannot be written: the disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Adapter, "save", full)
        assert "disk is full" in one_error(run(*words))
    assert files_in(workplace) == {"a.safetensors.resume"}
    monkeypatch.setattr(Learner, "train_step", None)  # there is nothing more to train
    assert run(*words, "--resume").exit_code == 0
    assert files_in(workplace) == {"a.safetensors"}


# --------------------------------------------------------------------------- one image


@pytest.fixture
def one_image(toy_dataset):
    """A data set of one image."""
    for number in range(1, 8):
        for part in ("images", "masks"):
            (toy_dataset / part / f"{number}.png").unlink()
    return toy_dataset


def test_one_image_is_learned_from_and_scored_in_a_mirror(base_iou, one_image, monkeypatch):
    base_iou(0.0)
    monkeypatch.setattr("samtune.cli_fit.FitConfig", QuickOfFew)
    result = run("fit", one_image, "--no-refiner", "--json", "--report", "out")
    assert result.exit_code == 0, result.output
    assert "held out, for want of others: the mirror image" in " ".join(result.stderr.split())
    summary = told(result)
    assert (summary["train_images"], summary["val_images"], summary["folds"]) == (1, 1, 0)
    assert summary["verdict"] == "too few images to tell"
    assert "held out the mirror image" in " ".join(run("info", summary["adapter"]).stdout.split())
    # The report says of itself that the adapter knows the image.
    about = json.loads(Path("out/report.json").read_text(encoding="utf-8"))["adapters"][0]
    assert about["images_seen_in_training"] == 1


@pytest.mark.parametrize("words", [("--val-fraction", 0.5), ("--mirror",)])
def test_one_image_alone_has_none_to_hold_out_where_its_mirror_image_cannot_be(one_image, words):
    assert "only one image" in one_error(run("fit", one_image, *words))


# --------------------------------------------------------------------------- --report


def test_a_report_is_about_the_held_out_images_with_the_training_s_curves(base_iou, toy_dataset):
    base_iou(0.0)
    result = run("fit", toy_dataset, *QUICK, "--no-refiner", "--report", "out")
    assert f"wrote {Path('out/report.html')} and {Path('out/report.json')}" in result.stdout
    numbers = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert (numbers["data"]["images"], numbers["adapters"][0]["images_seen_in_training"]) == (2, 0)
    assert [source["name"] for source in numbers["sources"]] == ["plain SAM", "SAM-F", "toy"]
    scores = read_info(Path("toy.safetensors")).scores
    adapted = numbers["sources"][2]["prompts"]["center"]
    assert (adapted["iou"], adapted["oracle_iou"]) == pytest.approx(
        (scores["adapter_iou"], scores["adapter_oracle_iou"])
    )
    assert numbers["training"]["chosen"]["seen"] == [2, 4, 6]
    assert len(numbers["training"]["chosen"]["losses"]) == 3
    names = ["reading data", "loading the model", "encoding", "training"]
    assert list(numbers["cost"]["seconds"])[:4] == names
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "How training went" in page
    assert "held out by samtune fit" in page


def test_a_report_on_few_images_has_the_scores_of_the_trainings_that_had_not_seen_them(
    base_iou, toy_dataset, monkeypatch
):
    base_iou(0.0)
    monkeypatch.setattr("samtune.cli_fit.FitConfig", QuickOfFew)
    told(run("fit", toy_dataset, "--no-refiner", "--report", "out", "--json"))
    numbers = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    (about,) = numbers["adapters"]
    assert (about["turns"], about["images_seen_in_training"]) == (2, 0)
    assert (numbers["data"]["images"], about["data"]["train_images"]) == (8, 8)
    adapted = numbers["sources"][2]["prompts"]["center"]
    assert (adapted["iou"], adapted["oracle_iou"]) == pytest.approx(
        (about["scores"]["adapter_iou"], about["scores"]["adapter_oracle_iou"])
    )
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "2 trainings took turns" in page
    assert "<strong>seen in training</strong>" not in page


def test_interrupted_while_reporting_resume_reports_without_training_again(
    base_iou, toy_dataset, workplace, monkeypatch
):
    # And a rejected adapter is one to look at all the more.
    base_iou(0.99)
    words = ["fit", toy_dataset, *QUICK, "--no-refiner", "--report", "out"]

    def interrupted(*given, curves, **others):
        curves_then.append(curves)
        raise KeyboardInterrupt

    curves_then = []
    with monkeypatch.context() as patch:
        patch.setattr(samtune.report, "make_report", interrupted)
        result = run(*words)
    assert result.exit_code == 130
    assert "--resume goes on" in result.stderr.splitlines()[-1]
    assert files_in(workplace) == {"toy.rejected.safetensors", "toy.safetensors.resume"}
    monkeypatch.setattr(Learner, "train_step", None)  # there is nothing more to train
    assert "not better than plain SAM" in one_error(run(*words, "--resume"))
    written = {"toy.rejected.safetensors", "out/report.html", "out/report.json"}
    assert files_in(workplace) == written
    numbers = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert numbers["training"]["chosen"]["losses"] == list(curves_then[0].chosen.losses)


def test_a_report_that_cannot_be_written_is_one_line_before_any_work(
    toy_dataset, workplace, monkeypatch
):
    monkeypatch.setattr("samtune.sam.load_sam", lambda *a: pytest.fail("loaded"))
    (workplace / "out").write_text("a file")
    assert "out is not a folder" in one_error(run("fit", toy_dataset, *QUICK, "--report", "out"))
    assert files_in(workplace) == {"out"}


def test_interrupted_before_there_is_anything_to_go_on_from(toy_dataset, monkeypatch):
    def interrupted(*args, **others):
        raise KeyboardInterrupt

    monkeypatch.setattr(samtune.training, "fit", interrupted)
    result = run("fit", toy_dataset)
    assert result.exit_code == 130
    assert "nothing to save yet" in result.stderr


def test_a_folder_to_validate_on_is_held_out_and_everything_else_trained_on(
    base_iou, toy_dataset, tmp_path
):
    base_iou(0.0)
    val = healthy(tmp_path / "val", count=3)
    summary = told(run("fit", toy_dataset, "--val", val, "--epochs", 1, "--json"))
    assert (summary["train_images"], summary["val_images"]) == (8, 3)


def test_copies_of_held_out_images_are_left_out_of_training(base_iou, toy_dataset, tmp_path):
    base_iou(0.0)
    val = healthy(tmp_path / "val", count=2)
    for part, name in (("images", "5.png"), ("masks", "5.png")):
        copy = (toy_dataset / part / name).read_bytes()
        (val / part / f"copy{name}").write_bytes(copy)
    result = run("fit", toy_dataset, "--val", val, "--epochs", 1, "--json")
    assert (told(result)["train_images"], told(result)["val_images"]) == (7, 3)
    assert "left out of training: 1 image (first: 5.png)" in result.stderr


def test_copies_of_held_out_images_teach_no_presence_either(base_iou, toy_dataset, tmp_path):
    base_iou(0.0)
    val = healthy(tmp_path / "val", count=2)
    for name in ("3.png", "5.png"):
        save(toy_dataset / "masks" / name, disk(value=0, size=(96, 128)))
    save(val / "masks" / "copy3.png", disk(value=0, size=(96, 128)))
    (val / "images" / "copy3.png").write_bytes((toy_dataset / "images" / "3.png").read_bytes())
    result = run("fit", toy_dataset, "--val", val, "--epochs", 1, "--json")
    summary = told(result)
    assert (summary["train_images"], summary["empty_images"]) == (6, 1)
    assert "left out of training: 1 image (first: 3.png)" in result.stderr


def as_coco(folder, name="plates.json"):
    """A COCO file of a folder's masks, one "plate" each, and a "car" of all pixels in the first."""
    images, annotations = [], []
    for number, path in enumerate(sorted((folder / "masks").iterdir()), start=1):
        mask = np.asarray(Image.open(path)) > 0
        height, width = mask.shape
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        for category in (1, 2) if number == 1 else (1,):
            pixels = mask if category == 1 else np.ones_like(mask)
            rle = {"size": [height, width], "counts": encode_rle(pixels)}
            entry = {"id": len(annotations), "image_id": number, "category_id": category}
            annotations.append({**entry, "segmentation": rle, "iscrowd": 0})
    categories = [{"id": 1, "name": "plate"}, {"id": 2, "name": "car"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / name).write_text(json.dumps(content))
    shutil.rmtree(folder / "masks")
    return folder / name


def test_fit_takes_a_coco_file_and_a_class_by_name(base_iou, toy_dataset, workplace):
    base_iou(0.0)
    result = run("fit", as_coco(toy_dataset), "--class", "plate", *QUICK)
    assert result.exit_code == 0, result.output
    assert files_in(workplace) == {"plates.safetensors"}
    assert "8 images with 8 objects" in result.stderr
    info = read_info(Path("plates.safetensors"))
    assert (info.data["train_images"], info.data["val_images"]) == (6, 2)


def test_fit_takes_all_classes_together_and_says_so(base_iou, toy_dataset):
    base_iou(0.0)
    result = run("fit", as_coco(toy_dataset), *QUICK)
    assert "8 images with 9 objects" in result.stderr
    assert "objects of 2 classes taken together (plate, car); --class takes one" in result.stderr


def test_images_of_a_coco_file_may_lie_elsewhere(base_iou, toy_dataset, tmp_path):
    base_iou(0.0)
    file = as_coco(toy_dataset).rename(tmp_path / "alone.json")
    message = one_error(run("fit", file))
    assert "8 faults" in message
    assert "--images" in message
    assert run("fit", file, "--images", toy_dataset / "images", *QUICK).exit_code == 0


def test_an_unknown_class_name_gets_those_that_there_are(toy_dataset, workplace):
    message = one_error(run("fit", as_coco(toy_dataset), "--class", "plates"))
    assert "1 plate (8), 2 car (1). Is plate meant?" in message
    assert not files_in(workplace)


@pytest.mark.parametrize("wanted", ["plate", "0", "1.5"])
def test_a_class_of_masks_is_a_number_from_1_on(toy_dataset, wanted):
    assert "numbers from 1 on" in one_error(run("fit", toy_dataset, "--class", wanted))


def test_validating_on_the_training_images_is_refused(toy_dataset, workplace):
    message = one_error(run("fit", toy_dataset, "--val", toy_dataset))
    assert "nothing is left to train on" in message
    assert not files_in(workplace)


def test_held_out_masks_mean_what_the_training_masks_mean(base_iou, toy_dataset, tmp_path):
    # Training masks are 0 and 255: one object an image. The held-out masks, read alone, would
    # be instance labels, two an image, and scores would compare other things.
    base_iou(0.0)
    val = tmp_path / "val"
    for number in range(3):
        labels = np.maximum(disk(1), disk(2)[:, ::-1])
        save(val / "images" / f"{number}.png", photo(number))
        save(val / "masks" / f"{number}.png", labels)
    result = run("fit", toy_dataset, "--val", val, "--epochs", 1, "--json")
    assert told(result)["val_objects"] == 3


def test_quiet_says_nothing(base_iou, toy_dataset):
    base_iou(0.0)
    assert run("fit", toy_dataset, *QUICK, "--quiet").stderr == ""


@pytest.mark.parametrize("fault", NAMED_BY_FAULT, ids=lambda fault: fault.__name__)
def test_a_faulty_folder_is_one_line_and_leaves_no_file(fault, tmp_path, workplace, samtune_home):
    folder = fault(tmp_path)
    before = files_in(tmp_path)
    result = run("fit", folder)
    assert NAMED_BY_FAULT[fault] in one_error(result)
    assert result.stdout == ""
    assert files_in(tmp_path) == before
    assert not files_in(workplace)
    assert not files_in(samtune_home)


def test_a_class_that_never_occurs_gets_those_that_do(toy_dataset):
    assert "255 (8 images)" in one_error(run("fit", toy_dataset, "--class", "7"))


def test_an_output_that_cannot_be_written_is_found_before_any_work(
    toy_dataset, workplace, monkeypatch
):
    monkeypatch.setattr("samtune.sam.load_sam", lambda *a: pytest.fail("loaded"))
    file = save(workplace / "file.png", disk())
    message = one_error(run("fit", toy_dataset, "-o", file / "a.safetensors"))
    assert f"{file} is not a folder" in message
    assert "is a folder" in one_error(run("fit", toy_dataset, "-o", toy_dataset))
    assert "is a folder" in one_error(run("fit", toy_dataset, "-o", "."))
    assert files_in(workplace) == {"file.png"}


@pytest.mark.parametrize("method", ["plm", "persam", "vrp"])
@pytest.mark.parametrize("part", ["images", "masks"])
def test_what_is_read_is_never_overwritten(method, part, toy_dataset, workplace, monkeypatch):
    monkeypatch.setattr("samtune.sam.load_sam", lambda *a: pytest.fail("loaded"))
    file = toy_dataset / part / "1.png"
    before = file.read_bytes()
    words = ["fit", toy_dataset, "--method", method]
    (workplace / "link.png").symlink_to(file)
    for output in (file, "link.png"):
        assert f"{output} is what is read" in one_error(run(*words, "-o", output))
    assert file.read_bytes() == before


def test_an_output_whose_name_is_too_long_is_found_before_any_work(toy_dataset, samtune_home):
    stem = "a" * 243  # with .safetensors 255, all that a name may have; with .resume too many
    result = run("fit", toy_dataset, "-o", f"{stem}.safetensors")
    assert "its name is too long" in one_error(result)
    assert "encoding" not in result.stderr
    assert files_in(samtune_home) == set()


def test_a_full_disk_while_caching_is_one_line_and_leaves_no_file(
    toy_dataset, workplace, samtune_home, monkeypatch
):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "disk is full" in one_error(run("fit", toy_dataset))
    assert not files_in(samtune_home)
    assert not files_in(workplace)


def test_an_image_that_vanishes_meanwhile_is_named_and_the_fit_can_be_started_again(
    base_iou, toy_dataset, tiny_sam, workplace, monkeypatch
):
    base_iou(0.0)
    image = toy_dataset / "images" / "5.png"
    content, encode = image.read_bytes(), type(tiny_sam).encode_image

    def taken_away(sam, pixels):
        image.unlink(missing_ok=True)
        return encode(sam, pixels)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(type(tiny_sam), "encode_image", taken_away)
        assert f"{image} does not exist" in one_error(run("fit", toy_dataset, *QUICK))
    assert not files_in(workplace)
    image.write_bytes(content)
    assert run("fit", toy_dataset, *QUICK).exit_code == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "data"),
        (["toy", "--val", "a", "--val-fraction", "0.5"], "--val-fraction"),
        (["toy", "--val-fraction", "1"], "--val-fraction"),
        (["toy", "--epochs", "0"], "--epochs"),
        (["toy", "--max-minutes", "0"], "--max-minutes"),
        (["toy", "--max-minutes", "nan"], "--max-minutes"),
        (["toy", "--seed", "-1"], "--seed"),
        (["toy", "--seed", str(2**64)], "--seed"),
        (["toy", "--method", "vrp", "--classes", "1", "--objects", "mask"], "--objects"),
        (["toy", "--method", "persam", "--batch-size", "3"], "--batch-size"),
        (["toy", "--method", "magic"], "--method"),
        (["toy", "--objects", "all"], "--objects"),
        (["toy", "--nonsense"], "--nonsense"),
        (["toy", "--method", "vrp", "--mirror"], "--mirror"),
        (["toy", "--method", "persam", "--precision", "float32"], "--precision"),
        (["toy", "--method", "persam", "--mirror"], "--mirror"),
    ],
)
def test_bad_options_are_wrong_usage(words, named):
    result = run("fit", *words)
    assert result.exit_code == 2
    assert named in result.stderr.lower()
    assert result.stdout == ""


def test_options_are_the_settings_that_the_adapter_keeps(base_iou, toy_dataset):
    base_iou(0.0)
    mask = np.zeros((96, 128), np.uint8)
    mask[10:40, 10:40] = mask[60:90, 80:120] = 255
    save(toy_dataset / "masks" / "3.png", mask)
    words = ["--seed", 3, "--max-minutes", 5, "--no-pmm", "--batch-size", 3]
    words += ["--precision", "bfloat16", "--objects", "components"]
    summary = told(run("fit", toy_dataset, *QUICK, "--no-refiner", "--json", *words))
    settings = read_info(Path("toy.safetensors")).settings
    chosen = {"seed": 3, "max_minutes": 5, "pmm": False, "batch_size": 3, "precision": "bfloat16"}
    assert {name: settings[name] for name in chosen} == chosen
    assert summary["train_objects"] + summary["val_objects"] == 9
