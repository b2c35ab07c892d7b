"""The contour refiner: what lies across a contour, and how far the boundary is.

At each of K points along a rough contour, features are sampled at T places on the contour's
normal there, from inside the object to outside: the boundary is somewhere among them. That is
how Active Shape Models look for it (Cootes et al. 1995, https://doi.org/10.1006/cviu.1995.1004);
what they learn by statistics, a small network learns here, whose points attend to each other
along the contour, as in the boundary transformer of Zhang et al. 2022
(https://arxiv.org/abs/2205.05320). It is the second of the two steps in which Kim et al. 2024
(https://arxiv.org/abs/2403.09199, figure 5) refine a mask.

Their Point Matching Module (pmm.py) reads one cell of 16 px at each point; it stays what it is
for the training of prompts. For refining it saw too little (benchmarks/README.md). The features
here are the decoder's upscaled ones, 4 px apart, and the mask's own logit.

Coordinates are (x, y) as shares of the padded input square, (pixel + 0.5) / side. Contours go
round as `mask_to_polygons` gives them, holes the other way than exteriors, so that the same turn
leads out of the object everywhere.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.pmm import contour_frame, sample_features

POINTS = 64  # along a contour
PLACES = 17  # across it, at each point
REACH = 0.12  # how far those are from it at most, as a share of the object's size
LEAST_REACH = 1.5  # the same for small objects, in steps of the features' grid
_LOGIT = 4.0  # beyond about that, logits are all alike
_PLACE_WIDTH = 11
_AT_ONCE = 1 << 16  # places whose features are looked at together


class ContourRefiner(nn.Module):
    """From features across a contour to an offset along the normal at each of its points.

    Args:
        feature_width: channels of the features; the last is the mask's logit.
        reduced: channels that each place is reduced to.
        width: of the transformer along the contour.
        heads: its heads.
        feed_forward: its hidden width.
        blocks: how many of them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        feature_width: int = 33,
        reduced: int = 24,
        width: int = 128,
        heads: int = 8,
        feed_forward: int = 256,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_width))
        self.register_buffer("deviation", torch.ones(feature_width))
        self.reduce = nn.Linear(feature_width, reduced)
        self.neighbours = nn.Conv1d(reduced, reduced, 3, padding=1)
        self.input = nn.Linear(PLACES * reduced + _PLACE_WIDTH, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, feed_forward, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.along = nn.Linear(width, PLACES)
        self.across = nn.Linear(reduced, 1)
        for last in (self.along, self.across):  # an untrained module moves nothing
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """Refine contours.

        Args:
            features: (B, s·s, C) upscaled features and logit, row by row, of the padded square.
            points: (B, K, 2) xy shares, in order along each contour.

        Returns:
            (B, K, 2) the points, moved along the contours' normals and within the square.
        """
        side = math.isqrt(features.shape[1])
        offsets, _ = self.judge(sample_across(features, points), points)
        far = reach(points, side)
        return (points + offsets[..., None] * far * outward_normals(points)).clamp(0, 1)

    @torch.no_grad()
    def normalise(self, profiles: Tensor) -> None:
        """Take the mean and the deviation of features from examples, as `judge` takes them.

        Args:
            profiles: (B, K, PLACES, C) of any float type and on any device; all of them at once in
                float32 would be hundreds of megabytes.
        """
        pieces = torch.split(profiles.flatten(0, -2), _AT_ONCE)
        count = profiles[..., 0].numel()
        mean = (
            torch.stack([_bounded(some.float()).sum(dim=0) for some in pieces]).sum(dim=0) / count
        )
        squares = [(_bounded(some.float()) - mean).square().sum(dim=0) for some in pieces]
        deviation = (torch.stack(squares).sum(dim=0) / (count - 1)).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=1e-3))

    def judge(self, profiles: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Say where the boundary is.

        Args:
            profiles: (B, K, PLACES, C) what `sample_across` gave.
            points: (B, K, 2) where.

        Returns:
            (B, K) offsets as shares of the reach, and (B, K, PLACES) logits of the places, of
            which the offsets are the mean.
        """
        reduced = F.gelu(self.reduce((_bounded(profiles) - self.mean) / self.deviation))
        in_rows = reduced.flatten(0, 1).mT
        reduced = reduced + F.gelu(self.neighbours(in_rows)).mT.view_as(reduced)
        hidden = self.input(torch.cat([reduced.flatten(2), _place(points)], dim=2))
        for block in self.blocks:
            hidden = block(hidden)
        logits = self.along(self.norm(hidden)) + self.across(reduced)[..., 0]
        places = torch.linspace(-1, 1, PLACES, device=points.device)
        return logits.softmax(dim=2) @ places, logits


def _bounded(profiles: Tensor) -> Tensor:
    """Far from the boundary, logits say nothing of where it is."""
    return torch.cat([profiles[..., :-1], torch.tanh(profiles[..., -1:] / _LOGIT)], dim=-1)


def sample_across(features: Tensor, points: Tensor) -> Tensor:
    """Read features across contours, from inside the object to outside.

    Args:
        features: (B, s·s, C) row by row, of the padded square.
        points: (B, K, 2) xy shares, in order along each contour.

    Returns:
        (B, K, PLACES, C).
    """
    places = torch.linspace(-1, 1, PLACES, device=points.device)
    far = reach(points, math.isqrt(features.shape[1]))
    steps = places[:, None] * far[..., None] * outward_normals(points)[:, :, None]
    across = (points[:, :, None] + steps).flatten(1, 2)
    return sample_features(features, across).view(*points.shape[:2], PLACES, -1)


def reach(points: Tensor, side: int) -> Tensor:
    """How far off the boundary may be, (B, 1, 1) in shares: it grows with the contour.

    Args:
        points: (B, K, 2) xy shares.
        side: of the grid of features.
    """
    _, half_size = contour_frame(points)
    return (2 * REACH * half_size).clamp(min=LEAST_REACH / side)


def outward_normals(points: Tensor) -> Tensor:
    """The unit normals of closed contours, (B, K, 2), out of the object; 0 where there is none.

    Example:
        >>> square = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]])
        >>> (outward_normals(square) * 2**0.5).round().tolist()[0][:2]
        [[-1.0, -1.0], [-1.0, 1.0]]
    """
    along = points.roll(-1, dims=1) - points.roll(1, dims=1)
    normals = torch.stack([-along[..., 1], along[..., 0]], dim=2)
    unit: Tensor = normals / normals.norm(dim=2, keepdim=True).clamp(min=1e-12)
    return unit


def _place(points: Tensor) -> Tensor:
    """(B, K, 11) where each point is on its object, and how wide that is for its height."""
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    sides = (high - low).clamp(min=1e-6)
    relative = 2 * (points - low) / sides - 1
    waves = [f(k * math.pi / 2 * relative) for k in (1, 2) for f in (torch.sin, torch.cos)]
    shape = (sides[..., :1] / sides[..., 1:]).log().expand(-1, points.shape[1], -1)
    return torch.cat([relative, *waves, shape], dim=2)
