"""Compiled state loops: x ← (1 - a) x + (a / √N) f(z), z a projection of state and input, for many steps at once.

All on float32, one thread, without the interpreter lock. Every loop fills `states` `(batch, steps, N)`, starting from
`state` `(batch, N)`, which it leaves at the last step. A projection has N rows, or 2N for a complex field, of which the
first N are the real part; what the rows add up to, `z`, is worked on in place.
"""

from __future__ import annotations

import math

import numpy as np

from hardware.kernels import compiled, walsh_hadamard

CODES = {
    name: code
    for code, name in enumerate(
        ["linear", "erf", "tanh", "sign", "heaviside", "relu", "cos", "intensity", "binary-intensity"]
    )
}


@compiled
def _erf(x):  # type: ignore[no-untyped-def]
    """erf(x) as a rational function, minimax where float32 is not ±1 yet (as in Eigen), to 4e-7."""
    x = min(max(x, np.float32(-4)), np.float32(4))
    s = x * x
    p = np.float32(-2.72614225801306e-10) * s + np.float32(2.77068142495902e-08)
    p = p * s + np.float32(-2.10102402082508e-06)
    p = p * s + np.float32(-5.69250639462346e-05)
    p = p * s + np.float32(-7.34990630326855e-04)
    p = p * s + np.float32(-2.95459980854025e-03)
    p = p * s + np.float32(-1.60960333262415e-02)
    q = np.float32(-1.45660718464996e-05) * s + np.float32(-2.13374055278905e-04)
    q = q * s + np.float32(-1.68282697438203e-03)
    q = q * s + np.float32(-7.37332916720468e-03)
    q = q * s + np.float32(-1.42647390514189e-02)
    return x * p / q


@compiled
def _tanh(x):  # type: ignore[no-untyped-def]
    """tanh(x), likewise."""
    x = min(max(x, np.float32(-7.90531110763549805)), np.float32(7.90531110763549805))
    s = x * x
    p = np.float32(-2.76076847742355e-16) * s + np.float32(2.00018790482477e-13)
    p = p * s + np.float32(-8.60467152213735e-11)
    p = p * s + np.float32(5.12229709037114e-08)
    p = p * s + np.float32(1.48572235717979e-05)
    p = p * s + np.float32(6.37261928875436e-04)
    p = p * s + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06) * s + np.float32(1.18534705686654e-04)
    q = q * s + np.float32(2.26843463243900e-03)
    q = q * s + np.float32(4.89352518554385e-03)
    return x * p / q


@compiled
def activate(z, n, code, threshold):  # type: ignore[no-untyped-def]
    """z[:n] ← f(z), for the nonlinearity of that code."""
    one, zero, half = np.float32(1), np.float32(0), np.float32(0.5)
    if code == 1:
        for i in range(n):
            z[i] = _erf(z[i])
    elif code == 2:
        for i in range(n):
            z[i] = _tanh(z[i])
    elif code == 3:
        for i in range(n):
            z[i] = one if z[i] > zero else (-one if z[i] < zero else zero)
    elif code == 4:
        for i in range(n):
            z[i] = one if z[i] > zero else zero
    elif code == 5:
        for i in range(n):
            z[i] = max(z[i], zero)
    elif code == 6:
        for i in range(n):
            z[i] = np.float32(math.sqrt(2.0)) * math.cos(z[i])
    elif code >= 7:  # of a complex field, real and imaginary part of variance 1/2
        for i in range(n):
            z[i] = half * (z[i] * z[i] + z[n + i] * z[n + i])
        if code == 8:
            for i in range(n):
                z[i] = one if z[i] > threshold else zero


@compiled
def update(state, z, bias, leak, code, threshold):  # type: ignore[no-untyped-def]
    """One state `(N,)` from what is projected, z `(rows,)`."""
    n = state.size
    for i in range(z.size):
        z[i] += bias[i]
    activate(z, n, code, threshold)
    keep, gain = np.float32(1 - leak), np.float32(leak / math.sqrt(n))
    for i in range(n):
        state[i] = keep * state[i] + gain * z[i]


@compiled
def structured(states, state, inputs, signs, reservoir_scale, input_scale, bias, leak, code, threshold):  # type: ignore[no-untyped-def]
    """z = H D₃ H D₂ H D₁ [s_r x; s_i u; 0] / n: rows of a Gaussian-like matrix of unit variance.

    inputs: `(batch, steps, d)`; signs: int8 `(blocks, 3, n)`, n a power of two of at least N + d.
    """
    batch, steps, d = inputs.shape
    n_units, rows = state.shape[1], bias.size
    blocks, _, n = signs.shape
    one = np.float32(1)
    into, of_state, of_input = one / np.float32(n), np.float32(reservoir_scale), np.float32(input_scale)
    work, z = np.empty(n, np.float32), np.empty(rows, np.float32)
    for b in range(batch):
        x = state[b]
        for t in range(steps):
            for block in range(blocks):
                first, second, third = signs[block]
                for i in range(n_units):
                    work[i] = of_state * x[i] * first[i]
                for i in range(d):
                    work[n_units + i] = of_input * inputs[b, t, i] * first[n_units + i]
                work[n_units + d :] = 0
                walsh_hadamard(work)
                for i in range(n):
                    work[i] *= second[i]
                walsh_hadamard(work)
                for i in range(n):
                    work[i] *= third[i]
                walsh_hadamard(work)
                start = block * n
                for i in range(min(n, rows - start)):
                    z[start + i] = work[i] * into
            update(x, z, bias, leak, code, threshold)
            states[b, t] = x


@compiled
def dense(states, state, driven, weights, bias, leak, code, threshold):  # type: ignore[no-untyped-def]
    """z = W x + (s_i V u), the second given as `driven` `(batch, steps, rows)`; weights `(rows, N)` hold s_r W."""
    batch, steps, rows = driven.shape
    z = np.empty((batch, rows), np.float32)
    for t in range(steps):
        if batch == 1:
            np.dot(weights, state[0], z[0])
        else:
            np.dot(state, weights.T, z)
        for b in range(batch):
            for i in range(rows):
                z[b, i] += driven[b, t, i]
            update(state[b], z[b], bias, leak, code, threshold)
            states[b, t] = state[b]


@compiled
def sparse(states, state, driven, values, columns, bias, leak, code, threshold):  # type: ignore[no-untyped-def]
    """`dense` for a matrix of which every row holds as many entries: values and their columns `(rows, entries)`."""
    batch, steps, rows = driven.shape
    entries = values.shape[1]
    z = np.empty(rows, np.float32)
    for b in range(batch):
        x = state[b]
        for t in range(steps):
            for i in range(rows):
                total = driven[b, t, i]
                for k in range(entries):
                    total += values[i, k] * x[columns[i, k]]
                z[i] = total
            update(x, z, bias, leak, code, threshold)
            states[b, t] = x
