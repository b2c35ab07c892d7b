"""Every default of fitting, once, with its unit and source.

One set for every task: nobody should have to tune flags for plates or for cells. The measured
tables behind these numbers are in benchmarks/defaults.md.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

MethodName = Literal["plm", "persam", "persam-f", "vrp"]
Part = Literal[
    "background", "negative-point", "cascade", "agreement", "guided-attention", "semantic-prompt"
]
Precision = Literal["auto", "float32", "bfloat16"]
Annotation = Literal["mask", "box", "scribble", "point"]  # of a reference
ANNOTATIONS: tuple[Annotation, ...] = get_args(Annotation)
EVERY_OBJECT = 1000  # in an image, at most: no search for all of them goes on for ever
PARTS: tuple[Part, ...] = get_args(Part)  # of persam, to leave out and see what each does


@dataclass(frozen=True)
class FitConfig:
    """How an adapter is trained. Kept in the adapter file."""

    method: MethodName = "plm"  # the Prompt Learning Module
    seed: int = 0
    mirror: bool = False  # learn from the images in a mirror as well
    epochs: int | None = None  # passes over the training objects; None: `objects` decides
    objects: int = 3000  # objects seen in training at least, when `epochs` does not say
    passes: int = 16  # over the training objects, where that is more,
    most_objects: int = 6000  # but no more than so many; of even more objects each is seen once
    max_minutes: float | None = None  # stop training after so long, keeping the best
    val_fraction: float = 0.2  # share of the images held out when no folder is given
    batch_size: int = 2  # objects a step; one alone is slower for each, more are no faster
    learning_rate: float = 1e-3  # AdamW, of the PLM; cosine decay to 0
    dense_prompt: bool = True  # beside the PLM, learn what to add to the image's cells
    dense_rate: float = 3e-4  # learning rate of that
    weight_decay: float = 0.01  # Kim et al. 2024, section 5.1
    warmup_objects: int = 200  # linear; the paper's 250 steps of 10 are a share of 1 %
    first_offsets: tuple[float, ...] = (0.1, 1.0)  # of the PLM's last norm: sizes of Δf_P to try
    probe_objects: int = 400  # objects to try each of them on; the last quarter's loss decides
    outputs_weight: float = 0.5  # of the four outputs' losses beside that of their mixture
    output_temperature: float = 0.25  # of the softmax that weights those four by loss
    selector_rate: float = 1e-3  # learning rate of what is mixed of the four masks
    click_share: float = 0.8  # of the steps; the others show several points, or a box
    cells: int = 1024  # of 4096, decoded in a training step (supervision.py)
    precision: Precision = "auto"  # of cells in training; what is fast here (precision.py)
    average: float = 0.99  # decay a step of the moving average of the weights that is kept
    few_masks: int = 40  # fewer objects: starts are tried on held-out ones (trials.py)
    fewest_held_out: int = 8  # objects; where `val_fraction` is fewer, trainings take turns
    folds: int = 4  # parts of the images that take turns in being held out
    few_first_offsets: tuple[float, ...] = (0.0, 0.1, 1.0)  # 0: no PLM, no dense prompt
    mixture_objects: int = 400  # seen in a training without a PLM
    trial_objects: int = 600  # seen at most in a training whose weights are not kept
    few_objects: int = 1000  # seen in the training of few masks whose weights are, at least
    few_passes: int = 50  # over them
    empty_images: int = 32  # without an object, at most, that the presence learns from
    pmm: bool = True  # the Point Matching Module as auxiliary task
    pmm_weight: float = 1.0  # λ, equation 3
    pmm_rate: float = 3e-4  # learning rate of the PMM
    pmm_jitter: float = 0.2  # of the object's half size
    refiner: bool = True  # learn to refine contours afterwards (refiner_fit.py)
    auto: bool = False  # also learn where objects are (object_map.py)
    validations: int = 10  # looks at the held-out objects during training
    refine_share: float = 0.15  # of max_minutes, kept for the contour refiner
    patience: int = 8  # looks without progress after which training stops: late, because many tasks
    # fall back while the learning rate is high and end above where they were

    def objects_to_see(self, count: int) -> int:
        """How many objects a training on so many sees, where they are not few (trials.py)."""
        if self.epochs is not None:
            return self.epochs * count
        return max(self.objects, count, min(self.passes * count, self.most_objects))

    def as_settings(self, first_offset: float) -> dict[str, Any]:
        """What an adapter says of its fit: all of these, and the start that was chosen."""
        return {**asdict(self), "first_offset": first_offset}

    @property
    def views(self) -> int:
        """How often each object is among those to learn from."""
        return 2 if self.mirror else 1

    def without_refining(self) -> "FitConfig":
        """The settings of training on prompts: what the contour refiner leaves of max_minutes."""
        if self.max_minutes is None or not self.refiner:
            return self
        return replace(self, max_minutes=self.max_minutes * (1 - self.refine_share))

    def seconds_to_refine(self, trained: float) -> float:
        """How long the contour refiner may train after so many seconds of training."""
        if self.max_minutes is None:
            return math.inf
        return max(60 * self.max_minutes - trained, 60 * self.max_minutes * self.refine_share)


@dataclass(frozen=True)
class VrpConfig:
    """How the visual reference prompt encoder is trained. Kept in the adapter file."""

    method: MethodName = "vrp"
    seed: int = 0
    epochs: int | None = None  # passes over the targets; None: `episodes` decides
    episodes: int = 1500  # targets seen in training when `epochs` does not say
    max_minutes: float | None = None  # stop training after so long, keeping the best
    val_fraction: float = 0.2  # share of the images held out when no folder is given
    queries: int = 50  # prompt tokens; Sun et al. 2024, section 3.2
    batch_size: int = 2  # targets a step
    learning_rate: float = 1e-3  # AdamW, cosine decay to 0; the paper's 1e-4 is for many more
    dense_prompt: bool = True  # beside the tokens, learn what to add to the target's cells
    dense_rate: float = 3e-4  # learning rate of that
    weight_decay: float = 1e-6  # Sun et al. 2024, section 4.1
    warmup_episodes: int = 100  # linear
    precision: Precision = "auto"  # of cells in training; what is fast here (precision.py)
    references: tuple[int, ...] = (1, 2, 4)  # in an episode, each as often
    seen_cells: int = 1024  # of all references together, and of the target, looked at in a step
    first_size: float = 0.1  # of the learned tokens at the start, beside a normed one's
    annotations: tuple[Annotation, ...] = ANNOTATIONS  # references have each of them equally often
    cells: int = 1024  # of 4096, decoded in a training step (supervision.py)
    average: float = 0.99  # decay a step of the moving average of the weights that is kept
    own_references: int = 16  # that an adapter of one class carries the digest of, at most
    validations: int = 10  # looks at the held-out images during training
    look_at: int = 30  # targets in each of them
    patience: int = 8  # looks without progress after which training stops


_OF_REFERENCES = {"seed": 0, "reference": "all", "agreement": True}  # persam, persam-f


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """What of an adapter's settings is not as its method has it by default.

    Args:
        settings: as the adapter or its file has them, JSON's lists for tuples; of any version.

    Example:
        >>> settings_in_words({"method": "plm", "seed": 2, "pmm": True, "first_offset": 0.1})
        'seed 2, first_offset 0.1; all others by default'
    """
    defaults = {"plm": asdict(FitConfig()), "vrp": asdict(VrpConfig())}.get(
        str(settings.get("method")), _OF_REFERENCES
    )
    unusual = {
        name: value
        for name, value in settings.items()
        if _in_json(value) != _in_json(defaults.get(name))
    }
    words = ", ".join(f"{name} {value}" for name, value in unusual.items())
    if len(unusual) == len(settings):
        return words
    return f"{words}; all others by default" if words else "all by default"


def _in_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
