"""One branch that is being followed: its points with error bars, and what happens on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_map import DIRECTIONS, BranchMap, Evaluation, Place, place_at, value_of
from gamp_theory.branch_result import INTERVAL, Branch, SpecialPoint, Stop
from gamp_theory.channel.origin import solve_origin
from gamp_theory.channel.pair import PairChannel
from gamp_theory.numerics import curves
from gamp_theory.numerics.arclength import follow_curve
from gamp_theory.numerics.bracketing import RootStatus, bracket_root
from gamp_theory.numerics.curves import CurvePoint, Problem, StepControl
from gamp_theory.overlaps import Overlaps
from gamp_theory.stability import MapJacobian
from gamp_theory.starts import branch_name
from gamp_theory.state_evolution import (
    QUADRATURE_SHARE,
    RESIDUAL_SHARE,
    FixedPoint,
    Solver,
    Status,
    solve,
)
from gamp_theory.transition_equations import NoRoot, Pitchfork

__all__ = ["BranchRun"]

Vector: TypeAlias = NDArray[np.float64]

#: A branch is on its way to Q = 0 when q, in units of rho, is below the first of these; below the
#: second it is given up even if no bifurcation of Q = 0 explains it.
VANISHING = (1e-3, 1e-5)
#: Slices that an evaluation on the way to it may integrate.
LOCATION_SLICES = 200_000
#: Bars that exceed the tolerance by more than this are those of a fold: no rule will do.
HOPELESS = 30.0
#: Quadrature tolerance beyond which nothing is gained.
FINEST = 1e-8


class BranchRun:
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
        """Maps in all, of every rule."""
        return self.map.maps + self.map.coarse_maps + self.other_maps

    def why(self, curve: curves.Curve) -> Stop:
        """Why the branch ends, out of why its curve does."""
        if self.ended is not None:
            return self.ended
        if curve.stop is curves.Stop.REACHED:
            last = curve.points[-1].p
            return Stop.REACHED if last == self.finish else Stop.TURNED_BACK
        if curve.stop is curves.Stop.SMALLEST_STEP:
            return {"domain": Stop.LEFT_DOMAIN, "cost": Stop.QUADRATURE_LIMIT}.get(
                self.map.refusal, Stop.SMALLEST_STEP
            )
        return {
            curves.Stop.CLOSED: Stop.CLOSED,
            curves.Stop.POINT_LIMIT: Stop.POINT_LIMIT,
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
        p = map_.coordinate(value_of(place, self.parameter))
        there = map_.at(p + step * tangent[-1]) or map_.at(p)
        assert there is not None
        moved = map_.overlaps(u + step * tangent[:-1], there.model.rho)
        rate = map_.rate(map_.value(p)) * tangent[-1]
        return np.append((moved - map_.overlaps(u, rho)) / step, rate)

    # -- special points -------------------------------------------------------------------------

    def folded(self, fold: curves.SpecialPoint) -> None:
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
        """Add a special point at a coordinate that may be off by so much."""
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
        """Solve for the fixed point at which a small `name` neither grows nor decays."""
        own = self.map
        inner = tuple(n for n in own.broken if n != name)
        equations = Pitchfork(
            own.place, self.parameter, inner, name, own.quadrature_tol, slices_tol=0.0
        )
        (map_,) = equations.maps
        map_.most_slices = LOCATION_SLICES
        after = len(self.points) - (2 if kind == "pitchfork" else 1)
        tangent = self.tangents[after]
        far = 0.5 * float(np.linalg.norm(right.z - left.z)) + 1e-3
        try:
            solved, off = equations.solve(z)
            if np.max(np.abs(solved - z)) > far:
                raise NoRoot("that root is another one")
        except NoRoot:
            # between the two points, that is all
            self.other_maps += map_.maps + map_.coarse_maps
            off = 0.5 * abs(right.p - left.p)
            self.record(kind, 0.5 * (left.p + right.p), off, name, None, after, tangent)
            return
        u, p = solved[:-1], float(solved[-1])
        map_.residual(u, p)
        base = map_.last
        assert base is not None
        map_.jacobian(u, p, u)
        assert map_.spectrum is not None
        error = base.error()
        self.other_maps += map_.maps + map_.coarse_maps + base.rule.comparisons
        residual = np.where(base.x != 0, base.image - base.x, 0.0)
        solver = self.solver(base.place)
        known = solver.worst(base.x, base.averages, error, residual, map_.spectrum) <= 1
        point = solver.assemble(
            base.x,
            base.rule,
            base.averages,
            residual,
            error,
            map_.spectrum,
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
