"""A device that is not the CPU, for machines without one: tensors there are the CPU's in disguise.

Their device is called "meta", which every build of torch knows. As on a GPU, an operation on
tensors of both devices fails, as does a layer_norm with weights of another type, and numpy with a
tensor that was not brought to the CPU.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

OTHER = torch.device("meta")
_MOVES = {"aten::to", "aten::_to_copy"}
_MAY_MIX = _MOVES | {  # and, as on a GPU, places that are told by numbers on the CPU
    "aten::copy_",
    "aten::index",
    "aten::index_put_",
    "aten::_index_put_impl_",
}


class Elsewhere(torch.Tensor):
    """A tensor on the other device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Elsewhere":
        with torch.inference_mode(False):  # or torch could not tell views of it from others
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=OTHER,
            )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """As torch's own, which refuses to do this for a class that is not its own."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any) -> torch.Tensor:
        """As torch's own, which asks no mode before it makes one."""
        return torch.tensor(data, dtype=self.dtype, device=OTHER)

    def __getitem__(self, place: Any) -> torch.Tensor:
        """As torch's own, which makes a tensor of a list in the same way."""
        return super().__getitem__(torch.tensor(place) if isinstance(place, list) else place)

    def __setitem__(self, place: Any, value: Any) -> None:
        """As torch's own, which makes a tensor of a number in the same way."""
        super().__setitem__(place, value if torch.is_tensor(value) else self.new_tensor(value))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _Both(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU what belongs there, and on what is inside of the others what does not."""
    schema = function._schema
    given = {one.name: value for one, value in zip(schema.arguments, args, strict=False)} | kwargs
    tensors = [one for one in tree_flatten(given)[0] if isinstance(one, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, Elsewhere)]
    here = [one for one in tensors if not isinstance(one, Elsewhere) and one.dim()]
    if any(one.device == OTHER for one in tensors if not isinstance(one, Elsewhere)):
        raise NotImplementedError(f"{schema.name} has a tensor of torch's own on that device")
    if schema.name == "aten::native_layer_norm" and len({one.dtype for one in there}) > 1:
        raise RuntimeError("a GPU normalises nothing by weights of another type")
    if there and here and schema.name not in _MAY_MIX:
        raise RuntimeError(f"{schema.name} has tensors on both devices")
    goes_there = bool(there)
    if schema.name == "aten::copy_":
        goes_there = isinstance(given["self"], Elsewhere)
    if schema.name == "aten::to" and "other" in given:
        goes_there = isinstance(given["other"], Elsewhere)
    if (wanted := given.get("device")) is not None:
        goes_there = torch.device(wanted) == OTHER
        given["device"] = torch.device("cpu")
    found = function(**tree_map(_bare, given))
    moves = schema.name in _MOVES and goes_there != isinstance(given["self"], Elsewhere)
    known = {id(_bare(one)): one for one in tensors}  # what is changed in place stays itself

    def dressed(one: Any) -> Any:
        if not isinstance(one, torch.Tensor):
            return one
        if moves:
            one = one.clone()
        elif id(one) in known:
            return known[id(one)]
        return Elsewhere(one) if goes_there else one

    return tree_map(dressed, found)


def _bare(one: Any) -> Any:
    return one.inner if isinstance(one, Elsewhere) else one


@contextmanager
def other_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """While this lasts, the other device can be computed on."""
    autocast, tensor = torch.autocast, torch.tensor

    def tensor_there(data: Any, *, device: Any = None, requires_grad: bool = False, **others: Any):
        return tensor(data, **others).to(device or "cpu").requires_grad_(requires_grad)

    monkeypatch.setattr(torch, "tensor", tensor_there)  # which asks no mode before it makes one

    def autocast_here(kind: str, *settings: Any, **others: Any) -> AbstractContextManager[Any]:
        return nullcontext() if kind == OTHER.type else autocast(kind, *settings, **others)

    monkeypatch.setattr(torch, "autocast", autocast_here)
    supported = _get_fused_kernels_supported_devices()
    monkeypatch.setattr(
        sys.modules["torch.optim.optimizer"],
        "_get_fused_kernels_supported_devices",
        lambda: [*supported, OTHER.type],
    )
    with _Both():
        yield OTHER
