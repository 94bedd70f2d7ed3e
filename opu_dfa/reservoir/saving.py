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
    record = {
        "class": type(model).__name__,
        "parameters": {name: _plain(value) for name, value in model.get_params(deep=False).items()},
        "fitted": {name: getattr(model, name) for name in _FITTED if hasattr(model, name)},
    }
    arrays = {"record": np.frombuffer(json.dumps(record).encode(), np.uint8)}
    arrays |= {f"learned/{name}": array for name, array in model._learned().items()}
    arrays |= {f"state/{name}": array for name, array in model.state_.items()}
    for name in _SCALES:
        scale: Scale = getattr(model, name)
        arrays |= {f"{name}/mean": scale.mean, f"{name}/deviation": scale.deviation}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def unpack(arrays: dict[str, Array], parameters: dict[str, Any]) -> Forecaster:
    """The model that was packed; `parameters` are those that JSON cannot hold.

    Raises:
        CheckpointError: it was fitted with a device, and that is not the one given.
    """
    record = json.loads(arrays["record"].tobytes().decode())
    for name, value in record["parameters"].items():
        wanted = value.get("device") if isinstance(value, dict) else None
        if wanted is not None and getattr(parameters.get(name), "identity", None) != wanted:
            raise CheckpointError(
                f"the model was fitted with the device [{wanted}]; open it and give it as {name}=, "
                f"got {parameters.get(name)!r}"
            )
    known = {name: _object(value) for name, value in record["parameters"].items()}
    model = _kind(record["class"])(**(known | parameters))
    for name, value in record["fitted"].items():
        setattr(model, name, value)
    for name in _SCALES:
        setattr(model, name, Scale(arrays[f"{name}/mean"], arrays[f"{name}/deviation"]))
    model.state_ = under("state/", arrays)
    model._restore(under("learned/", arrays))
    return model


def read(path: str | Path) -> dict[str, Array]:
    """The arrays of a file.

    Raises:
        CheckpointError: it is missing, damaged, or not of a forecaster.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(str(path))
        json.loads(arrays["record"].tobytes().decode())["class"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a saved forecaster, or it is damaged: {error}") from error
    return arrays


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
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _object(value: Any) -> Any:
    if isinstance(value, dict) and "nonlinearity" in value:
        return type(nonlinearity(value["nonlinearity"]))(**value["fields"])
    if isinstance(value, dict) and "forecaster" in value:
        return _kind(value["forecaster"])(**{name: _object(each) for name, each in value["parameters"].items()})
    return value


def _kind(name: str) -> type[Forecaster]:
    import opu_dfa.reservoir
    from opu_dfa.reservoir.forecaster import Forecaster

    kind = getattr(opu_dfa.reservoir, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Forecaster)):
        raise CheckpointError(f"the file holds a {name}, which this version does not know")
    return kind
