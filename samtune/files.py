"""Whole files or none: whatever samtune writes appears under its name only when it is complete."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from samtune.errors import OutputError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` only if all goes well.

    The temporary file lies in the same folder, so that the last step is one rename: whoever
    looks sees the old file or the whole new one, also after an interruption. The folder is
    made if need be. On any failure the temporary file is removed and `path` stays as it was; only
    a process that is killed leaves its temporary file, hidden, behind.

    Args:
        path: the file to write.

    Yields:
        A hidden path with the same suffix that nothing else uses.

    Raises:
        OutputError: an OSError while writing (no permission, full disk, ...), in words.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "out" / "note.txt"
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('whole', 1)
    """
    # The name is kept short: with the full one, a long but legal name would become too long.
    temporary = path.with_name(f".samtune-{os.urandom(6).hex()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(why_not_written(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def appearing_whole(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give a folder to write to, whose files appear in `folder` only if all goes well.

    The last name is moved last, and an old file of that name is gone before the first: where it
    is, the others belong to it.

    Args:
        folder: where the files go; it is made if need be.
        names: the files.

    Yields:
        A hidden folder in `folder`, for exactly these files.

    Raises:
        OutputError: an OSError while writing (no permission, full disk, ...), in words.
    """
    temporary: Path | None = None
    made = not is_there(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if (folder / name).is_dir():
                raise OutputError(why_not_written(folder / name, OSError(errno.EISDIR, "")))
        temporary = Path(tempfile.mkdtemp(prefix=".samtune-", dir=folder))
        yield temporary
        (folder / names[-1]).unlink(missing_ok=True)
        for name in names:
            (temporary / name).replace(folder / name)
    except OSError as error:
        raise OutputError(why_not_written(folder / names[0], error)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty: then it was made for nothing


def is_there(path: Path) -> bool:
    """Whether there is a file; there is none of a name that no file can have."""
    try:
        return path.exists()
    except OSError:
        return False


def by_its_name(path: Path) -> Path:
    """The absolute path with links in its folders followed, and its own name as it is.

    A file that is a link, as git-annex and DVC have them, is called so by whoever names it.
    """
    return path.parent.resolve() / path.name


def check_name(path: Path) -> None:
    """Make sure that a file may be called so, before others are written.

    Raises:
        OutputError: its name is too long.
    """
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(why_not_written(path, error)) from error


def real_path(path: Path) -> Path:
    """A path without links; links that go in a circle stay, which Path.resolve fails on."""
    return Path(os.path.realpath(path))


def why_not_written(path: Path, error: OSError) -> str:
    """Put into words what kept a file from being written, and what to do."""
    folder = path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} cannot be written: the disk is full. Free some space in {folder}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} cannot be written: {folder} may not be written to. Choose another folder."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path} cannot be written: {folder} is not a folder. Choose another folder."
    if error.errno == errno.ENAMETOOLONG:
        return f"{path} cannot be written: its name is too long. Choose a shorter one."
    if error.errno == errno.EISDIR:
        return f"{path} cannot be written: it is a folder. Choose another name."
    return f"{path} cannot be written: {error.strerror or error}. Choose another place."
