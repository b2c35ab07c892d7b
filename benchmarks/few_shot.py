"""Fit a few masks of each task with the defaults, and score what comes out on its val/.

    python benchmarks/few_shot.py DATA/face_parts:4 DATA/plates [--masks 1 2 4 8 16] [--draws 1]

Each folder holds train/ and val/; `:4` names a class id. The masks are drawn from as many images of
train/ that are not also in val/, and nothing else is known to the fit: trainings take turns in
holding some of them out; of one, the mirror image is held out. --max-minutes is that of fit. Scores
are percentages at the centre point of the objects in val/.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from samtune.allocation import keep_freed_memory
from samtune.checkpoints import resolve
from samtune.config import FitConfig
from samtune.dataset import Dataset, load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import Scores, score_objects
from samtune.predictor import Predictor
from samtune.sam import Sam, load_sam
from samtune.sam_f import fit_sam_f
from samtune.training import fit


@dataclass(frozen=True)
class Result:
    """One fit: held-out means in %, of val/ and of the fit's own turns."""

    task: str
    masks: int
    draw: int
    sam: float
    sam_f: float
    adapter: float
    own_estimate: float
    first_offset: float
    seconds: float


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", help="FOLDER or FOLDER:CLASS, with train/ and val/")
    parser.add_argument("--masks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--draws", type=int, default=1, help="of the masks, for each number")
    parser.add_argument("--max-minutes", type=float, help="as that of fit, for each")
    parser.add_argument("-o", "--output", type=Path, help="add the results to this file, as JSON")
    arguments = parser.parse_args()
    keep_freed_memory()  # as samtune's commands do
    config = FitConfig(refiner=False, max_minutes=arguments.max_minutes)  # masks as they are
    sam, cache = load_sam(resolve("mobile_sam")), EmbeddingCache()
    print("| task | masks | SAM | SAM-F | adapter | own estimate | first offset | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for task in arguments.tasks:
        name, train, val = load_task(task)
        for masks in arguments.masks:
            for draw in range(arguments.draws):
                some = draw_masks(train, val, masks, draw)
                result = run(name, some, val, draw, config, sam, cache)
                scores = (result.sam, result.sam_f, result.adapter, result.own_estimate)
                numbers = " | ".join(f"{score:.1f}" for score in scores)
                print(
                    f"| {result.task} | {masks} | {numbers} | {result.first_offset:g} | "
                    f"{result.seconds:.0f} |",
                    flush=True,
                )
                if arguments.output is not None:
                    with arguments.output.open("a") as file:
                        print(json.dumps(asdict(result)), file=file)


def load_task(text: str) -> tuple[str, Dataset, Dataset]:
    """The name, train/ and val/ of FOLDER or FOLDER:CLASS."""
    folder, _, class_id = text.partition(":")
    train, val = (
        load_dataset(Path(folder) / part, class_id=class_id or None) for part in ("train", "val")
    )
    return Path(folder).name + text[len(folder) :], train, val


def unseen_images(train: Dataset, val: Dataset) -> list[int]:
    """The images of `train` that are not also in `val`."""
    seen = {image for image, _ in val.digests}
    return [index for index, (image, _) in enumerate(train.digests) if image not in seen]


def draw_masks(train: Dataset, val: Dataset, count: int, draw: int) -> Dataset:
    """So many images that are not in `val`, with one object of each."""
    rng = np.random.default_rng(draw)
    chosen = rng.choice(unseen_images(train, val), count, replace=False).tolist()
    some = train.subset(sorted(chosen))
    drawn = []
    for index in range(count):
        things = [thing for thing in some.objects if thing.image_index == index]
        drawn.append(things[int(rng.integers(len(things)))])
    return replace(some, objects=tuple(drawn))


def run(
    task: str,
    train: Dataset,
    val: Dataset,
    draw: int,
    config: FitConfig,
    sam: Sam,
    cache: EmbeddingCache,
) -> Result:
    """Fit some masks, and score the adapter, plain SAM and SAM-F."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = fit(
            train,
            train.in_a_mirror() if train.has_one_image else None,
            sam,
            cache,
            config,
            checkpoint_name="mobile_sam",
            state_path=Path(folder) / "state",
        )
    seconds = time.monotonic() - started
    predictors = [Predictor(sam), fit_sam_f(train, sam, cache), Predictor(sam, found.adapter)]
    scores = score_objects(val, sam, predictors, cache, kinds=("center",), boundary=False)
    plain, sam_f, adapter = (100 * Scores.mean(one).iou for one in scores)
    return Result(
        task,
        len(train.objects),
        draw,
        plain,
        sam_f,
        adapter,
        100 * found.adapted.iou,
        found.adapter.info.settings["first_offset"],
        seconds,
    )


if __name__ == "__main__":
    main()
