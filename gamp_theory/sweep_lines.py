"""The unit of work of a sweep: one branch at all values of alpha, by continuation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from gamp_theory.branches import follow_through
from gamp_theory.grids import no_point, on_branch, point_columns
from gamp_theory.model import AttentionModel
from gamp_theory.result import FixedPoint
from gamp_theory.state_evolution import solve

__all__ = ["LineResult", "Stopped", "solve_line"]


class Stopped(Exception):
    """A line that was given up because its result is not wanted any more."""


class LineResult(NamedTuple):
    """One branch at all values of alpha.

    Attributes
    ----------
    columns : dict of str to list
        The columns of :func:`gamp_theory.grids.point_columns`, a value for each alpha.
    failures : list of str
        What was raised, and where: those points are ``solve_failed`` if nothing else reached them.
    """

    columns: dict[str, list[float | int]]
    failures: list[str]


def solve_line(
    model: AttentionModel,
    alphas: Sequence[float],
    lam: float,
    branch: str,
    tol: float,
    stopped: Callable[[], bool] = lambda: False,
) -> LineResult:
    """A branch at each value of alpha, whatever their order.

    First down from the largest alpha: the named start is asked until it leads to the branch, which
    is then followed as far as it goes, and so on below its end.  Then up: whatever was found is
    followed through the values above at which the start has led elsewhere.  So a branch is found
    wherever it is connected to a place at which its start leads to it.

    Parameters
    ----------
    model : AttentionModel
    alphas : sequence of float
    lam : float
    branch : str
        Named start, and name of the branch.
    tol : float
        As in :func:`gamp_theory.solve`.
    stopped : callable
        Asked after each point whether to give up.

    Returns
    -------
    LineResult
        It depends on the arguments and on nothing else, to the last bit.

    Raises
    ------
    Stopped
        If `stopped` says so; no point raises.
    """
    points: dict[float, FixedPoint] = {}
    failures: list[str] = []

    def keep(point: FixedPoint) -> None:
        if point.alpha not in points or on_branch(point, branch):
            points[point.alpha] = point
        if stopped():
            raise Stopped

    def found(alpha: float) -> bool:
        return alpha in points and on_branch(points[alpha], branch)

    def attempt(alpha: float, work: Callable[..., object], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Stopped:
            raise
        except Exception as error:  # one point is not to take thousands with it
            failures.append(
                f"{work.__name__} {branch}, omega = {model.omega!r}, sigma = {model.sigma!r}, "
                f"lam = {lam!r}, alpha = {alpha!r}: {type(error).__name__}: {error}"
            )

    def ask(alpha: float) -> None:
        keep(solve(model, alpha, lam, branch, tol, on_failure="return"))

    def follow(alpha: float, ahead: Sequence[float]) -> None:
        first = points[alpha]
        if ahead and first.converged and branch != "zero":  # which has no length to follow it by
            follow_through(first, "alpha", ahead, keep)

    up = sorted(alphas)
    down = up[::-1]
    for i, alpha in enumerate(down):
        if alpha not in points:
            attempt(alpha, ask, alpha)
            if found(alpha):
                attempt(alpha, follow, alpha, down[i + 1 :])
    gaps = [
        (below, list(takewhile(lambda alpha: not found(alpha), up[i:])))
        for i, below in enumerate(up[:-1], start=1)
        if found(below) and not found(up[i])
    ]
    for below, gap in gaps:
        attempt(below, follow, below, gap)
    rows = [
        point_columns(points[alpha], branch) if alpha in points else no_point("solve_failed")
        for alpha in alphas
    ]
    return LineResult({name: [row[name] for row in rows] for name in rows[0]}, failures)
