"""What commands read and open before they work: data, adapters, the model, a file to write to.

Nothing here imports torch or numpy before a command needs it.
"""

import contextlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.console import Terminal
from samtune.errors import OutputError, SamtuneError
from samtune.files import atomic_write, real_path

if TYPE_CHECKING:
    from samtune.dataset import Dataset
    from samtune.masks import Meaning
    from samtune.sam import Sam

_NAMED_SKIPPED = 5  # files left out are named up to here, then counted


def read_data(
    terminal: Terminal,
    data: Path,
    class_id: str | None,
    objects: "Meaning | None",
    images: Path | None,
    *,
    boxes: bool = False,
    describe: bool = True,
) -> "Dataset":
    """Read images and their objects; say what was found, left out, and assumed.

    Args:
        terminal: says it.
        data: as all that follow, of `load_dataset`.
        class_id: the target.
        objects: what is one object.
        images: where images are.
        boxes: whether boxes are objects.
        describe: say how many images and objects there are; not for who prints that as a result.

    Raises:
        DatasetError: it is no data set.
    """
    from samtune.dataset import load_dataset

    dataset = load_dataset(
        data,
        class_id=class_id,
        objects=objects,
        images=images,
        boxes=boxes,
        on_progress=lambda done, total: terminal.show(f"reading {data.name}", done, total),
    )
    if describe:
        terminal.say(f"{data}: {dataset.describe()}")
    for skipped in dataset.skipped[:_NAMED_SKIPPED]:
        terminal.say(f"  left out: {skipped.path.name}, {skipped.reason}")
    if len(dataset.skipped) > _NAMED_SKIPPED:
        terminal.say(f"  left out: {len(dataset.skipped) - _NAMED_SKIPPED} more")
    if dataset.reading.note:
        terminal.say(f"  {dataset.reading.note}")
    return dataset


def check_adapters(paths: Sequence[Path]) -> None:
    """Make sure that files are adapters at all, before a checkpoint is fetched for them.

    Raises:
        AdapterError: one of them is not.
    """
    from samtune.adapter import read_info

    for path in paths:
        read_info(path)


def open_sam(terminal: Terminal, checkpoint: str, device: str) -> "Sam":
    """Load the frozen model of --checkpoint on --device.

    Raises:
        CheckpointError: no such checkpoint, or it cannot be fetched or read.
        SamtuneError: there is no such device.
    """
    from samtune.checkpoints import resolve
    from samtune.sam import load_sam

    chosen = _device(device)  # before a download, which may take minutes
    return load_sam(resolve(checkpoint, terminal.show_bytes), chosen)


def _device(name: str) -> str:
    import torch

    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        usable = ", ".join(key for key, there in available.items() if there)
        raise SamtuneError(
            f"--device {name} cannot be used: this machine, or its torch, offers only {usable}."
        )
    return name


def check_output(path: Path, read: Iterable[Path]) -> None:
    """Make sure, before long work, that a file can be written and is none of those that are read.

    Raises:
        OutputError: it cannot, or is.
    """
    check_writable(path)
    check_not_read([path], read)


def check_not_read(files: Iterable[Path], read: Iterable[Path]) -> None:
    """Make sure that files to be written are none of those that are read.

    Raises:
        OutputError: one is.
    """
    real = {real_path(path) for path in read}
    for file in files:
        if real_path(file) in real:
            raise OutputError(
                f"{file} is what is read, and the result would overwrite it: give another --output."
            )


def check_outputs(files: Collection[Path], *datasets: "Dataset | None") -> None:
    """As `check_output`: the files against all that data sets are made of."""
    read = set()
    for dataset in datasets:
        if dataset is not None:
            pairs = (*dataset.pairs, *dataset.empty)
            read |= {file for pair in pairs for file in (pair.image, pair.mask)}
            read |= {dataset.folder, *(one.path for one in dataset.skipped)}
    for file in files:
        check_writable(file)
    check_not_read(files, read)


class _Enough(Exception):
    """Ends a trial of writing."""


def check_writable(path: Path) -> None:
    """Make sure, before long work, that a file can be written; leaves nothing behind.

    Raises:
        OutputError: it cannot.
    """
    with contextlib.suppress(OSError):  # what may not even be looked at fails below
        if path.is_dir():
            raise OutputError(f"{path} is a folder: give the name of a file.")
    with contextlib.suppress(_Enough), atomic_write(path) as temporary:
        temporary.touch()
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # its own name, which may be too long
        raise _Enough
