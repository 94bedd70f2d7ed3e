"""The engine under autocast, compiled blocks, recomputed blocks and DistributedDataParallel.

Run as a script, this file is one rank of the distributed test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardware import SimulatedOPU
from opu_dfa import DirectFeedback, GaussianFeedback, OpticalFeedback
from opu_dfa.models.gpt import GPT

TOKENS = torch.randint(11, (4, 8), generator=torch.Generator().manual_seed(0))


def gpt() -> GPT:
    return GPT(n_symbols=11, context=8, n_blocks=2, width=16, n_heads=2)


def wrapped(model: nn.Module, error_at: str = "output", through: str | None = "final_norm") -> DirectFeedback:
    feedback = GaussianFeedback(11 if error_at == "output" else 16, 16, seed=1)
    return DirectFeedback(model, ["blocks.*"], feedback, error_at, through)


def gradients(model: nn.Module, dfa: DirectFeedback, tokens: Tensor = TOKENS) -> dict[str, Tensor]:
    model.zero_grad()
    out = model(tokens)
    dfa.backward(F.cross_entropy(out.flatten(0, 1).float(), tokens.flatten()), out)
    return {name.replace("_orig_mod.", "").removeprefix("module."): p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("error_at", ["output", "hidden"])
def test_under_autocast_gradients_are_float32_and_near_those_without(error_at):
    exact_model, model = gpt(), gpt()
    exact = gradients(exact_model, wrapped(exact_model, error_at))
    dfa = wrapped(model, error_at)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(TOKENS)
        assert out.dtype == torch.bfloat16
        ours = gradients(model, dfa)
    for name, gradient in ours.items():
        assert gradient.dtype == torch.float32
        # bfloat16 keeps 8 bits; a dozen roundings on the way, and the largest entries carry the norm
        assert (gradient - exact[name]).norm() < 12 * 2**-8 * exact[name].norm() + 1e-7, name


def test_under_autocast_a_float32_signal_serves_a_tap_of_another_type():
    class Exact(GaussianFeedback):
        def project(self, shown):
            signal = super().project(shown)
            assert signal.dtype == torch.float32
            return signal

    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 4))
    dfa = DirectFeedback(net, ["0"], Exact(4, 6))
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.ones(5, 3))
        assert out._dfa_record.taps[0].dtype == torch.bfloat16
        dfa.backward(out.float().square().mean(), out)
    assert net[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("error_at", ["output", "hidden"])
@pytest.mark.parametrize("how", ["replaced", "in place"])
def test_compiled_blocks_learn_the_same(how, error_at):
    model, plain = gpt(), gpt()
    for i, block in enumerate(model.blocks):
        if how == "replaced":
            model.blocks[i] = torch.compile(block, backend="aot_eager")
        else:
            block.compile(backend="aot_eager")
    compiled = gradients(model, wrapped(model, error_at))
    expected = gradients(plain, wrapped(plain, error_at))
    assert compiled.keys() == expected.keys()
    for name, gradient in compiled.items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda m, n=name: f"{n}: {m}")


def test_a_compiled_model_is_refused():
    with pytest.raises(ValueError, match="compile its blocks"):
        wrapped(torch.compile(gpt(), backend="eager"))


def test_blocks_that_are_recomputed_in_the_backward_pass_learn_the_same():
    class Recomputing(GPT):
        def forward(self, tokens: Tensor) -> Tensor:
            h = self.embedding(tokens)
            for block in self.blocks:
                h = torch.utils.checkpoint.checkpoint(block, h, use_reentrant=False)
            return self.head(self.final_norm(h))

    model, plain = Recomputing(11, 8, 2, 16, 2), gpt()
    torch.testing.assert_close(gradients(model, wrapped(model)), gradients(plain, wrapped(plain)))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found, by what it was asked."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    ranks = [subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in (0, 1)]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors.decode()[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", ["output", "hidden", "the module within"])
def test_two_ranks_have_the_gradients_of_one_process(two_ranks, case):
    model = gpt()
    expected = gradients(model, wrapped(model, "hidden" if case == "hidden" else "output"))
    for found in two_ranks:
        torch.testing.assert_close(found[case], expected)


def test_ranks_see_the_same_optical_matrix(two_ranks):
    first, second = (found["optical"]["columns"] for found in two_ranks)
    assert torch.equal(first, second)


def one_rank(folder: Path, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = TOKENS[2 * rank : 2 * rank + 2]
    found = {"optical": {"columns": OpticalFeedback(SimulatedOPU(11, 16, seed=3)).columns()}}
    for case in ("output", "hidden", "the module within"):
        model = nn.parallel.DistributedDataParallel(gpt())
        given = model.module if case == "the module within" else model
        dfa = wrapped(given, "hidden" if case == "hidden" else "output")
        dfa.alignment(lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()), TOKENS, TOKENS)
        gradients(model, dfa, mine)
        found[case] = gradients(model, dfa, mine)  # the first step, and the probe, must leave the reducer ready
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]), int(sys.argv[2]))
