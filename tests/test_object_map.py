"""Finding all objects without a prompt: the map of middles, and how answers are judged."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from answers import answer
from PIL import Image
from tiny_models import build_adapter

from samtune.adapter import Adapter
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.errors import AdapterError
from samtune.finding import find_objects
from samtune.images import read_image
from samtune.learner import EncodedImages
from samtune.object_map import ObjectMap
from samtune.object_map_fit import calibrate, fit_object_map, logistic, loss
from samtune.object_search import ObjectSearch
from samtune.pairs import Pair
from samtune.predictor import Prediction, Predictor
from samtune.supervision import supervise
from samtune.turns import Turns

NO_LOGITS = np.zeros((0, 32, 32), np.float32)
STEPS = 120


class AsDrawn(Predictor):
    """Answers a point with the labelled thing that it is on; else with the square around it."""

    def __init__(self, sam, adapter, labels):
        super().__init__(sam, adapter)
        self.labels = labels  # of each image, by the embedding's first number

    def predict(self, embedding, prompts, *, all_masks=False, refine=False):
        box = prompts[0].box
        places = prompts[0].points if box is None else [(box[:2] + box[2:]) / 2]
        ((x, y),) = np.round(places).astype(int)
        labels = self.labels[float(embedding.features.double().sum())]
        mask = labels == labels[y, x]
        if labels[y, x] == 0:
            mask = np.zeros_like(mask)
            mask[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = True
        return [Prediction(mask, 0.9, NO_LOGITS, NO_LOGITS, NO_LOGITS, NO_LOGITS)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, tiny_sam):
    """24 images of yellow squares among blue ones, the last eight to look at; their labels."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number in range(24):
        image = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
        labels = np.zeros((128, 128), np.uint8)
        for place, cell in enumerate(rng.permutation(9)[: rng.integers(3, 6)]):
            top, left = 42 * np.array(divmod(int(cell), 3)) + rng.integers(2, 10, 2)
            square = np.s_[top : top + 30, left : left + 30]
            image[square] = (230, 200, 30) if place else (30, 60, 220)
            labels[square] = place
        Image.fromarray(image).save(folder / "images" / f"{number:02}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{number:02}.png")
    return load_dataset(folder, objects="instances")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return EmbeddingCache(tmp_path_factory.mktemp("embeddings"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """12 images of orange squares alone, none of which is an object."""
    folder, rng, pairs = tmp_path_factory.mktemp("others"), np.random.default_rng(1), []
    for number in range(12):
        image = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
        for top, left in ((8, 8), (8, 80), (80, 8), (80, 80)):
            image[top : top + 30, left : left + 30] = (240, 130, 20)
        Image.fromarray(image).save(folder / f"{number:02}.png")
        pairs.append(Pair(folder / f"{number:02}.png", folder / "none.png"))
    return pairs


@pytest.fixture(scope="module")
def fit(drawn, tiny_sam, cache):
    def fit_map(empty=(), precision="float32", **options):
        train = drawn.subset(range(16))
        pairs = [*train.pairs, *empty]
        keys = [cache.encode(read_image(pair.image), tiny_sam)[0] for pair in pairs]
        images = EncodedImages(tiny_sam, cache, pairs, keys)
        rng = np.random.default_rng(0)
        objects = supervise(train.objects, tiny_sam.image_size, rng)
        none = range(len(train.pairs), len(pairs))
        return fit_object_map(tiny_sam, images, objects, none, 0, precision, steps=STEPS, **options)

    return fit_map


@pytest.fixture(scope="module")
def learned(fit):
    return fit()


@pytest.fixture(scope="module")
def new(drawn, tiny_sam, cache):
    """Of each image that was not learned from: the embedding, and its labels."""
    found = []
    for index in range(16, 24):
        _, embedding = cache.encode(read_image(drawn.pairs[index].image), tiny_sam)
        masks = [one.mask() for one in drawn.objects if one.image_index == index]
        labels = sum(number * mask for number, mask in enumerate(masks, start=1))
        found.append((embedding, labels))
    return found


def clicks(search):
    while (prompt := search.propose()) is not None:
        yield prompt.points[0].round().astype(int)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_likeliest_clicks_are_one_on_each_object(learned, fit, new, precision):
    object_map = learned if precision == "float32" else fit(precision=precision)
    for embedding, labels in new:
        proposed = [int(labels[y, x]) for x, y in clicks(ObjectSearch(object_map, embedding))]
        assert sorted(proposed[: labels.max()]) == list(range(1, labels.max() + 1))


def test_what_an_object_covers_is_not_clicked_on_again(learned, new):
    embedding, labels = new[0]
    search = ObjectSearch(learned, embedding)
    search.suppress(labels == 1, accepted=True)
    search.suppress(labels == 2, accepted=False)  # no object: there may be one in it
    proposed = {int(labels[y, x]) for x, y in clicks(search)}
    assert 1 not in proposed
    assert 2 in proposed


def test_after_calibration_all_objects_of_new_images_are_found_and_nothing_else(
    learned, new, drawn, cache, tiny_sam
):
    by_sum = {float(one.features.double().sum()): labels for one, labels in new}
    adapter = build_adapter(tiny_sam, refines=False)
    adapter.learned.object_map = learned
    predictor = AsDrawn(tiny_sam, adapter, by_sum)
    calibrate(predictor, [learned], drawn.subset(range(16, 20)), [], cache)
    for embedding, labels in new[4:]:
        found = find_objects(predictor, embedding, 100).objects
        shown = sorted(int(labels[one.prediction.mask].min()) for one in found)
        assert shown == list(range(1, labels.max() + 1))
        assert all(0.5 <= one.prediction.score <= 1 for one in found)


def test_images_without_an_object_teach_the_map_where_there_is_none(
    learned, fit, others, cache, tiny_sam
):
    taught = fit(others[:8])
    features = [cache.encode(read_image(one.image), tiny_sam)[1].features for one in others[8:]]
    likeliest = [
        torch.sigmoid(one(torch.stack(features).float())[0]).flatten(1).max(dim=1).values
        for one in (learned, taught)
    ]
    assert (likeliest[0] > 0.5).all()  # it knows no better
    assert (likeliest[1] < 0.2).all()


def test_images_without_an_object_teach_the_judge_what_is_none(
    fit, others, drawn, new, cache, tiny_sam
):
    known = {float(one.features.double().sum()): labels for one, labels in new}
    object_map = fit()
    embeddings = [cache.encode(read_image(pair.image), tiny_sam)[1] for pair in others]
    for one in embeddings:
        known[float(one.features.double().sum())] = np.ones((128, 128), np.uint8)
    adapter = build_adapter(tiny_sam, refines=False)
    adapter.learned.object_map = object_map
    predictor, found = AsDrawn(tiny_sam, adapter, known), []
    for empty in ([], embeddings[:8]):
        calibrate(predictor, [object_map], drawn.subset(range(16, 20)), empty, cache)
        found.append(sum(bool(find_objects(predictor, one, 9).objects) for one in embeddings[8:]))
    assert found == [4, 0]


class Spoiled(AsDrawn):
    """Answers one kind of prompt with a mask of nothing that is there."""

    def __init__(self, sam, adapter, labels, spoils):
        super().__init__(sam, adapter, labels)
        self.spoils = spoils

    def predict(self, embedding, prompts, **options):
        (found,) = super().predict(embedding, prompts, **options)
        if (prompts[0].box is not None) == (self.spoils == "boxes"):
            corner = np.zeros_like(found.mask)
            corner[:3, :3] = True
            return [replace(found, mask=corner)]
        return [found]


@pytest.mark.parametrize("spoils", ["boxes", "clicks"])
def test_calibration_asks_with_what_is_answered_better(
    learned, new, drawn, cache, tiny_sam, spoils
):
    by_sum = {float(one.features.double().sum()): labels for one, labels in new}
    adapter = build_adapter(tiny_sam, refines=False)
    adapter.learned.object_map = object_map = deepcopy(learned)
    predictor = Spoiled(tiny_sam, adapter, by_sum, spoils)
    calibrate(predictor, [object_map], drawn.subset(range(16, 20)), [], cache)
    assert object_map.asks_with_boxes == (spoils == "clicks")
    found = [one for embedding, _ in new for one in find_objects(predictor, embedding, 9).objects]
    assert len(found) >= len(new)
    assert all((one.prompt.box is None) == (spoils == "boxes") for one in found)


def test_a_box_that_is_asked_about_is_not_asked_about_again(learned, new):
    boxed = deepcopy(learned)
    boxed.ask_with(boxes=True)
    for embedding, _ in new:
        search, asked = ObjectSearch(boxed, embedding), []
        while (prompt := search.propose()) is not None:
            asked.append((prompt.box, prompt.points)[prompt.box is None].tolist())
        assert len(asked) == len({str(one) for one in asked})


def test_a_map_of_before_there_were_regions_judges_by_five_numbers(learned, new, tiny_sam):
    embedding, _ = new[0]
    before = ObjectMap(regions=False).eval()
    kept = {name: one for name, one in learned.state_dict().items() if name != "boxes"}
    before.load_state_dict({**kept, "judge.weight": learned.judge.weight[:, :5]})
    assert not before.asks_with_boxes
    search = ObjectSearch(before, embedding)
    search.propose()
    some = answer(np.ones(embedding.original_size, dtype=bool), presence=0.5)
    weight, bias = learned.judge.weight[0, :5].numpy(), learned.judge.bias.item()
    expected = 1 / (1 + np.exp(-(weight @ search.features(some)[:5] + bias)))
    assert search.presence(some) == pytest.approx(expected)


def test_in_turns_each_map_proposes_on_its_own_images_and_all_judge_by_all_answers(
    learned, new, drawn, cache, tiny_sam
):
    by_sum = {float(one.features.double().sum()): labels for one, labels in new}
    alone = deepcopy(learned)
    maps = [deepcopy(learned), ObjectMap(), ObjectMap()]  # new ones have nothing to propose
    takers = []
    for object_map in (alone, *maps[:2]):
        adapter = build_adapter(tiny_sam, refines=False)
        adapter.learned.object_map = object_map
        takers.append(AsDrawn(tiny_sam, adapter, by_sum))
    calibrate(takers[0], [alone], drawn.subset([16, 18]), [], cache)
    calibrate(Turns(takers[1:], [[0, 2], [1, 3]]), maps, drawn.subset(range(16, 20)), [], cache)
    assert alone.judge.weight.any()
    for one in maps:
        assert torch.equal(one.judge.weight, alone.judge.weight)
        assert torch.equal(one.judge.bias, alone.judge.bias)


def test_what_is_found_keeps_its_estimated_iou_and_says_how_likely_it_is_an_object(
    learned, new, tiny_sam
):
    class Told(AsDrawn):
        def predict(self, *given, **options):
            return [replace(one, presence=0.2) for one in super().predict(*given, **options)]

    embedding, labels = new[0]
    adapter = build_adapter(tiny_sam, refines=False)
    adapter.learned.object_map = learned
    by_sum = {float(embedding.features.double().sum()): labels}
    for one in find_objects(Told(tiny_sam, adapter, by_sum), embedding, 100).objects:
        assert one.prediction.score == 0.9
        assert one.prediction.presence >= 0.5


def test_the_same_seed_gives_the_same_map_and_takes_no_random_number_of_the_caller(fit, learned):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    again = fit()
    assert torch.equal(torch.rand(2), wanted)
    for name, tensor in again.state_dict().items():
        if not name.startswith("judge"):
            assert torch.equal(tensor, learned.state_dict()[name]), name


def test_a_map_has_the_grid_s_size_whatever_it_is():
    for rows, columns in ((64, 64), (8, 8), (5, 7), (1, 9)):
        middles, cover = ObjectMap(width=4, channels=8)(torch.randn(2, 8, rows, columns))
        assert middles.shape == cover.shape == (2, rows, columns)


def test_the_loss_is_centernet_s_and_the_padding_takes_no_part():
    rng = np.random.default_rng(0)
    found, cover_found = rng.normal(size=(2, 1, 4, 5))
    middles, cover = rng.uniform(0, 0.9, (2, 1, 4, 5))
    middles[0, 1, 2] = middles[0, 3, 0] = 1
    inside = np.ones((1, 4, 5))
    inside[..., 4] = 0
    points = covered = 0.0
    for row in range(4):
        for column in range(4):
            p = 1 / (1 + np.exp(-found[0, row, column]))
            y = middles[0, row, column]
            points -= (1 - p) ** 2 * np.log(p) if y == 1 else 0
            points -= (1 - y) ** 4 * p**2 * np.log(1 - p) if y < 1 else 0
            q, c = 1 / (1 + np.exp(-cover_found[0, row, column])), cover[0, row, column]
            covered -= c * np.log(q) + (1 - c) * np.log(1 - q)
    wanted = points / 2 + covered / cover.sum()
    told = loss(*(torch.from_numpy(one) for one in (found, cover_found, middles, cover, inside)))
    assert float(told) == pytest.approx(wanted)


def test_judging_is_a_logistic_regression_that_says_the_share_of_right_answers():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3)).astype(np.float32) * [1, 10, 0.1] + [5, 0, -3]
    chance = 1 / (1 + np.exp(-(features[:, 0] - 5 + 0.2 * features[:, 1])))
    right = rng.uniform(size=4000) < chance
    weight, bias = logistic(features.astype(np.float32), right)
    told = 1 / (1 + np.exp(-(features @ weight + bias)))
    assert told.mean() == pytest.approx(right.mean(), abs=0.005)
    for low in np.arange(0, 1, 0.2):
        here = (told >= low) & (told < low + 0.2)
        assert right[here].mean() == pytest.approx(told[here].mean(), abs=0.06)


@pytest.mark.parametrize("right", [[], [True] * 5, [False] * 5])
def test_answers_of_one_kind_or_none_give_no_certainty(right):
    features = np.zeros((len(right), 5), np.float32)
    weight, bias = logistic(features, np.array(right, dtype=bool))
    told = 1 / (1 + np.exp(-bias))
    assert np.all(weight == 0)
    assert told == pytest.approx((sum(right) + 1) / (len(right) + 2), abs=1e-6)


def test_an_empty_answer_has_features_of_its_own(learned, new):
    embedding, labels = new[0]
    search = ObjectSearch(learned, embedding)
    search.propose()
    features = search.features(answer(np.zeros_like(labels, dtype=bool), presence=0.0))
    assert np.isfinite(features).all()


def test_a_map_is_kept_in_the_adapter_and_a_description_that_differs_is_refused(
    learned, tiny_sam, tmp_path
):
    adapter = build_adapter(tiny_sam)
    adapter.learned.object_map = learned
    adapter.save(tmp_path / "unsaid.safetensors")
    with pytest.raises(AdapterError, match="object map"):
        Adapter.load(tmp_path / "unsaid.safetensors", tiny_sam)
    said = Adapter(replace(adapter.info, proposes=True), adapter.learned)
    said.save(tmp_path / "a.safetensors")
    read = Adapter.load(tmp_path / "a.safetensors", tiny_sam)
    assert read.learned.proposes
    assert torch.equal(read.learned.object_map.judge.weight, learned.judge.weight)
    assert read.learned.parameters_in_use() == build_adapter(tiny_sam).learned.parameters_in_use()
