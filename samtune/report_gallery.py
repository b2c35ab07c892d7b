"""The pictures of the report's page: sensitivity maps, and objects before and after."""

from collections.abc import Sequence
from html import escape

from samtune.report import Report
from samtune.report_parts import adapters_in, percent
from samtune.report_pictures import Picture, data_address


def maps_section(report: Report) -> str:
    """The sensitivity maps."""
    maps = []
    for picture, found in zip(report.maps, report.numbers["sensitivity"], strict=True):
        text = "; ".join(
            f"{one['name']}: mean {percent(one['mean_iou'])}, 10th percentile "
            f"{percent(one['p10_iou'])}, {100 * one['good_share']:.0f} % of clicks reach 80"
            for one in found["sources"]
        )
        maps.append(
            f'<figure style="margin:0"><img class="map" alt="{escape(text)}" '
            f'src="{data_address(picture, "JPEG")}">'
            f"<figcaption>{escape(found['image'])}</figcaption></figure>"
        )
    return (
        "<h2>Does it matter where one clicks?</h2><p>Every place in an object is coloured by the "
        "IoU that a click there gives; dots are clicks beside the object. The objects are those at "
        f"the 10th, 50th and 90th percentile of IoU ({escape(report.numbers['judged'])}).</p>"
        + "".join(maps)
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
        f"White is the true outline, blue the mask that was returned.</p>{''.join(parts)}"
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
    return "" if presence is None else f'<span class="soft">, presence {percent(presence)}</span>'
