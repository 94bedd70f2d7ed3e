"""What a run comes to: the result of each method, and the comparison that `summary.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opu_dfa.tasks import Task
from opu_dfa.training.loop import Loop
from opu_dfa.training.settings import TrainSettings


def result_of(loop: Loop, seen: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished method is reported by, whatever trained it; `seen` is what its records last said."""
    result: dict[str, Any] = {
        **{name: value for name, value in seen.items() if name != "loss"},
        "train_loss": seen["loss"],
        "learning_rate": getattr(loop.settings.optimizer.lr, loop.method),
        "seconds": round(loop.seconds, 2),
        "cpu_seconds": round(loop.cpu_seconds, 2),
        "items_per_second": round(loop.items_per_second, 1),
    }
    if "test" in loop.task.splits:
        result["test"] = loop.evaluate("test")
    return result


def summary_of(settings: TrainSettings, task: Task, finished: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `summary.json` holds of a run, from the results of its methods."""
    methods = {m: {k: v for k, v in r.items() if k != "device"} for m, r in finished.items()}
    return {
        "task": task.title,
        "unit": task.unit,
        "seed": settings.seed,
        "steps": settings.steps,
        "item": task.item,
        "items_per_step": settings.batch_size * task.items_per_example,
        "titles": method_titles(settings),
        "methods": methods,
        "recovery": recovery({m: r["val_loss"] for m, r in methods.items()}),
        "test_recovery": recovery({m: r["test"]["loss"] for m, r in methods.items() if "test" in r}),
        "device": finished.get("dfa", {}).get("device"),
    }


def method_titles(settings: TrainSettings) -> dict[str, str]:
    """What each method is called where people read it."""
    kind = "optical" if settings.feedback.get("name") == "optical" else "digital"
    return {"dfa": f"{kind} DFA", "bp": "backprop", "frozen": "frozen blocks"}


def recovery(losses: Mapping[str, float]) -> float | None:
    """(frozen - DFA) / (frozen - backprop), the share of what backprop gains over frozen blocks that DFA gains too.

    None where a method is missing or backprop gains nothing.

    >>> recovery({"dfa": 1.2, "bp": 1.0, "frozen": 2.0})
    0.8
    """
    if not {"dfa", "bp", "frozen"} <= losses.keys() or losses["frozen"] == losses["bp"]:
        return None
    return (losses["frozen"] - losses["dfa"]) / (losses["frozen"] - losses["bp"])
