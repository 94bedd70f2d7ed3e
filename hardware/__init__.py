"""The optical processing unit: the contract, the simulator and LightOn's appliance."""

from hardware.calibration import Calibration, Fidelity
from hardware.camera import Camera
from hardware.encoding import BitPlanes, Encoding, Patterns, StochasticTernary, ThresholdTernary
from hardware.errors import DeviceError, DeviceFault, DeviceInputError, DeviceUnavailable
from hardware.holography import Anchor, OffAxis, PhaseShifting
from hardware.lighton import LightOnOPU
from hardware.open import open_opu
from hardware.opu import OPU, Usage
from hardware.presets import PRESETS, Faults, Preset
from hardware.remote import RemoteOPU
from hardware.server import DeviceServer
from hardware.simulated import SimulatedOPU

__all__ = [
    "OPU",
    "PRESETS",
    "Anchor",
    "BitPlanes",
    "Calibration",
    "Camera",
    "DeviceError",
    "DeviceFault",
    "DeviceInputError",
    "DeviceServer",
    "DeviceUnavailable",
    "Encoding",
    "Faults",
    "Fidelity",
    "LightOnOPU",
    "OffAxis",
    "Patterns",
    "PhaseShifting",
    "Preset",
    "RemoteOPU",
    "SimulatedOPU",
    "StochasticTernary",
    "ThresholdTernary",
    "Usage",
    "open_opu",
]
