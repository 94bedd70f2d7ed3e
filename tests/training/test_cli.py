"""The command line: what it says of mistakes, and what a run leaves."""

import json
import re
import shutil
import subprocess

import pytest
import torch

from opu_dfa.models import build_model
from opu_dfa.tasks import build_task
from opu_dfa.training.checkpoint import load_tree
from opu_dfa.training.metrics import read_metrics

COMPLETE = {
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "report.html",
    "loss.png",
    "alignment.png",
    "checkpoint.safetensors",
    "dfa.safetensors",
    "bp.safetensors",
    "frozen.safetensors",
}


def one_paragraph(complaint: str) -> bool:
    return complaint.startswith("error: ") and len(complaint.strip().splitlines()) == 1


def test_a_run_leaves_a_folder_and_prints_it_last(opu_dfa, small, tmp_path):
    code, printed, complaint = opu_dfa("train", *small)
    assert (code, complaint) == (0, "")
    folder = tmp_path / printed.strip().splitlines()[-1]
    assert {path.name for path in folder.iterdir()} >= COMPLETE
    summary = json.loads((folder / "summary.json").read_text())
    losses = {method: result["val_loss"] for method, result in summary["methods"].items()}
    expected = (losses["frozen"] - losses["dfa"]) / (losses["frozen"] - losses["bp"])
    assert summary["recovery"] == pytest.approx(expected)
    # 12 steps of 4 x 16 tokens, two patterns a token, two frames a pattern
    device = summary["device"]
    assert device["frames"] - device["probe_frames"] == 12 * 4 * 16 * 2 * 2
    assert device["seconds"] == pytest.approx(device["frames"] * 500e-6)
    assert device["joules"] == pytest.approx(device["seconds"] * 30)
    symbols = summary["device"]["dense_projection_flops"] // (2 * 16 * 12 * 4 * 16)
    assert symbols == len(set((tmp_path / "text.txt").read_text()))
    records = read_metrics(folder / "metrics.jsonl")
    assert [r["step"] for r in records] == [*range(1, 13)] * 3
    assert records[-1]["val_loss"] == losses["frozen"]
    assert set(records[0]["alignment"]) == {"blocks.0", "blocks.1"}


def test_the_report_is_one_page_without_outside_references(opu_dfa, small, tmp_path):
    _, printed, _ = opu_dfa("train", *small, "method=[dfa]")
    page = (tmp_path / printed.strip().splitlines()[-1] / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert page.count("<svg") == 2
    assert "optical DFA" in page


def test_loss_falls_and_methods_start_alike(opu_dfa, small, tmp_path):
    _, printed, _ = opu_dfa("train", *small, "steps=60")
    records = read_metrics(tmp_path / printed.strip().splitlines()[-1] / "metrics.jsonl")
    first = {r["method"]: r["loss"] for r in records if r["step"] == 1}
    last = {r["method"]: r["loss"] for r in records if r["step"] == 60}
    assert first["dfa"] == first["bp"] == first["frozen"]
    assert all(last[method] < first[method] - 0.3 for method in first)


@pytest.mark.parametrize(
    "words",
    [
        ["model.tie_weights=true"],
        ["task.level=byte"],
        ["feedback=gaussian"],
        ["feedback=gaussian", "feedback.encoding=stochastic"],
        ["feedback.layout=independent"],
        ["feedback.encoding=threshold"],
        ["feedback.error_at=hidden", "feedback.align_head=0"],
        ["model.taps=[embedding,blocks.*.*]"],
        ["model.through=null"],
        ["optimizer.clip_norm=0"],
        ["opu=simulated", "opu.preset=ideal", "opu.seed=5"],
    ],
)
def test_choices_train(opu_dfa, small, tmp_path, words):
    code, printed, complaint = opu_dfa("train", *small, *words, "method=[dfa]", "steps=30")
    assert code == 0, complaint
    records = read_metrics(tmp_path / printed.strip().splitlines()[-1] / "metrics.jsonl")
    assert records[-1]["loss"] < records[0]["loss"] - 0.1


def test_a_sweep_runs_every_choice(opu_dfa, small, tmp_path):
    code, _, complaint = opu_dfa("train", "--multirun", *small, "method=[bp]", "seed=0,1", "hydra.sweep.dir=sweep")
    assert code == 0, complaint
    seeds = {json.loads(path.read_text())["seed"] for path in (tmp_path / "sweep").glob("*/summary.json")}
    assert seeds == {0, 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stpes=3"], "did you mean steps?"),
        (["model.widht=3"], "did you mean model.width?"),
        (["steps=many"], "steps=many does not fit"),
        (["steps=0"], "steps=0"),
        (["optimizer.lr.dfa=-1"], "optimizer.lr.dfa=-1"),
        (["model=resnet"], "resnet"),
        (["method=[dfa,magic]"], "magic"),
        (["model.n_heads=3"], "width 16 and n_heads 3"),
        (["feedback.layout=diagonal"], "feedback.layout=diagonal"),
        (["feedback.encoding=null"], "error: feedback.encoding=null shows the exact error"),
        (["method=[]"], "error: method=[] must name"),
        (["model.taps=[nothing.*]"], "'nothing.*'; it has embedding"),
        (["model.taps=[blocks.*,final_norm,head]"], "leave the output layer out"),
        (["model.through=nrm"], "'nrm'"),
        (["model.through=embedding"], "'through': 'embedding'"),
        (["model.head=foo"], "'foo'"),
        (["model.trained_after=[x]"], "'x'"),
        (["task.text=5"], "5 cannot be read"),
        (["seed=18446744073709551616"], "seed=18446744073709551616"),
        (["opu.preset=perfect"], "unknown preset 'perfect'"),
        (["opu=lighton"], "no LightOn device"),
        (["task.text=nowhere.txt"], "No such file"),
        (["resume=nowhere"], "there is no nowhere"),
        (["resume=nowhere", "steps=3"], "leave out the other settings: steps=3"),
        (["steps=="], "steps=="),
    ],
)
def test_mistakes_are_one_clear_paragraph(opu_dfa, small, words, says):
    resumes = words[0].startswith("resume")
    code, _, complaint = opu_dfa("train", *([] if resumes else small), *words)
    assert code == 2
    assert one_paragraph(complaint), complaint
    assert says in complaint


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\xff\xfe" * 99, "not UTF-8"), (b"ab", "too short")]
)
def test_unfit_texts(opu_dfa, small, text, content, says):
    text.write_bytes(content)
    code, _, complaint = opu_dfa("train", *small)
    assert code == 2
    assert one_paragraph(complaint)
    assert says in complaint


def test_a_new_run_does_not_overwrite_an_old_one(opu_dfa, small, tmp_path):
    assert opu_dfa("train", *small, "method=[bp]", "hydra.run.dir=mine")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    code, _, complaint = opu_dfa("train", *small, "hydra.run.dir=mine")
    assert code == 2
    assert one_paragraph(complaint)
    assert "holds a run already" in complaint
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_validation_keeps_its_own_interval(opu_dfa, small, tmp_path):
    words = ["method=[bp]", "validate_every=3", "log_every=5", "hydra.run.dir=run"]
    assert opu_dfa("train", *small, *words)[0] == 0
    seen = [r["step"] for r in read_metrics(tmp_path / "run/metrics.jsonl") if "val_loss" in r]
    assert seen == [3, 6, 9, 12]


def test_frozen_blocks_stay_as_drawn_even_with_tied_weights(opu_dfa, small, tmp_path):
    words = ["method=[frozen]", "model.tie_weights=true", "hydra.run.dir=run"]
    assert opu_dfa("train", *small, *words)[0] == 0
    trained = load_tree(tmp_path / "run/frozen.safetensors")
    settings = json.loads((tmp_path / "run/config.json").read_text())
    drawn, _ = build_model(settings["model"], build_task(settings["task"]), seed=0)
    for name, weight in drawn.state_dict().items():
        same = torch.equal(weight, trained[name])
        # Tied weights start as the aligned head, so the embedding is compared with what the head started from.
        assert same == name.startswith(("blocks", "embedding.position")) or name == "embedding.token.weight", name
    assert not torch.equal(trained["embedding.token.weight"], trained["head.weight"])


def test_unknown_verbs_and_help(opu_dfa):
    assert opu_dfa("fly")[0] == 2
    code, printed, _ = opu_dfa("--help")
    assert code == 0
    assert "opu-dfa train" in printed


def test_a_diverging_loss_is_told_and_keeps_its_checkpoint(opu_dfa, small, tmp_path):
    code, _, complaint = opu_dfa(
        "train", *small, "optimizer.lr.dfa=1e4", "optimizer.warmup=0", "steps=40", "checkpoint_every=1"
    )
    assert code == 2
    assert one_paragraph(complaint)
    assert "training by dfa diverged at step" in complaint
    assert "optimizer.lr.dfa=3.3e+03" in complaint
    folder = next((tmp_path / "runs/train").iterdir())
    assert (folder / "checkpoint.safetensors").is_file()
    assert len(read_metrics(folder / "metrics.jsonl")) >= 1


def test_a_read_only_place_is_told(opu_dfa, small, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code, _, complaint = opu_dfa("train", *small, "hydra.run.dir=file/run")
    assert code == 2
    assert one_paragraph(complaint)
    assert "cannot write" in complaint


def test_a_read_only_file_system_is_told(opu_dfa, small, tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    code, _, complaint = opu_dfa("train", *small, f"hydra.run.dir={tiny_disk}/run")
    assert code == 2
    assert one_paragraph(complaint)
    assert "Read-only file system" in complaint


def test_a_full_disk_is_told_and_loses_nothing(opu_dfa, small, tiny_disk, tmp_path, final):
    """The disk fills up during the run; with room again, it continues to the numbers of an undisturbed run."""
    folder = tiny_disk / "run"
    code, printed, _ = opu_dfa("train", *small)
    undisturbed = tmp_path / printed.strip().splitlines()[-1]
    code, _, complaint = opu_dfa("train", *small, f"hydra.run.dir={folder}")
    assert code == 2, "the whole run should not fit on the disk"
    assert one_paragraph(complaint)
    assert "No space left on device" in complaint
    assert "opu-dfa train resume=disk/run" in complaint
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    code, _, _ = opu_dfa("train", f"resume={moved}")
    assert code == 0
    assert final(moved) == final(undisturbed)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 300 kB: two checkpoints of the small run, and no third of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)
