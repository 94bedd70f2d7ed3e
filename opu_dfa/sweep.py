"""A sweep (`opu-dfa VERB --multirun`): each job in a folder of its own with its log, and one table of them all."""

from __future__ import annotations

import csv
import json
import math
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from opu_dfa.errors import UserError

RANKED = ("dfa", "bp", "frozen", "reservoir")  # what a verb compares its jobs by, where its summary does not name it
RECORD = "job.json"
LOG = "log.txt"
UNFINISHED, STOPPED = "not finished", "interrupted"


class SweepError(UserError, RuntimeError):
    """A sweep ended early, or its folder holds another one."""


@dataclass(frozen=True)
class Job:
    """A row of the table. `error` is None for a job that went well."""

    job: str  # its folder in the sweep's
    overrides: dict[str, str]
    scores: dict[str, float]  # of its `summary.json`: validation losses by method, or what a verb scores its models by
    recovery: float | None
    threads: int
    error: str | None
    best: str  # the "lowest" score, or the "highest"
    ranked: str  # which of the scores jobs are compared by; "" where there is none


@contextmanager
def tabled(codes: list[int]) -> Iterator[None]:
    """Run Hydra inside; if it runs a sweep, that ends with its table, however it ends, and an exit code more.

    Raises:
        SweepError: a launcher failed, or lost a job's process.
    """
    HydraConfig.instance().cfg = None  # what an earlier run in this process left
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError):
        raise
    except Exception as error:
        if not _swept():
            raise
        raise SweepError(f"the sweep ended early: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        if folder := _swept():
            codes.append(finish(folder, Console()))


class Noted(Callback):
    """Hydra's callback that leaves a sweep's configuration where `tabled` finds it; named in configs/train.yaml."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        HydraConfig.instance().set_config(config)


def _swept() -> Path | None:
    config: Any = HydraConfig.instance().cfg
    return Path(config.hydra.sweep.dir) if config and config.hydra.mode == RunMode.MULTIRUN else None


def run_job(begin: Callable[[Console], int], resume: Callable[[Console], int], folder: Path, parent: int) -> int:
    """Run one job of a sweep, or what is left of it, and record how it ended. What it says goes to its log.

    Args:
        begin, resume: start the job anew, or from its checkpoint; both return its exit code.
        folder: the job's folder.
        parent: the process that began the sweep. In any other, a job takes its share of the cores alone.

    Returns:
        The exit code: 0, 2 for an error the user can mend, 1 for any other, 130 after an interruption.

    Raises:
        SweepError: the folder holds another job.
    """
    overrides = list(HydraConfig.get().overrides.task)
    before = _record(folder)
    if before and before["overrides"] != overrides:
        raise SweepError(
            f"{folder} holds the job {' '.join(before['overrides'])}, not {' '.join(overrides)}. Repeat the sweep as "
            "it was, or choose another folder with hydra.sweep.dir=FOLDER."
        )
    if before and before["code"] == 0:
        return 0
    import torch  # heavy, and a finished job does without

    from opu_dfa.training.run import CHECKPOINT

    if os.getpid() != parent:
        torch.set_num_threads(min(torch.get_num_threads(), core_share(HydraConfig.get().launcher)))
    record = {"overrides": overrides, "threads": torch.get_num_threads(), "code": None, "error": UNFINISHED}
    (folder / RECORD).write_text(json.dumps(record))
    start = resume if before and (folder / CHECKPOINT).is_file() else begin
    with open(folder / LOG, "a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            code = start(Console(file=log, width=120))
        except UserError as error:
            code = 2
            print(f"error: {error}")
        except Exception as error:  # one job's fault must not end the others
            code = 1
            traceback.print_exc()
            print(f"error: {type(error).__name__}: {error}".replace("\n", " "))
    said = ["", *(line for line in (folder / LOG).read_text().splitlines() if line.startswith("error: "))]
    problem = None if code == 0 else STOPPED if code == 130 else said[-1].removeprefix("error: ") or f"exit code {code}"
    (folder / RECORD).write_text(json.dumps(record | {"code": code, "error": problem}))
    job = _job(folder, folder.name)
    print(f"{job.job}: {' '.join(overrides)}: {job.error or _scores(job)}", flush=True)
    return code


def core_share(launcher: Mapping[str, Any]) -> int:
    """The cores of one job: all of them shared among joblib's `n_jobs`, or the `cpus_per_task` submitit asked for.

    >>> core_share({"cpus_per_task": 4})
    4
    >>> core_share({"n_jobs": -1})  # as many jobs as cores
    1
    """
    from joblib import cpu_count

    cores = int(cpu_count())
    at_once = launcher.get("n_jobs")
    if at_once:  # -1 is as many as there are cores, -2 one less
        return max(cores // max(at_once if at_once > 0 else cores + 1 + at_once, 1), 1)
    return launcher.get("cpus_per_task") or cores


def finish(folder: Path, console: Console) -> int:
    """Write `sweep.json` and `sweep.csv` of a sweep's folder and print the table, the best first.

    Returns:
        0 if all jobs went well, otherwise 2.
    """
    jobs = read_jobs(folder)
    if not jobs:
        return 0
    rows = [_row(job) for job in jobs]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    (folder / "sweep.json").write_text(json.dumps([asdict(job) for job in jobs], indent=2))
    with open(folder / "sweep.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)

    same = {name for name in jobs[0].overrides if len({job.overrides.get(name) for job in jobs}) == 1}
    hidden = same | {"threads"}
    columns = [n for n in columns if n not in hidden and any(row.get(n) is not None for row in rows)]
    table = Table(title=f"{len(jobs)} jobs" + "".join(f", {name}={jobs[0].overrides[name]}" for name in sorted(same)))
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console.print(table)
    if any(job.error in (UNFINISHED, STOPPED) for job in jobs):
        console.print(
            f"The same command with hydra.sweep.dir={folder} keeps what is finished and does the rest.", soft_wrap=True
        )
    print(folder)
    return 2 if any(job.error for job in jobs) else 0


def read_jobs(folder: Path) -> list[Job]:
    """The jobs that have begun in a sweep's folder, the best first, by the score that each is `ranked` by."""
    jobs = [_job(path.parent, str(path.parent.relative_to(folder))) for path in folder.rglob(RECORD)]

    def rank(job: Job) -> tuple[float, str]:
        score = job.scores.get(job.ranked, math.nan)
        return math.inf if math.isnan(score) else -score if job.best == "highest" else score, job.job

    return sorted(jobs, key=rank)


def _job(folder: Path, name: str) -> Job:
    record = _record(folder) or {}
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) if path.is_file() and not record["error"] else {}
    scores = summary.get("scores", {m: result["val_loss"] for m, result in summary.get("methods", {}).items()})
    return Job(
        job=name,
        overrides=dict(word.split("=", 1) for word in record["overrides"] if "=" in word),
        scores=scores,
        recovery=summary.get("recovery"),
        threads=record["threads"],
        error=record["error"],
        best=summary.get("best", "lowest"),
        ranked=summary.get("ranked", next((name for name in (*RANKED, *scores) if name in scores), "")),
    )


def _record(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else None


def _row(job: Job) -> dict[str, Any]:
    return {
        "job": job.job,
        **job.overrides,
        **job.scores,
        "recovery": job.recovery,
        "threads": job.threads,
        "error": job.error,
    }


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else shorten(str(value), 60, placeholder=" …")


def _scores(job: Job) -> str:
    return ", ".join(f"{name} {score:.4f}" for name, score in job.scores.items()) or "done"
