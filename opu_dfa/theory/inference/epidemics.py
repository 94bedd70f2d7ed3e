"""Who is infected, given contacts and tests: belief propagation, mean field and contact tracing for an SIR epidemic.

Node i is infected on day t_i (0: from the start, T + 1: not by day T), infectious on days t_i, ..., r_i - 1. A contact
on day s with an infectious node infects a susceptible one with probability λ, from day s + 1 on; a recovery comes with
probability μ a day. Seeds are infected independently of each other. Node i escapes its neighbour k up to day t,
t_i > t, with

    S_k(t; t_k, r_k) = (1 - λ)^{contacts of i and k on days t_k, ..., min(r_k, t) - 1}

so that P(t_i | all t_k, r_k) = Π_k S_k(t_i - 1) - Π_k S_k(t_i), a difference of two products. Belief propagation needs
of each neighbour, for every (t_i, r_i), the means of these two factors: the messages here; it is exact on trees.
"""

from __future__ import annotations

import numpy as np

from hardware.kernels import compiled
from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.iterate import History, iterate
from opu_dfa.theory.inference.outbreaks import Contacts, Epidemic, Observations

Array = np.ndarray
_NEVER = 1 << 20  # a day that does not come
_OUTSIDE = 1e-6  # infections a day from nowhere: without, messages on loops may come to exclude what was seen


def mean_field(model: Epidemic, contacts: Contacts, seen: Observations, look_back: int = 7) -> Array:
    """P(infectious) on the last day `(nodes,)`, of nodes independent each day, reset by tests.

    P_S(t+1) = P_S(t) Π_j (1 - λ P_I^j(t)) and P_R grows by μ P_I; P_I = 1 for `look_back` days before a positive test,
    P_S = 1 up to a negative one.
    """
    days, n = contacts.days, contacts.nodes
    clean, ill_from, ill_to = np.full(n, -1), np.full(n, _NEVER), np.full(n, -1)
    np.maximum.at(clean, seen.nodes[~seen.positive], seen.days[~seen.positive])
    nodes = np.concatenate([seen.nodes[seen.positive], np.flatnonzero(seen.reports >= 0)])
    when = np.concatenate([seen.days[seen.positive], seen.reports[seen.reports >= 0]])
    np.minimum.at(ill_from, nodes, np.maximum(when - look_back, 0))
    np.maximum.at(ill_to, nodes, when)
    clean = np.where(ill_to >= 0, np.minimum(clean, ill_to - 1), clean)
    ill_from = np.maximum(ill_from, clean + 1)
    s, r = np.full(n, 1 - model.seed), np.zeros(n)
    for day in range(days + 1):
        s, r = np.where(day <= clean, 1.0, s), np.where(day <= clean, 0.0, r)
        ill = (ill_from <= day) & (day <= ill_to)
        s, r = np.where(ill, 0.0, s), np.where(ill, 0.0, r)
        infectious = 1 - s - r
        if day == days:
            break
        pairs = contacts.pairs[contacts.active[day]]
        escape = np.log1p(-model.infection * np.clip(infectious, 0, 1))
        total = np.bincount(pairs[:, 0], escape[pairs[:, 1]], n) + np.bincount(pairs[:, 1], escape[pairs[:, 0]], n)
        s, r = s * np.exp(total), r + model.recovery * infectious
    return np.asarray(np.clip(infectious, 0, 1))


def tracing(contacts: Contacts, seen: Observations, window: int = 5) -> Array:
    """The number of contacts with known cases in the last days `(nodes,)`."""
    known = seen.known.astype(np.float64)
    recent = contacts.active[max(contacts.days - window, 0) :].sum(axis=0)
    a, b = contacts.pairs.T
    return np.bincount(a, recent * known[b], contacts.nodes) + np.bincount(b, recent * known[a], contacts.nodes)


def expected_auc(score: Array, chance: Array) -> float:
    """The area under the curve of a ranking by score of items that are positive with these independent chances.

    The mean number of pairs of a positive and a negative in the right order, ties for half, over that of all pairs:
    for chances of 0 and 1 the area itself. 1/2 if there is no pair.

    >>> expected_auc(np.array([0.3, 0.2, 0.1]), np.array([1.0, 0.0, 1.0]))
    0.5
    """
    _, place = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(place, chance), np.bincount(place, 1 - chance)
    below = np.cumsum(negative) - negative
    own = float((chance * (1 - chance)).sum())  # an item is no pair with itself
    right = float((positive * (below + negative / 2)).sum()) - own / 2
    pairs = float(positive.sum() * negative.sum()) - own
    return right / pairs if pairs > 0 else 0.5


def likelihood(model: Epidemic, days: int, nodes: int, seen: Observations) -> Array:
    """P(r | t) and of all that was seen, for each node, t and r: `(nodes, days + 2, days + 2)`, in logarithms.

    Of a node that was not reported the chance that a case is not counts too.

    Raises:
        ConfigError: tests or reports after the last day, or that contradict each other.
    """
    if max(seen.days.max(initial=0), seen.reports.max(initial=0)) > days or len(seen.reports) != nodes:
        raise ConfigError(f"tests and reports are of days 0 to {days}, and reports of all {nodes} nodes, -1 for none")
    t, r = np.meshgrid(np.arange(days + 2), np.arange(days + 2), indexing="ij")
    with np.errstate(divide="ignore"):
        stay, leave = np.log(1 - model.recovery), np.log(model.recovery)
        duration = np.where(r <= days, leave + (r - 1 - t) * stay, (days - t) * stay)
        course = np.where((r > t) & (t <= days), duration, -np.inf)
        course[days + 1, days + 1] = 0.0
        out = np.broadcast_to(course, (nodes, *course.shape)).copy()
        unreported = np.where(t + model.delay <= days, np.log(1 - model.reported), 0.0)
        out += np.where((seen.reports < 0)[:, None, None], unreported, 0.0)
        for i in np.flatnonzero(seen.reports >= 0):
            out[i] += np.where(t == seen.reports[i] - model.delay, np.log(model.reported), -np.inf)
    for i, day, positive in zip(seen.nodes, seen.days, seen.positive, strict=True):
        out[i][((t <= day) & (day < r)) != positive] = -np.inf
    if (found := np.flatnonzero(np.isneginf(out.max(axis=(1, 2))))).size:
        raise ConfigError(f"no course of an illness has the tests and the report of node {found[0]}; check their days")
    return out


def belief_propagation(
    model: Epidemic,
    contacts: Contacts,
    seen: Observations,
    most: int = 30,
    tolerance: float = 1e-9,
    damping: float = 0.0,
) -> History:
    """Marginals P(t_i, r_i | all that was seen): state[0], `(nodes, days + 2, days + 2)`.

    Nodes are updated one after the other; tolerance: of the mean square by which P(infectious on the last day) changes.
    """
    days, n = contacts.days, contacts.nodes
    if not 0 <= damping < 1:
        raise ConfigError(f"the damping is in [0, 1), got {damping}")
    start, other, back, edge = _directed(contacts)
    counts = np.concatenate([np.zeros((1, len(contacts.pairs)), np.int64), np.cumsum(contacts.active, axis=0)])
    counts = np.ascontiguousarray(np.concatenate([counts, counts[-1:]]).T)
    local = np.exp(likelihood(model, days, n, seen))
    powers = (1 - model.infection) ** np.arange(days + 1)
    # To begin with every neighbour may have infected a little: two equal products would leave no day of infection.
    until = np.clip(np.arange(days + 2) + np.array([[-1], [0]]), 0, days)
    guess = (1 - model.infection * model.seed) ** counts[edge][:, until]
    messages = np.repeat(guess[..., None], days + 2, axis=3)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        beliefs = np.zeros_like(local)
        _update(messages, beliefs, local, start, other, back, edge, counts, powers, model.seed, damping)
        return beliefs[:, : days + 1, days + 1].sum(axis=1), beliefs

    history = iterate(step, (np.zeros(n), local), most=most, tolerance=tolerance)
    return history


def _directed(contacts: Contacts) -> tuple[Array, Array, Array, Array]:
    """Neighbours of each node, other[start[i] : start[i+1]], the place of the reverse of each, and its pair."""
    a, b = contacts.pairs.T
    source, target = np.concatenate([a, b]), np.concatenate([b, a])
    edges = len(a)
    order = np.argsort(source, kind="stable")
    place = np.empty(2 * edges, np.int64)
    place[order] = np.arange(2 * edges)
    reverse = np.concatenate([np.arange(edges, 2 * edges), np.arange(edges)])
    start = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=contacts.nodes))])
    return start, target[order], place[reverse[order]], order % edges


@compiled
def _update(messages, beliefs, local, start, other, back, edge, counts, powers, seed, damping):  # type: ignore[no-untyped-def]
    """One sweep over the nodes. messages[e, h, t, r]: means of S(t - 1 + h), from the neighbour at place e.

    S depends on days by the number of contacts up to them alone, `counts`, of which a pair has few: sums over t and r
    are made over levels of it, L for each.
    """
    states = local.shape[1]
    last = states - 1  # of t: never
    days = last - 1
    levels = counts.max() + 1
    logs, product = np.empty((2, states, states)), np.empty((2, states, states))
    weights = np.empty((2, states, states))
    of_r = np.empty((2, levels))
    pair, fresh = np.empty((levels, levels)), np.empty((levels, levels, levels))
    for i in range(len(local)):
        logs[:] = 0
        product[:] = 1
        for e in range(start[i], start[i + 1]):
            product *= messages[e]
            if (e - start[i]) % 8 == 7 or e == start[i + 1] - 1:  # logarithms are slow, and many factors too small
                logs += np.log(product)
                product[:] = 1
        for t in range(1, states):
            logs[0, t] -= _OUTSIDE * (t - 1)
            logs[1, t] -= _OUTSIDE * t
        top = logs[0].max()
        weights[:] = 0
        for t in range(states):
            prior = seed if t == 0 else 1 - seed
            for r in range(min(t + 1, last), states):
                weights[0, t, r] = prior * local[i, t, r] * np.exp(logs[0, t, r] - top)
                if 0 < t < last:
                    weights[1, t, r] = prior * local[i, t, r] * np.exp(logs[1, t, r] - top)
        beliefs[i] = np.maximum(weights[0] - weights[1], 0)
        beliefs[i] /= beliefs[i].sum()
        for e in range(start[i], start[i + 1]):
            count = counts[edge[e]]
            m = count[days] + 1
            # pair[b, u] = Σ over t of contacts b before them, and r, of the cavity's weights times S_i(u; t, r)
            pair[:m, :m] = 0
            for t in range(states):
                of_r[:, :m] = 0
                for r in range(min(t + 1, last), states):
                    of_r[0, count[r]] += weights[0, t, r] / messages[e, 0, t, r]
                    of_r[1, count[r]] += weights[1, t, r] / messages[e, 1, t, r]
                before = count[min(max(t - 1, 0), days)]
                for u in range(m):
                    for level in range(m):
                        power = powers[min(level, u) - min(count[t], u)] if level >= count[t] else 1.0
                        pair[before, u] += of_r[0, level] * power
                        pair[count[t], u] -= of_r[1, level] * power
            for u in range(m):
                for a in range(m):
                    for b in range(a, m):
                        value = 0.0
                        for level in range(m):
                            value += pair[level, u] * powers[min(b, level) - min(a, level)]
                        fresh[u, a, b] = value
            largest = max(fresh[0, 0, 0], 1e-300)  # who met no one is the likeliest to have infected no one
            out = back[e]
            for t in range(states):
                for h in range(2):
                    u = count[min(max(t - 1 + h, 0), days)]
                    for r in range(min(t + 1, last), states):
                        value = min(max(fresh[u, count[t], count[r]] / largest, 1e-30), 1e30)
                        messages[out, h, t, r] = (1 - damping) * value + damping * messages[out, h, t, r]
