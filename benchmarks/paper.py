"""The tasks of Kim et al. (arXiv 2403.09199): PLM, PLM + PMM, and samtune's defaults, in one table.

    python benchmarks/facade_banners.py DATA/facades BANNERS
    python benchmarks/paper.py DATA BANNERS -o RESULTS [--tasks nose plates]
        [--methods PLM] [--seeds 0 1]

DATA holds face_parts/ and plates/. Every fit is one `samtune fit train --val val` in a process of
its own: with the defaults, which learn a dense prompt as well; without that (PLM + PMM, the
paper's method); and with --no-pmm, too (PLM). What RESULTS/results.jsonl already has is not done
again, so that the table can be made over several nights; it is printed at the end, from all that is
there, beside the paper's own. Scores are percentages at the centre point of the objects of val/.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from accuracy import run

from samtune.allocation import keep_freed_memory
from samtune.checkpoints import resolve
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.evaluation import Scores, score_objects
from samtune.sam import load_sam
from samtune.sam_f import fit_sam_f

CLASSES = {"skin": "1", "hair": "2", "eyes": "3", "nose": "4", "mouth": "5"}  # of face_parts
TASKS = (*CLASSES, "banners", "plates")
PAPER = {  # ViT-H: SAM, SAM-F, SAM + PLM, SAM + PLM + PMM, SAM's oracle
    "skin": (71.37, 74.77, 84.38, 84.95, 80.76),
    "hair": (20.35, 24.12, 73.54, 73.88, 52.36),
    "nose": (12.62, 8.66, 82.09, 82.58, 14.90),
    "mouth": (55.85, 30.80, 76.44, 76.68, 62.75),
    "banners": (30.27, 30.60, 95.31, 97.33, 93.84),
    "plates": (63.79, 53.90, 74.24, 76.29, 81.98),
}
METHODS = {  # and the options of their fit
    "defaults": [],
    "PLM + PMM": ["--pmm", "--no-dense-prompt"],
    "PLM": ["--no-pmm", "--no-dense-prompt"],
}
Row = dict[str, object]


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="holds face_parts/ and plates/")
    parser.add_argument("banners", type=Path, help="what facade_banners.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    keep_freed_memory()  # as samtune's commands do
    arguments.output.mkdir(parents=True, exist_ok=True)
    kept = arguments.output / "results.jsonl"
    rows: list[Row] = [json.loads(line) for line in kept.open()] if kept.exists() else []
    done = {(row["task"], row["method"], row["seed"]) for row in rows}
    for seed in arguments.seeds:
        for task in arguments.tasks:
            folder = {"banners": arguments.banners, "plates": arguments.data / "plates"}.get(
                task, arguments.data / "face_parts"
            )
            for method in ("SAM-F", *arguments.methods):
                if (task, method, seed) in done or (method == "SAM-F" and seed):
                    continue
                if method == "SAM-F":
                    result = {"iou": score_sam_f(folder, CLASSES.get(task))}
                else:
                    result = score_fit(folder, task, method, seed, arguments.output)
                rows.append({"task": task, "method": method, "seed": seed, **result})
                with kept.open("a") as file:
                    print(json.dumps(rows[-1]), file=file)
    print(table(rows))


def score_sam_f(folder: Path, class_id: str | None) -> float:
    """Two weights of SAM's masks, fitted on train/ and scored on val/."""
    sam, cache = load_sam(resolve("mobile_sam")), EmbeddingCache()
    train, val = (load_dataset(folder / part, class_id=class_id) for part in ("train", "val"))
    predictor = fit_sam_f(train, sam, cache)
    scores = score_objects(val, sam, [predictor], cache, kinds=("center",), boundary=False)
    return Scores.mean(scores[0]).iou


def score_fit(folder: Path, task: str, method: str, seed: int, output: Path) -> Row:
    """One fit with the defaults, as the command says how it went."""
    name = f"{folder}:{CLASSES[task]}" if task in CLASSES else str(folder)
    told = output / method.replace(" ", "")
    told.mkdir(exist_ok=True)
    summary = run(name, seed, told, METHODS[method])
    seconds = summary["seconds"]
    assert isinstance(seconds, dict)
    return {
        "sam": summary["base_iou"],
        "sam_oracle": summary["base_oracle_iou"],
        "iou": summary["adapter_iou"],
        "oracle": summary["adapter_oracle_iou"],
        "boundary_iou": summary["boundary_iou"],
        "refined": summary["refined_iou"],
        "refined_boundary_iou": summary["refined_boundary_iou"],
        "minutes": seconds["total"] / 60,
    }


def table(rows: Sequence[Row]) -> str:
    """Means over seeds as Markdown, ± the largest distance of a seed from them."""
    columns = (
        ("SAM", "defaults", "sam"),
        ("SAM-F", "SAM-F", "iou"),
        ("PLM", "PLM", "iou"),
        ("PLM + PMM", "PLM + PMM", "iou"),
        ("defaults", "defaults", "iou"),
        ("defaults, refined", "defaults", "refined"),
        ("SAM oracle", "defaults", "sam_oracle"),
        ("defaults, oracle", "defaults", "oracle"),
        ("minutes", "defaults", "minutes"),
    )
    heads = ["task", "seeds", *(head for head, _, _ in columns)]
    heads.append("the paper, ViT-H: SAM, SAM-F, PLM, PLM + PMM, SAM oracle")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for task in TASKS:
        of_task = [row for row in rows if row["task"] == task]
        if not of_task:
            continue
        seeds = [str(sum(row["method"] == method for row in of_task)) for method in METHODS]
        cells = [task, ", ".join(seeds)]
        for head, method, key in columns:
            values = [
                float(str(row[key])) * (1 if key == "minutes" else 100)
                for row in of_task
                if row["method"] == method and row[key] is not None
            ]
            cells.append(mean_and_spread(values, fixed=head.startswith("SAM")))
        cells.append(", ".join(f"{score:.1f}" for score in PAPER.get(task, ())) or "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float], *, fixed: bool) -> str:
    """Such as "76.2 ± 0.4"; what no seed changes stands without a spread."""
    if not values:
        return "–"
    mean = statistics.fmean(values)
    spread = max(abs(value - mean) for value in values)
    return f"{mean:.1f}" if fixed or len(values) == 1 else f"{mean:.1f} ± {spread:.1f}"


if __name__ == "__main__":
    main()
