"""Reservoirs, their recurrent kernels, forecasters built of them, and the chaotic systems they are tried on."""

from opu_dfa.reservoir.data import SERIES, load_csv, load_series
from opu_dfa.reservoir.kernel import RecurrentKernel
from opu_dfa.reservoir.kernel_forecaster import RecurrentKernelForecaster
from opu_dfa.reservoir.local import LocalForecaster
from opu_dfa.reservoir.metrics import (
    PredictionTime,
    nrmse,
    power_spectrum,
    prediction_time,
    return_map,
    valid_prediction_time,
)
from opu_dfa.reservoir.reservoir import Reservoir
from opu_dfa.reservoir.reservoir_forecaster import ReservoirForecaster
from opu_dfa.reservoir.systems import SYSTEMS, System

__all__ = [
    "SERIES",
    "SYSTEMS",
    "LocalForecaster",
    "PredictionTime",
    "RecurrentKernel",
    "RecurrentKernelForecaster",
    "Reservoir",
    "ReservoirForecaster",
    "System",
    "load_csv",
    "load_series",
    "nrmse",
    "power_spectrum",
    "prediction_time",
    "return_map",
    "valid_prediction_time",
]
