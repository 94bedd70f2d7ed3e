"""From composed configuration to frozen, typed settings; and where the configuration files are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass
from typing_extensions import dataclass_transform

from opu_dfa.errors import ConfigError

Settings = TypeVar("Settings")

Count = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


@dataclass_transform(frozen_default=True)
def settings(schema: type[Settings]) -> type[Settings]:
    """A frozen dataclass whose fields are checked when it is made, and which takes no others."""
    return validated_dataclass(schema, frozen=True, config=ConfigDict(extra="forbid"))  # type: ignore[return-value]


def config_folder() -> Path:
    """The folder of configuration files: inside an installed package, at the top of a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration files beside {here}: the installation is incomplete; install opu-dfa again")


def composed(name: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of `configs/NAME.yaml`, changed by words as on the command line, as plain values.

    Raises:
        Hydra's own errors: a setting that there is not.

    >>> composed("defend", ["defense=cifar10", "epochs=3"])["epochs"]
    3
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        values: Any = OmegaConf.to_container(compose(name, list(words)), resolve=True)
    return dict(values)


def parse(schema: type[Settings], section: Mapping[str, Any], name: str = "") -> Settings:
    """A section of the configuration as an instance of a `settings` class.

    Args:
        schema: the class; section: its values; name: where the section stands, for the error.

    Raises:
        ConfigError: a key that the schema lacks, a missing key, a value of another type or out of range.

    >>> @settings
    ... class Clock:
    ...     ticks: Count
    >>> parse(Clock, {"ticks": 3})
    Clock(ticks=3)
    >>> parse(Clock, {"ticks": 0}, "clock")
    Traceback (most recent call last):
    opu_dfa.errors.ConfigError: the setting clock.ticks=0 does not fit: input should be greater than or equal to 1
    """
    try:
        return TypeAdapter(schema).validate_python(dict(section))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # a rule between settings, which says it all
            raise ConfigError(str(first["ctx"]["error"])) from error
        key = ".".join(str(part) for part in (*((name,) if name else ()), *first["loc"]))
        seen = "" if first["type"] == "missing" else f"={first['input']}"
        reason = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"the setting {key}{seen} does not fit: {reason}") from error
