"""Q = 0 of the general model: against two tokens, the map, Hessians at finite d, and by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
from command import run, run_json

from gamp_theory import (
    AttentionModel,
    ConvergenceError,
    GeneralModel,
    JointLaw,
    follow,
    solve,
    token_origin,
)
from gamp_theory.channel.general import general_rule
from gamp_theory.channel.origin import solve_origin
from gamp_theory.empirical.token_task import draw_token_task
from gamp_theory.result import Status
from gamp_theory.token_branches import trace_general
from gamp_theory.token_map import TokenMap
from gamp_theory.token_mechanisms import (
    FixedMixture,
    LinearAttention,
    RowSoftmax,
    SympyMechanism,
)
from gamp_theory.token_origin import _Origin, solve_token_origin
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_prior import token_prior_overlaps

PAIR = AttentionModel.mixture()
A3 = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.5, 0.5]]
# tokens of their own covariances; positions and teacher correlated, differently in the two atoms
CORRELATED = JointLaw(
    [0.4, 0.6],
    [[0.2, 0.3, 0.25], [0.3, 0.25, 0.35]],
    np.array([0.8 * np.eye(5) + 0.1, 1.1 * np.eye(5) - 0.05]),
)
THREE = JointLaw.isotropic([0.5, 0.4, 0.6], [[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]])


def three(rank=1, law=THREE, **options):
    return GeneralModel(FixedMixture(0.3, A3, RowSoftmax(**options)), RowSoftmax(), law, rank)


# ------------------------------------------------------------------------ against two tokens


@pytest.mark.parametrize(("alpha", "lam"), [(1.5, 0.1), (0.5, 0.1), (4.0, 0.3)])
def test_two_tokens_are_the_pair(alpha, lam):
    want = solve_origin(PAIR, alpha, lam)
    found = solve_token_origin(TokenMap(GeneralModel.from_pair(PAIR), alpha, lam), 2**9)
    assert found.exists
    assert found.V_error.max() < 1e-3 * want.V
    assert np.all(abs(found.V - want.V) < 4 * found.V_error)
    assert set(found.growth) == set(want.growth)
    for name, (value, error) in found.growth.items():
        assert 0 < error < 0.02 * want.growth[name]
        assert abs(value - want.growth[name]) < 4 * error
    assert abs(found.loss - want.test_error) < 4 * found.loss_error
    # the strongest draw is a corner of what the target attains
    assert found.margin == pytest.approx(1 - want.V / want.bound, abs=1e-3)


def test_errors_are_those_of_other_scrambles():
    """The same with sixteen other seeds: their scatter is that of the error bars."""
    map_ = TokenMap(GeneralModel.from_pair(PAIR), 1.5, 0.1)
    want = solve_origin(PAIR, 1.5, 0.1)
    found = [solve_token_origin(map_, 2**6, seed=seed) for seed in range(16)]
    z = [(one.V[0, 0, 0] - want.V) / one.V_error[0, 0, 0] for one in found]
    z += [(one.growth[name][0] - want.growth[name]) / one.growth[name][1]
          for one in found for name in ("q", "m", "theta")]  # fmt: skip
    assert abs(np.mean(z)) < 0.6
    assert 0.6 < np.std(z) < 1.6


@pytest.mark.parametrize(("alpha", "lam"), [(0.5, 0.05), (1.5, 0.01)])
def test_where_the_pair_has_none_there_is_none(alpha, lam):
    assert not solve_origin(PAIR, alpha, lam).exists
    point = solve(GeneralModel.from_pair(PAIR), alpha, lam, "zero", on_failure="return")
    assert point.status is Status.DOES_NOT_EXIST
    assert math.isnan(point.train_loss)
    assert not np.any(point.overlaps.q)
    with pytest.raises(ConvergenceError, match="no such fixed point"):
        solve(GeneralModel.from_pair(PAIR), alpha, lam, "zero")


# ------------------------------------------------------------------------ against the map itself


@pytest.mark.parametrize("law", [CORRELATED, THREE])
def test_growth_is_that_of_a_small_step_of_the_map(law):
    """Rank two, three tokens: m and theta in a random direction, and q, all of order 1e-3."""
    model = three(2, law, causal=True)
    alpha, lam, small = 1.5, 0.5, 1e-3
    map_ = TokenMap(model, alpha, lam)
    origin = _Origin(map_, 2**9, seed=0)
    V = origin.solve().V
    sums = origin.rule.sums(V).mean()
    coordinates, where = map_.coordinates, map_.coordinates.slices
    fields = np.r_[where["m"], where["theta"]]
    x = np.zeros(coordinates.size)
    x[fields] = small * np.random.default_rng(0).standard_normal(fields.size)
    state = coordinates.unpack(x)

    def image(q, m, theta):
        overlaps = TokenOverlaps(q, m, V, theta)
        averages = general_rule(model, overlaps, 2**9, audit=False).averages(overlaps)
        return token_prior_overlaps(law, averages.conjugates(alpha), lam)

    there = image(state.q + 1e-6 * np.eye(2), state.m, state.theta)
    got = np.append(coordinates.basis.T @ there.m, there.theta[coordinates.representatives])
    want = origin.field_response(sums) @ x[fields]
    assert np.max(abs(got - want)) < 0.01 * np.max(abs(want))
    q = 1e-6 * np.array([[[1.0, 0.2], [0.2, 0.3]], [[0.5, 0.0], [0.0, 1.0]], np.eye(2)])
    got = image(q, 0 * state.m, 0 * state.theta).q
    want = (origin.response(sums) @ q.ravel()).reshape(q.shape)
    assert np.max(abs(got - want)) < 0.01 * np.max(abs(want))


def test_directions_that_mix_are_one():
    found = solve_token_origin(TokenMap(three(1, CORRELATED), 1.5, 0.5), 2**6)
    assert set(found.growth) == {"q", "m and theta"}
    assert found.stability().transverse == {}


# ------------------------------------------------------------------------ against finite dimension


def test_the_response_is_the_trace_of_the_inverse_hessian():
    """``V_l = (1/d) sum_i gamma_li (hess R)^-1_ii`` at Q = 0, where nothing jumps."""
    model, d, alpha, lam = three(), 250, 1.5, 0.4
    point = solve(model, alpha, lam, "zero")
    found, lowest = [], []
    for seed in range(3):
        task = draw_token_task(model, d, alpha, lam, seed)
        step = 1e-4  # R is even, and its fourth order small
        rows = [task.risk_and_gradient(step * e[:, None])[1][:, 0] / step for e in np.eye(d)]
        hessian = np.array(rows)
        lowest.append(float(np.linalg.eigvalsh(0.5 * (hessian + hessian.T))[0]))
        found.append(task.gamma.T @ np.diag(np.linalg.inv(hessian)) / d)
    assert np.mean(found, axis=0) == pytest.approx(point.overlaps.V.ravel(), rel=0.01)
    assert min(lowest) > 0
    assert point.stability.stable  # as the Hessians are positive


# ------------------------------------------------------------------------ where there is none


def test_pulls_without_bound_leave_no_solution():
    """A linear target: some draw is strong enough at any V."""
    model = GeneralModel(LinearAttention(), RowSoftmax(), JointLaw.isotropic(0.5, [[1.0], [-1.0]]))
    found = solve_token_origin(TokenMap(model, 0.5, 10.0), 2**6)
    assert found.status is Status.DOES_NOT_EXIST
    assert found.margin < 0


def test_a_minimum_elsewhere_is_seen():
    """No curvature at rest at all, and a well that is deeper all the same where V is large."""
    h = sympy.symbols("h0:2")
    bump = [[sympy.tanh((a * b) ** 2) for b in h] for a in h]
    student = SympyMechanism(bump, [[x] for x in h])
    law = JointLaw.isotropic(1.0, [[1.0], [-1.0]])
    model = GeneralModel(FixedMixture(1.0, [[0.5, 0.5], [0.5, 0.5]]), student, law)
    assert not solve_token_origin(TokenMap(model, 1.0, 0.01), 2**6).exists
    far = solve_token_origin(TokenMap(model, 1.0, 100.0), 2**6)
    assert far.exists
    assert far.growth["q"][0] == 0
    assert np.allclose(far.V, 0.01)


def test_maps_that_are_used_up_are_said(monkeypatch):
    monkeypatch.setattr(token_origin, "MAPS", 1)
    point = solve(three(), 1.5, 0.4, "zero", on_failure="return")
    assert point.status is Status.ITERATION_LIMIT


def test_a_student_that_is_not_flat_is_refused():
    h = sympy.symbols("h0:2")
    student = SympyMechanism([[sympy.tanh(a) for b in h] for a in h], [[x] for x in h])
    law = JointLaw.isotropic(0.5, [[1.0], [-1.0]])
    model = GeneralModel(FixedMixture(0.3), student, law)
    assert not model.flat_student
    with pytest.raises(ValueError, match="zero needs a student whose attention does not change"):
        solve(model, 1.5, 0.1, "zero")


# -------------------------------------------------------------------- through the same functions


def test_more_accuracy_takes_more_draws():
    model = three()
    rough, fine = (solve(model, 1.5, 0.4, "zero", tol=tol) for tol in (1e-2, 3e-4))
    assert fine.samples > rough.samples
    assert fine.errors.V.max() < 3e-4 * fine.overlaps.V.max()
    assert np.all(abs(fine.overlaps.V - rough.overlaps.V) < 4 * rough.errors.V)
    assert fine.train_loss == pytest.approx(1.5 * 1.5 * fine.test_error)  # alpha L/2 of it


def test_points_at_zero_are_solved_one_by_one():
    points = trace_general(three(), [1.5, 1.2], 0.4, "zero")
    assert [point.alpha for point in points] == [1.5, 1.2]
    assert all(point.converged and point.branch == "zero" for point in points)
    assert points[0].train_loss > points[1].train_loss
    with pytest.raises(ValueError, match="Q = 0 is no branch to be followed"):
        follow(points[0], "alpha", 1.2)


def test_that_there_is_none_is_said_on_the_command_line(capsys):
    code, out, _ = run(capsys, "solve", "--alpha", "1", "--rank", "2", "--branch", "zero")
    assert code == 0
    assert out.splitlines()[0].endswith("does_not_exist")
    assert "no such fixed point here" in out
    assert "nan" not in out


def test_from_the_command_line(capsys):
    target = ";".join(",".join(map(str, row)) for row in A3)
    command = ["solve", "--alpha", "1.5", "--lam", "0.4", "--tokens", "3", "--target", target]
    code, document = run_json(capsys, *command, "--branch", "zero")
    assert code == 0
    (point,) = document["points"]
    assert (point["branch"], point["status"]) == ("zero", "converged")
    assert point["overlaps"]["q"] == [[[0.0]]] * 3
    assert 0 < point["stability"]["transverse"]["m"] < 1
    assert point["stability"]["transverse_error"]["m"] > 0
