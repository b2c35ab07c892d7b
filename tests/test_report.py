"""The report's numbers, against counting on the library's own answers."""

import base64
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from test_reference_fit import colour_photo, write_pair
from tiny_models import build_adapter
from upstream import sharpen

from samtune.curves import Curves, Start
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import ALL_KINDS, evaluate, prompts_for
from samtune.found_scores import score_found
from samtune.images import read_image
from samtune.obedience import measure_obedience
from samtune.predictor import Predictor
from samtune.presence import PresenceHead
from samtune.reference_fit import fit_references
from samtune.report import Source, make_report
from samtune.report_page import render
from samtune.sam_f import SamF, fit_sam_f
from samtune.stages import Stages


@pytest.fixture(scope="module")
def dataset(toy_folder):
    return load_dataset(toy_folder)


@pytest.fixture(scope="module")
def sources(tiny_sam, tmp_path_factory):
    file = tmp_path_factory.mktemp("adapters") / "a.safetensors"
    adapter = build_adapter(tiny_sam)
    adapter.learned.presence = sharpen(PresenceHead(), seed=3).requires_grad_(False)
    adapter.save(file)
    return [
        Source("plain SAM", Predictor(tiny_sam)),
        Source("a", Predictor(tiny_sam, adapter), file),
    ]


@pytest.fixture(scope="module")
def report(dataset, sources, tmp_path_factory):
    cache = EmbeddingCache(tmp_path_factory.mktemp("embeddings"))
    return make_report(dataset, sources, cache, "tiny", stages=Stages())


def share(mask, target):
    return (mask & target).sum() / (mask | target).sum()


def masks(dataset, predictor, kind):
    """The answers to one kind of prompt, object by object, each prompt by itself."""
    for thing in dataset.objects:  # one in each image
        target = thing.mask()
        image = read_image(dataset.pairs[thing.image_index].image)
        _, embedding = EmbeddingCache().encode(image, predictor.sam)
        prompts = prompts_for(target, kind, thing.image_index, 0)
        yield [share(predictor.predict(embedding, [p])[0].mask, target) for p in prompts]


def by_name(report):
    return {source["name"]: source for source in report.numbers["sources"]}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_kind_of_prompt_is_scored_for_plain_sam_and_the_adapter(
    report, dataset, sources, kind
):
    means = []
    for source in sources:
        expected = [np.mean(one) for one in masks(dataset, source.predictor, kind)]
        found = by_name(report)[source.name]["prompts"][kind]
        # Prompts answered together round differently: a pixel here and there.
        assert found["iou"] == pytest.approx(np.mean(expected), abs=2e-3)
        assert found["interval"][0] < found["iou"] < found["interval"][1]
        means.append(found["iou"])
    gain = by_name(report)["a"]["prompts"][kind]["gain"]
    assert gain == pytest.approx(means[1] - means[0])
    assert abs(gain) > 1e-3  # or the two could be one


def test_scores_are_those_of_evaluate(report, dataset, tiny_sam, sources):
    predictors = [source.predictor for source in sources]
    for one, other in zip(
        report.scores, evaluate(dataset, tiny_sam, predictors, EmbeddingCache()), strict=True
    ):
        assert one.iou == other.iou
        assert one.oracle_iou == other.oracle_iou
        assert one.refined_iou == other.refined_iou
        assert one.random_iou == pytest.approx(other.random_iou, abs=2e-3)


def test_oracle_refined_and_boundary_scores_are_there_for_all_prompts(report):
    moved = []
    for kind in ALL_KINDS:
        plain, _, adapted = (source["prompts"][kind] for source in report.numbers["sources"])
        assert adapted["oracle_iou"] >= adapted["iou"]
        assert adapted["refined_iou"] is not None
        moved.append(adapted["refined_iou"] != adapted["iou"])
        assert 0 <= adapted["boundary_iou"] <= 1
        assert plain["refined_iou"] is None
    assert any(moved)  # random weights seldom leave a contour that is one


def test_sam_f_never_scores_an_image_that_its_weights_were_fitted_to(report, dataset, tiny_sam):
    first, second = (SamF(tiny_sam, tuple(w)) for w in report.numbers["sam_f_weights"])
    assert first.weights != second.weights
    answers = [
        [one[0] for one in masks(dataset, predictor, "center")] for predictor in (first, second)
    ]
    found = [one["prompts"]["center"][0]["scores"][1]["iou"] for one in report.numbers["objects"]]
    by_first = {n for n in range(8) if found[n] == pytest.approx(answers[0][n], abs=2e-3)}
    by_second = {n for n in range(8) if found[n] == pytest.approx(answers[1][n], abs=2e-3)}
    assert by_first | by_second == set(range(8))
    # The halves' weights are those of a fit to the other half.
    half = sorted(np.random.default_rng(0).permutation(8)[0::2].tolist())
    again = fit_sam_f(dataset, tiny_sam, EmbeddingCache(), images=half)
    assert again.weights == first.weights
    assert set(range(8)) - set(half) <= by_first


def test_one_image_leaves_sam_f_out(dataset, sources):
    alone = make_report(dataset.subset([0]), sources[:1], EmbeddingCache(), "tiny", stages=Stages())
    assert [source["name"] for source in alone.numbers["sources"]] == ["plain SAM"]
    assert alone.numbers["sam_f_weights"] == []
    assert alone.numbers["worst"] == [0]
    assert alone.numbers["best"] == []
    assert alone.numbers["sources"][0]["prompts"]["center"]["interval"] is None


def test_worst_and_best_objects_are_ranked_by_the_adapter_and_none_is_in_both(report):
    numbers = report.numbers
    assert numbers["judged"] == "a"
    ious = [one["prompts"]["center"][0]["scores"][2]["iou"] for one in numbers["objects"]]
    worst, best = ([ious[n] for n in numbers[name]] for name in ("worst", "best"))
    assert worst == sorted(ious)[:4]
    assert best == sorted(ious, reverse=True)[:4]
    assert not set(numbers["worst"]) & set(numbers["best"])


def test_pictures_show_the_objects_with_the_scores_in_the_numbers(report):
    numbers = report.numbers
    for name, pictures in (("worst", report.worst), ("best", report.best)):
        for index, picture in zip(numbers[name], pictures, strict=True):
            about = numbers["objects"][index]
            assert picture.image == about["image"]
            before, _, after = (one["iou"] for one in about["prompts"]["center"][0]["scores"])
            assert [view.iou for view in picture.views] == pytest.approx([before, after], abs=2e-3)
            for view in picture.views:
                data = base64.b64decode(view.address.removeprefix("data:image/jpeg;base64,"))
                assert max(Image.open(io.BytesIO(data)).size) == 200


def test_images_and_objects_are_listed_with_the_same_scores(report, dataset):
    numbers = report.numbers
    for row, about, pair in zip(numbers["images"], numbers["objects"], dataset.pairs, strict=True):
        assert row["image"] == about["image"] == pair.image.name
        scores = about["prompts"]["center"][0]["scores"]
        assert row["iou"] == [one["iou"] for one in scores]
    columns = zip(*(row["iou"] for row in numbers["images"]), strict=True)
    for source, column in zip(numbers["sources"], columns, strict=True):
        assert source["prompts"]["center"]["iou"] == pytest.approx(np.mean(column))


def test_prompts_are_written_down_as_they_were_asked(report, dataset):
    for about, thing in zip(report.numbers["objects"], dataset.objects, strict=True):
        mask = thing.mask()
        assert [len(about["prompts"][kind]) for kind in ALL_KINDS] == [1, 3, 1, 1]
        for asked in about["prompts"]["random"]:
            x, y = asked["points"][0]
            assert mask[int(y), int(x)]
        (pair,) = about["prompts"]["pair"]
        assert [bool(mask[int(y), int(x)]) for x, y in pair["points"]] == [True, False]
        assert pair["labels"] == [1, 0]
        assert about["prompts"]["box"][0]["points"] == []
        assert len(about["prompts"]["box"][0]["box"]) == 4


def test_maps_are_of_different_objects_and_have_numbers(report):
    found = report.numbers["sensitivity"]
    assert len(report.maps) == len(found) == 3
    assert len({one["object"] for one in found}) == 3
    for one in found:
        assert [source["name"] for source in one["sources"]] == ["plain SAM", "a"]
        assert all(source["clicks"] > 10 for source in one["sources"])


def test_presence_stands_with_every_answer_and_with_the_pictures(report, dataset, sources):
    numbers = report.numbers
    for index, thing in enumerate(dataset.objects):
        image = read_image(dataset.pairs[thing.image_index].image)
        _, embedding = EmbeddingCache().encode(image, sources[1].predictor.sam)
        for kind in ALL_KINDS:
            prompts = prompts_for(thing.mask(), kind, thing.image_index, 0)
            expected = sources[1].predictor.presence(embedding, prompts)
            asked = numbers["objects"][index]["prompts"][kind]
            found = [one["scores"][2]["presence"] for one in asked]
            assert found == pytest.approx(expected, abs=1e-4)
            assert {one["scores"][0]["presence"] for one in asked} == {None}  # plain SAM
    for index, picture in zip(numbers["worst"], report.worst, strict=True):
        plain, adapted = (view.presence for view in picture.views)
        (asked,) = numbers["objects"][index]["prompts"]["center"]
        assert plain is None
        assert adapted == pytest.approx(asked["scores"][2]["presence"], abs=1e-4)


def test_clicks_beside_the_objects_are_those_of_evaluate(report, dataset, tiny_sam, sources):
    predictors = [source.predictor for source in sources]
    plain, adapted = measure_obedience(dataset, tiny_sam, predictors, EmbeddingCache())
    assert report.obedience == [plain, adapted]
    beside = [source["beside"] for source in report.numbers["sources"]]
    assert beside == [asdict(plain), None, asdict(adapted)]  # SAM-F has no presence to judge
    assert adapted.missed is not None


def test_what_is_found_without_a_click_is_scored_for_who_can_find(tiny_sam, sources, tmp_path):
    # Nearly all of the images is of the reference's colour, so that a random mask of it is of it.
    red, cache = (250, 20, 20), EmbeddingCache()
    write_pair(tmp_path / "one", "a.png", *colour_photo(red))
    for seed in (1, 2):
        image, mask = colour_photo(red, at=(30, 30), seed=seed)
        image[:, 20:] = red
        write_pair(tmp_path / "some", f"{seed}.png", image, mask)
    one, some = (load_dataset(tmp_path / name) for name in ("one", "some"))
    fitted = fit_references(one, tiny_sam, cache, "persam", checkpoint_name="tiny")
    finder = Predictor(tiny_sam, fitted.adapter)
    finding = [*sources[:1], Source("finder", finder, tmp_path / "finder.safetensors")]
    made = make_report(some, finding, cache, "tiny", stages=Stages(), max_objects=2)
    expected = score_found(some, finder, cache, 2)
    assert expected.iou > 0
    assert made.found == [None, expected]
    by_source = [source["found"] for source in made.numbers["sources"]]
    assert by_source == [None, None, asdict(expected)]
    shares = [expected.iou, expected.precision, expected.recall]
    cells = "".join(f"<td>{100 * share:.1f}</td>" for share in shares)
    assert cells in render(made)


def test_curves_of_a_fit_are_among_the_numbers(dataset, sources):
    steps = Start(0.1, (2, 4, 6), (0.9, float("nan"), 0.5), (1e-3, 5e-4, 1e-4))
    other = Start(1.0, (2,), (2.5,), (1e-3,))
    curves = Curves(steps, (other,), ((3, 0.5), (6, 0.75)), 0.25, "finished")
    one = dataset.subset([0])
    made = make_report(one, sources[:1], EmbeddingCache(), "tiny", stages=Stages(), curves=curves)
    training = json.loads(json.dumps(made.numbers["training"], allow_nan=False))
    assert training == {
        "chosen": {
            "first_offset": 0.1,
            "seen": [2, 4, 6],
            "losses": [0.9, None, 0.5],
            "learning_rates": [1e-3, 5e-4, 1e-4],
        },
        "given_up": [{"first_offset": 1.0, "seen": [2], "losses": [2.5], "learning_rates": [1e-3]}],
        "looks": [[3, 0.5], [6, 0.75]],
        "base_iou": 0.25,
        "stopped": "finished",
        "tried": [],
        "kept": 1,
    }


def test_cost_names_each_stage(report):
    cost = report.numbers["cost"]
    assert list(cost["seconds"]) == [
        "encoding",
        "scoring plain SAM",
        "scoring a",
        "clicking beside",
        "fitting and scoring SAM-F",
        "pictures",
        "sensitivity",
    ]
    assert all(seconds > 0 for seconds in cost["seconds"].values())


def test_numbers_are_json_without_nan(report):
    text = json.dumps(report.numbers, allow_nan=False)
    assert json.loads(text)["data"]["objects"] == 8
