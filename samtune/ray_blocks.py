"""Blocks of work on a Ray cluster: each is done once, whoever is killed meanwhile.

A block is a task. Where its worker or machine goes away, Ray gives it to another one; what it
returned lies in a file of its own, so that a run that is started again reads what was done instead
of doing it. The same block done twice must therefore leave the same behind.

Plain tasks instead of Ray Data: that one needs pyarrow and pandas, and starts over after a restart.
Tasks bring retries by themselves, also on machines that come later, and a worker's process keeps
its model from one block to the next, as an actor would.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from samtune.allocation import keep_freed_memory
from samtune.errors import SamtuneError
from samtune.files import atomic_write

Record = dict[str, Any]  # plain values, as JSON has them; "failed" says that it has to be done anew
_LIVES = 5  # workers that a block may cost before it is given up: it may be what kills them
_AHEAD = 4  # blocks for each CPU or GPU that are handed out at a time


def connect(address: str) -> None:
    """Start a cluster on this machine, or join a running one.

    Args:
        address: "local", or what ray.init takes: "auto", HOST:PORT, ray://HOST:PORT.

    Raises:
        SamtuneError: there is no Ray, or no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError as error:
        raise SamtuneError("--ray needs Ray: pip install 'samtune[ray]'.") from error
    if ray.is_initialized():
        return
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # Ray raises that itself where a node does not start in time
        why = str(error).strip().splitlines()[0]
        raise SamtuneError(
            f"there is no Ray cluster at {address} ({why}): give its address as HOST:PORT, auto on "
            "one of its machines, or local."
        ) from error


def shared_device(device: str) -> str:
    """The one device for all blocks, cuda or cpu: answers of two kinds would differ.

    Args:
        device: "auto" is cuda if any machine of the cluster has a GPU; or "cpu", "cuda", "mps".

    Raises:
        SamtuneError: no machine has it, so that blocks would wait for ever.
    """
    import ray

    found = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    if device not in ("auto", "cpu", found):
        raise SamtuneError(
            f"--device {device} cannot be used: no machine of the Ray cluster offers it. Leave it "
            "out, or take cpu."
        )
    return found if device == "auto" else device


def go_to(folder: Path) -> None:
    """Make a folder the one where relative names begin, in a worker.

    Raises:
        SamtuneError: its machine has no such folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise SamtuneError(
            f"{socket.gethostname()} has no folder {folder} ({error.strerror}): all machines of "
            "the cluster need the same folders under the same paths."
        ) from error


def run_blocks(
    work: Callable[[Any, Any], Record],
    shared: object,
    blocks: Sequence[Any],
    records: Path | None,
    *,
    gpu: bool,
) -> Iterator[tuple[int, Record | None]]:
    """Do all blocks, those that have a record in the folder without doing anything.

    Args:
        work: called with `shared` and a block, on any machine of the cluster.
        shared: what all blocks need, sent to each machine once.
        blocks: what to do.
        records: a folder for them, as all machines see it; None keeps none.
        gpu: each block takes a GPU, or else a CPU.

    Yields:
        Each block's place among them and its record, as they get done; None instead of a record
        where one worker after the other was killed with it.

    Raises:
        SamtuneError: what `work` raised.
    """
    import ray

    kind, amount = ("GPU", {"num_gpus": 1}) if gpu else ("CPU", {"num_cpus": 1})
    # Without max_calls a process that had a GPU would end with its block, and its model with it.
    task = ray.remote(**amount, max_retries=_LIVES - 1, max_calls=0)(_done)
    everyones, to_do = ray.put(shared), iter(enumerate(blocks))
    doing: dict[Any, int] = {}
    while True:
        places = _AHEAD * max(1, int(ray.cluster_resources().get(kind, 1)))
        while len(doing) < places and (following := next(to_do, None)) is not None:
            index, block = following
            path = None if records is None else records.absolute() / f"{index}.json"
            record = None if path is None else _read(path)
            if record is None:
                doing[task.remote(work, path, everyones, block)] = index
            else:
                yield index, record
        if not doing:
            return
        (done,), _ = ray.wait(list(doing), num_returns=1)
        yield doing.pop(done), _result(done)


def _done(
    work: Callable[[Any, Any], Record], path: Path | None, shared: object, block: object
) -> Record:
    """Do a block, in a worker, and write down what came of it."""
    keep_freed_memory()
    record = work(shared, block)
    if path is not None and not record["failed"]:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(record), encoding="utf-8")
    return record


def _read(path: Path) -> Record | None:
    """What an earlier run wrote down; whole, or not at all."""
    try:
        found: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _result(reference: Any) -> Record | None:
    import ray

    try:
        record: Record = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SamtuneError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError:  # its worker, or the machine, went away again and again
        return None
    return record
