"""Whether a training learns from its images' mirror images, too.

Few objects are seen so often that they are learned by heart; their mirror images are others to
learn from, and soon encoded. Many are not, and encoding them takes long (benchmarks/README.md).
"""

from dataclasses import replace

from samtune.config import FitConfig
from samtune.dataset import Dataset


def decide_mirroring(config: FitConfig, train: Dataset, held_out: Dataset | None) -> FitConfig:
    """The settings for a data set, which say whether its images are mirrored.

    Args:
        config: the settings; where they say so already, they stay as they are.
        train: what will be learned from.
        held_out: what will not; its mirror images are none to learn from.
    """
    if config.mirror is not None or config.method != "plm":
        return config
    count = len(train.objects)
    often = config.objects_to_see(count) >= config.mirror_passes * count
    return replace(config, mirror=often and not (held_out is not None and held_out.is_mirrored))
