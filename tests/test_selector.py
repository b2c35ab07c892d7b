"""The choice among SAM's masks: SAM's own at first, then whatever was learned."""

import pytest
import torch

from samtune.selector import OutputSelector, mixture


@pytest.fixture
def draw():
    """Random tensors, all different, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(*shape, generator=generator)


def test_untrained_it_leaves_sams_estimates_as_they_are(draw):
    estimates = draw(3, 4)
    assert torch.equal(OutputSelector()(draw(3, 7, 256), estimates), estimates)


def test_correction_is_linear_in_the_iou_token_and_in_each_masks_own_token(draw):
    selector = OutputSelector().requires_grad_(False)
    weight, bias, own = draw(4, 256), draw(4), draw(4, 256)
    selector.from_iou_token.weight.copy_(weight)
    selector.from_iou_token.bias.copy_(bias)
    selector.from_mask_tokens.copy_(own)
    tokens, estimates = draw(2, 7, 256), draw(2, 4)  # IoU token, four mask tokens, the prompt
    corrected = selector(tokens, estimates)
    for prompt in range(2):
        for output in range(4):
            iou_token, mask_token = tokens[prompt, 0], tokens[prompt, 1 + output]
            expected = (
                estimates[prompt, output]
                + weight[output] @ iou_token
                + bias[output]
                + own[output] @ mask_token
            )
            torch.testing.assert_close(corrected[prompt, output], expected, rtol=1e-4, atol=1e-4)


def test_masks_are_mixed_by_a_softmax_of_their_estimates_over_a_twentieth():
    weights = mixture(torch.tensor([[0.5, 0.6, 0.6, 0.1]]))
    expected = torch.exp(torch.tensor([-2.0, 0.0, 0.0, -10.0]))
    torch.testing.assert_close(weights[0], expected / expected.sum())
    # A mask that is clearly the best is returned alone, whatever the others are.
    assert mixture(torch.tensor([[0.9, 0.2, 0.3, 0.1]]))[0, 0] > 0.9999


def test_it_is_a_small_part_of_an_adapter():
    assert sum(parameter.numel() for parameter in OutputSelector().parameters()) == 2_052
