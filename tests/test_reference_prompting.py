"""The answer with all there is at once: how likely it is right."""

import numpy as np
import pytest
import torch
from answers import answer

from samtune.input_frame import Embedding
from samtune.location_prior import LocationPrior
from samtune.reference_prompting import Everything

SIZE = (96, 128)
IMAGE = Embedding(torch.zeros(256, 8, 8), SIZE, SIZE)


@pytest.fixture
def presence():
    """Of an answer on cells of some likeness, whose logits on the object are all the same."""

    def told(likeness=0.9, logit=4.0, *, weighs_logits=True):
        alike = np.full((6, 8), likeness, np.float32)
        prior = LocationPrior(alike, alike, IMAGE, negative=False)
        logits = np.full((32, 32), -5.0, np.float32)
        logits[4:12, 4:20] = logit
        given = answer(np.ones(SIZE, dtype=bool), logits=logits)
        return Everything(prior, weighs_logits=weighs_logits).presence(given)

    return told


def test_surer_logits_and_more_likeness_make_it_likelier(presence):
    by_logits = [presence(logit=logit) for logit in (0.2, 1.0, 3.0, 6.0)]
    by_likeness = [presence(likeness) for likeness in (0.0, 0.5, 0.8, 1.0)]
    for rising in (by_logits, by_likeness):
        assert rising == sorted(set(rising))
        assert 0 < rising[0] < 0.5 < rising[-1] < 1


def test_without_a_learned_dense_prompt_likeness_alone_counts(presence):
    assert presence(logit=0.2, weighs_logits=False) == presence(logit=6.0, weighs_logits=False)
    assert presence(logit=-1.0) == presence(weighs_logits=False)  # a mask without a logit above 0
