"""An image in which things are drawn, and a predictor that answers clicks with them."""

import numpy as np
import torch

from samtune.adapter import Adapter, AdapterInfo, Base
from samtune.input_frame import Embedding
from samtune.persam import Persam
from samtune.predictor import Prediction, Predictor
from samtune.targets import Direction

SIZE = (128, 128)  # 8×8 cells of 16 px
NO_LOGITS = np.zeros((0, 32, 32), np.float32)


def square(row, column, rows=1, columns=1):
    mask = np.zeros(SIZE, dtype=bool)
    mask[16 * row : 16 * (row + rows), 16 * column : 16 * (column + columns)] = True
    return mask


class Drawn(Predictor):
    """Answers a point with the drawn thing that it is in; else with its cell."""

    def __init__(self, sam, things):
        vector = np.zeros(256, np.float32)
        vector[0] = 1.0
        where = Direction(vector, 0.0)
        learned = Persam(np.zeros(256, np.float32), where, where, ["negative-point"])
        super().__init__(sam, Adapter(AdapterInfo("persam", Base.of(sam, "tiny")), learned))
        self.things, self.asked = things, []

    def predict(self, embedding, prompts, *, all_masks=False, refine=False):
        (prompt,) = prompts
        x, y = prompt.points[0].round().astype(int).tolist()
        self.asked.append((y // 16, x // 16))
        mask = next((one for one in self.things if one[y, x]), square(y // 16, x // 16))
        return [Prediction(mask, 0.9, NO_LOGITS, NO_LOGITS, NO_LOGITS, NO_LOGITS)]


def image_of(likeness):
    """An image whose cells are as like the object as {(row, column): value} says."""
    cells = np.zeros((256, 8, 8), np.float32)
    cells[1] = 1.0
    for place, value in likeness.items():
        cells[:2, *place] = value, np.sqrt(1 - value**2)
    return Embedding(torch.from_numpy(cells), SIZE, SIZE)
