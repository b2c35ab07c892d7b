"""The adapter file: what was learned, in one .safetensors that explains itself.

Tensors `plm.*`, `selector.*` and `pmm.*`, and text metadata: which frozen model it belongs to,
how and on what it was trained, how well it did on held-out objects. Loading reads tensors and
JSON, and never executes code. A released format version keeps loading.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from samtune import __version__
from samtune.errors import AdapterError
from samtune.files import atomic_write
from samtune.plm import PromptLearningModule
from samtune.pmm import PointMatchingModule
from samtune.sam import Sam
from samtune.selector import OutputSelector

FORMAT_VERSION = 1
_METADATA_KEY = "samtune"
_LARGEST_BYTES = 64 * 2**20  # an adapter is a few MB; a file beyond this is something else


@dataclass(frozen=True)
class Base:
    """The frozen model an adapter belongs to.

    Attributes:
        checkpoint: the name or file it was trained with, to show to a person.
        encoder: the image encoder's kind, such as "mobile_sam".
        decoder_fingerprint: SHA-256 of the prompt encoder's and mask decoder's tensors.
    """

    checkpoint: str
    encoder: str
    decoder_fingerprint: str

    @classmethod
    def of(cls, sam: Sam, checkpoint: str) -> Self:
        """Describe a loaded model."""
        return cls(checkpoint, sam.kind, sam.decoder_fingerprint)


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter says about itself.

    Attributes:
        method: "plm".
        base: the frozen model it belongs to.
        settings: the fit's settings by name.
        data: what it was trained on: counts and a hash, no file names.
        scores: mean scores on the held-out objects, fractions from 0 to 1.
        refine_helps: whether contour refinement raised the held-out IoU.
        samtune_version: which samtune wrote it.
    """

    method: str
    base: Base
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    refine_helps: bool = False
    samtune_version: str = __version__


@dataclass(frozen=True, eq=False)
class Adapter:
    """What was learned: the PLM, the choice of the mask, the PMM if there is one."""

    info: AdapterInfo
    plm: PromptLearningModule
    selector: OutputSelector
    pmm: PointMatchingModule | None

    def parameters(self) -> int:
        """How many numbers segmenting uses: those of the PLM and the selector."""
        modules = (self.plm, self.selector)
        return sum(value.numel() for module in modules for value in module.parameters())

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: the path cannot be written.
        """
        modules = {"plm.": self.plm, "selector.": self.selector, "pmm.": self.pmm}
        tensors = {
            prefix + name: tensor
            for prefix, module in modules.items()
            if module is not None
            for name, tensor in module.state_dict().items()
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # One key: safetensors writes several in random order, and the same adapter would not
        # be the same file.
        described = json.dumps({"format_version": FORMAT_VERSION, **asdict(self.info)}, indent=1)
        metadata = {_METADATA_KEY: described}
        with atomic_write(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, metadata))

    @classmethod
    def load(cls, path: Path, sam: Sam | None = None) -> Self:
        """Read an adapter.

        Args:
            path: the file.
            sam: the model it is to be used on; None reads it without that check.

        Returns:
            The adapter, on the model's device, in eval mode.

        Raises:
            AdapterError: no such file, not an adapter, a newer format, tensors that are missing
                or of another shape, or an adapter of another base.
        """
        tensors, metadata = _read(path)
        info = _info(path, metadata)
        if sam is not None:
            _check_base(path, info.base, sam)
        plm, selector = PromptLearningModule(), OutputSelector()
        _load_module(path, plm, "plm.", tensors)
        _load_module(path, selector, "selector.", tensors)
        pmm = None
        if any(name.startswith("pmm.") for name in tensors):
            pmm = PointMatchingModule()
            _load_module(path, pmm, "pmm.", tensors)
        for module in (plm, selector, pmm):
            if module is not None:
                module.requires_grad_(False).eval().to("cpu" if sam is None else sam.device)
        return cls(info, plm, selector, pmm)


def read_info(path: Path) -> AdapterInfo:
    """Read only what an adapter says about itself; raises as `Adapter.load`."""
    return _info(path, _read(path)[1])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise AdapterError(f"{path} does not exist: give an adapter that `samtune fit` wrote.")
    if path.stat().st_size > _LARGEST_BYTES:
        raise AdapterError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MB, and an adapter has a few: give a "
            "file that `samtune fit` wrote; pretrained weights go to --checkpoint."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise AdapterError(
            f"{path} is not an adapter ({error}): give a .safetensors file that `samtune fit` "
            "wrote."
        ) from error
    return tensors, metadata


def _info(path: Path, metadata: Mapping[str, str]) -> AdapterInfo:
    if _METADATA_KEY not in metadata:
        raise AdapterError(
            f"{path} is a .safetensors file but no adapter of samtune: give one that `samtune fit` "
            "wrote; pretrained weights go to --checkpoint."
        )
    try:
        described = json.loads(metadata[_METADATA_KEY])
        version = int(described.pop("format_version"))
        if version <= FORMAT_VERSION:
            info = AdapterInfo(**{**described, "base": Base(**described["base"])})
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{path} does not describe itself as an adapter should ({type(error).__name__}: "
            f"{error}): it was changed or damaged; fit it again."
        ) from error
    if version > FORMAT_VERSION:
        writer = described.get("samtune_version", "of a newer version")
        raise AdapterError(
            f"{path} has adapter format {version}, written by samtune {writer}; this is samtune "
            f"{__version__}, which reads up to format {FORMAT_VERSION}: upgrade samtune."
        )
    if info.method != "plm":
        raise AdapterError(
            f"{path} holds an adapter of method {info.method!r}, which samtune {__version__} does "
            "not know: upgrade samtune."
        )
    return info


def _check_base(path: Path, base: Base, sam: Sam) -> None:
    if base.encoder == sam.kind and base.decoder_fingerprint == sam.decoder_fingerprint:
        return
    raise AdapterError(
        f"{path} was trained on {base.checkpoint} ({base.encoder}, weights "
        f"{base.decoder_fingerprint[:12]}), but the checkpoint in use is {sam.kind}, weights "
        f"{sam.decoder_fingerprint[:12]}: pass --checkpoint {base.checkpoint}, or fit an adapter "
        "for this checkpoint."
    )


def _load_module(path: Path, module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise AdapterError(
                f"{path} lacks the tensor {prefix}{name}: it is damaged; fit it again."
            )
        if state[name].shape != tensor.shape:
            raise AdapterError(
                f"{path} has {prefix}{name} of shape {tuple(state[name].shape)} instead of "
                f"{tuple(tensor.shape)}: it is damaged, or of another samtune; fit it again."
            )
        if not torch.isfinite(state[name]).all():
            raise AdapterError(f"{path} has {prefix}{name} with NaN or infinity: fit it again.")
    module.load_state_dict({name: state[name] for name in expected})
