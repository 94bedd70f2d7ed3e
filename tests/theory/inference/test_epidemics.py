"""Epidemics on contacts: belief propagation against enumeration on a tree, rankings against reference numbers."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.epidemics import belief_propagation, expected_auc, likelihood, mean_field, tracing
from opu_dfa.theory.inference.outbreaks import Contacts, Epidemic, Observations, Outbreak, ring_contacts


def observed(nodes, *made, reports=None):
    """Observations of (node, day, positive)."""
    who, day, positive = (np.array(v) for v in zip(*made, strict=True)) if made else (np.zeros(0, int),) * 3
    return Observations(who, day, positive.astype(bool), np.full(nodes, -1) if reports is None else np.array(reports))


def enumerated(model, contacts, seen):
    """Marginals by the sum over all days of infection and recovery of all nodes, contact by contact."""
    days, n = contacts.days, contacts.nodes
    courses = [(t, r) for t in range(days + 1) for r in range(t + 1, days + 2)] + [(days + 1, days + 1)]
    chance = np.exp(likelihood(model, days, n, seen))
    marginals = np.zeros((n, days + 2, days + 2))
    for x in itertools.product(courses, repeat=n):
        p = np.prod([chance[i][x[i]] for i in range(n)])
        for i in range(n if p else 0):
            escape = np.ones(days + 1)  # up to each day
            for (a, b), meets in zip(contacts.pairs, contacts.active.T, strict=True):
                if i in (a, b):
                    t, r = x[b if a == i else a]
                    for day in np.flatnonzero(meets):
                        escape[day + 1 :] *= 1 - model.infection * (t <= day < r)
            t = x[i][0]
            born = escape[days] if t > days else escape[max(t - 1, 0)] - escape[t]
            p *= model.seed if t == 0 else (1 - model.seed) * born
        if p:
            for i in range(n):
                marginals[i][x[i]] += p
    return marginals / marginals[0].sum()


@pytest.mark.parametrize(
    ("made", "reports"),
    [
        ((), None),
        (((2, 3, True), (3, 1, False)), None),
        (((1, 2, False),), [-1, -1, 2, -1]),
        (((0, 3, True), (3, 3, True), (1, 1, False)), None),
    ],
)
def test_belief_propagation_is_exact_on_a_tree(made, reports):
    rng = np.random.default_rng(0)
    model = Epidemic(infection=0.4, recovery=0.2, seed=0.1, reported=0.5, delay=1)
    contacts = Contacts(4, np.array([[0, 1], [1, 2], [1, 3]]), rng.random((3, 3)) < 0.7)
    seen = observed(4, *made, reports=reports)
    history = belief_propagation(model, contacts, seen)
    assert history.converged
    # to the 1e-6 a day that come from nowhere, over the chance of what was seen
    assert np.allclose(history.state[1], enumerated(model, contacts, seen), atol=3e-4)


def test_a_chain_of_certain_contacts_is_a_product():
    """Node 1 meets a node 0 that was infectious on day 0 once: P = λ, and node 2, a day later, λ²."""
    model = Epidemic(infection=0.3, recovery=0.0, seed=1e-3, reported=0.0)
    contacts = Contacts(3, np.array([[0, 1], [1, 2]]), np.array([[True, False], [False, True]]))
    risk = belief_propagation(model, contacts, observed(3, (0, 0, True))).state[0]
    assert risk == pytest.approx([1, 0.3, 0.09], abs=3e-3)
    assert mean_field(model, contacts, observed(3, (0, 0, True))) == pytest.approx([1, 0.3, 0.09], abs=3e-3)


def test_courses_of_an_illness_are_a_probability():
    model = Epidemic(recovery=0.3, reported=0.0)
    chance = np.exp(likelihood(model, 6, 1, observed(1)))[0]
    assert chance.sum(axis=1) == pytest.approx(np.ones(8))
    assert chance[2, 4] == pytest.approx(0.7 * 0.3)
    assert chance[2, 7] == pytest.approx(0.7**4)
    infectious = np.exp(likelihood(model, 6, 1, observed(1, (0, 3, True))))[0]
    assert infectious[3, 4] > 0
    assert infectious[4].sum() == infectious[1, 3] == 0


def test_an_outbreak_infects_and_reports_as_its_probabilities_say():
    """2000 nodes that each meet the one infectious node three times in two days."""
    model = Epidemic(infection=0.2, recovery=0.0, seed=1e-9, reported=0.4, delay=2)
    outbreak = Outbreak(model, 2001, np.random.default_rng(3))
    outbreak.infected[0] = 0
    meeting = np.stack([np.zeros(2000, int), np.arange(1, 2001)], axis=1)
    outbreak.advance(np.concatenate([meeting, meeting]))
    first = (outbreak.infected[1:] == 1).mean()
    outbreak.advance(meeting)
    ever = (outbreak.infected[1:] <= 2).mean()
    for found, p in ((first, 1 - 0.8**2), (ever, 1 - 0.8**3)):
        assert abs(found - p) < 4 * math.sqrt(p * (1 - p) / 2000)
    outbreak.advance(meeting[:0])
    reports = outbreak.reports()
    assert set(reports[reports >= 0]) <= {2, 3}
    assert abs((reports == 3).sum() / (outbreak.infected == 1).sum() - 0.4) < 0.08


def test_tests_reset_the_mean_field():
    model, contacts = Epidemic(0.1, 0.0, 0.01), Contacts(3, np.array([[0, 1]]), np.zeros((6, 1), bool))
    risk = mean_field(model, contacts, observed(3, (0, 6, True), (1, 6, False)))
    assert risk == pytest.approx([1, 0, 0.01])
    assert observed(3, (0, 6, True), (1, 6, False), reports=[-1, -1, 4]).known.tolist() == [True, False, True]


def test_tracing_counts_recent_contacts_with_known_cases():
    active = np.zeros((8, 2), bool)
    active[[0, 4, 6]] = True
    contacts = Contacts(3, np.array([[0, 1], [1, 2]]), active)
    assert tracing(contacts, observed(3, (0, 3, True), (2, 3, False))).tolist() == [0, 2, 0]


def test_the_expected_area_is_that_of_a_ranking_of_known_outcomes():
    rng = np.random.default_rng(4)
    score, label = rng.integers(0, 5, 60), rng.random(60) < 0.3
    assert expected_auc(score, label.astype(float)) == pytest.approx(roc_auc_score(label, score))
    chance = rng.random(60)
    pairs = np.outer(chance, 1 - chance) * (1 - np.eye(60))
    order = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    assert expected_auc(score, chance) == pytest.approx((pairs * order).sum() / pairs.sum())
    assert expected_auc(score, np.zeros(60)) == 0.5


def _areas(infection, nodes, seeds, instances):
    """AUC of mean field and tracing among nodes not known, of the reference's epidemic of 18 days."""
    model, found = Epidemic(infection, 0.05, seeds / nodes), []
    for seed in range(instances):
        rng = np.random.default_rng(seed)
        contacts, outbreak, made = ring_contacts(nodes, 24, 60, 1 / 3, 18, rng), Outbreak(model, nodes, rng), []
        outbreak.infected[:] = 1 << 20
        outbreak.infected[rng.choice(nodes, seeds, replace=False)] = 0
        for day in range(18):
            outbreak.advance(contacts.pairs[contacts.active[day]])
            chosen = rng.choice(nodes, 40, replace=False)
            made += [(i, day + 1, ill) for i, ill in zip(chosen, outbreak.infectious()[chosen], strict=True)]
        seen = observed(nodes, *made, reports=outbreak.reports())
        ill, hidden = outbreak.infectious().astype(float), ~seen.known
        scores = mean_field(model, contacts, seen), tracing(contacts, seen)
        found.append([expected_auc(s[hidden], ill[hidden]) for s in scores])
    return np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / math.sqrt(instances)


def test_mean_field_ranks_as_in_reference_while_cases_are_few_and_not_better_than_tracing_later():
    """Reference: mean field .8961(65), tracing .8325(76) at λ = .045; .731 and .732 at λ = .06 of 15 seeds."""
    (field, traced), errors = _areas(0.045, 4000, 8, 6)
    assert abs(field - 0.8961) < 3 * math.hypot(errors[0], 0.0065)
    assert abs(traced - 0.8325) < 3 * math.hypot(errors[1], 0.0076)
    assert field > traced
    (field, traced), errors = _areas(0.06, 3000, 15, 4)
    assert field < traced + 0.02


def test_what_is_out_of_range_is_refused():
    contacts = ring_contacts(20, 2, 3, 0.5, 3, np.random.default_rng(0))
    for call in (
        lambda: Epidemic(infection=1.5),
        lambda: Epidemic(seed=0.0),
        lambda: Epidemic(delay=0),
        lambda: ring_contacts(20, 3, 3, 0.5, 3, np.random.default_rng(0)),
        lambda: ring_contacts(20, 2, 30, 0.5, 3, np.random.default_rng(0)),
        lambda: belief_propagation(Epidemic(), contacts, observed(20), damping=1.0),
        lambda: belief_propagation(Epidemic(), contacts, observed(20, (0, 4, True))),
        lambda: belief_propagation(Epidemic(), contacts, observed(20, (0, 2, True), (0, 2, False))),
        lambda: belief_propagation(Epidemic(), contacts, observed(7)),
    ):
        with pytest.raises(ConfigError):
            call()
