"""The report's pictures: objects as each model segments them, and their sensitivity maps."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samtune.dataset import Dataset
from samtune.embeddings import EmbeddingCache
from samtune.images import read_image
from samtune.metrics import iou
from samtune.overlay import COLOURS, draw_outline, mark_prompt, tint
from samtune.prompts import Prompt, center_point
from samtune.sensitivity import grid_of_clicks, in_object_and_ring, score_clicks
from samtune.sensitivity_map import Panel, draw_sensitivity
from samtune.turns import Answering, who_answers

_MAP_CLICKS = 50  # in the object
_SIDE = 200  # pixels: long side of a cut-out
_AROUND = 0.6  # of the object's long side is shown on each side of it
_LEAST_MARGIN = 12  # pixels
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class View:
    """One model's answer.

    Attributes:
        address: the cut-out, as a data: address.
        iou: of the mask.
        presence: how likely it is, to the adapter, that the click is on such an object at all;
            None where that was not learned.
    """

    address: str
    iou: float
    presence: float | None


@dataclass(frozen=True)
class Picture:
    """One object, model by model.

    Attributes:
        image: the name of its file.
        views: what each model answers.
    """

    image: str
    views: tuple[View, ...]


def draw_before_after(
    dataset: Dataset, indices: Sequence[int], predictors: Sequence[Answering], cache: EmbeddingCache
) -> list[Picture]:
    """Draw the answers to the centre click on some objects.

    The returned mask is tinted, the target's outline white, the click a green dot.

    Args:
        dataset: the objects.
        indices: which of them.
        predictors: who answers.
        cache: where embeddings are kept.
    """
    pictures = []
    for index in indices:
        thing = dataset.objects[index]
        path = dataset.pairs[thing.image_index].image
        image, target = read_image(path), thing.mask()
        click = center_point(target)
        crop = _around(thing.box, thing.size)
        views = []
        for one in predictors:
            predictor = who_answers(one, thing.image_index)
            _, embedding = cache.encode(image, predictor.sam)
            answer = predictor.predict(embedding, [click])[0]
            address = data_address(_cut_out(image, answer.mask, target, click, crop), "JPEG")
            views.append(View(address, iou(answer.mask, target), answer.presence))
        pictures.append(Picture(path.name, tuple(views)))
    return pictures


def draw_maps(
    dataset: Dataset,
    indices: Sequence[int],
    predictors: Mapping[str, Answering],
    cache: EmbeddingCache,
    on_progress: Callable[[int, int], None],
) -> tuple[list[NDArray[np.uint8]], list[dict[str, Any]]]:
    """Draw sensitivity maps of some objects.

    Args:
        dataset: the objects.
        indices: which of them.
        predictors: who answers, by name.
        cache: where embeddings are kept.
        on_progress: called with the number of maps done and of all.

    Returns:
        (H, W, 3) uint8 maps, and their numbers.
    """
    pictures, numbers = [], []
    for done, index in enumerate(indices):
        on_progress(done, len(indices))
        thing = dataset.objects[index]
        pair = dataset.pairs[thing.image_index]
        image, targets = pair.read(), [thing.mask()]
        clicks = grid_of_clicks(targets, _MAP_CLICKS)
        panels = []
        for name, one in predictors.items():
            predictor = who_answers(one, thing.image_index)
            _, embedding = cache.encode(image, predictor.sam)
            panels.append(Panel(name, score_clicks(predictor, embedding, targets, clicks)))
        pictures.append(draw_sensitivity(image, targets, clicks, panels))
        found = []
        for panel in panels:
            inside, ring = in_object_and_ring(panel.scores, clicks)
            beside = None if ring is None else asdict(ring)
            found.append({"name": panel.name, **asdict(inside), "ring": beside})
        numbers.append({"object": index, "image": pair.image.name, "sources": found})
    on_progress(len(indices), len(indices))
    return pictures, numbers


def data_address(picture: NDArray[np.uint8], file_format: str) -> str:
    """A picture (H, W, 3) uint8 RGB as a data: address, for a page that is one file."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, file_format, quality=85, optimize=True)
    text = base64.b64encode(encoded.getvalue()).decode("ascii")
    return f"data:image/{file_format.lower()};base64,{text}"


def _around(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of an object with some of its surroundings."""
    x0, y0, x1, y1 = box
    margin = max(_LEAST_MARGIN, round(_AROUND * max(x1 - x0, y1 - y0)))
    rows = slice(max(y0 - margin, 0), min(y1 + margin, size[0]))
    return rows, slice(max(x0 - margin, 0), min(x1 + margin, size[1]))


def _cut_out(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    target: NDArray[np.bool_],
    click: Prompt,
    crop: tuple[slice, slice],
) -> NDArray[np.uint8]:
    """Scaled first and drawn on then, so that lines are as thin on every object."""
    photo = image[crop]
    scale = _SIDE / max(photo.shape[:2])
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))

    def scaled(some: NDArray[np.bool_]) -> NDArray[np.bool_]:
        grown = cv2.resize(some[crop].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        return np.asarray(grown > 0)

    method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    ground = np.asarray(cv2.resize(photo, size, interpolation=method), np.uint8)
    corner = np.array([crop[1].start, crop[0].start])
    moved = Prompt((click.points - corner + 0.5) * np.float32(scale) - 0.5, click.labels)
    drawn = ground.copy()
    tint(drawn, scaled(mask), COLOURS[0])
    draw_outline(drawn, scaled(mask), COLOURS[0], 1, edge=None)
    draw_outline(drawn, scaled(target), _WHITE, 1, edge=None)
    mark_prompt(drawn, moved, 1)
    return drawn
