"""What `samtune segment` gets masks from: plain SAM, or adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samtune.cli_answers import Source
from samtune.console import Terminal
from samtune.errors import AdapterError

if TYPE_CHECKING:
    from samtune.predictor import Predictor
    from samtune.sam import Sam

Refining = Literal["no", "where it helps", "always"]


def open_source(
    terminal: Terminal,
    sam: "Sam",
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
    predictor = Predictor(sam, Adapter.load(path, sam), every_cell=every_cell)
    refine = refining != "no" and shall_refine(terminal, path, predictor, refining == "always")
    return Source(path, predictor, refine, label)


def shall_refine(terminal: Terminal, path: Path, predictor: "Predictor", always: bool) -> bool:
    """Whether to refine with an adapter; says so if it did not help where that was measured.

    Raises:
        AdapterError: it cannot refine.
    """
    assert predictor.adapter is not None
    if predictor.adapter.learned.pmm is None:
        raise AdapterError(
            f"{path} cannot refine: it has no Point Matching Module, which `fit` trains for "
            "--method plm unless --no-pmm is given. Use such an adapter, or do not refine."
        )
    helped = predictor.adapter.info.refine_helps
    if not helped:
        stays = "refining all the same" if always else "so masks stay as they are"
        terminal.say(f"{path}: refining did not help on its held-out objects, {stays}")
    return helped or always
