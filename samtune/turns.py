"""Predictors that take turns on a data set, each on images that it was not trained on.

Where masks are few, `fit` holds each part of the images out of one training (trials.py), and every
image is answered by the training that has not seen it.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from samtune.predictor import Predictor


class Turns:
    """Several predictors that answer as one, image by image.

    Args:
        predictors: all on the same frozen model.
        parts: of each, the numbers of the images that it answers.
    """

    def __init__(self, predictors: Sequence[Predictor], parts: Iterable[Sequence[int]]) -> None:
        self.sam = predictors[0].sam
        self.count = len(predictors)
        pairs = zip(predictors, parts, strict=True)
        self._of_image = {image: predictor for predictor, part in pairs for image in part}

    def on(self, image_index: int) -> Predictor:
        """Who answers an image of the data set."""
        return self._of_image[image_index]


Answering: TypeAlias = Predictor | Turns


def who_answers(answering: Answering, image_index: int) -> Predictor:
    """The one who answers an image of the data set: the same on all, or whose turn it is."""
    return answering.on(image_index) if isinstance(answering, Turns) else answering
