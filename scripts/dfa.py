"""Every number of docs/dfa.md: each experiment by DFA, backprop and frozen blocks, over seeds, after one sweep for all.

    python scripts/dfa.py                    # hours on two cores; run again to continue where it stopped
    python scripts/dfa.py cora-gcn lego      # these experiments; the page has all that is finished

Every method's learning rate is the best of the configured one, a third and three times it, by the validation loss of
seed 0; what is reported is the test set's. Each training is an `opu-dfa train` of its own in runs/dfa. The
experiments are in dfa_rows.py, and dfa_page.py writes the page.
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from dfa_page import write_page
from dfa_rows import ROWS, RUNS, Job, seed_jobs, sweep_jobs


def main(names: list[str]) -> None:
    """Train what is missing, sweeps first; the page is written anew after each experiment."""
    unknown = set(names) - {row.experiment for row in ROWS}
    if unknown:
        known = ", ".join(row.experiment for row in ROWS)
        raise SystemExit(f"no such experiment: {', '.join(sorted(unknown))}; there are {known}")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for row in ROWS:
            if names and row.experiment not in names:
                continue
            _train(pool, sweep_jobs(row))
            _train(pool, seed_jobs(row))
            write_page()


def _train(pool: ProcessPoolExecutor, jobs: list[Job]) -> None:
    waiting = {pool.submit(train, job): job for job in jobs if job.result is None}
    for done in as_completed(waiting):
        done.result()
        job = waiting[done]
        print(f"{job.folder.relative_to(RUNS)}: {(job.result or {}).get('val_loss')}", flush=True)


def train(job: Job) -> None:
    """One training, in a process of the pool: one thread, no output."""
    import torch
    from rich.console import Console

    from opu_dfa.config import composed
    from opu_dfa.errors import DivergedError
    from opu_dfa.training.run import CHECKPOINT, run_training

    torch.set_num_threads(1)
    logging.getLogger("hardware").setLevel(logging.ERROR)
    words = [f"experiment={job.experiment}", *job.variant, f"seed={job.seed}", f"method={job.method}", "opu=simulated"]
    config = composed("train", words)
    config["optimizer"]["lr"][job.method] *= job.factor
    config["alignment_every"] = config["steps"]  # once, at the start, costs no more than a step
    checkpoint = job.folder / CHECKPOINT
    with open("/dev/null", "w") as nothing:
        try:
            run_training(config, job.folder, Console(file=nothing), checkpoint if checkpoint.exists() else None)
        except DivergedError as error:
            (job.folder / "diverged.txt").write_text(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
