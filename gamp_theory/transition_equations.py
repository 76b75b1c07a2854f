"""Transitions as roots of equations: the states involved, where they are, and what holds there.

The unknowns are the coordinates of one or two fixed points (:mod:`gamp_theory.branch_map`) and one
parameter; the equations are those of the fixed points, and one more where it takes one: two
training losses are equal, a test error equals the linear baseline, a Jacobian is singular.  With a
second parameter they describe a line, which is followed like a branch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory import observables
from gamp_theory.branch_map import BranchMap, Evaluation, Place, place_at, value_of
from gamp_theory.channel.base import ChannelAverages
from gamp_theory.numerics.differences import jacobian as difference_jacobian
from gamp_theory.numerics.newton import chord_newton
from gamp_theory.overlaps import Overlaps
from gamp_theory.result import FixedPoint

__all__ = [
    "EqualTestError",
    "EqualTrainLosses",
    "Fold",
    "NoRoot",
    "Pitchfork",
    "TransitionEquations",
]

Vector: TypeAlias = NDArray[np.float64]

#: Accuracy of the slices, where the plane rule does not serve: seconds a root.
SLICES_TOL = 1e-6
FINEST = 1e-8
MOST_SLICES = 1_000_000
#: A plane of this many times the accuracy of a line is preferred to slices.
PLANE_ENOUGH = 3.0
#: Rules are made anew at the root until it stays.
ROUNDS = 4
STAYS = 0.02
#: A Jacobian that was taken this close to the root serves for its error.
AT_ROOT = 1e-4
#: Steps of differences, for rules that are smooth to rounding, and slices.
STEP = {"plane": 1e-5, "slices": 1e-4}
#: The same for the second differences that a fold takes.
FOLD_STEP = 1e-3


class NoRoot(ValueError):
    """Newton's method finds no root of the equations near the guess."""


class TransitionEquations(ABC):
    """Equations of a transition in a parameter; the base of its kinds.

    Parameters
    ----------
    place : Place
    parameter : {"alpha", "omega", "lam", "sigma"}
        In which the transition is sought.
    broken : sequence of tuple of {"m", "theta"}
        For each fixed point, the overlaps that do not vanish on it.
    quadrature_tol : float
        Accuracy of the averages.
    second : {"alpha", "omega", "lam", "sigma"}, optional
        Along which a line of transitions is followed.
    slices_tol : float
        As of :class:`gamp_theory.branch_map.BranchMap`.
    """

    def __init__(
        self,
        place: Place,
        parameter: str,
        broken: Sequence[tuple[str, ...]],
        quadrature_tol: float,
        second: str | None = None,
        slices_tol: float = SLICES_TOL,
    ) -> None:
        self.place, self.parameter, self.second = place, parameter, second
        self.quadrature_tol = quadrature_tol
        self.maps = [
            BranchMap(place, parameter, names, quadrature_tol, slices_tol) for names in broken
        ]
        # the coordinates of the second parameter are those of a map along it
        self.other = None if second is None else BranchMap(place, second, (), quadrature_tol)

    # -- unknowns ----------------------------------------------------------------------------------

    def unknowns(self, points: Sequence[Overlaps], value: float) -> Vector:
        """The vector of unknowns at fixed points and a value of the parameter."""
        parts = [
            map_.coordinates(point.as_array(), self._rho(map_, value))
            for map_, point in zip(self.maps, points, strict=True)
        ]
        return np.append(np.concatenate(parts), self.maps[0].coordinate(value))

    def overlaps(self, z: Vector, second: float = math.nan) -> list[Overlaps]:
        """The fixed points in a vector of unknowns."""
        self.move(second)
        found = []
        for map_, u in self.parts(z):
            there = map_.at(float(z[-1]))
            assert there is not None
            x = map_.overlaps(u, there.model.rho)
            found.append(Overlaps.from_array(x))
        return found

    def value(self, z: Vector) -> float:
        """The parameter in a vector of unknowns."""
        return self.maps[0].value(float(z[-1]))

    def parts(self, z: Vector) -> list[tuple[BranchMap, Vector]]:
        """Each map with its part of the unknowns."""
        ends = np.cumsum([len(map_.inside) for map_ in self.maps])
        return list(zip(self.maps, np.split(z[:-1], ends)[: len(self.maps)], strict=True))

    def move(self, second: float) -> None:
        """Take the second parameter to a coordinate; NaN leaves it where it is."""
        if self.other is None or math.isnan(second):
            return
        assert self.second is not None
        here = place_at(self.place, self.second, self.other.value(second))
        for map_ in self.maps:
            map_.place = here

    def inside(self, second: float) -> bool:
        """Whether the second parameter is in its domain."""
        return self.other is None or math.isnan(second) or self.other.at(second) is not None

    # -- equations ---------------------------------------------------------------------------------

    def prepare(self, z: Vector, second: float = math.nan) -> None:
        """Make rules for states near `z`."""
        if not self.inside(second):
            return
        self.move(second)
        for map_, u in self.parts(z):
            map_.quadrature_tol = map_.finer_tol = self.quadrature_tol
            map_.prepare(u, float(z[-1]))

    @abstractmethod
    def residual(self, z: Vector, second: float = math.nan) -> Vector:
        """The equations, shape (len(z),); NaN outside their domain."""

    def jacobian(self, z: Vector, second: float, value: Vector) -> Vector:
        """``d residual/d(z, second)``, shape (n, n + 1), by forward differences.

        Without a second parameter, its column is left out.  Where rules are slices, coarse ones
        serve, good to 1e-3.
        """
        if self.rule_kind == "plane":
            return self.differences(z, second, value)
        rules = [map_.rule for map_ in self.maps]
        try:
            self.move(second)
            for map_, u in self.parts(z):
                there = map_.at(float(z[-1]))
                if there is None or not map_.admissible(u, there):
                    return np.full((len(z), len(z) + (not math.isnan(second))), np.nan)
                map_.rule = map_.coarse_rule(map_.overlaps(u, there.model.rho), there)
            return self.differences(z, second, self.residual(z, second))
        finally:
            for map_, rule in zip(self.maps, rules, strict=True):
                map_.rule = rule

    def differences(self, z: Vector, second: float, value: Vector) -> Vector:
        """The same with the rules that are in place; `value` is the residual."""

        def at(point: Vector) -> Vector:
            return self.residual(point[:-1], float(point[-1]))

        step = self.step()
        if math.isnan(second):
            return difference_jacobian(
                lambda y: self.residual(y), z, 0.0, floor=step, method="forward", value=value
            )
        z = np.append(z, second)
        # not out of the domain of omega
        if self.second == "omega" and second + step > 1:
            return -difference_jacobian(
                lambda y: at(-y), -z, 0.0, floor=step, method="forward", value=value
            )
        return difference_jacobian(at, z, 0.0, floor=step, method="forward", value=value)

    def step(self) -> float:
        """Of difference quotients."""
        return STEP[self.rule_kind]

    @property
    def rule_kind(self) -> str:
        """``"slices"`` if one of the rules is of that kind, else ``"plane"``."""
        kinds = [map_.rule.kind for map_ in self.maps if map_.rule is not None]
        return "slices" if "slices" in kinds else "plane"

    # -- roots -------------------------------------------------------------------------------------

    def solve(self, z: Vector, second: float = math.nan) -> tuple[Vector, float]:
        """The root near `z`, and the error of its last component.

        Raises
        ------
        NoRoot
            If Newton's method finds none, or it is not near.
        """
        for _ in range(ROUNDS):
            self.prepare(z, second)
            solved = chord_newton(lambda y: self.residual(y, second), z, step=self.step(), most=12)
            if solved is None:
                raise NoRoot("no root near the guess")
            moved = float(np.max(np.abs(solved.x - z)))
            z = solved.x
            if moved < STAYS:
                slope = solved.jacobian
                if moved > AT_ROOT:  # losses are stationary at the root alone
                    slope = self.jacobian(z, second, self.residual(z, second))[:, : len(z)]
                return z, self.error(z, second, slope) + solved.last_step
        raise NoRoot("rules that are made at the root move it")

    def refine(self, factor: float, *, planes: bool = True) -> None:
        """Ask more of the averages from now on; without plane rules where these were no better."""
        self.quadrature_tol = max(self.quadrature_tol * factor, FINEST)
        for map_ in self.maps:
            map_.planes = planes
            if map_.rule is not None and map_.rule.kind == "slices":
                map_.slices_tol = max(map_.slices_tol * factor, FINEST)
            map_.most_slices = MOST_SLICES

    def coarsen(self, tol: float) -> None:
        """Ask less of slices, and less of planes where it would come to slices.

        Slices cost most, and lines need not be better than `tol`.
        """
        for map_ in self.maps:
            map_.slices_tol = max(map_.slices_tol, tol)
            map_.plane_enough = PLANE_ENOUGH * tol

    @abstractmethod
    def error(self, z: Vector, second: float, slope: Vector) -> float:
        """What the quadrature errors do to the parameter's coordinate at a root."""

    def _rho(self, map_: BranchMap, value: float) -> float:
        return place_at(map_.place, self.parameter, value).model.rho


class ConditionEquations(TransitionEquations):
    """Fixed points, and one number that vanishes at the transition."""

    @abstractmethod
    def condition(self, states: Sequence[Evaluation]) -> float:
        """What vanishes beside the residuals."""

    def residual(self, z: Vector, second: float = math.nan) -> Vector:
        """The equations, shape (len(z),); NaN outside their domain."""
        nothing = np.full(len(z), np.nan)
        if not self.inside(second):
            return nothing
        self.move(second)
        found, states = [], []
        for map_, u in self.parts(z):
            found.append(map_.residual(u, float(z[-1])))
            if map_.last is None or not np.all(np.isfinite(found[-1])):
                return nothing
            states.append(map_.last)
        return np.append(np.concatenate(found), self.condition(states))

    def error(self, z: Vector, second: float, slope: Vector) -> float:
        """What the quadrature errors do to the parameter's coordinate at a root."""
        self.residual(z, second)
        shifts: list[Vector] = []
        before: list[Evaluation] = []
        after: list[Evaluation] = []
        for map_ in self.maps:
            base = map_.last
            assert base is not None
            error = base.error()
            shifts.append(map_.shift(error, base))
            averages = ChannelAverages.from_array(base.averages.as_array() + error.as_array())
            before.append(base)
            after.append(map_.imaged(base.x, base.place, base.rule, averages))
        here = self.condition(before)
        off = 0.0
        for k, moved in enumerate(after):  # of either sign: they do not cancel
            there = self.condition([moved if j == k else x for j, x in enumerate(before)])
            off += abs(there - here)
        shifts.append(np.array([off]))
        row = np.linalg.inv(slope)[-1]
        return float(np.abs(row) @ np.abs(np.concatenate(shifts)))


class EqualTrainLosses(ConditionEquations):
    """Two branches have the same training loss: a first-order transition."""

    def condition(self, states: Sequence[Evaluation]) -> float:
        """``log(eps_t/eps_t')``, of the variational losses, which are stationary."""
        one, two = (_train_loss(state) for state in states)
        return math.log(one / two) if one > 0 and two > 0 else math.nan


class EqualTestError(ConditionEquations):
    """The test error of a branch is that of the best linear layer."""

    def condition(self, states: Sequence[Evaluation]) -> float:
        """``log(eps_g/eps_lin)``."""
        (state,) = states
        test = observables.test_error(state.place.model, Overlaps.from_array(state.x))
        return math.log(test / observables.linear_error(state.place.model))


class Pitchfork(ConditionEquations):
    """Another branch leaves: the map neither damps nor amplifies an overlap that vanishes.

    Parameters
    ----------
    place, parameter, quadrature_tol, second
        As in :class:`TransitionEquations`.
    broken : tuple of {"m", "theta"}
        The overlaps that do not vanish on the branch that is left.
    direction : {"m", "theta"}
        The overlap that does not vanish on the other.
    slices_tol : float
        As of :class:`gamp_theory.branch_map.BranchMap`.
    """

    def __init__(
        self,
        place: Place,
        parameter: str,
        broken: tuple[str, ...],
        direction: str,
        quadrature_tol: float,
        second: str | None = None,
        slices_tol: float = SLICES_TOL,
    ) -> None:
        super().__init__(place, parameter, [broken], quadrature_tol, second, slices_tol)
        self.direction = direction

    def condition(self, states: Sequence[Evaluation]) -> float:
        """The growth rate less 1."""
        (state,) = states
        return state.growth()[self.direction] - 1

    def growth(self, point: FixedPoint) -> tuple[float, float]:
        """The growth rate less 1 at a fixed point of the branch that is left, and its error."""
        (map_,) = self.maps
        assert point.overlaps is not None
        model = point.model
        map_.place = Place(model, point.alpha, point.lam)
        p = map_.coordinate(value_of(map_.place, self.parameter))
        u = map_.coordinates(point.overlaps.as_array(), model.rho)
        map_.prepare(u, p)
        map_.residual(u, p)
        base = map_.last
        assert base is not None
        averages = ChannelAverages.from_array(base.averages.as_array() + base.error().as_array())
        moved = map_.imaged(base.x, base.place, base.rule, averages)
        rate = self.condition([base])
        return rate, abs(self.condition([moved]) - rate)


class Fold(TransitionEquations):
    """A branch turns back: its Jacobian is singular.

    The condition is the corner of the inverse of the bordered Jacobian (Griewank and Reddien 1984),
    which is taken by differences of the frozen rule.
    """

    def __init__(
        self,
        place: Place,
        parameter: str,
        broken: tuple[str, ...],
        quadrature_tol: float,
        second: str | None = None,
    ) -> None:
        super().__init__(place, parameter, [broken], quadrature_tol, second)
        self.border: tuple[Vector, Vector] | None = None

    def prepare(self, z: Vector, second: float = math.nan) -> None:
        """Rules, and the borders of the Jacobian."""
        super().prepare(z, second)
        self.border = None
        map_ = self.maps[0]
        if map_.rule is None:
            return
        matrix = self.matrix(z)
        if np.all(np.isfinite(matrix)):
            u, _, vt = np.linalg.svd(matrix)
            self.border = u[:, -1], vt[-1]

    def matrix(self, z: Vector) -> Vector:
        """``R_u``, by central differences."""
        map_ = self.maps[0]
        p = float(z[-1])
        return difference_jacobian(lambda u: map_.residual(u, p), z[:-1], 0.0, floor=FOLD_STEP)

    def residual(self, z: Vector, second: float = math.nan) -> Vector:
        """The fixed point's equations and the corner."""
        map_ = self.maps[0]
        nothing = np.full(len(z), np.nan)
        if not self.inside(second) or self.border is None:
            return nothing
        self.move(second)
        value = map_.residual(z[:-1], float(z[-1]))
        state = map_.last
        matrix = self.matrix(z)
        map_.last = state
        if not np.all(np.isfinite(value)) or not np.all(np.isfinite(matrix)):
            return nothing
        n = len(z) - 1
        bordered = np.zeros((n + 1, n + 1))
        bordered[:n, :n] = matrix
        bordered[:n, n], bordered[n, :n] = self.border
        try:
            corner = np.linalg.solve(bordered, np.append(np.zeros(n), 1.0))[n]
        except np.linalg.LinAlgError:
            return nothing
        return np.append(value, corner)

    def step(self) -> float:
        """Larger: what is differentiated is itself a difference quotient."""
        return FOLD_STEP

    def error(self, z: Vector, second: float, slope: Vector) -> float:
        """The parameter is stationary: its error is along the left null vector."""
        value = self.residual(z, second)
        map_ = self.maps[0]
        base = map_.last
        assert base is not None
        assert np.all(np.isfinite(value))
        error = base.error()
        shift = map_.shift(error, base)
        left_null = np.linalg.svd(slope[:-1, :-1])[0][:, -1]
        return abs(float(left_null @ shift) / float(left_null @ slope[:-1, -1]))


def _train_loss(state: Evaluation) -> float:
    place = state.place
    return observables.train_loss_variational(
        place.model, state.averages, Overlaps.from_array(state.x), place.alpha, place.lam
    )
