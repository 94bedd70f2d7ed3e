"""Fitted forecasters as plain arrays, for files without pickles: parameters as JSON, matrices as their seeds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware import OPU
from opu_dfa.errors import CheckpointError
from opu_dfa.features import Nonlinearity, nonlinearity
from opu_dfa.reservoir.series import Array, Scale

if TYPE_CHECKING:
    from opu_dfa.reservoir.forecaster import Forecaster

_FITTED = ("n_features_in_", "forecasts_", "flat_", "seed_", "ridge_", "solver_")
_SCALES = ("scale_", "target_scale_")


def pack(model: Forecaster) -> dict[str, Array]:
    """Everything of a fitted model, its record of parameters as bytes of JSON."""
    fitted = {name: getattr(model, name) for name in _FITTED if hasattr(model, name)}
    record = {
        "class": type(model).__name__,
        "parameters": {name: _plain(value) for name, value in model.get_params(deep=False).items()},
        "fitted": fitted,
        "channels": list(getattr(model, "feature_names_in_", [])),
    }
    arrays = {"record": np.frombuffer(json.dumps(record).encode(), np.uint8)}
    arrays |= {f"learned/{name}": array for name, array in model._learned().items()}
    arrays |= {f"state/{name}": array for name, array in model.state_.items()}
    for name in _SCALES:
        scale: Scale = getattr(model, name)
        arrays |= {f"{name}/mean": scale.mean, f"{name}/deviation": scale.deviation}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def unpack(arrays: dict[str, Array], device: OPU | None = None) -> Forecaster:
    """The model that was packed; its device, where it had one, is given.

    Raises:
        CheckpointError: it was fitted with a device, and that is not the one given; it is of another version.
        KeyError, TypeError, ValueError: these are not the arrays of a model.
    """
    record = json.loads(arrays["record"].tobytes().decode())
    model = _made(record["class"], record["parameters"], device)
    for name, value in record["fitted"].items():
        setattr(model, name, value)
    if record["channels"]:
        model.feature_names_in_ = np.array(record["channels"], dtype=object)
    for name in _SCALES:
        setattr(model, name, Scale(arrays[f"{name}/mean"], arrays[f"{name}/deviation"]))
    model.state_ = under("state/", arrays)
    model._restore(under("learned/", arrays))
    return model


def load(path: str | Path, device: OPU | None = None) -> Forecaster:
    """The model of a file.

    Raises:
        CheckpointError: it is missing, damaged, or not of a forecaster, or of another device than is given.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return unpack(load_file(str(path)), device)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a saved forecaster, or it is damaged, or of another version: {error!r}"
        ) from error


def under(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    """A parameter as JSON: nonlinearities by name and fields, estimators by class, devices by identity."""
    from opu_dfa.reservoir.forecaster import Forecaster

    if isinstance(value, OPU):
        return {"device": value.identity}
    if isinstance(value, Nonlinearity):
        return {"nonlinearity": value.name, "fields": asdict(value)}  # type: ignore[call-overload]
    if isinstance(value, Forecaster):
        parameters = {name: _plain(each) for name, each in value.get_params(deep=False).items()}
        return {"forecaster": type(value).__name__, "parameters": parameters}
    if isinstance(value, np.random.RandomState):
        return None  # what it drew is in seed_
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _made(name: str, parameters: dict[str, Any], device: OPU | None) -> Forecaster:
    """An unfitted forecaster of a class and parameters in JSON."""
    import opu_dfa.reservoir
    from opu_dfa.reservoir.forecaster import Forecaster

    kind = getattr(opu_dfa.reservoir, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Forecaster)):
        raise CheckpointError(f"the file holds a {name}, which this version does not know")
    return kind(**{each: _object(value, device) for each, value in parameters.items()})


def _object(value: Any, device: OPU | None) -> Any:
    if not isinstance(value, dict):
        return value
    if "nonlinearity" in value:
        return type(nonlinearity(value["nonlinearity"]))(**value["fields"])
    if "forecaster" in value:
        return _made(value["forecaster"], value["parameters"], device)
    if getattr(device, "identity", None) != value["device"]:
        given = f"[{device.identity}]" if isinstance(device, OPU) else repr(device)
        raise CheckpointError(
            f"the model was fitted with the device [{value['device']}]; open it and give it as projection=, got {given}"
        )
    return device
