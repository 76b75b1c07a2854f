"""Branches of fixed points along alpha, omega, lam or sigma, followed by their own length.

:func:`follow` goes through folds and says where a branch folds, where others leave it, and where
and why it ends; :func:`emerging` starts a branch that leaves another at a pitchfork.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_map import (
    DIRECTIONS,
    PARAMETERS,
    SHIFT,
    BranchMap,
    Evaluation,
    Place,
    place_at,
)
from gamp_theory.channel.origin import solve_origin
from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.numerics import arclength
from gamp_theory.numerics.arclength import (
    CurvePoint,
    Problem,
    StepControl,
    follow_curve,
    singular_point,
)
from gamp_theory.numerics.bracketing import RootStatus, bracket_root
from gamp_theory.overlaps import Overlaps
from gamp_theory.stability import MapJacobian, contracted
from gamp_theory.starts import branch_name
from gamp_theory.state_evolution import (
    QUADRATURE_SHARE,
    RESIDUAL_SHARE,
    FixedPoint,
    Solver,
    Status,
    solve,
)
from gamp_theory.token_result import GeneralFixedPoint

if TYPE_CHECKING:
    from gamp_theory.token_line_result import GeneralBranch

__all__ = [
    "Branch",
    "SpecialPoint",
    "Stop",
    "emerging",
    "follow",
    "follow_through",
    "singular_fold",
    "trace",
]

Vector: TypeAlias = NDArray[np.float64]

#: Steps along a branch, in its coordinates (docs/numerics.md, "Branches").
STEPS = StepControl(first=0.05, smallest=1e-4, largest=0.3, angle=0.3, points=400)
#: A branch is on its way to Q = 0 when q, in units of rho, is below the first of these; below the
#: second it is given up even if no bifurcation of Q = 0 explains it.
VANISHING = (1e-3, 1e-5)
#: Where a branch that emerges has its first point: m/sqrt(q), or theta/sqrt(rho q).
EMERGED = 0.1
#: Newton steps to a bifurcation, and the size of the last one.
LOCATE = 12
LOCATED = 1e-8
#: Slices that an evaluation on the way to it may integrate.
LOCATION_SLICES = 200_000
#: The error bars of a fold or pitchfork reach this far to either side.
INTERVAL = 2.0
#: Bars that exceed the tolerance by more than this are those of a fold: no rule will do.
HOPELESS = 30.0
#: Quadrature tolerance beyond which nothing is gained.
FINEST = 1e-8


class Stop(Enum):
    """Why a branch ends; the value is the sentence for the user."""

    REACHED = "It reached the end of the range."
    TURNED_BACK = "It turned back at a fold, and left the range on the side where it began."
    MERGED = "It meets the branch on which one overlap more vanishes, at a pitchfork."
    VANISHED = "The student shrinks to nothing: q goes to zero."
    CLOSED = "It came back to where it began."
    LEFT_DOMAIN = "It leaves the domain of the overlaps or of the parameter."
    SMALLEST_STEP = "No step along the branch succeeds, however short."
    QUADRATURE_LIMIT = "The average over fields would cost too much beyond."
    POINT_LIMIT = "The allowed number of points was used up."
    ENDED = "The caller ended it."
    INTERRUPTED = "Interrupted by the user."

    @property
    def token(self) -> str:
        """The name in lower case, for programs."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class SpecialPoint:
    """Where something happens on a branch.

    Attributes
    ----------
    kind : {"fold", "pitchfork", "merge", "vanishing"}
        ``fold``: the branch turns back in the parameter; ``pitchfork``: a transverse eigenvalue
        crosses 1, another branch leaves; ``merge``: the branch itself is the one that leaves, here
        it ends; ``vanishing``: q goes to 0, where Q = 0 becomes unstable in `direction`, or, if
        that is empty, where it begins to be a solution.
    parameter : str
    value : float
    error : float
        Quadrature error and what the search left, of `value`.
    interval : tuple of float
        Holds `value`: :data:`INTERVAL` error bars to either side, and no less than where the search
        has seen it.
    direction : str
        ``"m"`` or ``"theta"``: the overlap that bifurcates; empty for a fold.
    point : FixedPoint or None
        The fixed point there, its ``status`` as it came; on the branch with more symmetry for a
        pitchfork or merge.  None where no search succeeded: then the interval is all that is known.
    after : int
        Index of the point of the branch before it; -1 if it comes before the first.
    tangent : array, shape (5,)
        Direction of the branch in (q, m, V, theta, parameter), of unit length in the coordinates
        it is followed in; for what is no fold, at the point before.
    """

    kind: Literal["fold", "pitchfork", "merge", "vanishing"]
    parameter: str
    value: float
    error: float
    interval: tuple[float, float]
    direction: str
    point: FixedPoint | None
    after: int
    tangent: Vector = field(repr=False)

    def __post_init__(self) -> None:
        if not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(
                f"{self.kind} at {self.parameter} = {self.value!r} is outside {self.interval!r}"
            )

    def __repr__(self) -> str:
        what = f"{self.kind} in {self.direction}" if self.direction else self.kind
        return f"<{what} at {self.parameter} = {self.value:.9g} +- {self.error:.1g}>"


@dataclass(frozen=True, eq=False)
class Branch:
    """Fixed points along one parameter, in the order of the branch.

    Attributes
    ----------
    parameter : {"alpha", "omega", "lam", "sigma"}
    points : tuple of FixedPoint
        With error bars and stability; those whose accuracy was not reached say so by their status.
    tangents : array, shape (points, 5)
        d(q, m, V, theta, parameter)/ds, s the length of the branch in its coordinates.
    special : tuple of SpecialPoint
        In the order of the branch.
    stop : Stop
    map_evaluations : int
        Maps in all.
    seconds : float
    """

    parameter: str
    points: tuple[FixedPoint, ...]
    tangents: Vector
    special: tuple[SpecialPoint, ...]
    stop: Stop
    map_evaluations: int
    seconds: float

    @property
    def name(self) -> str:
        """Zero, uninformed, positional, semantic or mixed: what most of its points are called."""
        names = [point.branch for point in self.points]
        return max(names, key=names.count)

    @property
    def values(self) -> Vector:
        """The parameter at each point, shape (points,)."""
        return np.array([_value_of(point, self.parameter) for point in self.points])

    @property
    def message(self) -> str:
        """Where and why it stopped, in a sentence."""
        where = f"{self.parameter} = {self.values[-1]:.6g}"
        last = self.special[-1].kind if self.special else ""
        if (self.stop, last) in ((Stop.MERGED, "merge"), (Stop.VANISHED, "vanishing")):
            where = f"{self.parameter} = {self.special[-1].value:.6g}"
        return f"{self.stop.value} ({where})"

    def of_kind(self, kind: str) -> tuple[SpecialPoint, ...]:
        """The special points of one kind."""
        return tuple(special for special in self.special if special.kind == kind)

    def __repr__(self) -> str:
        values = self.values
        lines = [
            f"<Branch {self.name} along {self.parameter} from {values[0]:.6g} to {values[-1]:.6g}: "
            f"{len(self.points)} points; {self.stop.token}: {self.message}"
        ]
        bounds = [-1, *(special.after for special in self.special), len(self.points) - 1]
        for k, (left, right) in enumerate(pairwise(bounds)):
            part = self.points[left + 1 : right + 1]
            if part:
                lines.append(f"  {_stretch(part, self.parameter)}")
            if k < len(self.special):
                lines.append(f"  {self.special[k]!r}")
        return "\n".join(lines) + ">"


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
    run = _Run(place, parameter, broken, tol, point.start, with_replicon, on_point)
    value = _value_of(point, parameter)
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
    run = _Run(place, special.parameter, broken, tol, point.branch, with_replicon, on_point)
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
    forward = ahead[0] > _value_of(first, along)
    last = _value_of(first, along)

    def passed(point: FixedPoint) -> bool:
        nonlocal last
        value = _value_of(point, along)
        if value == waiting[0]:
            del waiting[0]
            finish(_completed(point))
        turned = value != last and (value > last) != forward
        last = value
        return turned or not waiting

    branch = follow(first, along, ahead[-1], through=ahead[:-1], on_point=passed)
    if branch.stop is Stop.INTERRUPTED:
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------------ the work


class _Run:
    """One branch that is being followed."""

    def __init__(
        self,
        place: Place,
        parameter: str,
        broken: tuple[str, ...],
        tol: float,
        start: str,
        with_replicon: bool,
        on_point: Callable[[FixedPoint], object] | None,
    ) -> None:
        self.parameter, self.tol, self.start = parameter, tol, start
        self.with_replicon, self.on_point = with_replicon, on_point
        self.map = BranchMap(place, parameter, broken, QUADRATURE_SHARE * tol)
        self.points: list[FixedPoint] = []
        self.tangents: list[Vector] = []
        self.special: list[SpecialPoint] = []
        self.transverse: list[dict[str, float | None]] = []
        self.curve: list[CurvePoint] = []
        self.ended: Stop | None = None
        self.marks: dict[float, float] = {}
        self.other_maps = 0
        self.began = time.perf_counter()
        #: residuals, maps and time when the last point was made
        self.counted = (0, 0, self.began)

    def follow(
        self,
        u: Vector,
        value: float,
        to: float,
        back_to: float,
        through: Sequence[float],
        control: StepControl,
        direction: Vector | None = None,
    ) -> Branch:
        """The branch through ``(u, value)``; see :func:`follow`."""
        map_ = self.map
        self.marks = {map_.coordinate(v): v for v in (value, to, back_to, *through)}
        self.finish, self.back = map_.coordinate(to), map_.coordinate(back_to)
        self.control = control
        problem = Problem(map_.residual, map_.jacobian, map_.accurate, map_.prepare)
        try:
            curve = follow_curve(
                problem,
                u,
                map_.coordinate(value),
                self.finish,
                back_to=self.back,
                through=[map_.coordinate(v) for v in through],
                control=control,
                tangent=direction,
                on_point=self.found,
                on_special=self.folded,
            )
            stop = self.why(curve)
        except KeyboardInterrupt:
            stop = Stop.INTERRUPTED
        return Branch(
            self.parameter,
            tuple(self.points),
            np.array(self.tangents).reshape(-1, 5),
            tuple(sorted(self.special, key=lambda special: special.after)),
            stop,
            self.maps,
            time.perf_counter() - self.began,
        )

    @property
    def maps(self) -> int:
        return self.map.maps + self.map.coarse_maps + self.other_maps

    def why(self, curve: arclength.Curve) -> Stop:
        """Why the branch ends, out of why its curve does."""
        if self.ended is not None:
            return self.ended
        if curve.stop is arclength.Stop.REACHED:
            last = curve.points[-1].p
            return Stop.REACHED if last == self.finish else Stop.TURNED_BACK
        if curve.stop is arclength.Stop.SMALLEST_STEP:
            return {"domain": Stop.LEFT_DOMAIN, "cost": Stop.QUADRATURE_LIMIT}.get(
                self.map.refusal, Stop.SMALLEST_STEP
            )
        return {
            arclength.Stop.CLOSED: Stop.CLOSED,
            arclength.Stop.POINT_LIMIT: Stop.POINT_LIMIT,
        }[curve.stop]

    def value(self, p: float) -> float:
        """The parameter, exactly where it was asked for exactly."""
        return self.marks.get(p, self.map.value(p))

    # -- points ---------------------------------------------------------------------------------

    def found(self, here: CurvePoint) -> bool:
        """Take in a point of the curve; True where the branch ends before it."""
        map_ = self.map
        base, jacobian = map_.last, map_.spectrum
        assert base is not None
        assert jacobian is not None
        before = self.curve[-1] if self.curve else None
        for name in map_.broken:
            i = map_.inside.index(DIRECTIONS[name])
            if here.x[i] <= 0 and before is not None:
                self.merges(name, before, here)
                return True
        self.curve.append(here)
        self.transverse.append(jacobian.transverse)
        self.add(here, base, jacobian)
        if before is not None:
            for name in DIRECTIONS:
                old, new = (t[name] for t in self.transverse[-2:])
                if old is not None and new is not None and (old - 1) * (new - 1) < 0:
                    self.splits(name, before, here)
        if self.ended is None and base.x[0] < VANISHING[0] * base.place.model.rho:
            self.vanishes(here, base.x[0] < VANISHING[1] * base.place.model.rho)
        return self.ended is not None

    def add(self, here: CurvePoint, base: Evaluation, jacobian: MapJacobian) -> None:
        """A fixed point with its error bars out of a point of the curve."""
        value = self.value(here.p)
        place = place_at(base.place, self.parameter, value)
        point = self.fixed_point(here, base, jacobian, place)
        self.points.append(point)
        self.tangents.append(self.natural(here.tangent, base.x, here.x, place))
        if self.on_point is not None and self.on_point(point) is True:
            self.ended = Stop.ENDED

    def fixed_point(
        self, here: CurvePoint, base: Evaluation, jacobian: MapJacobian, place: Place
    ) -> FixedPoint:
        """Error bars decide: as it is, with finer rules, or flagged."""
        x, averages = base.x, base.averages
        residual = np.where(x != 0, base.image - x, 0.0)
        error = base.error()
        self.other_maps += base.rule.comparisons
        solver = self.solver(place)
        ratio = solver.worst(x, averages, error, residual, jacobian)
        # across the curve, where no fold makes errors large
        step = np.linalg.lstsq(here.jacobian, self.map.shift(error, base), rcond=None)[0]
        own = float(np.max(np.abs(step))) / self.tol
        # bars near a fold are large whatever the rule; elsewhere the next point has its due
        self.adapt(max(own, ratio) if ratio <= HOPELESS else own)
        if ratio > 1 and base.rule.kind == "plane":
            point = self.refined(solver, x, jacobian, min(ratio, HOPELESS))
            if point is not None:
                return point
        status = Status.CONVERGED if ratio <= 1 else Status.QUADRATURE_LIMIT
        return solver.assemble(x, base.rule, averages, residual, error, jacobian, status)

    def solver(self, place: Place) -> Solver:
        """What makes fixed points, with the account of the maps since the last one."""
        solver = Solver(
            place.model,
            place.alpha,
            place.lam,
            self.start,
            self.tol,
            RESIDUAL_SHARE * self.tol,
            QUADRATURE_SHARE * self.tol,
            True,
            self.with_replicon,
        )
        now = (self.map.maps, self.maps, time.perf_counter())
        solver.maps = now[0] - self.counted[0]
        solver.other_maps = now[1] - self.counted[1] - solver.maps
        solver.began = self.counted[2]
        self.counted = now
        return solver

    def refined(
        self, solver: Solver, x: Vector, jacobian: MapJacobian, ratio: float
    ) -> FixedPoint | None:
        """The same point with a finer rule; None if that is not to be had, or leads elsewhere."""
        tol = max(self.map.finer_tol * max(0.03, 0.5 / ratio), FINEST)
        rule = PairChannel(solver.model).plane(Overlaps.from_array(x), tol)
        if rule is None:
            return None
        counted = solver.maps + solver.other_maps
        there, averages, residual, settled = solver.newton(x.copy(), rule, jacobian)
        error = rule.error(Overlaps.from_array(there), averages)
        solver.other_maps += rule.comparisons
        self.other_maps += solver.maps + solver.other_maps - counted
        self.counted = (self.map.maps, self.maps, time.perf_counter())
        away = np.max(np.abs(there - x) / (np.abs(x) + 1e-6))
        if not settled or away > 10 * ratio * self.tol:
            return None
        known = solver.worst(there, averages, error, residual, jacobian) <= 1
        status = Status.CONVERGED if known else Status.QUADRATURE_LIMIT
        return solver.assemble(there, rule, averages, residual, error, jacobian, status)

    def adapt(self, ratio: float) -> None:
        """Plane rules as fine as the branch needs: `ratio` is the error in units of the tolerance.

        Slices are not refined: there a finer rule costs more than it is worth.
        """
        tol = self.map.finer_tol
        if ratio > 0.7:
            tol = max(tol * max(0.1, 0.4 / ratio), FINEST)
        elif ratio < 0.05:
            tol = min(tol * 2, self.map.quadrature_tol)
        self.map.finer_tol = tol

    def natural(self, tangent: Vector, x: Vector, u: Vector, place: Place) -> Vector:
        """A direction in the coordinates as one in (q, m, V, theta, parameter)."""
        map_, rho = self.map, place.model.rho
        step = 1e-6
        p = map_.coordinate(_parameter(place, self.parameter))
        there = map_.at(p + step * tangent[-1]) or map_.at(p)
        assert there is not None
        moved = map_.overlaps(u + step * tangent[:-1], there.model.rho)
        rate = map_.rate(map_.value(p)) * tangent[-1]
        return np.append((moved - map_.overlaps(u, rho)) / step, rate)

    # -- special points -------------------------------------------------------------------------

    def folded(self, fold: arclength.SpecialPoint) -> None:
        """Take in a fold of the curve, located with the rule that is in place."""
        map_ = self.map
        base = map_.last
        if fold.kind != "fold" or base is None:
            return
        error = base.error()
        self.other_maps += base.rule.comparisons
        slope = map_.accurate(fold.x, fold.p, map_.residual(fold.x, fold.p))
        left_null = np.linalg.svd(slope[:, :-1])[0][:, -1]
        # p is stationary: what is left of an error is its part along the left null vector
        off = abs(float(left_null @ map_.shift(error, base)) / float(left_null @ slope[:, -1]))
        off += 0.5 * (fold.interval[1] - fold.interval[0])
        base = map_.last
        assert base is not None
        jacobian = map_.spectrum
        map_.jacobian(fold.x, fold.p, slope[:, -1])
        spectrum, map_.spectrum = map_.spectrum, jacobian
        assert spectrum is not None
        place = place_at(map_.place, self.parameter, map_.value(fold.p))
        solver = self.solver(place)
        residual = np.where(base.x != 0, base.image - base.x, 0.0)
        point = solver.assemble(
            base.x, base.rule, base.averages, residual, error, spectrum, Status.QUADRATURE_LIMIT
        )
        assert point.overlaps is not None
        # the bars of the overlaps are infinite at a fold: they must not decide what it is called
        point = replace(point, branch=branch_name(point.overlaps, 0.0, 0.0))
        tangent = self.natural(fold.tangent, base.x, fold.x, place)
        self.record("fold", fold.p, off, "", point, fold.after, tangent)

    def record(
        self,
        kind: Literal["fold", "pitchfork", "merge", "vanishing"],
        p: float,
        off: float,
        direction: str,
        point: FixedPoint | None,
        after: int,
        tangent: Vector,
    ) -> None:
        value = self.map.value(p)
        error = off * self.map.rate(value)
        ends = (value - INTERVAL * error, value + INTERVAL * error)
        self.special.append(
            SpecialPoint(kind, self.parameter, value, error, ends, direction, point, after, tangent)
        )

    def splits(self, name: str, left: CurvePoint, right: CurvePoint) -> None:
        """Another branch leaves between two points: locate the pitchfork."""
        old, new = (transverse[name] for transverse in self.transverse[-2:])
        assert old is not None
        assert new is not None
        z = left.z + (right.z - left.z) * (1 - old) / (new - old)
        self.bifurcation("pitchfork", name, z, left, right)

    def merges(self, name: str, left: CurvePoint, right: CurvePoint) -> None:
        """The branch passes through ``m = 0`` or ``theta = 0``: locate the pitchfork it ends at."""
        i = self.map.inside.index(DIRECTIONS[name])
        z = left.z + (right.z - left.z) * left.x[i] / (left.x[i] - right.x[i])
        self.ended = Stop.MERGED
        self.bifurcation("merge", name, np.delete(z, i), left, right)

    def bifurcation(
        self,
        kind: Literal["pitchfork", "merge"],
        name: str,
        z: Vector,
        left: CurvePoint,
        right: CurvePoint,
    ) -> None:
        """Solve for the fixed point in the subspace at which the overlap `name` has eigenvalue 1.

        These are the equations of the branch with `name`, at its coordinate 0: as many as there
        are unknowns, one of them the parameter, and regular.
        """
        own = self.map
        broken = tuple(n for n in DIRECTIONS if n in own.broken or n == name)
        wide = BranchMap(own.place, self.parameter, broken, own.quadrature_tol)
        wide.most_slices = LOCATION_SLICES
        i = wide.inside.index(DIRECTIONS[name])

        def full(z: Vector) -> tuple[Vector, float]:
            return np.insert(z[:-1], i, 0.0), float(z[-1])

        solved, guess = None, z
        for _ in range(3):
            wide.prepare(*full(z))
            slope = np.delete(wide.jacobian(*full(z), z), i, axis=1)
            solved = _newton(lambda z: wide.residual(*full(z)), z, slope)
            if solved is None:
                break
            close = np.max(np.abs(solved[0] - z)) < 0.02
            z = solved[0]
            if close:
                break
        after = len(self.points) - (2 if kind == "pitchfork" else 1)
        tangent = self.tangents[after]
        base = wide.last
        far = 0.5 * float(np.linalg.norm(right.z - left.z)) + 1e-3
        if solved is None or base is None or np.max(np.abs(solved[0] - guess)) > far:
            # between the two points, that is all
            self.other_maps += wide.maps + wide.coarse_maps
            off = 0.5 * abs(right.p - left.p)
            self.record(kind, 0.5 * (left.p + right.p), off, name, None, after, tangent)
            return
        error = base.error()
        self.other_maps += base.rule.comparisons
        change = np.linalg.solve(solved[1], wide.shift(error, base))
        # the equations hold at the shift: to second order, where the branch that leaves is there
        off = abs(float(change[-1])) + solved[2] + SHIFT**2

        # the fixed point itself, in the subspace
        u, p = z[:-1], float(z[-1])
        inner = BranchMap(
            own.place, self.parameter, tuple(n for n in broken if n != name), own.quadrature_tol
        )
        inner.jacobian(u, p, u)
        place = place_at(own.place, self.parameter, own.value(p))
        inside = wide.evaluate(inner.overlaps(u, place.model.rho), place, base.rule)
        assert inside is not None
        assert inner.spectrum is not None
        self.other_maps += wide.maps + wide.coarse_maps + inner.coarse_maps + 1
        x = inside.x
        residual = np.where(x != 0, inside.image - x, 0.0)
        solver = self.solver(place)
        known = solver.worst(x, inside.averages, error, residual, inner.spectrum) <= 1
        point = solver.assemble(
            x,
            base.rule,
            inside.averages,
            residual,
            error,
            inner.spectrum,
            Status.CONVERGED if known else Status.QUADRATURE_LIMIT,
        )
        self.record(kind, p, off, name, point, after, tangent)

    def vanishes(self, here: CurvePoint, last: bool) -> None:
        """The branch ends at Q = 0, where the growth rate of m or theta there is 1.

        Near such a bifurcation q is in proportion to the distance in the parameter, which tells
        where to look; the growth rates of Q = 0 are closed integrals (docs/theory.md, section 5).
        The uninformed branch ends where Q = 0 begins to exist.  If neither is near, what is left is
        to extrapolate.
        """
        map_ = self.map
        step = -float(here.tangent[-1] / here.tangent[0])  # -dp/d log q: to where q = 0
        names = [name for name in map_.broken if here.x[map_.inside.index(DIRECTIONS[name])] > 0]
        if len(names) == 1 and step != 0:
            found = self.onset(names[0], here.p, step)
            if found is not None:
                self.ended = Stop.VANISHED
                self.record(
                    "vanishing",
                    found[0],
                    found[1],
                    names[0],
                    self.at_zero(found[0]),
                    len(self.points) - 1,
                    self.tangents[-1],
                )
                return
        if last:
            self.ended = Stop.VANISHED
            p, off = self.existence(here.p, step) or (here.p + step, 10 * abs(step))
            self.record("vanishing", p, off, "", None, len(self.points) - 1, self.tangents[-1])

    def existence(self, p: float, step: float) -> tuple[float, float] | None:
        """Where Q = 0 begins to be a solution, beyond `p` in the direction of `step`.

        There q goes to 0 with a power of the distance that can be high (docs/theory.md, section 5),
        so that an extrapolation of the branch falls short.
        """

        def exists(p: float) -> bool:
            place = self.map.at(p)
            return place is not None and solve_origin(place.model, place.alpha, place.lam).exists

        far = next((p + k * step for k in (1, 2, 4, 8, 16, 32) if exists(p + k * step)), None)
        if far is None or exists(p):
            return None
        without, with_ = p, far
        while abs(with_ - without) > 1e-9:
            middle = 0.5 * (without + with_)
            without, with_ = (without, middle) if exists(middle) else (middle, with_)
        return with_, 1e-7  # how well Q = 0 itself is known where it begins

    def onset(self, name: str, p: float, step: float) -> tuple[float, float] | None:
        """Where the growth rate of Q = 0 in a direction crosses 1, near ``p + step``."""

        def excess(p: float) -> tuple[float, float]:
            place = self.map.at(p)
            if place is None:
                return math.nan, 0.0
            origin = solve_origin(place.model, place.alpha, place.lam)
            return (origin.growth[name] - 1, 1e-9) if origin.exists else (math.nan, 0.0)

        lo, hi = sorted((p + 0.5 * step, p + 1.5 * step))
        root = bracket_root(excess, lo, hi, 1e-8)
        if root.status is not RootStatus.CONVERGED:
            return None
        return root.x, root.error

    def at_zero(self, p: float) -> FixedPoint | None:
        """Q = 0 itself."""
        place = self.map.at(p)
        assert place is not None
        point = solve(place.model, place.alpha, place.lam, "zero", self.tol, on_failure="return")
        return point if point.converged else None


def _newton(
    F: Callable[[Vector], Vector], z: Vector, slope: Vector
) -> tuple[Vector, Vector, float] | None:
    """A root of n equations for n unknowns, with one Jacobian that is updated by its success.

    Returns the root, the Jacobian there, and the length of the last step.
    """
    value = F(z)
    last = math.inf
    for _ in range(LOCATE):
        if not (np.all(np.isfinite(value)) and np.all(np.isfinite(slope))):
            return None
        try:
            change = np.linalg.solve(slope, -value)
        except np.linalg.LinAlgError:
            return None
        size = float(np.max(np.abs(change)))
        if size > 1 or size > 10 * last:
            return None
        z = z + change
        if size < LOCATED:
            return z, slope, size
        value = F(z)
        slope = slope + np.outer(value, change) / (change @ change)
        last = size
    return None


def _parameter(place: Place, name: str) -> float:
    return float(getattr(place if name in ("alpha", "lam") else place.model, name))


def _value_of(point: FixedPoint, name: str) -> float:
    return float(getattr(point if name in ("alpha", "lam") else point.model, name))


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
    if to == _value_of(point, parameter):
        raise ValueError(f"to must differ from the {parameter} of the point, got {to!r}")


def _stretch(points: Sequence[FixedPoint], parameter: str) -> str:
    """A line on the points between two special ones."""
    values = [_value_of(point, parameter) for point in points]
    known = [point.stability.stable for point in points if point.stability is not None]
    word = "stable" if all(known) else "unstable" if not any(known) else "partly stable"
    flagged = sum(not point.converged for point in points)
    note = f", {flagged} flagged" if flagged else ""
    return f"{parameter} {values[0]:.6g} to {values[-1]:.6g}, {len(points)} points, {word}{note}"
