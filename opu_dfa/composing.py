"""Hydra underneath: from the words of a command to the composed configuration its verb runs with."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opu_dfa.config import config_folder
from opu_dfa.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

LAUNCHERS = {"joblib": "sweep", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}  # and their extras


def compose_and_run(
    words: str,
    name: str,
    overrides: list[str],
    run: Callable[[Console, dict[str, Any], Path], int],
    resume: Callable[[str, Console], int] | None = None,
) -> int:
    """Compose the configuration `name` and run with it; Hydra handles multirun, launchers and --cfg.

    Args:
        words: the verb, as it is typed.
        run: takes a console, the configuration and the run's folder, and returns an exit code.
        resume: continues a sweep's job from the checkpoint in its folder; None if `run` does that itself.

    Raises:
        ConfigError: settings that do not compose.
        RunFolderError: the folder cannot be written.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from opu_dfa import sweep

    folder = config_folder()
    codes: list[int] = []
    parent = os.getpid()

    def job(config: DictConfig) -> None:  # a launcher may run it in another process
        from rich.console import Console

        plain: Any = OmegaConf.to_container(config, resolve=True)
        place = Path(HydraConfig.get().runtime.output_dir)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            begin = lambda console: run(console, plain, place)  # noqa: E731
            again = begin if resume is None else partial(resume, str(place))
            codes.append(sweep.run_job(begin, again, place, parent))
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
