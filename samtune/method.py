"""What a method of customizing SAM does: what commands know of an adapter, whichever it is.

A method answers prompts on the frozen model in its own way; some also find objects by themselves.
Each is a module of its own (prompt_learning.py, persam.py), and adapter.py has their names. What a
method learned are its tensors, named in the adapter file as in `state_dict`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samtune.clicked import Asked
from samtune.contour_refiner import ContourRefiner
from samtune.decoder import FrozenDecoder
from samtune.input_frame import Embedding
from samtune.prompts import Prompt
from samtune.reference_cells import Marked
from samtune.sam import Sam
from samtune.selector import mixture


class Answer(Protocol):
    """What a search is told of an answer: some of predictor.Prediction."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) at the image's own size."""

    @property
    def low_res_logits(self) -> NDArray[np.float32]:
        """(S, S) in the padded input frame."""

    @property
    def score(self) -> float:
        """The estimate of its IoU, 0 to 1."""

    @property
    def presence(self) -> float | None:
        """How likely, 0 to 1, the prompt is on an object; None where that was not learned."""


class Search(Protocol):
    """A search for objects in one image, one after another."""

    @property
    def patience(self) -> int:
        """How many answers in a row that are no object, or a known one, end it."""

    def propose(self, within: NDArray[np.float32] | None = None) -> Prompt | None:
        """Where to look next, in pixels of the image; None where nothing is left.

        Args:
            within: look in this box alone, (4,) x0, y0, x1, y1.
        """

    def presence(self, answer: Answer) -> float:
        """How likely it is, 0 to 1, that the answer to what was proposed last is an object."""

    def suppress(self, mask: NDArray[np.bool_], *, accepted: bool) -> None:
        """Look elsewhere from now on: (H, W) bool is known, as an object or as none."""


class Method(nn.Module):
    """What was learned, and how it answers with the frozen model.

    Attributes:
        finds: whether it finds objects without a prompt.
        proposes: whether it finds them where it is told to, all of an image.
        takes_references: whether annotated images say what to look for.
        exports: whether export.py can write it as a graph.
        refines: whether a training may leave a contour refiner beside it.
        refiner: refines contours, where it was trained.
    """

    finds: ClassVar[bool] = False
    takes_references: ClassVar[bool] = False
    exports: ClassVar[bool] = False
    refines: ClassVar[bool] = False
    refiner: ContourRefiner | None

    def __init__(self) -> None:
        super().__init__()
        self.refiner = None

    @classmethod
    def blank(cls, settings: Mapping[str, Any], names: Collection[str]) -> Self:
        """Make one for a file's tensors to be loaded into.

        The weights that are drawn for it in the meantime are nobody's: torch's random numbers stay
        as the caller has them.

        Args:
            settings: those of the fit, from the file.
            names: the tensors in the file.
        """
        with torch.random.fork_rng(devices=[]):
            return cls._blank(settings, names)

    @classmethod
    def _blank(cls, settings: Mapping[str, Any], names: Collection[str]) -> Self:
        """As `blank`, with random numbers that are its own."""
        raise NotImplementedError

    def with_references(self, sam: Sam, references: Sequence[Marked]) -> "Method":
        """The same, looking for what is marked; only where `takes_references` is true.

        Args:
            sam: the frozen model.
            references: annotated images, at least one.
        """
        raise NotImplementedError

    def attend(
        self, sam: Sam, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        """Answer B prompts with as many points and boxes, up to the choice of the mask.

        Args:
            sam: the frozen model.
            embedding: the encoded image.
            prompts: in pixels of the image.

        Returns:
            Tokens (B, T, 256), the IoU token and the mask tokens first, and cells (B, h·w, 256),
            as `FrozenDecoder.attend` has them.
        """
        raise NotImplementedError

    def estimate(self, tokens: Tensor, iou_predictions: Tensor) -> Tensor:
        """Estimate each mask's IoU, (B, 4), from the frozen head's estimate."""
        return iou_predictions

    def mix(self, estimates: Tensor) -> Tensor:
        """How much of each of the four masks to return, (B, 4), from their estimated IoU."""
        return mixture(estimates)

    def judge(self, decoder: FrozenDecoder, asked: Asked) -> Tensor | None:
        """How likely it is, (B,) from 0 to 1, that prompts are on an object; None: not known.

        Args:
            decoder: the frozen model's.
            asked: the prompts, and what `attend` gave for them.
        """
        return None

    @property
    def proposes(self) -> bool:
        """See the class."""
        return False

    def search(self, embedding: Embedding) -> Search:
        """Start to look for objects; only where `finds` or `proposes` is true."""
        raise NotImplementedError

    def parameters_in_use(self) -> int:
        """How many learned numbers segmenting uses: all but those for refining."""
        refining = [] if self.refiner is None else list(self.refiner.parameters())
        return sum(one.numel() for one in self.parameters()) - sum(one.numel() for one in refining)
