"""What `--format` and `--label` of `segment` and `refine` ask for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.shards import WHOLE_RUN, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samtune.results import Names
    from samtune.writers import Writer


LabelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What objects are called in formats with classes. "
        "[default: the adapter's name, or object]",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace coco, yolo, labelme and geojson files that exist."),
]


def chosen_formats(context: typer.Context, texts: list[str]) -> list[str]:
    """The names in --format, each once."""
    from samtune.formats import FORMATS

    names = list(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            context.fail(f"--format {name or texts[0]} is none of {', '.join(FORMATS)}.")
    return names


def class_labels(context: typer.Context, adapters: list[Path], label: str | None) -> list[str]:
    """What each source calls its objects: adapters in order, or plain SAM."""
    labels = [path.stem for path in adapters] or ["object"]
    labels = labels if label is None else [label] * len(labels)
    for name in labels:
        if not can_name_a_class(name):
            context.fail(f"{name!r} cannot name a class: give one in letters with --label NAME.")
    return labels


def can_name_a_class(name: str) -> bool:
    """Whether every format can hold a name: lists of classes have one a line."""
    return bool(name.strip()) and name.isprintable()


def open_segment_writers(
    formats: list[str],
    folder: Path,
    images: list[Path],
    labels: list[str],
    overwrite: bool,
    quiet: bool,
    shard: Shard = WHOLE_RUN,
    own_numbers: "Mapping[str, Mapping[str, int]] | None" = None,
) -> tuple["Names", dict[str, "Writer"]]:
    """Open a writer for each format; what one cannot hold is said once, on stderr."""
    from samtune.formats import open_writers
    from samtune.results import Names
    from samtune.writers import Target

    said: set[str] = set()

    def note(sentence: str) -> None:
        if not quiet and sentence not in said:
            typer.echo(sentence, err=True)
        said.add(sentence)

    names = Names(folder, keep=images)
    target = Target(names, list(dict.fromkeys(labels)), overwrite, note, shard, own_numbers or {})
    return names, open_writers(formats, target)
