"""What a piece of work costs: seconds of each stage, and the memory it took at most."""

import contextlib
import sys
import time
from collections.abc import Iterator


class Stages:
    """Adds up the seconds that each stage takes, by name, in the order of their start."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Count the time within to a stage; a stage may come again.

        Example:
            >>> stages = Stages()
            >>> with stages.measure("read"):
            ...     pass
            >>> list(stages.seconds)
            ['read']
        """
        self.seconds.setdefault(name, 0.0)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - started


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held so far; None where the system keeps none."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
