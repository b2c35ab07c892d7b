"""`samtune segment --ray` on a cluster of this machine, with the tiny SAM in all its processes.

Run as a script by test_ray.py: a folder for what the workers note, then the words of the command
line. A worker notes its process before it answers, and takes its time, so that it can be killed.
"""

import os
import sys
import time
from pathlib import Path

from tiny_models import build_tiny_sam

import samtune.cli_ray
import samtune.sam
from samtune.cli import main

if __name__ == "__main__":
    import ray

    notes, *sys.argv[1:] = sys.argv[1:]

    def use_tiny_sam() -> None:
        """Sent to each worker as it starts."""
        Path(notes, str(os.getpid())).touch()
        samtune.sam.load_sam = lambda path, device: build_tiny_sam()
        encode = samtune.sam.Sam.encode_image

        def encode_slowly(sam, image):
            time.sleep(0.2)
            return encode(sam, image)

        samtune.sam.Sam.encode_image = encode_slowly

    samtune.cli_ray._IMAGES_A_BLOCK = 2
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for chance in range(4):  # Ray waits for half a minute, and machines under test are busy
        try:
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"worker_process_setup_hook": use_tiny_sam},
            )
            break
        except Exception as error:
            ray.shutdown()
            if chance == 3 or "timed out" not in str(error):
                raise
    main()
