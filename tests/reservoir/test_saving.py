"""Saved forecasters: bit for bit the same elsewhere, and clear errors for what is not one."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hardware import SimulatedOPU
from opu_dfa.errors import CheckpointError
from opu_dfa.features.nonlinearities import BinaryIntensity
from opu_dfa.reservoir import SYSTEMS, LocalForecaster, ReservoirForecaster

LORENZ = SYSTEMS["lorenz63"]().series(300)
RING = SYSTEMS["lorenz96"](n=8).series(300)


def same(first, second, series):
    assert np.array_equal(first.forecast(10), second.forecast(10))
    assert np.array_equal(first.predict(series), second.predict(series))
    assert np.array_equal(first.forecast(5, warmup=series[:50]), second.forecast(5, warmup=series[:50]))


@pytest.mark.parametrize(
    "parameters",
    [
        {"nonlinearity": "cos", "features": "state+squares+input"},
        {"projection": "dense", "n_layers": 2, "leak_rate": 0.5},
        {"projection": "sparse", "density": 0.1, "ridge": (1e-6, 1e-3)},
        {"nonlinearity": BinaryIntensity(0.5), "ridge": np.float64(1e-3), "n_units": np.int64(30)},
        {"random_state": np.random.RandomState(3)},
        {"random_state": None},
    ],
    ids=lambda p: "-".join(p),
)
def test_a_loaded_model_is_the_saved_one(parameters, tmp_path):
    model = ReservoirForecaster(**{"n_units": 30} | parameters).fit(LORENZ)
    model.save(tmp_path / "model.safetensors")
    loaded = ReservoirForecaster.load(tmp_path / "model.safetensors")
    same(model, loaded, LORENZ)
    assert loaded.nonlinearity == model.nonlinearity
    assert loaded.ridge_ == model.ridge_
    assert loaded.get_params().keys() == model.get_params().keys()
    assert loaded.score(LORENZ) == model.score(LORENZ)


def test_a_model_of_targets_and_one_learned_in_pieces_are_saved(tmp_path):
    of_targets = ReservoirForecaster(30).fit(LORENZ, LORENZ[:, 0])
    of_targets.save(tmp_path / "a")
    assert np.array_equal(ReservoirForecaster.load(tmp_path / "a").predict(LORENZ), of_targets.predict(LORENZ))
    in_pieces = ReservoirForecaster(30, ridge=1e-2).partial_fit(LORENZ[:150]).partial_fit(LORENZ[150:])
    in_pieces.save(tmp_path / "b")
    loaded = ReservoirForecaster.load(tmp_path / "b")
    same(in_pieces, loaded, LORENZ)
    loaded.partial_fit(LORENZ[:100])  # from the weights it had


@pytest.mark.parametrize("shared", [True, False])
def test_a_local_model_is_saved_with_its_groups(shared, tmp_path):
    model = LocalForecaster(ReservoirForecaster(n_units=30, leak_rate=0.8), n_groups=4, overlap=1, shared=shared)
    model.fit(RING).save(tmp_path / "model")
    loaded = LocalForecaster.load(tmp_path / "model")
    assert len(loaded.models_) == (1 if shared else 4)
    assert loaded.forecaster.get_params() == model.forecaster.get_params()
    same(model, loaded, RING)


def test_a_loaded_model_is_the_saved_one_in_another_process(tmp_path):
    model = ReservoirForecaster(n_units=200, features="state+squares+input").fit(LORENZ)
    model.save(tmp_path / "model")
    np.save(tmp_path / "series.npy", LORENZ)
    code = f"""
import numpy as np
from opu_dfa.reservoir import ReservoirForecaster
model = ReservoirForecaster.load({str(tmp_path / "model")!r})
np.save({str(tmp_path / "predicted.npy")!r}, model.predict(np.load({str(tmp_path / "series.npy")!r})))
np.save({str(tmp_path / "future.npy")!r}, model.forecast(20))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.array_equal(np.load(tmp_path / "predicted.npy"), model.predict(LORENZ))
    assert np.array_equal(np.load(tmp_path / "future.npy"), model.forecast(20))


def test_names_of_channels_are_kept(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(LORENZ, columns=["x", "y", "z"])
    ReservoirForecaster(30).fit(frame).save(tmp_path / "model")
    loaded = ReservoirForecaster.load(tmp_path / "model")
    assert loaded.feature_names_in_.tolist() == ["x", "y", "z"]
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[["z", "y", "x"]])


def device(seed=0):
    return SimulatedOPU(n_features=40, n_components=32, seed=seed)


@pytest.mark.parametrize("local", [False, True], ids=["whole", "local"])
def test_a_model_of_a_device_is_loaded_with_it_and_with_no_other(local, tmp_path):
    model, series, kind = ReservoirForecaster(32, device(), ridge=1e-3), LORENZ, ReservoirForecaster
    if local:
        model, series, kind = LocalForecaster(model, n_groups=4, overlap=1), RING, LocalForecaster
    model.fit(series).save(tmp_path / "model")
    same(model, kind.load(tmp_path / "model", projection=device()), series)
    with pytest.raises(
        CheckpointError, match=r"with the device \[simulated .*seed 0.*give it as projection=, got None"
    ):
        kind.load(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"seed 0.*got \[simulated .*seed 1"):
        kind.load(tmp_path / "model", projection=device(seed=1))


def damaged(path, how):
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "text":
        path.write_text("weights")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "other tensors":
        save_file({"weight": np.ones(3, np.float32)}, path)
    elif how == "no weights":
        save_file({k: v for k, v in load_file(path).items() if k != "learned/weights"}, path)
    else:
        arrays = load_file(path)
        record = arrays["record"].tobytes().decode()
        old, new = {
            "a class of elsewhere": ("ReservoirForecaster", "TransformerForecaster"),
            "a parameter of elsewhere": ('"n_layers"', '"n_levels"'),
            "a record cut short": ('"fitted"', '"fit"'),
        }[how]
        arrays["record"] = np.frombuffer(record.replace(old, new).encode(), np.uint8)
        save_file(arrays, path)


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "cut",
        "text",
        "empty",
        "folder",
        "other tensors",
        "no weights",
        "a class of elsewhere",
        "a parameter of elsewhere",
        "a record cut short",
    ],
)
def test_what_is_not_a_saved_forecaster_is_told(how, tmp_path):
    path = tmp_path / "model.safetensors"
    ReservoirForecaster(20).fit(LORENZ).save(path)
    damaged(path, how)
    with pytest.raises(CheckpointError, match=r"model\.safetensors|TransformerForecaster"):
        ReservoirForecaster.load(path)


def test_another_class_is_told_where_to_load_it(tmp_path):
    ReservoirForecaster(20).fit(LORENZ).save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"holds a ReservoirForecaster; load it with ReservoirForecaster\.load"):
        LocalForecaster.load(tmp_path / "model")


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        ReservoirForecaster(20).fit(LORENZ).save(tmp_path / "nowhere" / "model")
