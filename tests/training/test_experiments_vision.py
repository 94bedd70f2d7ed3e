"""Vision experiments train by each method from their configurations, on images that are always there."""

import json
from pathlib import Path

import pytest

RUN = ["steps=4", "batch_size=8", "validate_every=2", "alignment_every=2", "opu=simulated", "hydra.run.dir=run"]
VIT = ["model.width=16", "model.n_blocks=2", "model.n_heads=2"]
DIGITS = ["task=digits"]
EXPERIMENTS = {
    "vit-cifar10": [*DIGITS, *VIT],
    "climate": ["task.latitudes=8", "task.longitudes=16", "task.n_training=16", "task.n_held_out=8", *VIT],
    "vgg-cifar10": [*DIGITS, "model.stages=[[4],[8,8]]"],
}


def train(opu_dfa, folder: Path, *words: str) -> dict:
    code, _, complaint = opu_dfa("train", *words, *RUN)
    assert code == 0, complaint
    return json.loads((folder / "run" / "summary.json").read_text())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_all_methods_train(opu_dfa, tmp_path: Path, experiment: str):
    summary = train(opu_dfa, tmp_path, f"experiment={experiment}", *EXPERIMENTS[experiment])
    score = "r2" if experiment == "climate" else "accuracy"
    assert set(summary["methods"]) == {"dfa", "bp", "frozen"}
    assert all(score in result["test"] for result in summary["methods"].values())
    assert (tmp_path / "run" / "dfa-sample.png").exists() == (experiment == "climate")


def test_plain_feedback_reaches_every_convolution(opu_dfa, tmp_path: Path):
    plain = ["feedback.name=gaussian", "model.taps=[stages.*.units.*]"]
    words = ["experiment=vgg-cifar10", *EXPERIMENTS["vgg-cifar10"], *plain, "method=dfa"]
    summary = train(opu_dfa, tmp_path, *words)
    assert list(summary["methods"]["dfa"]["alignment"]) == [
        "stages.0.units.0",
        "stages.1.units.0",
        "stages.1.units.1",
    ]
