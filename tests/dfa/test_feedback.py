"""Feedback operators: layouts, measured columns, and states that continue."""

import pytest
import torch

from hardware import DeviceFault, SimulatedOPU, StochasticTernary, ThresholdTernary
from opu_dfa import GaussianFeedback, OpticalFeedback


def errors(rows: int = 200, width: int = 12) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_independent_slices_are_consecutive_and_shared_ones_begin_together():
    shared = GaussianFeedback(12, 30, "shared")(errors(), [10, 5])
    independent = GaussianFeedback(12, 30, "independent")(errors(), [10, 5])
    whole = errors() @ GaussianFeedback(12, 30).matrix.T
    assert torch.equal(shared[0], whole[:, :10])
    assert torch.equal(shared[1], whole[:, :5])
    assert torch.equal(independent[0], whole[:, :10])
    assert torch.equal(independent[1], whole[:, 10:15])


def test_gaussian_entries_have_the_device_s_scale():
    matrix = GaussianFeedback(100, 1_000).matrix
    assert matrix.var().item() * 100 == pytest.approx(1, abs=4 * (2 / 1e5) ** 0.5)


def test_the_device_s_columns_are_its_matrix():
    exact = SimulatedOPU(12, 30).linear_transform(torch.eye(12)).T
    assert torch.allclose(OpticalFeedback(SimulatedOPU(12, 30)).columns(), exact, rtol=1e-6)
    noisy = OpticalFeedback(SimulatedOPU(12, 30, preset="noisy-8bit")).columns()
    assert (noisy - exact).norm() / exact.norm() < 0.05


def test_optical_feedback_is_unbiased():
    """The mean over many showings of the same error, against Re(R)e; bias is what saturation and rounding leave."""
    error = errors(1)
    exact = error @ SimulatedOPU(12, 30).linear_transform(torch.eye(12))
    (signal,) = OpticalFeedback(SimulatedOPU(12, 30, preset="noisy-8bit"))(error.repeat(20_000, 1), [30])
    standard_error = signal.std(dim=0) / len(signal) ** 0.5
    rms = (error.abs().amax() * 2).item()  # of a full-on pattern at the weight of the largest entry
    half_a_count = 25 * rms / (255 * 10) / 2
    assert ((signal.mean(dim=0) - exact[0]).abs() < 4 * standard_error + 2 * half_a_count).all()


def test_encodings_cost_their_frames():
    opu = SimulatedOPU(12, 30, preset="noisy-8bit")
    OpticalFeedback(opu, encoding=ThresholdTernary())(errors(), [30])
    assert opu.usage.frames == 200 * 2 * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: GaussianFeedback(12, 30, seed=seed, encoding=StochasticTernary()),
        lambda seed: OpticalFeedback(SimulatedOPU(12, 30, seed=0, noise_seed=seed, preset="noisy-8bit")),
    ],
)
def test_a_state_dict_continues_the_same_draws(make):
    first, second = make(0), make(1)
    first(errors(), [30])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(errors(), [30])[0], second(errors(), [30])[0])


def test_the_state_of_another_device_is_refused():
    state = OpticalFeedback(SimulatedOPU(12, 30, seed=0)).state_dict()
    with pytest.raises(DeviceFault, match="another matrix"):
        OpticalFeedback(SimulatedOPU(12, 30, seed=1)).load_state_dict(state)


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="'diagonal'"):
        GaussianFeedback(3, 3, "diagonal")
