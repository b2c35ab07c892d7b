"""Parity: whether exported graphs answer as torch does, on prompts as a user gives them.

ONNX Runtime gets an image and a prompt by the steps of segment-anything's ONNX example, through
both files one after the other; torch is the predictor that `samtune segment` uses, which does not
do here what no graph does: take out specks (specks.py), leave far clicks to SAM (nearness.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samtune.adapter import Adapter
from samtune.errors import ExportError
from samtune.images import read_image
from samtune.input_frame import input_size, scale_image
from samtune.metrics import iou
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.sam import Sam
from samtune.upscaling import MASK_THRESHOLD

LOGIT_TOLERANCE = 1e-2  # the largest difference of low_res_masks
LEAST_IOU = 0.999  # of torch's and ONNX Runtime's masks
LEAST_IOU_INT8 = 0.97  # numbers of 8 bits differ; only the masks are held against each other


@dataclass(frozen=True, eq=False)
class Question:
    """One prompt on one image: its file, or (H, W, 3) uint8 RGB."""

    image: Path | NDArray[np.uint8]
    prompt: Prompt


@dataclass(frozen=True)
class Parity:
    """How exported graphs compare with torch, the worst over all questions.

    Attributes:
        questions: how many prompts were asked.
        images: on how many images.
        low_res_difference: the largest difference of low_res_masks.
        mask_iou: the least IoU of the masks at the images' own sizes.
        decided_iou: the same, where pixels whose logit is within LOGIT_TOLERANCE of the mask's
            threshold are torch's: of a small object, one that rounding decides would be too many.
        score_difference: the largest difference of the estimated IoU.
    """

    questions: int
    images: int
    low_res_difference: float
    mask_iou: float
    decided_iou: float
    score_difference: float

    def check(self, quantized: bool) -> None:
        """Make sure that the graphs are as good as they have to be.

        Raises:
            ExportError: they are not.
        """
        least, found = LEAST_IOU, self.decided_iou
        if quantized:
            least, found = LEAST_IOU_INT8, self.mask_iou
        asked = f"on {self.questions} prompts"
        if not found >= least:  # NaN is no parity either
            mend = (
                "leave out --quantize, or compare on clicks of the task with --prompts"
                if quantized
                else "report this as a bug"
            )
            raise ExportError(
                f"the exported masks differ from torch's (least IoU {found:.4f} {asked}, "
                f"at least {least:g} is needed), so nothing was written: {mend}."
            )
        if not quantized and not self.low_res_difference <= LOGIT_TOLERANCE:
            raise ExportError(
                f"the exported logits differ from torch's by up to {self.low_res_difference:.2g} "
                f"({asked}, at most {LOGIT_TOLERANCE:g} is allowed), so nothing was written: "
                "report this as a bug."
            )


def compare(
    sam: Sam,
    adapter: Adapter | None,
    encoder: Path,
    decoder: Path,
    questions: Sequence[Question],
    on_progress: Callable[[int, int], None] | None = None,
) -> Parity:
    """Ask torch and ONNX Runtime the same.

    Args:
        sam: the model that was exported.
        adapter: what was exported with it; None is plain SAM.
        encoder: the encoder's ONNX file.
        decoder: the decoder's ONNX file.
        questions: those on one image in a row, so that it is encoded once.
        on_progress: called with the number of questions done and of all.

    Raises:
        ExportError: onnxruntime is missing, or cannot run the files.
        ImageError: a question's file cannot be read.
    """
    as_exported = None if adapter is None else adapter.as_exported()
    predictor = Predictor(sam, as_exported, every_cell=True)
    run_encoder, run_decoder = open_session(encoder), open_session(decoder)
    differences, ious, decided, scores = [], [], [], []
    last: Path | NDArray[np.uint8] | None = None
    images = 0
    for number, question in enumerate(questions, start=1):
        if question.image is not last:
            last, images = question.image, images + 1
            pixels = read_image(last) if isinstance(last, Path) else last
            embedding = sam.encode_image(pixels)
            scaled = scale_image(pixels, sam.image_size).astype(np.float32)
            (features,) = run_encoder({"input_image": scaled})
        (expected,) = predictor.predict(embedding, [question.prompt])
        size = embedding.original_size
        found = run_decoder(decoder_inputs(question.prompt, size, features, sam.image_size))
        masks, estimates, low_res_masks = found
        differences.append(np.abs(low_res_masks[0, 0] - expected.low_res_logits).max())
        above = masks[0, 0] - MASK_THRESHOLD
        ious.append(iou(above > 0, expected.mask))
        undecided = np.abs(above) <= LOGIT_TOLERANCE
        decided.append(iou(np.where(undecided, expected.mask, above > 0), expected.mask))
        scores.append(abs(float(estimates[0, 0]) - expected.score))
        if on_progress is not None:
            on_progress(number, len(questions))
    return Parity(len(ious), images, float(max(differences)), min(ious), min(decided), max(scores))


def open_session(path: Path) -> Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]:
    """Load a graph; returns a function from named inputs to all outputs.

    Raises:
        ExportError: onnxruntime is missing, or cannot load the file.
    """
    onnxruntime = require_onnxruntime()
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot load {path.name} "
            f"({' '.join(str(error).split())[:300]}): upgrade it, pip install --upgrade "
            "'samtune[onnx]'."
        ) from error
    return lambda inputs: session.run(None, inputs)


def require_onnxruntime() -> Any:
    """Import onnxruntime.

    Raises:
        ExportError: it is not installed; says how to install it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "exporting needs onnxruntime, which is not installed: pip install 'samtune[onnx]'."
        ) from error
    return onnxruntime


def decoder_inputs(
    prompt: Prompt, size: tuple[int, int], features: NDArray[np.float32], image_size: int
) -> dict[str, NDArray[np.float32]]:
    """A prompt as the decoder's graph takes it.

    Args:
        prompt: what is asked.
        size: (H, W) of the image.
        features: (1, 256, h, w) the image embedding.
        image_size: side of the padded square, pixels.
    """
    height, width = size
    last, labels = (np.zeros(2), [-1]) if prompt.box is None else (prompt.box, [2, 3])
    points = np.concatenate([prompt.points, last.reshape(-1, 2)])
    frame = input_size((height, width), image_size)
    points = points * [frame[1] / width, frame[0] / height]
    grid = [4 * side for side in features.shape[2:]]
    return {
        "image_embeddings": features,
        "point_coords": points[None].astype(np.float32),
        "point_labels": np.concatenate([prompt.labels, labels])[None].astype(np.float32),
        "mask_input": np.zeros((1, 1, *grid), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array([height, width], np.float32),
    }


def drawn_questions() -> list[Question]:
    """Prompts on a simple drawing, for a user who gives none: clicks, a box, and both."""
    rows, columns = np.mgrid[:480, :640]
    light = 60 + 40 * np.sin(rows / 37) + 30 * np.cos(columns / 53)
    image = np.stack([light, 0.8 * light + 20, 120 - 0.5 * light], axis=2)
    image[np.hypot((rows - 180) / 1.3, columns - 200) < 80] = (225, 180, 60)
    image[300:390, 350:580] = (240, 240, 235)
    image[325:365, 375:555] = (40, 40, 60)
    drawing = image.round().astype(np.uint8)
    prompts = [
        Prompt.of(points=[(200, 180)]),
        Prompt.of(points=[(465, 345)]),
        Prompt.of(points=[(180, 150), (230, 220)], negative_points=[(400, 60)]),
        Prompt.of(box=(350, 300, 579, 389)),
        Prompt.of(points=[(200, 180)], box=(118, 74, 282, 286)),
    ]
    return [Question(drawing, prompt) for prompt in prompts]
