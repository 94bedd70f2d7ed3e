"""A classifier that looks through a scattering medium: features, a binarisation, an optical device, a linear readout.

    h = standardised(W φ((x - mean) / std))        b = 1[h > 0]        logits = V norm(|Tb|²)

Each sample's h is standardised over its own components (layer normalisation): the binarisation is about the sample's
own mean, and DFA, which never sees that b forgets the scale of h, cannot drive that scale up without end.

The features φ and W learn without a gradient of what stands behind h (`opu_dfa.defense.rules`), the readout by exact
gradients. Source: Cappelli et al., "Adversarial robustness by design through analog computing and synthetic
gradients", ICASSP 2022 (arXiv 2101.02115), which binarises about the mean of the whole batch instead: there, what one
image is taken for depends on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import skip_init

from hardware import OPU, DeviceFault, SimulatedOPU
from opu_dfa.defense.target import evaluating
from opu_dfa.dfa import Feedback, GaussianFeedback
from opu_dfa.errors import ConfigError, DataError
from opu_dfa.features import OPULayer
from opu_dfa.models.vgg import VGG
from opu_dfa.seeds import stream

Head = Literal["plain", "sign", "projection", "intensity", "optical"]
HEADS = ("plain", "sign", "projection", "intensity", "optical")
STAGES = {
    "small": [[32], [64], [128, 128], [256]],
    "vgg16": [[64, 64], [128, 128], [256] * 3, [512] * 3, [512] * 3],
}


class OpticalDefense(nn.Module):
    """Pixels in [0, 1], `(batch, channels, height, width)` -> logits `(batch, n_classes)`.

    Args:
        features: from normalised images to anything that flattens to rows: `vgg_features`, or a network of torchvision
            with its last layer replaced by `nn.Identity()`. If none of its parameters asks for a gradient it is frozen:
            its running statistics stand still too.
        n_classes: at least 2.
        opu: the device; a head that does not need one takes the width of its mirrors alone, or `n_mirrors`.
        head: what stands between h `(batch, n_mirrors)` and the readout. "optical": |Tb|² as the camera counts it;
            ablations: "plain": h; "sign": b; "projection": Re(T)h; "intensity": |Th|² of the real h, which no mirrors
            show, so without a camera and on a simulated device only.
        n_mirrors: width of h; that of the device if None.
        feedback: B, from errors `(batch, n_classes)` to signals `(batch, n_mirrors)`; Gaussian if None.
        image_shape: (channels, height, width) the features are built for.
        mean, std: of the pixels, one number or one a channel, taken out before the features.
        seed: draws W, V and B.

    What the readout sees has mean 0 and variance 1 in each component over the images trained on (running statistics:
    evaluated, an image's logits do not depend on its batch). Everything that fixes the logits is in the `state_dict`, B
    and the device's random streams included; a device of another matrix is refused there.

    `hidden` is differentiable; `head` is where it truly is, "plain", "projection" and "intensity" of a simulated
    device. A gradient through b is zero: rules for one are in `opu_dfa.defense.rules`.

    Raises:
        ConfigError: an unknown head, a head that misses its device, sizes that do not fit.
        DataError: on calls, images of another number of channels or dimensions.

    >>> from hardware import open_opu
    >>> opu = open_opu("simulated", n_features=64, n_components=256)
    >>> model = OpticalDefense(vgg_features([[8], [16]], (3, 32, 32)), n_classes=10, opu=opu).eval()
    >>> images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> model.hidden(images).shape, model(images).shape
    (torch.Size([5, 64]), torch.Size([5, 10]))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: nn.Module,
        n_classes: int,
        opu: OPU | None,
        head: Head = "optical",
        n_mirrors: int | None = None,
        feedback: Feedback | None = None,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ConfigError(f"head is one of {', '.join(HEADS)}; got {head!r}")
        if n_classes < 2:
            raise ConfigError(f"a classifier has at least 2 classes, got n_classes={n_classes}")
        self.n_classes, self.kind = n_classes, head
        self.n_mirrors = _n_mirrors(opu, n_mirrors, head)
        self.features = features
        self.image_shape = image_shape
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, _per_channel(name, value, image_shape[0]))
        self.linear = drawn_linear(
            features_width(features, image_shape), self.n_mirrors, stream(seed, "defense hidden")
        )
        self.standardised = nn.LayerNorm(self.n_mirrors, elementwise_affine=False)
        self.optics: nn.Module = _optics(opu, head)
        n_components = self.n_mirrors if head in ("plain", "sign") or opu is None else opu.n_components
        self.norm = nn.BatchNorm1d(n_components, affine=False)
        self.readout = drawn_linear(n_components, n_classes, stream(seed, "defense readout"))
        self.feedback = GaussianFeedback(n_classes, self.n_mirrors, seed=seed) if feedback is None else feedback
        if (self.feedback.n_features, self.feedback.n_components) != (n_classes, self.n_mirrors):
            raise ConfigError(
                f"the feedback projects {self.feedback.n_features} -> {self.feedback.n_components}, "
                f"wanted n_classes -> n_mirrors = {n_classes} -> {self.n_mirrors}"
            )

    def hidden(self, images: Tensor) -> Tensor:
        """h, `(batch, n_mirrors)`: all that learns without knowing what stands behind."""
        if images.ndim != 4 or images.shape[1] != self.image_shape[0]:
            raise DataError(
                f"images are (batch, {self.image_shape[0]}, height, width), got {tuple(images.shape)}; "
                "a single one is images[None]"
            )
        normalised = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        h: Tensor = self.standardised(self.linear(self.features(normalised).flatten(1)))
        return h

    def head(self, h: Tensor) -> Tensor:
        """Logits `(batch, n_classes)` of h: shown to the device, measured, normalised, read out."""
        return self.read(self.optics(binarised(h) if self.binary else h))

    def read(self, y: Tensor) -> Tensor:
        """Logits of what the device gave, `(batch, n_components)`."""
        return self.readout(self.norm(y))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(images))

    @property
    def binary(self) -> bool:
        """Whether the head binarises h."""
        return self.kind in ("sign", "optical")

    @property
    def opu(self) -> OPU | None:
        """The device that the head looks through, where it does."""
        return getattr(self.optics, "opu", None)

    def train(self, mode: bool = True) -> OpticalDefense:
        super().train(mode)
        if not any(p.requires_grad for p in self.features.parameters()):
            self.features.eval()
        return self

    def get_extra_state(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8) if self.opu is None else self.opu.state()

    def set_extra_state(self, state: Tensor) -> None:
        if (self.opu is None) != (len(state) == 0):
            raise DeviceFault(
                f"this state was saved {'with' if len(state) else 'without'} a device behind h, but the head "
                f"{self.kind!r} of this model has {'none' if self.opu is None else 'one'}: build the model it names"
            )
        if self.opu is not None:
            self.opu.load_state(state)


class Field(torch.autograd.Function):
    """The field Tx on a simulated device's pixels, `(batch, n_mirrors)` real -> `(2, batch, n_components)`, exactly."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, opu: SimulatedOPU) -> Tensor:
        ctx.opu, ctx.dtype = opu, x.dtype
        return opu.speckle(x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return ctx.opu.speckle_adjoint(g).to(ctx.dtype), None


class RealIntensity(nn.Module):
    """|Th|² of real rows, without a camera: a simulated device only."""

    def __init__(self, opu: SimulatedOPU) -> None:
        super().__init__()
        self.opu = opu

    def forward(self, h: Tensor) -> Tensor:
        return Field.apply(h, self.opu).square().sum(dim=0)

    def __deepcopy__(self, memo: dict[int, Any]) -> RealIntensity:
        return RealIntensity(self.opu)  # there is only one device


def binarised(h: Tensor) -> Tensor:
    """1 where h exceeds its sample's own mean, else 0: no sample of a batch changes another's."""
    h = h.detach()
    return (h > h.mean(dim=1, keepdim=True)).to(h.dtype)


def vgg_features(
    stages: str | list[list[int]] = "small", image_shape: tuple[int, int, int] = (3, 32, 32), seed: int = 0
) -> nn.Module:
    """The convolutions of a VGG with batch norm (`opu_dfa.models.vgg`), flattened.

    Args:
        stages: "small", which trains on two cores; "vgg16", the paper's, 512 features of a 32 x 32 image; or the
            channels of each stage's convolutions.

    Raises:
        ConfigError: an unknown name, or more stages than the image can be halved.

    >>> vgg_features("vgg16")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 512])
    """
    if isinstance(stages, str):
        if stages not in STAGES:
            raise ConfigError(f"unknown features {stages!r}: {', '.join(STAGES)}, or a list of stages")
        stages = STAGES[stages]
    try:
        vgg = VGG(image_shape, 1, stages, seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    vgg.head = nn.Identity()  # type: ignore[assignment]
    return vgg


@torch.no_grad()
def drawn_linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with weights N(0, 1/n_in) and no bias to begin with."""
    layer = skip_init(nn.Linear, n_in, n_out)
    layer.weight.normal_(std=n_in**-0.5, generator=generator)
    layer.bias.zero_()
    return layer


def _n_mirrors(opu: OPU | None, n_mirrors: int | None, head: str) -> int:
    if opu is None and head not in ("plain", "sign"):
        raise ConfigError(f"the head {head!r} needs a device: give opu=hardware.open_opu(...)")
    if opu is not None and not isinstance(opu, OPU):
        raise ConfigError(f"opu is an open device (hardware.open_opu), got {type(opu).__name__}")
    chosen = n_mirrors if n_mirrors is not None or opu is None else opu.n_features
    if chosen is None or chosen < 1:
        raise ConfigError(f"the head {head!r} without a device needs its width: n_mirrors >= 1, got {chosen}")
    if opu is not None and chosen != opu.n_features:
        raise ConfigError(f"the device shows {opu.n_features} features, but n_mirrors={n_mirrors}: leave it out")
    return chosen


def _optics(opu: OPU | None, head: str) -> nn.Module:
    if opu is None or head in ("plain", "sign"):
        return nn.Identity()
    if head == "intensity":
        if not isinstance(opu, SimulatedOPU):
            raise ConfigError(
                f'the head "intensity" shows real numbers, which the mirrors of [{opu.identity}] cannot: '
                "choose a simulated device, or another head"
            )
        return RealIntensity(opu)
    if head == "projection":
        return OPULayer(opu, "linear", differentiable=isinstance(opu, SimulatedOPU))
    return OPULayer(opu)


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> Tensor:
    given = torch.as_tensor(value, dtype=torch.float32).flatten()
    if len(given) not in (1, channels) or not given.isfinite().all() or (name == "std" and not (given > 0).all()):
        wanted = "positive, " if name == "std" else ""
        raise ConfigError(f"{name} is {wanted}one number or one for each of {channels} channels, got {value}")
    return given.expand(channels).reshape(-1, 1, 1).clone()


@torch.no_grad()
def features_width(features: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Numbers that the features give of one image; looked up in evaluation mode, which changes no statistics."""
    where = next(features.parameters(), torch.empty(0)).device
    try:
        with evaluating(features):
            return features(torch.zeros(1, *image_shape, device=where)).flatten(1).shape[1]
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the features do not take images of {image_shape}: {error}") from error
