"""Codes that are Gaussian random fields: bits x of {±1}^N are sent as V_m(x), m = 1..M, and received with noise.

    y_m = V_m(x) + σ z_m,    E V_m(x) V_m(x') = Φ(x·x'/N),    load R = N / M bits an observation

Theory is the decoupling of N, M → ∞: a bit is as well known as from one observation of precision r,

    q = E tanh(r + √r z),    r = Φ'(q) / (R (σ² + Φ(1) - Φ(q))),
    i(q) = R I(r) + ½ ln(1 + (Φ(1) - Φ(q)) / σ²) - R r (1 - q) / 2,    I(r) = r - E ln cosh(r + √r z) nats,

of which the fixed point with the least i, the mutual information an observation, is the true one. Experiments enumerate
all 2^N words: on the hypercube a field is the Walsh transform of independent normal coefficients, whose variances are
the transform of Φ(1 - 2d/N), d the Hamming distance; so 2^N values cost N 2^N operations for any Φ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import linalg, optimize

from opu_dfa.errors import ConfigError, NotConverged

Array = np.ndarray
_Z = np.arange(-9, 9, 0.04) + 0.02  # tanh(r + √r z) is analytic within π/(2√r) of the real line: 1e-13 at r = 60
_WEIGHTS = np.exp(-_Z * _Z / 2) / np.exp(-_Z * _Z / 2).sum()
_MOST_BITS = 20  # 2^20 words of float32 are 4 MB an observation
_CHUNK = 6  # bits that one product with a Hadamard matrix transforms


@dataclass(frozen=True)
class Field:
    """Φ(q) = (known + (1 - known) q)^power: of the field x^{⊗power}, of whose bits a share is known beforehand.

    power = inf: independent words, Φ(1) = 1 and 0 elsewhere, of which nothing can be known.

    >>> Field(3.0)(0.5), Field(3.0).slope(0.5)
    (0.125, 0.75)
    """

    power: float
    known: float = 0.0

    def __post_init__(self) -> None:
        if not (self.power >= 1 and (self.power == math.inf or self.power % 1 == 0)):
            raise ConfigError(f"the power of a field is 1, 2, 3, ... or inf, got {self.power}")
        if not 0 <= self.known < 1:
            raise ConfigError(f"the share of bits known is in [0, 1), got {self.known}")

    def __call__(self, q: Array | float) -> Array | float:
        if self.power == math.inf:
            return np.where(np.asarray(q) == 1, 1.0, 0.0)
        return (self.known + (1 - self.known) * q) ** self.power

    def slope(self, q: float) -> float:
        """Φ'(q); infinite at q = 1 of independent words."""
        if self.power == math.inf:
            return math.inf if q == 1 else 0.0
        return self.power * (1 - self.known) * (self.known + (1 - self.known) * q) ** (self.power - 1)


@dataclass(frozen=True)
class Decoding:
    """Of a code: overlap q of a bit with its posterior mean, and mutual information, nats an observation.

    Of an experiment also secret, the part that is about the first bits asked for; and density, the information that an
    annealed p(y) = N(0, 1 + σ²) would give, whose mean is the channel's capacity.
    """

    overlap: float
    information: float
    secret: float = 0.0
    density: float = 0.0


def capacity(noise: float) -> float:
    """½ ln(1 + 1/σ²) nats an observation, of the Gaussian channel of noise variance σ²."""
    if not 0 < noise < math.inf:
        raise ConfigError(f"the noise's variance is positive and finite, got {noise}")
    return math.log1p(1 / noise) / 2


def decoding(field: Field, load: float, noise: float) -> Decoding:
    """The Bayes-optimal decoder of infinitely many bits: the fixed point of least information.

    Args:
        load: bits that are not known, an observation.

    Raises:
        ConfigError: load or noise are not positive.
        NotConverged: no fixed point after 100,000 steps.

    >>> round(decoding(Field(1.0), load=1.0, noise=0.25).overlap, 4)  # code division multiple access
    0.7981
    """
    full = capacity(noise)
    if not 0 < load < math.inf:
        raise ConfigError(f"the load N / M is positive and finite, got {load}")
    if field.power == math.inf:
        return Decoding(*((1.0, load * math.log(2)) if load * math.log(2) < full else (0.0, full)))
    return min((_settled(field, load, noise, q) for q in (0.0, 1.0)), key=lambda found: found.information)


def secret(field: Field, load: float, noise: float, share: float) -> float:
    """Information on the first `share` of the bits, nats an observation: I(x; y) - I(x; y | those bits).

    To know a share of the bits makes the field one of the others, Field(power, share), at the load that they have.
    An eavesdropper whose capacity the random bits alone use up, (1 - share) R ln 2 > C, learns nothing of independent
    words: this is random binning.

    >>> secret(Field(np.inf), load=1.4, noise=2.0, share=0.4)
    0.0
    """
    if not 0 <= share < 1 or field.known:
        raise ConfigError(f"the share of secret bits is in [0, 1), and none are known, got {share} and {field}")
    others = field if field.power == math.inf else Field(field.power, share)
    known = decoding(others, load * (1 - share), noise).information
    return decoding(field, load, noise).information - known


def threshold(field: Field, noise: float) -> float:
    """The load R_c at which all bits are lost at once: of C / ln 2 bits an observation for large powers.

    Raises:
        ConfigError: the power is 1 or 2: then bits are lost little by little.

    >>> round(threshold(Field(3.0), noise=0.25), 4)
    1.1645
    """
    if field.power < 3 or field.known:
        raise ConfigError(f"{field} does not jump from all to nothing; take power 3 or more and no bits known")
    most = capacity(noise) / math.log(2)
    if field.power == math.inf:
        return most

    def excess(load: float) -> float:
        return _settled(field, load, noise, 1.0).information - capacity(noise)

    # i(q ≈ 1) is R ln 2 at most, so it is less than C below C / ln 2; above, the branch joins or is lost
    high = most
    while excess(high) < 0:
        high *= 1.02
    return float(optimize.brentq(excess, most / 1.02, high, xtol=1e-12))


def _settled(field: Field, load: float, noise: float, q: float) -> Decoding:
    """The fixed point that the iteration from q, where it is monotone, runs into."""
    for _ in range(100_000):
        r = field.slope(q) / (load * (noise + 1 - float(field(q))))
        before, q = q, min(max(float(_WEIGHTS @ np.tanh(r + math.sqrt(r) * _Z)), 0.0), 1.0)
        if abs(q - before) < 1e-13:
            break
    else:
        raise NotConverged(f"no fixed point of {field} at load {load}: q still moves by {q - before:.1g}", q - before)
    argument = np.abs(r + math.sqrt(r) * _Z)
    bit = r - float(_WEIGHTS @ (argument + np.log1p(np.exp(-2 * argument)))) + math.log(2)
    of_field = math.log1p((1 - float(field(q))) / noise) / 2
    return Decoding(q, load * bit + of_field - load * r * (1 - q) / 2)


def walsh(values: Array) -> Array:
    """Σ_x (-1)^{popcount(s & x)} v(x) for all s, of the last axis, whose length is a power of two.

    >>> walsh(np.array([1.0, 2.0, 3.0, 4.0]))
    array([10., -2., -4.,  0.])
    """
    rows, bits = values.reshape(-1, values.shape[-1]), values.shape[-1].bit_length() - 1
    for done in range(0, bits, _CHUNK):
        matrix = linalg.hadamard(1 << min(_CHUNK, bits - done)).astype(values.dtype)
        blocks = np.ascontiguousarray(rows).reshape(len(rows), len(matrix), -1)
        rows = (matrix @ blocks).swapaxes(1, 2).reshape(len(rows), -1)  # the next bits come to the front
    return np.ascontiguousarray(rows).reshape(values.shape)


@lru_cache(maxsize=8)
def _deviations(field: Field, bits: int) -> Array:
    """Standard deviations of a field's Walsh coefficients."""
    distance = np.array([word.bit_count() for word in range(1 << bits)])
    variances = walsh(np.asarray(field(1 - 2 * distance / bits), dtype=np.float64)) / (1 << bits)
    return np.sqrt(np.maximum(variances, 0)).astype(np.float32)


def enumerated(field: Field, bits: int, observations: int, noise: float, seed: int, secret: int = 0) -> Decoding:
    """One code of N bits, one message and one noise: the posterior by enumeration of all 2^N words.

    information: [ln p(y | x) - ln p(y)] / M, whose mean over seeds is I(x; y | V) / M; secret: the same of the first
    `secret` bits, ln p(y | x_s) - ln p(y).

    Raises:
        ConfigError: bits beyond 2 to 20, no observation, or as many secret bits as there are.

    >>> sent = enumerated(Field(3.0), bits=10, observations=20, noise=0.25, seed=0, secret=5)
    >>> sent.overlap > 0.99, round(sent.information, 3), round(10 / 20 * math.log(2), 3)
    (True, 0.347, 0.347)
    """
    if not (2 <= bits <= _MOST_BITS and observations >= 1 and 0 <= secret < bits and not field.known):
        raise ConfigError(
            f"2 to {_MOST_BITS} bits, an observation or more, fewer secret bits than bits and none known are wanted, "
            f"got {bits=}, {observations=}, {secret=}, {field=}"
        )
    if field.power % 2 == 0:
        raise ConfigError(f"{field} is the same at x and -x, and no overlap is left; take an odd power, or inf")
    capacity(noise)
    rng, words = np.random.default_rng(seed), 1 << bits
    values = walsh(_deviations(field, bits) * rng.standard_normal((observations, words), dtype=np.float32))
    # the field is the same around every word: let 0 be sent, all of whose bits are +1
    z = math.sqrt(noise) * rng.standard_normal(observations)
    y = values[:, 0] + z
    density = float(np.mean(y * y / (2 + 2 * noise) - z * z / (2 * noise))) + capacity(noise)
    energies = ((values - y[:, None].astype(np.float32)) ** 2).sum(axis=0, dtype=np.float64)
    logs = -energies / (2 * noise)
    weights = np.exp(logs - logs.max())
    log_mean = logs.max() + math.log(weights.mean())
    same_secret = logs.max() + math.log(weights[: 1 << (bits - secret)].mean() + 1e-300)
    weights = weights / weights.sum()
    flipped = [float(weights.reshape(-1, 2, 1 << bit)[:, 1].sum()) for bit in range(bits)]
    return Decoding(
        1 - 2 * float(np.mean(flipped)),
        float(logs[0] - log_mean) / observations,
        float(same_secret - log_mean) / observations,
        density,
    )
