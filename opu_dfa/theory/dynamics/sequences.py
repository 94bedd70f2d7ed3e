"""Compiled one-pass gradient descent on sequences of normal tokens, the finite-size twin of `attention`.

The target's direction is the first axis, and the position's the second. Steps are of rate γ/d; weights go back on their
sphere after each. Loops fill overlaps at given numbers of steps.
"""

from __future__ import annotations

import math

import numpy as np

from hardware.kernels import compiled


@compiled
def attention(rng, w, rate, omega, positional, steps):  # type: ignore[no-untyped-def]
    """Overlaps (m, e) of softmax(s sᵀ), s = w·(x ± p), on two tokens, w `(d,)`, after each of `steps`."""
    d = len(w)
    w = w.copy()
    x = np.empty((2, d))
    found = np.empty((len(steps), 2))
    done = 0
    for k in range(len(steps)):
        while done < steps[k]:
            s0, s1 = w[1], -w[1]
            for i in range(d):
                x[0, i], x[1, i] = rng.standard_normal(), rng.standard_normal()
                s0 += w[i] * x[0, i]
                s1 += w[i] * x[1, i]
            t0, t1 = x[0, 0], x[1, 0]
            own0 = 1 / (1 + math.exp(-s0 * (s0 - s1)))
            own1 = 1 / (1 + math.exp(-s1 * (s1 - s0)))
            error0 = own0 - (1 - omega) / (1 + math.exp(-t0 * (t0 - t1))) - omega * positional
            error1 = own1 - (1 - omega) / (1 + math.exp(-t1 * (t1 - t0))) - omega * positional
            pull0 = 2 * error0 * own0 * (1 - own0)
            pull1 = 2 * error1 * own1 * (1 - own1)
            by0 = pull0 * (2 * s0 - s1) - pull1 * s1
            by1 = pull1 * (2 * s1 - s0) - pull0 * s0
            w[1] -= rate / d * (by0 - by1)
            norm = 0.0
            for i in range(d):
                w[i] -= rate / d * (by0 * x[0, i] + by1 * x[1, i])
                norm += w[i] * w[i]
            w /= math.sqrt(norm)
            done += 1
        found[k, 0], found[k, 1] = w[0], w[1]
    return found


@compiled
def forward(rng, w, rate, order, mean, tied, steps):  # type: ignore[no-untyped-def]
    """The mean overlap (m,) of h_k(Σ_l w_l·x_l/√L), w `(L, d)`, after each of `steps`; tied, w_l are all w_0."""
    tokens, d = w.shape
    w = w.copy()
    if tied:
        for token in range(tokens):
            w[token] = w[0]
    x = np.empty((tokens, d))
    found = np.empty((len(steps), 1))
    root = math.sqrt(tokens)
    done = 0
    for k in range(len(steps)):
        while done < steps[k]:
            s, t, y = 0.0, 0.0, 0.0
            for token in range(tokens):
                for i in range(d):
                    x[token, i] = rng.standard_normal()
                    s += w[token, i] * x[token, i]
                t += x[token, 0]
                y += _polynomial(x[token, 0], order)
            s, t, y = s / root, t / root, y / root
            if mean:
                y = _polynomial(t, order)
            pull = (_polynomial(s, order) - y) * math.sqrt(order) * _polynomial(s, order - 1)
            step = rate / d * pull / root
            norm = 0.0
            if tied:
                for i in range(d):
                    total = 0.0
                    for token in range(tokens):
                        total += x[token, i]
                    w[0, i] -= step * total
                    norm += w[0, i] * w[0, i]
                for token in range(1, tokens):
                    w[token] = w[0]
                w /= math.sqrt(norm)
            else:
                for token in range(tokens):
                    for i in range(d):
                        w[token, i] -= step * x[token, i]
                        norm += w[token, i] * w[token, i]
                w *= math.sqrt(tokens / norm)
            done += 1
        found[k, 0] = w[:, 0].mean()
    return found


@compiled
def _polynomial(x, order):  # type: ignore[no-untyped-def]
    """h_k = He_k/√k! of k from 1 to 3."""
    if order == 1:
        return x
    if order == 2:
        return (x * x - 1) / math.sqrt(2)
    return (x * x * x - 3 * x) / math.sqrt(6)
