"""MobileSAM's image encoder: TinyViT (Wu et al. 2022, https://arxiv.org/abs/2207.10666).

Four stages shrink an image to a grid of features: one of convolutions (MBConv), three of
attention inside square windows. A neck brings the result to SAM's 256 channels (Zhang et
al. 2023, https://arxiv.org/abs/2306.14289). Module names are the official ones, so that
weights load by name. Batch norms are folded into the convolutions before them, which is
exact for a frozen encoder: each `….c` here is a convolution with a bias, where the official
file has `….c` without one and a `….bn` (weights.py folds it).

Most of the time on a CPU goes into moving memory, hence three habits. Feature maps are
(B, C, H, W) with channels last in memory: convolutions are fastest so, and the attention's
(B, H, W, C) is then a view. GELU works in place. MBConv widens a quarter at a time. Together
they took a quarter off the time (1.44 s to 1.10 s an image on one core, as ONNX Runtime).

Nothing here knows about files.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TinyViT(nn.Module):
    """Image encoder with MobileSAM's sizes by default; tests make smaller ones.

    Args:
        embed_dims: channels of the four stages.
        depths: blocks of the four stages.
        num_heads: attention heads of the last three stages; each divides its stage's channels.
        window_sizes: side of the attention windows of the last three stages, in grid cells.
        out_dim: channels of the image embedding.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (4, 5, 10),
        window_sizes: Sequence[int] = (7, 14, 7),
        out_dim: int = 256,
    ) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(embed_dims[0])
        self.layers = nn.ModuleList()
        for stage, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            blocks: list[nn.Module] = []
            for _ in range(depth):
                if stage == 0:
                    blocks.append(_MBConv(dim))
                else:
                    blocks.append(_WindowBlock(dim, num_heads[stage - 1], window_sizes[stage - 1]))
            downsample = None
            if stage < 3:
                # The last step keeps the resolution: SAM wants a grid of a sixteenth.
                stride = 1 if stage == 2 else 2
                downsample = _PatchMerging(dim, embed_dims[stage + 1], stride)
            self.layers.append(_Stage(blocks, downsample))
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dims[3], out_dim, 1, bias=False),
            _LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
            _LayerNorm2d(out_dim),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: (B, 3, S, S) float, normalised with SAM's mean and standard deviation and
                padded with zeros on the right and at the bottom; S is a multiple of 16, and
                1024 where the weights are MobileSAM's.

        Returns:
            (B, out_dim, S / 16, S / 16) image embeddings.
        """
        features = self.patch_embed(images.contiguous(memory_format=torch.channels_last))
        for stage in self.layers:
            features = stage(features)
        embeddings: Tensor = self.neck(features)
        return embeddings.contiguous()


class _FoldedConv(nn.Module):
    """A convolution that the batch norm after it is folded into."""

    def __init__(
        self, dim: int, out_dim: int, size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(dim, out_dim, size, stride, padding=size // 2, groups=groups)

    def forward(self, features: Tensor) -> Tensor:
        filtered: Tensor = self.c(features)
        return filtered

    @property
    def bias(self) -> Tensor:
        assert self.c.bias is not None  # folding always gives one
        return self.c.bias


class _Gelu(nn.Module):
    """GELU in place of its input: a fresh tensor costs more here than the arithmetic."""

    def forward(self, features: Tensor) -> Tensor:
        return _gelu_(features)


def _gelu_(features: Tensor) -> Tensor:
    """Apply the exact GELU in place; torch.nn.functional has no such switch."""
    activated: Tensor = torch.ops.aten.gelu_(features)
    return activated


class _PatchEmbed(nn.Module):
    """The image at a quarter of its resolution: (B, 3, H, W) -> (B, dim, H / 4, W / 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            _FoldedConv(3, dim // 2, size=3, stride=2),
            _Gelu(),
            _FoldedConv(dim // 2, dim, size=3, stride=2),
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.seq(images)
        return features


class _Stage(nn.Module):
    """Blocks of one resolution, then the step to the next stage if there is one."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return features if self.downsample is None else self.downsample(features)


class _MBConv(nn.Module):
    """Inverted bottleneck: widen four times, filter each channel, narrow, add."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = 4 * dim
        self.conv1 = _FoldedConv(dim, wide)
        self.conv2 = _FoldedConv(wide, wide, size=3, groups=wide)
        self.conv3 = _FoldedConv(wide, dim)

    def forward(self, features: Tensor) -> Tensor:
        # The wide channels meet nowhere but in conv3's sum, so they need not exist at once.
        narrowed = features + self.conv3.bias[:, None, None]
        for widen, widen_bias, kernel, kernel_bias, narrow in zip(
            self.conv1.c.weight.chunk(4),
            self.conv1.bias.chunk(4),
            self.conv2.c.weight.chunk(4),
            self.conv2.bias.chunk(4),
            self.conv3.c.weight.chunk(4, dim=1),
            strict=True,
        ):
            wide = _gelu_(F.conv2d(features, widen, widen_bias))
            wide = _gelu_(F.conv2d(wide, kernel, kernel_bias, padding=1, groups=len(kernel)))
            narrowed += F.conv2d(wide, narrow)
        return _gelu_(narrowed)


class _PatchMerging(nn.Module):
    """The step between stages: other channels and, with stride 2, half the resolution."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _FoldedConv(dim, out_dim)
        self.conv2 = _FoldedConv(out_dim, out_dim, size=3, stride=stride, groups=out_dim)
        self.conv3 = _FoldedConv(out_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        merged: Tensor = self.conv3(_gelu_(self.conv2(_gelu_(self.conv1(features)))))
        return merged


class _WindowBlock(nn.Module):
    """Attention inside windows, a filter across their borders, an MLP at each cell."""

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = _Attention(dim, num_heads, window_size)
        self.local_conv = _FoldedConv(dim, dim, size=3, groups=dim)
        self.mlp = _Mlp(dim)

    def forward(self, features: Tensor) -> Tensor:
        cells = features.permute(0, 2, 3, 1)  # (B, H, W, C)
        cells = cells + self._attend(cells)
        cells = self.local_conv(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed: Tensor = cells + self.mlp(cells)
        return mixed.permute(0, 3, 1, 2)

    def _attend(self, cells: Tensor) -> Tensor:
        batch, height, width, dim = cells.shape
        side = self.window_size
        # Cells of zeros fill the last windows. They are attended to like the others (their
        # normalised values are the norm's bias): the weights were trained that way.
        cells = F.pad(cells, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = cells.shape[1] // side, cells.shape[2] // side
        windows = cells.reshape(batch, rows, side, columns, side, dim).transpose(2, 3)
        attended: Tensor = self.attn(windows.reshape(-1, side * side, dim))
        attended = attended.reshape(batch, rows, columns, side, side, dim).transpose(2, 3)
        return attended.reshape(batch, rows * side, columns * side, dim)[:, :height, :width]


class _Attention(nn.Module):
    """Multi-head attention with a learned bias for each distance between two cells."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        indices = distance_indices(window_size)
        self.register_buffer("attention_bias_idxs", indices, persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """Attend within each of the (B, window_size², dim) windows."""
        count, cells, dim = windows.shape
        qkv = self.qkv(self.norm(windows)).view(count, cells, self.num_heads, -1)
        # Three times (B, heads, cells, dim / heads), and (heads, cells, cells).
        queries, keys, values = qkv.transpose(1, 2).chunk(3, dim=-1)
        biases = self.attention_biases[:, self.attention_bias_idxs]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=biases[None])
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(count, cells, dim))
        return projected


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, cells: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(_gelu_(self.fc1(self.norm(cells))))
        return mixed


class _LayerNorm2d(nn.Module):
    """Layer norm over the channels of (B, C, H, W), with SAM's epsilon."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        cells = features.permute(0, 2, 3, 1)
        normed = F.layer_norm(cells, self.weight.shape, self.weight, self.bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2)


def distance_indices(window_size: int) -> Tensor:
    """Which learned bias belongs to each pair of a window's cells.

    A bias belongs to a distance (|dy|, |dx|). The official code numbers distances in the
    order in which they first occur, which for a square window is dy * window_size + dx.

    Args:
        window_size: side of the window in cells.

    Returns:
        (window_size², window_size²) int64 indices into a head's window_size² biases.

    Example:
        >>> distance_indices(2).tolist()
        [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    """
    side = torch.arange(window_size)
    ys, xs = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
    dy = (ys[:, None] - ys[None, :]).abs()
    dx = (xs[:, None] - xs[None, :]).abs()
    return dy * window_size + dx
