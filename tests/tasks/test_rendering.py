"""Rays and volume rendering against the camera's inverse, a closed form and a loop."""

import math

import pytest
import torch

from opu_dfa.tasks.rendering import camera_rays, density, distances_along, render


def a_pose(generator: torch.Generator) -> torch.Tensor:
    """A random rotation and place."""
    pose = torch.eye(4)
    pose[:3, :3] = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    pose[:3, 3] = torch.randn(3, generator=generator)
    return pose


def test_a_point_on_a_ray_is_seen_in_the_ray_s_pixel():
    height, width, angle = 4, 6, 0.8
    pose = a_pose(torch.Generator().manual_seed(0))
    origins, directions = camera_rays(pose, height, width, angle)
    seen = (origins + 2.5 * directions - pose[:3, 3]) @ pose[:3, :3]  # in the camera's frame
    focal = width / (2 * math.tan(angle / 2))
    columns = width / 2 + focal * seen[:, 0] / -seen[:, 2]
    rows = height / 2 - focal * seen[:, 1] / -seen[:, 2]
    expected = torch.cartesian_prod(torch.arange(height) + 0.5, torch.arange(width) + 0.5)
    torch.testing.assert_close(torch.stack((rows, columns), 1), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(height * width))


def test_each_part_of_a_ray_is_sampled_once():
    drawn = distances_along(200, 5, 2.0, 4.0, torch.Generator().manual_seed(0))
    assert ((drawn - 2.0) / 0.4).floor().eq(torch.arange(5)).all()
    assert drawn.std(0).min() > 0.08  # uniform in parts of 0.4: 0.115, and 200 draws of it


@pytest.mark.parametrize("raw_density", [-3.0, 0.0, 1.0])
def test_a_slab_of_constant_density_absorbs_exponentially(raw_density):
    """C = c (1 - exp(-σ D)) + background exp(-σ D), whatever the samples, D from the first of them to the end."""
    raw = torch.tensor([0.3, -1.0, 2.0, raw_density], dtype=torch.float64).expand(4, 7, 4)
    distances = distances_along(4, 7, 2.0, 3.0, torch.Generator().manual_seed(0)).double()
    passing = torch.exp(-density(raw[0, 0, 3]) * (3.0 - distances[:, :1]))
    expected = raw[0, 0, :3].sigmoid() * (1 - passing) + 0.7 * passing
    torch.testing.assert_close(render(raw, distances, far=3.0, background=0.7), expected)


def test_rendering_is_compositing_from_front_to_back():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    distances = distances_along(3, 5, 1.0, 2.0, generator).double()
    rendered = render(raw, distances, far=2.0)
    for ray in range(3):
        light, colour = 1.0, torch.zeros(3, dtype=torch.float64)
        for i in range(5):
            end = distances[ray, i + 1] if i < 4 else 2.0
            opacity = 1 - torch.exp(-density(raw[ray, i, 3]) * (end - distances[ray, i]))
            colour += light * opacity * raw[ray, i, :3].sigmoid()
            light *= 1 - opacity
        torch.testing.assert_close(rendered[ray], colour + light)


def test_the_error_of_every_sample_is_exact():
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    distances = distances_along(2, 4, 1.0, 2.0, generator).double()
    assert torch.autograd.gradcheck(lambda r: render(r, distances, far=2.0), raw)


def test_extreme_outputs_stay_finite():
    raw = torch.tensor([1e4, -1e4, 0.0, 1e4]).expand(1, 3, 4).clone().requires_grad_()
    colour = render(raw, torch.tensor([[1.0, 2.0, 3.0]]), far=4.0)
    colour.sum().backward()
    torch.testing.assert_close(colour, torch.tensor([[1.0, 0.0, 0.5]]))
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
