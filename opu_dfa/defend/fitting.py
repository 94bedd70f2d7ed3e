"""Training of a run's models, each left and taken up between epochs; by one process, or shared among several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from opu_dfa.config import parse
from opu_dfa.defend import models
from opu_dfa.defend.models import Data, Variant
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.training import Epoch, Training
from opu_dfa.progress import Work
from opu_dfa.seeds import stream
from opu_dfa.training.checkpoint import load_tree, save_tree


def fit(
    variant: Variant,
    model: OpticalDefense,
    chosen: DefendSettings,
    data: Data,
    folder: Path,
    work: Work,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> None:
    """Train the model, from the epoch where it was left, and save it; or load it, if all was done before.

    An adversarially trained model goes on from the undefended one, whose weights have to be there.

    Args:
        on_epoch: called after each epoch, and at last with all of them, as another process may have trained the model.
    """
    path, partial = folder / variant.file, folder / variant.partial
    if not path.is_file():
        recipe, against = models.recipe(variant, chosen), models.adversary(variant, chosen, model)
        generator = stream(variant.seed, "defend training")
        training = Training(model, data.images, data.labels, recipe, generator, against)
        if partial.is_file():
            training.load_state_dict(load_tree(partial))
        elif variant.adversarial:
            models.restore(model, folder / models.compared(chosen)[0].file)
        work.begin(f"{variant.name}: training", recipe.epochs, len(training.epochs))
        while not training.done:
            on_epoch(training.epoch())
            save_tree(partial, training.state_dict())
            work.advance()
        save_tree(path, {"model": model.state_dict(), "epochs": training.state_dict()["epochs"]})
        partial.unlink(missing_ok=True)
    for epoch in models.restore(model, path):
        on_epoch(epoch)


def prepare(config: Mapping[str, Any], folder: Path, name: str, console: Console) -> None:
    """Train one model of a run into the run's folder, where the run will find it.

    Raises:
        UserError: anything a user can mend (`opu_dfa.errors`).
        DeviceError: the device does not open, or fails.
    """
    chosen = parse(DefendSettings, dict(config) | {"resume": None})
    variant = {each.name: each for each in models.variants(chosen)}[name]
    folder.mkdir(parents=True, exist_ok=True)
    data = models.find_data(chosen)
    with Work(console) as work, models.built(variant, chosen, data) as model:
        fit(variant, model, chosen, data, folder, work)
