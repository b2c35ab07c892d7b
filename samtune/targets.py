"""Targets: what annotated images say of an object, and where another image looks like it.

PerSAM's use of the frozen encoder (Zhang et al. 2023, https://arxiv.org/abs/2305.03048, section
3.1): the cells of the embedding on a reference's mask make a target vector, and its cosine with
every cell of another image says where that object is likely.

The cosine alone is often highest elsewhere, because all cells of MobileSAM have much in common. So
the references' other cells are used as well: Fisher's linear discriminant
(https://doi.org/10.1111/j.1469-1809.1936.tb02137.x) between them and the object's, in closed form.
From one reference it finds plates twice as often (benchmarks/README.md). Both are a direction in
the space of unit cells, scaled so that 0 is like the background and 1 like the object.

Cells are 16 px on a side in the input frame (sam.py). What lies in the padding takes no part.

Products of many cells are torch's: the threads of numpy's own get in the way of torch's between
them, which took half of the time of an episode of training (vrp_learner.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from samtune.input_frame import Embedding

KEPT_SHARE = 0.5  # of a cell's area: it belongs to the object from here on
LEAST_SHARE = 0.1  # of a cell's area: an object that nowhere covers as much leaves no trace
_RIDGE = 0.1  # of the mean variance, added to each: one image has few cells for 256 channels
_LEAST_RIDGE = 1e-6  # where the background does not vary at all, as a single cell does
_FOLDS = 8  # in how many parts references are seen by the others'
_LEAST_CONTRAST = 0.05  # between object and background: with less, any noise would look like one
_Cells = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trace:
    """What an annotated image leaves in its embedding.

    Attributes:
        objects: (K, 256) float32 for each object, the cells that it covers: by half, or the one
            that it covers most.
        background: (N, 256) float32, the cells that no object covers by a tenth; may be none.
    """

    objects: tuple[_Cells, ...]
    background: _Cells

    @cached_property
    def ground(self) -> "_Moments | None":
        """How the background's unit cells vary; None where there are none."""
        return _Moments.of(_unit(self.background)) if len(self.background) else None

    @classmethod
    def of(cls, masks: Sequence[NDArray[np.bool_]], embedding: Embedding) -> "Trace | None":
        """Take an image's cells apart.

        Args:
            masks: (H, W) bool, its objects, at the image's own size.
            embedding: the image.

        Returns:
            The cells; None if each object covers less than a tenth of any cell.
        """
        return cls.of_shares([covered_share(mask, embedding) for mask in masks], embedding)

    @classmethod
    def of_shares(
        cls, shares: Sequence[NDArray[np.float32]], embedding: Embedding
    ) -> "Trace | None":
        """The same for objects whose share of each cell is known, (rows, columns)."""
        cells = inner_cells(embedding)
        shares = [share for share in shares if share.max() >= LEAST_SHARE]
        if not shares:
            return None
        objects = tuple(cells[is_object(share)] for share in shares)
        return cls(objects, cells[np.max(shares, axis=0) < LEAST_SHARE])

    def target(self, *, peak: bool) -> _Cells:
        """The target vector: mean over the objects of the mean of their cells.

        Args:
            peak: half of it is the maximum of each channel instead, as PerSAM-F has it.

        Returns:
            (256,) float32.
        """
        vectors = [
            (cells.mean(axis=0) + cells.max(axis=0)) / 2 if peak else cells.mean(axis=0)
            for cells in self.objects
        ]
        return np.mean(vectors, axis=0)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _Moments:
    """What the covariance of several images' cells is made of, whichever of the images.

    Attributes:
        count: N.
        mean: (256,) of the cells.
        products: (256, 256) mean over the cells of their outer products with themselves.
    """

    count: int
    mean: NDArray[np.floating[Any]]
    products: NDArray[np.floating[Any]]

    @classmethod
    def of(cls, cells: _Cells) -> "_Moments":
        """Those of (N, 256) cells, N at least 1."""
        own = torch.from_numpy(cells)
        return cls(len(cells), cells.mean(axis=0), (own.T @ own / len(cells)).numpy())

    @classmethod
    def together(cls, parts: Sequence["_Moments"]) -> "_Moments":
        """Those of all cells of at least one part, in float64: spread is little beside them."""
        count = sum(one.count for one in parts)
        mean, products = np.zeros(parts[0].mean.shape), np.zeros(parts[0].products.shape)
        for one in parts:
            mean += one.count / count * one.mean
            products += one.count / count * one.products
        return cls(count, mean, products)

    def about(self, middle: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """(256, 256) how the cells spread about some (256,) middle."""
        own = self.products - np.outer(self.mean, middle)
        spread: NDArray[np.floating[Any]] = own - np.outer(middle, self.mean - middle)
        return spread


@dataclass(frozen=True, eq=False)
class Direction:
    """Where to look among unit cells: likeness is vector · cell - offset.

    Attributes:
        vector: (256,) float32.
        offset: so that cells like the background have 0 and those like the object 1.
    """

    vector: _Cells
    offset: float

    @classmethod
    def fit(cls, traces: Sequence[Trace], *, background: bool, peak: bool) -> "Direction":
        """Find the direction of an object's cells.

        Its scale is set by what each reference looks like to the others, if there are several.

        Args:
            traces: of the references.
            background: against their other cells (Fisher's discriminant); False is the target
                vector's, so that likeness is its cosine but for the scale.
            peak: as for `Trace.target`; of the latter.
        """

        def vector_of(some: Sequence[Trace]) -> _Cells:
            if background:
                return _discriminant(some)
            return _unit(np.mean([trace.target(peak=peak) for trace in some], axis=0))

        vector = vector_of(traces)
        off, on = _levels(traces, vector_of if len(traces) > 1 else lambda _: vector)
        scale = max(on - off, _LEAST_CONTRAST * float(np.linalg.norm(vector)))
        return cls((vector / scale).astype(np.float32), off / scale)

    def likeness(self, embedding: Embedding) -> NDArray[np.float32]:
        """How much each cell of an image that lies in it is like the object.

        Returns:
            (rows, columns) float32: the grid's upper left part, without the padding.
        """
        cells, vector = (torch.from_numpy(one) for one in (inner_cells(embedding), self.vector))
        found: _Cells = (F.normalize(cells, dim=-1) @ vector).numpy() - np.float32(self.offset)
        return found


def covered_share(mask: NDArray[np.bool_], embedding: Embedding) -> NDArray[np.float32]:
    """Average a mask over each cell whose centre lies in its image.

    Args:
        mask: (H, W) bool, of the image's own size.
        embedding: the image.

    Returns:
        (rows, columns) float32 share of each cell's area on the mask.
    """
    rows, columns = (
        _overlaps(length, framed, embedding.padded_side / embedding.features.shape[-1], count)
        for length, framed, count in zip(
            mask.shape, embedding.input_size, cells_inside(embedding), strict=True
        )
    )
    return rows @ (mask.astype(np.float32) @ columns.T)


def is_object(share: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which cells an object covers, from `covered_share`: by half, or the one it covers most."""
    return share >= min(KEPT_SHARE, float(share.max()))


def cells_inside(embedding: Embedding) -> tuple[int, int]:
    """(rows, columns) of cells whose centre lies in the image; at least one of each."""
    stride = embedding.padded_side / embedding.features.shape[-1]
    rows, columns = (max(1, round(framed / stride)) for framed in embedding.input_size)
    return rows, columns


def point_in_cell(cell: tuple[int, int], embedding: Embedding) -> tuple[float, float]:
    """The middle of a cell (row, column) as a point (x, y) in pixels of the original image."""
    stride = embedding.padded_side / embedding.features.shape[-1]
    y, x = (
        min((index + 0.5) * stride * length / framed - 0.5, length - 1.0)
        for index, length, framed in zip(
            cell, embedding.original_size, embedding.input_size, strict=True
        )
    )
    return x, y


def inner_cells(embedding: Embedding) -> _Cells:
    """(rows, columns, 256) the cells whose centre lies in the image."""
    rows, columns = cells_inside(embedding)
    inner = embedding.features[:, :rows, :columns].permute(1, 2, 0)
    cells: _Cells = inner.float().cpu().numpy()
    return cells


def _overlaps(length: int, framed: int, stride: float, count: int) -> NDArray[np.float32]:
    """(count, length) the share of each cell that each of `length` pixels covers, on one axis."""
    starts = np.arange(length) * (framed / length)
    cell = np.arange(count)[:, None] * stride
    both = np.minimum(starts + framed / length, cell + stride) - np.maximum(starts, cell)
    shares: NDArray[np.float32] = (both.clip(min=0) / stride).astype(np.float32)
    return shares


def _discriminant(traces: Sequence[Trace]) -> _Cells:
    """(256,) Fisher's linear discriminant; the background's cells alone tell how cells vary."""
    on = np.mean([_mean_unit(trace.objects) for trace in traces], axis=0)
    grounds = [trace.ground for trace in traces if trace.ground is not None]
    if not grounds:  # the objects fill their images: there is nothing to tell them from
        return on  # type: ignore[no-any-return]
    off = np.mean([ground.mean for ground in grounds], axis=0)  # each image counts the same
    covariance = _Moments.together(grounds).about(off)
    ridge = max(_RIDGE * np.trace(covariance) / len(covariance), _LEAST_RIDGE)
    system = torch.from_numpy((covariance + ridge * np.eye(len(covariance))).astype(np.float32))
    vector: _Cells = torch.linalg.solve(system, torch.from_numpy(on - off)).numpy()
    return vector


def _levels(
    traces: Sequence[Trace], vector_of: Callable[[Sequence[Trace]], _Cells]
) -> tuple[float, float]:
    """Mean of background and object along the direction that the other references give."""
    off, on = [], []
    for fold in range(min(_FOLDS, len(traces))):
        seen = traces[fold::_FOLDS]
        vector = vector_of([one for n, one in enumerate(traces) if n % _FOLDS != fold])
        on += [float(_mean_unit(one.objects) @ vector) for one in seen]
        off += [float(one.ground.mean @ vector) for one in seen if one.ground is not None]
    return float(np.mean(off)) if off else 0.0, float(np.mean(on))


def _mean_unit(objects: Sequence[_Cells]) -> _Cells:
    return np.mean([_unit(cells).mean(axis=0) for cells in objects], axis=0)  # type: ignore[no-any-return]


def _unit(cells: _Cells) -> _Cells:
    length = np.linalg.norm(cells, axis=-1, keepdims=True)
    unit: _Cells = cells / np.maximum(length, 1e-12)
    return unit
