"""The Prompt Learning Module against the same network in plain torch."""

import pytest
import torch
from torch import nn
from upstream import sharpen

from samtune.image_cells import normalise_cells
from samtune.plm import PromptLearningModule


@pytest.fixture(scope="module")
def plm():
    """A trained one could be anything: random numbers in every parameter."""
    return sharpen(PromptLearningModule())


@pytest.fixture
def draw():
    """Random tensors, all different, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(*shape, generator=generator)


def in_plain_torch(plm, prompt, image_embeddings, image_pe):
    """Kim et al. 2024, section 4.1, on one image for each prompt, with torch's own attention."""
    cross_attention = nn.MultiheadAttention(256, 8, batch_first=True)
    projections = plm.q_proj, plm.k_proj, plm.v_proj
    cross_attention.load_state_dict(
        {
            "in_proj_weight": torch.cat([layer.weight for layer in projections]),
            "in_proj_bias": torch.cat([layer.bias for layer in projections]),
            "out_proj.weight": plm.out_proj.weight,
            "out_proj.bias": plm.out_proj.bias,
        }
    )
    cells = image_embeddings.flatten(2).transpose(1, 2)
    cells = nn.LayerNorm(256, elementwise_affine=False)(cells)  # they are too small beside the rest
    positions = image_pe.flatten(2).transpose(1, 2)
    tokens = plm.self_norm(prompt + plm.self_attention(prompt, prompt, prompt)[0])
    gathered, _ = cross_attention(tokens + prompt, cells + positions, cells)
    tokens = plm.image_norm(tokens + gathered)
    return prompt + plm.final_norm(tokens + plm.mlp(tokens))


def test_it_has_the_papers_1_6_million_parameters():
    assert sum(p.numel() for p in PromptLearningModule().parameters()) == 1_578_752


@pytest.mark.parametrize("tokens", [1, 2, 7])
@pytest.mark.parametrize(("images", "each"), [(1, 1), (1, 3), (2, 2)])
def test_tokens_are_adapted_as_in_plain_torch(plm, draw, images, each, tokens):
    prompt = draw(images * each, tokens, 256)
    image_embeddings, image_pe = draw(images, 256, 3, 5), draw(1, 256, 3, 5)
    found = plm(prompt, image_embeddings, image_pe)
    expected = in_plain_torch(plm, prompt, image_embeddings.repeat_interleave(each, 0), image_pe)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_cells_normalised_before_give_the_same(plm, draw):
    prompt, image_embeddings, image_pe = draw(4, 2, 256), draw(2, 256, 3, 5), draw(1, 256, 3, 5)
    normed = normalise_cells(image_embeddings, image_pe)
    assert torch.equal(plm.adapt(prompt, *normed), plm(prompt, image_embeddings, image_pe))


def test_the_order_of_the_tokens_does_not_matter(plm, draw):
    # SAM's tokens say by themselves what and where they are.
    prompt, image_embeddings, image_pe = draw(1, 5, 256), draw(1, 256, 3, 5), draw(1, 256, 3, 5)
    order = [3, 1, 4, 0, 2]
    found = plm(prompt[:, order], image_embeddings, image_pe)
    expected = plm(prompt, image_embeddings, image_pe)[:, order]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_tokens_of_one_prompt_know_of_each_other_and_of_no_other_prompt(plm, draw):
    prompt, image_embeddings, image_pe = draw(2, 3, 256), draw(1, 256, 3, 5), draw(1, 256, 3, 5)
    before = plm(prompt, image_embeddings, image_pe)
    prompt[0, 2] += 1
    moved = (plm(prompt, image_embeddings, image_pe) - before).abs().amax(dim=2)
    assert (moved[0] > 1e-3).all()
    assert (moved[1] < 1e-5).all()


def test_the_offset_depends_on_the_image(plm, draw):
    prompt, image_pe = draw(1, 2, 256), draw(1, 256, 3, 5)
    one, other = (plm(prompt, draw(1, 256, 3, 5), image_pe) for _ in range(2))
    assert (one - other).abs().amax() > 0.1


def test_the_scale_of_the_embedding_does_not_matter(plm, draw):
    # MobileSAM's has a standard deviation of 0.1, another encoder's may have another.
    prompt, image_embeddings, image_pe = draw(1, 2, 256), draw(1, 256, 3, 5), draw(1, 256, 3, 5)
    one, other = (plm(prompt, scale * image_embeddings, image_pe) for scale in (1, 7))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_first_offset_has_the_size_that_was_asked_for(draw):
    prompt, image_embeddings, image_pe = draw(4, 2, 256), draw(1, 256, 3, 5), draw(1, 256, 3, 5)
    for size in (0.0, 0.1, 1.0):
        fresh = PromptLearningModule(first_offset=size).requires_grad_(False)
        offset = fresh(prompt, image_embeddings, image_pe) - prompt
        # Each channel of a layer norm's output has that standard deviation.
        assert float(offset.square().mean().sqrt()) == pytest.approx(size, rel=0.01, abs=1e-6)


def test_every_part_is_trained(draw):
    plm = PromptLearningModule()
    plm(draw(2, 2, 256), draw(1, 256, 3, 5), draw(1, 256, 3, 5)).square().sum().backward()
    still = [
        name for name, p in plm.named_parameters() if p.grad is None or p.grad.abs().max() == 0
    ]
    assert still == ["k_proj.bias"]  # which no attention depends on: softmax drops it
