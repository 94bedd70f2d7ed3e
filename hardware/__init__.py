"""The optical processing unit: the contract, the simulator and LightOn's appliance."""

from hardware.encoding import BitPlanes, Encoding, Patterns, StochasticTernary, ThresholdTernary
from hardware.lighton import LightOnOPU
from hardware.open import open_opu
from hardware.opu import OPU, DeviceError, DeviceFault, DeviceInputError, DeviceUnavailable, Usage
from hardware.presets import PRESETS, Preset
from hardware.simulated import SimulatedOPU

__all__ = [
    "OPU",
    "PRESETS",
    "BitPlanes",
    "DeviceError",
    "DeviceFault",
    "DeviceInputError",
    "DeviceUnavailable",
    "Encoding",
    "LightOnOPU",
    "Patterns",
    "Preset",
    "SimulatedOPU",
    "StochasticTernary",
    "ThresholdTernary",
    "Usage",
    "open_opu",
]
