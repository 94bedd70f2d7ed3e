"""Simulated steps of pipelines that were measured: what `scripts/bench/pipeline.py` found, put into the simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opu_dfa.scaling.simulate import Link, Result, StageCosts, predict


def replay(found: Mapping[str, Any], key: str) -> Result:
    """The simulated step of one of the measured schedules, to set against its `step_seconds`.

    Only the stages' work, the messages' bytes and the link are taken from the measurement. The real DFA pipeline runs
    all forwards first by default, sends the error to each stage in turn, and finds it right after the last stage's
    forward, as part of it.

    Args:
        found: what `measure` of scripts/bench/pipeline.py returned; key: "gpipe", "1f1b", or one of DFA's.

    >>> work = {"forward": [2.0, 2.0], "error": [0.0, 1.0], "project": [0.5, 0.5], "backward": [4.0, 4.0]}
    >>> replay({
    ...     "setting": {"stages": 2, "micro_batches": 3},
    ...     "schedules": {"dfa-float32": {"work": work}},
    ...     "link": {"latency_seconds": 0.0, "bytes_per_second": 1e12},
    ...     "message_bytes": {"activations": 0, "error": {"dfa-float32": 0}},
    ... }, "dfa-float32").step_seconds
    24.5
    """
    setting, work, message = found["setting"], found["schedules"][key]["work"], found["message_bytes"]
    costs = StageCosts(
        forward=tuple(np.add(work["forward"], work["error"])),
        input_grad=tuple(work["backward"]),
        weight_grad=0.0,
        project=tuple(work["project"]),
        activation_bytes=message["activations"],
        error_bytes=message["error"].get(key, 0.0),
    )
    link = Link(found["link"]["latency_seconds"], found["link"]["bytes_per_second"], "star")
    name = "dfa-flush" if key.startswith("dfa") else key
    return predict(name, costs, link, setting["stages"], setting["micro_batches"])
