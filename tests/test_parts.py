"""A mask's connected parts."""

import numpy as np
import torch

from samtune.input_frame import Embedding
from samtune.parts import connected_parts
from samtune.predictor import Prediction
from samtune.upscaling import upscale_masks

IMAGE_SIZE, SIZE, FRAME = 128, (60, 80), (96, 128)
EMBEDDING = Embedding(torch.zeros(256, 8, 8), SIZE, FRAME)


def prediction(logits):
    mask = upscale_masks(torch.from_numpy(logits)[None, None], IMAGE_SIZE, FRAME, SIZE)[0, 0]
    return Prediction(
        mask=mask,
        score=0.75,
        low_res_logits=logits,
        alternatives=mask[None],
        alternative_scores=np.ones(1, np.float32),
        alternative_logits=logits[None],
    )


def test_parts_are_the_pixels_of_the_whole_shared_out_largest_first():
    logits = np.full((32, 32), -3.0, np.float32)
    logits[2:6, 2:5] = 4
    logits[7:20, 8:20] = 0.5  # its corner is a pixel away from the first, in both directions
    logits[10:12, 24:26] = 9
    whole = prediction(logits)
    parts = list(connected_parts(whole, EMBEDDING, IMAGE_SIZE))
    areas = [int(part.mask.sum()) for part in parts]
    assert len(parts) == 3
    assert areas == sorted(areas, reverse=True)
    assert (np.sum([part.mask for part in parts], axis=0) == whole.mask).all()
    for part in parts:
        again = prediction(part.low_res_logits).mask
        assert (again == part.mask).all()
        assert part.score == 0.75
        assert len(part.alternatives) == len(part.alternative_scores) == 0


def test_crumbs_are_no_parts():
    logits = np.full((32, 32), -3.0, np.float32)
    logits[3, 3:6] = logits[10:12, 10:12] = 5
    (part,) = connected_parts(prediction(logits), EMBEDDING, IMAGE_SIZE)
    assert part.mask.any()
    assert (part.low_res_logits > 0).sum() == 4
    assert (part.low_res_logits[10:12, 10:12] > 0).all()


def test_an_empty_mask_has_no_part_nor_has_what_is_all_in_the_padding():
    logits = np.full((32, 32), -1.0, np.float32)
    assert list(connected_parts(prediction(logits), EMBEDDING, IMAGE_SIZE)) == []
    logits[28:31, 3:9] = 5  # the image ends with row 23
    assert list(connected_parts(prediction(logits), EMBEDDING, IMAGE_SIZE)) == []
