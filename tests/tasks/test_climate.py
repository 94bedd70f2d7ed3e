"""The energy-balance model against conservation laws and exact eigenfunctions; the task made of it."""

import math

import pytest
import torch
import torch.nn.functional as F

from opu_dfa.config import parse
from opu_dfa.errors import ConfigError
from opu_dfa.tasks import energy_balance
from opu_dfa.tasks.climate import ClimateTask, Settings
from opu_dfa.tasks.energy_balance import EnergyBalance, forcings, outgoing


@pytest.fixture(scope="module")
def climate() -> EnergyBalance:
    return EnergyBalance(24, 48)


@pytest.fixture(scope="module")
def task() -> ClimateTask:
    return ClimateTask(settings())


def settings(**changed: int) -> Settings:
    sizes = {"latitudes": 12, "longitudes": 24, "patch": 4, "n_training": 20, "n_held_out": 10, "seed": 0}
    return Settings("climate", **(sizes | changed))


def mean(climate: EnergyBalance, field: torch.Tensor) -> torch.Tensor:
    return (field * climate.area[:, None]).mean((-2, -1))


def test_what_comes_in_leaves(climate: EnergyBalance):
    """Transport moves heat and makes none: the sphere's mean balance holds without knowing it."""
    forcing = forcings(8, climate, torch.Generator().manual_seed(0))
    t = climate.temperature(forcing)
    carbon_dioxide, aerosol, insolation, land_use = forcing.unbind(1)
    ice = 0.2 / (1 + torch.exp((t - 263) / 10))
    absorbed = 1 - 0.27 - 0.06 * climate.land - ice - land_use
    sun = climate.insolation[:, None] + insolation
    gain = sun * absorbed * (1 - 0.2 * (1 - torch.exp(-aerosol)) * absorbed) + 5.35 * torch.log(1 + carbon_dioxide)
    # At rest a step moves less than _AT_REST, which is an imbalance below _STIFFNESS · _AT_REST, and T is a float32.
    allowed = 2 * energy_balance._STIFFNESS * energy_balance._AT_REST
    assert (mean(climate, gain) - mean(climate, outgoing(t))).abs().max() < allowed


def test_transport_has_the_sphere_s_eigenfunctions():
    """-D∇² sin φ = 2D sin φ, and u ∂/∂λ turns cos λ into -u sin λ; differences of second order in the cell's side."""
    climate = EnergyBalance(36, 72)
    transport = climate.transport()
    latitude, longitude = climate.latitude.double()[:, None], climate.longitude.double()
    d, wind = energy_balance._DIFFUSION, -energy_balance._WIND * torch.cos(3 * latitude)
    zonal = latitude.sin().expand(36, 72)
    wave = latitude.cos() * longitude.cos()
    for field, exact in (
        (zonal, 2 * d * zonal),
        (wave, 2 * d * wave - wind * latitude.cos() * longitude.sin()),
    ):
        found = (transport @ field.reshape(-1)).view(36, 72)
        # A step of 5 degrees: (π/36)² = 0.8 %, of second and fourth derivatives of order one over cos² φ.
        inner = slice(4, -4)
        assert (found - exact)[inner].abs().max() < 0.02 * exact.abs().max()


def test_nothing_changes_where_nothing_forces(climate: EnergyBalance):
    t = climate.temperature(torch.zeros(2, 4, 24, 48))
    assert torch.equal(t[0], t[1])
    assert 280 < mean(climate, t[0]) < 292


def test_carbon_dioxide_warms_and_the_ice_amplifies_it(climate: EnergyBalance):
    forcing = torch.zeros(2, 4, 24, 48)
    forcing[1, 0] = 1.0  # twice today's
    cold, warm = climate.temperature(forcing)
    by_latitude = (warm - cold).mean(1)
    # Without ice the answer would be 5.35 log 2 over the slope of the outgoing radiation.
    t = cold.double().requires_grad_()
    outgoing(t).sum().backward()
    without_ice = 5.35 * math.log(2) / mean(climate, t.grad)
    assert mean(climate, warm - cold) > 1.1 * without_ice
    assert by_latitude[2] > by_latitude[12]


def test_aerosol_cools_downwind(climate: EnergyBalance):
    forcing = torch.zeros(2, 4, 24, 48)
    forcing[1, 1, 5:7, 23:25] = 1.0  # at 45-60 degrees north, where westerlies blow
    clear, hazy = climate.temperature(forcing)
    cooling = (clear - hazy)[5:7].sum(0)
    assert cooling.argmax() in range(23, 28)
    assert cooling[24:36].sum() > 1.2 * cooling[12:24].sum()


def test_too_strong_a_forcing_is_an_error(climate: EnergyBalance, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(energy_balance, "_ITERATIONS", 2)
    with pytest.raises(RuntimeError, match="no temperature at rest after 2 iterations"):
        climate.temperature(torch.zeros(1, 4, 24, 48))


def test_the_same_seed_gives_the_same_maps(task: ClimateTask):
    again, other = ClimateTask(settings()), ClimateTask(settings(seed=1))
    assert again.fingerprint == task.fingerprint != other.fingerprint
    x, y = task.batch(5, torch.Generator().manual_seed(0))
    assert x.shape == (5, 4, 12, 24)
    assert y.shape == (5, 12, 24)
    assert torch.equal(again.batch(5, torch.Generator().manual_seed(0))[1], y)


def test_held_out_maps_are_not_trained_on(task: ClimateTask):
    x, _ = task._parts["training"]
    for split in ("validation", "test"):
        for held_out, _ in task.examples(split, 64):
            assert torch.cdist(held_out.flatten(1), x.flatten(1)).min() > 1


def test_patches_make_the_field(task: ClimateTask):
    _, y = task.batch(3, torch.Generator().manual_seed(0))
    patches = F.unfold(y[:, None], 4, stride=4).transpose(1, 2)
    assert patches.shape == (3, 3 * 6, task.n_outputs)
    assert torch.equal(task.field(patches), y)
    assert task.loss(patches, y) == 0


def test_cells_weigh_as_their_area(task: ClimateTask):
    latitude = torch.linspace(90 - 7.5, -82.5, 12).deg2rad()
    losses = []
    for row in (0, 5):
        y = torch.zeros(1, 12, 24)
        y[0, row] = 1
        losses.append(task.loss(torch.zeros(1, 18, 16), y))
    assert losses[0] / losses[1] == pytest.approx(float(latitude[0].cos() / latitude[5].cos()), rel=1e-5)


def test_r2_is_one_for_the_truth_and_zero_for_the_mean(task: ClimateTask):
    x, y = task._parts["test"]
    answers = {tuple(row.flatten()[:40].tolist()): field for row, field in zip(x, y, strict=True)}

    def truth(some: torch.Tensor) -> torch.Tensor:
        fields = torch.stack([answers[tuple(row.flatten()[:40].tolist())] for row in some])
        return F.unfold(fields[:, None], 4, stride=4).transpose(1, 2)

    assert task.evaluate(truth, "test") == {"loss": 0.0, "r2": 1.0, "kelvin": 0.0}
    middle = float((y * task.area).mean())
    scores = task.evaluate(lambda some: torch.full((len(some), 18, 16), middle), "test")
    assert scores["r2"] == pytest.approx(0, abs=1e-5)
    assert scores["kelvin"] == pytest.approx(task.kelvin * math.sqrt(scores["loss"]))


def test_patches_that_do_not_tile_the_map_are_refused():
    with pytest.raises(ConfigError, match=r"task\.patch=5 must divide"):
        parse(Settings, vars(settings()) | {"patch": 5}, "task")


def test_the_figure_shows_truth_beside_prediction(task: ClimateTask):
    class Mean(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 18, 16)

    figure = task.figure(Mean(1, 1), torch.Generator().manual_seed(0))
    assert [axes.get_title() for axes in figure.axes[:5]][3:] == ["warming", "prediction"]
