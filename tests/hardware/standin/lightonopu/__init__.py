"""A stand-in for LightOn's driver, which comes with the appliance only: what lightonml 1.4.3 imports and calls.

It stands for mirrors, medium and camera; everything between them and `hardware.LightOnOPU` is the real lightonml.
"""

__version__ = "1.4.3"
