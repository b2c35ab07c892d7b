"""Formats: what `samtune segment --format` can write, by name."""

from collections.abc import Iterable

from samtune.write_coco import Coco
from samtune.write_polygons import GeoJson, LabelMe, Svg, Yolo
from samtune.writers import Cutout, Instances, Npz, Png, Target, Writer

FORMATS: dict[str, type[Writer]] = {
    "png": Png,
    "instances": Instances,
    "cutout": Cutout,
    "coco": Coco,
    "yolo": Yolo,
    "labelme": LabelMe,
    "geojson": GeoJson,
    "svg": Svg,
    "npz": Npz,
}


def open_writers(formats: Iterable[str], target: Target) -> dict[str, Writer]:
    """A writer for each format, in the given order.

    Raises:
        OutputError: a file that cannot be replaced is in the way.
    """
    return {name: FORMATS[name](target) for name in formats}
