"""What can go wrong in a way that the user can mend.

    SamtuneError
    ├── DatasetError      the folder of images and masks
    ├── ImageError        one image or mask file
    ├── PromptError       a point, box or line of prompts
    ├── CheckpointError   pretrained SAM weights: name, file, download
    ├── AdapterError      an adapter file, or one that does not fit the checkpoint
    ├── ExportError       an adapter that cannot be exported as it should
    └── OutputError       a place that cannot be written

Each message is one line that says what is wrong, where, and what to do. A ValueError is
the caller's bug, an assert something that cannot happen; neither is meant for the user.
"""

import re

# What would begin a new line or do something to a terminal; names of files may hold any of it.
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


class SamtuneError(Exception):
    """A problem the user can fix. The message says what is wrong, where, and what to do.

    It is one line, whatever names it quotes: control characters in it are written as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_CONTROL.sub(lambda found: repr(found[0])[1:-1], message))


class DatasetError(SamtuneError):
    """The folder of images and masks is not a dataset samtune can read."""


class ImageError(SamtuneError):
    """An image or mask file cannot be read."""


class PromptError(SamtuneError):
    """A point, a box or a line of prompts does not say which object to segment."""


class CheckpointError(SamtuneError):
    """Pretrained SAM weights are missing, damaged, or of no kind samtune knows."""


class AdapterError(SamtuneError):
    """A file is no adapter, or an adapter for something else."""


class ExportError(SamtuneError):
    """Exported graphs do not answer as torch does, or what makes or checks them is missing."""


class OutputError(SamtuneError):
    """A result cannot be written where it should go."""
