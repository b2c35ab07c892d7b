"""What the visual reference prompt encoder learns in a number of episodes, and what of it is new.

    python benchmarks/vrp.py DATA/plates --episodes 300
    python benchmarks/vrp.py DATA/face_parts --classes 1,2,5 --new 3,4 --state faces.state
    python benchmarks/vrp.py DATA/plates --references 1 4 --annotations mask box scribble point

Each folder holds train/, where targets and references are drawn from, and val/, which is scored
without clicks, evenly chosen images of it, with mean IoU on the logits' grid in percent. Classes
of --new take no part in training, only their references are in train/, as many as --references
says, evenly from all, with annotations of each kind of --annotations, drawn as training draws them.
Choices are made with --held-out, never on val/. With --state a run goes on where the last one
stopped, after --minutes.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from samtune.allocation import keep_freed_memory
from samtune.checkpoints import resolve
from samtune.config import ANNOTATIONS, Annotation, VrpConfig
from samtune.dataset import Dataset, load_dataset, split
from samtune.embeddings import EmbeddingCache
from samtune.evenly import evenly
from samtune.learner import EncodedImages
from samtune.reference_cells import Marked, draw_annotation, vanishes
from samtune.resume import read_state, write_state
from samtune.sam import Sam, load_sam
from samtune.vrp_fit import supervised_targets
from samtune.vrp_learner import Target, VrpLearner


class Task:
    """A folder's targets to learn from and to be scored."""

    def __init__(
        self, folder: Path, classes: list[int], sam: Sam, most: int, *, held_out: bool
    ) -> None:
        cache, rng = EmbeddingCache(), np.random.default_rng(0)
        train = _read(folder / "train", classes)
        if held_out:
            train, val = split(train, VrpConfig.val_fraction, 0)
        else:
            val = _read(folder / "val", classes)
        known = {image for image, _ in val.digests}
        train = train.subset(
            [n for n, (image, _) in enumerate(train.digests) if image not in known]
        )
        pairs = [*train.pairs, *val.pairs]
        keys = [cache.encode(pair.read(), sam)[0] for pair in pairs]
        self.images = EncodedImages(sam, cache, pairs, keys)
        self.train = supervised_targets(train, sam, rng)
        self.val: list[Target] = []
        targets = supervised_targets(val, sam, rng, first=len(train.pairs))
        for label in sorted({one.label for one in targets}):
            members = [one for one in targets if one.label == label]
            self.val += evenly(members, most)


def _read(folder: Path, classes: list[int]) -> Dataset:
    dataset = load_dataset(folder, objects="instances" if classes else None)
    return dataset.by_class(classes or None)


class Annotated(VrpLearner):
    """A learner whose references, when it is scored, have annotations of one kind."""

    kind: Annotation = "mask"

    def references(self, label: int) -> list[Marked]:
        """As VrpLearner's."""
        chosen = evenly(self.classes[label], self.config.own_references)
        rng, marked = np.random.default_rng(0), []
        for one in chosen:
            embedding = self._embedding(one)
            share = draw_annotation(one, embedding, self.kind, rng)
            if not vanishes(share):
                marked.append(Marked(embedding, share, self.kind in ("point", "scribble")))
        return marked


def scores(learner: Annotated, targets: list[Target], references: int, kind: Annotation) -> str:
    """Mean IoU by class, with so many references of that kind."""
    learner.kind, learner.config = kind, replace(learner.config, own_references=references)
    found = {
        label: 100 * learner.held_out_iou([one for one in targets if one.label == label])
        for label in sorted({one.label for one in targets})
    }
    by_class = ", ".join(f"{label}: {iou:.1f}" for label, iou in found.items())
    return f"{references} references, {kind}: {by_class}"


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", default="", help="to train on; all is one class without")
    parser.add_argument("--new", default="", help="classes to be scored alone")
    parser.add_argument("--episodes", type=int, default=VrpConfig.episodes)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--held-out", action="store_true", help="score a fifth of train/ instead")
    parser.add_argument("--images", type=int, default=12, help="of val/, for each class, at most")
    parser.add_argument("--references", type=int, nargs="+", default=[16])
    parser.add_argument("--annotations", choices=ANNOTATIONS, nargs="+", default=["mask"])
    parser.add_argument("--queries", type=int, default=VrpConfig.queries)
    parser.add_argument("--first-size", type=float, default=VrpConfig.first_size)
    arguments = parser.parse_args()
    keep_freed_memory()  # as samtune's commands do
    started = time.monotonic()
    trained, new = (
        [int(one) for one in text.split(",") if one] for text in (arguments.classes, arguments.new)
    )
    sam = load_sam(resolve("mobile_sam"))
    classes, most = trained + new, arguments.images
    task = Task(arguments.folder, classes, sam, most, held_out=arguments.held_out)
    config = VrpConfig(queries=arguments.queries, first_size=arguments.first_size)
    learner = Annotated(sam, config, task.images, task.train, arguments.episodes)
    everything = learner.classes
    known = {label: of for label, of in everything.items() if label not in new}
    identity = {"task": str(arguments.folder), "classes": trained, "total": arguments.episodes}
    identity |= {"held_out": arguments.held_out, "queries": arguments.queries}
    identity |= {"first_size": arguments.first_size}
    if arguments.state and arguments.state.is_file():
        learner.restore(read_state(arguments.state, identity))
    else:
        for count in arguments.references:
            print(f"untrained, {scores(learner, task.val, count, 'mask')}", flush=True)
    learner.classes, before = known, time.process_time()
    while learner.step < learner.steps and time.monotonic() - started < 60 * arguments.minutes:
        learner.train_step()
    if arguments.state:
        write_state(arguments.state, identity, learner.state())
    seconds = time.process_time() - before
    print(f"{learner.seen} episodes, {seconds:.0f} s of processor time now; ", end="")
    print(f"loss {np.mean(learner.losses[-50:]):.3f}", flush=True)
    learner.classes = everything
    for kind in arguments.annotations:
        for count in arguments.references:
            print(f"trained, {scores(learner, task.val, count, kind)}", flush=True)


if __name__ == "__main__":
    main()
