"""The map of the general model in the coordinates of a branch: equations to be followed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.general import GeneralRule
from gamp_theory.numerics.differences import jacobian
from gamp_theory.token_evolution import GeneralSolver
from gamp_theory.token_map import TokenEvaluation, TokenSlopes, mean_size
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import Coordinates, TokenOverlaps

__all__ = ["BranchCoordinates", "TokenBranchMap"]

Array: TypeAlias = NDArray[np.float64]

#: All wells are searched anew where the state has moved by so much of its size.
MOVED = 0.3
#: Difference step in the logarithm of the parameter, which enters in closed form.
PARAMETER_STEP = 1e-4


@dataclass(frozen=True, eq=False)
class BranchCoordinates:
    """Coordinates along a branch, in which 1 is a natural unit however far the branch leads.

    Of the vectors of :class:`gamp_theory.token_overlaps.Coordinates`: logarithms of the diagonals
    of the Cholesky factors, all else in units of their size.  Components that a symmetry keeps at
    0 are left out.

    Attributes
    ----------
    coordinates : Coordinates
    active : boolean array
        Which components take part.
    """

    coordinates: Coordinates
    active: NDArray[np.bool_]

    def of(self, x: Array) -> Array:
        """The coordinates of a vector x."""
        return self._whole(x)[self.active]

    def back(self, u: Array) -> Array:
        """The vector x of coordinates u."""
        whole = np.zeros(len(self.active))
        whole[self.active] = u
        where, diagonal = self.coordinates.slices, self._diagonal()
        x = whole.copy()
        for name in ("noise", "V"):
            part = whole[where[name]]
            roots = np.exp(part[diagonal])
            x[where[name]] = np.where(diagonal, 0.0, part * _rms(roots))
            x[where[name]][diagonal] = roots
        size = _rms(x[where["noise"]][diagonal])
        x[where["m"]] = size * whole[where["m"]]
        x[where["theta"]] = size * self._teacher() * whole[where["theta"]]
        return x

    def _whole(self, x: Array) -> Array:
        where, diagonal = self.coordinates.slices, self._diagonal()
        u = x.copy()
        for name in ("noise", "V"):
            part = x[where[name]]
            u[where[name]] = part / _rms(part[diagonal])
            u[where[name]][diagonal] = np.log(part[diagonal])
        size = _rms(x[where["noise"]][diagonal])
        u[where["m"]] = x[where["m"]] / size
        u[where["theta"]] = x[where["theta"]] / (size * self._teacher())
        return u

    def _diagonal(self) -> NDArray[np.bool_]:
        """Which entries of the factors are on a diagonal."""
        rows, columns = np.tril_indices(self.coordinates.rank)
        return np.tile(rows == columns, self.coordinates.classes)

    def _teacher(self) -> float:
        return math.sqrt(mean_size(self.coordinates.rho))


class TokenBranchMap:
    """``R(u, p) = 0`` of a branch: u the coordinates, p the logarithm of the parameter.

    R is what the map changes of u.  Where the student can be rotated, R has in its place, in these
    directions, that the state is not rotated against the one it was prepared at.

    Parameters
    ----------
    model : GeneralModel
    parameter : {"alpha", "lam"}
    alpha, lam : float
        The one that is not the parameter stays.
    tol : float
        Of the fixed points.
    samples : int
        Points per scramble.
    """

    def __init__(
        self,
        model: GeneralModel,
        parameter: str,
        alpha: float,
        lam: float,
        tol: float,
        samples: int,
    ) -> None:
        self.model, self.parameter, self.tol, self.samples = model, parameter, tol, samples
        self.alpha, self.lam = alpha, lam
        self.rule: GeneralRule | None = None
        self.searched: TokenOverlaps | None = None
        self.coordinates: BranchCoordinates | None = None
        self.reference = np.empty(0)
        self.turns = np.empty((0, 0))
        self.last: TokenEvaluation | None = None
        self.slopes: TokenSlopes | None = None
        self.maps = self.other_maps = 0

    def solver(self, p: float, start: str | TokenOverlaps = "semantic") -> GeneralSolver:
        """What makes fixed points at a coordinate of the parameter."""
        value = math.exp(p)
        alpha, lam = (value, self.lam) if self.parameter == "alpha" else (self.alpha, value)
        return GeneralSolver(self.model, alpha, lam, start, self.tol)

    def begin(self, overlaps: TokenOverlaps, p: float) -> Array:
        """The coordinates of a state, and which take part."""
        solver = self.solver(p)
        x = solver.representative(solver.coordinates.pack(overlaps))
        self.search(solver, x)
        assert self.rule is not None
        evaluation = solver.map(x, self.rule)
        self.maps += 1
        active = (x != 0) | (evaluation.value != 0)
        self.coordinates = BranchCoordinates(solver.coordinates, active)
        return self.coordinates.of(x)

    def search(self, solver: GeneralSolver, x: Array) -> None:
        """A rule at x; all wells are searched for where the last search was too far away."""
        solver.rule = self.rule
        far = self.searched is None or solver.moved(x, self.searched) > MOVED
        self.rule = solver.make(x, self.samples, brief=not far)
        if far:
            self.searched = self.rule.at

    def state(self, u: Array) -> Array:
        """The vector of overlaps of coordinates u."""
        assert self.coordinates is not None
        return self.coordinates.back(u)

    # -- what the continuation asks for --------------------------------------------------------

    def prepare(self, u: Array, p: float) -> None:
        """Make the rule of a step, and fix the rotation."""
        assert self.coordinates is not None
        x, solver = self.state(u), self.solver(p)
        self.last = self.slopes = None
        try:
            self.search(solver, x)
        except ValueError:  # outside the domain: the residual will say so
            return
        self.reference = u
        self.turns = solver.orbit(x, self.coordinates.of)

    def residual(self, u: Array, p: float) -> Array:
        """R, shape (n,); NaN outside the domain."""
        assert self.rule is not None
        assert self.coordinates is not None
        x, solver = self.state(u), self.solver(p)
        try:
            if not solver.admissible(x):
                raise ValueError("outside the domain")
            self.last = solver.map(x, self.rule)
            self.maps += 1
        except ValueError:
            return np.full_like(u, np.nan)
        f = self.coordinates.of(self.last.value) - u
        B = self.turns
        return f + B @ (B.T @ (u - self.reference - f))

    def jacobian(self, u: Array, p: float, R: Array) -> Array:
        """``[R_u, R_p]``, shape (n, n + 1); its derivatives of the map are kept in `slopes`."""
        coordinates, rule = self.coordinates, self.rule
        assert rule is not None
        assert coordinates is not None
        x, solver = self.state(u), self.solver(p)
        try:
            evaluation = self.last
            if evaluation is None or not np.array_equal(evaluation.x, x):
                evaluation = solver.map(x, rule)
                self.other_maps += 1
            self.slopes = slopes = solver.slopes(x, rule)
        except ValueError:
            return np.full((len(u), len(u) + 1), np.nan)
        self.other_maps += solver.other_maps
        forward = jacobian(coordinates.of, evaluation.value, 0.0, floor=1e-7)
        backward = jacobian(coordinates.back, u, 0.0, floor=1e-7)
        R_u = forward @ slopes.matrix @ backward - np.eye(len(u))
        R_p = self.by_parameter(evaluation, p)
        B = self.turns
        across = np.eye(len(u)) - B @ B.T
        return np.column_stack([across @ R_u + B @ B.T, across @ R_p])

    def by_parameter(self, evaluation: TokenEvaluation, p: float) -> Array:
        """Derivative of the map by p at a state; no average depends on the parameter."""
        assert self.coordinates is not None
        sides = []
        for sign in (1, -1):
            there = self.solver(p + sign * PARAMETER_STEP)
            hats = evaluation.averages.conjugates(there.alpha)
            sides.append(self.coordinates.of(there.prior(hats)))
        return (sides[0] - sides[1]) / (2 * PARAMETER_STEP)

    def deviations(self, p: float) -> Array:
        """The map with one scramble left out, minus the map, at the last state; (scrambles, n)."""
        assert self.last is not None
        assert self.coordinates is not None
        here = self.coordinates.of(self.last.value)
        values = self.solver(p).values_without_one(self.last.averages)
        return np.array([self.coordinates.of(value) - here for value in values])


def _rms(values: Array) -> float:
    return math.sqrt(float(np.mean(values**2)))
