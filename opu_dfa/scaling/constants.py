"""The constants of configs/scaling.yaml, as the law takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opu_dfa.config import config_folder, parse
from opu_dfa.scaling.law import Accelerator, Language, Law, Optics, Pipeline, Wire
from opu_dfa.scaling.offload import Host, Offload


def read(words: Sequence[str] = ()) -> tuple[Law, Offload]:
    """Compose configs/scaling.yaml with settings given as words, `opu.devices=4`.

    Raises:
        ConfigError: a constant that does not fit. Hydra's own error: one that there is not.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("scaling", list(words)), resolve=True)
    accelerator = parse(Accelerator, config["accelerator"], "accelerator")
    opu = parse(Optics, config["opu"], "opu")
    wire, model = parse(Wire, config["link"], "link"), parse(Language, config["model"], "model")
    law = Law(accelerator, wire, opu, model, parse(Pipeline, config["pipeline"], "pipeline"))
    return law, Offload.of(accelerator, parse(Host, config["offload"], "offload"), opu)
