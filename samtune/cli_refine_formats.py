"""What `samtune refine` does with the objects of an image, and how it writes them in any format."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from samtune.cli_inputs import open_sam
from samtune.cli_sources import shall_refine
from samtune.console import Terminal, print_json, show_error
from samtune.errors import SamtuneError
from samtune.words import count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from samtune.input_frame import Embedding
    from samtune.masks import DatasetObject
    from samtune.predictor import Predictor
    from samtune.refinement import Move
    from samtune.results import Names, Result
    from samtune.writers import Writer


@dataclass
class Refiner:
    """Refines objects, and remembers which points went where if that is to be drawn.

    Args:
        predictor: with an adapter that can refine.
        refined: whether to; False leaves masks as they are.
        draws: whether `moves` are wanted.
    """

    predictor: "Predictor"
    refined: bool
    draws: bool
    moves: list["Move"] = field(default_factory=list)

    def __call__(self, embedding: "Embedding", before: "NDArray[np.bool_]") -> "NDArray[np.bool_]":
        """The mask (H, W) after refining."""
        from samtune.polygons import mask_to_polygons, polygons_to_mask
        from samtune.refinement import contour_moves

        if not self.refined:
            return before
        polygons = self.predictor.refine_mask(embedding, before)
        if self.draws:
            self.moves += contour_moves(mask_to_polygons(before), polygons)
        return polygons_to_mask(polygons, embedding.original_size)


def open_refiner(
    adapter: Path, checkpoint: str, device: str, terminal: Terminal, *, always: bool, draws: bool
) -> Refiner:
    """Load the model and the adapter; says so if refining did not help with it."""
    from samtune.adapter import Adapter
    from samtune.predictor import Predictor

    sam = open_sam(terminal, checkpoint, device)
    predictor = Predictor(sam, Adapter.load(adapter, sam))
    refined = shall_refine(terminal, adapter, predictor, always, coarse=True)
    return Refiner(predictor, refined, draws)


@dataclass
class FormatWriting:
    """Refines images one after the other and writes them with segment's writers.

    Args:
        refiner: what moves the contours.
        adapter: the refiner's, as the user named it.
        labels: what objects are called, by their label from 1 on; one name is everybody's.
        names: gives the overlays' names.
        writers: by format.
    """

    refiner: Refiner
    adapter: Path
    labels: Sequence[str]
    names: "Names"
    writers: dict[str, "Writer"]

    def write(self, work: Sequence[tuple[Path, Sequence["DatasetObject"]]], as_json: bool) -> int:
        """Refine and write all images; returns how many failed, each of which is told."""
        failed = 0
        try:
            for image, objects in work:
                try:
                    told = self._write_image(image, objects)
                except SamtuneError as error:
                    show_error(error)
                    failed += 1
                    continue
                for entry in told if as_json else ():
                    print_json(entry)
                if not as_json:
                    typer.echo(_in_words(image, told))
        finally:
            for writer in self.writers.values():
                writer.close()
        return failed

    def _write_image(self, image: Path, objects: Sequence["DatasetObject"]) -> list[dict[str, Any]]:
        """Write one image; returns what --json says of each object."""
        from samtune.embeddings import EmbeddingCache
        from samtune.images import read_image, write_image
        from samtune.overlay import draw_overlay

        started = time.monotonic()
        pixels = read_image(image)
        _, embedding = EmbeddingCache().encode(pixels, self.refiner.predictor.sam)
        self.refiner.moves.clear()
        results, changed = [], []
        for thing in objects:
            before = thing.mask()
            results.append(self._result(self.refiner(embedding, before), thing.label))
            changed.append(int((results[-1].mask != before).sum()))
        planned = {name: writer.plan(image, results) for name, writer in self.writers.items()}
        path = self.names.take(image.stem, "overlay.jpg")[0] if self.refiner.draws else None
        for name, writer in self.writers.items():
            writer.write(image, pixels, results, planned[name])
        overlay = {}
        if path is not None:
            masks = [one.mask for one in results]
            write_image(path, draw_overlay(pixels, masks, [], self.refiner.moves))
            overlay = {"overlay": str(path)}
        seconds = (time.monotonic() - started) / len(results)
        return [
            {
                "image": str(image),
                "mask": _name(next(iter(planned.values()))[i]),
                "files": {name: _name(paths[i]) for name, paths in planned.items()},
                "label": result.label,
                "area": result.area,
                "bbox": result.bbox,
                "adapter": str(self.adapter),
                "refined": result.refined,
                "changed": changed[i],
                "seconds": seconds,
                **overlay,
            }
            for i, result in enumerate(results)
        ]

    def _result(self, mask: "NDArray[np.bool_]", label: int) -> "Result":
        from samtune.results import Result

        name = self.labels[0] if len(self.labels) == 1 else self.labels[label - 1]
        refined = self.refiner.refined
        return Result(mask, None, name, None, self.adapter, refined)


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _in_words(image: Path, told: Sequence[dict[str, Any]]) -> str:
    """A line for people: the files, and how much has changed."""
    files = dict.fromkeys(path for one in told for path in one["files"].values() if path)
    files |= dict.fromkeys(one["overlay"] for one in told if "overlay" in one)
    changed = sum(one["changed"] for one in told)
    return f"{image} -> {', '.join(files)}  {count(len(told), 'object')}, {changed:,} px changed"
