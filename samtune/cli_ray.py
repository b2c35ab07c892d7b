"""`samtune segment --ray`: the images of a run on many machines, with the same result.

The machines share the folders: they read images and write masks under the same paths. Images of
one name stay in one block, as in one shard (shards.py), so that results are called as on one
machine. What there is to say comes back, is put in order, and is printed here.
"""

import hashlib
import io
import json
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samtune.cli_answers import Question
from samtune.cli_inputs import open_sam
from samtune.cli_outcomes import Outcome
from samtune.cli_results import Source, Wanted
from samtune.cli_segmenter import Segmenter
from samtune.cli_sources import Refining, open_source
from samtune.console import Terminal
from samtune.ray_blocks import Record, connect, go_to, run_blocks, shared_device

if TYPE_CHECKING:
    from samtune.writers import Writer

RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS|local",
        help="Do it on a Ray cluster whose machines share the folders, or on all cores of this "
        "one (local): the same results in the same order. Started again after an interruption, "
        "the same command leaves out what is done. Needs samtune[ray].",
    ),
]
_IMAGES_A_BLOCK = 32  # half a minute of a core: what a killed worker costs


@dataclass(frozen=True)
class Job:
    """What is asked of every image of a run; plain values.

    Attributes:
        folder: where relative names begin.
        keep: images that a result could be called like.
        there_before: as for writers.py's Target.
        others: as the options of `segment`.
    """

    folder: Path
    keep: tuple[Path, ...]
    checkpoint: str
    device: str
    adapters: tuple[Path | None, ...]
    labels: tuple[str, ...]
    refining: Refining
    formats: tuple[str, ...]
    output: Path
    wanted: Wanted
    overwrite: bool
    there_before: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Block:
    """Questions for one worker, and stems of images whose results other blocks name."""

    questions: list[Question]
    left: list[str]


def segment_on_ray(
    address: str,
    job: Job,
    questions: list[Question],
    writers: "dict[str, Writer]",
) -> Iterator[Outcome]:
    """Answer questions on a cluster.

    Args:
        address: of the cluster, or "local".
        job: what is asked.
        questions: of which images.
        writers: of the whole run; COCO's writes its file, the others' files are the workers'.

    Yields:
        What came of each question, in their order.

    Raises:
        SamtuneError: there is no such cluster, or a machine of it cannot do its part.
    """
    connect(address)
    job = replace(job, device=shared_device(job.device))
    folder = job.output / f".samtune-ray-{_identity(job, questions)}"
    job = replace(job, there_before=_there_before(folder, job, writers))
    blocks = _blocks(questions)
    known: dict[int, Outcome] = {}
    order = iter(question.number for question in questions)
    following, failed = next(order, None), False
    with redirect_stdout(StdoutOfOneThread()):
        for index, record in run_blocks(
            segment_block, job, blocks, folder, gpu=job.device == "cuda"
        ):
            outcomes = _lost(blocks[index]) if record is None else map(_outcome, record["outcomes"])
            known |= {outcome.number: outcome for outcome in outcomes}
            failed |= record is None or record["failed"]
            for sentence in [] if record is None else record["notes"]:
                next(iter(writers.values())).target.note(sentence)
            while following in known:
                outcome = known.pop(following)
                _note(writers, outcome)
                yield outcome
                following = next(order, None)
    for writer in writers.values():
        writer.close()
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)


class StdoutOfOneThread(io.TextIOBase):
    """Stdout for this thread: Ray tells of lost workers there, which is for results alone."""

    def __init__(self) -> None:
        self._thread, self._stdout = threading.get_ident(), sys.stdout

    def write(self, text: str) -> int:
        """Print to stdout, or from other threads to stderr."""
        ours = threading.get_ident() == self._thread
        return (self._stdout if ours else sys.stderr).write(text)

    def flush(self) -> None:
        """Pass on what was printed."""
        self._stdout.flush()


def segment_block(job: Job, block: Block) -> Record:
    """Answer a block's questions, in a worker."""
    from samtune.formats import open_writers
    from samtune.results import Names
    from samtune.write_coco import CocoNotes
    from samtune.writers import Target

    sources = _sources(job)
    notes: list[str] = []
    outcomes: list[Outcome] = []
    names = Names(job.output, job.keep)
    for stem in block.left:
        names.leave(stem)
    labels = list(dict.fromkeys(job.labels))
    target = Target(names, labels, job.overwrite, notes.append, there_before=job.there_before)
    writers = open_writers((name for name in job.formats if name != "coco"), target)
    coco = CocoNotes(target) if "coco" in job.formats else None
    if coco is not None:
        writers = {name: writers.get(name, coco) for name in job.formats}
    with Segmenter(sources, job.wanted, names, writers) as segmenter:
        # What COCO's writer notes is that of one question only if none is ahead.
        for one in segmenter.answer_all(block.questions, ahead=coco is None):
            outcome = Outcome.of(*one, name_adapter=len(sources) > 1)
            outcomes.append(outcome if coco is None else replace(outcome, coco=coco.take()))
    return {
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "notes": list(dict.fromkeys(notes)),
        "failed": any(outcome.error is not None for outcome in outcomes),
    }


@lru_cache(maxsize=1)
def _sources(job: Job) -> list[Source]:
    """A worker's model: loaded for its first block, kept for the others."""
    go_to(job.folder)
    with Terminal(quiet=True) as terminal:
        sam = open_sam(terminal, job.checkpoint, job.device)
        every_cell = "npz" in job.formats
        return [
            open_source(terminal, sam, [], job.refining, path, label, every_cell=every_cell)
            for path, label in zip(job.adapters, job.labels, strict=True)
        ]


def _blocks(questions: Sequence[Question]) -> list[Block]:
    """Share questions out; those whose results have the same names go to the same block."""
    by_name: dict[int | str, list[Question]] = {}
    for question in questions:
        name = question.number if question.error is not None else question.image.stem.casefold()
        by_name.setdefault(name, []).append(question)
    numbered: dict[str, list[str]] = {}  # x.2 is what a second result of x is called, too
    for name in by_name:
        if isinstance(name, str):
            numbered.setdefault(_unnumbered(name), []).append(name)
    blocks: list[Block] = []
    for together in by_name.values():
        if not blocks or len(blocks[-1].questions) >= _IMAGES_A_BLOCK:
            blocks.append(Block([], []))
        blocks[-1].questions.extend(together)
    for block in blocks:
        own = {q.image.stem.casefold() for q in block.questions if q.error is None}
        alike = {stem for name in own for stem in (*numbered.get(name, ()), _unnumbered(name))}
        block.left.extend(sorted((alike & by_name.keys()) - own))
    return blocks


def _unnumbered(stem: str) -> str:
    """The x of x.2, or the stem itself."""
    start, _, number = stem.rpartition(".")
    return start if start and number.isdecimal() else stem


def _there_before(folder: Path, job: Job, writers: "dict[str, Writer]") -> frozenset[str]:
    """Names of files with labels that may be somebody's, without regard to case.

    It is looked before the first start: what is found by a later one is the run's own.
    """
    from samtune.files import atomic_write
    from samtune.writers import ImageFiles

    path = folder / "there_before.json"
    endings = tuple(
        f".{one.ending}"
        for one in writers.values()
        if isinstance(one, ImageFiles) and one.edited_by_people
    )
    there = {one.name for one in job.output.iterdir()} if job.output.is_dir() else set()
    if path.is_file():
        there.intersection_update(json.loads(path.read_text(encoding="utf-8")))
    kept = [] if job.overwrite else sorted(name for name in there if name.endswith(endings))
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")
    return frozenset(name.casefold() for name in kept)


def _identity(job: Job, questions: list[Question]) -> str:
    """What tells a run from others in the same folder: all that its results depend on."""
    asked = replace(job, overwrite=False)  # of the files that were in the way
    digest = hashlib.sha256(repr(asked).encode())
    for path in (*job.adapters, Path(job.checkpoint)):
        if path is not None and path.is_file():
            status = path.stat()
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    for question in questions:
        digest.update(f"{question.number} {question.image} {question.error}".encode())
        for prompt in question.prompts:
            for part in (prompt.points, prompt.labels, prompt.box):
                digest.update(b"-" if part is None else part.tobytes())
    return digest.hexdigest()[:16]


def _note(writers: "dict[str, Writer]", outcome: Outcome) -> None:
    """Pass on what a worker noted for the COCO file."""
    from samtune.write_coco import Coco

    coco = writers.get("coco")
    if isinstance(coco, Coco):
        for image, (height, width), objects in outcome.coco:
            coco.note(Path(image), (height, width), objects)


def _outcome(values: dict[str, Any]) -> Outcome:
    return Outcome(**values)


def _lost(block: Block) -> Iterator[Outcome]:
    for question in block.questions:
        yield Outcome(
            question.number,
            [],
            [],
            f"{question.image}: every worker that had it was killed: it may need more memory than "
            "they have, or another image beside it does.",
        )
