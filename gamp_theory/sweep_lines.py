"""The unit of work of a sweep: one branch at all values of alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from gamp_theory.grids import (
    general_point_columns,
    no_general_point,
    no_point,
    on_branch,
    point_columns,
)
from gamp_theory.model import AttentionModel
from gamp_theory.result import FixedPoint
from gamp_theory.state_evolution import solve
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_result import GeneralFixedPoint
from gamp_theory.tracing import follow_through

__all__ = ["LineResult", "Stopped", "solve_general_line", "solve_line"]


class Stopped(Exception):
    """A line that was given up because its result is not wanted any more."""


class LineResult(NamedTuple):
    """One branch at all values of alpha.

    Attributes
    ----------
    columns : dict of str to list
        The columns of :func:`gamp_theory.grids.point_columns`, a value for each alpha; of
        :func:`gamp_theory.grids.general_point_columns` for a general model.
    failures : list of str
        What was raised, and where: those points are ``solve_failed`` if nothing else reached them.
    """

    columns: dict[str, list[Any]]
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
    where = f"omega = {model.omega!r}, sigma = {model.sigma!r}, lam = {lam!r}"
    line = _Line(branch, where, stopped)

    def ask(alpha: float) -> None:
        line.keep(solve(model, alpha, lam, branch, tol, on_failure="return"))

    def follow(alpha: float, ahead: Sequence[float]) -> None:
        first = line.points[alpha]
        if ahead and first.converged and branch != "zero":  # which has no length to follow it by
            follow_through(first, "alpha", ahead, line.keep)

    up = sorted(alphas)
    down = up[::-1]
    for i, alpha in enumerate(down):
        if alpha not in line.points:
            line.attempt(alpha, ask, alpha)
            if line.found(alpha):
                line.attempt(alpha, follow, alpha, down[i + 1 :])
    gaps = [
        (below, list(takewhile(lambda alpha: not line.found(alpha), up[i:])))
        for i, below in enumerate(up[:-1], start=1)
        if line.found(below) and not line.found(up[i])
    ]
    for below, gap in gaps:
        line.attempt(below, follow, below, gap)
    return line.result(alphas, point_columns, no_point("solve_failed"))


def solve_general_line(
    model: GeneralModel,
    alphas: Sequence[float],
    lam: float,
    branch: str,
    tol: float,
    stopped: Callable[[], bool] = lambda: False,
) -> LineResult:
    """A branch of a general model at each value of alpha, whatever their order.

    Down from the largest alpha: each point starts from the one above it, and where that does not
    stay on the branch, or there is none, from the named start.  Then up, from the point below,
    through values at which neither has led to the branch.

    Parameters, what is returned and what is raised are those of :func:`solve_line`.
    """
    line = _Line(branch, f"lam = {lam!r}", stopped)

    def ask(alpha: float, start: str | TokenOverlaps) -> None:
        line.keep(solve(model, alpha, lam, start, tol, on_failure="return"))

    up = sorted(alphas)
    above: float | None = None
    for alpha in reversed(up):
        if above is not None and line.found(above):
            line.attempt(alpha, ask, alpha, line.points[above].overlaps)
        if not line.found(alpha):
            line.attempt(alpha, ask, alpha, branch)
        above = alpha
    for below, alpha in pairwise(up):
        if line.found(below) and not line.found(alpha):
            line.attempt(alpha, ask, alpha, line.points[below].overlaps)
    shape = (model.tokens, model.rank, model.teacher_rank)
    return line.result(alphas, general_point_columns, no_general_point("solve_failed", shape))


class _Line:
    """The points of a line as they come in."""

    def __init__(self, branch: str, where: str, stopped: Callable[[], bool]) -> None:
        self.branch, self.where, self.stopped = branch, where, stopped
        self.points: dict[float, Any] = {}
        self.failures: list[str] = []

    def keep(self, point: FixedPoint | GeneralFixedPoint) -> None:
        """Take a point in, unless there is a better one."""
        if point.alpha not in self.points or on_branch(point, self.branch):
            self.points[point.alpha] = point
        if self.stopped():
            raise Stopped

    def found(self, alpha: float) -> bool:
        """Whether there is a point of the branch."""
        return alpha in self.points and on_branch(self.points[alpha], self.branch)

    def attempt(self, alpha: float, work: Callable[..., object], *arguments: Any) -> None:
        """Do something that may raise: one point is not to take thousands with it."""
        try:
            work(*arguments)
        except Stopped:
            raise
        except Exception as error:
            self.failures.append(
                f"{work.__name__} {self.branch}, {self.where}, alpha = {alpha!r}: "
                f"{type(error).__name__}: {error}"
            )

    def result(
        self,
        alphas: Sequence[float],
        columns: Callable[[Any, str], dict[str, Any]],
        missing: dict[str, Any],
    ) -> LineResult:
        """The columns at these values of alpha, in their order."""
        rows = [
            columns(self.points[alpha], self.branch) if alpha in self.points else missing
            for alpha in alphas
        ]
        return LineResult({name: [row[name] for row in rows] for name in rows[0]}, self.failures)
