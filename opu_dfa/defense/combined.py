"""Gradient rules made of others: averaged over measurements, one after another, or of several models at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from opu_dfa.defense.rules import PulledBack
from opu_dfa.defense.target import GradientRule, Loss, Step
from opu_dfa.errors import ConfigError


class EOT(GradientRule):
    """Expectation over transformation: logits, losses and gradients of another rule, averaged over n measurements.

    Source: Athalye et al., "Synthesizing robust adversarial examples", ICML 2018 (arXiv 1707.07397).

    >>> from opu_dfa.defense.rules import Autograd
    >>> rule = EOT(Autograd(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))), 5)
    >>> rule(torch.rand(3, 1, 2, 2), lambda logits: logits[:, 0]).gradient.shape, rule.queries_per_image
    (torch.Size([3, 1, 2, 2]), 5)
    """

    def __init__(self, rule: GradientRule, n: int) -> None:
        if n < 1:
            raise ConfigError(f"EOT averages over at least 1 measurement, got n={n}")
        self.rule = rule
        self.n = n
        self.queries_per_image = n * rule.queries_per_image

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        if isinstance(self.rule, PulledBack):
            return self.rule.averaged(images, loss, self.n)
        return _mean([self.rule(images, loss) for _ in range(self.n)])

    def at(self, done: float) -> GradientRule:
        return EOT(self.rule.at(done), self.n)


class Expected(GradientRule):
    """The mean of several rules' logits, losses and gradients: of a model that is one of several, by chance, exactly.

    The same rule n times is an average over n draws of whatever is drawn in it.
    """

    def __init__(self, rules: Sequence[GradientRule]) -> None:
        if not rules:
            raise ConfigError("an expectation is over at least one rule, got none")
        self.rules = tuple(rules)
        self.queries_per_image = sum(rule.queries_per_image for rule in rules)

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        return _mean([rule(images, loss) for rule in self.rules])


class Annealed(GradientRule):
    """Rules for equal parts of an attack, one after another: a tanh that steepens towards the step it stands for.

    Asked without saying how far the attack is, the last rule answers.

    >>> from opu_dfa.defense.rules import Autograd
    >>> first, last = Autograd(nn.Identity()), Autograd(nn.Identity())
    >>> rule = Annealed([first, last])
    >>> rule.at(0.0) is first, rule.at(0.5) is last, rule.at(1.0) is last
    (True, True, True)
    """

    def __init__(self, rules: Sequence[GradientRule]) -> None:
        if not rules:
            raise ConfigError("annealing takes at least one rule, got none")
        self.rules = tuple(rules)
        self.rule = self.rules[-1]
        self.queries_per_image = max(rule.queries_per_image for rule in rules)

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        return self.rule(images, loss)

    def at(self, done: float) -> GradientRule:
        return self.rules[min(int(done * len(self.rules)), len(self.rules) - 1)]


class Ensemble(GradientRule):
    """Rules of several models as one: mean log-probabilities, mean losses, and g = mean over rules of ∇ / mean|∇|.

    Each gradient is scaled to a mean absolute value of one in every image: that of a feedback has a scale of its own,
    and would else drown the others or be drowned.

    Source: Liu, Chen, Liu and Song, "Delving into transferable adversarial examples and black-box attacks", ICLR 2017
    (arXiv 1611.02770), with the losses' mean.
    """

    def __init__(self, rules: Sequence[GradientRule]) -> None:
        if not rules:
            raise ConfigError("an ensemble takes at least one rule, got none")
        self.rules = tuple(rules)
        self.queries_per_image = max(rule.queries_per_image for rule in rules)

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        steps = [rule(images, loss) for rule in self.rules]
        scales = [step.gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30) for step in steps]  # no 0 / 0
        return _mean(
            [
                Step(step.logits.log_softmax(1), step.loss, step.gradient / scale)
                for step, scale in zip(steps, scales, strict=True)
            ]
        )

    def at(self, done: float) -> GradientRule:
        return Ensemble([rule.at(done) for rule in self.rules])


class Averaged(nn.Module):
    """Models as one, by their mean log-probabilities `(batch, n_classes)`: what an `Ensemble` of rules attacks.

    >>> model = Averaged([nn.Linear(4, 3), nn.Linear(4, 3)])
    >>> bool((model(torch.rand(2, 4)).exp().sum(1) <= 1).all())  # a geometric mean
    True
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([model(images).log_softmax(1) for model in self.models]).mean(dim=0)


def _mean(steps: Sequence[Step]) -> Step:
    return Step(*(torch.stack(parts).mean(dim=0) for parts in zip(*steps, strict=True)))
