"""Averages over Gaussian fields: closed forms against quadrature, grids against Isserlis' theorem."""

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.dynamics.fields import ACTIVATIONS, activation, i2, i3, i4, j2, points
from opu_dfa.theory.gaussian import hermite, root


@pytest.fixture(scope="module")
def drawn():
    """Four fields, and erf with its slope at 31⁴ Gauss-Hermite nodes of them."""
    a = np.random.default_rng(3).standard_normal((4, 5)) / 3
    c, one = a @ a.T, hermite(31)
    nodes = np.stack(np.meshgrid(*[one.nodes] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    weights = np.stack(np.meshgrid(*[one.weights] * 4, indexing="ij"), axis=-1).reshape(-1, 4).prod(axis=1)
    z, erf = nodes @ root(c), activation("erf")
    return c, z, weights, erf.value(z), erf.slope(z)


def test_closed_averages_of_erf_are_those_of_quadrature(drawn):
    c, z, w, g, s = drawn
    assert i2(c) == pytest.approx((g * w[:, None]).T @ g, abs=1e-5)
    assert j2(c, 2) == pytest.approx(((s * w[:, None]).T @ s)[:2, :2], abs=1e-5)
    assert i3(c, 2) == pytest.approx(np.einsum("n,ni,nb,na->iba", w, s[:, :2], z, g, optimize=True), abs=1e-5)
    four = np.einsum("n,ni,nk,na,nb->ikab", w, s[:, :2], s[:, :2], g, g, optimize=True)
    assert i4(c, 2) == pytest.approx(four, abs=1e-5)


def test_grids_of_polynomials_are_exact():
    c = np.array([[2.0, 0.5], [0.5, 1.0]])
    rule = points(2, 3)  # of He3: force² is of degree 10
    x, y = (rule.nodes @ root(c)).T
    assert rule.weights @ (x**2 * y**2) == pytest.approx(2 * 1 + 2 * 0.25)
    assert rule.weights @ x**10 == pytest.approx(945 * 2**5)
    assert len(points(9, 2).nodes) == 2**14, "grids of many fields give way to Sobol points"


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slopes_are_derivatives(name):
    g, z = activation(name), np.linspace(-2, 2, 8)
    assert g.slope(z) == pytest.approx((g.value(z + 1e-5) - g.value(z - 1e-5)) / 2e-5, abs=1e-8)


def test_roots_of_singular_covariances_are_roots():
    c = np.ones((3, 3))
    assert root(c) @ root(c).T == pytest.approx(c)


def test_unknown_activations_are_refused():
    with pytest.raises(ConfigError, match="no activation 'sine' here; choose one of linear, erf"):
        activation("sine")
