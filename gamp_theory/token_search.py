"""Search for a fixed point of the general model from a named start, with few points.

The map is iterated with a rule of few points, made anew where the state has moved: by Anderson
acceleration, and along the flow of the map.  What it ends at is a guess that
:class:`gamp_theory.token_evolution.GeneralSolver` polishes with more points.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.general import DEFAULT_MEMORY_LIMIT, GeneralRule, general_rule
from gamp_theory.numerics.fixed_point import FixedPointStatus, solve_fixed_point
from gamp_theory.result import Status
from gamp_theory.token_map import TokenMap, mean_size
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import NOISE_FLOOR, TokenOverlaps
from gamp_theory.token_starts import token_start

__all__ = ["SEARCH_SAMPLES", "SEARCH_TOL", "TokenSearch", "Vanishes"]

Array = NDArray[np.float64]

#: Points per scramble, and residual that ends the search.
SEARCH_SAMPLES = 2**7
SEARCH_TOL = 5e-3
#: Maps, memory and mixing of each attempt of the search.  Without memory it follows the flow of the
#: map.
ATTEMPTS = ((24, 6, 0.4), (20, 0, 0.15), (30, 6, 0.2), (30, 0, 0.08), (40, 6, 0.1))
#: What comes first where that has ended on another branch: a map from far away can throw m to the
#: other side, and what is left of it beyond the branch.
FLOW = (16, 0, 0.1)
#: What the branch of a start has.
NEEDED = {"semantic": ("theta",), "positional": ("m",), "mixed": ("m", "theta")}
#: A rule is made anew where the state has moved by more than this part of its size.
MOVED = 0.3
START_DOUBLINGS = 6  # of the noise that a search begins with, until the map can be taken there
REACH = 3.0  # largest factor by which the size of q or V may change in a step
#: The search is on its way to Q = 0 when q, in units of rho, is below this.
VANISHING = 1e-6
#: An overlap below this part of its natural size, which a symmetry could keep at 0, is taken to be
#: 0 unless what is at 0 is unstable towards it by so many standard errors.
SMALL_OVERLAP = 0.1
CERTAIN = 2.0


class Vanishes(Exception):
    """The student shrinks to nothing: the search is on its way to Q = 0."""


class TokenSearch(TokenMap):
    """The map at one place, and what iterates it there.

    Attributes
    ----------
    start : str or TokenOverlaps
    rule : GeneralRule or None
        The last one that was made; its wells are where the next one begins to search.
    last : array or None
        Where the map was taken last.
    """

    def __init__(
        self,
        model: GeneralModel,
        alpha: float,
        lam: float,
        start: str | TokenOverlaps,
        seed: int = 0,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
    ) -> None:
        super().__init__(model, alpha, lam)
        self.start, self.seed, self.memory_limit = start, seed, memory_limit
        self.rule: GeneralRule | None = None
        self.last: Array | None = None

    def admissible(self, x: Array) -> bool:
        """Whether the map can be taken at x, and x is within reach of the last state."""
        overlaps = self.coordinates.unpack(x)
        q, V = mean_size(overlaps.q), mean_size(overlaps.V)
        largest = 4 * float(np.max(self.model.law.gamma)) / self.lam
        for matrix in (overlaps.noise(self.model.law.rho), overlaps.V):
            lowest = np.linalg.eigvalsh(matrix)
            if not np.all(lowest[:, 0] > 1e-2 * NOISE_FLOOR * lowest[:, -1]):
                return False
        if not (0 < V < largest and 0 < q < 1e6):
            return False
        if self.last is None:
            return True
        before = self.coordinates.unpack(self.last)
        ratios = (q / mean_size(before.q), V / mean_size(before.V))
        return all(1 / REACH < ratio < REACH for ratio in ratios)

    def first_state(self) -> TokenOverlaps:
        """Where the search begins."""
        if isinstance(self.start, str):
            return token_start(self.start, self.model, self.alpha, self.lam)
        # averages are taken inside the domain: a start on its edge is moved off
        rho, start = self.model.law.rho, self.start
        edge = 1e-3 * np.trace(start.q, axis1=1, axis2=2)[:, None, None] * np.eye(start.rank)
        lowest = np.linalg.eigvalsh(start.noise(rho))[:, :1, None]
        q = start.q + np.where(lowest < edge[:, :1, :1], edge + 1e-12 * np.eye(start.rank), 0.0)
        return TokenOverlaps(q, start.m, start.V, start.theta)

    def search(self, x0: Array) -> tuple[Array, Status]:
        """Find the fixed point of the map with few points; two ways, if one misses the branch."""
        first: tuple[Array, Status] | Vanishes
        try:
            first = self.descend(x0, ATTEMPTS)
            if first[1] is Status.CONVERGED and self.reached(first[0]):
                return first
        except Vanishes as vanishes:
            first = vanishes
        if isinstance(self.start, str) and self.start in NEEDED:
            last = self.last
            with contextlib.suppress(Vanishes):
                second = self.descend(x0, (FLOW, *ATTEMPTS))
                if second[1] is Status.CONVERGED and self.reached(second[0]):
                    return second
            self.last = last
        if isinstance(first, Vanishes):
            raise first
        return first

    def reached(self, x: Array) -> bool:
        """Whether x has what the branch of the start has; other starts have no such branch."""
        needed = NEEDED.get(self.start, ()) if isinstance(self.start, str) else ()
        return all(self.share(x, name) >= SMALL_OVERLAP for name in needed)

    def share(self, x: Array, name: str) -> float:
        """Largest entry of m or theta in units of its natural size."""
        overlaps = self.coordinates.unpack(x)
        unit = math.sqrt(mean_size(overlaps.q))
        if name == "theta":
            unit *= math.sqrt(mean_size(self.model.law.rho))
        return float(np.max(abs(getattr(overlaps, name)), initial=0.0)) / unit

    def descend(
        self, x0: Array, attempts: Sequence[tuple[int, int, float]]
    ) -> tuple[Array, Status]:
        """Iterate the map with few points, made anew where the state has moved."""

        def cheap(x: Array) -> Array:
            self.maps += 1
            self.last = x
            if mean_size(self.coordinates.unpack(x).q) < VANISHING * mean_size(self.model.law.rho):
                raise Vanishes
            try:
                if self.rule is None or self.moved(x, self.rule.at) > MOVED:
                    self.rule = self.make(x, SEARCH_SAMPLES)
                evaluation = self.map(x, self.rule)
            except ValueError:  # outside the domain
                return np.full_like(x, np.nan)
            return x + self.residual(evaluation)

        x, status = self.mapped(x0), Status.ITERATION_LIMIT
        for maps, memory, mixing in attempts:
            self.last = None
            result = solve_fixed_point(
                cheap,
                x,
                atol=SEARCH_TOL * self.units(x),
                rtol=0.0,
                memory=memory,
                mixing=mixing,
                newton=False,
                max_evaluations=maps,
                admissible=self.admissible,
            )
            status = _STATUS[result.status]
            if status is Status.CONVERGED:
                return result.x, status
            if memory == 0 and self.last is not None:
                x = self.last  # where the flow has led
        return x, status

    def mapped(self, x: Array) -> Array:
        """`x`, with more noise in q until it has an image.

        Where a column of the student is little but noise the loss can curve down along it by more
        than the ridge holds: then V_hat is indefinite.
        """
        start = self.coordinates.unpack(x)
        noise = start.noise(self.model.law.rho)
        for doublings in range(START_DOUBLINGS):
            q = start.q + (2**doublings - 1) * noise
            z = self.coordinates.pack(TokenOverlaps(q, start.m, start.V, start.theta))
            self.maps += 1
            try:
                self.rule = self.make(z, SEARCH_SAMPLES)
                self.map(z, self.rule)
            except ValueError:
                continue
            return z
        return x

    def make(
        self, x: Array, samples: int, *, brief: bool = False, audit: bool = False
    ) -> GeneralRule:
        """A rule at x, its wells searched from those of the last one."""
        return general_rule(
            self.model,
            self.coordinates.unpack(x),
            samples,
            seed=self.seed,
            previous=self.rule,
            brief=brief,
            audit=audit,
            memory_limit=self.memory_limit,
        )

    def kept_by_symmetry(self) -> list[str]:
        """The overlaps that stay at 0 once they are there."""
        model = self.model
        if not (model.positions_independent and model.even_target):
            return []
        return ["m", "theta"] if model.even_student and self.coordinates.basis.size else ["theta"]

    def without_remnant(self, x: Array, name: str, rule: GeneralRule) -> Array:
        """x, or the fixed point where a small overlap is 0, if that is not clearly unstable.

        Where samples jump at the origin the map has steps of one sample each, and an overlap with
        an eigenvalue near 1 towards it can stop at a small value (docs/numerics.md).
        """
        if not 0 < self.share(x, name) < SMALL_OVERLAP:
            return x
        flat = x.copy()
        flat[self.coordinates.slices[name]] = 0.0
        flat = self.approach(flat, rule)
        evaluation, slopes = self.map(flat, rule), self.slopes(flat, rule)
        self.maps += 1
        lost = np.max(abs(self.residual(evaluation)) / self.units(flat)) > SEARCH_TOL
        rate, error = self.transverse(name, slopes)
        return x if lost or rate > 1 + CERTAIN * error else flat

    def approach(self, x: Array, rule: GeneralRule) -> Array:
        """A few accelerated maps with the points of an answer."""

        def F(z: Array) -> Array:
            self.maps += 1
            self.last = z
            try:
                return z + self.residual(self.map(z, rule))
            except ValueError:
                return np.full_like(z, np.nan)

        self.last = None
        result = solve_fixed_point(
            F,
            x,
            atol=0.2 * SEARCH_TOL * self.units(x),
            rtol=0.0,
            memory=6,
            mixing=0.4,
            newton=False,
            max_evaluations=10,
            admissible=self.admissible,
        )
        return result.x


_STATUS = {
    FixedPointStatus.CONVERGED: Status.CONVERGED,
    FixedPointStatus.ITERATION_LIMIT: Status.ITERATION_LIMIT,
    FixedPointStatus.LEFT_DOMAIN: Status.LEFT_DOMAIN,
    FixedPointStatus.NON_FINITE: Status.NON_FINITE,
}
