"""Adapters of every format version that was released, and what they answered then.

`python tests/golden.py` (with PYTHONPATH at the project's root) writes what tests/golden/ lacks: of
a new format version, or of something new that an adapter may hold. Files that are there stay as
they are for ever. The model they belong to is made of numbers that no library draws: numpy promises
that a bit generator's raw numbers never change (NEP 19), and torch's generator is not asked.
"""

import gzip
import io
import math
from pathlib import Path

import numpy as np
import torch
from tiny_models import build_tiny_sam
from torch import nn

from samtune.adapter import FORMAT_VERSION, METHODS, Adapter, AdapterInfo, Base
from samtune.config import FitConfig
from samtune.contour_refiner import ContourRefiner
from samtune.dense_prompt import DensePrompt
from samtune.finding import can_find, find_objects
from samtune.object_map import ObjectMap
from samtune.persam import Persam, PersamF
from samtune.plm import PromptLearningModule
from samtune.predictor import Predictor
from samtune.presence import PresenceHead
from samtune.prompt_learning import PromptLearning
from samtune.prompts import Prompt
from samtune.reference_prompting import ReferencePrompting
from samtune.sam import Sam
from samtune.selector import OutputSelector
from samtune.targets import Direction
from samtune.vrp import VisualReferencePrompts

FOLDER = Path(__file__).with_name("golden")
ADAPTERS = {  # and their methods
    **{method: method for method in METHODS},
    "plm-dense": "plm",
    "vrp-dense": "vrp",
}
SIZE = (90, 120)  # (H, W) of the image
PROMPTS = {
    "point": Prompt.of(points=[(40, 50)]),
    "points": Prompt.of(points=[(40, 50), (80, 30)], negative_points=[(5, 80)]),
    "box": Prompt.of(box=(20, 15.5, 90, 70)),
}


def drawn(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers from -1 to 1, evenly drawn, the same for ever."""
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)) / 2.0**52 - 1).reshape(shape)


def image() -> np.ndarray:
    """(H, W, 3) uint8: a bright ellipse on dark noise."""
    ys, xs = np.indices(SIZE)
    inside = ((xs - 45) / 30) ** 2 + ((ys - 48) / 22) ** 2 < 1
    noise = 40 + 30 * drawn(1, (*SIZE, 3))
    return (noise + inside[..., None] * (170, 120, 60)).astype(np.uint8)


def fill(module: nn.Module, seed: int, share: float = 1.0) -> nn.Module:
    """Set all numbers of a module; only some of its matrices', to be small when packed."""
    state = module.state_dict()
    for number, name in enumerate(sorted(state)):
        shape = tuple(state[name].shape)
        values = drawn(seed + number, shape)
        if len(shape) > 1:
            chosen = drawn(seed + number + 5000, shape) < 2 * share - 1
            fan_in = shape[1] * share
            values = np.where(chosen, np.round(values * 8) / 8, 0) if share < 1 else values
            values = values * 2.5 / math.sqrt(fan_in)
        elif name.endswith("weight") and len(shape) == 1:
            values = 1 + np.round(values * 8) / 16  # a norm's scale
        else:
            values = np.round(values * 8) / 16
        state[name] = torch.from_numpy(values.astype(np.float32))
    module.load_state_dict(state)
    return module.requires_grad_(False).eval()


def golden_sam() -> Sam:
    """A frozen SAM of 128 px, as tiny_models has it, of such numbers."""
    sam = build_tiny_sam()
    fill(sam, 10_000)
    return sam


def learned(name: str, sam: Sam) -> nn.Module:
    """What an adapter holds: for plm few numbers of its matrices are not 0."""
    method = ADAPTERS[name]
    if name == "plm-dense":
        modules = PromptLearningModule(), OutputSelector(), DensePrompt()
        plm, selector, dense_prompt = (
            fill(module, 50_000 + number * 100, 1 / 256) for number, module in enumerate(modules)
        )
        return PromptLearning(plm, selector, dense_prompt=dense_prompt).eval()
    if method == "plm":
        parts = PromptLearningModule(), OutputSelector(), ContourRefiner(), PresenceHead()
        plm, selector, refiner, head, object_map = (
            fill(part, 20_000 + number * 100, 1 / 64)
            for number, part in enumerate((*parts, ObjectMap()))
        )
        object_map.judge.bias.fill_(4)  # what it clicks on is an object
        refiner.load_state_dict({name: one / 32 for name, one in refiner.state_dict().items()})
        refiner.deviation.fill_(1)
        return PromptLearning(plm, selector, refiner, head, object_map).eval()
    if method == "vrp":
        dense = name == "vrp-dense"
        encoder = VisualReferencePrompts(8, dense=dense)
        prompting = ReferencePrompting(encoder, own=True)
        fill(prompting, 60_000 if dense else 40_000, 1 / 256 if dense else 1 / 64)
        return prompting.eval()
    target, where, what = (drawn(seed, (256,)).astype(np.float32) for seed in (31, 32, 33))
    directions = Direction(2 * where, -1.5), Direction(2 * what, -1.5)
    if method == "persam":
        return Persam(target, *directions, ()).requires_grad_(False).eval()
    weights = (0.25, 0.625)
    return PersamF(target, *directions, weights, ()).requires_grad_(False).eval()


def write_adapter(name: str, sam: Sam) -> bytes:
    method = ADAPTERS[name]
    dense = name == "plm-dense"
    plm = vars(FitConfig(dense_prompt=dense))
    settings = {"plm": plm, "vrp": {"queries": 8}}.get(method, {"seed": 0})
    info = AdapterInfo(
        method,
        Base.of(sam, "golden"),
        settings=settings,
        data={"train_images": 6, "train_objects": 7, "val_images": 2, "val_objects": 3},
        scores={"base_iou": 0.5, "adapter_iou": 0.75},
        refine_helps=name == "plm",
        proposes=name == "plm",
    )
    path = FOLDER / "temporary.safetensors"
    Adapter(info, learned(name, sam)).save(path)
    content = path.read_bytes()
    path.unlink()
    return content


def answers(adapter: Adapter, sam: Sam) -> dict[str, np.ndarray]:
    """What an adapter answers on the image, by name: logits, scores and masks."""
    embedding = sam.encode_image(image())
    predictor = Predictor(sam, adapter, every_cell=True)
    found: dict[str, np.ndarray] = {}
    for name, prompt in PROMPTS.items():
        (answer,) = predictor.predict(embedding, [prompt], refine=adapter.info.refine_helps)
        found[f"{name} logits"] = answer.low_res_logits
        found[f"{name} mask"] = np.packbits(answer.mask)
        found[f"{name} score"] = np.array([answer.score, answer.presence or 0], np.float32)
        if answer.contours is not None:
            # Not the mask within them: OpenCV's versions fill polygons differently by some pixels.
            rings = [ring for one in answer.contours for ring in (one.exterior, *one.holes)]
            found[f"{name} contours"] = np.concatenate(rings)
    if can_find(adapter.learned, told_to=True):
        for number, one in enumerate(find_objects(predictor, embedding, 2).objects):
            found[f"found {number} logits"] = one.prediction.low_res_logits
            found[f"found {number} prompt"] = one.prompt.points
    return found


def adapter_file(name: str, version: int) -> Path:
    return FOLDER / f"{name}.v{version}.safetensors.gz"


def answer_file(name: str, version: int) -> Path:
    return FOLDER / f"{name}.v{version}.answers.npz"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    sam = golden_sam()
    for name in ADAPTERS:
        if adapter_file(name, FORMAT_VERSION).is_file():
            continue
        content = write_adapter(name, sam)
        adapter_file(name, FORMAT_VERSION).write_bytes(gzip.compress(content, mtime=0))
        path = FOLDER / "temporary.safetensors"
        path.write_bytes(content)
        told = answers(Adapter.load(path, sam), sam)
        path.unlink()
        file = io.BytesIO()
        np.savez_compressed(file, **told)
        answer_file(name, FORMAT_VERSION).write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
