"""Features that light computes, and the nonlinearities behind them, known by value, kernel and coefficients."""

from opu_dfa.features.layer import OPULayer
from opu_dfa.features.nonlinearities import NONLINEARITIES, nonlinearity
from opu_dfa.features.optical import OpticalRandomFeatures
from opu_dfa.features.pointwise import Nonlinearity

__all__ = ["NONLINEARITIES", "Nonlinearity", "OPULayer", "OpticalRandomFeatures", "nonlinearity"]
