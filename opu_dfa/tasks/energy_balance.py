"""An energy-balance model of the climate on a map, and random maps of what forces it (see `opu_dfa.tasks.climate`)."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

_STEFAN_BOLTZMANN = 5.67e-8  # W m⁻² K⁻⁴
_CLOUDS, _VAPOUR = 0.5, 1.9e-15  # m and c of Sellers (1969)
_DIFFUSION = 0.4  # W m⁻² K⁻¹; North (1975) has 0.6 where no wind carries heat
_WIND = 1.5  # W m⁻² K⁻¹ a radian of longitude: modelled
_MEAN_INSOLATION = 340.0  # W m⁻²
_ICE_AT, _ICE_OVER = 263.0, 10.0  # K: where half the ground is icy, and over how wide a range
_SEA, _LAND, _ICE = 0.27, 0.06, 0.2  # albedo of the sea; what land and ice add to it
_SCATTERED = 0.2  # share of the light that thick aerosol sends back to space; Charlson et al. 1992 for the form
_STIFFNESS = 1.5  # W m⁻² K⁻¹: about the slope of the outgoing radiation less that of the ice
_ITERATIONS, _AT_REST = 100, 2e-3  # K


class EnergyBalance:
    """The climate at rest on `latitudes` x `longitudes` cells, from the north pole down.

    S (1 - α) [1 - 0.2 (1 - exp(-τ)) (1 - α)] + 5.35 log(CO₂) = σT⁴[1 - m tanh(cT⁶)] - D∇²T + u ∂T/∂longitude
    α = 0.27 + 0.06 land + 0.2 ice(T) + change by land use

    Attributes:
        latitude, longitude: of the cells' centres in radians; area: of the cells of each latitude, of mean 1;
        land: the map of land, in [0, 1].

    >>> climate = EnergyBalance(12, 24)
    >>> mean = (climate.temperature(torch.zeros(1, 4, 12, 24)) * climate.area[:, None]).mean()
    >>> 284 < mean < 290  # kelvin
    tensor(True)
    """

    def __init__(self, latitudes: int, longitudes: int) -> None:
        edges = _edges(latitudes)
        self.shape = (latitudes, longitudes)
        self.latitude = (edges[1:] + edges[:-1]) / 2
        self.longitude = torch.arange(longitudes) * (2 * math.pi / longitudes)
        self.area = self.latitude.cos() / self.latitude.cos().mean()
        self.land = _continents(self)
        # Annual mean insolation: 1 - 0.477 P₂(sin latitude), North (1975).
        self.insolation = _MEAN_INSOLATION * (1 - 0.477 * (1.5 * self.latitude.sin() ** 2 - 0.5))

    @cached_property
    def _inverse(self) -> Tensor:
        transport = self.transport()
        return torch.linalg.inv(_STIFFNESS * torch.eye(len(transport)) + transport).float()

    def temperature(self, forcing: Tensor) -> Tensor:
        """The temperature at rest in kelvin, `(n, latitudes, longitudes)`.

        Solved by iteration: with A = -D∇² + u ∂/∂longitude and a stiffness s, T ← (s + A)⁻¹ (sT + gain(T)).

        Args:
            forcing: departures from today, `(n, 4, latitudes, longitudes)`: of carbon dioxide (in shares of today's),
                of the optical depth τ of aerosol, of insolation (W m⁻²), and of the albedo by land use.

        Raises:
            RuntimeError: the temperature does not come to rest.
        """
        carbon_dioxide, aerosol, insolation, land_use = forcing.unbind(1)
        sun = self.insolation[:, None] + insolation
        greenhouse = 5.35 * torch.log1p(carbon_dioxide)  # Myhre et al. 1998
        scattered = _SCATTERED * -torch.expm1(-aerosol)
        ground = 1 - _SEA - _LAND * self.land - land_use
        t = (300.0 - 50.0 * self.latitude.sin() ** 2)[:, None].expand(greenhouse.shape)
        for _ in range(_ITERATIONS):
            ice = _ICE * torch.sigmoid((_ICE_AT - t) / _ICE_OVER)
            absorbed = ground - ice
            gain = sun * absorbed * (1 - scattered * absorbed) + greenhouse - outgoing(t)
            before, t = t, ((_STIFFNESS * t + gain).flatten(1) @ self._inverse.T).view_as(t)
            if (t - before).abs().max() < _AT_REST:
                return t
        raise RuntimeError(f"no temperature at rest after {_ITERATIONS} iterations: the forcing is too strong")

    def transport(self) -> Tensor:
        """-D∇² + u ∂/∂longitude by finite differences, a float64 matrix over all cells."""
        latitudes, longitudes = self.shape
        edges = _edges(latitudes).double()
        cosine = self.latitude.double().cos()
        flux = _DIFFUSION * edges.cos()[1:-1] / (math.pi / latitudes) ** 2
        along = torch.diag(-flux, 1) + torch.diag(-flux, -1)
        along = (along - torch.diag(along.sum(1))) / cosine[:, None]
        here = torch.eye(longitudes, dtype=torch.float64)
        east, west = here.roll(1, 1), here.roll(-1, 1)
        step = 2 * math.pi / longitudes
        around = _DIFFUSION / cosine**2 / step**2
        wind = (
            -_WIND * torch.cos(3 * self.latitude.double()) / (2 * step)
        )  # easterlies up to 30 degrees, then westerlies
        return (
            torch.kron(along, here)
            + torch.kron(torch.diag(around), 2 * here - east - west)
            + torch.kron(torch.diag(wind), east - west)
        )


def _edges(latitudes: int) -> Tensor:
    return torch.linspace(math.pi / 2, -math.pi / 2, latitudes + 1)


def outgoing(t: Tensor) -> Tensor:
    """Thermal radiation to space in W m⁻²: σT⁴[1 - m tanh(cT⁶)] (Sellers 1969).

    >>> round(float(outgoing(torch.tensor(288.0))))
    235
    """
    return _STEFAN_BOLTZMANN * t**4 * (1 - _CLOUDS * torch.tanh(_VAPOUR * t**6))


def forcings(n: int, climate: EnergyBalance, generator: torch.Generator) -> Tensor:
    """Random departures from today, `(n, 4, latitudes, longitudes)`, in the units of `EnergyBalance.temperature`.

    Carbon dioxide from half to four times of today's, everywhere alike; three clouds of aerosol, of optical depth up to
    2; insolation that shifts between the poles, and between poles and tropics, by some W m⁻²; two regions of land that
    are by up to 0.15 brighter or darker.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    sine = climate.latitude.sin()[:, None]
    everywhere = torch.ones(climate.shape)
    carbon_dioxide = 2 ** (3 * uniform(1, 1) - 1) * everywhere - 1
    aerosol = (2 * uniform(3, 1, 1) * _blobs(climate, uniform(3), uniform(3), 0.15 + 0.2 * uniform(3))).sum(1)
    insolation = (5 * normal(1, 1) * (1.5 * sine**2 - 0.5) + 5 * normal(1, 1) * sine) * everywhere
    regions = _blobs(climate, uniform(2), uniform(2), 0.2 + 0.3 * uniform(2))
    land_use = climate.land * (0.15 * (2 * uniform(2, 1, 1) - 1) * regions).sum(1)
    return torch.stack((carbon_dioxide, aerosol, insolation, land_use), dim=1)


def _blobs(climate: EnergyBalance, height: Tensor, turn: Tensor, width: Tensor) -> Tensor:
    """exp(-(distance/width)²/2) on the sphere around points given in [0, 1]², `(..., latitudes, longitudes)`."""
    height = (2 * height - 1)[..., None, None]  # uniform over the sphere's area
    apart = climate.longitude - 2 * math.pi * turn[..., None, None]
    sine, cosine = climate.latitude.sin()[:, None], climate.latitude.cos()[:, None]
    cosine_of_angle = sine * height + cosine * (1 - height**2).sqrt() * apart.cos()
    # 1 - cos θ = θ²/2 near the centre
    return torch.exp((cosine_of_angle - 1) / width[..., None, None] ** 2)


def _continents(climate: EnergyBalance) -> Tensor:
    """Land in [0, 1]: the same smooth continents at any resolution."""
    height = torch.tensor([0.85, 0.75, 0.45, 0.30, 0.90, 0.05])
    turn = torch.tensor([0.25, 0.45, 0.30, 0.80, 0.75, 0.50])
    width = torch.tensor([0.45, 0.50, 0.40, 0.35, 0.30, 0.35])
    return torch.sigmoid(12 * (_blobs(climate, height, turn, width).sum(0) - 0.6))
