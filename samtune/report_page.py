"""The report as one HTML file that a person understands without a manual.

Everything is in it: style, charts as SVG, pictures as data: addresses; nothing is fetched and no
script runs. Colours follow the reader's light or dark setting. What is written are the report's
own numbers; nothing is computed here but where a dot goes.
"""

from html import escape
from typing import Any

from samtune.obedience import PRESENT
from samtune.report import PROMPTS, Report
from samtune.report_curves import curves_section
from samtune.report_gallery import maps_section, objects_section
from samtune.report_origin import cost_section, prompts_section, training_section
from samtune.report_parts import STYLE, adapters_in, chart, interval, name_of, small, table
from samtune.summaries import SIZES
from samtune.words import count, percent

_VERDICTS = {
    "better": "better than plain SAM",
    "worse": "worse than plain SAM",
    "no clear difference": "no clear difference to plain SAM",
}


def render(report: Report) -> str:
    """Write the page.

    Args:
        report: numbers and pictures.

    Returns:
        HTML text.
    """
    numbers = report.numbers
    data = numbers["data"]
    title = f"samtune report: {data['folder']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _subtitle(numbers),
        _verdicts(numbers),
        _prompts(numbers),
        _scores(numbers),
        _sizes(numbers),
        _found(numbers),
        _beside(numbers),
        curves_section(numbers),
        maps_section(report),
        objects_section(report),
        _per_image(numbers),
        prompts_section(numbers),
        training_section(numbers),
        cost_section(numbers),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _subtitle(numbers: dict[str, Any]) -> str:
    """What was evaluated, and what of the folder was not."""
    data = numbers["data"]
    in_turns = any(about["turns"] for about in numbers["adapters"])
    parts = [f"held out{' in turns' * in_turns} by samtune fit"] if numbers["training"] else []
    parts += [f"{count(data['images'], 'image')} with {count(data['objects'], 'object')}"]
    parts += [] if data["class_id"] is None else [f"class {data['class_id']}"]
    parts += [data["note"]] if data["note"] else []
    parts += [
        numbers["base"]["checkpoint"],
        f"samtune {numbers['samtune_version']}",
        numbers["written"],
    ]
    line = f'<p class="soft">{escape(" · ".join(parts))}</p>'
    if not data["left_out"]:
        return line
    items = "".join(f"<li>{escape(one)}</li>" for one in data["left_out"])
    summary = f"left out: {count(len(data['left_out']), 'file')}"
    return f"{line}<details><summary>{summary}</summary><ul>{items}</ul></details>"


def _verdicts(numbers: dict[str, Any]) -> str:
    """A card for each adapter: is it better than plain SAM?"""
    cards = []
    data = numbers["data"]
    plain = numbers["sources"][0]["prompts"]["center"]["iou"]
    for source in adapters_in(numbers):
        center, verdict = source["prompts"]["center"], source["verdict"]
        ends = interval(center["gain_interval"], signed=True)
        within = f" (95 % interval {ends})" if ends else ""
        said = escape(_VERDICTS.get(verdict, verdict))
        cards.append(
            f'<div class="card">{name_of(numbers, source)}'
            f'<strong class="{verdict.split()[0]}">{said}</strong>'
            f"IoU {percent(center['iou'])}, plain SAM {percent(plain)}: "
            f"{100 * center['gain']:+.1f} points{within}</div>"
        )
    for about in numbers["adapters"]:
        if seen := about["images_seen_in_training"]:
            some = "all" if seen == data["images"] else f"{seen:,}"
            these = f"{some} of these {count(data['images'], 'image')}"
            images = "this image" if data["images"] == 1 else these
            cards.append(
                '<div class="card warning"><strong>seen in training</strong>'
                f"{escape(about['name'])} learned from {images}: its scores say "
                "little about others.</div>"
            )
        if about["turns"]:
            cards.append(
                '<div class="card"><strong>scored in turns</strong>These are few images, so that '
                f"{about['turns']} trainings took turns in holding some of them out. Each object "
                f"is answered by the one that has not seen it; {escape(about['name'])} itself "
                "learned from all.</div>"
            )
    return (
        f'<div class="cards">{"".join(cards)}</div>'
        "<p><b>Plain SAM</b> is the pretrained Segment Anything Model as it comes; an "
        "<b>adapter</b> is what <code>samtune fit</code> learned on top of it. Each gets the same "
        "clicks and boxes and answers with a mask, which is compared with the true one. "
        "<b>IoU</b> is the area that mask and true object share, as a share of the area that "
        "they cover together: 100 % is the object to the pixel. All scores are means over objects, "
        "in %. The <b>95 % interval</b> says how far chance in the choice of images may have moved "
        "a score (bootstrap over images). An adapter is called better or worse when the whole "
        "interval of its difference to plain SAM lies on one side of 0.</p>"
    )


def _prompts(numbers: dict[str, Any]) -> str:
    legend = " &nbsp; ".join(name_of(numbers, source) for source in numbers["sources"])
    return f"<h2>IoU by the kind of prompt, in %</h2><p>{legend}</p>{chart(numbers)}"


def _scores(numbers: dict[str, Any]) -> str:
    tables = []
    for kind, (name, _) in PROMPTS.items():
        rows = [_score_row(numbers, source, kind) for source in numbers["sources"]]
        header = ["", "IoU", "difference", "oracle", "refined", "Boundary IoU"]
        scores = table(header, rows)
        folded = f"<details><summary>the same for: {escape(name)}</summary>{scores}</details>"
        tables.append(scores if kind == "center" else folded)
    weights = " and ".join(
        ", ".join(f"{weight:.2f}" for weight in half) for half in numbers["sam_f_weights"]
    )
    sam_f = (
        "<b>SAM-F</b>: the fixed mixture of SAM's three masks that fits best, two numbers, and the "
        "least that an adapter should beat. It is fitted to one half of these images and scored on "
        f"the other, both ways round (weights {weights}); so it learned from this very folder, "
        "as adapters should not have."
        if weights
        else "<b>SAM-F</b> is left out: it would be fitted to some of these images and scored on "
        "others, and there is only one."
    )
    return (
        f"<h2>Scores for one click in the middle</h2>{tables[0]}"
        "<ul><li><b>difference</b>: IoU less that of plain SAM, object by object.</li>"
        "<li><b>oracle</b>: had the best of the returned mask and SAM's three masks always been "
        "chosen.</li>"
        "<li><b>refined</b>: after the adapter moved the contours (<code>--refine</code>).</li>"
        "<li><b>Boundary IoU</b>: IoU of the outlines alone, 2 % of the image's diagonal wide.</li>"
        f"<li>{sam_f}</li></ul>" + "".join(tables[1:])
    )


def _score_row(numbers: dict[str, Any], source: dict[str, Any], kind: str) -> list[str]:
    found = source["prompts"][kind]
    if not found["objects"]:
        return [name_of(numbers, source), *["–"] * 5]
    gain = f"{100 * found['gain']:+.1f}{small(interval(found['gain_interval'], signed=True))}"
    return [
        name_of(numbers, source),
        f"<b>{100 * found['iou']:.1f}</b>{small(interval(found['interval']))}",
        "–" if source["name"] == "plain SAM" else gain,
        *(percent(found[score]) for score in ("oracle_iou", "refined_iou", "boundary_iou")),
    ]


def _sizes(numbers: dict[str, Any]) -> str:
    first = numbers["sources"][0]["sizes"]
    header = [
        "",
        *(f"{name}<small>{count(first[name]['objects'], 'object')}</small>" for name in SIZES),
    ]
    rows = [
        [name_of(numbers, source), *(percent(source["sizes"][name]["iou"]) for name in SIZES)]
        for source in numbers["sources"]
    ]
    return (
        f"<h2>By object size</h2>{table(header, rows)}"
        "<p>IoU in % for one click in the middle. Sizes are those that SAM sees, with the image's "
        "long side scaled to 1024 px: small is an area below 32×32 px, medium below 96×96 px.</p>"
    )


def _found(numbers: dict[str, Any]) -> str:
    """What adapters that need no click find by themselves."""
    rows = [
        [
            name_of(numbers, source),
            *(percent(found[name]) for name in ("iou", "precision", "recall")),
        ]
        for source in numbers["sources"]
        if (found := source["found"])
    ]
    if not rows:
        return ""
    return (
        "<h2>Found without a click</h2><p>Such adapters look for their object by themselves. What "
        "they find is matched with the true objects, one to one. In %.</p>"
        f"{table(['', 'IoU', 'precision', 'recall'], rows)}"
        "<ul><li><b>IoU</b>: mean over the objects; 0 for one that was not found.</li>"
        "<li><b>precision</b>: of the masks found, how many are right (IoU of 50 or more); in "
        "images without an object, none is.</li>"
        "<li><b>recall</b>: of the objects, how many have such a mask.</li></ul>"
    )


def _beside(numbers: dict[str, Any]) -> str:
    """What clicks beside all objects get, and which objects are taken for none."""
    known = [(source, source["beside"]) for source in numbers["sources"] if source["beside"]]
    if not known:  # objects fill all images
        return ""
    names = ["false_responses", "false_alarms", "false_and_present", "missed"]
    header = ["", "get an object's mask", "said to be one", "both", "objects missed"]
    of_empty, empty_images = "", known[0][1]["empty_images"]
    if empty_images:
        names.append("alarmed_images")
        header.append("empty images")
        of_empty = (
            f"<li><b>empty images</b>: of {count(empty_images, 'image')} without an object, on how "
            "many one of four clicks has a presence of 50 % or more.</li>"
        )
    rows = [
        [name_of(numbers, source), *(percent(found[name]) for name in names)]
        for source, found in known
    ]
    return (
        f"<h2>Clicks beside the objects</h2><p>{count(known[0][1]['clicks'], 'click')} on places "
        "where there is no object of this kind. A model that knows one kind of thing may return "
        "one all the same, or say that there is one. An adapter gives every mask a "
        "<b>presence</b>: how likely it is that the click is on such an object at all. "
        "<code>samtune segment --min-score 0.5</code> answers “nothing here” where it is low. In "
        f"all columns less is better, in %.</p>{table(header, rows)}"
        "<ul><li><b>get an object's mask</b>: of these clicks, how many get the mask of an object "
        "that they are not on (IoU above 50).</li>"
        "<li><b>said to be one</b>: how many have a presence of 50 % or more.</li>"
        "<li><b>both</b>: how many get such a mask with such a presence, so that nothing warns of "
        "it.</li>"
        "<li><b>objects missed</b>: of clicks in the middle of objects, how many have a presence "
        f"below 50 %.</li>{of_empty}</ul>{_missed(numbers)}"
    )


def _missed(numbers: dict[str, Any]) -> str:
    """The objects that each adapter takes for none, the surest first."""
    lists = []
    for position, source in enumerate(numbers["sources"]):
        missed = []
        for thing in numbers["objects"]:
            (center,) = thing["prompts"]["center"]
            presence = center["scores"][position]["presence"]
            if presence is not None and presence < PRESENT:
                missed.append((presence, thing["image"], thing["bbox"]))
        if missed:
            items = "".join(
                f"<li>{escape(image)}, at x {box[0]}, y {box[1]}: presence {percent(presence)}</li>"
                for presence, image, box in sorted(missed)
            )
            title = f"{escape(source['name'])} misses {count(len(missed), 'object')}"
            lists.append(f"<details><summary>{title}</summary><ul>{items}</ul></details>")
    return "".join(lists)


def _per_image(numbers: dict[str, Any]) -> str:
    header = ["image", "objects", *(name_of(numbers, source) for source in numbers["sources"])]
    rows = [
        [escape(row["image"]), f"{row['objects']:,}", *map(percent, row["iou"])]
        for row in numbers["images"]
    ]
    return (
        "<h2>By image</h2><details><summary>IoU in % for one click in the middle of each object"
        f"</summary>{table(header, rows)}</details>"
    )
