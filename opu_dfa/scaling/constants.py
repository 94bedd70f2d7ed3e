"""The constants of configs/scaling.yaml, as the law takes them."""

from __future__ import annotations

from collections.abc import Sequence

from opu_dfa.config import composed, parse
from opu_dfa.scaling.law import Accelerator, Language, Law, Optics, Pipeline, Wire
from opu_dfa.scaling.offload import Host, Offload


def read(words: Sequence[str] = ()) -> tuple[Law, Offload]:
    """Compose configs/scaling.yaml with settings given as words, `opu.devices=4`.

    Raises:
        ConfigError: a constant that does not fit. Hydra's own error: one that there is not.
    """
    config = composed("scaling", words)
    accelerator = parse(Accelerator, config["accelerator"], "accelerator")
    opu = parse(Optics, config["opu"], "opu")
    wire, model = parse(Wire, config["link"], "link"), parse(Language, config["model"], "model")
    law = Law(accelerator, wire, opu, model, parse(Pipeline, config["pipeline"], "pipeline"))
    return law, Offload.of(accelerator, parse(Host, config["offload"], "offload"), opu)
