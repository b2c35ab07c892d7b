"""segment-anything's own modules, as the oracle for samtune's.

Loaded without the package's __init__, which wants torchvision, and under a name of the tests'
own, so that samtune's way of loading them is not what is tested with.
"""

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

_ALIAS = "segment_anything_for_the_tests"


def modeling() -> ModuleType:
    if _ALIAS not in sys.modules:
        spec = importlib.util.find_spec("segment_anything")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = ModuleType(_ALIAS)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.modeling")


def postprocess_masks(logits, image_size, frame, original_size) -> torch.Tensor:
    """Upstream's way from low-resolution logits to those of the original image."""
    sam = SimpleNamespace(image_encoder=SimpleNamespace(img_size=image_size))
    return modeling().Sam.postprocess_masks(sam, logits, frame, original_size)


def sharpen(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random numbers in every parameter, strong enough that attention is far from uniform.

    With torch's own initialisation every query attends to everything alike and most biases are
    small or zero, so that a wrong attention would hardly show in the output.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                mean = 1.0 if name.endswith("weight") else 0.0  # a norm's scale
                parameter.copy_(mean + 0.3 * torch.randn(parameter.shape, generator=generator))
            else:
                spread = 1.5 / parameter.shape[1] ** 0.5
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())
