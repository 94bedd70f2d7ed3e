"""Volume rendering: the rays of a camera, samples along them, and the colour that these add up to."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_DENSEST = 8.0  # raw: a density of e^8, 3000 per unit length, is opaque within any sample


def camera_rays(pose: Tensor, height: int, width: int, angle: float) -> tuple[Tensor, Tensor]:
    """The rays through the centres of a pinhole camera's pixels, row by row.

    Args:
        pose: camera to world, `(4, 4)`; the camera looks along its -z, y is up (OpenGL's and Blender's convention).
        height, width: pixels; angle: horizontal field of view, radians.

    Returns:
        Origins and unit directions in the world, `(height · width, 3)` each.

    >>> _, directions = camera_rays(torch.eye(4), 1, 1, angle=0.7)
    >>> directions
    tensor([[ 0.,  0., -1.]])
    """
    focal = 0.5 * width / math.tan(0.5 * angle)
    up, right = torch.meshgrid(
        (height - 1) / 2 - torch.arange(height), torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    seen = torch.stack((right / focal, up / focal, -torch.ones_like(up)), dim=-1).view(-1, 3)
    directions = F.normalize(seen @ pose[:3, :3].T, dim=-1)
    return pose[:3, 3].expand_as(directions), directions


def distances_along(
    n_rays: int, n_samples: int, near: float, far: float, generator: torch.Generator | None = None
) -> Tensor:
    """Where each ray is sampled, ascending, `(n_rays, n_samples)`: once in each of n_samples equal parts of
    [near, far], at random there, or in the middle without a generator.

    >>> distances_along(1, 2, near=2.0, far=6.0)
    tensor([[3., 5.]])
    """
    shape = (n_rays, n_samples)
    within = torch.full(shape, 0.5) if generator is None else torch.rand(shape, generator=generator)
    return near + (far - near) / n_samples * (torch.arange(n_samples) + within)


def render(raw: Tensor, distances: Tensor, far: float, background: float = 1.0) -> Tensor:
    """The colour that reaches the camera along each ray, with the exact transmittance between samples.

    C = Σ_i T_i (1 - exp(-σ_i d_i)) c_i + T_n background,  T_i = exp(-Σ_{j<i} σ_j d_j),  d_i = t_{i+1} - t_i, t_n = far

    (Mildenhall et al. 2020, arXiv 2003.08934, eq. 3; the last d there is infinite.) Colours are c = sigmoid(raw),
    densities σ = `density(raw)`.

    Args:
        raw: what a network says of each sample, red, green, blue and density, `(rays, samples, 4)`.
        distances: ascending t, `(rays, samples)`; far: where the last interval ends; background: the colour behind.

    Returns:
        `(rays, 3)`.
    """
    lengths = torch.diff(distances, dim=1, append=torch.full_like(distances[:, :1], far))
    depths = density(raw[..., 3]) * lengths
    before = F.pad(depths.cumsum(1), (1, 0))  # optical depth in front of each sample; the last: of the whole ray
    reaching = torch.exp(-before)
    weights = -torch.diff(reaching, dim=1)
    return torch.einsum("rs,rsc->rc", weights, raw[..., :3].sigmoid()) + background * reaching[:, -1:]


def density(raw: Tensor) -> Tensor:
    """σ = exp(raw), per unit length, up to e^8. An output of zero is a fog, which training clears or condenses; where
    the paper's ReLU starts empty, no gradient fills it."""
    return raw.clamp(max=_DENSEST).exp()
