"""The task of views on scenes written in the real format."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from opu_dfa.errors import ConfigError, DataError
from opu_dfa.tasks.build import build_task
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.views import ViewTask

SECTION = {
    "name": "views",
    "scene": "scene.npz",
    "validation_views": 2,
    "test_views": 1,
    "n_samples": 4,
    "near": 2.0,
    "far": 6.0,
}


def write(path: Path, images: np.ndarray) -> None:
    """Views from the z axis, four away from the middle."""
    poses = np.tile(np.eye(4, dtype=np.float32), (len(images), 1, 1))
    poses[:, 2, 3] = 4.0
    np.savez(path, images_rgba=images, poses=poses, camera_angle_x=np.float32(0.7))


def a_task(folder: Path, **changed: object) -> ViewTask:
    """Each view opaque and of one grey of its own: 0, 20, 40, ... of 255."""
    greys = np.arange(8, dtype=np.uint8)[:, None, None, None] * 20
    images = np.broadcast_to(greys, (8, 5, 6, 4)).copy()
    images[..., 3] = 255
    write(folder / "scene.npz", images)
    task = build_task(SECTION | changed, DataSettings(root=str(folder), download=False))
    assert isinstance(task, ViewTask)
    return task


def test_held_out_views_are_never_trained_on(tmp_path):
    task = a_task(tmp_path)
    (_, (trained, _)) = task.batch(2000, torch.Generator().manual_seed(0))
    seen = [trained, *(torch.cat([y[0] for _, y in task.examples(s, 7)]) for s in ("validation", "test"))]
    greys = [{round(255 * c) for c in colours[:, 0].tolist()} for colours in seen]
    assert [len(g) for g in greys] == [5, 2, 1]
    assert set.union(*greys) == set(range(0, 160, 20))
    assert len(seen[1]) == 2 * 5 * 6  # all rays of the split


def test_samples_lie_on_their_rays(tmp_path):
    (positions, directions), (colours, distances) = a_task(tmp_path).batch(9, torch.Generator().manual_seed(0))
    assert [t.shape for t in (positions, directions, colours)] == [(9, 4, 3), (9, 1, 3), (9, 3)]
    camera = torch.tensor([0.0, 0.0, 4.0])
    torch.testing.assert_close((positions - camera).norm(dim=-1), distances)
    torch.testing.assert_close((positions - camera) / distances.unsqueeze(-1), directions.expand(9, 4, 3))


def test_half_transparent_pixels_are_half_white(tmp_path):
    images = np.zeros((4, 2, 2, 4), dtype=np.uint8)
    images[..., 3] = 51  # a fifth
    write(tmp_path / "scene.npz", images)
    task = build_task(SECTION, DataSettings(root=str(tmp_path), download=False))
    _, (colours, _) = task.batch(10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(colours, torch.full((10, 3), 0.8))


def test_nothing_renders_as_white_and_scores_the_views_distance_from_it(tmp_path):
    task = a_task(tmp_path)

    def empty(x: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.full((*x[0].shape[:2], 4), -1e4)

    colours = torch.cat([y[0] for _, y in task.examples("validation", 64)])
    error = (1 - colours).square().mean().item()
    scores = task.evaluate(empty, "validation")
    assert scores["loss"] == pytest.approx(error, rel=1e-5)
    assert scores["psnr"] == pytest.approx(10 * math.log10(1 / error), rel=1e-5)


def test_the_figure_shows_the_photograph_above_its_rendering(tmp_path):
    class Grey(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raw = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 1e4]))

        def forward(self, positions: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
            return self.raw.expand(*positions.shape[:2], 4)

    task = a_task(tmp_path)
    figure = task.figure(Grey(), torch.Generator())
    above, below = (axes.images[0].get_array() for axes in figure.axes)
    ((_, (truth, _)),) = task.examples("test", 30)
    np.testing.assert_allclose(above.reshape(-1, 3), truth.numpy())
    np.testing.assert_allclose(below, 0.5, atol=1e-6)


def test_what_does_not_fit_is_named(tmp_path):
    data = DataSettings(root=str(tmp_path), download=False)
    with pytest.raises(DataError, match=r"no scene.npz in the data folder .*images_rgba"):
        build_task(SECTION, data)
    (tmp_path / "scene.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as a scene"):
        build_task(SECTION, data)
    np.savez(tmp_path / "scene.npz", images_rgba=np.zeros((3, 2, 2, 4)), poses=np.zeros((3, 4, 4)), camera_angle_x=0.7)
    with pytest.raises(DataError, match="holds images float64"):
        build_task(SECTION, data)
    with pytest.raises(DataError, match="leave none to train on"):
        a_task(tmp_path, validation_views=6, test_views=2)
    with pytest.raises(ConfigError, match=r"task.near=6.0 must be less than task.far=6.0"):
        a_task(tmp_path, near=6.0)


def test_the_cameras_of_the_real_scene_look_at_its_middle():
    folder = os.environ.get("OPU_DFA_DATA")
    if not folder or not (Path(folder) / "nerf-lego/lego_100x100.npz").is_file():
        pytest.skip("OPU_DFA_DATA holds no nerf-lego/lego_100x100.npz")
    task = build_task(SECTION | {"scene": "nerf-lego/lego_100x100.npz"}, DataSettings(root=folder, download=False))
    (positions, directions), _ = next(task.examples("test", 10_000))
    central = 50 * 100 + 50  # half a pixel from the optical axis
    closest = torch.linalg.cross(positions[central, 0], directions[central, 0]).norm()
    assert closest < 0.05  # four away, half a pixel each way is 0.02
