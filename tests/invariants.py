"""What holds on every branch, whatever it is a branch of: called on each that a test makes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gamp_theory.branch_result import INTERVAL, Branch
from gamp_theory.channel.pair import PairChannel
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.state_evolution import Solver

#: A rule for checks is this much finer than that of the point.
FINER = 0.2
#: Eigenvalues closer to 1 than this may be judged either way: those of a branch belong to the
#: prediction of its points, and come from a coarse rule.
CLOSE = 0.03


def check_branch(branch: Branch, every: int = 3) -> None:
    """All invariants; the costly ones on every `every`-th point."""
    check_order(branch)
    check_special(branch)
    for point in branch.points[::every]:
        check_residual(point)
        check_spectrum(point)


def check_residual(point) -> None:
    """It is a fixed point, to its tolerance, of a map with a finer rule than its own."""
    x = point.overlaps.as_array()
    rule = PairChannel(point.model).rule(point.overlaps, FINER * point.quadrature_tol)
    hats = rule.averages(point.overlaps).conjugates(point.alpha).as_array()
    image = prior_map(point.model.rho, hats, point.lam)
    inside = x != 0
    assert np.all(image[~inside] == 0)
    assert np.max(abs(image[inside] / x[inside] - 1)) <= point.tol


def check_spectrum(point) -> None:
    """Stability is that of a Jacobian made anew, by central differences at the point itself."""
    solver = Solver(point.model, point.alpha, point.lam, "given", point.tol, 1.0, 1.0, True)
    fresh = solver.jacobian(point.overlaps.as_array())
    values = np.sort(np.linalg.eigvals(fresh.matrix).real)
    known = np.sort(np.array(point.stability.eigenvalues).real)
    assert np.max(abs(values - known) / (1 + abs(values))) < CLOSE
    for name, value in fresh.transverse.items():
        if value is None:
            assert point.stability.transverse[name] is None
        else:
            assert abs(value - point.stability.transverse[name]) < CLOSE * (1 + abs(value))
    if np.min(abs(values - 1)) > CLOSE:
        assert point.stability.stable == bool(np.all(values < 1))


def check_order(branch: Branch) -> None:
    """Tangents lead from point to point, in one subspace, and turn back at folds alone."""
    subspaces = {tuple(point.overlaps.as_array() == 0) for point in branch.points}
    assert len(subspaces) == 1
    assert branch.tangents.shape == (len(branch.points), 5)
    folds = {special.after for special in branch.of_kind("fold")}
    values = branch.values
    for i, (left, right) in enumerate(pairwise(branch.points)):
        chord = right.overlaps.as_array() - left.overlaps.as_array()
        move = branch.tangents[i][:4]
        largest = int(np.argmax(abs(chord) / (abs(left.overlaps.as_array()) + 1e-12)))
        if i not in folds and i - 1 not in folds:
            assert chord[largest] * move[largest] > 0
            assert (values[i + 1] - values[i]) * branch.tangents[i][4] > 0


def check_special(branch: Branch) -> None:
    """Each inside its interval, and a sign of the determinants changes just there."""
    for special in branch.special:
        lo, hi = special.interval
        assert lo <= special.value <= hi
        assert hi - lo >= INTERVAL * special.error
        assert np.isfinite(special.error)
        if special.kind == "pitchfork":
            # a step across a fold reaches up to it
            turns = [fold.value for fold in branch.of_kind("fold") if fold.after == special.after]
            ends = sorted([*branch.values[special.after : special.after + 2], *turns])
            slack = 0.2 * (ends[-1] - ends[0])
            assert ends[0] - slack <= special.value <= ends[-1] + slack
            assert getattr(special.point.overlaps, special.direction) == 0
            assert abs(special.point.stability.transverse[special.direction] - 1) < CLOSE
    signs = [inside_sign(point) for point in branch.points]
    folds = {special.after for special in branch.of_kind("fold")}
    for i, (left, right) in enumerate(pairwise(signs)):
        if 0 not in (left, right):
            assert (left != right) == (i in folds)
    for name in ("m", "theta"):
        transverse = [point.stability.transverse[name] for point in branch.points]
        crossed = {s.after for s in branch.of_kind("pitchfork") if s.direction == name}
        for i, (left, right) in enumerate(pairwise(transverse)):
            if left is not None and min(abs(left - 1), abs(right - 1)) > CLOSE:
                assert ((left < 1) != (right < 1)) == (i in crossed)


def inside_sign(point) -> int:
    """Sign of ``det(1 - J)`` in the subspace; 0 where it is close to 0."""
    inside = [
        i
        for i, name in enumerate(("q", "m", "V", "theta"))
        if point.stability.transverse.get(name) is None
    ]
    outside = [v for v in point.stability.transverse.values() if v is not None]
    values = list(point.stability.eigenvalues)
    for value in outside:  # what is left are those inside
        values.remove(min(values, key=lambda e: abs(e - value)))
    assert len(values) == len(inside)
    if min(abs(e - 1) for e in values) < CLOSE:
        return 0
    return int(np.sign(np.prod([1 - e for e in values]).real))


def overlaps_close(one: Overlaps, other: Overlaps, rel: float) -> bool:
    """Whether two states are equal up to a relative difference."""
    x, y = one.as_array(), other.as_array()
    return bool(np.all(abs(x - y) <= rel * (abs(x) + 1e-12)))
