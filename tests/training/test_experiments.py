"""Every experiment of configs/experiment composes into settings that fit; and one trains by every operator."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode

from opu_dfa.config import config_folder, parse
from opu_dfa.errors import DataError
from opu_dfa.models import build_model
from opu_dfa.tasks import build_task
from opu_dfa.training.operator import FeedbackSettings
from opu_dfa.training.settings import TrainSettings

EXPERIMENTS = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
TINY = [
    "experiment=digits",
    "model.width=32",
    "steps=30",
    "batch_size=32",
    "validate_every=10",
    "alignment_every=10",
    "method=dfa",
    "hydra.run.dir=run",
]


def composed(*words: str) -> dict:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(words)), resolve=True)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_s_settings_fit_each_other(name, monkeypatch):
    """Where its data are there the model is built too; where not, the error names them and the remedy."""
    config = composed(f"experiment={name}")
    settings = parse(TrainSettings, config)
    parse(FeedbackSettings, settings.feedback, "feedback")
    monkeypatch.delenv("OPU_DFA_DATA", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    try:
        task = build_task(settings.task, settings.data)
    except DataError as error:
        missing = str(error)
    else:
        missing = None
        with FakeTensorMode(allow_non_fake_inputs=True):  # of a billion parameters too
            build_model(settings.model, task, seed=0)
    assert missing is None or "OPU_DFA_DATA" in missing


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_short(name):
    lines = (config_folder() / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert len(lines) <= 25


@pytest.mark.parametrize(
    "words",
    [
        ["feedback=gaussian", "feedback.name=orthogonal"],
        ["feedback=gaussian", "feedback.name=sparse"],
        ["feedback=gaussian", "feedback.name=structured"],
        ["feedback=gaussian", "feedback.name=learned", "feedback.layout=independent"],
        ["feedback=gaussian", "feedback.name=aligned", "feedback.sample_every=2", "feedback.layout=independent"],
        ["feedback=gaussian", "feedback.name=identity", "feedback.error_at=hidden", "feedback.align_head=0"],
        ["feedback=gaussian", "feedback.encoding=planes"],
        ["feedback=gaussian", "feedback.error_at=target", "feedback.align_head=0", "optimizer.lr.dfa=1e-2"],
        ["feedback=gaussian", "feedback.centered=true"],
        ["feedback.calibrate_every=5"],
        ["feedback.sketch=5"],
        ["optimizer.name=sgd", "optimizer.lr.dfa=0.3"],
        ["optimizer.name=adafactor", "optimizer.lr.dfa=0.1"],
        ["memory.step_in_backward=true", "memory.recompute=true", "memory.offload=true"],
        ["memory.weights=bfloat16"],
        ["optimizer.schedule=noam"],
        ["optimizer.schedule=plateau"],
        ["optimizer.schedule=constant"],
    ],
)
def test_every_operator_and_schedule_trains_and_resumes(opu_dfa, tmp_path, words, monkeypatch):
    """Stopped in the middle and continued, a run ends at the numbers of one that was not."""
    code, _, complaint = opu_dfa("train", *TINY, *words)
    assert code == 0, complaint
    whole = json.loads((tmp_path / "run" / "summary.json").read_text())["methods"]["dfa"]
    assert whole["val_accuracy"] > 0.1 + 4 * (0.1 * 0.9 / 144) ** 0.5  # four deviations above chance
    from opu_dfa.training import run as running

    class Stopped(Exception):
        pass

    once = iter([False, True])

    def stop(self, under_way, save=running._Run._checkpoint):
        save(self, under_way)
        if next(once):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(running._Run, "_checkpoint", stop)
        with pytest.raises(Stopped):
            opu_dfa("train", *TINY[:-1], *words, "hydra.run.dir=stopped", "checkpoint_every=7")
    assert opu_dfa("train", "resume=stopped")[0] == 0
    continued = json.loads((tmp_path / "stopped" / "summary.json").read_text())["methods"]["dfa"]
    assert {k: continued[k] for k in ("val_loss", "test", "alignment")} == {
        k: whole[k] for k in ("val_loss", "test", "alignment")
    }


def test_a_model_that_does_not_fit_its_task_is_refused(opu_dfa):
    code, _, complaint = opu_dfa("train", "experiment=digits", "model=gpt")
    assert code == 2
    assert "model=gpt needs the context of its task" in complaint


def test_one_method_may_be_named_alone(opu_dfa, tmp_path):
    words = [w for w in TINY if not w.startswith("method=")]
    assert opu_dfa("train", *words, "method=bp")[0] == 0
    summary = json.loads((Path(tmp_path) / "run" / "summary.json").read_text())
    assert list(summary["methods"]) == ["bp"]
    assert summary["recovery"] is None
