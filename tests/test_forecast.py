"""`opu-dfa forecast`, as a person would run it, and small enough for a test."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from opu_dfa.cli import main
from opu_dfa.config import config_folder, parse
from opu_dfa.forecast import models, run
from opu_dfa.forecast.settings import ForecastSettings
from opu_dfa.reservoir import SYSTEMS, ReservoirForecaster
from opu_dfa.reservoir.evaluation import HeldOut
from opu_dfa.training.report import drawn

SMALL = [
    "system=lorenz63",
    "lyapunov_exponent=0.9",
    "n_units=125",
    "train_steps=1500",
    "steps=300",
    "starts=6",
    "free_run=400",
    "washout=100",
    "features=state+input",  # and scales that do not move with the tuning of the configuration
    "spectral_radius=0.4",
    "input_scale=0.5",
    "bias_scale=0.4",
    "leak_rate=1.0",
    "ridge=1e-8",
]
ALONE = [*SMALL, "kernel=false"]


@pytest.fixture
def forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run the verb with some words in this process: (exit code, what it printed, what it complained)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "drawn", lambda figure, kind: b"")  # pictures take longer than all the rest

    def go(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["forecast", *words])
        return (stop.value.code, *capsys.readouterr())

    return go


@pytest.fixture
def pictures(forecast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run draw its pictures."""
    monkeypatch.setattr(run, "drawn", drawn)


def folder_of(ran: tuple[object, str, str], tmp_path: Path) -> tuple[Path, dict]:
    code, printed, complaint = ran
    assert (code, complaint) == (0, "")
    folder = tmp_path / printed.strip().splitlines()[-1]
    return folder, json.loads((folder / "summary.json").read_text())


def records_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_forecasts_by_reservoir_and_kernel_and_leaves_a_folder(forecast, tmp_path):
    ran = forecast(*SMALL, "kernel_train_steps=500")
    folder, summary = folder_of(ran, tmp_path)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "forecast.png",
        "errors.png",
        "spectrum.png",
        "reservoir.safetensors",
        "kernel.safetensors",
    }
    records = records_of(folder)
    assert [(r["model"], r["start"]) for r in records] == [(m, i) for m in ("reservoir", "kernel") for i in range(6)]
    for name, result in summary["models"].items():
        times = [r["valid_time"] for r in records if r["model"] == name]
        assert result["valid_prediction_time"]["mean"] == pytest.approx(np.mean(times))
        assert result["valid_prediction_time"]["median"] == pytest.approx(np.median(times))
        assert np.median(times) > 1
    assert "recurrent kernel" in ran[1]
    assert "valid prediction, mean" in ran[1]


def test_the_numbers_are_those_of_the_estimator_alone(forecast, tmp_path):
    folder, _ = folder_of(forecast(*ALONE), tmp_path)
    series = SYSTEMS["lorenz63"]().series(1500 + 6 * 300)
    settings = json.loads((folder / "config.json").read_text())
    names = ("n_units", "spectral_radius", "input_scale", "bias_scale", "leak_rate", "ridge", "features")
    model = ReservoirForecaster(**{name: settings[name] for name in names}).fit(series[:1500], washout=100)
    found = model.forecast(300, warmup=series[1900:2100])  # from the third start, with a longer warm-up
    assert records_of(folder)[2]["position"] == 2100
    wrong = np.linalg.norm(found - series[2100:2400], axis=1) > 0.4 * np.sqrt(series.var(0).sum())
    assert wrong.any()
    assert records_of(folder)[2]["valid_time"] == pytest.approx(wrong.argmax() * 0.02 * 0.9, rel=0.05)
    loaded = ReservoirForecaster.load(folder / "reservoir.safetensors")
    assert np.allclose(loaded.forecast(20), model.forecast(20), rtol=1e-4)


@pytest.mark.usefixtures("pictures")
def test_the_report_is_one_page_without_outside_references(forecast, tmp_path):
    folder, _ = folder_of(forecast(*ALONE), tmp_path)
    page = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", page)
    assert page.count("<img") == 3
    assert min((folder / f"{name}.png").stat().st_size for name in ("forecast", "errors", "spectrum")) > 10_000


def test_the_exponent_is_computed_where_none_is_given(forecast, tmp_path):
    _, summary = folder_of(forecast(*ALONE, "lyapunov_exponent=null", "free_run=0"), tmp_path)
    assert summary["lyapunov_exponent"]["source"] == "computed"
    assert summary["lyapunov_exponent"]["value"] == pytest.approx(0.906, rel=0.02)  # Viswanath 1998


@pytest.mark.usefixtures("pictures")
def test_a_field_of_many_channels_is_forecast_in_groups(forecast, tmp_path):
    words = ["system=lorenz96", "system.n=8", "n_groups=4", "overlap=2", "n_units=100", "train_steps=1000", "starts=3"]
    more = ["lyapunov_exponent=1.0", "steps=40", "free_run=0", "washout=20"]
    folder, summary = folder_of(forecast(*words, *more), tmp_path)
    assert summary["models"]["reservoir"]["one_step_nrmse"] < 0.1
    assert (folder / "forecast.png").stat().st_size > 10_000


def test_a_csv_file_is_forecast_without_lyapunov_times(forecast, tmp_path):
    t = np.arange(600)
    lines = [f"{np.sin(x / 5):.6f},{np.cos(x / 7):.6f}" for x in t]
    (tmp_path / "waves.csv").write_text("\n".join(["north,south", *lines]))
    ran = forecast("series=waves.csv", "columns=[south,north]", "n_units=100", "ridge=1e-6", "kernel=false")
    folder, summary = folder_of(ran, tmp_path)
    assert summary["unit"] == "steps"
    assert summary["lyapunov_exponent"]["value"] is None
    assert summary["models"]["reservoir"]["nrmse"] < 0.05
    assert summary["models"]["reservoir"]["valid_prediction_time"]["capped"] == 20
    assert "Raise steps" in ran[1]
    positions = [r["position"] for r in records_of(folder)]
    assert (positions[0], positions[-1]) == (450, 570)  # the last forecast ends where the series does


@pytest.mark.parametrize("unit", ["erf", "intensity"])
def test_an_optical_reservoir_forecasts_and_accounts_for_its_frames(forecast, tmp_path, unit):
    words = ["opu=simulated", "opu.preset=ideal", "projection=opu", f"nonlinearity={unit}", "n_units=60"]
    ran = forecast(*SMALL, *words, "train_steps=300", "steps=20", "starts=2", "free_run=0", "kernel=false")
    folder, summary = folder_of(ran, tmp_path)
    assert summary["device"]["frames"] > 300
    assert summary["device"]["seconds"] == pytest.approx(summary["device"]["frames"] * 500e-6)
    assert "frames" in ran[1]
    assert "optical reservoir" in (folder / "report.html").read_text()


def test_a_binary_optical_reservoir_has_no_kernel_beside_it(forecast, tmp_path):
    words = ["opu=simulated", "projection=opu", "nonlinearity=intensity", "n_units=40", "free_run=0"]
    _, summary = folder_of(forecast(*SMALL, *words, "train_steps=200", "steps=10", "starts=1"), tmp_path)
    assert list(summary["models"]) == ["reservoir"]


def test_an_interrupted_run_continues_with_the_missing_starts(forecast, tmp_path, monkeypatch):
    _, undisturbed = folder_of(forecast(*ALONE), tmp_path)
    asked, whole = [], HeldOut.forecast

    def stop_at_the_third_batch(self, model, starts, steps=None):
        asked.append(list(starts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(self, model, starts, steps)

    monkeypatch.setattr(run, "_AT_ONCE", 2)
    monkeypatch.setattr(HeldOut, "forecast", stop_at_the_third_batch)
    code, printed, _ = forecast(*ALONE, "hydra.run.dir=mine")
    assert code == 130
    assert "Continue with: opu-dfa forecast resume=mine" in printed
    assert [r["start"] for r in records_of(tmp_path / "mine")] == [0, 1, 2, 3]
    folder, summary = folder_of(forecast("resume=mine"), tmp_path)
    assert asked[3] == [4, 5]
    assert folder == tmp_path / "mine"
    again = summary["models"]["reservoir"]["valid_prediction_time"]
    assert again["n_starts"] == 6
    assert again["mean"] == pytest.approx(undisturbed["models"]["reservoir"]["valid_prediction_time"]["mean"], rel=0.1)


@pytest.mark.usefixtures("pictures")
def test_a_search_reports_its_best_on_starts_it_has_not_seen(forecast, tmp_path):
    fixed = [f"~space.{name}" for name in ("spectral_radius", "input_scale", "bias_scale", "leak_rate")]
    words = ["search=3", "search_starts=2", "space.ridge=[1.0e-8,1.0e-1]", *fixed]
    ran = forecast(*ALONE, *words, "ridge=1.0")
    folder, summary = folder_of(ran, tmp_path)
    found = summary["search"]
    assert len(found["trials"]) == 3
    scores = [trial[found["measure"]] for trial in found["trials"]]
    assert scores == sorted(scores, reverse=True)
    assert found["trials"][0]["ridge"] == found["best"]["ridge"] == 1e-8
    assert (folder / "search.png").stat().st_size > 5_000
    assert min(r["position"] for r in records_of(folder)) == 1500 + 2 * 300
    assert "Best of 3 trials" in ran[1]


def test_a_sweep_is_one_table_with_the_longest_prediction_first(forecast, tmp_path):
    words = ["ridge=1.0,1e-7", "hydra.sweep.dir=sweep", "free_run=0"]
    code, printed, complaint = forecast("--multirun", *ALONE, *words)
    assert code == 0, complaint
    jobs = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [job["overrides"]["ridge"] for job in jobs] == ["1e-07", "1.0"]
    assert jobs[0]["scores"]["reservoir"] > jobs[1]["scores"]["reservoir"]
    assert printed.strip().splitlines()[-1] == "sweep"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stpes=3"], "did you mean steps"),
        (["system=weather"], "weather"),
        (["system.name=weather"], "there is no system.name=weather; choose one of lorenz63"),
        (["system.dt=fast"], "system.dt=fast does not fit"),
        (["system.rho=10"], "not chaotic"),
        (["projection=magic"], "projection=magic"),
        (["nonlinearity=softmax"], "there is no nonlinearity 'softmax'"),
        (["train_steps=50"], "too short for washout=100"),
        (["nonlinearity=relu", "spectral_radius=30"], "grown beyond all bounds"),
        (["search=2", "+space.colour=[1,2]"], "got colour"),
        (["search=2", "space.ridge=[loguniform,1,0]"], "space.ridge is [loguniform, low, high]"),
        (["series=nowhere.csv"], "nowhere.csv cannot be read"),
        (["series=moon"], "there is no series 'moon'"),
        (["series=short.csv"], "too short to learn from"),
        (["series=broken.csv"], "line 2"),
        (["series=long.csv", "starts=500"], "Choose fewer starts"),
        (["projection=opu", "opu=lighton"], "no LightOn device"),
        (["resume=nowhere"], "there is no nowhere"),
        (["resume=nowhere", "steps=3"], "leave out the other settings: steps=3"),
    ],
)
def test_mistakes_are_one_paragraph_and_status_2(forecast, tmp_path, words, says):
    (tmp_path / "short.csv").write_text("1\n2\n3\n")
    (tmp_path / "long.csv").write_text("1\n2\n" * 100)
    (tmp_path / "broken.csv").write_text("1\ntwo\n3\n")
    base = [] if words[0].startswith(("resume", "system=", "series")) else ALONE
    exponent = ["lyapunov_exponent=null"] if "system.rho=10" in words else []
    code, _, complaint = forecast(*base, *words, *exponent)
    assert code == 2
    assert complaint.startswith("error: ")
    assert len(complaint.strip().splitlines()) == 1
    assert says in complaint


@pytest.mark.parametrize("system", sorted(path.stem for path in (config_folder() / "system").glob("*.yaml")))
def test_every_system_has_settings_that_fit_and_a_space_to_search(system):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("forecast", [f"system={system}", "series=sunspots", "search=2"])
    chosen = parse(ForecastSettings, OmegaConf.to_container(config, resolve=True))
    model = models.reservoir(chosen, None)
    for distribution in models.space(chosen).values():
        assert isinstance(distribution, list) or distribution.rvs(random_state=0) >= 0
    assert set(models.space(chosen)) <= set(model.get_params())


def test_another_run_in_the_same_folder_is_refused_and_the_same_one_continued(forecast, tmp_path):
    words = [*ALONE, "free_run=0", "hydra.run.dir=mine"]
    folder, before = folder_of(forecast(*words), tmp_path)
    again = folder_of(forecast(*words), tmp_path)[1]
    assert (
        again["models"]["reservoir"]["valid_prediction_time"] == before["models"]["reservoir"]["valid_prediction_time"]
    )
    assert len(records_of(folder)) == 6
    code, _, complaint = forecast(*words, "ridge=1e-3")
    assert code == 2
    assert "holds another run already" in complaint
