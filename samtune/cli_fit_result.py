"""What `samtune fit` says at its end: scores, what they mean, and what to try next."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from samtune.console import DEFAULT_CHECKPOINT, table
from samtune.errors import SamtuneError
from samtune.words import count, duration, percent

if TYPE_CHECKING:
    from samtune.dataset import Dataset
    from samtune.sam import Sam
    from samtune.training import FitResult


_SCORES = ("IoU", "oracle", "boundary")


def scores_in_words(result: "FitResult", path: Path, sam: "Sam") -> str:
    """The table of scores, how sure the gain is, what was trained and how long it took."""
    base, adapted, refiner = result.base, result.adapted, result.adapter.learned.refiner
    rows = [
        [name, *map(percent, (one.iou, one.oracle_iou, one.boundary_iou))]
        for name, one in (("plain SAM", base), ("adapter", adapted))
    ]
    if refiner is not None:
        refined = percent(adapted.refined_iou), percent(adapted.refined_boundary_iou)
        rows.append(["adapter, refined", refined[0], "–", refined[1]])
    trained = result.adapter.learned.parameters_in_use()
    everything = trained + sum(parameter.numel() for parameter in sam.parameters())
    trainable = f"trainable: {trained:,} of {everything:,} parameters"
    trainable += f" ({100 * trained / everything:.1f} %)"
    if refiner is not None:
        trainable += f", and {sum(p.numel() for p in refiner.parameters()):,} for refining"
    phases = ", ".join(f"{phase} {duration(taken)}" for phase, taken in result.seconds.items())
    stopped = result.curves.stopped
    ended = "" if stopped == "finished" else f"; ended early: {stopped}"
    return "\n".join(
        [
            "",
            table([f"held out: {count(base.objects, 'object')}", *_SCORES], rows),
            "mean % for one click in the middle of each; oracle: the best of SAM's masks; boundary:"
            " Boundary IoU",
            *_how_it_was_chosen(result),
            *_refining_in_words(result),
            *_finding_in_words(result),
            _gain_in_words(result),
            "",
            trainable,
            f"time: {phases}; {result.objects_per_second:.1f} objects/s in training{ended}",
            f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)",
        ]
    )


def _how_it_was_chosen(result: "FitResult") -> list[str]:
    lines = []
    if result.folds:
        lines.append(
            f"each scored by one of {result.folds} trainings that had not seen it; the adapter is "
            "trained on all"
        )
    if result.adapter.info.settings["first_offset"] == 0:
        lines.append("moving the prompt did no good: the adapter mixes SAM's masks, no more")
    return lines


def _refining_in_words(result: "FitResult") -> list[str]:
    coarse, info = result.coarse, result.adapter.info
    if result.adapter.learned.refiner is None:
        return []
    answers = {
        "`segment --refine`": info.refine_helps,
        "`samtune refine`, for coarse masks": info.refine_helps_coarse,
    }
    lines = [f"{what}: {'helps' if does else 'does not help'}" for what, does in answers.items()]
    if coarse is not None:
        lines[1] += (
            f" (IoU {percent(coarse.iou)} to {percent(coarse.refined_iou)}, boundary "
            f"{percent(coarse.boundary_iou)} to {percent(coarse.refined_boundary_iou)}, of masks "
            "4 % too large or small)"
        )
    return lines


def _finding_in_words(result: "FitResult") -> list[str]:
    found = result.found
    if found is None:
        return []
    return [
        f"`segment --auto` finds {percent(found.recall)} % of the held-out objects, and "
        f"{percent(found.precision)} % of what it finds is one (right from IoU 50 on)"
    ]


def _gain_in_words(result: "FitResult") -> str:
    gain, interval = result.gain, result.gain.interval
    words = f"{100 * gain.mean:+.1f} points on plain SAM"
    if interval is None:
        return f"{words}; one held-out image cannot tell whether it is so on others"
    low, high = (f"{100 * end:+.1f}" for end in interval)
    words += f", {low} to {high} with other images like these (95 %): {gain.verdict}"
    return words if gain.verdict != "no clear difference" else f"{words}; hold out more to know"


def explain_failure(result: "FitResult", path: Path, output: Path, kept: bool) -> None:
    """Say that the adapter is no better than plain SAM; an error unless it is kept."""
    compared = (
        f"the adapter is not better than plain SAM on the "
        f"{count(result.base.objects, 'held-out object')} "
        f"(IoU {percent(result.adapted.iou)}, plain SAM {percent(result.base.iou)})"
    )
    if kept:
        typer.echo(f"Warning: {compared}; kept all the same (--force).", err=True)
        return
    raise SamtuneError(
        f"{compared}, so it went to {path} and not to {output}. Try more images, or more --epochs, "
        "and check that the masks show one kind of object (--class, --objects); --force keeps it."
    )


def next_command(result: "FitResult", path: Path, held_out: "Dataset", checkpoint: str) -> str:
    """A command that shows the adapter, as good as it can be, on a held-out image."""
    from samtune.prompts import center_point

    thing = held_out.objects[0]
    x, y = center_point(thing.mask()).points[0].tolist()
    words = ["--point", f"{x:g},{y:g}", "--adapter", str(path)]
    words += ["--refine"] if result.adapter.info.refine_helps else []
    return segment_command(held_out.pairs[thing.image_index].image, words, checkpoint)


def segment_command(image: Path, words: list[str], checkpoint: str) -> str:
    """`samtune segment` with a picture to look at, as a line for the shell."""
    words = ["samtune", "segment", str(image), *words, "--overlay"]
    words += [] if checkpoint == DEFAULT_CHECKPOINT else ["--checkpoint", checkpoint]
    return shlex.join(words)


def summary(result: "FitResult", path: Path) -> dict[str, Any]:
    """What --json prints; scores are fractions from 0 to 1."""
    data = result.adapter.info.data
    return {
        "adapter": str(path),
        "method": result.adapter.info.method,
        "better": result.better,
        "train_images": data["train_images"],
        "train_objects": data["train_objects"],
        "empty_images": data["empty_images"],
        "val_images": data["val_images"],
        "val_objects": result.base.objects,
        "folds": result.folds,
        "base_iou": result.base.iou,
        "base_oracle_iou": result.base.oracle_iou,
        "adapter_iou": result.adapted.iou,
        "adapter_oracle_iou": result.adapted.oracle_iou,
        "refined_iou": result.adapted.refined_iou,
        "boundary_iou": result.adapted.boundary_iou,
        "refined_boundary_iou": result.adapted.refined_boundary_iou,
        "refine_helps": result.adapter.info.refine_helps,
        "coarse": None if result.coarse is None else asdict(result.coarse),
        "refine_helps_coarse": result.adapter.info.refine_helps_coarse,
        "found": None if result.found is None else asdict(result.found),
        "gain_interval": result.gain.interval,
        "verdict": result.gain.verdict,
        "parameters": result.adapter.learned.parameters_in_use(),
        "objects_per_second": result.objects_per_second,
        "seconds": result.seconds,
        "stopped": result.curves.stopped,
    }
