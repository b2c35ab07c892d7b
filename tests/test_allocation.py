import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import numpy as np
from samtune.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(50_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
print(keep_freed_memory(), usual, (faults(), faults())[1])
"""


def test_memory_that_was_freed_is_used_again_without_asking_the_kernel():
    pytest.importorskip("resource", reason="Windows does not count faults so")
    run = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True)
    can, usual, kept = run.stdout.split()
    if can != "True":
        pytest.skip("this C library has no mallopt")
    assert int(usual) > 100  # pages of 4 KiB up to 2 MiB
    assert int(kept) < int(usual) / 50
