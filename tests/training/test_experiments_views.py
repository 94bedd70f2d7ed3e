"""Radiance fields train by each method from their experiments' configurations, and draw renderings."""

import json
from pathlib import Path

import numpy as np
import pytest

SMALL = ["task.n_samples=4", "task.validation_views=1", "task.test_views=1", "model.width=16", "model.n_blocks=2"]


@pytest.mark.parametrize("experiment", ["lego", "lego-paper"])
def test_all_methods_train_and_draw(opu_dfa, tmp_path: Path, experiment: str):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 4), dtype=np.uint8)
    poses = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
    poses[:, 2, 3] = 4
    (tmp_path / "nerf-lego").mkdir()
    np.savez(tmp_path / "nerf-lego/lego_100x100.npz", images_rgba=images, poses=poses, camera_angle_x=0.7)
    words = [f"data.root={tmp_path}", "steps=6", "batch_size=16", "opu=simulated", "hydra.run.dir=run", *SMALL]
    code, _, complaint = opu_dfa("train", f"experiment={experiment}", *words)
    assert code == 0, complaint
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["methods"]) == {"dfa", "bp", "frozen"}
    assert all(result["test"]["psnr"] > 0 for result in summary["methods"].values())
    assert all((tmp_path / "run" / f"{method}-sample.png").stat().st_size for method in summary["methods"])
