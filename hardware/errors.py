"""What can go wrong with a device, by who can mend it."""


class DeviceError(Exception):
    """Base of every error a device raises."""


class DeviceUnavailable(DeviceError, RuntimeError):
    """No device of the requested kind answers; the message says what is missing and how to simulate instead."""


class DeviceInputError(DeviceError, ValueError):
    """The input cannot be shown on the device: non-binary, not finite, of the wrong width, or empty."""


class DeviceFault(DeviceError, RuntimeError):
    """The device answered wrongly or stopped answering; what was asked can be asked again."""


class TransientFault(DeviceFault):
    """A fault that the next attempt may not meet; `OPU` tries again before anyone hears of it."""
