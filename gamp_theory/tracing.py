"""Fixed points at given values of a parameter, by continuation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from gamp_theory.branch_map import PARAMETERS, Place, place_at, value_of
from gamp_theory.branch_result import Stop
from gamp_theory.branches import follow
from gamp_theory.model import AttentionModel
from gamp_theory.stability import contracted
from gamp_theory.state_evolution import FixedPoint, Status, solve

__all__ = ["follow_through", "trace"]


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
) -> tuple[FixedPoint, ...]:
    """A fixed point at each of the given values, from a named start, by continuation.

    The first is solved, the others are followed from it.  Where the branch ends before the last
    value, the named start is asked again, so that nothing is left out; where each point ended is in
    its `branch`.

    Parameters
    ----------
    model : AttentionModel
    values : sequence of float
        Of the parameter, in the order to be followed.
    lam : float
        Ridge; not used along lam.
    start : str
        Named start.
    alpha : float, optional
        Needed along other parameters than alpha.
    along : {"alpha", "omega", "lam", "sigma"}
    tol : float
        As in :func:`gamp_theory.solve`.
    progress : callable, optional
        Called with every point as it is finished.

    Returns
    -------
    tuple of FixedPoint
        One per value, in the order given; failed ones with their status, none left out.

    Raises
    ------
    ValueError
        If `along` is none of them, or alpha is missing.
    """
    if along not in PARAMETERS:
        raise ValueError(f"along must be one of {', '.join(PARAMETERS)}, got {along!r}")
    if along != "alpha" and alpha is None:
        raise ValueError(f"alpha must be given along {along}, got None")
    points: list[FixedPoint] = []

    def finish(point: FixedPoint) -> None:
        points.append(replace(point, start=start))
        if progress is not None:
            progress(points[-1])

    while len(points) < len(values):
        value = values[len(points)]
        place = place_at(Place(model, 1.0 if alpha is None else alpha, lam), along, value)
        first = solve(place.model, place.alpha, place.lam, start, tol, on_failure="return")
        finish(first)
        ahead = _ahead(values, len(points) - 1)
        if first.converged and first.branch != "zero" and ahead:
            follow_through(first, along, ahead, finish)
    return tuple(points)


def _completed(point: FixedPoint) -> FixedPoint:
    """A point that was asked for: with slices where it takes them, and its replicon."""
    assert point.stability is not None
    assert point.overlaps is not None
    if point.status is Status.QUADRATURE_LIMIT:
        again = solve(
            point.model, point.alpha, point.lam, point.overlaps, point.tol, on_failure="return"
        )
        if again.converged and again.branch == point.branch:
            return again
    whole = contracted(point.stability, point.model, point.overlaps, point.alpha)
    return replace(point, stability=whole)


def _ahead(values: Sequence[float], i: int) -> list[float]:
    """The values after the i-th, as far as they go on in one direction."""
    ahead: list[float] = []
    for last, value in pairwise(values[i:]):
        if value == last or (ahead and (value > last) != (ahead[0] > values[i])):
            break
        ahead.append(value)
    return ahead


def follow_through(
    first: FixedPoint,
    along: str,
    ahead: Sequence[float],
    finish: Callable[[FixedPoint], object],
) -> None:
    """Follow the branch of a fixed point through the values ahead, as far as it goes.

    Parameters
    ----------
    first : FixedPoint
        With q > 0.
    along : {"alpha", "omega", "lam", "sigma"}
    ahead : sequence of float
        Values of the parameter in the order to be followed: up, or down, from that of `first`.
    finish : callable
        Called with the point at each of them that is reached, replicon and all, in their order.

    Raises
    ------
    ValueError
        As :func:`follow`.
    """
    waiting = list(ahead)
    forward = ahead[0] > value_of(first, along)
    last = value_of(first, along)

    def passed(point: FixedPoint) -> bool:
        nonlocal last
        value = value_of(point, along)
        if value == waiting[0]:
            del waiting[0]
            finish(_completed(point))
        turned = value != last and (value > last) != forward
        last = value
        return turned or not waiting

    branch = follow(first, along, ahead[-1], through=ahead[:-1], on_point=passed)
    if branch.stop is Stop.INTERRUPTED:
        raise KeyboardInterrupt
