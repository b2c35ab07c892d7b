"""What learners of any kind have: a network, its optimizer, and the number of the next step.

The learning rate rises linearly at first and follows a cosine to zero; the weights that count are
a moving average over the steps. A learner can be put down and taken up again as if it had never
stopped.
"""

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Stepwise(Generic[ModuleT]):
    """A network that learns in steps.

    Args:
        make: makes the network; called twice, with the same random numbers.
        groups: AdamW's groups of its parameters, each with its learning rate.
        seed: of the network's start.
        device: where it learns.
        weight_decay: AdamW's.
        total: how many objects all steps together see.
        batch_size: objects a step; the last one may have fewer.
        warmup: objects over which the learning rate rises.
        decay: of the moving average, a step.
    """

    def __init__(
        self,
        make: Callable[[], ModuleT],
        groups: Callable[[ModuleT], list[dict[str, Any]]],
        *,
        seed: int,
        device: torch.device,
        weight_decay: float,
        total: int,
        batch_size: int,
        warmup: int,
        decay: float,
    ) -> None:
        self.total, self._batch_size, self._warmup, self._decay = total, batch_size, warmup, decay
        self.step = 0
        self.losses: list[float] = []  # of the masks, a step
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.learned, self.average = make(), make()
        self.average.load_state_dict(self.learned.state_dict())
        self.learned.to(device)
        self.average.to(device).requires_grad_(False).eval()
        self._optimizer = torch.optim.AdamW(
            groups(self.learned), weight_decay=weight_decay, fused=True
        )
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    @property
    def steps(self) -> int:
        """How many steps it takes to see all of `total`."""
        return -(-self.total // self._batch_size)

    @property
    def seen(self) -> int:
        """How many objects the steps so far have seen."""
        return min(self.step * self._batch_size, self.total)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, tensors and plain values."""
        return {
            "total": self.total,
            "step": self.step,
            "losses": self.losses,
            "learned": self.learned.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of a learner with the same arguments."""
        self.total, self.step = state["total"], state["step"]
        self.losses = list(state["losses"])
        self.learned.load_state_dict(state["learned"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])

    def schedule(self) -> float:
        """The share of each learning rate in this step."""
        warm = (self.step + 1) * self._batch_size / self._warmup
        return min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    def start_step(self) -> None:
        """Set the step's learning rates, and forget the last one's gradients."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.schedule()
        self._optimizer.zero_grad()

    def end_step(self, loss: float) -> None:
        """Move the weights along the gradients that are there.

        Args:
            loss: of the step's masks, to tell.
        """
        self.losses.append(loss)
        self._optimizer.step()
        # Early on the average must follow the weights, or it would still be their random start.
        decay = min(self._decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.learned.parameters(), strict=True)
            for kept, value in pairs:
                kept.lerp_(value, 1 - decay)
        self.step += 1
