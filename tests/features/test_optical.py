"""The optical device in scikit-learn and in PyTorch, against kernels, explicit matrices and autograd."""

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from hardware import OPU, PRESETS, Camera, DeviceInputError, DeviceUnavailable, LightOnOPU, SimulatedOPU, open_opu
from opu_dfa.errors import ConfigError
from opu_dfa.features import OpticalRandomFeatures, OPULayer

# Every static effect of the appliance: beam profile, speckle grain, spare pixels behind a mask, an anchor, noise.
APPLIANCE = replace(PRESETS["appliance"], medium_time=math.inf)
# A camera so fine and so wide that its counts are the intensity.
FINE = replace(PRESETS["ideal"], camera=Camera(bits=16, full_well=None, read_noise=0), exposure=64)
DEVICES = {
    "dense": {"medium": "dense"},
    "streamed": {"medium": "streamed"},
    "structured": {"medium": "structured"},
    "noisy": {"preset": "noisy-8bit"},
    "appliance": {"preset": APPLIANCE},
    "structured-appliance": {"preset": APPLIANCE, "medium": "structured"},
}
# Each with a ridge of its own choice: that of a thousand features is not that of 64 pixels.
READERS = [RidgeClassifierCV(alphas=np.logspace(-1, 4, 11)), LogisticRegression(max_iter=2_000)]


def device(name="dense", n_features=37, n_components=83):
    return SimulatedOPU(n_features, n_components, seed=3, **DEVICES[name])


def binary(*shape, seed=0):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- OpticalRandomFeatures


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"binarize": "median", "medium": "structured"},
        {"output": "linear"},
        {"output": "linear", "medium": "streamed", "n_components": 65},
    ],
    ids=str,
)
def test_it_is_a_scikit_learn_estimator_to_the_letter(parameters):
    results = check_estimator(OpticalRandomFeatures(**parameters))  # raises at the first failed check
    # That one runs only where SciPy was imported with SCIPY_ARRAY_API=1.
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}
    assert "check_methods_subset_invariance" in {r["check_name"] for r in results}


@pytest.mark.parametrize("medium", ["dense", "structured"])
def test_inner_products_of_intensities_approach_the_kernel(medium):
    """E[I(x) I(y)] = (2/n)² (‖x‖² ‖y‖² + (x·y)²)."""
    n, m = 128, 100_000
    x = np.random.default_rng(1).integers(0, 2, size=(3, n))
    features = OpticalRandomFeatures(m, preset=FINE, medium=medium, random_state=0).fit_transform(x).astype(np.float64)
    for i in range(3):
        for j in range(i + 1):
            products = features[i] * features[j]
            dot, norms = float(x[i] @ x[j]), float(x[i].sum() * x[j].sum())
            expected = (2 / n) ** 2 * (norms + dot**2)
            assert abs(products.mean() - expected) < 3 * products.std() / math.sqrt(m)


def test_linear_features_keep_inner_products():
    n, m = 50, 50_000
    x = np.random.default_rng(0).normal(size=(2, n))
    a, b = OpticalRandomFeatures(m, output="linear", random_state=0).fit_transform(x).astype(np.float64)
    assert abs((a * b).mean() - x[0] @ x[1] / n) < 3 * (a * b).std() / math.sqrt(m)


def test_features_are_counts_in_units_of_the_matrix():
    x = binary(5, 37).numpy()
    opu = device()
    features = OpticalRandomFeatures(83, opu=opu).fit_transform(x)
    field = opu.speckle(torch.from_numpy(x))
    half_a_count = opu.intensity_per_count / 2
    exact = field.square().sum(dim=0).clamp(max=255 * opu.intensity_per_count).numpy()
    assert features.dtype == np.float32
    assert np.abs(features - exact).max() <= half_a_count * (1 + 1e-5)


@pytest.mark.parametrize("binarize", ["mean", "median", None])
def test_binary_inputs_are_shown_as_they_are(binarize):
    x = (np.random.default_rng(0).random((30, 40)) < 0.9).astype(float)  # the median of most features is 1
    x[:, :2] = 0, 1
    model = OpticalRandomFeatures(20, binarize=binarize, random_state=0).fit(x)
    assert np.array_equal(model.transform(x), model.opu_.transform(x) * np.float32(model.opu_.intensity_per_count))


@pytest.mark.parametrize(("binarize", "statistic"), [("mean", np.mean), ("median", np.median)])
def test_real_inputs_are_cut_at_what_fit_has_learned(binarize, statistic):
    draw = np.random.default_rng(0)
    train, test = draw.normal(2, 3, size=(101, 40)), draw.normal(5, 1, size=(7, 40))
    model = OpticalRandomFeatures(20, binarize=binarize, random_state=0).fit(train)
    shown = OpticalRandomFeatures(20, binarize=None, random_state=0).fit_transform(test > statistic(train, axis=0))
    assert np.array_equal(model.transform(test), shown)


def test_a_constant_feature_is_dark_whichever_way_its_mean_is_rounded():
    x = np.full((49, 3), [0.1, 0.7, -1.3])
    assert not OpticalRandomFeatures(5, random_state=0).fit_transform(x).any()


@pytest.mark.parametrize("medium", ["dense", "streamed", "structured"])
@pytest.mark.parametrize("output", ["intensity", "linear"])
def test_features_depend_on_the_row_alone(medium, output):
    x = np.random.default_rng(0).normal(size=(40, 30))
    model = OpticalRandomFeatures(70, output=output, medium=medium, random_state=0).fit(x)
    whole = model.transform(x)
    assert np.array_equal(np.concatenate([model.transform(row[None]) for row in x]), whole)
    assert np.array_equal(model.transform(x[::-1]), whole[::-1])


def test_fewer_components_are_the_first_ones():
    x = binary(4, 37).numpy()
    many = OpticalRandomFeatures(200, random_state=5).fit_transform(x)
    assert np.array_equal(OpticalRandomFeatures(70, random_state=5).fit_transform(x), many[:, :70])
    opu = device()
    assert np.array_equal(
        OpticalRandomFeatures(9, opu=opu).fit_transform(x), OpticalRandomFeatures(83, opu=opu).fit_transform(x)[:, :9]
    )


@pytest.mark.parametrize("reader", READERS, ids=["ridge", "logistic"])
def test_it_reads_digits_better_than_a_linear_model_of_the_same_pixels(reader):
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.5, random_state=0)
    mean = train_x.mean(axis=0)
    optical = make_pipeline(OpticalRandomFeatures(1_000, random_state=0), StandardScaler(), clone(reader))
    right = optical.fit(train_x, train_y).predict(test_x) == test_y
    raw = make_pipeline(Binarizer(), StandardScaler(), clone(reader)).fit(train_x - mean, train_y)
    raw_right = raw.predict(test_x - mean) == test_y
    gained, lost = (right & ~raw_right).sum(), (raw_right & ~right).sum()
    assert gained - lost > 3 * math.sqrt(gained + lost)  # McNemar's test, at three standard errors


def test_a_clone_and_a_second_fit_give_the_same_bits():
    x = np.random.default_rng(0).normal(size=(20, 30))
    model = OpticalRandomFeatures(64, random_state=7).set_output(transform="default")
    first = model.fit_transform(x)
    assert np.array_equal(clone(model).fit_transform(x), first)
    assert np.array_equal(model.fit_transform(x), first)
    assert not np.array_equal(clone(model).set_params(random_state=8).fit_transform(x), first)
    by_generator = OpticalRandomFeatures(64, random_state=np.random.RandomState(7))
    assert np.array_equal(by_generator.fit_transform(x), first)


def test_clones_share_an_open_device():
    opu = device()
    model = OpticalRandomFeatures(10, opu=opu)
    assert clone(make_pipeline(model))[0].opu is opu


@pytest.mark.parametrize("name", list(DEVICES))
@pytest.mark.parametrize("output", ["intensity", "linear"])
def test_a_pickle_goes_on_with_the_same_bits(name, output):
    """Matrix, calibration, ledger and the streams of noise and dither all continue."""
    x = np.random.default_rng(0).normal(size=(6, 20))
    model = OpticalRandomFeatures(50, output=output, random_state=0, **DEVICES[name]).fit(x)
    model.transform(x)
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.opu_.usage == model.opu_.usage
    assert np.array_equal(loaded.transform(x), model.transform(x))


def test_a_pickle_holds_no_matrix():
    model = OpticalRandomFeatures(2_000, random_state=0).fit(np.zeros((1, 1_000)))
    model.transform(np.ones((1, 1_000)))
    assert len(pickle.dumps(model)) < 50_000  # the thresholds are 8,000 of them; the matrix would be 4,000,000


def test_a_given_device_is_one_device_after_pickling():
    model = OpticalRandomFeatures(20, opu=device()).fit(binary(3, 37).numpy())
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.opu is loaded.opu_
    assert loaded.opu is not model.opu
    assert pickle.loads(pickle.dumps(clone(model))).opu.identity == model.opu.identity


def test_an_appliance_that_was_passed_in_is_not_pickled():
    lightonml = pytest.importorskip("lightonml")
    appliance = lightonml.OPU(n_components=20, max_n_features=37, simulated=True, disable_pbar=True)
    model = OpticalRandomFeatures(20, opu=LightOnOPU(37, 20, device=appliance)).fit(binary(3, 37).numpy())
    with pytest.raises(DeviceUnavailable, match="LightOnOPU cannot be opened again"):
        pickle.loads(pickle.dumps(model))


def test_a_grid_search_in_a_pipeline_chooses_more_components():
    x, y = load_digits(return_X_y=True)
    model = make_pipeline(OpticalRandomFeatures(random_state=0), StandardScaler(), RidgeClassifier())
    grid = {"opticalrandomfeatures__n_components": [3, 600], "opticalrandomfeatures__medium": ["dense", "structured"]}
    search = GridSearchCV(model, grid, cv=3).fit(x[:600], y[:600])
    assert search.best_params_["opticalrandomfeatures__n_components"] == 600
    shared = GridSearchCV(
        make_pipeline(OpticalRandomFeatures(opu=SimulatedOPU(64, 600)), StandardScaler(), RidgeClassifier()),
        {"opticalrandomfeatures__n_components": [3, 600]},
        cv=3,
    ).fit(x[:600], y[:600])
    assert shared.best_params_ == {"opticalrandomfeatures__n_components": 600}


def test_feature_names():
    model = OpticalRandomFeatures(3).fit(np.eye(4))
    assert list(model.get_feature_names_out()) == [f"opticalrandomfeatures{k}" for k in range(3)]


def test_refitting_for_linear_features_forgets_the_thresholds():
    model = OpticalRandomFeatures(3, random_state=0).fit(np.eye(4))
    assert not hasattr(model.set_params(output="linear").fit(np.eye(4)), "thresholds_")


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"output": "phase"}, ConfigError, "output is"),
        ({"binarize": 0.5}, ConfigError, "binarize is"),
        ({"n_components": 0}, ConfigError, "n_components is an integer"),
        ({"n_components": 2.5}, ConfigError, "n_components is an integer"),
        ({"opu": "simulated"}, ConfigError, "opu is an open device"),
        ({"opu": SimulatedOPU(4, 10), "n_components": 11}, ConfigError, "has 10 outputs"),
        ({"opu": SimulatedOPU(5, 10), "n_components": 10}, ConfigError, "n_features=4"),
        ({"device": "quantum"}, DeviceInputError, "unknown device"),
        ({"device": "lighton"}, DeviceUnavailable, "LightOn"),
        ({"preset": "loud"}, DeviceInputError, "unknown preset"),
        ({"medium": "fog"}, DeviceInputError, "unknown medium"),
    ],
    ids=lambda p: next(iter(p)) if isinstance(p, dict) else None,
)
def test_a_wrong_parameter_is_named_when_fitted(parameters, error, message):
    with pytest.raises(error, match=message):
        OpticalRandomFeatures(**parameters).fit(np.eye(4))


def test_real_rows_are_refused_where_none_binarises():
    model = OpticalRandomFeatures(3, binarize=None).fit(np.eye(4))
    with pytest.raises(DeviceInputError, match=r"got 0\.5"):
        model.transform(np.eye(4) / 2)


class Unknown(OPU):
    """A device of a kind of its own."""

    identity, frames_per_projection, intensity_per_count = "unknown", 2, 1.0

    def __init__(self):
        super().__init__(4, 4, frame_time=1, power=1, noise_seed=0)

    def _counts(self, patterns, first_frame):
        return patterns

    def _in_phase(self, patterns, first_frame):
        return patterns.float()


def test_a_device_that_cannot_be_opened_again_is_not_pickled():
    with pytest.raises(DeviceUnavailable, match="Unknown cannot be opened again"):
        pickle.dumps(OpticalRandomFeatures(4, opu=Unknown()))


# ---------------------------------------------------------------- OPULayer


def matrix(opu):
    """The rows of Re(R) and Im(R), float64 `(2, n_components, n_features)`, from the field of every mirror alone."""
    return opu.speckle(torch.eye(opu.n_features)).double().transpose(1, 2)


@pytest.mark.parametrize("output", ["intensity", "linear"])
def test_the_layer_measures_what_the_device_measures(output):
    x = binary(2, 3, 37)
    y = OPULayer(device(), output)(x)
    rows = x.reshape(6, 37)
    opu = device()
    measured = opu.linear_transform(rows) if output == "linear" else opu.transform(rows) * opu.intensity_per_count
    assert y.dtype == torch.float32
    assert torch.equal(y, measured.view(2, 3, 83))
    assert OPULayer(device(), output)(x[0, 0]).shape == (83,)


@pytest.mark.parametrize("name", list(DEVICES))
@pytest.mark.parametrize("output", ["intensity", "linear"])
def test_gradients_are_those_of_autograd_through_the_explicit_matrix(name, output):
    opu = device(name)
    x, g = binary(4, 37).requires_grad_(), normal(4, 83)
    OPULayer(opu, output, differentiable=True)(x).backward(g)
    real, imaginary = matrix(opu)  # after the first measurement: an appliance calibrates before it
    exact = x.detach().double().requires_grad_()
    quadratures = exact @ real.T, exact @ imaginary.T
    y = quadratures[0] if output == "linear" else quadratures[0].square() + quadratures[1].square()
    y.backward(g.double())
    # float32 sums of 2 x 83 products, field and back: as many roundings of the largest sum of magnitudes.
    magnitudes = (
        2 * torch.stack(quadratures).abs() if output == "intensity" else torch.ones(1, 4, 83).double()
    ) * g.abs()
    largest = torch.einsum("pbm,pmn->bn", magnitudes, torch.stack((real, imaginary))[: len(magnitudes)].abs()).max()
    assert (x.grad - exact.grad).abs().max() < 2 * 83 * 2**-24 * largest


@pytest.mark.parametrize("medium", ["dense", "streamed", "structured"])
def test_linear_gradients_are_finite_differences(medium):
    opu = device(medium)
    layer = OPULayer(opu, "linear", differentiable=True)
    x, step, g = normal(3, 37).requires_grad_(), normal(3, 37, seed=1), normal(3, 83, seed=2)
    layer(x).backward(g)
    with torch.no_grad():
        difference = ((layer(x + step) - layer(x)) * g).double().sum()
        rounding = 37 * 2**-23 * (layer(x).abs() * g.abs()).sum() * 4
    assert abs(difference - (x.grad * step).double().sum()) < rounding


def test_intensity_gradients_are_finite_differences_of_the_ideal_intensity():
    """Flipping mirror i by ±1: I(x + d e_i) - I(x) = d ∂I/∂x_i + |R_i|², a quadratic without remainder."""
    opu = SimulatedOPU(20, 50, seed=1, preset=FINE)
    layer = OPULayer(opu, differentiable=True)
    x = binary(1, 20).requires_grad_()
    layer(x).sum().backward()
    flip = 1 - 2 * x.detach()[0]
    with torch.no_grad():
        flipped = layer(x + torch.diag(flip)).sum(dim=1) - layer(x).sum()
        alone = layer(torch.eye(20)).sum(dim=1)
    counting = 3 * 50 * opu.intensity_per_count / 2  # three sums of 50 counts, each wrong by at most a half
    assert (flipped - alone - flip * x.grad[0]).abs().max() < counting


def test_a_relaxed_input_gets_the_gradient_of_the_pattern_it_showed():
    opu = device()
    layer = OPULayer(opu, differentiable=True)
    relaxed = torch.rand(4, 37, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bits = (relaxed > 0.5).float().requires_grad_()
    layer(bits.detach() + (relaxed - relaxed.detach())).sum().backward()
    layer(bits).sum().backward()
    assert torch.equal(relaxed.grad, bits.grad)


def test_gradients_have_the_type_of_the_input():
    for dtype in (torch.float64, torch.bfloat16):
        x = binary(2, 37).to(dtype).requires_grad_()
        for output in ("intensity", "linear"):
            y = OPULayer(device(), output, differentiable=True)(x)
            (gradient,) = torch.autograd.grad(y.sum(), x)
            assert (y.dtype, gradient.dtype) == (torch.float32, dtype)


def test_without_a_gradient_the_output_is_detached():
    x = binary(2, 37).requires_grad_()
    for output in ("intensity", "linear"):
        assert not OPULayer(device(), output)(x).requires_grad
        assert OPULayer(device(), output, differentiable=True)(x).requires_grad


def test_what_is_before_the_layer_learns_through_it():
    opu = SimulatedOPU(16, 8, seed=0)
    before = nn.Linear(4, 16)
    with torch.no_grad():
        before.weight.copy_(normal(16, 4) / 2)
        before.bias.zero_()
    model = nn.Sequential(before, OPULayer(opu, "linear", differentiable=True))
    x, target = normal(32, 4, seed=1), normal(32, 8, seed=2)
    optimizer = torch.optim.SGD(before.parameters(), lr=0.5)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The least squares solution through the explicit matrix is the bound no training can pass.
    inputs = torch.cat((x, torch.ones(32, 1)), dim=1).double()
    best = (inputs @ torch.linalg.lstsq(inputs, target.double()).solution - target).square().mean().item()
    assert best < losses[-1]
    assert losses[-1] - best < 0.1 * (losses[0] - best)


def test_a_device_that_does_not_know_its_matrix_is_refused():
    assert OPULayer(Unknown(), "linear")(torch.ones(1, 4)).shape == (1, 4)
    with pytest.raises(ConfigError, match=r"hardware\.SimulatedOPU"):
        OPULayer(Unknown(), differentiable=True)


def test_wrong_inputs_and_arguments_are_named():
    opu = device()
    with pytest.raises(ConfigError, match="output is"):
        OPULayer(opu, "phase")
    with pytest.raises(ConfigError, match="opu is an open device"):
        OPULayer("simulated")
    with pytest.raises(DeviceInputError, match=r"\(\.\.\., 37\), got \(37, 2\)"):
        OPULayer(opu)(torch.ones(37, 2))  # 74 numbers would make two rows
    with pytest.raises(DeviceInputError, match="binary"):
        OPULayer(opu, differentiable=True)(torch.full((1, 37), 0.5))


def test_the_layer_has_no_state_and_copies_share_the_device():
    opu = device()
    layer = OPULayer(opu, "linear", differentiable=True).eval()
    model = nn.Sequential(nn.Linear(5, 37), layer)
    assert not layer.state_dict()
    assert not list(layer.parameters())
    copied = copy.deepcopy(model).to(torch.float64)
    assert copied[1].opu is opu
    assert copied[1] is not layer
    assert not copied[1].training
    assert copied(torch.ones(1, 5, dtype=torch.float64)).shape == (1, 83)
    assert repr(layer) == (f"OPULayer(37 -> 83, output='linear', differentiable=True, opu=[{opu.identity}])")


def test_a_device_opened_by_name_is_a_layer_too():
    with open_opu("simulated", n_features=8, n_components=4, preset="noisy-8bit") as opu:
        assert OPULayer(opu)(torch.ones(3, 8)).shape == (3, 4)
        assert opu.usage.frames == 3
