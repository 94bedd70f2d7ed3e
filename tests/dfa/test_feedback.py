"""What every feedback operator promises: columns, linearity, scale, seeds, layouts, encodings, states that continue."""

import pytest
import torch

from hardware import BitPlanes, DeviceFault, SimulatedOPU, StochasticTernary, ThresholdTernary
from opu_dfa.dfa import (
    OPERATORS,
    CenteredFeedback,
    Feedback,
    GaussianFeedback,
    IdentityFeedback,
    LearnedFeedback,
    OpticalFeedback,
    OrthogonalFeedback,
    RandomSketch,
    SketchedFeedback,
    TopK,
    build_feedback,
)
from opu_dfa.errors import ConfigError

RANDOM = [name for name in OPERATORS if name != "identity"]


def errors(rows: int = 200, width: int = 12) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def make(name: str, n_features: int = 12, n_components: int = 30, seed: int = 0, **options) -> Feedback:
    n_components = n_features if name == "identity" else n_components
    opu = SimulatedOPU(n_features, n_components, seed=seed) if name == "optical" else None
    return build_feedback(name, n_features, n_components, seed=seed, opu=opu, **options)


def signal(feedback: Feedback, error: torch.Tensor) -> torch.Tensor:
    return feedback(error, [feedback.n_components])[0]


@pytest.mark.parametrize("name", OPERATORS)
def test_columns_are_the_projections_of_one_hot_errors(name):
    feedback = make(name)
    assert torch.allclose(feedback.columns(), signal(feedback, torch.eye(12)).T, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"optical"}))  # which shows patterns
def test_an_error_s_signal_is_b_times_the_error(name):
    feedback = make(name)
    wanted = errors(6).view(2, 3, 12) @ feedback.columns().T
    assert torch.allclose(signal(feedback, errors(6).view(2, 3, 12)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RANDOM)
def test_entries_have_the_device_s_scale(name):
    """Mean 0 and variance 1/n_features, within four standard errors of independent Gaussian entries."""
    matrix = make(name, 100, 1_000).columns()
    assert matrix.square().mean().item() * 100 == pytest.approx(1, abs=4 * (2 / 1e5) ** 0.5)
    assert matrix.mean().item() == pytest.approx(0, abs=4 * (1 / 100 / 1e5) ** 0.5)


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_fixes_b(name):
    assert torch.equal(make(name, seed=3).columns(), make(name, seed=3).columns())
    assert not torch.allclose(make(name, seed=3).columns(), make(name, seed=4).columns())


@pytest.mark.parametrize("name", sorted(set(RANDOM) - {"orthogonal"}))
def test_rows_are_prefix_stable(name):
    few, many = make(name, n_components=30).columns(), make(name, n_components=170).columns()
    assert torch.allclose(few, many[:30], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"optical"}))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_signals_are_float32_whatever_the_error_is(name, dtype):
    feedback, error = make(name), errors().to(dtype)
    assert signal(feedback, error).dtype == torch.float32
    assert torch.equal(signal(feedback, error), signal(feedback, error.float()))


@pytest.mark.parametrize("name", sorted(set(RANDOM) - {"optical"}))
def test_independent_slices_are_consecutive_and_shared_ones_begin_together(name):
    whole = signal(make(name), errors())
    shared = make(name)(errors(), [10, 5, 10])
    independent = make(name, layout="independent")(errors(), [10, 5])
    assert torch.equal(shared[0], whole[:, :10])
    assert torch.equal(shared[1], whole[:, :5])
    assert shared[2] is shared[0]
    assert torch.equal(independent[0], whole[:, :10])
    assert torch.equal(independent[1], whole[:, 10:15])


def noisy_optical(seed: int) -> OpticalFeedback:
    return OpticalFeedback(SimulatedOPU(12, 30, seed=0, noise_seed=seed, preset="noisy-8bit"))


def sketched(seed: int) -> Feedback:
    base = GaussianFeedback(6, 30, seed=seed, encoding=StochasticTernary())
    return CenteredFeedback(SketchedFeedback(base, RandomSketch(12, 6, seed)))


@pytest.mark.parametrize(
    "begin",
    [noisy_optical, sketched]
    + [
        lambda seed, name=name: make(name, seed=seed, encoding=StochasticTernary())
        for name in OPERATORS
        if name != "optical"
    ],
)
def test_a_state_dict_continues_the_same_draws(begin):
    first, second = begin(0), begin(1)
    first(errors(), [12])
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first(errors(), [12])[0], second(errors(), [12])[0])


def test_the_state_of_another_device_or_size_is_refused():
    state = OpticalFeedback(SimulatedOPU(12, 30, seed=0)).state_dict()
    with pytest.raises(DeviceFault, match="another matrix"):
        OpticalFeedback(SimulatedOPU(12, 30, seed=1)).load_state_dict(state)
    with pytest.raises(ValueError, match="12 -> 30 components, but the operator is 12 -> 40"):
        make("structured", n_components=40).load_state_dict(make("structured").state_dict())


@pytest.mark.parametrize("encoding", [StochasticTernary(), BitPlanes(2), BitPlanes(8)])
def test_a_stochastic_encoding_leaves_the_signal_unbiased(encoding):
    feedback = make("gaussian", encoding=encoding)
    shown = signal(feedback, errors(1).expand(20_000, -1))
    exact = errors(1)[0] @ feedback.columns().T
    assert ((shown.mean(dim=0) - exact).abs() < 4.5 * shown.std(dim=0) / 20_000**0.5).all()


def test_optical_feedback_is_unbiased():
    """The mean over many showings of the same error, against Re(R)e; bias is what saturation and rounding leave."""
    error = errors(1)
    exact = error @ SimulatedOPU(12, 30).linear_transform(torch.eye(12))
    shown = signal(noisy_optical(0), error.repeat(20_000, 1))
    standard_error = shown.std(dim=0) / len(shown) ** 0.5
    rms = (error.abs().amax() * 2).item()  # of a full-on pattern at the weight of the largest entry
    half_a_count = 25 * rms / (255 * 10) / 2
    assert ((shown.mean(dim=0) - exact[0]).abs() < 4 * standard_error + 2 * half_a_count).all()


def test_the_device_s_columns_are_its_matrix():
    exact = SimulatedOPU(12, 30).linear_transform(torch.eye(12)).T
    assert torch.allclose(OpticalFeedback(SimulatedOPU(12, 30)).columns(), exact, rtol=1e-6)
    noisy = noisy_optical(0).columns()
    assert (noisy - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("encoding", [None, ThresholdTernary(), BitPlanes(4)])
def test_encodings_cost_their_frames(encoding):
    opu = SimulatedOPU(12, 30, preset="noisy-8bit")
    feedback = OpticalFeedback(opu, encoding=encoding)
    feedback(errors(), [30])
    assert feedback.patterns_per_error == (2 if encoding is None else encoding.n_patterns)
    assert opu.usage.frames == 200 * feedback.patterns_per_error * opu.frames_per_projection


def test_the_exact_error_costs_no_pattern():
    assert make("gaussian").patterns_per_error == 0
    assert make("gaussian", encoding=BitPlanes(4)).patterns_per_error == 8


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: GaussianFeedback(12, 30, "tied"), "layout is"),
        (lambda: GaussianFeedback(12, 0), "sizes of at least 1"),
        (lambda: IdentityFeedback(12, 30), "needs equal ones"),
        (lambda: IdentityFeedback(12, 12, "independent"), "the same error"),
        (lambda: LearnedFeedback(12, 30, initial=torch.zeros(12, 30)), r"shape \(30, 12\), got \(12, 30\)"),
        (lambda: make("aligned", rate=0.0), "rate is"),
        (lambda: make("sparse", rate=0.1), "no option 'rate'"),
        (lambda: make("dense"), "no feedback 'dense'; choose one of gaussian, orthogonal"),
        (lambda: build_feedback("optical", 12, 30), "12 -> 30 components, got none"),
        (lambda: build_feedback("optical", 12, 30, opu=SimulatedOPU(12, 31)), "got one of 12 -> 31"),
        (lambda: build_feedback("gaussian", 12, 30, opu=SimulatedOPU(12, 30)), "uses no device"),
        (lambda: build_feedback("gaussian", 12, 30, sketch=TopK(11, 2)), "errors of width 11"),
        (lambda: SketchedFeedback(GaussianFeedback(12, 30), RandomSketch(20, 6)), "n_features=6"),
        (lambda: RandomSketch(6, 12), "keeps 1 to 6"),
        (lambda: TopK(6, 7), "got k=7"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_errors_and_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"width 12, but the error has shape \(200, 11\)"):
        make("gaussian")(errors(width=11), [30])
    with pytest.raises(ValueError, match="n_components >= 31"):
        make("gaussian")(errors(), [31])
    with pytest.raises(ValueError, match="n_components >= 40"):
        make("gaussian", layout="independent")(errors(), [20, 20])


def test_fixed_operators_learn_nothing():
    feedback = OrthogonalFeedback(12, 30)
    before = feedback.columns()
    feedback.learn(errors(), [errors(200, 30)])
    assert torch.equal(feedback.columns(), before)
    with pytest.raises(TypeError, match="OrthogonalFeedback does not learn from forward-mode products"):
        feedback.align([errors(200, 30)], errors())


def test_errors_of_zero_are_not_shown():
    """As of nodes without a label: the others are projected as if alone, and only they cost frames."""
    some = errors(6)
    some[[1, 4]] = 0
    opu, alone = SimulatedOPU(12, 30, preset="noisy-8bit"), SimulatedOPU(12, 30, preset="noisy-8bit")
    (signal,) = OpticalFeedback(opu)(some, [30])
    (expected,) = OpticalFeedback(alone)(some[[0, 2, 3, 5]], [30])
    assert torch.equal(signal[[0, 2, 3, 5]], expected)
    assert not signal[[1, 4]].any()
    assert opu.usage.frames == alone.usage.frames == 4 * 2 * 2
    (nothing,) = OpticalFeedback(opu)(torch.zeros(3, 12), [30])
    assert not nothing.any()
