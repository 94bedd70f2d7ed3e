"""A training run over the ranks that `torchrun` started; rank 0 alone prints and writes records.

    torchrun --standalone --nproc-per-node 2 -m opu_dfa.cli train method=dfa model.through=null

Every rank holds a stage of the model (`opu_dfa.training.stages`) and runs the loop in step with the others. A rank that
dies ends the run on all of them; `torchrun --max-restarts 1`, or `resume=RUN` with as many ranks as you like, continues
from the last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from rich.console import Console

from opu_dfa.config import parse
from opu_dfa.dfa.ranks import Ranks, attempt, joined
from opu_dfa.errors import CheckpointError, RankLostError, RunFolderError
from opu_dfa.tasks import build_task
from opu_dfa.training import sharded
from opu_dfa.training.checkpoint import write_atomically
from opu_dfa.training.metrics import read_metrics
from opu_dfa.training.operator import Operator
from opu_dfa.training.progress import TrainingProgress
from opu_dfa.training.records import Records
from opu_dfa.training.report import print_summary, write_report
from opu_dfa.training.run import CHECKPOINT, alone_in
from opu_dfa.training.settings import Method, TrainSettings
from opu_dfa.training.stages import StageLearner, StageLoop, build_stage_learner, pipeline_settings
from opu_dfa.training.summary import method_titles, result_of, summary_of

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def run_pipelined(config: dict[str, Any], folder: Path, console: Console, resume: bool = False) -> Path:
    """Train the methods of a configuration over ranks. Every rank calls it.

    Args:
        config: the composed configuration, plain; folder: of the run, rank 0's choice; console: of rank 0.
        resume: continue from the folder's last checkpoint, whatever number of ranks wrote it.

    Returns:
        The run's folder.

    Raises:
        UserError: anything a user can mend; `RankLostError` within `pipeline.timeout` of another rank's end.
    """
    settings = parse(TrainSettings, config)
    chosen = pipeline_settings(settings)
    with joined(settings.torch_device, chosen.timeout) as store:
        folder = _agreed(store, folder)
        resume = resume or (attempt() > 0 and sharded.newest(folder) is not None)
        if not resume and attempt() == 0 and (sharded.newest(folder) or (folder / CHECKPOINT).exists()):
            raise RunFolderError(
                f"{folder} holds a run already. Continue it with resume={folder}, or choose another folder with "
                "hydra.run.dir=FOLDER."
            )
        ranks = Ranks(chosen.replicas, chosen.timeout, dist.PrefixStore(f"attempt {attempt()}", store))  # type: ignore[attr-defined]
        quiet = Console(quiet=True)
        with alone_in(folder) if ranks.rank == 0 else nullcontext(), _remedy(folder):
            run = _Run(settings, config, folder, console if ranks.rank == 0 else quiet, ranks, resume)
            summary = run.complete()
        if ranks.rank == 0:
            print_summary(summary, console)
    return folder


class _Run:
    """A run as one rank sees it; records are rank 0's."""

    def __init__(
        self,
        settings: TrainSettings,
        config: dict[str, Any],
        folder: Path,
        console: Console,
        ranks: Ranks,
        resume: bool,
    ) -> None:
        self.settings, self.folder, self.console, self.ranks = settings, folder, console, ranks
        self.task = build_task(settings.task, settings.data)
        self.checkpoint = sharded.newest(folder) if resume else None
        if resume and self.checkpoint is None:
            raise CheckpointError(
                f"{folder} holds no checkpoint of a run over ranks: start it again from the beginning"
            )
        saved = sharded.load_shared(self.checkpoint) if self.checkpoint else None
        if ranks.rank == 0:
            sharded.prepare(folder)
        self.records = Records(settings, self.task, config, folder, saved, writes=ranks.rank == 0)

    def complete(self) -> dict[str, Any]:
        """Train what is not finished yet; rank 0 writes what the run leaves."""
        settings, task, ranks, finished = self.settings, self.task, self.ranks, self.records.finished
        titles = method_titles(settings)
        self.console.print(
            f"{task.description}. {settings.steps} steps of {settings.batch_size} for each of: "
            f"{', '.join(titles[m] for m in settings.method)}; {ranks.n_stages} stages, {ranks.n_replicas} replicas.",
            highlight=False,
            soft_wrap=True,
        )
        summary: dict[str, Any] | None = None
        try:
            with TrainingProgress(self.console, titles, settings.steps, task.item) as progress:
                for method in settings.method:
                    if method not in finished:
                        finished[method] = self._train(method, progress)
            summary = summary_of(settings, task, finished)
            summary |= {"stages": ranks.n_stages, "replicas": ranks.n_replicas}
            if ranks.rank == 0:
                write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2).encode())
                write_report(self.folder, summary, read_metrics(self.folder / "metrics.jsonl"))
        finally:
            self.records.close(summary)
        return summary

    def _train(self, method: Method, progress: TrainingProgress) -> dict[str, Any]:
        settings = self.settings
        begun = self.records.begun(method)
        with _closing(Operator(settings, self.task)) as operator:
            learner = build_stage_learner(method, settings, self.task, operator, self.ranks, fresh=begun is None)
            seen: dict[str, Any] = begun["seen"] if begun else {}

            def observe(record: dict[str, Any]) -> None:
                record |= learner.measured
                seen.update({k: v for k, v in record.items() if k in ("loss", *learner.measured) or k[:4] == "val_"})
                self.records.add(record)
                progress.record(record)

            loop = StageLoop(method, learner, self.task, settings, observe)
            if begun and self.checkpoint:
                loop.load_state(begun["loop"] | {"learner": sharded.load(self.checkpoint, learner.wants)})
            progress.begin(method, loop.steps_done)
            while not loop.done:
                loop.step()
                progress.advance(loop)
                if not loop.done and loop.steps_done % settings.checkpoint_every == 0:
                    self._save(method, loop, learner, seen)
            result = self._result(loop, learner, seen)
            self.records.finished[method] = result
            self._save(method, loop, learner, None)
        return result

    def _save(self, method: Method, loop: StageLoop, learner: StageLearner, seen: dict[str, Any] | None) -> None:
        """A checkpoint; of a method that is finished (`seen` None) as what follows begins."""
        state = loop.state()
        tensors = state.pop("learner")
        under_way = {"method": method, "loop": state, "seen": seen} if seen is not None else None
        shared = self.records.state(under_way)
        place = self.settings.method.index(method)
        with self.ranks.watched(None):
            sharded.save(self.folder, f"{place}-{method}-{loop.steps_done:08d}", tensors, shared)

    def _result(self, loop: StageLoop, learner: StageLearner, seen: dict[str, Any]) -> dict[str, Any]:
        result = result_of(loop, seen)
        spent = self._spent(loop, learner)
        if spent is not None:
            result["device"] = spent
        return result

    def _spent(self, loop: StageLoop, learner: StageLearner) -> dict[str, Any] | None:
        """What the devices of all ranks were asked for."""
        opu = learner.opu
        mine = [0.0] * 4 if opu is None else [opu.usage.frames, opu.usage.seconds, opu.usage.joules, loop.probe_frames]
        total = self.ranks.sum(torch.tensor(mine, dtype=torch.float64, device=learner.pipeline.device), over="all")
        if not total[0]:
            return None
        rows = self.settings.batch_size * self.task.items_per_example
        asked = (
            None if opu is None else (opu.identity, 2 * opu.n_features * opu.n_components * self.settings.steps * rows)
        )
        name, flops = self.ranks.tell(asked)
        frames, seconds, joules, probe = total.tolist()
        return {
            "name": name,
            "frames": int(frames),
            "probe_frames": int(probe),
            "seconds": seconds,
            "joules": joules,
            "dense_projection_flops": flops,
        }


def _agreed(store: Store, folder: Path) -> Path:
    """The folder that rank 0 named in the run's first attempt; the others', made by the clock, go if they are empty."""
    key = "opu-dfa run folder"
    if dist.get_rank() == 0:
        store.compare_set(key, "", str(folder.absolute()))
    agreed = Path(store.get(key).decode())
    if folder.absolute() != agreed:
        with suppress(OSError):
            folder.rmdir()
    dist.barrier()
    return agreed


@contextmanager
def _remedy(folder: Path) -> Iterator[None]:
    """A lost rank is not the end of the run: its error says how to go on."""
    try:
        yield
    except RankLostError as error:
        if sharded.newest(folder) is None:
            raise
        raise RankLostError(
            f"{error} Continue with: torchrun --standalone --nproc-per-node N -m opu_dfa.cli train resume={folder}"
        ) from error


@contextmanager
def _closing(operator: Operator) -> Iterator[Operator]:
    try:
        yield operator
    finally:
        operator.close()
