"""The Prompt Learning Module: the small network that moves SAM's prompt onto a task.

Kim et al. 2024 (https://arxiv.org/abs/2403.09199), section 4.1: the frozen decoder is given
f_P + Δf_P instead of the prompt tokens f_P, where Δf_P = φ(f_P, f_I) comes from three operations
in a row, each followed by a layer norm: self-attention among the prompt tokens, attention from
them to the image embedding f_I, and an MLP on each token. All that is learned is φ.
"""

from typing import cast

from torch import Tensor, nn

from samtune.attention import fold_queries, gather, unfold_values
from samtune.image_cells import normalise_cells

WIDTH = 256  # channels of a token and of an image cell, fixed by SAM
HEADS = 8  # section 4.1
MLP_WIDTH = 2048  # gives the paper's 1.6 M parameters


class PromptLearningModule(nn.Module):
    """φ: prompt tokens and an image embedding to an offset for each token.

    It takes any number of sparse tokens (points of both labels, boxes), as SAM's prompt
    encoder makes them. As in SAM's own two-way block, the original tokens are the positional
    part of every query, and the dense positional encoding that of every image key.
    """

    def __init__(
        self,
        width: int = WIDTH,
        heads: int = HEADS,
        mlp_width: int = MLP_WIDTH,
        first_offset: float = 1.0,
    ) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)  # as torch's own attention layers start
            nn.init.zeros_(projection.bias)
        self.image_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width), nn.ReLU(), nn.Linear(mlp_width, width)
        )
        self.final_norm = nn.LayerNorm(width)
        nn.init.constant_(self.final_norm.weight, first_offset)
        self.num_heads = heads

    def forward(
        self, sparse_prompt_embeddings: Tensor, image_embeddings: Tensor, image_pe: Tensor
    ) -> Tensor:
        """Adapt the prompt tokens to the task.

        Args:
            sparse_prompt_embeddings: (B, P, C) prompt tokens f_P.
            image_embeddings: (I, C, h, w) f_I; B is a multiple of I, the prompts of one image in
                a row.
            image_pe: (1, C, h, w) the dense positional encoding.

        Returns:
            (B, P, C) adapted tokens f_P + Δf_P, for the frozen mask decoder.
        """
        normed = normalise_cells(image_embeddings, image_pe)
        return self.adapt(sparse_prompt_embeddings, *normed)

    def adapt(self, prompt: Tensor, normed: Tensor, normed_pe: Tensor) -> Tensor:
        """The same for images whose cells were normalised before, by `normalise_cells`.

        Args:
            prompt: (B, P, C) prompt tokens f_P.
            normed: (I, N, C) what tokens take of the cells.
            normed_pe: (I, N, C) what they attend to.

        Returns:
            (B, P, C) adapted tokens.
        """
        attended, _ = self.self_attention(prompt, prompt, prompt, need_weights=False)
        tokens = self.self_norm(prompt + attended)
        _, mixed = gather(fold_queries(self, tokens + prompt), normed, normed_pe)
        tokens = self.image_norm(tokens + unfold_values(self, mixed, tokens.shape[1]))
        return prompt + cast(Tensor, self.final_norm(tokens + self.mlp(tokens)))
