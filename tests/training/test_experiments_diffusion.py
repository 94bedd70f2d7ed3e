"""The denoiser trains by each method from its experiment's configuration, and draws samples."""

import json
from pathlib import Path

SMALL = ["task=diffusion-digits", "task.sampling_steps=2", "model.width=16", "model.n_blocks=2", "batch_size=8"]


def test_all_methods_train_and_draw(opu_dfa, tmp_path: Path):
    words = ["experiment=diffusion-mnist", *SMALL, "steps=6", "opu=simulated", "hydra.run.dir=run"]
    code, _, complaint = opu_dfa("train", *words)
    assert code == 0, complaint
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["methods"]) == {"dfa", "bp", "frozen"}
    assert summary["device"]["frames"] > summary["device"]["probe_frames"] > 0
    assert all((tmp_path / "run" / f"{method}-sample.png").stat().st_size for method in summary["methods"])
