"""Whole files or none: whatever samtune writes appears under its name only when it is complete."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from samtune.errors import OutputError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` only if all goes well.

    The temporary file lies in the same folder, so that the last step is one rename: whoever
    looks sees the old file or the whole new one, also after an interruption. The folder is
    made if need be. On any failure the temporary file is removed and `path` stays as it was.

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


def why_not_written(path: Path, error: OSError) -> str:
    """Put into words what kept a file from being written, and what to do."""
    folder = path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} cannot be written: the disk is full. Free some space in {folder}."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} cannot be written: {folder} may not be written to. Choose another folder."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path} cannot be written: {folder} is not a folder. Choose another folder."
    if error.errno == errno.EISDIR:
        return f"{path} cannot be written: it is a folder. Choose another name."
    return f"{path} cannot be written: {error.strerror or error}. Choose another place."
