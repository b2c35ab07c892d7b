"""The Prompt Learning Module: the small network that moves SAM's prompt onto a task.

Kim et al. 2024 (https://arxiv.org/abs/2403.09199), section 4.1: the frozen decoder is given
f_P + Δf_P instead of the prompt tokens f_P, where Δf_P = φ(f_P, f_I) comes from three operations
in a row, each followed by a layer norm: self-attention among the prompt tokens, attention from
them to the image embedding f_I, and an MLP on each token. All that is learned is φ.
"""

from typing import cast

import torch
from torch import Tensor, nn

from samtune.attention import fold_queries, unfold_values

WIDTH = 256  # channels of a token and of an image cell, fixed by SAM
HEADS = 8  # section 4.1
MLP_WIDTH = 2048  # gives the paper's 1.6 M parameters
_NORM_EPS = 1e-5  # as nn.LayerNorm


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
        prompt = sparse_prompt_embeddings
        cells = image_embeddings.flatten(2).transpose(1, 2)
        pe = image_pe[0].flatten(1).T
        attended, _ = self.self_attention(prompt, prompt, prompt, need_weights=False)
        tokens = self.self_norm(prompt + attended)
        mixed = _gather_normed(fold_queries(self, tokens + prompt), cells, pe)
        tokens = self.image_norm(tokens + unfold_values(self, mixed, tokens.shape[1]))
        return prompt + cast(Tensor, self.final_norm(tokens + self.mlp(tokens)))


def _gather_normed(queries: Tensor, cells: Tensor, pe: Tensor) -> Tensor:
    """Let folded queries attend to layer-normed cells, without making those.

    SAM's embeddings are small (a standard deviation of 0.1 with MobileSAM) beside the positional
    encoding and the tokens; without a norm the tokens hardly see the image. With x_n a cell, p_n
    its place, m_n its mean and s_n its standard deviation, and 1 a vector of ones:

        q · ((x_n - m_n 1) / s_n + p_n)     =  (q · x_n - m_n (q · 1)) / s_n + q · p_n
        Σ_n A_n (x_n - m_n 1) / s_n         =  Σ_n (A_n / s_n) x_n - (Σ_n (A_n / s_n) m_n) 1

    Args:
        queries: (B, Q, C).
        cells: (I, N, C); B a multiple of I.
        pe: (N, C).

    Returns:
        (B, Q, C) mixed cells.
    """
    # torch.var_mean takes ten times as long.
    mean = cells.mean(dim=2)
    squares = torch.linalg.vector_norm(cells, dim=2).square() / cells.shape[2]
    variance = (squares - mean.square()).clamp(min=0)
    scale, mean = torch.rsqrt(variance + _NORM_EPS)[:, None], mean[:, None]
    asked = queries.reshape(cells.shape[0], -1, cells.shape[-1])
    scores = asked @ cells.transpose(1, 2) - asked.sum(dim=2, keepdim=True) * mean
    weights = torch.softmax(scores * scale + asked @ pe.T, dim=-1) * scale
    mixed = weights @ cells - (weights * mean).sum(dim=2, keepdim=True)
    return mixed.view(queries.shape)
