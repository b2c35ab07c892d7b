"""fit_vrp(): episodes, what they teach, and going on where it was interrupted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from broken_data import photo, save

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.config import VrpConfig
from samtune.dataset import load_dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.errors import AdapterError, DatasetError, SamtuneError
from samtune.found_scores import score_found
from samtune.images import read_image
from samtune.learner import EncodedImages
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.reference_cells import Marked, share_of_points
from samtune.reference_prompting import ReferencePrompting, marked_cells
from samtune.targets import covered_share
from samtune.vrp import VisualReferencePrompts
from samtune.vrp_fit import fit_vrp, supervised_targets
from samtune.vrp_learner import Target, VrpLearner, _thinned

QUICK = VrpConfig(  # 8 steps, a look at the held-out targets after every second
    queries=4, episodes=16, validations=4, patience=4, cells=64, seen_cells=40, own_references=4
)


@pytest.fixture(scope="module")
def data(toy_folder):
    """Six images to learn from and two held out."""
    return [part.by_class() for part in split(load_dataset(toy_folder), 0.25, seed=0)]


@pytest.fixture(scope="module")
def run(data, tiny_sam, tmp_path_factory):
    embeddings = tmp_path_factory.mktemp("embeddings")

    def run_fit(config=QUICK, *, train=data[0], val=data[1], **options):
        options.setdefault("state_path", tmp_path_factory.mktemp("state") / "state.resume")
        cache = EmbeddingCache(embeddings)
        return fit_vrp(train, val, tiny_sam, cache, config, checkpoint_name="tiny", **options)

    return run_fit


@pytest.fixture(scope="module")
def whole(run):
    return run()


@pytest.fixture(scope="module")
def start(data, tiny_sam, tmp_path_factory):
    """Make a learner on the six images, each a class of its own number modulo some count."""
    cache = EmbeddingCache(tmp_path_factory.mktemp("embeddings"))
    keys = [cache.encode(read_image(pair.image), tiny_sam)[0] for pair in data[0].pairs]
    images = EncodedImages(tiny_sam, cache, data[0].pairs, keys)
    targets = supervised_targets(data[0], tiny_sam, np.random.default_rng(0))

    def make(config=QUICK, classes=1, total=16):
        labelled = [replace(one, label=1 + n % classes) for n, one in enumerate(targets)]
        return VrpLearner(tiny_sam, config, images, labelled, total)

    return make


def tensors(learned):
    return learned.state_dict()


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_episode_has_references_of_the_targets_class_in_other_images(start):
    learner = start(classes=2)
    of_class = {
        label: {one.image_index for one in members} for label, members in learner.classes.items()
    }
    counts, labels = set(), set()
    for number in range(40):
        target, references = learner.draw_episode(np.random.default_rng(number))
        (label,) = (label for label, images in of_class.items() if target.image_index in images)
        others = {
            index
            for index in range(6)
            for one in references
            if torch.equal(one.embedding.features, learner.images.batch([index])[0])
        }
        assert others <= of_class[label] - {target.image_index}
        assert len(others) == len(references)
        assert all(one.share.any() for one in references)
        counts.add(len(references))
        labels.add(label)
    assert counts == {1, 2}  # of 1, 2 and 4 as many as there are
    assert labels == {1, 2}


def test_a_class_in_one_image_alone_is_no_episode(start):
    learner = start(classes=5)  # the first class alone has two
    for number in range(10):
        target, _ = learner.draw_episode(np.random.default_rng(number))
        assert target in learner.classes[1]


@pytest.mark.parametrize(("top", "kept"), [(112, 0), (60, 1)])
def test_an_object_in_the_cells_at_the_border_that_are_cut_off_is_left_out(
    tiny_sam, tmp_path, top, kept
):
    """119 px are 7 rows of cells and 7 px more, which are no part of a reference."""
    mask = np.zeros((119, 128), dtype=np.uint8)
    mask[top : top + 7, 40:80] = 255
    save(tmp_path / "a.bmp", photo(0, mask.shape))
    save(tmp_path / "a.png", mask)
    rng = np.random.default_rng(0)
    assert len(supervised_targets(load_dataset(tmp_path), tiny_sam, rng)) == kept


def test_cells_that_are_left_out_are_stood_for(start):
    learner = start()
    _, (reference, *_) = learner.draw_episode(np.random.default_rng(1))
    cells = marked_cells(learner.sam, replace(reference, share=learner.references(1)[0].share))
    few = _thinned(cells, 20, np.random.default_rng(0))
    assert len(few.share) == 20
    assert float(few.stands_for.sum()) == pytest.approx(len(cells.share))
    on = cells.share >= 0.1
    assert float(few.stands_for[few.share >= 0.1].sum()) == pytest.approx(float(on.sum()))
    everything = _thinned(cells, 1000, np.random.default_rng(0))
    assert set(everything.stands_for.tolist()) == {1.0}
    assert float(everything.share.sum()) == pytest.approx(float(cells.share.sum()))


def test_it_learns_what_it_is_shown(start):
    learner = start(replace(QUICK, warmup_episodes=4, annotations=("mask",)), total=60)
    held = [Target(1, one) for one in learner.classes[1]]
    before = learner.held_out_iou(held)
    while learner.step < learner.steps:
        learner.train_step()
    assert np.mean(learner.losses[-10:]) < 0.8 * np.mean(learner.losses[:10])
    assert learner.held_out_iou(held) > before + 0.04


def test_gradients_in_bfloat16_point_where_those_in_float32_do(start):
    gradients = []
    for precision in ("float32", "bfloat16"):
        learner = start(replace(QUICK, precision=precision, batch_size=8, annotations=("mask",)))
        learner.train_step()
        gradients.append(
            {
                name: torch.cat([one.grad.flatten() for one in part.parameters()])
                for name, part in learner.learned.named_children()
            }
        )
    exact, short = gradients
    assert exact.keys() == short.keys() >= {"to_references", "to_target", "dense_prompt"}
    for name, gradient in exact.items():
        assert torch.cosine_similarity(gradient, short[name], dim=0) > 0.99, name
        assert short[name].norm() / gradient.norm() == pytest.approx(1, abs=0.05), name


def test_the_adapter_says_in_what_it_was_trained(run, whole):
    assert whole.adapter.info.settings["precision"] in ("float32", "bfloat16")
    exact = run(replace(QUICK, precision="float32", episodes=2))
    assert exact.adapter.info.settings["precision"] == "float32"


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(run, whole, tmp_path):
    def interrupt(progress):
        if progress.phase == "train" and progress.done >= 10:
            raise KeyboardInterrupt

    state = tmp_path / "state.resume"
    with pytest.raises(KeyboardInterrupt):
        run(state_path=state, on_progress=interrupt)
    resumed = run(state_path=state, resume=True)
    assert same(tensors(resumed.adapter.learned), tensors(whole.adapter.learned))
    assert resumed.adapter.info == whole.adapter.info
    with pytest.raises(SamtuneError, match="settings"):
        run(replace(QUICK, seed=1), state_path=state, resume=True)


def test_a_limit_of_time_ends_training_with_what_was_learned_so_far(run):
    limited = run(replace(QUICK, episodes=100_000, max_minutes=0.02))
    assert limited.stopped == "time"
    assert 0 < limited.adapter.info.data["episodes_seen"] < 100_000
    assert limited.found[1].iou >= 0


def test_a_dense_prompt_is_learned_unless_it_is_left_out(run, whole, tiny_sam, tmp_path):
    assert whole.adapter.learned.encoder.dense_prompt.network.leave.weight.any()  # nought at first
    without = run(replace(QUICK, dense_prompt=False)).adapter
    without.save(tmp_path / "a.safetensors")
    loaded = Adapter.load(tmp_path / "a.safetensors", tiny_sam).learned
    assert loaded.encoder.dense_prompt is None
    assert same(tensors(loaded), tensors(without.learned))


def test_another_seed_is_another_adapter_and_sam_stays_as_it_was(run, whole, tiny_sam):
    before = tiny_sam.decoder_fingerprint, tiny_sam.encoder_fingerprint
    other = run(replace(QUICK, seed=1))
    assert not same(tensors(other.adapter.learned), tensors(whole.adapter.learned))
    for name in ("decoder_fingerprint", "encoder_fingerprint"):
        del tiny_sam.__dict__[name]  # so that they are computed again
    assert (tiny_sam.decoder_fingerprint, tiny_sam.encoder_fingerprint) == before


def test_scores_are_those_of_the_saved_file(whole, data, tiny_sam, tmp_path):
    whole.adapter.save(tmp_path / "a.safetensors")
    loaded = Adapter.load(tmp_path / "a.safetensors", tiny_sam)
    assert loaded.info.data["references"] == 4
    assert not loaded.info.needs_reference
    found = score_found(data[1], Predictor(tiny_sam, loaded), EmbeddingCache(tmp_path, limit_gb=1))
    assert found == whole.found[1]
    assert loaded.info.scores["found_iou"] == pytest.approx(found.iou)


def test_an_adapter_of_several_classes_carries_no_reference_and_takes_any(run, data, tiny_sam):
    things = [
        replace(
            part,
            objects=tuple(replace(one, label=1 + one.image_index % 2) for one in part.objects),
        )
        for part in data
    ]
    fitted = run(train=things[0], val=things[1])
    assert set(fitted.found) == {1, 2}
    info, learned = fitted.adapter.info, fitted.adapter.learned
    assert info.needs_reference
    assert info.data["classes"] == 2
    embedding = tiny_sam.encode_image(read_image(data[1].pairs[0].image))
    predictor = Predictor(tiny_sam, fitted.adapter)
    with pytest.raises(AdapterError, match="--reference"):
        predictor.predict(embedding, [Prompt.of_everything()])
    assert isinstance(learned, ReferencePrompting)


def test_references_decide_what_is_answered(start):
    learner = start(total=2)
    one, other = learner.references(1)[:2]
    learned = learner.method(None)
    prompts = []
    for references in ([one], [other], [one, other]):
        known = learned.with_references(learner.sam, references).references
        prompts.append(torch.cat([known.tokens.flatten(), known.directions.flatten()]))
    again = learned.with_references(learner.sam, [other, one]).references
    both = torch.cat([again.tokens.flatten(), again.directions.flatten()])
    torch.testing.assert_close(both, prompts[2], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(prompts[0], prompts[1], atol=1e-2)
    assert learned.references is None  # the others are beside it


def test_what_points_annotate_is_completed_by_the_answer_to_them(start, tiny_sam):
    learned = start(total=2).method(None)
    photo = np.full((96, 128, 3), 60, np.uint8)
    photo[20:70, 30:90] = (240, 200, 40)
    embedding = tiny_sam.encode_image(photo)
    share = share_of_points(np.array([[50, 40]], np.float32), embedding)
    marked = Marked(embedding, share)
    adapter = Adapter(
        AdapterInfo("vrp", Base.of(tiny_sam, "tiny")), learned.with_references(tiny_sam, [marked])
    )
    predictor = Predictor(tiny_sam, adapter)
    (answer,) = predictor.predict(embedding, [Prompt.of_everything()])
    whole = Marked(embedding, np.maximum(covered_share(answer.mask, embedding), share))
    assert not np.allclose(whole.share, share, atol=0.2)
    expected, found, as_it_is = (
        learned.with_references(tiny_sam, [one]).references.prototype
        for one in (whole, replace(marked, sparse=True), marked)
    )
    near = float((found - expected).norm() / (as_it_is - expected).norm())
    assert near < 0.2  # the one is shared out to cells from pixels, the other from logits


def test_a_click_is_an_additional_prompt(whole, data, tiny_sam):
    predictor = Predictor(tiny_sam, whole.adapter)
    embedding = tiny_sam.encode_image(read_image(data[1].pairs[0].image))
    points = [Prompt.of([(20, 20)]), Prompt.of([(70, 60)]), Prompt.of([(20, 20)])]
    first, other, again = predictor.predict(embedding, points)
    assert (first.low_res_logits == again.low_res_logits).all()
    assert not np.allclose(first.low_res_logits, other.low_res_logits, atol=1e-3)
    assert first.presence is None


def test_without_two_images_of_a_class_there_is_nothing_to_train_on(run, data):
    with pytest.raises(DatasetError, match="no class in two images"):
        run(train=data[0].subset([0]))


def test_an_encoder_of_a_strange_size_is_no_adapter():
    for queries in (0, -1, 10**9, "50", None):
        with pytest.raises(ValueError, match="queries"):
            ReferencePrompting.blank({"queries": queries}, [])
    assert VisualReferencePrompts().queries.shape == (50, 256)
