"""`metrics.jsonl` of a run: epochs, and what every attack came to, so that an interrupted run redoes neither."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from opu_dfa.defend.models import Variant
from opu_dfa.defense.outcome import Check, Outcome, Report, fraction
from opu_dfa.defense.threats import Threat
from opu_dfa.defense.training import Epoch
from opu_dfa.training.checkpoint import keep_config, write_atomically
from opu_dfa.training.metrics import MetricsFile, read_metrics

METRICS = "metrics.jsonl"


class Records:
    """The records of a folder; in that of another run it is refused.

    Args:
        variants: the run's models; what is recorded of those without weights there is dropped.

    Raises:
        RunFolderError: the folder holds another run, or cannot be written.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], variants: Sequence[Variant]) -> None:
        keep_config(folder, config, "defend")
        path = folder / METRICS
        begun = {v.name for v in variants if any((folder / f).is_file() for f in (v.file, v.partial))}
        before = read_metrics(path) if path.exists() else []
        self._seen = [record for record in before if record["model"] in begun]
        kept = "".join(json.dumps(record) + "\n" for record in self._seen).encode()
        write_atomically(path, kept)
        self._file = MetricsFile(path, len(kept))

    def epoch(self, model: str, epoch: Epoch) -> None:
        """Record an epoch, unless it was before the run was interrupted."""
        if any(r["model"] == model and r.get("epoch") == epoch.number for r in self._seen):
            return
        self._add(
            {
                "model": model,
                "epoch": epoch.number,
                "loss": epoch.loss,
                "accuracy": epoch.accuracy,
                "seconds": epoch.seconds,
            }
        )

    def clean(self, model: str, accuracy: Callable[[], float]) -> float:
        """Accuracy over all images held out; measured unless it is recorded."""
        for record in self._seen:
            if record["model"] == model and "clean_accuracy" in record:
                return float(record["clean_accuracy"])
        self._add({"model": model, "clean_accuracy": accuracy()})
        return self.clean(model, accuracy)

    def attack(self, model: str, report: Report, outcome: Outcome) -> None:
        accuracy = fraction(outcome.right)
        self._add(
            {
                "model": model,
                "eps": report.eps,
                "attack": outcome.name,
                "attacker": outcome.threat.knowledge,
                "accuracy": accuracy,
                "standard_error": report.standard_error(accuracy),
                "queries": outcome.queries,
                "frames": outcome.frames,
                "seconds": outcome.seconds,
                "settings": outcome.threat.settings,
                "rates": outcome.rate.tolist(),
                "broken_at": None if outcome.broken_at is None else outcome.broken_at.tolist(),
            }
        )

    def attacked(self, model: str, report: Report, threats: Mapping[str, Threat]) -> dict[str, Outcome]:
        """The attacks that a model is through with at the report's eps, without their images."""
        found = {}
        for record in self._seen:
            if record["model"] == model and record.get("attack") in threats and record["eps"] == report.eps:
                rate, name = torch.tensor(record["rates"]), record["attack"]
                right = (rate > 0.5) & report.clean_right.cpu()
                broken_at = None if record.get("broken_at") is None else torch.tensor(record["broken_at"])
                found[name] = Outcome(
                    name,
                    threats[name],
                    rate,
                    right,
                    record["queries"],
                    record["seconds"],
                    torch.empty(0),
                    broken_at,
                    record.get("frames", 0),
                )
        return found

    def checks(self, model: str, report: Report, checks: Sequence[Check]) -> None:
        self._add({"model": model, "eps": report.eps, "checks": [[c.name, c.holds, c.detail] for c in checks]})

    def checked(self, model: str, report: Report) -> tuple[Check, ...] | None:
        """The checks of a model's evaluation, if they were run."""
        for record in self._seen:
            if record["model"] == model and "checks" in record and record["eps"] == report.eps:
                return tuple(Check(*each) for each in record["checks"])
        return None

    def close(self) -> None:
        self._file.close()

    def _add(self, record: dict[str, Any]) -> None:
        self._seen.append(record)
        self._file.append(record)
