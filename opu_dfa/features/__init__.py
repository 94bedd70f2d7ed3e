"""Features that light computes: the optical device as a scikit-learn transformer and as a PyTorch layer."""

from opu_dfa.features.layer import OPULayer
from opu_dfa.features.optical import OpticalRandomFeatures

__all__ = ["OPULayer", "OpticalRandomFeatures"]
