"""The variations of `scripts/defense_attempts.py`: how each is built and trained, and who attacks it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hardware import open_opu
from opu_dfa.defense.attacks import APGD, PGD, Feature, Square, Transfer
from opu_dfa.defense.combined import EOT, Expected
from opu_dfa.defense.model import OpticalDefense, vgg_features
from opu_dfa.defense.rules import StraightThrough, Surrogate, TrueFeedback
from opu_dfa.defense.target import GradientRule, Target
from opu_dfa.defense.threats import Threat
from opu_dfa.defense.training import Adversary, Recipe, train
from opu_dfa.defense.variations import (
    FreshMedium,
    HiddenNoise,
    MeanOf,
    OneOf,
    ThroughMean,
    many_thresholds,
    renewed,
)
from opu_dfa.seeds import stream
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.pictures import read_pictures
from opu_dfa.training.checkpoint import load_tree, save_tree

RUNS = Path(__file__).resolve().parent.parent / "runs" / "defense-attempts"
SEEDS = (0, 1, 2)
N_MEDIA, N_MEMBERS = 4, 3
BETA = 2.0  # slope of the tanh in place of the step, of the attacker and of the inner attack


@dataclass(frozen=True)
class Setting:
    """Images, sizes of models and lengths of trainings and attacks, for all rows alike.

    eps: in units of pixels in [0, 1]; pooled: side of the squares of pixels that are averaged; attacked: test images,
    the first of those that give the clean accuracy; stages, n_mirrors (of h), n_pixels: of the models; inner_steps: of
    PGD in training; steps, queries: of attacks.
    """

    name: str
    eps: float
    pooled: int
    trained: int
    tested: int
    attacked: int
    stages: tuple[tuple[int, ...], ...]
    n_mirrors: int
    n_pixels: int
    epochs: int
    batch: int
    inner_steps: int = 3
    steps: int = 30
    queries: int = 1_000

    @property
    def folder(self) -> Path:
        return RUNS / self.name


SETTINGS = (Setting("fashion-mnist", 0.1, 2, 3_000, 2_000, 200, ((8,), (16,)), 128, 512, epochs=6, batch=128),)


@dataclass(frozen=True)
class Row:
    """A variation.

    strength: of adversarial training, in units of eps; rule: of the training; inner: of its attack, "own" for the same,
    "known" for straight-through with T known; pixels: in units of the setting's; noise: at h in
    training; kind: a model alone, or what is made of trained ones: "session", "one of", "fresh", "mean"; of: the row it
    is made of; against: the row it is compared with as well.
    """

    name: str
    title: str
    head: Any = "optical"
    rule: str = "straight-through"
    strength: float = 0.0
    inner: str = "known"
    thresholds: int = 1
    pixels: int = 1
    noise: float = 0.0
    kind: str = "model"
    of: str = ""
    against: str = ""

    @property
    def hardened(self) -> bool:
        """Whether it is, or is made of models, trained against an adversary."""
        return BY_NAME[self.of].hardened if self.of else self.strength > 0


def _alone(strength: float, **others: Any) -> Row:
    title = f"adversarial training alone, {strength:g} eps" if strength else "undefended"
    return Row(f"alone-{strength:g}", title, head="plain", strength=strength, inner="own", **others)


FRONTIER = tuple(_alone(strength) for strength in (0.0, 0.25, 0.5, 1.0, 1.5))
TWIN = "alone-1"
ROWS: tuple[Row, ...] = (  # in the order in which they are worked through
    *FRONTIER,
    Row("dfa", "optical head, DFA", rule="dfa"),
    Row("straight", "optical head, straight-through"),
    Row("adv-straight", "adversarial training + optical head, straight-through", strength=1.0),
    Row("adv-dfa", "adversarial training + optical head, DFA, attacked with T known", rule="dfa", strength=1.0),
    Row("noise", "optical head + noise at h in training", noise=0.5),
    Row("thresholds", "optical head + 4 thresholds", thresholds=4),
    Row("session", "optical head + a fresh T per session", kind="session", of="straight"),
    Row("one-of", f"optical head + one of {N_MEDIA} media per inference", kind="one of", of="straight"),
    Row("fresh", "optical head, a fresh T per inference", kind="fresh"),
    Row("wide", "optical head + 3 media behind the same h", pixels=3),
    Row("adv-thresholds", "adversarial training + optical head + 4 thresholds", strength=1.0, thresholds=4),
    Row("adv-wide", "adversarial training + optical head + 3 media behind the same h", strength=1.0, pixels=3),
    Row("adv-sign", "adversarial training + binarisation without a medium", head="sign", strength=1.0),
    Row("mean", f"optical head, ensemble of {N_MEMBERS} models, each with its medium", kind="mean", of="straight"),
    Row(
        "alone-mean",
        f"adversarial training, ensemble of {N_MEMBERS} models without optics",
        head="plain",
        kind="mean",
        of=TWIN,
    ),
    Row(
        "adv-mean",
        f"adversarial training + optical head, ensemble of {N_MEMBERS} models, each with its medium",
        kind="mean",
        of="adv-straight",
        against="alone-mean",
    ),
    Row(
        "adv-dfa-own",
        "adversarial training + optical head, DFA, attacked along B",
        rule="dfa",
        strength=1.0,
        inner="own",
    ),
)
BY_NAME = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Data:
    """Pixels in [0, 1] `(n, 1, height, width)` and labels, of training and of test."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@lru_cache
def data(name: str) -> Data:
    """The images of the setting of that name."""
    at = next(setting for setting in SETTINGS if setting.name == name)
    trained, tested = read_pictures(name, DataSettings(root=None, download=False))
    images, test_images = (
        F.avg_pool2d(each.images[:n].float() / 255, at.pooled)
        for each, n in ((trained, at.trained), (tested, at.tested))
    )
    return Data(images, trained.labels[: at.trained], test_images, tested.labels[: at.tested])


def medium(n_mirrors: int, n_pixels: int, seed: int) -> Any:
    return open_opu("simulated", n_features=n_mirrors, n_components=n_pixels, seed=seed, preset="noisy-8bit")


def built(at: Setting, row: Row, seed: int) -> OpticalDefense:
    """The row's model, not yet trained."""
    images, n_mirrors = data(at.name).images, at.n_mirrors * row.thresholds
    shape = (1, *images.shape[2:])
    features = vgg_features([list(stage) for stage in at.stages], shape, seed)
    others: dict[str, Any] = {
        "image_shape": shape,
        "mean": images.mean().item(),
        "std": images.std().item(),
        "seed": seed,
    }
    if row.kind == "fresh":
        first = 1_000_000 * (seed + 1)
        return FreshMedium(features, 10, lambda number: medium(n_mirrors, at.n_pixels, first + number), **others)
    opu = medium(n_mirrors, at.n_pixels * row.pixels, seed) if row.head == "optical" else None
    model = OpticalDefense(features, 10, opu, row.head, n_mirrors=None if opu else n_mirrors, **others)
    if row.thresholds > 1:
        model = many_thresholds(model, row.thresholds, seed)
    if row.noise:
        noisy: Any = nn.Sequential(model.linear, HiddenNoise(row.noise, seed))
        model.linear = noisy
    return model


def model_of(at: Setting, row: Row, seed: int) -> nn.Module:
    """The row's model, trained now or before; its device as training left it."""
    if row.kind in ("model", "fresh"):
        return _trained(at, row.name, built(at, row, seed), seed, row)
    of = BY_NAME[row.of]
    if row.kind == "session":
        return session(at, of, seed, 1)
    if row.kind == "one of":
        return OneOf([model_of(at, of, seed), *(session(at, of, seed, number) for number in range(1, N_MEDIA))], seed)
    return MeanOf([model_of(at, of, seed + 10 * number) for number in range(N_MEMBERS)])


def session(at: Setting, of: Row, seed: int, number: int) -> OpticalDefense:
    """A trained model's features before another medium, and a readout fitted to it."""
    trained: Any = model_of(at, of, seed)
    other = renewed(trained, medium(at.n_mirrors, at.n_pixels, 1_000 * number + seed), seed)
    return _trained(at, f"{of.name}-session-{number}", other, seed, of, at.epochs // 2)


def _trained(at: Setting, name: str, model: Any, seed: int, row: Row, epochs: int | None = None) -> Any:
    path = at.folder / f"seed-{seed}" / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe = Recipe(epochs=epochs or at.epochs, batch=at.batch, rule=row.rule, learning_rate=3e-3)
        images = data(at.name)
        train(model, images.images, images.labels, recipe, stream(seed, "training"), _adversary(at, row, model))
        save_tree(path, dict(model.state_dict()))
    model.load_state_dict(load_tree(path))
    return model.eval()


def _adversary(at: Setting, row: Row, model: OpticalDefense) -> Adversary | None:
    if not row.strength:
        return None
    rule = None if row.inner == "own" else StraightThrough(model, beta=BETA)
    return Adversary(PGD(steps=at.inner_steps), row.strength * at.eps, rule)


def threats(at: Setting, row: Row, model: nn.Module, seed: int) -> dict[str, Threat]:
    """Who attacks, in order: each meets the images that those before left standing."""
    found: dict[str, Threat] = {}
    if row.kind == "session":
        found["replay of the old session"] = Threat(_replayed(at, BY_NAME[row.of], seed))
    found["feature"] = Threat(Feature(steps=at.steps))
    exact, noisy = not _binary(model), isinstance(model, OpticalDefense) and not isinstance(model, FreshMedium)
    slope, restarts = _straight(model), 2 if exact else 1
    averaged = EOT(slope, 3) if noisy and not exact else slope
    name = "exact" if exact else "straight-through, tanh"
    found[f"pgd / {name}"] = Threat(PGD(steps=at.steps, restarts=restarts), averaged)
    for loss in ("cross-entropy", "dlr"):
        attack = APGD(steps=at.steps, loss=loss, restarts=restarts)
        found[f"{attack.name} / {name}"] = Threat(attack, slope)
    if not exact:
        learned = _surrogate(at, model, seed)
        for loss in ("cross-entropy", "dlr"):
            attack = APGD(steps=at.steps, loss=loss)
            found[f"{attack.name} / surrogate"] = Threat(attack, learned)
    if row.rule == "dfa":
        found["pgd / true feedback"] = Threat(PGD(steps=at.steps), TrueFeedback(model))  # type: ignore[arg-type]
    found["transfer"] = Threat(_replayed(at, BY_NAME[TWIN], seed + 10 * (row.name == TWIN)))
    found["square"] = Threat(Square(queries=at.queries, restarts=1))
    return found


def _replayed(at: Setting, row: Row, seed: int) -> Transfer:
    """PGD on another model, of which all is known."""
    other = model_of(at, row, seed)
    return Transfer(model=other, rule=_straight(other), attack=PGD(steps=at.steps))


def _binary(model: Any) -> bool:
    return _binary(model.members[0]) if isinstance(model, MeanOf) else model.binary


def _straight(model: Any) -> GradientRule:
    """With T known: exactly, or with a tanh for the step; over the media where they vary."""
    if isinstance(model, MeanOf):
        return _of_members(model, [_straight(member) for member in model.members])
    rule = StraightThrough(model, beta=BETA if model.binary else None)
    return Expected([rule] * N_MEDIA) if isinstance(model, FreshMedium) else rule


def _surrogate(at: Setting, model: Any, seed: int) -> GradientRule:
    """Of heads learned by queries, a network for each member."""
    if isinstance(model, MeanOf):
        return _of_members(model, [_surrogate(at, member, seed) for member in model.members])
    return Surrogate.fit(Target(model), data(at.name).images, stream(seed, "surrogate"), width=256, steps=600)


def _of_members(model: MeanOf, rules: list[GradientRule]) -> GradientRule:
    return Expected(rules) if isinstance(model, OneOf) else ThroughMean(model, rules)
