"""The adapter file: what was learned, in one .safetensors that explains itself.

The method's tensors (`plm.*`, `dense_prompt.*`, `selector.*`, `presence.*`, `refiner.*` and
`object_map.*`; others have their own prefix), and text metadata: which frozen model it belongs to,
how and on what it was trained, how well it did on held-out objects. Loading reads tensors and JSON,
and never executes code. A released format version keeps loading; what a file does not have, such as
a refiner, cannot be done with it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from samtune import __version__
from samtune.errors import AdapterError
from samtune.files import atomic_write
from samtune.method import Method
from samtune.persam import Persam, PersamF
from samtune.prompt_learning import PromptLearning
from samtune.reference_prompting import ReferencePrompting
from samtune.sam import Sam

METHODS: Mapping[str, type[Method]] = {
    "plm": PromptLearning,
    "persam": Persam,
    "persam-f": PersamF,
    "vrp": ReferencePrompting,
}
FORMAT_VERSION = 1
_METADATA_KEY = "samtune"
_NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
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
        method: one of METHODS.
        base: the frozen model it belongs to.
        settings: the fit's settings by name.
        data: what it was trained on: counts and a hash, no file names.
        scores: mean scores on the held-out objects, fractions from 0 to 1.
        refine_helps: whether contour refinement raised the Boundary IoU of the adapter's own masks
            of held-out objects without lowering their IoU.
        refine_helps_coarse: whether it raised both for masks that are off, as other tools' may be.
        proposes: whether it can look for all objects of an image where it is told to.
        least_part: parts of an answer that are smaller, as a share of its largest, are left out
            (specks.py); 0 leaves none out.
        heeds_clicks: whether plain SAM answers where an answer is far from all its clicks
            (nearness.py).
        samtune_version: which samtune wrote it.
    """

    method: str
    base: Base
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    refine_helps: bool = False
    refine_helps_coarse: bool = False
    proposes: bool = False
    least_part: float = 0.0
    heeds_clicks: bool = False
    samtune_version: str = __version__

    @property
    def finds(self) -> bool:
        """Whether it finds objects without a prompt."""
        return METHODS[self.method].finds

    @property
    def refines(self) -> bool:
        """Whether its method has a contour refiner, this adapter or another."""
        return METHODS[self.method].refines

    @property
    def takes_references(self) -> bool:
        """Whether annotated images say what to look for."""
        return METHODS[self.method].takes_references

    @property
    def needs_reference(self) -> bool:
        """Whether they have to, because it carries none."""
        return self.takes_references and not self.data.get("references")


@dataclass(frozen=True, eq=False)
class Adapter:
    """What was learned, and what is known of it.

    Attributes:
        info: what it says about itself.
        learned: its tensors, and how prompts are answered with them.
    """

    info: AdapterInfo
    learned: Method

    def as_exported(self) -> Self:
        """The same without what is done to its answers outside of any graph."""
        return replace(self, info=replace(self.info, least_part=0.0, heeds_clicks=False))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: the path cannot be written.
        """
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.learned.state_dict().items()
        }
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
        try:
            learned = METHODS[info.method].blank(info.settings, tensors)
        except (ValueError, TypeError) as error:
            raise _no_description(path, error) from error
        _load_tensors(path, learned, tensors)
        if info.proposes != learned.proposes:
            raise AdapterError(
                f"{path} lacks the object map that it speaks of, or has one that it does not: it "
                "was changed; fit it again."
            )
        learned.requires_grad_(False).eval().to("cpu" if sam is None else sam.device)
        return cls(info, learned)


def read_info(path: Path) -> AdapterInfo:
    """Read only what an adapter says about itself; raises as `Adapter.load`."""
    return _info(path, _read(path)[1])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.is_dir():
        raise AdapterError(f"{path} is a folder: give an adapter in it.")
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
            json.dumps(described, allow_nan=False)  # `info --json` has to be able to say it
            info = AdapterInfo(**{**described, "base": Base(**described["base"])})
            _check_types(info)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise _no_description(path, e) from e
    if version > FORMAT_VERSION:
        writer = described.get("samtune_version", "of a newer version")
        raise AdapterError(
            f"{path} has adapter format {version}, written by samtune {writer}; this is samtune "
            f"{__version__}, which reads up to format {FORMAT_VERSION}: upgrade samtune."
        )
    if info.method not in METHODS:
        raise AdapterError(
            f"{path} holds an adapter of method {info.method!r}, which samtune {__version__} does "
            "not know: upgrade samtune."
        )
    return info


def _no_description(path: Path, error: Exception) -> AdapterError:
    return AdapterError(
        f"{path} does not describe itself as an adapter should ({type(error).__name__}: "
        f"{error}): it was changed or damaged; fit it again."
    )


def _check_types(info: AdapterInfo) -> None:
    """Raise a TypeError where something is not what AdapterInfo says: the file may say anything."""
    expected: dict[type | tuple[type, ...], list[Any]] = {
        str: [info.method, info.samtune_version, *vars(info.base).values()],
        dict: [info.settings, info.data, info.scores],
        bool: [info.refine_helps, info.refine_helps_coarse, info.proposes, info.heeds_clicks],
    }
    for kind, values in expected.items():
        for value in values:
            if not isinstance(value, kind):
                raise TypeError(f"{value!r:.80} instead of a {kind}")
    if not isinstance(info.least_part, int | float) or not 0 <= info.least_part <= 1:
        raise TypeError(f"{info.least_part!r:.80} instead of a share")
    counts = [value for name, value in info.data.items() if name.endswith(("images", "objects"))]
    for number in [*info.scores.values(), *counts]:
        if not isinstance(number, int | float):
            raise TypeError(f"{number!r:.80} instead of a number")


def _check_base(path: Path, base: Base, sam: Sam) -> None:
    if base.encoder == sam.kind and base.decoder_fingerprint == sam.decoder_fingerprint:
        return
    raise AdapterError(
        f"{path} was trained on {base.checkpoint} ({base.encoder}, weights "
        f"{base.decoder_fingerprint[:12]}), but the checkpoint in use is {sam.kind}, weights "
        f"{sam.decoder_fingerprint[:12]}: pass --checkpoint {base.checkpoint}, or fit an adapter "
        "for this checkpoint."
    )


def _load_tensors(path: Path, learned: Method, tensors: Mapping[str, Tensor]) -> None:
    expected = learned.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise AdapterError(f"{path} lacks the tensor {name}: it is damaged; fit it again.")
        if tensors[name].shape != tensor.shape:
            raise AdapterError(
                f"{path} has {name} of shape {tuple(tensors[name].shape)} instead of "
                f"{tuple(tensor.shape)}: it is damaged, or of another samtune; fit it again."
            )
        if tensors[name].dtype not in _NUMBERS:
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise AdapterError(
                f"{path} has {name} as {kind} instead of float32: it was changed; fit it again."
            )
        if not torch.isfinite(tensors[name].float()).all():  # in float32, as it will be used
            raise AdapterError(f"{path} has {name} with NaN or infinity: fit it again.")
    learned.load_state_dict({name: tensors[name] for name in expected})
