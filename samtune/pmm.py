"""The Point Matching Module: points of a contour, moved onto the true boundary.

Kim et al. 2024 (https://arxiv.org/abs/2403.09199), section 4.2: image features after the
decoder's two-way transformer, sampled at the points of a rough contour, go through a boundary
transformer ψ (Zhang et al. 2022, https://arxiv.org/abs/2205.05320) that tells how far each
point should move. As an auxiliary task while fitting, its gradient reaches the PLM through the
features; in use, it refines a mask's contours.

Where the papers are silent or their code went wrong, decided here: the points of one contour
attend to each other, along the contour; each point carries a cyclic code of its place and its
position relative to the object; offsets are in units of the object's half size, so that a
plate of 30 px and a face of 900 px are the same task; the matching loss counts both directions
(equation 4 alone leaves predicted points free that are nobody's nearest).

Coordinates here are (x, y) as shares of the padded input square, (pixel + 0.5) / side, so that
0 and 1 are its borders.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

POINTS = 64  # on one contour; 20 in Zhang et al., too few for outlines that are not text
FREQUENCIES = 4  # of the cyclic place code and of the relative position
MAX_OFFSET = 0.5  # of the object's half size, in each direction


class PointMatchingModule(nn.Module):
    """ψ: the features at K points of a closed contour to an offset for each point."""

    def __init__(
        self,
        feature_width: int = 256,
        width: int = 128,
        heads: int = 8,
        feed_forward: int = 1024,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        place_width = 4 * FREQUENCIES + 2
        self.input = nn.Linear(feature_width + place_width, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, feed_forward, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.beside = nn.Linear(feature_width + place_width, width)
        last = nn.Linear(width // 2, 2)
        nn.init.zeros_(last.weight)  # an untrained module moves nothing
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width // 2), nn.ReLU(), last
        )

    def forward(self, image_features: Tensor, points: Tensor) -> Tensor:
        """Refine contours.

        Args:
            image_features: (B, h·w, C) f_D, the cells after the decoder's transformer.
            points: (B, K, 2) xy shares of the padded square, in order along the contour.

        Returns:
            (B, K, 2) the refined points, within the square.
        """
        batch, count, _ = points.shape
        center, half_size = contour_frame(points)
        relative = (points - center) / half_size
        place = torch.linspace(0, 2 * math.pi, count + 1, device=points.device)[:-1]
        multiples = torch.arange(1, FREQUENCIES + 1, device=points.device)
        angles = place[:, None] * multiples
        cyclic = torch.cat([angles.sin(), angles.cos()], dim=1).expand(batch, -1, -1)
        waves = relative * math.pi / 2
        position = torch.cat(
            [relative] + [f(k * waves) for k in (1, 2) for f in (torch.sin, torch.cos)], dim=2
        )
        features = torch.cat([sample_features(image_features, points), cyclic, position], dim=2)
        hidden = first = self.input(features)
        for block in self.blocks:
            hidden = block(hidden)
        offsets = self.head(torch.cat([hidden + first, self.beside(features)], dim=2))
        return (points + half_size * MAX_OFFSET * torch.tanh(offsets)).clamp(0, 1)


def sample_features(image_features: Tensor, points: Tensor) -> Tensor:
    """Interpolate features between the centres of the four cells around each point.

    Only those cells are touched, forward and backward, unlike with `grid_sample`, whose gradient
    is a whole new grid; the numbers are the same.

    Args:
        image_features: (B, h·w, C) the cells of a square grid, row by row.
        points: (B, K, 2) xy shares of the padded square.

    Returns:
        (B, K, C); beyond the outermost centres, the nearest cell's.
    """
    batch, count, _ = points.shape
    side = math.isqrt(image_features.shape[1])
    place = (points * side - 0.5).clamp(0, side - 1)
    low = place.floor().clamp(max=max(side - 2, 0))
    share = place - low  # of the right or lower neighbour
    corners = torch.stack([low, (low + 1).clamp(max=side - 1)], dim=2).long()  # (B, K, 2, xy)
    index = corners[:, :, :, None, 1] * side + corners[:, :, None, :, 0]  # (B, K, row, column)
    weights = torch.stack([1 - share, share], dim=2)
    weights = weights[:, :, :, None, 1] * weights[:, :, None, :, 0]
    width = image_features.shape[2]
    around = image_features.gather(1, index.view(batch, -1, 1).expand(-1, -1, width)).to(points)
    blended = weights.view(batch, count, 1, 4) @ around.view(batch, count, 4, width)
    return blended[:, :, 0]


def contour_frame(points: Tensor) -> tuple[Tensor, Tensor]:
    """The centre (B, 1, 2) of contours' boxes and their half size (B, 1, 1), in the same unit."""
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    sides = (high - low).clamp(min=1e-4)
    return (low + high) / 2, sides.prod(dim=2, keepdim=True).sqrt() / 2


def matching_loss(refined: Tensor, target: Tensor) -> Tensor:
    """How far refined and true contour points are from each other's nearest (equation 4).

    Args:
        refined: (B, K, 2) predicted points.
        target: (B, L, 2) points of the true contour.

    Returns:
        (B,) mean squared distance, averaged over both directions, in units of the half size
        of the true contour.
    """
    _, half_size = contour_frame(target)
    squared = ((refined[:, :, None] - target[:, None]) / half_size[:, None]).square().sum(dim=3)
    return (squared.amin(dim=1).mean(dim=1) + squared.amin(dim=2).mean(dim=1)) / 2


def jitter(points: Tensor, generator: torch.Generator, amount: float = 0.2) -> Tensor:
    """Move a true contour about as far off as a rough mask is.

    Real masks are wrong in whole stretches, so most of the noise is smooth along the contour
    (the lowest frequencies), and some of it independent for each point, as in Zhang et al.

    Args:
        points: (B, K, 2) true contour points.
        generator: source of randomness.
        amount: how far, in units of the object's half size.

    Returns:
        (B, K, 2) points that are up to about that far from where they belong.
    """
    batch, count, _ = points.shape
    _, half_size = contour_frame(points)
    place = torch.linspace(0, 2 * math.pi, count + 1)[:-1]
    waves = torch.cat(
        [torch.ones(1, count)]
        + [f(k * place)[None] for k in (1, 2, 3) for f in (torch.sin, torch.cos)]
    )
    strength = torch.tensor([1, 0.7, 0.7, 0.5, 0.5, 0.4, 0.4]) / 2
    draws = torch.randn(batch, 2, len(strength), generator=generator) * strength
    smooth = (draws @ waves).transpose(1, 2)
    rough = torch.rand(batch, count, 2, generator=generator) - 0.5
    size = torch.rand(batch, 1, 1, generator=generator)  # some contours are nearly right
    return (points + half_size * amount * size * (smooth + rough)).clamp(0, 1)


def resample_contour(contour: NDArray[np.floating], count: int = POINTS) -> NDArray[np.float32]:
    """Take points at equal distances along a closed contour.

    Args:
        contour: (N, 2) xy vertices; the last is joined to the first.
        count: how many points to take.

    Returns:
        (count, 2) float32 xy, the first at the contour's first vertex.

    Example:
        >>> square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
        >>> resample_contour(square, 8).tolist()[:3]
        [[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]
    """
    closed = np.vstack([contour, contour[:1]]).astype(np.float64)
    lengths = np.hypot(*np.diff(closed, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.arange(count) * along[-1] / count
    columns = [np.interp(wanted, along, closed[:, axis]) for axis in (0, 1)]
    return np.stack(columns, axis=1).astype(np.float32)
