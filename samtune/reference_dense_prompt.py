"""A dense prompt that knows what references show.

Prompt tokens, however many, hardly tell the frozen decoder where things end; a dense prompt does
(dense_prompt.py). Here its network is told of each cell what the feature augmenter of Sun et al.
2024 (https://arxiv.org/abs/2402.17726, section 3.3) sets beside it: the prototype of what is
annotated in the references, and ten times the first guess of how much of the cell is such a thing.
So it follows references, and can be asked for what it was not trained on.
"""

from typing import cast

from torch import Tensor, nn

from samtune.dense_prompt import DensePrompt

EMPHASIS = 10.0  # of the guess beside the cells' channels


class ReferenceDensePrompt(nn.Module):
    """From an image's embedding and what references show to the dense prompt; nought at first.

    Args:
        width: channels in between.
        channels: of the embedding.
    """

    def __init__(self, width: int = 48, channels: int = 256) -> None:
        super().__init__()
        self.network = DensePrompt(width, channels)
        self.tell = nn.Linear(channels + 1, width, bias=False)

    def forward(self, image_embeddings: Tensor, guess: Tensor, prototype: Tensor) -> Tensor:
        """What to add to the dense prompt of an image, (1, C, h, w).

        Args:
            image_embeddings: (1, C, h, w).
            guess: (h, w) 0 to 1, how much of each cell is what the references show.
            prototype: (C,) mean of its normed cells in the references.
        """
        of_prototype, of_guess = self.tell.weight[:, :-1], self.tell.weight[:, -1]
        everywhere = (of_prototype @ prototype)[:, None, None]
        told = everywhere + EMPHASIS * of_guess[:, None, None] * guess
        return cast(Tensor, self.network(image_embeddings, told[None]))
