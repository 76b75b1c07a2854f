"""A branch of fixed points along alpha or omega."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import FixedPoint, Status, solve

__all__ = ["Branch", "trace"]


@dataclass(frozen=True)
class Branch:
    """Fixed points along one parameter, from one start.

    Attributes
    ----------
    along : str
        ``"alpha"`` or ``"omega"``.
    start : str
        The start that was asked for; where each point ended is in its ``branch``.
    points : tuple of FixedPoint
        One per value, in the order given; failed ones with their status, none left out.
    """

    along: str
    start: str
    points: tuple[FixedPoint, ...]


def trace(
    model: AttentionModel,
    values: Sequence[float],
    lam: float,
    start: str,
    *,
    alpha: float | None = None,
    along: str = "alpha",
    tol: float = 1e-6,
    progress: Callable[[FixedPoint], object] | None = None,
) -> Branch:
    """Solve along one parameter, each point from its neighbours.

    The next state is extrapolated from the last two; where that leads elsewhere than the last
    point, the named start is asked as well, so that the branch is not lost, or left, unnoticed.

    Parameters
    ----------
    model : AttentionModel
    values : sequence of float
        Of the parameter, in the order to be followed.
    lam : float
        Ridge.
    start : str
        Named start.
    alpha : float, optional
        Needed along omega.
    along : {"alpha", "omega"}
    tol : float
        As in :func:`gamp_theory.solve`.
    progress : callable, optional
        Called with every point as it is finished.

    Raises
    ------
    ValueError
        If `along` is neither, or alpha is missing along omega.
    """
    if along not in ("alpha", "omega"):
        raise ValueError(f"along must be 'alpha' or 'omega', got {along!r}")
    if along == "omega" and alpha is None:
        raise ValueError("alpha must be given along omega, got None")
    points: list[FixedPoint] = []
    for value in values:
        here = model if along == "alpha" else model.with_parameters(omega=value)
        at = value if along == "alpha" else alpha
        assert at is not None
        guess = _extrapolate(points, values, value)
        point = None
        if guess is not None:
            point = solve(here, at, lam, guess, tol, on_failure="return")
            point = dataclasses.replace(point, start=start)
            if point.status is not Status.CONVERGED or point.branch != points[-1].branch:
                point = None
        if point is None:
            point = solve(here, at, lam, start, tol, on_failure="return")
        points.append(point)
        if progress is not None:
            progress(point)
    return Branch(along, start, tuple(points))


def _extrapolate(
    points: list[FixedPoint], values: Sequence[float], value: float
) -> Overlaps | None:
    """Where the branch should be at `value`, judged by its last two points."""
    if not points or points[-1].status is not Status.CONVERGED or points[-1].branch == "zero":
        return None
    last = points[-1]
    assert last.overlaps is not None
    x = last.overlaps.as_array()
    if len(points) > 1 and points[-2].branch == last.branch and points[-2].converged:
        before = points[-2].overlaps
        assert before is not None
        n = len(points)
        spacing = values[n - 1] - values[n - 2]
        ratio = (value - values[n - 1]) / spacing if spacing else 0.0
        guess = x + ratio * (x - before.as_array())
        inside = guess[3] ** 2 < 0.999 * last.model.rho * guess[0]
        if guess[0] > 0.3 * x[0] and 0.3 * x[2] < guess[2] < 3 * x[2] and inside:
            x = np.where(x == 0, 0.0, guess)
    return Overlaps.from_array(x)
