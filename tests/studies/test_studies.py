"""Studies keep their contract, their claims hold of small sweeps, and claims can fail."""

from dataclasses import is_dataclass, replace

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies import load, names

EACH = pytest.mark.parametrize("name", names())


@EACH
def test_theory_and_experiment_are_of_the_same_quantities(name):
    study = load(name)
    point = study.sweep("small")[0]
    assert is_dataclass(point)
    theory, experiment = study.theory(point), study.experiment(point, seed=1)
    assert theory.keys() == experiment.keys()
    assert all(np.shape(theory[key]) == np.shape(experiment[key]) for key in theory)
    again = study.experiment(point, seed=1)
    assert all(np.array_equal(experiment[key], again[key]) for key in experiment)


@EACH
def test_the_small_sweep_is_within_the_paper_s(name):
    study = load(name)
    small, paper = study.sweep("small"), study.sweep("paper")
    assert {p.projection for p in small} == {p.projection for p in paper}
    assert max(p.n_units for p in small) < max(p.n_units for p in paper)


def test_every_nonlinearity_s_reservoir_converges_at_the_rate_of_one_over_n():
    study = load("reservoir-kernel-convergence")
    results = [study.run(point) for point in study.sweep("small")]
    claim = study.claim(results)
    assert claim.holds, claim.detail
    # Of another reservoir than the theory's, the error does not fall, and the claim says so.
    wrong = [replace(r, experiments=tuple({"gram": 2 * e["gram"]} for e in r.experiments)) for r in results]
    assert not study.claim(wrong).holds
    assert len(study.figure(results).axes) == 2


def test_structured_reservoirs_predict_as_dense_ones_do():
    study = load("structured-reservoir")
    points = [replace(p, train=1000, test=300) for p in study.sweep("small") if p.n_units in (64, 448)]
    results = [study.run(point) for point in points]
    claim = study.claim(results)
    assert claim.holds, claim.detail
    worse = [
        replace(r, experiments=tuple({"nrmse": 2 * e["nrmse"]} for e in r.experiments))
        if r.point.projection == "structured"
        else r
        for r in results
    ]
    assert not study.claim(worse).holds
    assert len(study.figure(results).axes) == 1


def test_an_unknown_study_names_those_there_are():
    with pytest.raises(ConfigError, match="no study 'perpetual-motion'; choose one of reservoir-kernel-convergence"):
        load("perpetual-motion")
