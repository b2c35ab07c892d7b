"""Attention that projects only the tokens, against segment-anything's own."""

import pytest
import torch
from upstream import modeling, sharpen

from samtune.attention import fold_queries, gather, gather_backward, unfold_values


@pytest.fixture
def attention():
    """Upstream's plain attention, halving the channels inside as the decoder's does."""
    return sharpen(modeling().transformer.Attention(24, 3, downsample_rate=2))


@pytest.fixture
def draw():
    """Random tensors, all different, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(*shape, generator=generator)


@pytest.mark.parametrize(("images", "each"), [(1, 1), (1, 4), (3, 2)])
def test_tokens_gather_from_cells_as_in_plain_attention(attention, draw, images, each):
    tokens = draw(images * each, 5, 24).requires_grad_()
    cells, cells_pe = (draw(images, 11, 24).requires_grad_() for _ in range(2))
    expected = attention(
        q=tokens,
        k=cells_pe.repeat_interleave(each, dim=0),
        v=cells.repeat_interleave(each, dim=0),
    )
    _, mixed = gather(fold_queries(attention, tokens), cells, cells_pe)
    found = unfold_values(attention, mixed, 5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    wanted = [tokens, cells, cells_pe, *attention.parameters()]
    pull = torch.linspace(-1, 1, found.numel()).view(found.shape)
    for mine, theirs in zip(
        # Softmax drops the keys' bias, so that it may be left out: its gradient is 0.
        torch.autograd.grad((found * pull).sum(), wanted, materialize_grads=True),
        torch.autograd.grad((expected * pull).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("images", "each"), [(1, 1), (1, 4), (3, 2)])
def test_the_backward_written_out_is_autograds(draw, images, each):
    queries = draw(images * each, 15, 24).requires_grad_()
    cells, cells_pe = draw(images, 11, 24), draw(images, 11, 24)
    weights, mixed = gather(queries, cells, cells_pe)
    pull = draw(*mixed.shape)
    expected = torch.autograd.grad((mixed * pull).sum(), (queries,))[0]
    _, found = gather_backward(pull, weights.detach(), cells, cells_pe)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
