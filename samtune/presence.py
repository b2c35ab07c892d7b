"""Whether there is an object of the trained kind at the prompt.

SAM gives every click a mask, and an adapter that was only ever shown clicks on its objects gives a
click beside one a mask as well. The decoder's own output tokens, after an adapter, and how surely
the click is on the mask that answers it (clicked.py) tell the two apart: a logistic regression on
both, 1,282 numbers, fitted once the adapter is trained. Training
the adapter itself on clicks on the background cost up to 8 points of IoU and told them apart no
better (benchmarks/defaults.md).
"""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTPUT_TOKENS = 5  # the IoU token and four mask tokens
_RIDGE = 1e-2  # on the squared weights, per example
_ON_MASK = 5.0  # what that counts in the inputs, beside 1,280 of a deviation of 1
_ITERATIONS = 200  # of L-BFGS, at most

Evidence = tuple[Tensor, Tensor]
"""What is known of B clicks: (B, T, C) tokens, and (B,) how surely they are on their masks."""


class PresenceHead(nn.Module):
    """From the decoder's output tokens to the logit that the prompt is on an object.

    Args:
        width: channels of the tokens.
        heeds_mask: False is for files of before it took the answer's mask into account.
    """

    def __init__(self, width: int = 256, *, heeds_mask: bool = True) -> None:
        super().__init__()
        # Zeros need none of the caller's random numbers.
        self.linear = nn.utils.skip_init(nn.Linear, _OUTPUT_TOKENS * width, 1)  # type: ignore[no-untyped-call]
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.on_mask = nn.Parameter(torch.zeros(1)) if heeds_mask else None

    @property
    def heeds_mask(self) -> bool:
        """Whether it counts that a click is on the mask that answers it."""
        return self.on_mask is not None

    def forward(self, tokens: Tensor, on_mask: Tensor | None) -> Tensor:
        """Judge B prompts.

        Args:
            tokens: (B, T, C) from `FrozenDecoder.attend`: the IoU token, then the mask tokens.
            on_mask: (B,) how surely the clicks are on their answers' masks, -1 to 1; it has no part
                where the head does not heed it.

        Returns:
            (B,) logits; their sigmoid is the probability, once calibrated.
        """
        logits: Tensor = self.linear(_described(tokens))[:, 0]
        if self.on_mask is None:
            return logits
        assert on_mask is not None
        return logits + self.on_mask * _ON_MASK * on_mask

    @classmethod
    def fit(cls, on_object: Evidence, on_background: Evidence) -> Self:
        """Learn to tell clicks apart; both kinds count the same.

        Args:
            on_object: of N clicks on objects, N at least 1.
            on_background: of M clicks off all of an image's objects, M at least 1.
        """
        head = cls(on_object[0].shape[-1]).to(on_object[0].device)
        tokens, surely = map(torch.cat, zip(on_object, on_background, strict=True))
        inputs, surely = _described(tokens), _ON_MASK * surely
        weight, bias, on_mask = head.linear.weight, head.linear.bias, head.on_mask
        assert on_mask is not None
        _minimise(
            [weight, bias, on_mask],
            lambda: F.linear(inputs, weight, bias)[:, 0] + on_mask * surely,
            (torch.ones(len(on_object[0])), torch.zeros(len(on_background[0]))),
            lambda: _RIDGE * (weight.square().sum() + on_mask.square().sum()),
        )
        return head.requires_grad_(False)

    def calibrate(self, on_object: Tensor, on_background: Tensor) -> None:
        """Scale and shift the logits so that their sigmoid is the share of held-out clicks.

        Platt 1999: a logistic regression on one number, both kinds of clicks counting the same. So
        that a few clicks, all told apart, do not give certainty, the targets are a little inside
        of 0 and 1, as his are.

        Args:
            on_object: (N,) logits of held-out clicks on objects, N at least 1.
            on_background: (M,) logits of held-out clicks on the background, M at least 1.
        """
        logits = torch.cat([on_object, on_background])
        hits, misses = len(on_object), len(on_background)
        line = torch.tensor([1.0, 0.0], device=logits.device, requires_grad=True)
        _minimise(
            [line],
            lambda: line[0] * logits + line[1],
            (torch.full((hits,), (hits + 1) / (hits + 2)), torch.full((misses,), 1 / (misses + 2))),
        )
        slope, shift = line.tolist()
        if slope < 0:  # wrong more often than right: it knows nothing, and says a half
            slope = shift = 0.0
        with torch.no_grad():
            if self.on_mask is not None:
                self.on_mask.mul_(slope)
            self.linear.weight.mul_(slope)
            self.linear.bias.mul_(slope).add_(shift)


def _described(tokens: Tensor) -> Tensor:
    """(B, T, C) tokens to (B, 5 · C), each output token normed by itself."""
    output_tokens = tokens[:, :_OUTPUT_TOKENS]
    return F.layer_norm(output_tokens, output_tokens.shape[-1:]).flatten(1)


def _minimise(
    parameters: list[Tensor],
    logits: Callable[[], Tensor],
    targets: tuple[Tensor, Tensor],
    penalty: Callable[[], Tensor | float] = lambda: 0.0,
) -> None:
    """Logistic regression in place, by L-BFGS.

    Args:
        parameters: what to move.
        logits: gives them for all examples, those of both kinds one after the other.
        targets: (N,) and (M,) probabilities; each kind weighs a half.
        penalty: what to add.
    """
    weights = torch.cat([torch.full_like(kind, 0.5 / len(kind)) for kind in targets])
    wanted = torch.cat(targets).to(parameters[0].device)
    weights = weights.to(parameters[0].device)
    optimizer = torch.optim.LBFGS(parameters, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        errors = F.binary_cross_entropy_with_logits(logits(), wanted, weights, reduction="sum")
        loss = errors + penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
