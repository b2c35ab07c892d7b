"""The pictures of the report's page: sensitivity maps, and objects before and after."""

from collections.abc import Sequence
from html import escape

from samtune.report import Report
from samtune.report_parts import adapters_in
from samtune.report_pictures import Picture, data_address
from samtune.words import percent


def maps_section(report: Report) -> str:
    """The sensitivity maps."""
    maps, judged = [], escape(report.numbers["judged"])
    for picture, found in zip(report.maps, report.numbers["sensitivity"], strict=True):
        lines = [
            f"{one['name']}: mean IoU {percent(one['mean_iou'])} for clicks in the object; nine of "
            f"ten get more than {percent(one['p10_iou'])}; {100 * one['good_share']:.0f} % of them "
            "get 80 or more"
            for one in found["sources"]
        ]
        words = "".join(f"<small>{escape(line)}</small>" for line in lines)
        maps.append(
            f'<figure class="map"><img alt="{escape("; ".join(lines))}" '
            f'src="{data_address(picture, "JPEG")}">'
            f"<figcaption>{escape(found['image'])}{words}</figcaption></figure>"
        )
    return (
        "<h2>Does it matter where one clicks?</h2><p>Every place in an object is coloured by the "
        "IoU that a click there gives: yellow is good, violet bad, and one colour all over means "
        "that it does not matter. Dots are clicks beside the object. Shown are an object of the "
        f"worst tenth, the middle one and one of the best tenth ({judged}).</p>" + "".join(maps)
    )


def objects_section(report: Report) -> str:
    """The worst and the best objects, before and after."""
    numbers = report.numbers
    names = [numbers["sources"][0]["name"], *(one["name"] for one in adapters_in(numbers))]
    parts = []
    for title, pictures in (("Worst", report.worst), ("Best", report.best)):
        if pictures:
            shown = "".join(_object(picture, names) for picture in pictures)
            parts.append(f'<h3>{title} {len(pictures)}</h3><div class="pictures">{shown}</div>')
    return (
        "<h2>The worst and the best objects</h2>"
        f"<p>By the IoU of {escape(numbers['judged'])} for the click at the green dot, IoU in %. "
        "White is the true outline, blue the mask that was returned. Presence: how likely it is to "
        f"the adapter that the click is on such an object at all, in %.</p>{''.join(parts)}"
    )


def _object(picture: Picture, names: Sequence[str]) -> str:
    views = "".join(
        f'<div><img src="{view.address}" alt="{escape(name)}, IoU {percent(view.iou)} %">'
        f"{escape(name)} <b>{percent(view.iou)}</b>{_presence(view.presence)}</div>"
        for name, view in zip(names, picture.views, strict=True)
    )
    return (
        f'<figure class="object">{views}<figcaption>{escape(picture.image)}</figcaption></figure>'
    )


def _presence(presence: float | None) -> str:
    return "" if presence is None else f'<span class="soft">presence {percent(presence)}</span>'
