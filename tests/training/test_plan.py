"""The plan of a run against closed forms, against PyTorch's own tensors, and against what a run really spends."""

import json
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from opu_dfa.config import config_folder, parse
from opu_dfa.dfa.blocks import tensors
from opu_dfa.errors import ConfigError
from opu_dfa.models import build_model
from opu_dfa.seeds import stream
from opu_dfa.tasks import build_task
from opu_dfa.training import plan as planning
from opu_dfa.training.plan import Held, Plan, is_large, plan, refuse_what_cannot_fit
from opu_dfa.training.settings import MemorySettings, TrainSettings

SPARED = {"step_in_backward": True, "recompute": True}


def composed(*words: str) -> TrainSettings:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", [*words]), resolve=True)
    return parse(TrainSettings, config)


@pytest.fixture(scope="module")
def default():
    run = composed()
    return run, build_task(run.task, run.data)


def test_weights_and_optimiser_state_are_counted(default):
    run, task = default
    model, _ = build_model(run.model, task, 0)
    found = plan(run, task, "bp")
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.weights == 4 * found.parameters
    assert found.state == 8 * found.parameters  # AdamW's two moments
    assert sum(part.trained for part in found.parts) == 4 * found.parameters


def test_flops_are_those_of_the_formula(default):
    """A product of (rows, n) by (n, m) takes 2·rows·n·m; backprop three of each but the first in line to the input."""
    run, task = default
    rows, d, hidden, n, k, context = 32 * 64, 128, 256, 6, task.n_outputs, 64
    linear = 2 * rows * (4 * d * d + 2 * d * hidden)
    attention = 2 * 2 * rows * context * d
    head = 2 * rows * d * k
    assert plan(run, task, "bp").forward_flops == n * (linear + attention) + head
    # Feedback leaves out the input gradient of the first product of each block behind the first, and adds a projection,
    # which here the device does. What attention's backward takes is PyTorch's own affair.
    saved = (n - 1) * 2 * rows * d * 3 * d
    assert plan(run, task, "bp").flops - plan(run, task, "dfa").flops == saved
    digital = replace(run, feedback={**run.feedback, "name": "gaussian"})
    assert plan(digital, task, "dfa").flops == plan(run, task, "dfa").flops + 2 * rows * k * d


@pytest.mark.parametrize("tied", [False, True])
def test_frozen_blocks_save_nothing(default, tied):
    run, task = default
    found = plan(replace(run, model={**run.model, "tie_weights": tied}), task, "frozen")
    assert [part.saved for part in found.parts[:-1]] == [0] * 6
    assert found.parts[-1].saved > 0


def test_what_is_saved_is_what_pytorch_holds(default):
    """The storages that hang on the graph of a real step, counted by walking it."""
    run, task = default
    model, _ = build_model(run.model, task, 0)
    x, y = task.batch(run.batch_size, stream(0, "probe"))
    loss = task.loss(model(x), y)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held, waiting, seen = {}, [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_saved_"):
                for tensor in tensors(getattr(node, name)):
                    held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        waiting += [following for following, _ in node.next_functions]
    real = sum(size for place, size in held.items() if place not in weights)
    # Another kernel of attention keeps other statistics of a row: a number or two for each of 4 heads and 6 blocks.
    assert sum(part.saved for part in plan(run, task, "bp").parts) == pytest.approx(real, abs=2 * 4 * 32 * 64 * 4 * 6)


def example(**switches: bool) -> Plan:
    memory = MemorySettings(recompute=False, step_in_backward=False, offload=False, weights="float32")
    parts = (Held(1, 100, 10, 20), Held(1, 100, 10, 20), Held(0, 30, 5, 8))
    return Plan("dfa", 12, 48, 96, 7, parts, 1000, 3000, 0, memory).sparing(**switches)


@pytest.mark.parametrize(
    ("switches", "fullest"),
    [
        ({}, 200 + 30 + 10 + 8),  # both blocks and the head held
        ({"step_in_backward": True}, 200 + 30 + 10 + 8),
        ({"recompute": True}, 0 + 100 + 20 + 20 + 20 + 8),  # in the first block, all other gradients there
        (SPARED, 1 + 100 + 20 + 20),
        ({"offload": True}, 100 + 20 + 20 + 20 + 8),
    ],
)
def test_the_peak_is_the_fullest_moment(switches, fullest):
    assert example(**switches).peak == 48 + 96 + 7 + fullest
    assert example(**switches).flops_per_step == (4000 if switches.get("recompute") else 3000)


def test_the_cheapest_switches_that_fit_are_named():
    tight = example(**SPARED).peak
    assert vars(example().within(tight)).items() >= SPARED.items()
    assert example().within(example().peak) == example().memory
    assert example().within(10) is None


def test_frames_are_those_that_a_run_spends(opu_dfa, tmp_path):
    words = ["steps=3", "batch_size=4", "method=dfa", "alignment_every=0", "sample_length=0", "validation_examples=4"]
    assert opu_dfa("train", *words, "hydra.run.dir=run")[0] == 0
    spent = json.loads((tmp_path / "run" / "summary.json").read_text())["device"]
    code, printed, _ = opu_dfa("train", "--plan", *words)
    assert code == 0
    shown = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in printed.splitlines() if "│" in line}
    assert int(shown["device frames"].replace(",", "")) == spent["frames"] - spent["probe_frames"]


def test_a_billion_parameters_are_planned_without_being_made(monkeypatch):
    run = composed("experiment=gpt-1b")
    task = build_task(run.task, run.data)
    monkeypatch.setattr(planning, "available_memory", lambda device: 17 * 10**9)
    assert is_large(run, task)
    refuse_what_cannot_fit(run, task, "dfa")
    backprop = replace(
        run,
        optimizer=replace(run.optimizer, name="adamw"),
        memory=replace(run.memory, step_in_backward=False),
    )
    assert plan(run, task, "dfa").parameters >= 10**9
    with pytest.raises(ConfigError, match=r"bp needs 1\d\.\d GB .* memory\.step_in_backward=true"):
        refuse_what_cannot_fit(backprop, task, "bp")


def test_small_models_are_not_planned(default):
    assert not is_large(*default)


def test_a_graph_network_is_planned():
    """Its blocks' backward passes by themselves reach modules with gradient hooks of their own."""
    run = composed("experiment=climate")
    reckoned = plan(run, build_task(run.task, run.data), "dfa")
    assert reckoned.flops > reckoned.forward_flops > 0
