"""The command line: `opu-dfa <verb> [group=choice] [key=value]`, composed by Hydra."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opu_dfa.usage import USAGE

if TYPE_CHECKING:
    from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exits with 0, 1 where a study failed, 2 for an error the user can mend, 130 after an interruption."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0)
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise SystemExit(_fail(f"opu-dfa has no verb {verb!r}; the verbs are: {', '.join(VERBS)}. See opu-dfa --help."))
    try:
        raise SystemExit(VERBS[verb](rest))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def train(overrides: list[str]) -> int:
    """`opu-dfa train`: a new run, or `resume=RUN`."""
    from rich.console import Console

    from opu_dfa.composing import compose_and_run
    from opu_dfa.errors import UserError

    try:
        if "--plan" in overrides:
            return compose_and_run("train", "train", [w for w in overrides if w != "--plan"], _plan)
        resumed = _resumed(overrides)
        if resumed:
            return _resume(resumed, Console())
        return compose_and_run("train", "train", overrides, _train_composed, _resume)
    except UserError as error:
        return _fail(str(error))


def forecast(overrides: list[str]) -> int:
    """`opu-dfa forecast`: a new run, or `resume=RUN`."""
    named = {word.partition("=")[0] for word in overrides}
    if "series" in named and "system" not in named:
        overrides = [*overrides, "system=series"]  # no system, and settings that fit short real series
    return _begin_or_resume("forecast", overrides)


def defend(overrides: list[str]) -> int:
    """`opu-dfa defend`: a new run, or `resume=RUN`."""
    return _begin_or_resume("defend", overrides)


def predict(overrides: list[str]) -> int:
    """`opu-dfa predict`: a new run, or `resume=RUN`; `task=dfa` has settings of its own."""
    # A choice between two questions, not a setting: Hydra would look for it among the tasks of `train`.
    questions = {"task=reader": "predict", "task=dfa": "predict-dfa"}
    asked = [word for word in overrides if word.startswith("task=")]
    if not set(asked) <= questions.keys():
        return _fail(f"opu-dfa predict does {' and '.join(questions)}; got {' '.join(asked)}.")
    others = [word for word in overrides if word not in asked]
    return _begin_or_resume("predict", others, questions[asked[-1]] if asked else "predict")


def _begin_or_resume(verb: str, overrides: list[str], settings: str = "") -> int:
    """A run that continues in its folder from what it finds there; settings are named after the verb, or otherwise."""
    from rich.console import Console

    from opu_dfa.composing import compose_and_run
    from opu_dfa.errors import UserError

    run = partial(_run_in_folder, verb)
    try:
        resumed = _resumed(overrides)
        return run(Console(), *_begun(resumed)) if resumed else compose_and_run(verb, settings or verb, overrides, run)
    except UserError as error:
        return _fail(str(error))


def _resumed(overrides: list[str]) -> str | None:
    """The run that `resume=` names, which takes no settings beside it."""
    from opu_dfa.errors import ConfigError

    others = [word for word in overrides if not word.startswith("resume=")]
    resumed = [word.partition("=")[2] for word in overrides if word not in others]
    if not resumed or resumed[-1] in ("null", ""):
        return None
    if others or len(resumed) > 1:
        raise ConfigError(
            "resume= continues a run with the settings it began with; leave out the other settings: " + " ".join(others)
        )
    return resumed[-1]


def study(words: list[str]) -> int:
    """`opu-dfa study list`, `opu-dfa study run NAME` or `opu-dfa study run all`."""
    from rich.console import Console

    from opu_dfa.errors import UserError
    from opu_dfa.studies.command import ACTIONS, list_studies, run_words

    action = words[0] if words else "nothing"
    if action not in ACTIONS:
        return _fail(f"opu-dfa study does {', '.join(ACTIONS)}; got {action}. See opu-dfa --help.")
    console = Console()
    _log_to(console)
    try:
        if action == "list":
            list_studies(console)
            return 0
        code, folder = run_words(words[1:], Path("runs/study").absolute(), console)
    except UserError as error:
        return _fail(str(error))
    if code == 130:
        print(f"Stopped; what is done is written. Continue with: opu-dfa study run all resume={_shown(folder)}")
    else:
        print(_shown(folder))
    return code


def device(words: list[str]) -> int:
    """`opu-dfa device ACTION`."""
    from opu_dfa.composing import compose_and_run
    from opu_dfa.device import ACTIONS
    from opu_dfa.errors import UserError

    action = words[0] if words else "nothing"
    if action not in ACTIONS:
        return _fail(f"opu-dfa device does {', '.join(ACTIONS)}; got {action}. See opu-dfa --help.")
    try:
        return compose_and_run(f"device {action}", "device", words[1:], partial(_device, action))
    except UserError as error:
        return _fail(str(error))


def _device(action: str, console: Console, config: dict[str, Any], folder: Path) -> int:
    from hardware import DeviceError
    from opu_dfa.device import run_device
    from opu_dfa.errors import UserError

    _log_to(console)
    try:
        run_device(action, config, folder, console)
    except (UserError, DeviceError) as error:
        return _fail(str(error))
    print(_shown(folder))
    return 0


def _run_in_folder(verb: str, console: Console, config: dict[str, Any], folder: Path) -> int:
    from hardware import DeviceError
    from opu_dfa.errors import UserError

    _log_to(console)  # before what is imported next: libraries have things to say when they are
    run: Callable[[dict[str, Any], Path, Console], None]
    if verb == "forecast":
        from opu_dfa.forecast.run import run_forecast as run
    elif verb == "predict":
        if config.get("task") == "dfa":
            from opu_dfa.predict.dfa import run_dfa as run
        else:
            from opu_dfa.predict.run import run_predict as run
    else:
        from opu_dfa.defend.run import run_defend as run
    try:
        run(config, folder, console)
    except KeyboardInterrupt:
        print(f"Stopped; what is done is written. Continue with: opu-dfa {verb} resume={_shown(folder)}")
        return 130
    except (UserError, DeviceError) as error:
        return _fail(str(error))
    print(_shown(folder))
    return 0


def _begun(where: str) -> tuple[dict[str, Any], Path]:
    """The settings and the folder of a run that has begun."""
    import json

    from opu_dfa.errors import CheckpointError

    folder = Path(where).expanduser()
    settings = folder / "config.json"
    if not settings.is_file():
        raise CheckpointError(
            f"resume={where}: there is no {settings}. Give the folder of a run, as the run printed it."
        )
    try:
        return json.loads(settings.read_text()), folder
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{settings} is damaged: {error}") from error


def _resume(where: str, console: Console) -> int:
    from opu_dfa.errors import CheckpointError
    from opu_dfa.training.run import CHECKPOINT

    place = Path(where).expanduser()
    checkpoint = place / CHECKPOINT if place.is_dir() else place
    if (place / "checkpoints").is_dir():  # a run over ranks
        checkpoint = place / "checkpoints"
    if not checkpoint.exists():
        raise CheckpointError(
            f"resume={where}: there is no {checkpoint}. Give the folder of a run, as the run printed it."
        )
    config, folder = _begun(str(checkpoint.parent))
    return _train(config, folder, console, checkpoint)


def _train_composed(console: Console, config: dict[str, Any], folder: Path) -> int:
    for key in ("text", "test"):  # a run may be resumed from another folder
        if config["task"].get(key):
            named = Path(str(config["task"][key])).expanduser()
            config["task"][key] = str(named.absolute() if named.exists() else named)
    return _train(config, folder, console)


def _plan(console: Console, config: dict[str, Any], folder: Path) -> int:
    """What the run would take; 2 where it cannot fit."""
    from opu_dfa.config import parse
    from opu_dfa.errors import UserError
    from opu_dfa.tasks import build_task
    from opu_dfa.training.plan_report import print_plans
    from opu_dfa.training.settings import TrainSettings

    try:
        settings = parse(TrainSettings, config)
        return 0 if print_plans(settings, build_task(settings.task, settings.data), console) else 2
    except UserError as error:
        return _fail(str(error))


def _train(config: dict[str, object], folder: Path, console: Console, checkpoint: Path | None = None) -> int:
    """One run; prints its folder as the last line."""
    from hardware import DeviceError
    from opu_dfa.errors import RunFolderError, UserError
    from opu_dfa.training.run import CHECKPOINT, Interrupted, run_training

    _log_to(console)
    shown = _shown(folder)
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 or (checkpoint and checkpoint.is_dir()):  # started by torchrun
            from opu_dfa.training.pipelined import run_pipelined

            shown = _shown(run_pipelined(config, folder, console, resume=checkpoint is not None))
            if os.environ.get("RANK", "0") != "0":
                return 0
        else:
            run_training(config, folder, console, checkpoint)
    except Interrupted as stopped:
        print(f"{stopped}; its checkpoint is written. Continue with: opu-dfa train resume={shown}")
        return 130
    except (UserError, DeviceError) as error:
        mendable = isinstance(error, (RunFolderError, DeviceError)) and (folder / CHECKPOINT).is_file()
        return _fail(f"{error}" + (f" Then continue with: opu-dfa train resume={shown}" if mendable else ""))
    print(shown)
    return 0


def _log_to(console: Console) -> None:
    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)


def _shown(path: Path) -> Path:
    """The path as a person here would type it."""
    return Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "forecast": forecast,
    "defend": defend,
    "predict": predict,
    "study": study,
    "device": device,
}

if __name__ == "__main__":
    main()
