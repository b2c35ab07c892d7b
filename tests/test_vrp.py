"""The visual reference prompt encoder: what it computes, and what cannot matter to it."""

from dataclasses import replace

import pytest
import torch

from samtune.vrp import CellsAndMask, VisualReferencePrompts


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)

    def cells(count):
        features, pe = (torch.randn(count, 256, generator=generator) for _ in range(2))
        return CellsAndMask(features, pe, torch.rand(count, generator=generator), torch.ones(count))

    return cells


@pytest.fixture(scope="module")
def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return VisualReferencePrompts(queries=6).requires_grad_(False)


def test_it_has_the_papers_parameters_but_for_the_projection_of_a_backbone():
    # 1,592,064 in all, of which 1536 · 256 bring ResNet's channels to 256.
    sizes = [parameter.numel() for parameter in VisualReferencePrompts().parameters()]
    assert sum(sizes) == 1_592_064 - 393_216


def test_cells_get_the_prototype_and_ten_times_their_mask_beside_them(encoder, draw):
    cells = draw(5)
    prototype = torch.linspace(-1, 1, 256)
    beside = [cells.features, prototype.expand(5, -1), 10 * cells.share[:, None]]
    expected = torch.relu(encoder.augment(torch.cat(beside, dim=1)))
    torch.testing.assert_close(encoder._augmented(cells, prototype), expected)


def test_the_prototype_is_the_mean_of_what_is_annotated(encoder, draw):
    one, other = draw(4), draw(3)
    digest = encoder.digest([one, other])
    expected = [(r.features * r.share[:, None]).sum(0) / r.share.sum() for r in (one, other)]
    torch.testing.assert_close(digest.prototype, torch.stack(expected).mean(0))


def prompts(encoder, references, target):
    return encoder(encoder.digest(references), target)


def test_neither_the_order_of_references_nor_that_of_cells_matters(encoder, draw):
    one, other, target = draw(7), draw(5), draw(9)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    turned = CellsAndMask(one.features[order], one.pe[order], one.share[order], one.stands_for)
    found = prompts(encoder, [other, turned], target)
    torch.testing.assert_close(found, prompts(encoder, [one, other], target))


def test_a_cell_that_stands_for_two_counts_as_two(encoder, draw):
    one, target = draw(4), draw(3)
    twice = CellsAndMask(*(torch.cat([part, part[:1]]) for part in vars(one).values()))
    heavy = replace(one, stands_for=torch.tensor([2.0, 1, 1, 1]))
    found = prompts(encoder, [heavy], target)
    torch.testing.assert_close(found, prompts(encoder, [twice], target))
    assert not torch.allclose(found, prompts(encoder, [one], target))
    doubled = CellsAndMask(*(torch.cat([part, part[-1:]]) for part in vars(target).values()))
    heavy = replace(target, stands_for=torch.tensor([1.0, 1, 2]))
    found = prompts(encoder, [one], heavy)
    torch.testing.assert_close(found, prompts(encoder, [one], doubled))


def test_annotation_guess_and_place_each_change_the_prompt(encoder, draw):
    one, target = draw(4), draw(5)
    found = prompts(encoder, [one], target)
    assert found.shape == (6, 256)
    others = [
        prompts(encoder, [replace(one, share=1 - one.share)], target),
        prompts(encoder, [one], replace(target, share=1 - target.share)),
        prompts(encoder, [one], replace(target, pe=-target.pe)),
    ]
    assert not any(torch.allclose(found, other, atol=1e-3) for other in others)


def test_tokens_start_as_small_as_they_are_asked_to(draw):
    small = VisualReferencePrompts(queries=3, first_size=0.1)
    spread = prompts(small, [draw(4)], draw(5)).std(dim=1, correction=0)
    torch.testing.assert_close(spread, torch.full((3,), 0.1), rtol=1e-3, atol=0)


def test_every_parameter_learns(draw):
    encoder = VisualReferencePrompts(queries=3)
    (prompts(encoder, [draw(4), draw(3)], draw(5)) ** 3).sum().backward()
    dead = [name for name, one in encoder.named_parameters() if not one.grad.abs().sum() > 0]
    assert dead == []
