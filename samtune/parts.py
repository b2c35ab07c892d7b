"""A mask's connected parts, each an answer of its own.

They are told apart on the logits' grid, where two parts are never neighbours: turning the other
parts' logits round leaves every pixel of a part as it was.
"""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import torch

from samtune.input_frame import Embedding
from samtune.predictor import Prediction
from samtune.specks import turned_round
from samtune.upscaling import upscale_masks

_LEAST_LOGITS = 4  # of a part, a quarter of a cell: what is smaller is a crumb of the outline


def connected_parts(
    prediction: Prediction, embedding: Embedding, image_size: int
) -> Iterator[Prediction]:
    """Take an answer apart, the largest part first.

    Args:
        prediction: the answer.
        embedding: its image.
        image_size: side of the model's padded square, pixels.

    Yields:
        The parts, but for crumbs, without alternatives or contours: those are of the whole.
    """
    logits = prediction.low_res_logits
    number, numbered, statistics, _ = cv2.connectedComponentsWithStats(
        (logits > 0).astype(np.uint8), connectivity=8
    )
    by_size = np.argsort(-statistics[1:, cv2.CC_STAT_AREA], kind="stable") + 1
    for part in by_size[: number - 1].tolist():
        if statistics[part, cv2.CC_STAT_AREA] < _LEAST_LOGITS:
            return
        alone = turned_round(logits, numbered == part)
        mask = upscale_masks(
            torch.from_numpy(alone)[None, None],
            image_size,
            embedding.input_size,
            embedding.original_size,
        )[0, 0]
        if mask.any():
            yield replace(
                prediction,
                mask=mask,
                low_res_logits=alone,
                alternatives=prediction.alternatives[:0],
                alternative_scores=prediction.alternative_scores[:0],
                alternative_logits=prediction.alternative_logits[:0],
                contours=None,
            )
