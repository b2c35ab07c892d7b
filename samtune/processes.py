"""The processes of one fit: torchrun starts them, and together they are one.

Each has the whole model, draws the same random numbers, and takes its share of every list of
work: the images to encode, the objects of a step, the objects to look at. What they found is put
together in order before anything is decided, so that all of them decide alike, and as a single
process would. What only one can do (read the data, watch the clock, write files, speak) the first
does, and tells the others.

Only a step's gradients travel often, a few million numbers: they go through the CPU (gloo), which
serves every device.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from samtune.errors import SamtuneError

if TYPE_CHECKING:
    from torch import Tensor

Thing = TypeVar("Thing")
_PATIENCE = timedelta(days=7)  # the slowest share may take hours; who ends is noticed at once


@dataclass(frozen=True)
class Processes:
    """The `rank`-th of `count` processes, counted from 0; all call the same methods in turn."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one reads the data, writes the files and speaks."""
        return self.rank == 0

    def own(self, total: int) -> slice:
        """This process's share of so many things: a stretch of them, maybe empty.

        Example:
            >>> [Processes(rank, 3).own(5) for rank in range(3)]
            [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
        """
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def together(self, own: list[Thing]) -> list[Thing]:
        """What all processes found in their shares, in the order of the whole."""
        if self.count == 1:
            return own
        from torch import distributed

        everyones: list[list[Thing]] = [[] for _ in range(self.count)]
        with _ended_as_an_error():
            distributed.all_gather_object(everyones, own)
        return [thing for one in everyones for thing in one]

    def from_first(self, make: Callable[[], Thing]) -> Thing:
        """What the first makes, and no other."""
        if self.count == 1:
            return make()
        from torch import distributed

        made: list[Thing | None] = [make() if self.is_first else None]
        with _ended_as_an_error():
            distributed.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def first_then_others(self, make: Callable[[], Thing]) -> Thing:
        """What each makes, the first before the others: they find what it fetched."""
        if self.is_first:
            made = make()
            self.from_first(lambda: None)
            return made
        self.from_first(lambda: None)
        return make()

    def add_up(self, tensors: Sequence["Tensor"]) -> None:
        """Replace each tensor by its sum over all processes, the same bits in each of them."""
        if self.count == 1:
            return
        import torch
        from torch import distributed

        whole = torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu()
        with _ended_as_an_error():
            distributed.all_reduce(whole)
        parts = torch.split(whole, [tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


ALONE = Processes()


def started() -> Processes:
    """Which process this is, as torchrun and its like tell it: nobody has joined anybody yet."""
    rank, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        return ALONE
    return Processes(int(rank), int(count))


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes that torchrun started, each with a GPU of its own if there are.

    Raises:
        SamtuneError: they do not find each other.
    """
    processes = started()
    if processes.count == 1:
        yield processes
        return
    import torch
    from torch import distributed

    try:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise SamtuneError(
            f"the {processes.count} processes do not find each other ({error}): start them with "
            "torchrun --nproc-per-node N -m samtune fit ..."
        ) from error
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local % torch.cuda.device_count())
    yield processes
    distributed.destroy_process_group()  # not after an error, which is told before others notice


@contextmanager
def _ended_as_an_error() -> Iterator[None]:
    """Say in words that there is nobody any more at the other end."""
    try:
        yield
    except RuntimeError as error:
        raise SamtuneError(
            "another process of this fit has ended, and with it this one: it says why, and "
            "--resume goes on from the last state."
        ) from error
