"""Looking for all objects that a prompt learning adapter was trained for.

Cells that are likelier an object's middle than those around them are clicked on, the likeliest
first (object_map.py), or the box of the region around them is asked about, whichever did better on
held-out images (object_map_fit.py). How likely an answer is right is a logistic regression on what
is known of it: how likely the cell is, how much of the mask lies where the map has objects, its
presence, its estimated IoU, its size, and how well it lies on the region. It was fitted there, too.
"""

import math
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from samtune.input_frame import Embedding
from samtune.map_regions import Regions
from samtune.method import Answer
from samtune.object_map import ObjectMap
from samtune.open_cells import OpenCells
from samtune.prompts import Prompt
from samtune.targets import cells_inside, covered_share, point_in_cell

_LEAST = 0.05  # probability of a middle: what is less likely is not clicked on
_CERTAIN = 1e-4  # a presence is this far from 0 and 1, or further


class ObjectSearch:
    """A search for objects in one image (method.Search).

    Args:
        object_map: what was learned.
        embedding: the image.
    """

    def __init__(self, object_map: ObjectMap, embedding: Embedding) -> None:
        self._judge, self._embedding = object_map.judge, embedding
        self._with_boxes = object_map.asks_with_boxes
        rows, columns = cells_inside(embedding)
        features = embedding.features[None].to(object_map.leave.weight.device, torch.float32)
        with torch.inference_mode():
            middles, cover = (one[0, :rows, :columns].cpu() for one in object_map(features))
        highest = F.max_pool2d(middles[None], 3, stride=1, padding=1)[0]
        peaks = (middles == highest) & (middles >= math.log(_LEAST / (1 - _LEAST)))
        self._middles, self._cover = middles.numpy(), cover.numpy()
        self._open = OpenCells(self._middles, peaks.numpy(), embedding)
        self._regions = Regions(torch.sigmoid(cover).numpy(), embedding)
        self._asked = (0, 0)  # the cell that was asked about last

    @property
    def patience(self) -> int:
        """As Search's: what is left is looked at to the last, for it gets unlikely by itself."""
        return int(self._middles.size)

    def propose(self, within: NDArray[np.float32] | None = None) -> Prompt | None:
        """The likeliest middle that is still open, or the box of its region."""
        cell = self._open.take_best(within)
        if cell is None:
            return None
        self._asked = cell
        if self._with_boxes and (box := self._regions.box(cell)) is not None:
            self._open.drop(self._regions.cells(cell))  # they have the same box
            return Prompt.of(box=box)
        return Prompt.of([point_in_cell(cell, self._embedding)])

    def features(self, answer: Answer) -> NDArray[np.float32]:
        """(6,) what is known of the answer to what was proposed last."""
        share = covered_share(answer.mask, self._embedding)
        size = float(share.sum())
        present = 0.5 if answer.presence is None else answer.presence
        present = min(max(present, _CERTAIN), 1 - _CERTAIN)
        cover = float((share * self._cover).sum()) / size if size else float(self._cover.min())
        known = (
            float(self._middles[self._asked]),
            cover,
            math.log(present / (1 - present)),
            answer.score,
            math.log(max(size, _CERTAIN)),
            self._regions.agreement(share, self._asked),
        )
        return np.array(known, dtype=np.float32)

    def presence(self, answer: Answer) -> float:
        """How likely the answer is an object's mask, by an IoU of a half or more."""
        with torch.inference_mode():
            known = self.features(answer)[: self._judge.in_features]  # older maps have one less
            features = torch.from_numpy(known).to(self._judge.weight.device)
            return cast(float, torch.sigmoid(self._judge(features)).item())

    def suppress(self, mask: NDArray[np.bool_], *, accepted: bool) -> None:
        """Leave out the cells that an object covers by half; in what is none, there may be one."""
        if accepted:
            self._open.close(mask)
