"""CPU time of a DFA step against a backprop step of the same model: forward, backward and optimiser, one thread.

The two alternate within one run, so that a shared machine's load falls on both; the ratio of the medians is printed,
and beside it the FLOPs that PyTorch's own counter sees.

    python scripts/bench/dfa_step.py [rounds]
"""

import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.config import config_folder
from opu_dfa.models import build_model
from opu_dfa.tasks.text import TextTask


def main(rounds: int = 40) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from opu_dfa.tasks import build_task

    torch.set_num_threads(1)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train"))
    task = build_task(config["task"])
    x, y = task.batch(config["batch_size"], torch.Generator().manual_seed(0))
    model, layout = build_model(config["model"], task, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    feedback = GaussianFeedback(task.n_outputs, layout.width)
    dfa = DirectFeedback(model, sys.argv[2:] or layout.taps, feedback, through=layout.through)

    def gradients(exact: bool) -> None:
        if exact:
            with dfa.exact():
                TextTask.loss(model(x), y).backward()
        else:
            out = model(x)
            dfa.backward(TextTask.loss(out, y), out)

    def step(exact: bool) -> float:
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        gradients(exact)
        optimizer.step()
        return time.process_time() - started

    flops = {}
    for exact in (True, False):
        step(exact)  # first calls allocate
        with FlopCounterMode(display=False) as counter:
            gradients(exact)
        flops[exact] = counter.get_total_flops()
    times: dict[bool, list[float]] = {True: [], False: []}
    for i in range(rounds):
        for exact in (True, False) if i % 2 else (False, True):
            times[exact].append(step(exact))
    bp, ours = statistics.median(times[True]), statistics.median(times[False])
    print(
        f"model of the default run, {config['batch_size']} x {task.context} tokens a step, one thread, {rounds} rounds"
    )
    print(f"backprop      {bp * 1e3:7.1f} CPU ms a step   {flops[True] / 1e9:6.3f} GFLOP forward and backward")
    print(f"digital DFA   {ours * 1e3:7.1f} CPU ms a step   {flops[False] / 1e9:6.3f} GFLOP forward and backward")
    print(f"DFA / backprop: time {ours / bp:.3f}, FLOPs {flops[False] / flops[True]:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
