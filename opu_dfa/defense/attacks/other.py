"""Attacks by other ways: images that fool another model, features moved to another class's, and chance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from opu_dfa.defense.attacks.gradient import PGD
from opu_dfa.defense.attacks.search import Restarted, Search
from opu_dfa.defense.target import Attack, GradientRule, Target, evaluating
from opu_dfa.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Noise(Restarted):
    """The control: uniform noise in the ball, which a model should withstand far better than any attack."""

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One draw."""
        images = search.anywhere()
        return images, search.loss(images)


@dataclass(frozen=True, kw_only=True)
class Transfer(Restarted):
    """Replays on the target what fools another model, which the attacker owns.

    Args:
        model: pixels in [0, 1] to logits, of the target's classes. Its queries are not the target's.
        rule: a gradient rule of that model.
        attack: on that model.
    """

    model: nn.Module
    rule: GradientRule | None = None
    attack: Attack = field(default_factory=PGD)

    @property
    def name(self) -> str:
        """transfer-pgd, and so on."""
        return f"transfer-{self.attack.name}"

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One attack on the other model, one query of the target."""
        source = Target(self.model, search.target.chunk)
        images = self.attack(source, search.images, search.labels, search.eps, search.generator, self.rule)
        return images, search.loss(images)


@dataclass(frozen=True, kw_only=True)
class Feature(Restarted):
    """Moves h = model.hidden(x) to that of another class's image; what stands behind h need not be known.

    Descends |h(x) - h(guide)|² along its sign; the guide is by chance one of the nearest images of other classes in the
    batch, in h. The medium is asked only whether it worked.

    Args:
        steps: of each restart.
        step_size: in pixels; 2.5 eps / steps if None.
        neighbours: how many of the nearest a guide may be.

    Raises:
        ConfigError: the model has no `hidden`.
    """

    steps: int = 50
    step_size: float | None = None
    neighbours: int = 5

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """All steps towards one guide; images without one, in a batch of a single class, move away from their own h."""
        own = self.hidden(search, search.images)
        distances = torch.cdist(own, own)
        distances[search.labels[:, None] == search.labels] = torch.inf
        nearest = distances.topk(min(self.neighbours, len(own)), largest=False)
        choices = nearest.values.isfinite().sum(1)
        choice = (search.uniform(len(own)) * choices).long()
        guides = own[nearest.indices.gather(1, choice[:, None]).squeeze(1)]
        guided = (choices > 0)[:, None]
        goal, sign = torch.where(guided, guides, own), torch.where(guided, 1.0, -1.0)
        images = search.anywhere()
        step_size = self.step_size or 2.5 * search.eps / self.steps
        for _ in range(self.steps):
            gradient = self.pull(search, images, goal, sign)
            images = search.project(images - step_size * gradient.sign())
        return images, search.loss(images)

    def hidden(self, search: Search, images: Tensor) -> Tensor:
        """h `(batch, n_mirrors)`; counted as queries."""
        model: Any = search.target.model
        if not hasattr(model, "hidden"):
            raise ConfigError(f"feature needs a model with features `hidden(images)`, {type(model).__name__} has none")
        search.target.queries += len(images)
        with evaluating(model), torch.no_grad():
            return torch.cat([model.hidden(part) for part in images.split(search.target.chunk)])

    def pull(self, search: Search, images: Tensor, goal: Tensor, sign: Tensor) -> Tensor:
        """Gradient of sign |h(images) - goal|²; counted as queries."""
        search.target.queries += len(images)
        model: Any = search.target.model
        chunk = search.target.chunk
        gradients: list[Tensor] = []
        with evaluating(model), torch.enable_grad():
            for part, aim, way in zip(images.split(chunk), goal.split(chunk), sign.split(chunk), strict=True):
                x = part.detach().requires_grad_()
                gradients += torch.autograd.grad((way * (model.hidden(x) - aim) ** 2).sum(), x)
        return torch.cat(gradients)
