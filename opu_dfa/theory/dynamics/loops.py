"""Compiled steps of `opu_dfa.theory.dynamics.simulate`: of weights, or of their overlaps, in place.

All arguments are those of a rule and a teacher as plain numbers and arrays; noises are label noise and the device's
additive, relative, common and shown. Activations and codes are numbers: the place in `fields.ACTIVATIONS`, and what
`Code.compiled` says.
"""

from __future__ import annotations

import math

import numpy as np

from hardware.kernels import compiled


@compiled
def _activate(z, code):  # type: ignore[no-untyped-def]
    """g(z) and g'(z)."""
    if code == 1:
        return math.erf(z / math.sqrt(2.0)), math.sqrt(2.0 / math.pi) * math.exp(-z * z / 2)
    if code == 2:
        return max(z, 0.0), 1.0 if z > 0 else 0.0
    if code == 3:
        value = math.tanh(z)
        return value, 1 - value * value
    if code == 4:
        return z * z, 2 * z
    if code == 5:
        return z * z * z - 3 * z, 3 * z * z - 3
    return z, 1.0


@compiled
def _encode(rng, e, code, threshold, level):  # type: ignore[no-untyped-def]
    """φ(e), in place; a level of 0 is each sample's own."""
    if code == 0:
        return
    largest, lowest, norm, count = 0.0, 0.0, 0.0, 0
    for x in e:
        largest, lowest, norm = max(largest, x), max(lowest, -x), norm + x * x
    cut = threshold if level > 0 else threshold * max(largest, lowest)
    for x in e:
        count += abs(x) > cut
    for c in range(e.size):
        x = e[c]
        sign = 1.0 if x > 0 else -1.0
        if code == 1:
            e[c] = min(max(x, -level), level)
        elif code == 2:
            size = level if level > 0 else math.sqrt(norm / max(count, 1))
            e[c] = sign * size if abs(x) > cut else 0.0
        else:
            size = level if level > 0 else (largest if x > 0 else lowest)
            e[c] = sign * size if rng.random() * size < abs(x) else 0.0


@compiled
def _forces(rng, z, k, v, a, b, backprop, correlation, activation, code, threshold, level, noises, phi, dv):  # type: ignore[no-untyped-def]
    """φ_j of a sample of fields z, added to phi `(K,)` after it is cleared, and e_c g(λ_j) added to dv `(O, K)`."""
    outputs, fields = v.shape[0], z.size
    value, slope = np.empty(fields), np.empty(fields)
    for i in range(fields):
        value[i], slope[i] = _activate(z[i], activation)
    e, sent = np.empty(outputs), np.empty(outputs)
    for c in range(outputs):
        f, y = 0.0, 0.0
        for j in range(k):
            f += v[c, j] * value[j]
        for m in range(fields - k):
            y += a[c, m] * value[k + m]
        if noises[0] > 0:
            y += noises[0] * rng.standard_normal()
        e[c] = f - y
        sent[c] = -y if correlation else e[c]
    _encode(rng, sent, code, threshold, level)
    shared, norm = noises[3] * rng.standard_normal() if noises[3] > 0 else 0.0, 0.0
    for c in range(outputs):
        norm += sent[c] * sent[c]
    own = math.sqrt(noises[1] ** 2 + noises[4] ** 2 * norm)
    for j in range(k):
        s = 0.0
        for c in range(outputs):
            s += (v[c, j] if backprop else b[j, c]) * sent[c]
            dv[c, j] += e[c] * value[j]
        if noises[2] > 0:
            s *= 1 + noises[2] * rng.standard_normal()
        if own > 0:
            s += own * rng.standard_normal()
        phi[j] = (s + shared) * slope[j]


@compiled
def move_weights(  # type: ignore[no-untyped-def]
    rng, w, k, v, a, b, steps, batch, rate, readout, backprop, correlation, sphere, activation, code, threshold, level,
    noises,
):  # fmt: skip
    n = w.shape[1]
    phi, dv, total = np.empty(k), np.empty_like(v), np.zeros((k, n))
    x, root = np.empty(n), math.sqrt(n)
    for _ in range(steps):
        dv[:] = 0
        total[:] = 0
        for _ in range(batch):
            for i in range(n):
                x[i] = rng.standard_normal()
            z = np.dot(w, x) / root
            _forces(rng, z, k, v, a, b, backprop, correlation, activation, code, threshold, level, noises, phi, dv)
            for j in range(k):
                for i in range(n):
                    total[j, i] += phi[j] * x[i]
        for j in range(k):
            size, scale = 0.0, rate / root / batch
            for i in range(n):
                w[j, i] -= scale * total[j, i]
                size += w[j, i] * w[j, i]
            if sphere:
                scale = root / math.sqrt(size)
                for i in range(n):
                    w[j, i] *= scale
            for c in range(v.shape[0]):
                v[c, j] -= readout / n / batch * dv[c, j]


@compiled
def _lower(c, found):  # type: ignore[no-untyped-def]
    """L with L Lᵀ = c, for a c that may be singular."""
    for i in range(c.shape[0]):
        for j in range(i + 1):
            left = c[i, j]
            for k in range(j):
                left -= found[i, k] * found[j, k]
            if i == j:
                found[i, i] = math.sqrt(left) if left > 1e-14 * c[i, i] else 0.0
            else:
                found[i, j] = left / found[j, j] if found[j, j] > 0 else 0.0


@compiled
def move_overlaps(  # type: ignore[no-untyped-def]
    rng, c, n, v, a, b, steps, batch, rate, readout, backprop, correlation, sphere, activation, code, threshold, level,
    noises,
):  # fmt: skip
    fields, k = c.shape[0], v.shape[1]
    lower, own, bartlett = np.zeros((fields, fields)), np.zeros((k, k)), np.zeros((k, k))
    xi, z, phi, dv = np.empty(fields), np.empty(fields), np.empty(k), np.empty_like(v)
    gram, inside, pull, outside = np.empty((k, k)), np.empty((k, fields)), np.empty((k, fields)), np.empty((k, k))
    step = rate / n / batch
    for _ in range(steps):
        _lower(c, lower)
        dv[:] = 0
        gram[:] = 0
        inside[:] = 0
        for _ in range(batch):
            for i in range(fields):
                xi[i] = rng.standard_normal()
                z[i] = 0.0
                for j in range(i + 1):
                    z[i] += lower[i, j] * xi[j]
            _forces(rng, z, k, v, a, b, backprop, correlation, activation, code, threshold, level, noises, phi, dv)
            for j in range(k):
                for i in range(k):
                    gram[j, i] += phi[j] * phi[i]
                for i in range(fields):
                    inside[j, i] += phi[j] * xi[i]
        # What Σ φ x is outside the span of all weights has the Gram matrix own · Wishart · ownᵀ.
        _lower(gram, own)
        for j in range(k):
            for i in range(j):
                bartlett[j, i] = rng.standard_normal()
            bartlett[j, j] = math.sqrt(rng.chisquare(n - fields - j))
        for j in range(k):
            for i in range(k):
                outside[j, i] = 0.0
                for s in range(i, j + 1):
                    outside[j, i] += own[j, s] * bartlett[s, i]
        for j in range(k):
            for i in range(fields):
                pull[j, i] = 0.0
                for s in range(i + 1):
                    pull[j, i] += inside[j, s] * lower[i, s]
        for j in range(k):
            for i in range(j + 1):
                change = 0.0
                for s in range(fields):
                    change += inside[j, s] * inside[i, s]
                for s in range(i + 1):
                    change += outside[j, s] * outside[i, s]
                c[j, i] += step * step * change - step * (pull[j, i] + pull[i, j])
                c[i, j] = c[j, i]
            for m in range(k, fields):
                c[j, m] -= step * pull[j, m]
                c[m, j] = c[j, m]
            for o in range(v.shape[0]):
                v[o, j] -= readout / n / batch * dv[o, j]
        if sphere:
            for j in range(k):
                scale = 1 / math.sqrt(c[j, j])
                for i in range(fields):
                    c[j, i] *= scale
                    c[i, j] *= scale
