"""Whether there is an object at the prompt: a logistic regression on what the decoder says."""

import math

import numpy as np
import pytest
import torch

from samtune.presence import PresenceHead


@pytest.fixture
def clicks():
    """Tokens that differ, beside much else, in one direction; the prompt's own say nothing.

    The clicks are on their masks so surely.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(count, shift, surely=0.0):
        tokens = torch.randn(count, 7, 256, generator=generator)
        tokens[:, 2, 5] += shift
        return tokens, torch.full((count,), surely)

    return draw


def test_it_tells_new_clicks_apart_after_a_few_hundred(clicks):
    head = PresenceHead.fit(clicks(300, 4.0), clicks(200, -4.0))
    assert (head(*clicks(100, 4.0)) > 0).float().mean() > 0.95
    assert (head(*clicks(100, -4.0)) < 0).float().mean() > 0.95


def test_where_tokens_say_nothing_it_counts_whether_clicks_are_on_their_masks(clicks):
    head = PresenceHead.fit(clicks(300, 0.0, surely=0.9), clicks(300, 0.0, surely=-0.4))
    assert (head(*clicks(100, 0.0, surely=0.8)) > 0).float().mean() > 0.95
    assert (head(*clicks(100, 0.0, surely=-0.3)) < 0).float().mean() > 0.95


def test_heads_of_before_masks_counted_judge_by_tokens_alone(clicks):
    new = PresenceHead.fit(clicks(50, 4.0), clicks(50, -4.0))
    old = PresenceHead(heeds_mask=False).requires_grad_(False)
    old.load_state_dict({"linear.weight": new.linear.weight, "linear.bias": new.linear.bias})
    tokens, surely = clicks(5, 1.0)
    assert torch.equal(old(tokens, None), new(tokens, surely))
    old.calibrate(old(*clicks(50, 4.0)), old(*clicks(50, -4.0)))
    assert not torch.equal(old(tokens, None), new(tokens, surely))


def test_only_output_tokens_count(clicks):
    head = PresenceHead.fit(clicks(50, 4.0), clicks(50, -4.0))
    tokens, surely = clicks(3, 4.0)
    changed = tokens.clone()
    changed[:, 5:] += 1.0
    assert torch.equal(head(tokens, surely), head(changed, surely))
    assert torch.equal(head(tokens, surely), head(tokens[:, :5], surely))


def test_calibrated_probabilities_are_the_share_of_held_out_clicks(clicks):
    head = PresenceHead.fit(clicks(300, 1.0), clicks(300, -1.0))
    head.linear.weight.data.mul_(20)  # far too sure of itself
    head.calibrate(head(*clicks(1000, 1.0)), head(*clicks(1000, -1.0)))
    on_object, on_background = (torch.sigmoid(head(*clicks(4000, side))) for side in (1.0, -1.0))
    found = torch.cat([on_object, on_background]).numpy()
    true = np.repeat([1, 0], 4000)
    for low in np.arange(0, 1, 0.2):
        here = (found >= low) & (found < low + 0.2)
        assert here.sum() > 100
        assert true[here].mean() == pytest.approx(found[here].mean(), abs=0.06)


def test_a_few_clicks_that_are_all_told_apart_do_not_give_certainty(clicks):
    head = PresenceHead.fit(clicks(300, 8.0), clicks(300, -8.0))
    hits, misses = clicks(4, 8.0), clicks(8, -8.0)
    head.calibrate(head(*hits), head(*misses))
    # Platt's targets: (N + 1) / (N + 2) and 1 / (M + 2).
    assert torch.sigmoid(head(*hits)).mean() == pytest.approx(5 / 6, abs=0.05)
    assert torch.sigmoid(head(*misses)).mean() == pytest.approx(1 / 10, abs=0.05)


def test_more_held_out_clicks_of_one_kind_do_not_make_it_likelier(clicks):
    head = PresenceHead.fit(clicks(300, 2.0), clicks(300, -2.0))
    head.calibrate(head(*clicks(1000, 0.3)), head(*clicks(50, -0.3)))
    between = torch.sigmoid(head(*clicks(2000, 0.0)))
    assert between.mean() == pytest.approx(0.5, abs=0.1)


def test_a_head_that_is_wrong_on_held_out_clicks_says_a_half(clicks):
    head = PresenceHead.fit(clicks(100, 4.0), clicks(100, -4.0))
    head.calibrate(head(*clicks(50, -4.0)), head(*clicks(50, 4.0)))
    assert torch.equal(torch.sigmoid(head(*clicks(5, 4.0))), torch.full((5,), 0.5))


def test_it_is_a_small_part_of_an_adapter():
    assert sum(math.prod(one.shape) for one in PresenceHead().parameters()) == 1_282
