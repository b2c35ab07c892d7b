"""How an image lies in the model's padded square, and its embedding there.

An image of original size (H, W) is scaled so that its long side is `image_size` (the input size),
then padded right and bottom to a square (segment-anything, `ResizeLongestSide`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

IMAGE_SIZE = 1024  # pixels of the padded square input


def input_size(original_size: tuple[int, int], image_size: int = IMAGE_SIZE) -> tuple[int, int]:
    """The size of an image after scaling its long side to the model's input.

    Example:
        >>> input_size((300, 400))
        (768, 1024)
    """
    scale = image_size / max(original_size)
    height, width = original_size
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def scale_image(image: NDArray[np.uint8], image_size: int = IMAGE_SIZE) -> NDArray[np.uint8]:
    """Scale an (H, W, 3) image to its input size, before normalising and padding."""
    height, width = input_size((image.shape[0], image.shape[1]), image_size)
    # Pillow's bilinear filter, as segment-anything's ResizeLongestSide uses it.
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(scaled)


@dataclass(frozen=True, eq=False)
class Embedding:
    """One image as the encoder saw it.

    Attributes:
        features: (256, h, w) the image embedding f_I, float16 from the cache or float32.
        original_size: (H, W) of the file's image.
        input_size: (H, W) after scaling, before padding.
        mirror: the same image seen in a mirror, where both are to be asked (Predictor).
    """

    features: Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    mirror: "Embedding | None" = None

    @property
    def padded_side(self) -> int:
        """The padded square's side in pixels: as long as the input's long side."""
        return max(self.input_size)

    @property
    def reached_cells(self) -> tuple[int, int]:
        """(rows, columns) of cells that the image reaches; the others are all padding."""
        return self.reached((self.features.shape[-2], self.features.shape[-1]))

    def reached(self, grid: tuple[int, int]) -> tuple[int, int]:
        """How many rows and columns of a grid over the padded square the image reaches."""
        rows, columns = (
            -(-length * count // self.padded_side)  # rounded up
            for length, count in zip(self.input_size, grid, strict=True)
        )
        return rows, columns
