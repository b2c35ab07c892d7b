"""What the dense prompt of references is told, and what of it reaches the decoder."""

import numpy as np
import pytest
import torch
from torch import nn

from samtune.reference_dense_prompt import ReferenceDensePrompt
from samtune.reference_prompting import dense_prompt
from samtune.vrp import VisualReferencePrompts


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.fixture
def learned():
    """One that has learned something, in numbers drawn at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        dense = ReferenceDensePrompt()
        nn.init.normal_(dense.network.leave.weight, std=0.1)
    return dense.requires_grad_(False)


def test_it_is_nought_before_it_has_learned(draw):
    dense = ReferenceDensePrompt()(draw(1, 256, 6, 8), torch.rand(6, 8), draw(256))
    assert dense.shape == (1, 256, 6, 8)
    assert not dense.any()


def test_each_cell_is_told_the_prototype_and_ten_times_its_guess(learned, draw):
    features, guess, prototype = draw(1, 256, 6, 8), torch.rand(6, 8), draw(256)
    beside = torch.cat([prototype.expand(6, 8, -1), 10 * guess[..., None]], dim=-1)
    told = learned.tell(beside).permute(2, 0, 1)[None]
    expected = learned.network(features, told)
    torch.testing.assert_close(learned(features, guess, prototype), expected)


def test_guess_and_prototype_each_change_it(learned, draw):
    features, guess, prototype = draw(1, 256, 6, 8), torch.rand(6, 8), draw(256)
    dense = learned(features, guess, prototype)
    for other in (learned(features, 1 - guess, prototype), learned(features, guess, -prototype)):
        assert not torch.allclose(dense, other, atol=1e-2)


def test_every_parameter_learns(draw):
    dense = ReferenceDensePrompt()
    nn.init.normal_(dense.network.leave.weight)
    (dense(draw(1, 256, 16, 16), torch.rand(16, 16), draw(256)) ** 2).sum().backward()
    dead = [name for name, one in dense.named_parameters() if not one.grad.abs().sum() > 0]
    assert dead == []


def test_what_is_learned_is_added_to_the_mask_prompt_and_the_padding_is_no_such_thing(
    learned, tiny_sam, draw
):
    side = tiny_sam.image_pe.shape[-1]
    features, prototype = draw(1, 256, side, side), draw(256)
    likeness = np.random.default_rng(0).uniform(-0.5, 1.5, (side - 2, side - 1)).astype(np.float32)
    encoder = VisualReferencePrompts(4)
    without = dense_prompt(tiny_sam, encoder, features, likeness, prototype)
    encoder.dense_prompt = learned
    guess = np.zeros((side, side), np.float32)
    guess[: side - 2, : side - 1] = likeness.clip(0, 1)
    expected = without + learned(features, torch.from_numpy(guess), prototype)
    found = dense_prompt(tiny_sam, encoder, features, likeness, prototype)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, without, atol=1e-2)
