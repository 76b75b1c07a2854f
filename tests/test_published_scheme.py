"""The published scheme, replayed: its nodes, its map against the twins, its thresholds."""

import json
import math

import numpy as np
import pytest
import reference

from gamp_theory import AttentionModel, Overlaps, solve
from gamp_theory.observables import linear_error, test_error
from validation import published_scheme as scheme
from validation.reproduce.published import THRESHOLDS

STATE = np.array([0.0816248, 0.05, 18.3211, 0.117926])
ALPHA, LAM = 1.25, 0.01


def test_the_rule_is_of_degree_seven():
    nodes, weights = scheme.stroud_degree_7()
    moment = {0: 1, 1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15, 7: 0}
    for i in range(8):
        for j in range(8 - i):
            got = weights @ (nodes[:, 0] ** i * nodes[:, 1] ** j)
            assert got == pytest.approx(moment[i] * moment[j], abs=1e-12)


@pytest.mark.parametrize("prox", [scheme.local_prox, scheme.global_proxes])
def test_the_map_is_that_of_the_twins_at_its_nodes(prox):
    model = AttentionModel.mixture()
    nodes, weights = scheme.stroud_degree_7()
    xi, eta = np.repeat(nodes, 12, axis=0), np.tile(nodes, (12, 1))
    weight = np.outer(weights, weights).ravel()
    q_hat, m_hat, V_hat, theta_hat, loss = (weight @ reference.averages(xi, eta, STATE, model))[:5]
    hats = ALPHA * np.array([q_hat, m_hat, V_hat, theta_hat])
    image, train_loss = scheme.scheme_map(model, STATE, ALPHA, LAM, prox)
    # BFGS stops at gradients of 1e-5
    assert image == pytest.approx(reference.prior_map(*hats, model.sigma, LAM), rel=1e-3)
    ridge = LAM * STATE[0] / (2 * model.rho)
    assert train_loss == pytest.approx(ALPHA * loss + ridge, rel=1e-3)


@pytest.mark.parametrize("omega", [0.0, 0.1, 0.3])
def test_the_local_prox_is_the_global_one_on_all_nodes(omega):
    model = AttentionModel.mixture(omega=omega)
    x = solve(model, ALPHA, LAM, "semantic", 1e-3, with_stability=False).overlaps.as_array()
    _, w, _, y, _ = scheme._fields(model, x)
    t = scheme._targets(model, y)
    local, everywhere = (
        prox(w, t, x[2], model.sigma) for prox in (scheme.local_prox, scheme.global_proxes)
    )
    assert np.max(abs(local - everywhere)) < 1e-3


def test_errors_without_a_prox():
    model = AttentionModel.mixture()
    nodes, weights = scheme.stroud_degree_7()
    xi, eta = np.repeat(nodes, 12, axis=0), np.tile(nodes, (12, 1))
    weight = np.outer(weights, weights).ravel()
    exact = test_error(model, Overlaps(*STATE))
    by_rule = scheme.rule_test_error(model, STATE)
    assert by_rule == pytest.approx(weight @ reference.test_error(xi, eta, STATE, model), rel=1e-12)
    assert by_rule == pytest.approx(exact, rel=0.05)
    # narrow fields make the contrasts polynomials of degree two, which the rule has exactly
    narrow = AttentionModel.mixture(sigma=0.05)
    assert scheme.rule_linear_error(narrow) == pytest.approx(linear_error(narrow), rel=1e-4)
    assert abs(scheme.rule_linear_error(model) / linear_error(model) - 1) > 0.01


def test_a_solve_ends_where_the_map_stands_still():
    model = AttentionModel.mixture()
    semantic = STATE * np.array([1, 0, 1, 1])
    x, loss, maps = scheme.scheme_solve(model, semantic, ALPHA, LAM, scheme.global_proxes, 1e-8)
    image, again = scheme.scheme_map(model, x, ALPHA, LAM, scheme.global_proxes)
    assert maps < 300
    assert image == pytest.approx(x, rel=1e-6, abs=1e-9)
    assert loss == pytest.approx(again, rel=1e-6)
    # known of the published tables at this point: theta = .1217, V = 17.27
    assert x[3] == pytest.approx(0.1217, rel=2e-3)
    assert x[2] == pytest.approx(17.27, rel=2e-3)


def test_the_record_reproduces_the_published_baseline_crossings():
    record = json.loads(scheme.RESULTS.read_text(encoding="utf-8"))
    assert {row["omega"]: row["published"] for row in record["alpha_l"]} == THRESHOLDS["alpha_l"]
    for row in record["alpha_l"]:
        assert abs(row["and_baseline"] / row["published"] - 1) < 0.01
        assert abs(row["ours"] / row["published"] - 1) > 0.02
        assert math.isclose(row["and_baseline"], row["global_prox"], rel_tol=5e-4)
    assert {row["omega"]: row["published"] for row in record["alpha_c"]} == THRESHOLDS["alpha_c"]
    assert all(0.003 < row["gap"] < 0.012 for row in record["alpha_c"])
