"""The state of an interrupted fit, on disk.

Written whole or not at all, and read without ever executing code. A state says which fit it
belongs to; going on with other data, settings or weights would not be going on.
"""

from pathlib import Path
from typing import Any

import torch

from samtune.errors import SamtuneError
from samtune.files import atomic_write


def write_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a state.

    Args:
        path: where to.
        identity: what the fit is: settings, data, base; plain values only.
        state: tensors and plain values.

    Raises:
        OutputError: the path cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save({"identity": identity, "state": state}, file)


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a state back.

    Args:
        path: a file of `write_state`.
        identity: what the fit is now.

    Raises:
        SamtuneError: the file is damaged, or belongs to another fit.
    """
    try:
        saved = torch.load(path, weights_only=True)
        found, state = saved["identity"], saved["state"]
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise SamtuneError(
            f"{path} cannot be read ({type(error).__name__}): remove it and fit without --resume."
        ) from error
    different = sorted(key for key in identity if found.get(key) != identity[key])
    if different:
        raise SamtuneError(
            f"{path} belongs to a fit with other {' and '.join(different)}: repeat the first "
            "command with --resume, or remove that file and fit anew."
        )
    return dict(state)
