"""Where the report's numbers come from: the prompts, the training, the time it took."""

from html import escape
from typing import Any

from samtune.config import settings_in_words
from samtune.report_parts import table
from samtune.words import count, percent


def prompts_section(numbers: dict[str, Any]) -> str:
    """Where each prompt came from."""
    items = "".join(
        f"<li><b>{escape(one['name'])}</b>: {escape(one['origin'])}</li>"
        for one in numbers["prompts"].values()
    )
    return (
        f"<h2>Where each prompt came from</h2><p>All are drawn from the true masks.</p><ul>{items}"
        "</ul><p>What is drawn by chance is seeded by the object's place in the folder, so that "
        "every model gets the same prompts, today and tomorrow. <code>report.json</code> lists "
        "every prompt with its scores.</p>"
    )


def training_section(numbers: dict[str, Any]) -> str:
    """What was trained on what."""
    rows = []
    for about in numbers["adapters"]:
        data, scores = about["data"], about["scores"]
        held_out = ", ".join(
            f"{name} {percent(scores[key])}"
            for key, name in (("base_iou", "plain SAM"), ("adapter_iou", "adapter"))
            if key in scores
        )
        rows += [
            ["file", about["file"]],
            ["trained on", _images_and_objects(data, "train")],
            ["scored on", f"{_images_and_objects(data, 'val')}: {held_out or '–'}"],
            ["base", f"{about['base']['checkpoint']} ({about['base']['encoder']} image encoder)"],
            ["written by", f"samtune {about['samtune_version']}, method {about['method']}"],
            ["settings", settings_in_words(about["settings"])],
            ["SHA-256 of its data", data.get("sha256", "–")],
        ]
    if not rows:
        return ""
    cells = [[name, f"<code>{escape(str(value))}</code>"] for name, value in rows]
    return (
        f'<h2>What was trained on what</h2><div class="text">{table(["", ""], cells)}</div><p>As '
        "the adapter files say. The evaluated folder has SHA-256 "
        f"<code>{numbers['data']['sha256']}</code>.</p>"
    )


def cost_section(numbers: dict[str, Any]) -> str:
    """Seconds of each stage, and memory."""
    cost = numbers["cost"]
    rows = [[escape(name), f"{seconds:.1f}"] for name, seconds in cost["seconds"].items()]
    peak = cost["peak_memory_bytes"]
    memory = f"<p>Peak memory: {peak / 1e9:.1f} GB.</p>" if peak else ""
    return (
        f"<h2>Time and memory</h2>{table(['stage', 'seconds'], rows)}{memory}<p>Encoding takes no "
        "time for images whose embedding is cached already.</p>"
    )


def _images_and_objects(data: dict[str, Any], part: str) -> str:
    images, objects = data.get(f"{part}_images"), data.get(f"{part}_objects")
    if images is None or objects is None:
        return "not said"
    return f"{count(images, 'image')} with {count(objects, 'object')}"
