"""`opu-dfa defend`, as a person would run it, and small enough for a test."""

import csv
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from opu_dfa.cli import main
from opu_dfa.config import config_folder, parse
from opu_dfa.defend import fitting, models, run
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defend.summary import verdict
from opu_dfa.defense import report as evaluation
from opu_dfa.defense import threats
from opu_dfa.defense.attacks import FGSM, Noise
from opu_dfa.defense.outcome import Outcome, Report
from opu_dfa.defense.rules import Surrogate
from opu_dfa.defense.threats import MEDIUM, NOTHING, Threat
from opu_dfa.training.checkpoint import load_tree

SMALL = [
    "opu=simulated",
    "opu.preset=ideal",
    "features=[[4]]",
    "n_mirrors=32",
    "n_components=64",
    "epochs=2",
    "lr=0.01",
    "train_examples=600",
    "test_examples=24",
    "eps=[0.05,0.2]",
    "attacks=[fgsm,square,transfer]",
    "steps=3",
    "queries=8",
    "surrogate_queries=16",
    "sanity=8",
]


@pytest.fixture
def defend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run the verb with some words in this process: (exit code, what it printed, what it complained)."""
    monkeypatch.chdir(tmp_path)
    for figure in ("curve", "query_curve"):  # what takes longer than all the rest
        monkeypatch.setattr(evaluation, figure, lambda reports: Unseen())
    monkeypatch.setattr(threats, "Surrogate", Quick)

    def go(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["defend", *words])
        return (stop.value.code, *capsys.readouterr())

    return go


class Quick(Surrogate):
    """A surrogate that learns little, soon."""

    @classmethod
    def fit(cls, target, images, generator, width=8, steps=10):
        return super().fit(target, images, generator, width, steps)


class Unseen:
    """A figure that draws nothing."""

    def savefig(self, *_: object, **__: object) -> None:
        pass


def folder_of(ran: tuple[object, str, str], tmp_path: Path) -> tuple[Path, dict]:
    code, printed, complaint = ran
    assert (code, complaint) == (0, "")
    folder = tmp_path / printed.strip().splitlines()[-1]
    return folder, json.loads((folder / "summary.json").read_text())


def records_of(folder: Path, key: str) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if key in record]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """A run's folder, its summary, and what it printed; done once."""
    folder, printed = tmp_path_factory.mktemp("run"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(threats, "Surrogate", Quick)
        with pytest.raises(SystemExit) as stop:
            main(["defend", *SMALL, f"hydra.run.dir={folder}"])
    assert stop.value.code == 0
    return folder, json.loads((folder / "summary.json").read_text()), printed.getvalue()


def test_a_run_trains_both_twins_attacks_them_alike_and_leaves_a_folder(small_run):
    folder, summary, printed = small_run
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "report.md",
        "robustness.png",
        "queries.png",
        "images",
        "defended.safetensors",
        "undefended.safetensors",
    }
    assert (folder / "robustness.png").stat().st_size > 10_000
    assert [(r["model"], r["epoch"]) for r in records_of(folder, "epoch")] == [
        (model, epoch) for model in ("undefended", "defended") for epoch in (1, 2)
    ]
    for name, series in summary["models"].items():
        assert [each["eps"] for each in series] == [0.05, 0.2]
        for each in series:
            assert each["robust_accuracy"] <= min(each["accuracy"].values()) <= each["clean_accuracy"]
            mine = [r for r in records_of(folder, "attack") if (r["model"], r["eps"]) == (name, each["eps"])]
            assert {r["attack"]: r["accuracy"] for r in mine} == each["accuracy"]
    replayed = {"transfer, pgd, from the twin", "transfer, mifgsm, from the twin"}
    assert {"square", *replayed, "fgsm / true feedback", "fgsm / surrogate"} < set(
        summary["models"]["defended"][0]["accuracy"]
    )
    assert set(summary["models"]["undefended"][0]["accuracy"]) == {"fgsm / exact", "square", *replayed}
    for sentence in summary["verdict"]:
        assert sentence in printed
        assert sentence in (folder / "report.md").read_text()


def test_the_frames_of_the_device_are_told_for_each_attack(small_run):
    folder, summary, printed = small_run
    for record in records_of(folder, "attack"):
        mine = next(each for each in summary["models"][record["model"]] if each["eps"] == record["eps"])
        assert mine["frames"][record["attack"]] == record["frames"]
        if record["model"] == "defended" and record["attack"] == "fgsm / true feedback":
            assert record["frames"] == 24 * (3 + 1)  # before, at the gradient, after; and the judgement's own
    under_attack = sum(r["frames"] for r in records_of(folder, "attack") if r["model"] == "defended")
    device = summary["device"]
    assert device["training_frames"] == 2 * (600 // 64 * 64)  # epochs of whole batches
    assert device["frames"] == device["training_frames"] + under_attack
    assert f"{device['frames']:,} frames" in printed


def test_the_files_of_single_images_add_up_to_the_table(small_run):
    folder, summary, _ = small_run
    for name in ("defended", "undefended"):
        with open(folder / "images" / f"{name}-51.csv") as file:  # 51 / 255 = 0.2
            rows = list(csv.DictReader(file))
        assert len(rows) == 24
        robust = sum(int(row["robust"]) for row in rows) / 24
        assert robust == pytest.approx(summary["models"][name][-1]["robust_accuracy"])


def test_an_interrupted_run_redoes_neither_models_nor_attacks(defend, tmp_path, monkeypatch):
    words = [*SMALL, "opu.preset=noisy-8bit", "repeats=3", "sanity=0"]
    _, undisturbed = folder_of(defend(*words, "hydra.run.dir=whole"), tmp_path)
    asked, whole = [], run.attacked

    def stop_at_the_sixth(model, images, labels, eps, name, *rest):
        asked.append(name)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return whole(model, images, labels, eps, name, *rest)

    monkeypatch.setattr(run, "attacked", stop_at_the_sixth)
    code, printed, _ = defend(*words, "hydra.run.dir=mine")
    assert code == 130
    assert "Continue with: opu-dfa defend resume=mine" in printed
    monkeypatch.setattr(fitting, "Training", None)  # would fail if it were called
    before = len(asked)
    _, summary = folder_of(defend("resume=mine"), tmp_path)
    assert len(asked) - before == len(records_of(tmp_path / "mine", "attack")) - 5
    assert summary["models"] == undisturbed["models"]
    assert (tmp_path / "mine/metrics.jsonl").read_text().count('"epoch"') == 4


def test_a_training_interrupted_between_epochs_ends_in_the_same_weights(defend, tmp_path, monkeypatch):
    words = [*SMALL, "sanity=0", "attacks=noise"]
    undisturbed, _ = folder_of(defend(*words, "hydra.run.dir=whole"), tmp_path)
    saved, written = fitting.save_tree, []

    def stop_at_the_second(path, tree):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        saved(path, tree)

    monkeypatch.setattr(fitting, "save_tree", stop_at_the_second)
    assert defend(*words, "hydra.run.dir=mine")[0] == 130
    assert [r["epoch"] for r in records_of(tmp_path / "mine", "epoch")] == [1, 2]
    folder, _ = folder_of(defend("resume=mine"), tmp_path)
    assert [r["epoch"] for r in records_of(folder, "epoch")] == [1, 2, 1, 2]
    assert not list(folder.glob("*.training.*"))
    for name in ("undefended", "defended"):
        one, other = (load_tree(each / f"{name}.safetensors")["model"] for each in (undisturbed, folder))
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=0, atol=0, msg=f"{name}: {key}")


def test_another_run_in_the_same_folder_is_refused(defend, tmp_path):
    words = [*SMALL, "sanity=0", "attacks=fgsm", "hydra.run.dir=mine"]
    folder_of(defend(*words), tmp_path)
    code, _, complaint = defend(*words, "lr=0.5")
    assert code == 2
    assert "holds another run already" in complaint


@pytest.mark.slow
def test_a_saved_model_falls_to_the_same_attack_bit_for_bit_in_another_process(defend, tmp_path):
    folder, _ = folder_of(defend(*SMALL, "opu.preset=noisy-8bit", "repeats=3", "sanity=0", "attacks=pgd"), tmp_path)
    found = next(r for r in records_of(folder, "attack") if r["attack"] == "pgd / true feedback" and r["eps"] == 0.2)
    code = f"""
import json
from pathlib import Path
import torch
from opu_dfa.config import parse
from opu_dfa.defend import models
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defense.attacks import PGD
from opu_dfa.defense.outcome import attacked
from opu_dfa.defense.rules import TrueFeedback
from opu_dfa.defense.threats import Threat
torch.set_num_threads({torch.get_num_threads()})
folder = Path({str(folder)!r})
data = models.find_data(parse(DefendSettings, json.loads((folder / "config.json").read_text())))
with models.trained(folder) as model:
    threat = Threat(PGD(steps=3), TrueFeedback(model))
    outcome = attacked(model, data.test_images, data.test_labels, 0.2, "pgd / true feedback", threat, 0, 3, 250)
print(json.dumps(outcome.rate.tolist()))
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == found["rates"]


def test_further_seeds_heads_and_an_adversarial_competitor_are_attacked_too(defend, tmp_path):
    words = [
        "adversarial=true",
        "adversarial_steps=1",
        "ablations=true",
        "seeds=2",
        "retrieval=[64]",
        "epochs=1",
        "train_examples=64",
    ]
    folder, summary = folder_of(defend(*SMALL, *words, "attacks=fgsm", "sanity=0", "eps=[0.1]"), tmp_path)
    assert list(summary["scores"]) == ["undefended", "defended", "adversarially trained"]
    grid = {f"{head}, {rule}" for head in models.HEADS for rule in models.RULES}
    assert set(summary["models"]) == {*summary["scores"], "defended, seed 1", *grid}
    recovered = {"pgd / T recovered, 64 patterns", "pgd / T recovered, 64 patterns, no noise"}
    assert recovered < set(summary["models"]["defended"][0]["accuracy"])
    page = (folder / "report.md").read_text()
    assert "[x] baseline trained alike: adam, 1 epochs" in page
    assert "[x] ablation grid" in page
    assert "[x] compared with adversarial training" in page
    assert "[ ] three seeds or more" in page


def report(worst: list[bool], by: str = "fgsm") -> Report:
    right, clean = torch.tensor(worst), torch.ones(len(worst), dtype=torch.bool)
    attack, knowledge = (FGSM(), MEDIUM) if by == "fgsm" else (Noise(), NOTHING)
    outcome = Outcome(by, Threat(attack, object(), knowledge), right.float(), right, 1, 0.0, torch.empty(0))  # type: ignore[arg-type]
    return Report(0.1, 0, 2, 1, clean.long(), clean.long(), clean.float(), clean, (outcome,))


@pytest.mark.parametrize(
    ("defended", "undefended", "says"),
    [
        ([True] * 50, [False] * 50, "The defence holds in part"),
        ([False] * 50, [True] * 50, "The defence makes it worse"),
        ([True, False] * 25, [False, True] * 25, "The defence does not hold"),
    ],
)
def test_the_verdict_says_plainly_what_the_worst_cases_say(defended, undefended, says):
    reports = {"undefended": [report(undefended)], "defended": [report(defended)]}
    assert verdict(reports)[0].startswith(says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["epoch=3"], "did you mean epochs"),
        (["task=adult"], "task.name=clicks"),
        (["task=mnist", "data.root=nowhere"], "no MNIST/raw in the data folder"),
        (["defense=imagenet"], "imagenet"),
        (["attacks=[fgsm,magic]"], "no attack is named 'magic'"),
        (["attacks=[]"], "got none"),
        (["eps=[-0.1]"], "above 0 and at most 1"),
        (["eps=[8/255,2/255]"], "ascending"),
        (["eps=[8/0]"], "got 8/0"),
        (["head=mirror"], "head=mirror"),
        (["rule=magic"], "rule=magic"),
        (["features=resnet"], "unknown features 'resnet'"),
        (["features=[[4],[4],[4],[4]]"], "8"),
        (["lr=1e9", "optimizer=sgd"], "lower learning_rate"),
        (["device=moon"], "device=moon is not there"),
        (["opu=lighton"], "no LightOn device"),
        (["retrieval=[3]"], "3"),
        (["resume=nowhere"], "there is no nowhere"),
        (["resume=nowhere", "epochs=3"], "leave out the other settings: epochs=3"),
    ],
)
def test_mistakes_are_one_paragraph_and_status_2(defend, words, says):
    base = [] if words[0].startswith("resume") else [*SMALL, "sanity=0"]
    code, _, complaint = defend(*base, *words)
    assert code == 2
    assert complaint.startswith("error: ")
    assert len(complaint.strip().splitlines()) == 1
    assert says in complaint


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_folder() / "defense").glob("*.yaml")))
def test_every_configuration_has_settings_that_fit(name):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("defend", [f"defense={name}"])
    chosen = parse(DefendSettings, OmegaConf.to_container(config, resolve=True))
    assert chosen.task.data == name.partition("-")[0]
    assert any(each == pytest.approx(8 / 255, rel=1e-9) for each in chosen.budgets)
