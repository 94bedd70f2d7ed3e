"""An optical device as a fixed layer of a PyTorch model, with the simulator's analytic gradient where it is wanted."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hardware import OPU, DeviceInputError, SimulatedOPU
from opu_dfa.errors import ConfigError

Output = Literal["intensity", "linear"]


class OPULayer(nn.Module):
    """The device's random projection, `(..., n_features)` -> float32 `(..., n_components)`.

    Forward is a measurement: counts of |Rx|² times `opu.intensity_per_count`, or the estimate of Re(R)x. With
    `differentiable`, backward is the derivative of the noiseless optics instead: with the field E = Rx, its real and
    imaginary part E_p = R_p x and the gradient g of the output,

        intensity:  ∂/∂x = Σ_p R_pᵀ (2 E_p g)        linear:  ∂/∂x = Re(R)ᵀ g

    so the camera's noise, rounding and saturation, and the encoding of real inputs, are passed straight through. The
    matrix is that of the last calibration; a preset whose medium drifts has another by the time it is measured.

    Args:
        opu: the device.
        output: "intensity" for |Rx|² of binary inputs, or "linear" for Re(R)x of real ones; the entries of Re(R) and
            Im(R) have variance 1/n_features.
        differentiable: whether gradients reach the input; the output is detached if not. Only a simulated device knows
            its matrix.

    Intensities are of binary inputs only, differentiable or not: a relaxed value between 0 and 1 has no pattern. Show
    the rounded value and let it carry the gradient of the relaxed one, as in the second example.

    The layer has no parameters, buffers or state; the ledger and the random streams are in `opu.state()`. A deep copy
    of the layer shares the device, as there is only one.

    Raises:
        ConfigError: an unknown `output`, no `OPU`, or `differentiable` on a device that is not simulated.
        DeviceInputError: on calls, an input of another width, one that is not finite, or one that is not binary where
            intensities are measured.
        DeviceFault: on calls, the device fails and goes on failing.

    Source: Saade et al., "Random projections through multiple optical scattering", ICASSP 2016 (arXiv 1510.06664).

    >>> from hardware import open_opu
    >>> opu = open_opu("simulated", n_features=16, n_components=4)
    >>> OPULayer(opu)(torch.ones(2, 3, 16)).shape
    torch.Size([2, 3, 4])
    >>> relaxed = torch.full((1, 16), 0.7, requires_grad=True)
    >>> shown = (relaxed > 0.5) + (relaxed - relaxed.detach())  # the sum is exactly 0 or 1
    >>> OPULayer(opu, differentiable=True)(shown).sum().backward()
    >>> relaxed.grad.shape
    torch.Size([1, 16])
    """

    def __init__(self, opu: OPU, output: Output = "intensity", differentiable: bool = False) -> None:
        super().__init__()
        if not isinstance(opu, OPU):
            raise ConfigError(f"opu is an open device (hardware.open_opu), got {type(opu).__name__}")
        if output not in ("intensity", "linear"):
            raise ConfigError(f'output is "intensity" or "linear", got {output!r}')
        if differentiable and not isinstance(opu, SimulatedOPU):
            raise ConfigError(
                f"differentiable=True needs the matrix R, which the device [{opu.identity}] does not know. Choose a "
                "hardware.SimulatedOPU, or differentiable=False and train what is before the layer by direct feedback "
                "alignment (opu_dfa.DirectFeedback)."
            )
        self.opu = opu
        self.output = output
        self.differentiable = differentiable

    def forward(self, x: Tensor) -> Tensor:
        """Measure the rows of `x`, `(..., n_features)`; float32 `(..., n_components)`, intensities in units of R."""
        if x.ndim == 0 or x.shape[-1] != self.opu.n_features:
            raise DeviceInputError(
                f"this layer takes inputs of shape (..., {self.opu.n_features}), got {tuple(x.shape)}"
            )
        rows = x.reshape(-1, self.opu.n_features)
        function = _FUNCTIONS[self.output]
        y = function.apply(rows, self.opu) if self.differentiable else function.measure(rows, self.opu)
        return y.view(*x.shape[:-1], self.opu.n_components)

    def extra_repr(self) -> str:
        return (
            f"{self.opu.n_features} -> {self.opu.n_components}, output={self.output!r}, "
            f"differentiable={self.differentiable}, opu=[{self.opu.identity}]"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> OPULayer:
        memo[id(self.opu)] = self.opu
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


class _Intensity(torch.autograd.Function):
    """|Rx|² of binary rows `(batch, n_features)`; the field is computed again when a gradient is asked for."""

    @staticmethod
    def measure(x: Tensor, opu: OPU) -> Tensor:
        return opu.transform(x).float().mul_(opu.intensity_per_count)

    @staticmethod
    def forward(ctx: Any, x: Tensor, opu: SimulatedOPU) -> Tensor:
        y = _Intensity.measure(x, opu)
        ctx.save_for_backward(x.to(torch.uint8))  # binary, as measured: a quarter of the memory
        ctx.opu, ctx.dtype = opu, x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        return ctx.opu.speckle_adjoint(2 * ctx.opu.speckle(bits) * g).to(ctx.dtype), None


class _Linear(torch.autograd.Function):
    """Re(R)x of real rows `(batch, n_features)`."""

    @staticmethod
    def measure(x: Tensor, opu: OPU) -> Tensor:
        return opu.linear_transform(x)

    @staticmethod
    def forward(ctx: Any, x: Tensor, opu: SimulatedOPU) -> Tensor:
        ctx.opu, ctx.dtype = opu, x.dtype
        return _Linear.measure(x, opu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.opu.speckle_adjoint(g[None]).to(ctx.dtype), None


_FUNCTIONS: dict[str, Any] = {"intensity": _Intensity, "linear": _Linear}
