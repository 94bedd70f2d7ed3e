"""The models of a forecast's settings: the reservoir, on a device or not, and its recurrent kernel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from hardware import OPU
from opu_dfa.errors import ConfigError
from opu_dfa.features import nonlinearity
from opu_dfa.forecast.settings import ForecastSettings
from opu_dfa.opening import open_device
from opu_dfa.reservoir import LocalForecaster, RecurrentKernelForecaster, ReservoirForecaster
from opu_dfa.reservoir.forecaster import Forecaster

_SHARED = (
    "nonlinearity",
    "spectral_radius",
    "input_scale",
    "bias_scale",
    "leak_rate",
    "n_layers",
    "features",
    "ridge",
)


def device(chosen: ForecastSettings, n_channels: int) -> AbstractContextManager[OPU | None]:
    """The device that the reservoir needs, open within; None for a digital one.

    Its inputs are the state, and `input_mirrors` that the channels share.
    """
    if chosen.projection != "opu":
        return nullcontext()
    inputs = n_channels // chosen.n_groups + 2 * chosen.overlap if chosen.n_groups > 1 else n_channels
    inputs = max(inputs, chosen.input_mirrors or chosen.n_units)
    if chosen.n_layers > 1:  # the next layer's are the states of the one before
        inputs = max(inputs, chosen.n_units)
    own = chosen.opu.kind.startswith("remote://")  # its sizes are where it is served
    return open_device(
        chosen.opu, None if own else chosen.n_units + inputs, None if own else chosen.n_units, chosen.seed
    )


def binary(chosen: ForecastSettings) -> bool:
    """Whether the reservoir is of binary patterns on a device, whose kernel is another than the nonlinearity's."""
    return chosen.projection == "opu" and nonlinearity(chosen.nonlinearity).field == "complex"


def reservoir(chosen: ForecastSettings, opu: OPU | None) -> Forecaster:
    """The reservoir, not yet fitted."""
    return _local(
        chosen,
        ReservoirForecaster(
            n_units=chosen.n_units,
            projection=chosen.projection if opu is None else opu,  # type: ignore[arg-type]
            density=chosen.density,
            bits=chosen.bits,
            random_state=chosen.seed % 2**32,
            **{name: getattr(chosen, name) for name in _SHARED},
        ),
    )


def kernel(chosen: ForecastSettings) -> Forecaster:
    """The reservoir's limit of infinitely many units, with the same scales and ridge; it knows no squares of states."""
    shared = {name: getattr(chosen, name) for name in _SHARED}
    shared["features"] = "state+input" if "input" in chosen.features.split("+") else "state"
    return _local(chosen, RecurrentKernelForecaster(every=chosen.kernel_every, **shared))


def titles(chosen: ForecastSettings) -> dict[str, str]:
    """What the models are called where people read it."""
    kind = "optical" if chosen.projection == "opu" else chosen.projection
    found = {"reservoir": f"{kind} reservoir, N={chosen.n_units}"}
    return found | ({"kernel": "recurrent kernel"} if chosen.kernel and not binary(chosen) else {})


def space(chosen: ForecastSettings) -> dict[str, Any]:
    """The space of a search as scikit-learn takes it.

    Raises:
        ConfigError: what is neither [uniform, low, high], nor [loguniform, low, high], nor a list of values.
    """
    prefix = "forecaster__" if chosen.n_groups > 1 else ""
    return {prefix + name: _drawn_from(name, values) for name, values in chosen.space.items()}


def _drawn_from(name: str, values: list[Any]) -> Any:
    from scipy import stats

    if not values or values[0] not in ("uniform", "loguniform"):
        return values
    kind, *ends = values
    if len(ends) != 2 or not all(isinstance(end, (int, float)) for end in ends) or not ends[0] < ends[1]:
        raise ConfigError(f"space.{name} is [{kind}, low, high]; got {values}")
    low, high = ends
    if kind == "uniform":
        return stats.uniform(low, high - low)
    if low <= 0:
        raise ConfigError(f"space.{name} is on a scale of powers, from above 0; got {values}")
    return stats.loguniform(low, high)


def _local(chosen: ForecastSettings, model: Forecaster) -> Forecaster:
    if chosen.n_groups == 1:
        return model
    return LocalForecaster(model, n_groups=chosen.n_groups, overlap=chosen.overlap)
