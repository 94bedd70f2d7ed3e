"""The command line: `opu-dfa <verb> [group=choice] [key=value]`, composed by Hydra."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

USAGE = """\
usage: opu-dfa <verb> [group=choice] [key=value] ...

verbs
  train      train a model by direct feedback alignment, beside backprop and frozen blocks
  device     info | calibrate | fidelity | serve | bench: look at an optical device, or offer it to others

  opu-dfa train                       the default: a small GPT on Python's documentation, no network, no device
  opu-dfa train steps=20              a short run
  opu-dfa train task.text=FILE        your own UTF-8 text
  opu-dfa train feedback=gaussian     a digital random matrix in place of the device
  opu-dfa train experiment=digits     another task with the model and settings that fit it (configs/experiment)
  opu-dfa train method=dfa            one method alone: dfa, bp or frozen
  opu-dfa train resume=RUN            continue an interrupted run
  opu-dfa train --multirun seed=0,1   a sweep, and one table of its jobs; hydra/launcher=joblib for jobs in parallel
  opu-dfa train --plan model=gpt-1b   memory, FLOPs, frames and energy of a run, before it runs
  opu-dfa train --cfg job             show every setting
  opu-dfa device info                 what the simulated device is; opu=auto, lighton or remote for another
  opu-dfa device fidelity opu.preset=anchor
                                      how faithful it is, as numbers and a figure
  opu-dfa device serve                offer it on a local socket: opu=remote in any other run
"""

LAUNCHERS = {"joblib": "sweep", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}  # and their extras


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exits with 0, 2 for an error the user can mend, 130 after an interruption."""
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

    from opu_dfa.config import config_folder
    from opu_dfa.errors import ConfigError, UserError

    console = Console()
    try:
        if "--plan" in overrides:
            return _hydra("train", "train", [w for w in overrides if w != "--plan"], config_folder(), _plan)
        resumed = [word.partition("=")[2] for word in overrides if word.startswith("resume=")]
        if resumed and resumed[-1] not in ("null", ""):
            if len(overrides) > 1:
                raise ConfigError(
                    "resume= continues a run with the settings it began with; leave out the other settings: "
                    + " ".join(word for word in overrides if not word.startswith("resume="))
                )
            return _resume(resumed[-1], console)
        return _hydra("train", "train", overrides, config_folder(), _train_composed)
    except UserError as error:
        return _fail(str(error))


def device(words: list[str]) -> int:
    """`opu-dfa device ACTION`."""
    from opu_dfa.config import config_folder
    from opu_dfa.device import ACTIONS
    from opu_dfa.errors import UserError

    action = words[0] if words else "nothing"
    if action not in ACTIONS:
        return _fail(f"opu-dfa device does {', '.join(ACTIONS)}; got {action}. See opu-dfa --help.")
    try:
        return _hydra(f"device {action}", "device", words[1:], config_folder(), partial(_device, action))
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


def _resume(where: str, console: Console) -> int:
    import json

    from opu_dfa.errors import CheckpointError
    from opu_dfa.training.run import CHECKPOINT

    place = Path(where).expanduser()
    checkpoint = place / CHECKPOINT if place.is_dir() else place
    if (place / "checkpoints").is_dir():  # a run over ranks
        checkpoint = place / "checkpoints"
    settings = checkpoint.parent / "config.json"
    if not checkpoint.exists() or not settings.is_file():
        missing = settings if checkpoint.exists() else checkpoint
        raise CheckpointError(
            f"resume={where}: there is no {missing}. Give the folder of a run, as the run printed it."
        )
    try:
        config = json.loads(settings.read_text())
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{settings} is damaged: {error}") from error
    return _train(config, checkpoint.parent, console, checkpoint)


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


def _hydra(
    words: str, name: str, overrides: list[str], folder: Path, run: Callable[[Console, dict[str, Any], Path], int]
) -> int:
    """Compose the configuration `name` and run; Hydra handles multirun, launchers and --cfg."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from opu_dfa import sweep
    from opu_dfa.errors import ConfigError

    codes: list[int] = []
    parent = os.getpid()

    def job(config: DictConfig) -> None:  # a launcher may run it in another process
        from rich.console import Console

        plain: Any = OmegaConf.to_container(config, resolve=True)
        place = Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            begin, resume = (lambda console: run(console, plain, place)), partial(_resume, str(place))
            codes.append(sweep.run_job(begin, resume, place, parent))
        else:
            codes.append(run(Console(), plain, place))
        if codes[-1] == 130:  # an interruption ends a sweep too
            raise SystemExit(130)

    ours = "HYDRA_FULL_ERROR" not in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it would print and exit on
    program = sys.argv
    sys.argv = [f"opu-dfa {words}", *overrides]
    try:
        with sweep.tabled(codes):
            hydra.main(version_base="1.3", config_path=str(folder), config_name=name)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_composition_message(error, words, name, overrides, folder)) from error
    except OSError as error:
        from opu_dfa.training.checkpoint import cannot_write

        raise cannot_write(Path(error.filename or "the run folder"), error) from error
    finally:
        sys.argv = program
        if ours:
            os.environ.pop("HYDRA_FULL_ERROR", None)
    return max(codes, default=0)


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


def _composition_message(error: Exception, words: str, name: str, overrides: list[str], folder: Path) -> str:
    """Hydra's complaint as one paragraph, with the nearest setting that exists."""
    shown = f"`opu-dfa {words} --cfg job` shows every setting."
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown:
        near = difflib.get_close_matches(unknown[1], _known_settings(folder, name), n=1)
        return f"there is no setting {unknown[1]!r}" + (f"; did you mean {near[0]}? " if near else ". ") + shown
    launcher = re.search(r"Could not find 'hydra/launcher/([^']+)'", str(error))
    if launcher and launcher[1] in LAUNCHERS:
        extra = LAUNCHERS[launcher[1]]
        return f"hydra/launcher={launcher[1]} is not installed: pip install 'opu-dfa[{extra}]'. See docs/sweeps.md."
    reason = " ".join(str(error).partition("Config search path")[0].split())
    return f"the settings {' '.join(overrides)} do not fit: {reason}. {shown}"


def _known_settings(folder: Path, name: str) -> list[str]:
    """The dotted names of all settings of the default run."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(name)

    def names(section: Any, prefix: str) -> Iterator[str]:
        for key in section:
            yield f"{prefix}{key}"
            if hasattr(section[key], "keys"):
                yield from names(section[key], f"{prefix}{key}.")

    return list(names(config, ""))


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


VERBS: dict[str, Callable[[list[str]], int]] = {"train": train, "device": device}

if __name__ == "__main__":
    main()
