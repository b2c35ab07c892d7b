"""Every image of a fit encoded once, before its training."""

import time
from collections.abc import Callable, Sequence

from samtune.embeddings import EmbeddingCache
from samtune.pairs import Pair
from samtune.processes import Processes
from samtune.run import Progress
from samtune.sam import Sam


def encode_all(
    pairs: Sequence[Pair],
    sam: Sam,
    cache: EmbeddingCache,
    processes: Processes,
    on_progress: Callable[[Progress], None],
) -> list[str]:
    """Make sure that every image's embedding is in the cache; return the keys."""
    keys = []
    started = time.monotonic()
    own = pairs[processes.own(len(pairs))]
    on_progress(Progress("encode", 0, len(own)))
    for done, pair in enumerate(own, start=1):
        key, _ = cache.encode(pair.read(), sam)
        keys.append(key)
        left = (time.monotonic() - started) / done * (len(own) - done)
        on_progress(Progress("encode", done, len(own), seconds_left=left))
    return processes.together(keys)
