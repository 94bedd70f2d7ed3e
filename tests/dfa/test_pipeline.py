"""The pipeline over ranks against one process, with two real processes; and its parts alone.

Run as a script, this file is one rank.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardware import StochasticTernary
from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.dfa import RandomSketch, SketchedFeedback
from opu_dfa.dfa.broadcast import WIRES
from opu_dfa.dfa.cut import Record
from opu_dfa.dfa.feedback import Feedback
from opu_dfa.dfa.pipeline import Pipeline, PipelinedFeedback, chunks
from opu_dfa.dfa.ranks import Ranks
from opu_dfa.dfa.stages import Shapes, Stage, chain, split
from opu_dfa.dfa.timeline import Timeline
from opu_dfa.errors import ConfigError, RankLostError
from opu_dfa.models.gpt import GPT
from opu_dfa.models.vit import ViT

SYMBOLS, TIME, WIDTH, BATCH, MICRO, STEPS = 11, 8, 16, 8, 4, 3
TOKENS = torch.randint(SYMBOLS, (STEPS, BATCH, TIME + 1), generator=torch.Generator().manual_seed(0))
SILENCE = 2  # seconds
A_MICRO_BATCH = BATCH // MICRO * TIME  # tokens


@dataclass(frozen=True)
class Case:
    """How the error reaches the blocks, or the schedule of backpropagation."""

    wire: str = "float32"
    through: str | None = None
    encoding: StochasticTernary | None = None
    error_at: str = "output"
    in_flight: int | None = None
    sketch: int | None = None
    schedule: str | None = None

    def feedback(self) -> Feedback:
        n = SYMBOLS if self.error_at == "output" else WIDTH
        if self.sketch is None:
            return GaussianFeedback(n, WIDTH, seed=1, encoding=self.encoding)
        inner = GaussianFeedback(self.sketch, WIDTH, seed=1, encoding=self.encoding)
        return SketchedFeedback(inner, RandomSketch(n, self.sketch, seed=2))


FEEDBACK = {
    "float32": Case(),
    "float32 through the final norm": Case(through="final_norm"),
    "ternary": Case("ternary", encoding=StochasticTernary()),
    "ternary sketch": Case("ternary", encoding=StochasticTernary(), sketch=6),
    "error at the hidden state": Case(error_at="hidden"),
    "two micro-batches in flight": Case(in_flight=2),
    "ternary through the final norm": Case("ternary", through="final_norm"),
    "bfloat16": Case("bfloat16"),
}
OVER_REPLICAS = ("float32", "float32 through the final norm", "1f1b")
BACKPROP = {"gpipe": Case(schedule="gpipe"), "1f1b": Case(schedule="1f1b")}


def gpt() -> GPT:
    return GPT(SYMBOLS, TIME, n_blocks=4, width=WIDTH, n_heads=2)


def loss(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), y.flatten())


def in_one_process(case: Case) -> dict[str, Tensor]:
    """Losses and weights of a process that accumulates gradients over the same micro-batches."""
    model, losses = gpt(), []
    dfa = DirectFeedback(model, ["blocks.*"], case.feedback(), case.error_at, case.through)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for tokens in TOKENS:
        optimizer.zero_grad()
        parts = []
        for part in chunks(tokens, MICRO):
            out = model(part[:, :-1])
            value = loss(out, part[:, 1:])
            if case.schedule is None:
                dfa.backward(value / MICRO, out)
            else:
                with dfa.exact():
                    (loss(model(part[:, :-1]), part[:, 1:]) / MICRO).backward()
            parts.append(value.detach())
        optimizer.step()
        losses.append(torch.stack(parts).mean())
    return {"losses": torch.stack(losses)} | dict(model.state_dict())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found, by case; the second ends without a word."""
    return started(tmp_path_factory.mktemp("ranks"), 2)


def started(folder: Path, world: int, replicas: int = 1) -> list[dict[str, dict[str, Tensor]]]:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(folder), str(world), str(replicas)]
    ranks = [subprocess.Popen([*words, str(r)], env=environment, stderr=subprocess.PIPE) for r in range(world)]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors.decode()[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def whole(ranks: list[dict[str, dict[str, Tensor]]], case: str) -> dict[str, Tensor]:
    """Losses and weights of a case, put together from the ranks."""
    parts = [{k: t for k, t in found[case].items() if k not in ("bytes", "output")} for found in ranks]
    return {name: tensor for part in parts for name, tensor in part.items()}


@pytest.mark.parametrize("case", [c for c in FEEDBACK if c not in ("ternary through the final norm", "bfloat16")])
def test_two_stages_learn_bit_for_bit_what_one_process_learns(two_ranks, case):
    expected = in_one_process(FEEDBACK[case])
    found = whole(two_ranks, case)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_a_signal_is_learned_from_as_the_wire_carries_it(two_ranks, monkeypatch):
    case, wire, draw = FEEDBACK["ternary through the final norm"], WIRES["ternary"], torch.Generator().manual_seed(3)
    pull = Record.pull

    def carried(record: Record, signals: list[Tensor]) -> list[Tensor]:
        signal, *_ = pull(record, signals)
        rows = signal.flatten(0, -2)
        return [wire.unpack(wire.pack(rows, draw), *rows.shape).view(signal.shape)] * len(signals)

    monkeypatch.setattr(Record, "pull", carried)
    expected = in_one_process(case)
    for name, tensor in whole(two_ranks, "ternary through the final norm").items():
        assert torch.equal(tensor, expected[name]), name


def test_bfloat16_errors_are_near_exact_ones(two_ranks):
    losses, exact = whole(two_ranks, "bfloat16")["losses"], whole(two_ranks, "float32")["losses"]
    assert torch.equal(losses[0], exact[0])  # before any learning
    assert not torch.equal(losses, exact)
    torch.testing.assert_close(losses, exact, rtol=2**-8, atol=0)


@pytest.mark.parametrize("case", BACKPROP)
def test_pytorch_s_schedules_learn_by_exact_gradients(two_ranks, case):
    expected = in_one_process(BACKPROP[case])
    for name, tensor in whole(two_ranks, case).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_bytes_are_activations_onward_and_errors_back(two_ranks):
    first, last = two_ranks
    activations = MICRO * A_MICRO_BATCH * WIDTH * 4
    back = {
        "float32": SYMBOLS * 4,
        "bfloat16": SYMBOLS * 2,
        "ternary": 8 + 3,  # two scales, and 11 codes of two bits
        "ternary sketch": 8 + 2,
        "float32 through the final norm": WIDTH * 4,
        "ternary through the final norm": 8 + 4,
        "gpipe": WIDTH * 4,
        "1f1b": WIDTH * 4,
    }
    for case, a_token in back.items():
        assert int(first[case]["bytes"]) == activations, case
        assert int(last[case]["bytes"]) == MICRO * A_MICRO_BATCH * a_token, case


def test_a_forward_pass_over_ranks_is_the_model_s(two_ranks):
    model = gpt()
    model.load_state_dict({k: t for k, t in whole(two_ranks, "float32").items() if k != "losses"})
    with torch.no_grad():
        torch.testing.assert_close(two_ranks[1]["float32"]["output"], model(TOKENS[0, :3, :-1]))


def test_a_rank_that_is_silent_or_ends_is_an_error_that_names_it(two_ranks):
    for how in ("silent", "ended"):
        assert bool(two_ranks[0][how]["named"]), how
        assert two_ranks[0][how]["waited"] < 2 * SILENCE + 5, how  # seconds


def test_whom_a_lost_rank_waited_for_is_the_one_that_failed():
    ranks = Ranks.__new__(Ranks)
    ranks.rank, ranks._store = 0, torch.distributed.HashStore()
    assert ranks._lost(1) == 1
    ranks._store.set("lost/1", "2")
    assert ranks._lost(1) == 2
    ranks._store.set("lost/2", "0")  # both wait for each other
    assert ranks._lost(1) == 0


@pytest.mark.slow
def test_two_pipelines_of_two_stages_learn_what_one_process_learns(tmp_path):
    found = started(tmp_path, 4, replicas=2)
    for case in OVER_REPLICAS:
        expected = in_one_process((FEEDBACK | BACKPROP)[case])
        one, other = whole(found[:2], case), whole(found[2:], case)
        for name, tensor in one.items():
            if name == "losses":  # each of its half of the batch
                tensor = (tensor + other[name]) / 2
            else:
                assert torch.equal(tensor, other[name]), name
            # Adam's first steps turn roundings of small gradients into part of a step of 1e-2
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=2e-4)


def test_a_chain_is_what_a_model_runs():
    assert list(chain(gpt(), ["blocks.*"], TOKENS[0, :, :-1])) == [
        "embedding",
        *(f"blocks.{i}" for i in range(4)),
        "final_norm",
        "head",
    ]
    vit = ViT((3, 32, 32), n_outputs=10, patch=8, n_blocks=2, width=16, n_heads=2)
    assert list(chain(vit, ["blocks.*"], torch.zeros(2, 3, 32, 32))) == [
        "embedding",
        "blocks.0",
        "blocks.1",
        "neck",
        "head",
    ]


def test_what_happens_between_modules_is_refused():
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu())

    with pytest.raises(ConfigError, match="'b' does not take just what 'a' gives"):
        chain(Skipping(), ["a"], torch.ones(2, 3))


def test_tied_weights_on_two_ranks_are_refused():
    model = GPT(SYMBOLS, TIME, n_blocks=2, width=WIDTH, n_heads=2, tie_weights=True)
    units = chain(model, ["blocks.*"], TOKENS[0, :, :-1])
    with pytest.raises(ConfigError, match="tie_weights=false"):
        split(units, ["blocks.0", "blocks.1"], 2)
    with pytest.raises(ConfigError, match="2 blocks cannot be split over 3 stages"):
        split(units, ["blocks.0", "blocks.1"], 3)


def test_shapes_are_those_of_a_real_pass():
    model = gpt()
    units = chain(model, ["blocks.*"], TOKENS[0, :, :-1])
    h = TOKENS[0, :3, :-1]
    found = Shapes(units).of(h)
    for name, unit in units.items():
        h = unit(h)
        assert (found[name].shape, found[name].dtype) == (h.shape, h.dtype)


@pytest.mark.parametrize("width", [1, 3, 4, 103])
def test_ternary_messages_carry_what_the_encoding_drew(width):
    x = torch.randn(7, width, generator=torch.Generator().manual_seed(width))
    x[2] = 0
    wire = WIRES["ternary"]
    message = wire.pack(x, torch.Generator().manual_seed(5))
    assert message.dtype == torch.uint8
    assert len(message) == wire.size(7, width)
    drawn = StochasticTernary()(x, torch.Generator().manual_seed(5)).values()
    assert torch.equal(wire.unpack(message, 7, width), drawn)
    again = wire.pack(drawn, torch.Generator().manual_seed(6))
    assert torch.equal(wire.unpack(again, 7, width), drawn)  # what is ternary arrives as it is


def test_float_messages_are_exact_or_rounded_to_nearest():
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    for name, expected in (("float32", x), ("bfloat16", x.bfloat16().float())):
        wire = WIRES[name]
        message = wire.pack(x, torch.Generator())
        assert len(message) == wire.size(5, 9)
        assert torch.equal(wire.unpack(message, 5, 9), expected)


def test_gaps_are_waits_for_what_follows_them():
    line = Timeline(0.0, [("forward", 1.0, 3.0), ("forward", 3.0, 4.0), ("backward", 6.0, 7.0)])
    assert line.busy() == 4
    assert line.busy("forward") == 3
    assert line.waited("forward") == 1
    assert line.waited("project", "backward") == 2
    assert line.seconds == 7


def build(case: Case, ranks: Ranks) -> Pipeline:
    model, micro_batches = gpt(), MICRO // ranks.n_replicas
    units = chain(model, ["blocks.*"], TOKENS[0, :, :-1])
    blocks = [name for name in units if name.startswith("blocks")]
    stage = Stage(split(units, blocks, ranks.n_stages)[ranks.stage], ranks.stage, ranks.n_stages)
    if case.schedule is not None:
        from opu_dfa.dfa.schedules import PipelinedBackprop

        return PipelinedBackprop(stage, Shapes(units), ranks, micro_batches, case.schedule)
    return PipelinedFeedback(
        stage,
        Shapes(units),
        ranks,
        micro_batches,
        blocks,
        case.feedback() if ranks.last or case.through is None else None,
        WIRES[case.wire],
        torch.Generator().manual_seed(3),
        case.error_at,
        case.through,
        case.in_flight,
    )


def one_case(case: Case, ranks: Ranks) -> dict[str, Tensor]:
    pipeline = build(case, ranks)
    optimizer = torch.optim.AdamW(pipeline.stage.parameters(), 1e-2)
    found, losses = {}, []
    for tokens in TOKENS:
        optimizer.zero_grad()
        before = ranks.bytes_sent
        mine = chunks(tokens, ranks.n_replicas)[ranks.replica]
        value = pipeline.step(mine[:, :-1], mine[:, 1:], loss)
        found["bytes"] = torch.tensor(ranks.bytes_sent - before)
        if ranks.n_replicas > 1:
            for p in pipeline.stage.parameters():
                ranks.sum(p.grad, over="twins")
        optimizer.step()
        losses += [] if value is None else [value]
    if losses:
        found["losses"] = torch.stack(losses)
    out = pipeline.forward(TOKENS[0, :3, :-1])
    if out is not None:
        found["output"] = out
    return found | {name: p.detach() for name, p in pipeline.stage.named().items()}


def one_rank(folder: Path, world: int, replicas: int, rank: int) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=timedelta(seconds=20)
    )
    ranks = Ranks(replicas, timeout=20)
    chosen = OVER_REPLICAS if replicas > 1 else FEEDBACK | BACKPROP
    found = {name: one_case((FEEDBACK | BACKPROP)[name], ranks) for name in chosen}
    impatient = Ranks(replicas, timeout=SILENCE)
    if rank > 0:
        time.sleep(2 * SILENCE)
        torch.save(found, folder / f"{rank}.pt")
        os._exit(0)
    for how in ("silent", "ended"):
        began = time.monotonic()
        with pytest.raises(RankLostError) as lost:
            (impatient if how == "silent" else ranks).receive(torch.zeros(1), stage=1).wait()
        named = torch.tensor("rank 1 has died or does not answer" in str(lost.value))
        found[how] = {"waited": torch.tensor(time.monotonic() - began), "named": named}
    torch.save(found, folder / "0.pt")
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    one_rank(Path(sys.argv[1]), *map(int, sys.argv[2:]))
