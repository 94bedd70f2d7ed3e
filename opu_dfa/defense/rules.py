"""Gradient rules: how an attacker, or the training, carries a gradient past a head that has none.

Each rule evaluates the model itself, on its device; only the way back differs. `Autograd` is exact wherever the model
is differentiable. The others pull a gradient at the logits back to h by a stand-in for the head, and from there to the
pixels exactly: backward pass differentiable approximation (BPDA), Athalye, Carlini and Wagner, ICML 2018 (arXiv
1802.00420). An attack that knows only one of them proves nothing; the one that hurts most counts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hardware import SimulatedOPU
from opu_dfa.defense.model import Field, OpticalDefense, binarised, drawn_linear
from opu_dfa.defense.student import imitate
from opu_dfa.defense.target import GradientRule, Loss, Step, Target, evaluating
from opu_dfa.dfa import Feedback, GaussianFeedback
from opu_dfa.errors import ConfigError, DataError


class Autograd(GradientRule):
    """The gradient that autograd finds; zero through a binarisation, which is what makes the others needed.

    >>> rule = Autograd(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    >>> rule(torch.rand(3, 1, 2, 2), lambda logits: -logits[:, 0]).gradient.shape
    torch.Size([3, 1, 2, 2])
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        with evaluating(self.model), torch.enable_grad():
            x = images.detach().requires_grad_()
            logits = self.model(x)
            losses = loss(logits)
            gradient = _gradient(losses.sum(), x)
        return Step(logits.detach(), losses.detach(), gradient)


class PulledBack(GradientRule):
    """Base of the rules that replace the way back through the head: subclasses say how, in `pull`."""

    def __init__(self, model: OpticalDefense) -> None:
        if not isinstance(model, OpticalDefense):
            raise ConfigError(f"this rule needs an OpticalDefense, got {type(model).__name__}: use Autograd(model)")
        self.model = model

    @abstractmethod
    def pull(self, h: Tensor, g_logits: Tensor) -> Tensor:
        """What stands for the gradient at h, `(batch, n_mirrors)`, of one at the logits, `(batch, n_classes)`."""

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        return self.averaged(images, loss, 1)

    def averaged(self, images: Tensor, loss: Loss, measurements: int) -> Step:
        """The mean over measurements of the head; since `pull` is linear in g, the rest is done once."""
        with evaluating(self.model), torch.enable_grad():
            x = images.detach().requires_grad_()
            h = self.model.hidden(x)
            found = [self._measured(h.detach(), loss) for _ in range(measurements)]
            logits, losses, g_logits = (torch.stack(each).mean(dim=0) for each in zip(*found, strict=True))
            (gradient,) = torch.autograd.grad(h, x, self.pull(h.detach(), g_logits).to(h.dtype))
        return Step(logits, losses, gradient)

    def _measured(self, h: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses and the gradient at the logits, of one measurement."""
        with torch.no_grad():
            logits = self.model.head(h)
        losses = loss(logits.requires_grad_())
        return logits.detach(), losses.detach(), _gradient(losses.sum(), logits)


class TrueFeedback(PulledBack):
    """g_h = B g: the gradient that the features were trained with, by their own B (direct feedback alignment)."""

    def __init__(self, model: OpticalDefense) -> None:
        super().__init__(model)
        self.feedback: Feedback = model.feedback

    @torch.no_grad()
    def pull(self, h: Tensor, g_logits: Tensor) -> Tensor:
        return self.feedback(g_logits, [self.model.n_mirrors])[0]


class RandomFeedback(TrueFeedback):
    """g_h = B'g with a B' of one's own drawing: an attacker who knows all of the training but its B."""

    def __init__(self, model: OpticalDefense, seed: int) -> None:
        super().__init__(model)
        self.feedback = GaussianFeedback(model.n_classes, model.n_mirrors, seed=seed).to(model.mean.device)
        own = model.feedback
        if isinstance(own, GaussianFeedback) and torch.equal(self.feedback.columns(), own.columns()):
            raise ConfigError(f"seed={seed} draws the model's own B: choose another seed, or TrueFeedback")


class StraightThrough(PulledBack):
    """The head's own derivative, with T known and the step of the binarisation replaced by a slope.

    |Tb|² has 2 Re(T^† diag(g) Tb), the normalisation and readout are linear. With c = h - mean(h), the derivative of
    b = 1[c > 0] is replaced by that of (1 + c)/2, or of (1 + tanh(beta c / std(c)))/2, which forgets the mirrors far
    from their threshold. Heads without a binarisation get their exact gradient.

    Args:
        model: its head may be any.
        matrix: T, complex `(n_components, n_mirrors)`, each row up to a phase and a conjugation that |Tb|² does not
            see: one recovered, or known to an error (`with_error`). That of the simulated device if None.
        beta: the steepness; the identity's slope if None.

    Raises:
        ConfigError: a matrix of another shape, none for a device that is not simulated, beta not positive.

    >>> from hardware import open_opu
    >>> from opu_dfa.defense.model import vgg_features
    >>> opu = open_opu("simulated", n_features=16, n_components=64)
    >>> model = OpticalDefense(vgg_features([[4]], (1, 8, 8)), 10, opu, image_shape=(1, 8, 8))
    >>> rule = StraightThrough(model, known_matrix(opu), beta=2.0)
    >>> images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> bool(rule(images, lambda logits: logits[:, 0]).gradient.abs().sum() > 0)
    True
    """

    def __init__(self, model: OpticalDefense, matrix: Tensor | None = None, beta: float | None = None) -> None:
        super().__init__(model)
        if beta is not None and not 0 < beta < float("inf"):
            raise ConfigError(f"beta is the positive slope of tanh, got {beta}; None for the identity")
        self.beta = beta
        self.matrix: Tensor | None = None
        if model.opu is None:
            return
        if matrix is None:
            if not isinstance(model.opu, SimulatedOPU):
                raise ConfigError(f"[{model.opu.identity}] does not know its matrix: recover it, and give matrix=")
            return
        wanted = (model.opu.n_components, model.opu.n_features)
        if matrix.shape != wanted or not matrix.is_complex():
            raise ConfigError(f"matrix is complex {wanted}, got {matrix.dtype} {tuple(matrix.shape)}")
        self.matrix = torch.view_as_real(matrix).permute(2, 1, 0).contiguous().float().to(model.mean.device)

    def pull(self, h: Tensor, g_logits: Tensor) -> Tensor:
        with torch.enable_grad(), standing_still(self.model.norm):
            h = h.detach().requires_grad_()
            return torch.autograd.grad(self.model.read(self._seen(self._shown(h))), h, g_logits)[0]

    def _shown(self, h: Tensor) -> Tensor:
        """What the mirrors show, with a slope where it has a step."""
        if not self.model.binary:
            return h
        c = h - h.mean(dim=1, keepdim=True)
        if self.beta is not None:
            scale = c.detach().square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
            c = torch.tanh(self.beta * c / scale)
        return binarised(h) + (c - c.detach()) / 2

    def _seen(self, x: Tensor) -> Tensor:
        """What the camera sees of x, without its noise."""
        if self.model.opu is None:
            return x
        field = torch.matmul(x, self.matrix) if self.matrix is not None else Field.apply(x, self.model.opu)
        return field[0] if self.model.kind == "projection" else field.square().sum(dim=0)


class Surrogate(PulledBack):
    """The derivative of a network h -> logits fitted to what the head answered: neither T nor B need be known.

    Use `fit`; `queries` is what it asked, `residual` the mean square by which it misses logits that it was not fitted
    to, as a part of their variance.
    """

    def __init__(self, model: OpticalDefense, network: nn.Module, queries: int, residual: float) -> None:
        super().__init__(model)
        self.network = network
        self.queries = queries
        self.residual = residual

    @classmethod
    def fit(
        cls, target: Target, images: Tensor, generator: torch.Generator, width: int = 512, steps: int = 2000
    ) -> Surrogate:
        """Ask the head once for each image, and fit a network of one hidden layer to its logits (Adam, mean square).

        A tenth of the answers is held out, for `residual`.

        Args:
            target: of an `OpticalDefense`; counts the queries.
            images: `(batch, channels, height, width)`; more of them, and some within the attack's reach, serve better.
            generator: on the CPU; draws the weights, the order and what is held out.

        Raises:
            DataError: fewer than 2 images.
        """
        model = target.model
        if not isinstance(model, OpticalDefense):
            raise ConfigError(f"a surrogate stands for the head of an OpticalDefense, got {type(model).__name__}")
        if len(images) < 2:
            raise DataError(f"a surrogate is fitted to at least 2 images, got {len(images)}")
        with evaluating(model), torch.no_grad():
            h = torch.cat([model.hidden(part) for part in images.split(target.chunk)])
            logits = torch.cat([model.head(part) for part in h.split(target.chunk)])
        target.queries += len(images)
        last = drawn_linear(width, model.n_classes, generator)
        nn.init.zeros_(last.weight)  # a random function to begin with would stay where no query looks
        first = drawn_linear(h.shape[1], width, generator)
        network = nn.Sequential(_Standardised(h), first, nn.ReLU(), last).to(h.device)
        residual = imitate(network, h, logits, generator, steps).residual
        return cls(model, network, len(images), residual)

    def pull(self, h: Tensor, g_logits: Tensor) -> Tensor:
        with torch.enable_grad():
            h = h.detach().requires_grad_()
            return torch.autograd.grad(self.network(h), h, g_logits)[0]


def known_matrix(opu: SimulatedOPU) -> Tensor:
    """T of a simulated device, complex `(n_components, n_mirrors)`: the fields of single mirrors."""
    real, imaginary = opu.speckle(torch.eye(opu.n_features))
    return torch.complex(real, imaginary).T.contiguous()


def with_error(matrix: Tensor, relative_error: float, generator: torch.Generator) -> Tensor:
    """(T + rE)/√(1 + r²) with E complex Gaussian, of T's mean square: what is known of T to a relative error r.

    >>> matrix = torch.ones(100, 100, dtype=torch.complex64)
    >>> known = with_error(matrix, 0.5, torch.Generator().manual_seed(0))
    >>> round((known * 1.25**0.5 - matrix).abs().square().mean().sqrt().item(), 2)
    0.5
    """
    if not 0 <= relative_error < float("inf"):
        raise ConfigError(f"a relative error is a number of at least 0, got {relative_error}")
    error = torch.randn(*matrix.shape, 2, generator=generator, device=generator.device).to(matrix.device)
    rms = matrix.abs().square().mean().sqrt()
    known = matrix + relative_error * rms * torch.view_as_complex(error) / 2**0.5
    return known / (1 + relative_error**2) ** 0.5


@contextmanager
def standing_still(norm: nn.BatchNorm1d) -> Iterator[None]:
    """Within, the norm uses its batch as it would, but learns no running statistics from it."""
    momentum, norm.momentum = norm.momentum, 0.0
    try:
        yield
    finally:
        norm.momentum = momentum


class _Standardised(nn.Module):
    """Rows less the mean, over the deviation, of the rows it was built from."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", rows.mean(dim=0))
        self.register_buffer("deviation", rows.std(dim=0).clamp(min=1e-6))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.deviation


def _gradient(of: Tensor, at: Tensor) -> Tensor:
    """The gradient, zero where there is no path."""
    if not of.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(of, at, allow_unused=True)
    return torch.zeros_like(at) if found is None else found
