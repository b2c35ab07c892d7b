"""What `samtune segment` gets masks from: plain SAM, or adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from samtune.cli_references import referring
from samtune.cli_results import Source
from samtune.console import Terminal
from samtune.errors import AdapterError

if TYPE_CHECKING:
    from samtune.adapter import AdapterInfo
    from samtune.predictor import Predictor
    from samtune.reference_cells import Marked
    from samtune.sam import Sam

Refining = Literal["no", "where it helps", "always"]
MirrorOption = Annotated[
    bool,
    typer.Option(
        "--mirror",
        help="Ask about each image in a mirror as well, and take the mean of both answers, for "
        "twice the encoding: for adapters of fit --mirror; others may get worse by it.",
    ),
]


def open_source(
    terminal: Terminal,
    sam: "Sam",
    references: list["Marked"],
    refining: Refining,
    path: Path | None,
    label: str,
    *,
    every_cell: bool,
) -> Source:
    """An adapter, or plain SAM."""
    from samtune.adapter import Adapter
    from samtune.predictor import Predictor

    if path is None:
        return Source(None, Predictor(sam, every_cell=every_cell), refine=False, label=label)
    adapter = referring(Adapter.load(path, sam), references, sam)
    predictor = Predictor(sam, adapter, every_cell=every_cell)
    refine = refining != "no" and shall_refine(terminal, path, predictor, refining == "always")
    return Source(path, predictor, refine, label)


def shall_refine(
    terminal: Terminal, path: Path, predictor: "Predictor", always: bool, *, coarse: bool = False
) -> bool:
    """Whether to refine with an adapter; says so if it did not help where that was measured.

    Args:
        terminal: where to say so.
        path: the adapter, as the user named it.
        predictor: with it.
        always: whatever was measured.
        coarse: masks of other tools, not the adapter's own.

    Raises:
        AdapterError: it cannot refine.
    """
    assert predictor.adapter is not None
    if predictor.refiner is None:
        raise AdapterError(
            f"{path} cannot refine: it has no contour refiner, which `fit` trains for --method plm "
            "unless --no-refiner is given, and did not yet when older adapters were made. Fit one "
            "anew, with that method."
        )
    return refining_helps(terminal, path, predictor.adapter.info, always, coarse=coarse) or always


def refining_helps(
    terminal: Terminal, path: Path, info: "AdapterInfo", always: bool, *, coarse: bool = False
) -> bool:
    """Whether refining helped where that was measured; says so if it did not. As `shall_refine`."""
    helped = info.refine_helps_coarse if coarse else info.refine_helps
    if not helped:
        stays = "refining all the same" if always else "so masks stay as they are"
        what = "coarse masks of its held-out objects" if coarse else "its held-out objects"
        terminal.say(f"{path}: refining did not help on {what}, {stays}")
    return helped
