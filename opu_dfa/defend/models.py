"""The images of a run and its models: the defended one, its undefended twin, and those they are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opu_dfa.config import parse
from opu_dfa.defend.settings import DefendSettings, Rule
from opu_dfa.defense.attacks import PGD
from opu_dfa.defense.model import HEADS, Head, OpticalDefense, vgg_features
from opu_dfa.defense.rules import Autograd
from opu_dfa.defense.training import RULES, Adversary, Epoch, Recipe
from opu_dfa.errors import CheckpointError
from opu_dfa.opening import open_device
from opu_dfa.seeds import stream
from opu_dfa.tasks.pictures import Pictures, read_pictures
from opu_dfa.training.checkpoint import load_tree

DEFENDED, UNDEFENDED, ADVERSARIAL = "defended", "undefended", "adversarially trained"
ANOTHER_MEDIUM = "another medium"


@dataclass(frozen=True)
class Data:
    """Pixels in [0, 1], `(n, channels, height, width)`, and classes: learned from, held out, and of these attacked."""

    images: Tensor
    labels: Tensor
    held_out: tuple[Tensor, Tensor]
    test_images: Tensor
    test_labels: Tensor
    n_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width


@dataclass(frozen=True)
class Variant:
    """A model of the run: its name, and all in which it differs from the others."""

    name: str
    head: Head
    rule: Rule
    seed: int
    adversarial: bool = False

    @property
    def file(self) -> str:
        """Of its weights, in the run's folder."""
        return f"{self.name.replace(', ', '-').replace(' ', '-')}.safetensors"

    @property
    def partial(self) -> str:
        """Of its training between two epochs, there until it is done."""
        return self.file.replace(".safetensors", ".training.safetensors")


def compared(chosen: DefendSettings) -> list[Variant]:
    """The models that are compared at every eps: twins alike but for the head and the rule that it needs."""
    twins = [
        Variant(UNDEFENDED, "plain", "straight-through", chosen.seed),  # which without a binarisation is backprop
        Variant(DEFENDED, chosen.head, chosen.rule, chosen.seed),
    ]
    return [
        *twins,
        *([Variant(ADVERSARIAL, "plain", "straight-through", chosen.seed, adversarial=True)] * chosen.adversarial),
    ]


def seeds(chosen: DefendSettings) -> list[Variant]:
    """Defended models of other weights, another medium and B, attacked at the largest eps alone."""
    return [
        Variant(f"{DEFENDED}, seed {seed}", chosen.head, chosen.rule, seed)
        for seed in range(chosen.seed + 1, chosen.seed + chosen.seeds)
    ]


def grid(chosen: DefendSettings) -> list[Variant]:
    """Every head by each rule, attacked at the largest eps alone; none unless ablations are asked for."""
    pairs = [(head, rule) for head in HEADS for rule in RULES] if chosen.ablations else []
    return [Variant(f"{head}, {rule}", head, rule, chosen.seed) for head, rule in pairs]  # type: ignore[arg-type]


def variants(chosen: DefendSettings) -> list[Variant]:
    """All models of a run."""
    return [*compared(chosen), *seeds(chosen), *grid(chosen)]


def others(variant: Variant, ready: Mapping[Variant, OpticalDefense]) -> dict[str, tuple[OpticalDefense, str]]:
    """The models whose images are replayed on one: its twin, and for defended ones one with another medium."""
    undefended, defended = list(ready)[:2]
    found = {"the twin": defended if variant == undefended else undefended}
    if variant.head == defended.head:
        other = [each for each in ready if each.head == variant.head and each.seed != variant.seed]
        found |= {ANOTHER_MEDIUM: other[0]} if other else {}
    return {name: (ready[each], each.rule) for name, each in found.items()}


def find_data(chosen: DefendSettings) -> Data:
    """The images of the settings; a part of a set is a random choice of its own seed.

    Raises:
        DataError: the set is not there.
    """
    training, tested = read_pictures(chosen.task.data, chosen.data)
    n_classes = int(training.labels.max()) + 1
    images, labels = _some(training, chosen.train_examples, "training images")
    held_out, attacked = _some(tested, None, ""), _some(tested, chosen.test_examples, "attacked images")
    return Data(images, labels, held_out, *attacked, n_classes)


@contextmanager
def built(variant: Variant, chosen: DefendSettings, data: Data) -> Iterator[OpticalDefense]:
    """The model, not yet trained, its device open within.

    Raises:
        DeviceError: the device does not open.
        ConfigError: sizes that do not fit.
    """
    shape = data.image_shape
    opu = None
    if variant.head in ("projection", "intensity", "optical"):
        own = chosen.opu.kind.startswith("remote://")  # its sizes are where it is served
        width, pixels = (None, None) if own else (chosen.n_mirrors, chosen.n_components)
        opu = open_device(chosen.opu, width, pixels, variant.seed)
    try:
        model = OpticalDefense(
            vgg_features(chosen.features, shape, variant.seed),
            data.n_classes,
            opu,
            variant.head,
            n_mirrors=chosen.n_mirrors if opu is None else None,
            image_shape=shape,
            mean=data.images.mean((0, 2, 3)).tolist(),
            std=data.images.std((0, 2, 3)).clamp(min=1e-3).tolist(),
            seed=variant.seed,
        ).to(chosen.device)
        model.features.to(memory_format=torch.channels_last)  # in which convolutions are faster
        yield model
    finally:
        if opu is not None:
            opu.close()


def recipe(variant: Variant, chosen: DefendSettings) -> Recipe:
    """How a variant learns: the same for all but the rule; adversarial training goes on from the undefended model."""
    return Recipe(
        epochs=chosen.adversarial_epochs if variant.adversarial else chosen.epochs,
        batch=chosen.batch_size,
        rule=variant.rule,
        optimiser=chosen.optimizer,
        learning_rate=chosen.lr,
        weight_decay=chosen.weight_decay,
        augment=chosen.augment,
    )


def adversary(variant: Variant, chosen: DefendSettings, model: OpticalDefense) -> Adversary | None:
    """PGD at the largest eps on a model that differentiates exactly, for a variant that trains against it."""
    if not variant.adversarial:
        return None
    return Adversary(PGD(steps=chosen.adversarial_steps), chosen.budgets[-1], Autograd(model))


def restore(model: OpticalDefense, path: Path) -> list[Epoch]:
    """Load trained weights, running statistics, feedback and the device's random streams; how training went.

    Raises:
        CheckpointError: no such file, a damaged one, or one of another model.
    """
    tree = load_tree(path)
    try:
        model.load_state_dict(tree["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds another model: {' '.join(str(error).split())}") from error
    model.eval()
    return [Epoch(**epoch) for epoch in tree["epochs"]]


@contextmanager
def trained(folder: Path, name: str = DEFENDED) -> Iterator[OpticalDefense]:
    """A model of a finished run, by its name, with its device open: for attacks of your own.

    Raises:
        CheckpointError: there is no such run, or no such model in it.

        with trained(Path("runs/defend/2026-01-01_12-00-00")) as model:
            evaluate(model, images, labels, eps=8 / 255)
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"there is no {path}. Give the folder of a run, as the run printed it.")
    chosen = parse(DefendSettings, json.loads(path.read_text()))
    found = {variant.name: variant for variant in variants(chosen)}
    if name not in found:
        raise CheckpointError(f"the run in {folder} has no model {name!r}; it has {', '.join(found)}")
    with built(found[name], chosen, find_data(chosen)) as model:
        restore(model, folder / found[name].file)
        yield model


def _some(pictures: Pictures, count: int | None, name: str) -> tuple[Tensor, Tensor]:
    """So many images of a set, drawn without a run's seed: runs of several seeds are attacked on the same."""
    n = len(pictures.labels)
    rows = torch.arange(n) if count is None or count >= n else torch.randperm(n, generator=stream(0, name))[:count]
    return pictures.images[rows].float() / 255, pictures.labels[rows]
