"""Variations of the optical defence, each tried against an attacker who knows of it (docs/defense-attempts.md).

Between the features and the mirrors: `Thresholds` and `HiddenNoise`, which follow `model.linear`. Behind the mirrors:
`renewed` gives a session a medium of its own, `FreshMedium` has another one at every measurement. Several models as one
are `MeanOf` and `OneOf`; `ThroughMean`, and `combined.Expected`, are the gradients that their attackers follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hardware import OPU
from opu_dfa.defense.model import OpticalDefense, drawn_linear
from opu_dfa.defense.target import GradientRule, Loss, Step
from opu_dfa.errors import ConfigError
from opu_dfa.features import OPULayer
from opu_dfa.seeds import stream


class Thresholds(nn.Module):
    """Each component of h shown to the mirrors against many thresholds: `(batch, n)` -> `(batch, count n)`.

    h_j = h - t_j std(h), with std that of the sample and t_j the quantile j/(count + 1) of a normal distribution. These
    lie evenly about 0, so the sample's own mean stays where it was, and the binarisation that follows shows
    1[h > mean(h) + t_j std(h)]: a thermometer. All gradient rules pass it exactly.

    Source: Buckman, Roy, Raffel and Goodfellow, "Thermometer encoding: one hot way to resist adversarial examples",
    ICLR 2018; broken by Athalye, Carlini and Wagner, ICML 2018 (arXiv 1802.00420).

    >>> Thresholds(3)(torch.tensor([[-1.0, 0.0, 1.0]])).shape
    torch.Size([1, 9])
    """

    quantiles: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 1:
            raise ConfigError(f"a binarisation takes at least 1 threshold, got {count}")
        self.count = count
        part = torch.arange(1, count + 1) / (count + 1)
        self.register_buffer("quantiles", torch.special.ndtri(part.double()).float())

    def forward(self, h: Tensor) -> Tensor:
        deviation = h.std(dim=1, keepdim=True, correction=0)
        shifted: Tensor = h[:, None, :] - self.quantiles[None, :, None] * deviation[:, None, :]
        return shifted.flatten(1)


class HiddenNoise(nn.Module):
    """h + deviation · std(h) · N(0, 1), each sample's own std, while training alone: mirrors near their threshold flip.

    Its random stream is in the `state_dict`.

    >>> noise = HiddenNoise(0.5, seed=0)
    >>> torch.equal(noise(torch.ones(2, 3)), noise.eval()(torch.ones(2, 3)))  # rows without spread stay as they are
    True
    """

    def __init__(self, deviation: float, seed: int) -> None:
        super().__init__()
        if not 0 <= deviation < float("inf"):
            raise ConfigError(f"the noise has a deviation of at least 0, in units of that of h; got {deviation}")
        self.deviation = deviation
        self.generator = stream(seed, "defense hidden noise")

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        drawn = torch.randn(h.shape, generator=self.generator, dtype=h.dtype).to(h.device)
        return h + self.deviation * h.detach().std(dim=1, keepdim=True, correction=0) * drawn

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())


def many_thresholds(model: OpticalDefense, count: int, seed: int) -> OpticalDefense:
    """The model, its mirrors now `count` for each component of an h of n_mirrors / count; W is drawn anew.

    Raises:
        ConfigError: a head without a binarisation, or mirrors that `count` does not divide.

    >>> from hardware import open_opu
    >>> from opu_dfa.defense.model import vgg_features
    >>> opu = open_opu("simulated", n_features=24, n_components=64)
    >>> model = OpticalDefense(vgg_features([[4]], (1, 8, 8)), 10, opu, image_shape=(1, 8, 8))
    >>> many_thresholds(model, 3, seed=0).hidden(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 24])
    """
    if not model.binary:
        raise ConfigError(f"thresholds are of a binarisation, which the head {model.kind!r} has not: choose 'optical'")
    thresholds = Thresholds(count)
    if model.n_mirrors % count:
        raise ConfigError(f"{count} thresholds share the mirrors evenly, which {model.n_mirrors} cannot: choose others")
    width: int = model.linear.in_features
    drawn = drawn_linear(width, model.n_mirrors // count, stream(seed, "defense hidden"))
    model.linear = nn.Sequential(drawn, thresholds).to(model.mean.device)  # type: ignore[assignment]
    return model


def renewed(model: OpticalDefense, opu: OPU, seed: int) -> OpticalDefense:
    """A session: the model's features and mirrors, which no longer learn, before another medium.

    Its readout knows nothing of the medium until it is trained (`opu_dfa.defense.training.train`).

    Raises:
        ConfigError: the head is not optical, or the device is of other mirrors.

    >>> from hardware import open_opu
    >>> from opu_dfa.defense.model import vgg_features
    >>> media = [open_opu("simulated", n_features=16, n_components=64, seed=seed) for seed in (0, 1)]
    >>> model = OpticalDefense(vgg_features([[4]], (1, 8, 8)), 10, media[0], image_shape=(1, 8, 8))
    >>> session = renewed(model, media[1], seed=1)
    >>> images = torch.rand(5, 1, 8, 8)
    >>> torch.equal(session.eval().hidden(images), model.eval().hidden(images))
    True
    """
    if model.kind != "optical":
        raise ConfigError(f"there is no medium to exchange behind the head {model.kind!r}: it takes 'optical'")
    if opu.n_features != model.n_mirrors:
        raise ConfigError(f"the session's device shows {opu.n_features} features, wanted {model.n_mirrors}")
    session = copy.deepcopy(model)
    session.features.requires_grad_(False)
    session.linear.requires_grad_(False)
    session.optics = OPULayer(opu)
    session.norm = nn.BatchNorm1d(opu.n_components, affine=False)
    session.readout = drawn_linear(opu.n_components, model.n_classes, stream(seed, "defense readout"))
    return session.to(model.mean.device)


class FreshMedium(OpticalDefense):
    """An optical defence whose medium is another one at every measurement, in training, too.

    What does not depend on the medium is the mean over it, E|Tb|² ∝ Σb, the same for every pixel: the number of mirrors
    that are on. So the readout sees the mean over the pixels, one number. It is hard to train: the straight-through
    gradient of that number is, in the mean over T, along b - mean(b), which spreads h and flips no mirror.

    Args:
        media: opens the medium of a number, from 0; others as of `OpticalDefense`.

    >>> from hardware import open_opu
    >>> from opu_dfa.defense.model import vgg_features
    >>> def media(number):
    ...     return open_opu("simulated", n_features=16, n_components=64, seed=number)
    >>> model = FreshMedium(vgg_features([[4]], (1, 8, 8)), 10, media, image_shape=(1, 8, 8)).eval()
    >>> images = torch.rand(5, 1, 8, 8)
    >>> torch.equal(model(images), model(images))
    False
    """

    def __init__(self, features: nn.Module, n_classes: int, media: Callable[[int], OPU], **others: Any) -> None:
        super().__init__(features, n_classes, media(0), **others)
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.readout = drawn_linear(1, n_classes, stream(others.get("seed", 0), "defense readout"))
        self.media, self.number = media, 0

    def head(self, h: Tensor) -> Tensor:
        self._open(self.number + 1)
        return super().head(h)

    def read(self, y: Tensor) -> Tensor:
        return super().read(y.mean(dim=1, keepdim=True))

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.number)

    def set_extra_state(self, state: Tensor) -> None:
        self._open(int(state))

    def _open(self, number: int) -> None:
        optics: Any = self.optics
        optics.opu.close()
        optics.opu, self.number = self.media(number), number


class MeanOf(nn.Module):
    """Models as one by the mean of their logits: an ensemble, of media where the models have them.

    >>> model = MeanOf([nn.Linear(4, 3), nn.Linear(4, 3)])
    >>> model(torch.rand(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ConfigError("an ensemble has at least one member, got none")
        self.members = nn.ModuleList(members)

    def hidden(self, images: Tensor) -> Tensor:
        """The h of all members, side by side."""
        members: Any = self.members
        return torch.cat([member.hidden(images) for member in members], dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """Of each member, `(n_members, batch, n_classes)`."""
        return torch.stack([member(images) for member in self.members])

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images).mean(dim=0)


class OneOf(MeanOf):
    """Models of which each image meets one, by chance, at every measurement.

    >>> model = OneOf([nn.Linear(4, 3), nn.Linear(4, 3)], seed=0)
    >>> model(torch.rand(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, members: Sequence[nn.Module], seed: int) -> None:
        super().__init__(members)
        self.generator = stream(seed, "defense member")

    def forward(self, images: Tensor) -> Tensor:
        chosen = torch.randint(len(self.members), (len(images),), generator=self.generator).to(images.device)
        return self.logits(images)[chosen, torch.arange(len(images), device=images.device)]


class ThroughMean(GradientRule):
    """The gradient of a `MeanOf`, each member's share by a rule of its own: Σ_k ∂loss(mean z)/∂z_k · ∂z_k/∂x.

    Args:
        model: the ensemble; rules: one of each member, in its order.

    >>> from opu_dfa.defense.rules import Autograd
    >>> members = [nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(3)]
    >>> rule = ThroughMean(MeanOf(members), [Autograd(member) for member in members])
    >>> rule(torch.rand(3, 1, 2, 2), lambda logits: logits[:, 0]).gradient.shape
    torch.Size([3, 1, 2, 2])
    """

    def __init__(self, model: MeanOf, rules: Sequence[GradientRule]) -> None:
        if len(rules) != len(model.members):
            raise ConfigError(f"each of {len(model.members)} members has a rule, got {len(rules)}")
        self.model, self.rules = model, tuple(rules)
        self.queries_per_image = 1 + sum(rule.queries_per_image for rule in rules)

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        self.model.eval()
        with torch.no_grad():
            mean = self.model.logits(images).mean(dim=0)

        def shared(logits: Tensor) -> Tensor:
            """The loss at the mean, as a function of one member's share of it."""
            return loss(mean + (logits - logits.detach()) / len(self.rules))

        gradients = [rule(images, shared).gradient for rule in self.rules]
        return Step(mean, loss(mean), torch.stack(gradients).sum(dim=0))
