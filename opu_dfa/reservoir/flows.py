"""Compiled steps of chaotic systems: each kernel moves states `(rows, n_state)`, float64, on by one sample in place.

One thread, a fixed order of operations, without the interpreter lock. The equations' sources are in `systems`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from hardware.kernels import compiled

Array = np.ndarray


def _runge_kutta(rate: Callable[[Array, Array, Array], None]) -> Any:
    """The classical fourth-order method for x' = rate, given as rate(x, parameters, out), in equal substeps of dt that
    are no longer than `longest`."""
    rate = register_jitable(rate)

    @compiled
    def kernel(states, parameters, dt, longest):  # type: ignore[no-untyped-def]
        substeps = math.ceil(dt / longest)
        h = dt / substeps
        a, b, c, d = np.empty((4, states.shape[1]))
        for x in states:
            for _ in range(substeps):
                rate(x, parameters, a)
                rate(x + h / 2 * a, parameters, b)
                rate(x + h / 2 * b, parameters, c)
                rate(x + h * c, parameters, d)
                x += h / 6 * (a + 2 * b + 2 * c + d)

    return kernel


def _lorenz63_rate(x: Array, parameters: Array, out: Array) -> None:
    sigma, rho, beta = parameters
    out[0] = sigma * (x[1] - x[0])
    out[1] = x[0] * (rho - x[2]) - x[1]
    out[2] = x[0] * x[1] - beta * x[2]


def _rossler_rate(x: Array, parameters: Array, out: Array) -> None:
    a, b, c = parameters
    out[0] = -x[1] - x[2]
    out[1] = x[0] + a * x[1]
    out[2] = b + x[2] * (x[0] - c)


def _lorenz96_rate(x: Array, parameters: Array, out: Array) -> None:
    forcing, n = parameters[0], x.size
    for i in range(n):  # the ring closes by itself at negative places
        out[i] = (x[(i + 1) % n] - x[i - 2]) * x[i - 1] - x[i] + forcing


lorenz63 = _runge_kutta(_lorenz63_rate)
rossler = _runge_kutta(_rossler_rate)
lorenz96 = _runge_kutta(_lorenz96_rate)


@compiled
def mackey_glass(states, beta, gamma, n, h, pairs):  # type: ignore[no-untyped-def]
    """Histories, points h apart of the last τ, moved on by pairs of points: the decay exactly, the source by Simpson's
    rule."""
    points, decay = states.shape[1], math.exp(-gamma * h)
    known = np.empty(points + 2 * pairs)
    for state in states:
        known[:points] = state
        for i in range(0, 2 * pairs, 2):
            past = known[i : i + 3]  # at t - τ, and one and two points later
            first, second, third = beta * past / (1 + np.abs(past) ** n)
            now = known[points + i - 1]
            # The point halfway, from the parabola through the source's three.
            half = h / 12 * (5 * decay * first + 8 * second - third / decay)
            known[points + i] = decay * now + half
            simpson = h / 3 * (decay**2 * first + 4 * decay * second + third)
            known[points + i + 1] = decay**2 * now + simpson
        state[:] = known[2 * pairs :]


@compiled
def _around(kernel, x):  # type: ignore[no-untyped-def]
    """The convolution Σ_j kernel_j x_(i - j) on a ring."""
    n = x.size
    twice, out = np.concatenate((x, x)), np.zeros(n)
    for j in range(n):
        weight, moved = kernel[j], twice[n - j : 2 * n - j]
        for i in range(n):
            out[i] += weight * moved[i]
    return out


@compiled
def etdrk4(states, kernels, substeps):  # type: ignore[no-untyped-def]
    """u' = Lu + N(u) with N(u) ∝ (u²)_x on a ring; kernels `(6, n)`: e^(hL), e^(hL/2), and the method's weights on u²
    as convolutions."""
    whole, half, q, f1, f2, f3 = kernels
    for u in states:
        for _ in range(substeps):
            uu, half_u = u * u, _around(half, u)
            a = half_u + _around(q, uu)
            aa = a * a
            b = half_u + _around(q, aa)
            bb = b * b
            c = _around(half, a) + _around(q, 2 * bb - uu)
            u[:] = _around(whole, u) + _around(f1, uu) + _around(f2, aa + bb) + _around(f3, c * c)
