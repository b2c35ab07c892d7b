"""Freed memory kept for the next tensor.

The C library of most Linux systems gives large blocks back to the kernel as soon as they are
freed, and asks for them anew for the next tensor. The kernel then hands them out page by page,
each cleared first: 200 MB of faults an image encoded, a tenth of the time, and a fifth of that of
many prompts on an image (benchmarks/README.md).
"""

import ctypes

# From glibc's malloc.h: the largest block that the heap gives, and how much of the heap's end may
# lie idle. Whole photos of hundreds of megabytes go back to the kernel as before.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 128 << 20
_IDLE = 512 << 20


def keep_freed_memory() -> bool:
    """Let this process keep up to half a gigabyte of what it frees, instead of asking anew.

    Commands do so by themselves. In a program of your own, call it before the work; it is a
    setting of the whole process, hence none that importing samtune changes.

    Returns:
        Whether the C library is one that can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl; Windows has no such handle
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, _IDLE))
