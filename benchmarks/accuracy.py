"""Fit and score data folders with the defaults, and print one table.

    python benchmarks/accuracy.py DATA/face_parts:4 DATA/plates [--seed 0] [-o RESULTS]

Each folder holds train/ and val/; `:4` names a class id. Every task is one `samtune fit train
--val val --json` in a process of its own, as a user would run it, so that seconds and peak memory
are those of the command. Scores are percentages at the centre point.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", help="FOLDER or FOLDER:CLASS, with train/ and val/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="keep adapters and results.jsonl here")
    arguments, more = parser.parse_known_args()  # what is left goes to samtune fit
    output = arguments.output or Path(tempfile.mkdtemp(prefix="samtune-accuracy-"))
    output.mkdir(parents=True, exist_ok=True)
    results = []
    for task in arguments.tasks:
        result = run(task, arguments.seed, output, more)
        results.append(result)
        with (output / "results.jsonl").open("a") as file:
            print(json.dumps(result), file=file)
        print(json.dumps(result), file=sys.stderr)
    print(table(results))


def run(task: str, seed: int, output: Path, more: list[str]) -> dict[str, object]:
    """Fit one task; returns the command's own summary with the task and its peak memory."""
    folder, _, class_id = task.partition(":")
    name = Path(folder).name + (f":{class_id}" if class_id else "")
    command = [sys.executable, "-m", "samtune", "fit", f"{folder}/train", "--val", f"{folder}/val"]
    command += ["-o", str(output / f"{name.replace(':', '-')}.seed{seed}.safetensors")]
    command += ["--seed", str(seed), "--json", "--force", *more]
    command += ["--class", class_id] if class_id else []
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
        printed.seek(0)
        summary = json.loads(printed.read())
    return {"task": name, "seed": seed, "peak_mb": round(usage.ru_maxrss / 1024), **summary}


def table(results: list[dict[str, object]]) -> str:
    """The results as Markdown."""
    lines = [
        "| task | images | SAM | SAM oracle | adapter | adapter oracle | refined "
        "| objects/s | encode s | train s | total s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        scores = [
            "–" if result[key] is None else f"{100 * float(str(result[key])):.1f}"
            for key in (
                "base_iou",
                "base_oracle_iou",
                "adapter_iou",
                "adapter_oracle_iou",
                "refined_iou",
            )
        ]
        seconds = result["seconds"]
        assert isinstance(seconds, dict)
        images = f"{result['train_images']} + {result['val_images']}"
        cells = [
            str(result["task"]),
            images,
            *scores,
            f"{float(str(result['objects_per_second'])):.1f}",
            *(f"{seconds[phase]:.0f}" for phase in ("encode", "train", "total")),
            str(result["peak_mb"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
