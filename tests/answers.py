"""What a search is told of an answer (method.Answer), without a model that gives it."""

from types import SimpleNamespace


def answer(mask, score=0.9, presence=None, logits=None):
    return SimpleNamespace(mask=mask, score=score, presence=presence, low_res_logits=logits)
