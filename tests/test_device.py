"""`opu-dfa device`, as a person would run it."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from hardware import Calibration, SimulatedOPU, open_opu

SMALL = ["n_features=60", "n_components=80", "batch=20", "probes=8"]


def device(*words, folder, **environment):
    command = [sys.executable, "-m", "opu_dfa.cli", "device", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


def run_folder(ran, folder):
    assert ran.returncode == 0, ran.stderr
    place = folder / ran.stdout.strip().split("\n")[-1]
    return place, json.loads((place / "summary.json").read_text())


def test_info_says_what_it_is_and_what_is_missing_for_a_real_one(tmp_path):
    ran = device("info", *SMALL, "opu.preset=appliance", folder=tmp_path)
    _, summary = run_folder(ran, tmp_path)
    assert "simulated dense medium, seed 0, 60 x 80" in ran.stdout
    assert "frame time [s]" in ran.stdout
    assert summary["camera.grain"] == 0.7
    assert "lightonopu" in summary["LightOn device"]


def test_a_calibration_is_used_by_the_next_command(tmp_path):
    settings = [*SMALL, "opu.preset=anchor"]
    place, _ = run_folder(device("calibrate", *settings, folder=tmp_path), tmp_path)
    saved = Calibration.load(place / "calibration.npz")
    assert len(saved.pixels) == 80
    ran = device("fidelity", *settings, f"opu.calibration={place / 'calibration.npz'}", folder=tmp_path)
    place, summary = run_folder(ran, tmp_path)
    assert summary["device"]["frames"] == 8 + 2 * 8 * 2  # none of them for calibrating
    assert summary["correlation"] > 0.99
    assert (place / "fidelity.png").stat().st_size > 10_000
    other = device("fidelity", *settings, "seed=1", f"opu.calibration={place / 'calibration.npz'}", folder=tmp_path)
    assert other.returncode == 2


def test_bench_times_the_device(tmp_path):
    ran = device("bench", *SMALL, "opu.medium=structured", folder=tmp_path)
    _, summary = run_folder(ran, tmp_path)
    assert summary["transform, instrument s"] == pytest.approx(20 * 500e-6)
    assert summary["linear_transform, instrument s"] == pytest.approx(40 * 500e-6)
    assert summary["transform, CPU s"] > 0


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serve_offers_the_device_until_it_is_told_to_stop(end, tmp_path):
    command = [sys.executable, "-m", "opu_dfa.cli", "device", "serve", *SMALL, "serve.port=0", "opu.preset=ideal"]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline().startswith("serving simulated dense medium, seed 0, 60 x 80")
    kind = server.stdout.readline().strip().rpartition("opu.kind=")[2]
    x = torch.ones(2, 60)
    with open_opu(kind) as opu:
        assert torch.equal(opu.transform(x), SimulatedOPU(60, 80).transform(x))
    ran = device("fidelity", "opu=remote", f"opu.kind={kind}", "n_features=null", "n_components=null", folder=tmp_path)
    _, summary = run_folder(ran, tmp_path)
    assert summary["reference"] == "additivity"
    server.send_signal(end)
    out, _ = server.communicate(timeout=30)
    assert server.returncode == 0
    assert json.loads((tmp_path / out.strip().split("\n")[-1] / "summary.json").read_text())["device"]["frames"] > 0


def test_a_run_trains_on_a_served_device(tmp_path):
    """The same numbers as with the device in the process."""
    text = tmp_path / "text.txt"
    text.write_text("the light falls on the glass and is scattered. " * 200)
    small = [
        f"task.text={text}",
        "steps=3",
        "model.width=16",
        "model.n_blocks=1",
        "model.n_heads=2",
        "task.context=16",
        "method=[dfa]",
    ]
    train = [sys.executable, "-m", "opu_dfa.cli", "train", *small, "opu.preset=ideal"]

    def trained(*words):
        ran = subprocess.run([*train, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        return run_folder(ran, tmp_path)[1]

    here = trained("opu=simulated")
    n, _, m = here["device"]["name"].rpartition(", ")[2].split()
    command = [sys.executable, "-m", "opu_dfa.cli", "device", "serve", f"n_features={n}", f"n_components={m}"]
    server = subprocess.Popen(
        [*command, "serve.port=0", "opu.preset=ideal"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    server.stdout.readline()
    kind = server.stdout.readline().strip().rpartition("opu.kind=")[2]
    try:
        there = trained("opu=remote", f"opu.kind={kind}")
    finally:
        server.kill()
        server.wait()
    assert there["methods"]["dfa"]["val_loss"] == pytest.approx(here["methods"]["dfa"]["val_loss"], rel=1e-6)
    assert there["device"]["name"] == here["device"]["name"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "opu-dfa device does info, calibrate, fidelity, serve, bench; got nothing"),
        (["explode"], "got explode"),
        (["info", "opu.prest=ideal"], "did you mean opu.preset"),
        (["info", "n_features=0"], "n_features=0 does not fit"),
        (["info", "opu.preset=perfect"], "unknown preset 'perfect'"),
        (["info", "opu.kind=quantum"], "opu.kind=quantum does not fit"),
        (["fidelity", "opu=lighton"], "no LightOn device"),
        (["fidelity", "probes=1"], "takes 2 probes"),
        (["serve", "serve.host=0.0.0.0"], "set a token"),
        (["info", "opu.calibration=nowhere.npz"], "there is no calibration at nowhere.npz"),
    ],
)
def test_mistakes_are_one_line_and_status_2(words, says, tmp_path):
    ran = device(*words, folder=tmp_path)
    assert ran.returncode == 2
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
