"""Branches of fixed points along alpha, omega, lam or sigma, followed by their own length.

:func:`follow` goes through folds and says where a branch folds, where others leave it, and where
and why it ends; :func:`emerging` starts a branch that leaves another at a pitchfork.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from gamp_theory.branch_map import DIRECTIONS, PARAMETERS, BranchMap, Place, value_of
from gamp_theory.branch_result import Branch, SpecialPoint
from gamp_theory.branch_run import BranchRun
from gamp_theory.numerics.curves import Problem, StepControl
from gamp_theory.numerics.special_points import singular_point
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import QUADRATURE_SHARE, RESIDUAL_SHARE, FixedPoint
from gamp_theory.token_result import GeneralFixedPoint

if TYPE_CHECKING:
    from gamp_theory.token_line_result import GeneralBranch

__all__ = ["emerging", "follow", "singular_fold"]

#: Steps along a branch, in its coordinates (docs/numerics.md, "Branches").
STEPS = StepControl(first=0.05, smallest=1e-4, largest=0.3, angle=0.3, points=400)
#: Where a branch that emerges has its first point: m/sqrt(q), or theta/sqrt(rho q).
EMERGED = 0.1


@overload
def follow(
    point: FixedPoint,
    parameter: str,
    to: float,
    *,
    tol: float | None = None,
    back_to: float | None = None,
    through: Sequence[float] = (),
    largest_step: float | None = None,
    most_points: int | None = None,
    with_replicon: bool = False,
    on_point: Callable[[FixedPoint], object] | None = None,
) -> Branch: ...


@overload
def follow(
    point: GeneralFixedPoint,
    parameter: str,
    to: float,
    *,
    tol: float | None = None,
    back_to: float | None = None,
    through: Sequence[float] = (),
    largest_step: float | None = None,
    most_points: int | None = None,
    with_replicon: bool = False,
    on_point: Callable[[GeneralFixedPoint], object] | None = None,
) -> GeneralBranch: ...


def follow(
    point: FixedPoint | GeneralFixedPoint,
    parameter: str,
    to: float,
    *,
    tol: float | None = None,
    back_to: float | None = None,
    through: Sequence[float] = (),
    largest_step: float | None = None,
    most_points: int | None = None,
    with_replicon: bool = False,
    on_point: Callable[[Any], object] | None = None,
) -> Branch | GeneralBranch:
    """Follow the branch of a fixed point along a parameter, through folds.

    The branch is followed by its own length in the coordinates of :mod:`gamp_theory.branch_map`,
    with pseudo-arclength steps (docs/numerics.md, "Branches"), so it is not left for another, and
    it stays in the subspaces m = 0 and theta = 0 that `point` lies in.

    Parameters
    ----------
    point : FixedPoint or GeneralFixedPoint
        A fixed point with q > 0; the others of alpha, omega, lam and sigma stay as they are there.
        One of a general model gives a :class:`gamp_theory.token_line_result.GeneralBranch`.
    parameter : {"alpha", "omega", "lam", "sigma"}
        A general model is followed along alpha and lam.
    to : float
        The branch is followed towards it, and ends where it reaches it.
    tol : float, optional
        Accuracy of the points, as in :func:`gamp_theory.solve`; that of `point` by default.
    back_to : float, optional
        Where it ends if it turns back at a fold; by default the parameter of `point`.
    through : sequence of float, optional
        Values of the parameter at which it is to have a point, exactly, wherever it passes them.
    largest_step : float, optional
        In coordinates of which 1 is a natural unit; :data:`STEPS` by default.
    most_points : int, optional
    with_replicon : bool
        Whether to compute replicon and jump mass of each point, which takes longer than the rest;
        they are NaN otherwise.
    on_point : callable, optional
        Called with each point as soon as it is there; the branch ends with it if that returns True.

    Returns
    -------
    Branch
        After Ctrl-C, what was found until then: its `stop` is `Stop.INTERRUPTED`.

    Raises
    ------
    ValueError
        On bad input; if `point` is no fixed point, or has q = 0.
    """
    if isinstance(point, GeneralFixedPoint):
        from gamp_theory.token_branches import follow_general  # the pair route needs none of it

        return follow_general(
            point,
            parameter,
            to,
            tol=tol,
            back_to=back_to,
            through=through,
            largest_step=largest_step,
            most_points=most_points,
            with_replicon=with_replicon,
            on_point=on_point,
        )
    _check(point, parameter, to, back_to)
    tol = point.tol if tol is None else tol
    overlaps = point.overlaps
    assert overlaps is not None
    place = Place(point.model, point.alpha, point.lam)
    broken = tuple(name for name in DIRECTIONS if getattr(overlaps, name) != 0)
    run = BranchRun(place, parameter, broken, tol, point.start, with_replicon, on_point)
    value = value_of(point, parameter)
    return run.follow(
        run.map.coordinates(overlaps.as_array(), point.model.rho),
        value,
        to,
        value if back_to is None else back_to,
        through,
        replace(
            STEPS,
            tol=RESIDUAL_SHARE * tol,
            largest=largest_step or STEPS.largest,
            points=most_points or STEPS.points,
        ),
    )


def emerging(
    special: SpecialPoint,
    between: tuple[float, float],
    *,
    tol: float | None = None,
    through: Sequence[float] = (),
    largest_step: float | None = None,
    most_points: int | None = None,
    with_replicon: bool = False,
    on_point: Callable[[FixedPoint], object] | None = None,
) -> Branch:
    """Follow the branch that leaves another at a pitchfork.

    The overlap in the direction of the pitchfork, which is 0 there, is what it is followed along at
    first: so it may leave to either side of the parameter.

    Parameters
    ----------
    special : SpecialPoint
        A pitchfork of a branch (or the merge at which another ended).
    between : tuple of float
        Range of the parameter; `special` lies inside it.
    tol, through, largest_step, most_points, with_replicon, on_point
        As in :func:`follow`.

    Returns
    -------
    Branch
        Its first special point is the merge it comes from.

    Raises
    ------
    ValueError
        If `special` is neither a pitchfork nor a merge, or lies outside the range.
    """
    if special.kind not in ("pitchfork", "merge"):
        raise ValueError(f"a branch emerges from a pitchfork or merge, got {special!r}")
    if not between[0] < special.value < between[1]:
        raise ValueError(f"between must hold {special!r}, got {between!r}")
    point = special.point
    if point is None:
        raise ValueError(f"a branch emerges from a located pitchfork, got {special!r}")
    assert point.overlaps is not None
    tol = point.tol if tol is None else tol
    x = point.overlaps.as_array()
    place = Place(point.model, point.alpha, point.lam)
    broken = tuple(name for name in DIRECTIONS if x[DIRECTIONS[name]] or name == special.direction)
    run = BranchRun(place, special.parameter, broken, tol, point.branch, with_replicon, on_point)
    u = run.map.coordinates(x, point.model.rho)
    direction = np.zeros(u.size + 1)
    direction[run.map.inside.index(DIRECTIONS[special.direction])] = 1.0
    run.special.append(replace(special, kind="merge", after=-1))
    lo, hi = between
    return run.follow(
        u + EMERGED * direction[:-1],
        special.value,
        hi,
        lo,
        through,
        replace(
            STEPS,
            tol=RESIDUAL_SHARE * tol,
            largest=largest_step or STEPS.largest,
            points=most_points or STEPS.points,
        ),
        direction,
    )


def singular_fold(special: SpecialPoint) -> tuple[Overlaps, float]:
    """A fold by its other definition: where ``det(1 - J) = 0`` inside the subspace.

    Newton's method on the extended system of :func:`numerics.arclength.singular_point`, with a
    rule that is frozen at the fold.  Independent of how :func:`follow` has located it, except for
    the first guess and the rule.

    Parameters
    ----------
    special : SpecialPoint
        A fold.

    Returns
    -------
    overlaps : Overlaps
    value : float
        Of the parameter.

    Raises
    ------
    ValueError
        If `special` is no fold, or Newton's method does not converge.
    """
    point = special.point
    if special.kind != "fold" or point is None or point.overlaps is None:
        raise ValueError(f"special must be a fold with a point, got {special!r}")
    x = point.overlaps.as_array()
    place = Place(point.model, point.alpha, point.lam)
    broken = tuple(name for name, i in DIRECTIONS.items() if x[i])
    map_ = BranchMap(place, special.parameter, broken, QUADRATURE_SHARE * point.tol)
    u, p, _ = singular_point(
        Problem(map_.residual, prepare=map_.prepare),
        map_.coordinates(x, point.model.rho),
        map_.coordinate(special.value),
        step=1e-3,
        tol=1e-7,
    )
    there = map_.at(p)
    assert there is not None
    return Overlaps.from_array(map_.overlaps(u, there.model.rho)), map_.value(p)


def _check(point: FixedPoint, parameter: str, to: float, back_to: float | None) -> None:
    if parameter not in PARAMETERS:
        raise ValueError(f"parameter must be one of {', '.join(PARAMETERS)}, got {parameter!r}")
    for name, value in (("to", to), ("back_to", back_to)):
        if value is None:
            continue
        good = 0 <= value <= 1 if parameter == "omega" else value > 0
        if not (math.isfinite(value) and good):
            allowed = "in [0, 1]" if parameter == "omega" else "> 0 and finite"
            raise ValueError(f"{name} must be {allowed} along {parameter}, got {value!r}")
    if point.overlaps is None or not point.overlaps.q > 0 or not math.isfinite(point.train_loss):
        raise ValueError(f"a branch is followed from a fixed point with q > 0, got {point!r}")
    if to == value_of(point, parameter):
        raise ValueError(f"to must differ from the {parameter} of the point, got {to!r}")
