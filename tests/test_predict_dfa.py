"""`opu-dfa predict task=dfa`, as a person would run it, and what it says of a device that is noisy indeed."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.camera import Camera
from hardware.holography import PhaseShifting
from hardware.presets import PRESETS, Preset
from opu_dfa.cli import main
from opu_dfa.config import composed, parse
from opu_dfa.errors import ConfigError
from opu_dfa.predict.dfa_settings import DFASettings
from opu_dfa.predict.optical_training import Medium, device_snr, predicted, tolerated

SMALL = ["n_inputs=40", "times=[0,1,2]", "media=2", "runs=3"]


@pytest.fixture
def dim(monkeypatch):
    """A camera so weak that noise is a third of a projection."""
    camera = Camera(full_well=60, read_noise=3)
    monkeypatch.setitem(PRESETS, "dim", Preset(camera=camera, holography=PhaseShifting()))


@pytest.fixture
def predict(tmp_path, monkeypatch, capsys):
    """Run the verb with some words in this process: (exit code, what it printed, what it complained)."""
    monkeypatch.chdir(tmp_path)

    def go(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["predict", *words])
        return (stop.value.code, *capsys.readouterr())

    return go


def settings(*words: str) -> DFASettings:
    return parse(DFASettings, composed("predict-dfa", words))


def test_a_run_leaves_prediction_and_training_in_a_folder_and_resumes(predict, tmp_path):
    code, printed, complaint = predict("task=dfa", *SMALL)
    assert (code, complaint) == (0, "")
    folder = tmp_path / printed.strip().splitlines()[-1]
    names = {"config.json", "metrics.jsonl", "summary.json", "report.html", "prediction.png"}
    assert {path.name for path in folder.iterdir()} == names
    summary = json.loads((folder / "summary.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["medium"] for r in records] == [0, 1]
    for index, point in enumerate(summary["points"]):
        assert point["measured"] == pytest.approx(np.mean([r["risk"][index] for r in records]))
    assert summary["points"][0]["z"] == 0  # they start from the same overlaps
    # an interruption after the first medium
    first = (folder / "metrics.jsonl").read_text().splitlines()[0]
    (folder / "metrics.jsonl").write_text(first + "\n")
    (folder / "summary.json").unlink()
    assert predict(f"resume={folder}")[0] == 0
    again = json.loads((folder / "summary.json").read_text())
    assert [p["measured"] for p in again["points"]] == [p["measured"] for p in summary["points"]]


def test_another_task_is_refused_with_those_there_are(predict):
    code, _, complaint = predict("task=imagenet")
    assert code == 2
    assert "task=reader and task=dfa; got task=imagenet" in complaint


def test_noise_is_in_proportion_to_what_is_shown(dim):
    """Variance |φ|²/(O snr) of each unit, for errors of any size on any number of mirrors."""
    chosen = settings("opu.preset=dim", "outputs=3", "hidden=300", "n_inputs=400")
    medium, snr = Medium(chosen, 0), device_snr(chosen)
    assert 3 < snr < 100
    for shown in ([1.0, 0.0, 0.0], [0.2, 0.2, 0.2], [0.5, -0.5, 0.0]):  # shown exactly, in a pattern for each sign
        rows = torch.tensor([shown]).repeat(500, 1)
        seen = float(medium.feedback.opu.linear_transform(rows).var(dim=0).mean())
        # a unit's noise grows with its own light, an exponential variable: 6 % of the mean of 300, and 4 % of 500
        assert seen == pytest.approx(float(np.square(shown).sum()) / (3 * snr), rel=0.2)


def test_training_on_a_noisy_device_goes_as_predicted_and_not_as_without_noise(dim):
    chosen = settings("opu.preset=dim", "n_inputs=200", "times=[0,4,10]", "runs=8", "rate=2", "seed=3")
    chosen = replace(chosen, outputs=2)
    medium, snr = Medium(chosen, 0), device_snr(chosen)
    risks = medium.train()
    mean, error = risks.mean(axis=1), risks.std(axis=1, ddof=1) / math.sqrt(8)
    expected = predicted(chosen, medium.matrix, snr).risk
    assert (abs(mean - expected) <= np.maximum(3 * error, 0.08 * expected)).all(), (mean, expected, error)


def test_the_noise_that_is_tolerated_costs_a_tenth_of_the_risk():
    chosen = settings("times=[0,8]", "encoding=bit-planes", "rate=2")
    matrix = np.random.default_rng(0).standard_normal((3, 2)) / math.sqrt(2)
    snr, sweep = tolerated(chosen, matrix)
    risk, least = (predicted(chosen, matrix, each).risk[-1] for each in (snr, math.inf))
    assert risk == pytest.approx(1.1 * least, rel=0.01)
    assert (np.diff(sweep[:, 1]) < 0).all()  # the more noise, the more risk


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["times=[0,2,1]"], "times ascend"),
        (["opu.preset=sunlight"], "sunlight"),
        (["opu.kind=lighton"], "opu.kind=lighton"),
        (["n_inputs=20", "hidden=19"], "19 hidden"),
        (["encoding=unary"], "encoding"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_a_remedy(words, said):
    with pytest.raises(ConfigError, match=said):
        settings(*words)
