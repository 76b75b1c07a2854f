"""The map of state evolution in the coordinates in which branches are followed.

A branch is a curve of fixed points in the overlaps that do not vanish on it and one parameter.  Its
coordinates are ``log q``, ``m/sqrt(q)``, ``log V`` and ``atanh(theta/sqrt(rho q))``; the parameter
enters by its logarithm, omega as it is.  So 1 is a natural unit of each, also where q goes to 0.

The equations are relative: ``log(F_q/q)``, ``F_m/m - 1``, ``log(F_V/V)``, ``F_theta/theta - 1``.
Divided by m, the solution m = 0 is divided out: where a positional branch meets the uninformed one
these equations are regular, and even in m.  They are evaluated at ``m/sqrt(q) = sqrt(c**2 +
SHIFT**2)`` for a coordinate c, so that c may pass through zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.pair import PairChannel, PairRule
from gamp_theory.channel.plane import PlaneUnusable
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.stability import MapJacobian, growth_rates

if TYPE_CHECKING:
    from gamp_theory.state_evolution import FixedPoint

__all__ = ["PARAMETERS", "BranchMap", "Evaluation", "Place", "place_at", "value_of"]

Vector: TypeAlias = NDArray[np.float64]

PARAMETERS = ("alpha", "omega", "lam", "sigma")
#: Least m/sqrt(q) and theta/sqrt(rho q) of a state in the equations for one that is not 0.
SHIFT = 1e-3
#: Steps of differences in the coordinates, for rules that are smooth to rounding, and slices.
STEP = {"plane": 1e-5, "slices": 1e-4}
#: Accuracy of the rule of the Jacobian: plane, and slices where that is useless.
JACOBIAN_TOL = 0.02
JACOBIAN_SLICES_TOL = 3e-3
#: Slices of a rule, half a second an evaluation, beyond which a coarser one has to do: the points
#: are flagged then.
MOST_SLICES = 60_000
OVERLAPS = ("q", "m", "V", "theta")
DIRECTIONS = {"m": 1, "theta": 3}


@dataclass(frozen=True)
class Place:
    """Where in the space of parameters."""

    model: AttentionModel
    alpha: float
    lam: float


def place_at(place: Place, parameter: str, value: float) -> Place:
    """`place` with one parameter changed."""
    if parameter == "alpha":
        return replace(place, alpha=value)
    if parameter == "lam":
        return replace(place, lam=value)
    return replace(place, model=place.model.with_parameters(**{parameter: value}))


def value_of(place: Place | FixedPoint, parameter: str) -> float:
    """The value of a parameter at a place or a fixed point."""
    return float(getattr(place if parameter in ("alpha", "lam") else place.model, parameter))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of the map.

    Attributes
    ----------
    x, image : array, shape (4,)
        The overlaps (q, m, V, theta) and what the map makes of them.
    averages : ChannelAverages
    rule : PairRule
        What averaged.
    place : Place
    """

    x: Vector
    image: Vector
    averages: ChannelAverages
    rule: PairRule
    place: Place

    def relative(self, inside: tuple[int, ...]) -> Vector:
        """The relative equations of the components `inside`; NaN where the image is no state."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.image / self.x
            both = np.where(np.isin(np.arange(4), (0, 2)), np.log(ratio), ratio - 1)
        return both[list(inside)]

    def growth(self) -> dict[str, float]:
        """What the map multiplies a small m by, and a small theta."""
        return growth_rates(self.place.model.rho, self.averages, self.place.alpha, self.place.lam)

    def error(self) -> ChannelAverages:
        """Signed estimate of the error of the averages; it takes ``rule.comparisons`` maps."""
        # the rule may have been made at another omega or sigma
        rule = self.rule.for_model(self.place.model)
        return rule.error(Overlaps.from_array(self.x), self.averages)


class BranchMap:
    """The equations of one branch, with rules that are frozen while a point is solved.

    Parameters
    ----------
    place : Place
        Model, alpha and lam; that of them which is followed is replaced.
    parameter : {"alpha", "omega", "lam", "sigma"}
    broken : tuple of {"m", "theta"}
        The overlaps that do not vanish on the branch, beside q and V.
    quadrature_tol : float
        Accuracy of the rules.
    slices_tol : float
        The same of slices, where it comes to them and this is larger.
    """

    def __init__(
        self,
        place: Place,
        parameter: str,
        broken: tuple[str, ...],
        quadrature_tol: float,
        slices_tol: float = 0.0,
    ) -> None:
        self.slices_tol = slices_tol
        self.place, self.parameter, self.broken = place, parameter, broken
        self.inside = tuple(
            i for i, name in enumerate(OVERLAPS) if name in ("q", "V") or name in broken
        )
        #: what is asked of rules, and what of a plane rule, where that costs little
        self.quadrature_tol = self.finer_tol = quadrature_tol
        self.most_slices = MOST_SLICES
        #: whether a plane rule will do: what it leaves out does not fall with its tolerance
        self.planes = True
        #: of what accuracy a plane is preferred to slices
        self.plane_enough = 0.0
        self.rule: PairRule | None = None
        self.coarse: PairRule | None = None
        #: why the last state could not be evaluated: "", "domain" or "cost"
        self.refusal = ""
        self.last: Evaluation | None = None
        self.spectrum: MapJacobian | None = None
        self.maps = 0
        self.coarse_maps = 0

    # -- coordinates ----------------------------------------------------------------------------

    def value(self, p: float) -> float:
        """The parameter at a coordinate."""
        return p if self.parameter == "omega" else math.exp(p)

    def coordinate(self, value: float) -> float:
        """Inverse of :meth:`value`."""
        return value if self.parameter == "omega" else math.log(value)

    def rate(self, value: float) -> float:
        """Derivative of the parameter by its coordinate."""
        return 1.0 if self.parameter == "omega" else value

    def coordinates(self, x: Vector, rho: float) -> Vector:
        """Coordinates of overlaps, shape (len(inside),)."""
        c = self._cosines(x, rho)
        free = np.sqrt(np.maximum(c**2 - SHIFT**2, 0.0))
        u = np.array([math.log(x[0]), free[0], math.log(x[2]), math.atanh(free[1])])
        return u[list(self.inside)]

    def overlaps(self, u: Vector, rho: float) -> Vector:
        """Overlaps (q, m, V, theta) at coordinates."""
        return self._state(self._parts(u), rho)

    def _cosines(self, x: Vector, rho: float) -> Vector:
        return np.array([abs(x[1]) / math.sqrt(x[0]), abs(x[3]) / math.sqrt(rho * x[0])])

    def _parts(self, u: Vector) -> Vector:
        """``(log q, m/sqrt(q), log V, theta/sqrt(rho q))``."""
        parts = np.zeros(4)
        parts[list(self.inside)] = u
        parts[3] = math.tanh(parts[3])
        for i in (1, 3):
            if i in self.inside:
                parts[i] = math.hypot(parts[i], SHIFT)
        return parts

    def _state(self, parts: Vector, rho: float) -> Vector:
        root = math.exp(0.5 * parts[0])
        return np.array(
            [root**2, parts[1] * root, math.exp(parts[2]), parts[3] * math.sqrt(rho) * root]
        )

    def at(self, p: float) -> Place | None:
        """Model, alpha and lam at a coordinate of the parameter; None outside its domain."""
        if self.parameter == "omega" and not 0 <= p <= 1:
            return None
        if abs(p) > 50:
            return None
        return place_at(self.place, self.parameter, self.value(p))

    # -- rules ----------------------------------------------------------------------------------

    def prepare(self, u: Vector, p: float) -> None:
        """Make rules for states near ``(u, p)``."""
        self.rule = self.coarse = None
        place = self.at(p)
        if place is None or not self.admissible(u, place):
            self.refusal = "domain"
            return
        at = Overlaps.from_array(self.overlaps(u, place.model.rho))
        self.rule = self.made(place, at)

    def made(self, place: Place, at: Overlaps) -> PairRule | None:
        """A rule of the accuracy asked for, or of what is to be had at the largest cost."""
        channel = PairChannel(place.model)
        wanted = (self.finer_tol, self.quadrature_tol)
        for tol in dict.fromkeys((*wanted, max(self.quadrature_tol, self.plane_enough))):
            plane = channel.plane(at, tol) if self.planes else None
            if plane is not None:
                return plane
        for tol in (self.quadrature_tol, 10 * self.quadrature_tol, 100 * self.quadrature_tol):
            rule = channel.slices(at, max(tol, self.slices_tol))
            if rule.cost <= self.most_slices:
                return rule
        self.refusal = "cost"
        return None

    def admissible(self, u: Vector, place: Place) -> bool:
        """Whether the state is one that averages can be taken at."""
        if not np.all(np.isfinite(u)) or np.max(np.abs(u)) > 30:
            return False
        x = self.overlaps(u, place.model.rho)
        # the ridge alone has V = rho/lam
        return bool(x[2] * place.lam < 4 * place.model.rho)

    # -- equations ------------------------------------------------------------------------------

    def evaluate(self, x: Vector, place: Place, rule: PairRule) -> Evaluation | None:
        """One map with a frozen rule."""
        try:
            averages = rule.for_model(place.model).averages(Overlaps.from_array(x))
        except PlaneUnusable:
            self.refusal = "domain"
            return None
        return self.imaged(x, place, rule, averages)

    def imaged(
        self, x: Vector, place: Place, rule: PairRule, averages: ChannelAverages
    ) -> Evaluation:
        """The map with averages that are known already: alpha and lam enter the prior alone."""
        conjugates = averages.conjugates(place.alpha).as_array()
        image = prior_map(place.model.rho, conjugates, place.lam)
        return Evaluation(x, image, averages, rule, place)

    def residual(self, u: Vector, p: float) -> Vector:
        """The relative equations at ``(u, p)``, shape (len(inside),); NaN outside the domain."""
        nothing = np.full(len(self.inside), np.nan)
        place = self.at(p)
        if self.rule is None or place is None or not self.admissible(u, place):
            self.refusal = self.refusal or "domain"
            return nothing
        self.maps += 1
        self.last = self.evaluate(self.overlaps(u, place.model.rho), place, self.rule)
        if self.last is None:
            return nothing
        self.refusal = ""
        return self.last.relative(self.inside)

    def jacobian(self, u: Vector, p: float, residual: Vector) -> Vector:
        """``[R_u, R_p]`` by forward differences of a coarse rule, with the spectrum of the map."""
        place = self.at(p)
        if place is None or not self.admissible(u, place):
            return np.full((len(self.inside), len(self.inside) + 1), np.nan)
        x = self.overlaps(u, place.model.rho)
        base = self.evaluate(x, place, self.coarse_rule(x, place))
        self.coarse_maps += 1
        if base is None:
            return np.full((len(self.inside), len(self.inside) + 1), np.nan)
        slope, matrix = self.differences(u, p, base)
        transverse: dict[str, float | None] = {"m": None, "theta": None}
        growth = base.growth()
        for name, i in DIRECTIONS.items():
            if i not in self.inside:
                matrix[i, i] = transverse[name] = growth[name]
        self.spectrum = MapJacobian(matrix, 1 + len(self.inside), transverse)
        return slope

    def coarse_rule(self, x: Vector, place: Place) -> PairRule:
        """The rule that derivatives are taken with; it stays until the next :meth:`prepare`."""
        if self.coarse is None:
            self.coarse = PairChannel(place.model).rule(
                Overlaps.from_array(x), JACOBIAN_TOL, slices_tol=JACOBIAN_SLICES_TOL
            )
        return self.coarse

    def accurate(self, u: Vector, p: float, residual: Vector) -> Vector:
        """``[R_u, R_p]`` by forward differences of the rule that the residual is taken with."""
        if self.last is None or not np.all(np.isfinite(residual)):
            return np.full((len(self.inside), len(self.inside) + 1), np.nan)
        return self.differences(u, p, self.last)[0]

    def differences(self, u: Vector, p: float, base: Evaluation) -> tuple[Vector, Vector]:
        """``[R_u, R_p]``, and the Jacobian of the map in (q, m, V, theta) inside the subspace."""
        inside = list(self.inside)
        rho = base.place.model.rho
        parts = self._parts(u)
        step = STEP[base.rule.kind]
        value = base.relative(self.inside)
        columns, images, moves = [], [], []
        for i in inside:
            moved = parts.copy()
            h = step
            if i in (1, 3):  # downwards, out of the way of theta**2 = rho q
                h = -step * max(parts[i], 0.1) * (1.0 if i == 1 else 1 - parts[3] ** 2)
                if abs(h) > 0.5 * parts[i]:
                    h = -h
            moved[i] += h
            there = self.evaluate(self._state(moved, rho), base.place, base.rule)
            self.count(base)
            if there is None:
                nothing = np.full((len(inside), len(inside) + 1), np.nan)
                return nothing, np.full((4, 4), np.nan)
            # by the coordinate, of which the part is an even function
            chain = 1.0
            if i in (1, 3):
                c = u[inside.index(i)] if i == 1 else math.tanh(u[inside.index(i)])
                chain = c / parts[i] * (1.0 if i == 1 else 1 - c**2)
            columns.append(chain * (there.relative(self.inside) - value) / h)
            images.append((there.image - base.image)[inside])
            moves.append((there.x - base.x)[inside])
        columns.append(self.along(u, p, base))
        matrix = np.zeros((4, 4))
        matrix[np.ix_(inside, inside)] = np.linalg.solve(np.array(moves), np.array(images)).T
        return np.stack(columns, axis=1), matrix

    def along(self, u: Vector, p: float, base: Evaluation) -> Vector:
        """``R_p``."""
        h = STEP[base.rule.kind]
        if self.at(p + h) is None:
            h = -h
        place = self.at(p + h)
        assert place is not None
        if self.parameter in ("alpha", "lam"):
            h = 1e-6 if h > 0 else -1e-6  # smooth to rounding, whatever the rule
            place = place_at(self.place, self.parameter, self.value(p + h))
            there = self.imaged(base.x, place, base.rule, base.averages)
            return (there.relative(self.inside) - base.relative(self.inside)) / h
        x = self.overlaps(u, place.model.rho)
        moved = self.evaluate(x, place, base.rule)
        self.count(base)
        if moved is None:
            return np.full(len(self.inside), np.nan)
        return (moved.relative(self.inside) - base.relative(self.inside)) / h

    def count(self, base: Evaluation) -> None:
        """One more map, of the rule of `base`."""
        if base.rule is self.coarse:
            self.coarse_maps += 1
        else:
            self.maps += 1

    def shift(self, error: ChannelAverages, base: Evaluation) -> Vector:
        """What an error of the averages does to the relative equations."""
        moved = ChannelAverages.from_array(base.averages.as_array() + error.as_array())
        there = self.imaged(base.x, base.place, base.rule, moved)
        return there.relative(self.inside) - base.relative(self.inside)
