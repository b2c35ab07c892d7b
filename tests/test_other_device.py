"""Training and answering on another device than the CPU: nothing mixes tensors of the two."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from other_device import other_device
from test_training import QUICK
from test_vrp_fit import QUICK as QUICK_VRP
from tiny_models import build_tiny_sam

from samtune.dataset import load_dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.reference_fit import fit_references
from samtune.training import fit
from samtune.vrp_fit import fit_vrp

IN_TURNS = {"few_masks": 100, "folds": 2, "few_first_offsets": (0.0, 0.1), "few_objects": 20}
IN_TURNS |= {"few_passes": 2}


@pytest.fixture
def there(monkeypatch):
    """Tiny SAM on the other device."""
    with other_device(monkeypatch) as device:
        yield build_tiny_sam().to(device)


@pytest.fixture(scope="module")
def data(toy_folder):
    """Six images to learn from and two held out."""
    return split(load_dataset(toy_folder), 0.25, seed=0)


def test_a_mistake_would_be_found(there):
    tensor = torch.ones(3, device=there.device)
    with pytest.raises(RuntimeError, match="both devices"):
        tensor + torch.ones(3)
    with pytest.raises(RuntimeError, match="numpy"):
        tensor.numpy()
    assert float(tensor.sum()) == 3


def answers_everywhere(adapter, sam, folder, path):
    """The adapter answers there as it does on the CPU, where it was loaded from its file."""
    adapter.save(path)
    cpu = build_tiny_sam()
    image = read_image(folder / "images" / "1.png")
    prompts = [Prompt.of(points=[(60, 50)]), Prompt.of(box=(30, 30, 90, 80))]
    masks = []
    for model in (sam, cpu):
        predictor = Predictor(model, adapter.load(path, model))
        embedding = model.encode_image(image)
        masks.append([one.mask for one in predictor.predict(embedding, prompts)])
    for one, other in zip(*masks, strict=True):
        assert np.mean(one != other) < 0.001


def test_cells_in_bfloat16_attend_there_as_on_the_cpu(there, tiny_sam, toy_folder):
    image = read_image(toy_folder / "images" / "1.png")
    found = []
    for sam in (tiny_sam, there):
        features = sam.encode_image(image).features[None].to(sam.device, torch.bfloat16)
        tokens = torch.linspace(-1, 1, 512).view(1, 2, 256).to(sam.device).requires_grad_()
        nothing = sam.no_mask.to(torch.bfloat16)
        answer, cells = sam.decoder.attend(features, sam.image_pe, tokens, nothing)
        (answer[..., ::3].sum() + cells[..., ::3].float().sum()).backward()
        found.append([one.detach().float().cpu() for one in (answer, cells, tokens.grad)])
    for cpu, other in zip(*found, strict=True):
        assert (cpu - other).norm() < 0.02 * cpu.norm()


@pytest.mark.parametrize(
    "changes",
    [{}, {"pmm": False, "dense_prompt": False}, {"auto": True}, IN_TURNS],
    ids=["as it is", "the PLM alone", "finding", "in turns"],
)
@pytest.mark.slow
def test_fit_scores_there_as_on_the_cpu(there, tiny_sam, data, toy_folder, tmp_path, changes):
    train, val = data
    found = []
    for sam in (tiny_sam, there):
        found.append(
            fit(
                train,
                None if "few_masks" in changes else val,
                sam,
                EmbeddingCache(tmp_path),
                replace(QUICK, precision="float32", **changes),
                checkpoint_name="tiny",
                state_path=tmp_path / "state.resume",
            )
        )
    cpu, other = found
    assert other.base.iou == pytest.approx(cpu.base.iou, abs=0.001)
    assert other.adapted.iou == pytest.approx(cpu.adapted.iou, abs=0.03)  # eight steps of AdamW
    answers_everywhere(other.adapter, there, toy_folder, tmp_path / "a.safetensors")


@pytest.mark.parametrize("method", ["persam", "persam-f", "vrp"])
def test_references_find_there_what_they_find_on_the_cpu(there, data, toy_folder, tmp_path, method):
    train, val = (part.by_class() for part in data)
    cache = EmbeddingCache(tmp_path)
    if method == "vrp":
        config = replace(QUICK_VRP, precision="float32")
        state = tmp_path / "state.resume"
        made = fit_vrp(train, val, there, cache, config, checkpoint_name="tiny", state_path=state)
    else:
        made = fit_references(train, there, cache, method, checkpoint_name="tiny")
    answers_everywhere(made.adapter, there, toy_folder, tmp_path / "a.safetensors")
