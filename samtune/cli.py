"""The command line: `samtune`.

A command parses, calls the library, and prints; the large ones have a file each.
"""

import io
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune import __version__
from samtune.allocation import keep_freed_memory
from samtune.cli_cache import cache
from samtune.cli_check import check
from samtune.cli_evaluate import evaluate
from samtune.cli_export import export
from samtune.cli_fit import fit
from samtune.cli_prompts import prompts
from samtune.cli_refine import refine
from samtune.cli_segment import segment
from samtune.cli_sensitivity import sensitivity
from samtune.config import settings_in_words
from samtune.console import (
    Group,
    JsonOption,
    QuietOption,
    Terminal,
    end_in_order,
    fall_silent,
    print_json,
)
from samtune.errors import CheckpointError
from samtune.words import count, file_size, percent

if TYPE_CHECKING:
    from samtune.adapter import AdapterInfo

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # errors in one line, and [x, y] in help as it is
)
checkpoints = typer.Typer(no_args_is_help=True, help="Pretrained SAM weights: list, fetch, path.")
app.command()(check)
app.command()(fit)
app.command()(segment)
app.command()(refine)
app.command()(prompts)
app.command()(evaluate)
app.command()(sensitivity)
app.command()(export)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As checkpoint list shows it.")]


def main() -> None:
    """Run the command that the shell was given."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold any bytes
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:2] == ["fit"]:  # nothing else is shared by processes
        fall_silent()
    end_in_order()
    keep_freed_memory()
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"samtune {__version__}")
        raise typer.Exit


@app.callback()
def samtune(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Customize the Segment Anything Model on your own masks."""


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An adapter that fit wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Say what an adapter is, and how well it does."""
    from samtune.adapter import read_info

    about = read_info(file)
    if as_json:
        print_json({"adapter": str(file), **asdict(about)})
        return
    data, scores = about.data, about.scores
    rows = [["method", about.method], ["written by", f"samtune {about.samtune_version}"]]
    rows.append(["size", file_size(file)])
    where = "without a prompt" if about.finds else "at a prompt"
    where += ", and all of an image with segment --auto" if about.proposes else ""
    rows.append(["finds objects", where])
    if about.takes_references:
        own = about.data.get("references")
        told = f"{own} of its own" if own else "none of its own: they are given with --reference"
        rows.append(["references", told])
    rows.append(["base", f"{about.base.checkpoint} ({about.base.encoder} image encoder)"])
    for part, title in (("train", "trained on"), ("val", "held out")):
        images, objects = data.get(f"{part}_images"), data.get(f"{part}_objects")
        if images is not None and objects is not None:
            told = f"{count(images, 'image')} with {count(objects, 'object')}"
            mirrored = part == "val" and data.get("val_is_mirrored")
            rows.append([title, "the mirror image" if mirrored else told])
    if empty := data.get("empty_images"):
        rows.append(["knows it from", f"{count(empty, 'image')} without an object"])
    clicked = "adapter_iou" in scores  # vrp is not; but plain SAM has nothing else
    for key, title in (
        ("adapter_iou", "held-out IoU"),
        ("refined_iou", "  refined"),
        ("base_iou", "  plain SAM" if clicked else "plain SAM, one click"),
        ("adapter_oracle_iou", "held-out oracle"),
        ("base_oracle_iou", "  plain SAM" if clicked else "  its oracle"),
        ("found_iou", "held-out IoU, no click"),
        ("found_recall", "  objects found"),
        ("found_precision", "  masks that are right"),
    ):
        if key in scores:
            rows.append([title, f"{percent(scores[key])} %"])
    if about.refines:
        rows += [["refining", words] for words in _refining(about)]
    if about.least_part:
        least = f"{percent(about.least_part)} %"
        rows.append(["specks", f"left out: parts of a mask below {least} of its largest"])
    if about.heeds_clicks:
        rows.append(["far clicks", "plain SAM answers where a mask is far from its click"])
    chosen = textwrap.wrap(settings_in_words(about.settings), 60, break_long_words=False)
    rows += [["settings" if not n else "", line] for n, line in enumerate(chosen)]
    width = max(len(title) for title, _ in rows)
    typer.echo("\n".join(f"{title.ljust(width)}  {value}" for title, value in rows))


def _refining(about: "AdapterInfo") -> list[str]:
    """What refining with an adapter does, as far as it was measured."""
    if "coarse_iou" not in about.scores:
        return ["not learned, or too long ago: fit it anew to refine with it"]
    own, coarse = (
        "helps" if does else "does not help"
        for does in (about.refine_helps, about.refine_helps_coarse)
    )
    return [f"its own masks: {own}", f"coarse masks: {coarse}"]


@checkpoints.command("list")
def list_checkpoints(as_json: JsonOption = False) -> None:
    """List the names that --checkpoint takes, their licences, and which of them are here."""
    from samtune.checkpoints import cached
    from samtune.sources import SOURCES

    places = {name: cached(name) for name in SOURCES}
    if as_json:
        for name, source in SOURCES.items():
            path = None if places[name] is None else str(places[name])
            print_json({**asdict(source), "path": path})
        return
    width = max(map(len, SOURCES))
    for name, source in SOURCES.items():
        state = "fetched" if places[name] else f"{source.size / 1e6:,.0f} MB"
        typer.echo(
            f"{name.ljust(width)}  {state.rjust(8)}  {source.about}; licence {source.licence}"
        )


@checkpoints.command("fetch")
def fetch_checkpoint(name: NameArgument, quiet: QuietOption = False) -> None:
    """Bring a checkpoint into the cache, and print its path."""
    from samtune.checkpoints import fetch

    with Terminal(quiet) as terminal:
        path = fetch(name, terminal.show_bytes)
    typer.echo(path)


@checkpoints.command("path")
def checkpoint_path(name: NameArgument) -> None:
    """Print where a fetched checkpoint is."""
    from samtune.checkpoints import cached

    path = cached(name)
    if path is None:
        raise CheckpointError(f"{name} is not here yet: samtune checkpoint fetch {name} brings it.")
    typer.echo(path)


app.add_typer(checkpoints, name="checkpoint")
app.add_typer(cache, name="cache")
