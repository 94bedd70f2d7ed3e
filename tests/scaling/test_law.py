"""The scaling law and its constants: limits that can be written down, and a page that can be written."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hardware import PRESETS, StochasticTernary
from opu_dfa.errors import ConfigError
from opu_dfa.scaling.constants import read
from opu_dfa.scaling.law import ROWS

SMALL = [
    "pipeline.parameters=[1e9,1e12]",
    "pipeline.stages=[2,4]",
    "pipeline.at_stages=4",
    "pipeline.micro_batches=8",
]


@pytest.fixture(scope="module")
def law():
    return read(SMALL)[0]


@pytest.fixture(scope="module")
def offload():
    return read()[1]


def test_the_device_s_numbers_are_those_of_its_preset(law):
    preset = PRESETS["off-axis"]
    assert law.opu.patterns == StochasticTernary().n_patterns
    assert law.opu.frames == 2 * preset.holography.frames
    assert law.opu.seconds(100) == pytest.approx(100 * law.opu.frames * preset.frame_time)


def test_a_single_stage_s_time_is_its_flops(law):
    sizes = law.sizes(1e9, 1)
    found = law.predict(ROWS[1], 1e9, 1, 3)
    assert found.step_seconds == pytest.approx(3 * law.tokens * sizes.backprop().total / law.accelerator.rate)
    assert found.bubble == pytest.approx(0)
    assert found.bytes_sent == 0


def test_one_device_bounds_small_models_by_its_frames(law):
    bound = law.pipeline.micro_batches * law.opu.seconds(law.tokens)
    assert bound <= law.predict(ROWS[-1], 1e9, 4).step_seconds <= 1.01 * bound


def test_devices_that_keep_up_cost_no_more_than_a_micro_batch(law):
    """The first error waits for its projection, which takes no longer than a stage's own work on a micro-batch."""
    enough = law.with_devices(law.devices_to_keep_up(1e12, 4)).predict(ROWS[-1], 1e12, 4).step_seconds
    assert enough <= law.predict(ROWS[3], 1e12, 4).step_seconds * (1 + 1 / law.pipeline.micro_batches)


def test_light_passes_where_streams_save_its_frames(offload):
    """Bound by streams, a perceptron's step saves the fetch and the store of a product's copy of what streams."""
    host = offload.host
    saved = 2 * host.weight_bytes / host.bandwidth  # seconds a parameter beyond memory
    expected = host.memory / host.resident_bytes + host.rows * offload.frames * offload.frame_time / saved
    assert offload.crossing() == pytest.approx(expected, rel=1e-6)


def test_bound_by_arithmetic_light_passes_at_a_size_without_rows(offload):
    """Two of six FLOPs a parameter and row against the frames of a row."""
    roomy = offload.changed("memory", 1e18)
    expected = offload.frames * offload.frame_time * offload.accelerator.rate / 2
    assert roomy.crossing() == pytest.approx(expected, rel=1e-6)
    assert roomy.changed("rows", 7).crossing() == pytest.approx(expected, rel=1e-6)
    transformer = replace(roomy, network="transformer")
    assert transformer.crossing() == pytest.approx(4 * expected, rel=1e-6)
    assert roomy.entries_where_light_wins() == pytest.approx(expected)


def test_dfa_in_backprop_s_order_saves_no_streams(offload):
    assert replace(offload, visits=2).crossing() > 1e15
    assert replace(offload, visits=2).dfa(1e11) == offload.backprop(1e11)


def test_every_assumption_s_band_holds_its_value(offload):
    values = {"frames": offload.frames, "efficiency": offload.accelerator.efficiency, **vars(offload.host)}
    for name in ("frames", "bandwidth", "state_bytes", "efficiency"):
        low, high = getattr(offload.host.band, name)
        assert low <= values[name] <= high
        assert offload.changed(name, low).crossing() != offload.changed(name, high).crossing() or name == "efficiency"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("opu.preset=ideal", "a device that measures projections in frames"),
        ("accelerator.efficiency=2", "accelerator.efficiency=2"),
        ("link.broadcast=ring", "link.broadcast=ring"),
    ],
)
def test_constants_that_do_not_fit_are_refused(word, said):
    with pytest.raises(ConfigError, match=said):
        read([word])


def test_the_page_is_written_with_the_words_it_was_made_with(tmp_path, monkeypatch, capsys):
    path = Path(__file__).resolve().parents[2] / "scripts" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scripts_scaling", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scripts_scaling", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DOCS", tmp_path)
    monkeypatch.setattr(module, "TABLED", ((2, 4), (4, 8)))
    monkeypatch.setattr(module, "GOALS", {4: 0.70})
    module.main(SMALL)
    written = (tmp_path / "scaling.md").read_text()
    assert "pipeline.at_stages=4" in written
    assert "{" not in written
    assert "nan" not in written
    assert (tmp_path / "figures" / "scaling.png").stat().st_size > 0
    assert capsys.readouterr().out.rstrip() == written.rstrip()
