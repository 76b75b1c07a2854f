"""The solution Q = 0 of the general model and its growth rates (docs/theory.md, section 5).

All that the state evolution needs there is ``B = H (I + V H)^-1`` with the Hessian H of the loss at
``h = 0``, averaged over the teacher's fields (:mod:`gamp_theory.channel.general_origin`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.general_origin import OriginAverages, OriginRule, OutsideDomain
from gamp_theory.result import Status
from gamp_theory.token_map import TokenMap, jackknife
from gamp_theory.token_overlaps import TokenConjugates
from gamp_theory.token_prior import token_prior_overlaps
from gamp_theory.token_result import GeneralStability

__all__ = ["TokenOrigin", "solve_token_origin"]

Array = NDArray[np.float64]

#: Maps of V at most; nearly all solves take fewer than 30.
MAPS = 500
#: Relative change of V that ends them; Newton steps are tried where it is below a part of V and
#: falls by less than a factor a map.
SETTLED = 1e-12
NEWTON_FROM = 0.3
SLOW = 0.2
#: Difference step of the growth rates in V, relative.
STEP = 1e-4
#: Eigenvalues below this part of the largest are 0: what no symmetry of the state can make grow.
ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class TokenOrigin:
    """The solution of the state evolution with Q = 0, if there is one.

    Attributes
    ----------
    status : Status
        Converged; or there is no such fixed point; or the maps were used up, or left no error bars,
        as beside the fold at which it ends.
    V, V_error : array, shape (L, r, r)
        The smaller solution, whose growth rate in q is below 1, and its standard errors.
    conjugates : TokenConjugates or None
        Only ``V_hat`` is not zero.
    margin : float
        How far ``I + V H`` is from singular over all draws that the search has met: the smallest
        eigenvalue of ``I + V^(1/2) H V^(1/2)``.  NaN if V has no solution.
    growth : dict
        Leading eigenvalue of the linearised map by direction, with its standard error: ``q`` (which
        is the replicon, and that of V), ``m`` and ``theta``; the latter two as one,
        ``m and theta``, where no symmetry keeps them apart.
    eigenvalues : tuple of complex
        All of them but those of V, by decreasing real part.
    loss, loss_error : float
        ``E l(0; y)`` and its standard error.
    maps : int
    draws : int
        Teacher's fields a scramble.
    """

    status: Status
    V: Array
    V_error: Array
    conjugates: TokenConjugates | None
    margin: float
    growth: dict[str, tuple[float, float]]
    eigenvalues: tuple[complex, ...]
    loss: float
    loss_error: float
    maps: int
    draws: int

    @property
    def exists(self) -> bool:
        """Whether V solves the equations with no draw's global prox away from 0."""
        return self.status is Status.CONVERGED

    def stability(self) -> GeneralStability:
        """Stability of Q = 0, where nothing jumps.

        The growth rate in q is the replicon: a random perturbation is a change of q.
        """
        leading = max(self.growth.values(), key=lambda rate: rate[0])
        return GeneralStability(
            eigenvalues=self.eigenvalues,
            spectral_radius=max(abs(value) for value in self.eigenvalues),
            leading_error=leading[1],
            transverse={k: rate for k, rate in self.growth.items() if k in ("m", "theta")},
            orbit_directions=0,
            replicon=self.growth["q"][0],
            replicon_error=self.growth["q"][1],
            jump_mass=0.0,
            jump_mass_error=0.0,
            stable=leading[0] < 1,
        )


def solve_token_origin(map_: TokenMap, draws: int, seed: int = 0) -> TokenOrigin:
    """Solve the state evolution at Q = 0 and linearise it there.

    ``V_l = int gamma_l (lam + sum_k gamma_k V_hat_k)^-1`` with ``V_hat_l = alpha E B_ll``.  The map
    of V is increasing (docs/theory.md, section 5), so that from V = 0 it climbs to the smallest
    solution, if there is one.

    Parameters
    ----------
    map_ : TokenMap
        Model, alpha and lam; the student's attention must be flat at vanishing fields.
    draws : int
        Teacher's fields of each scramble, a power of two.
    seed : int
        Of the scrambles.
    """
    return _Origin(map_, draws, seed).solve()


class _Origin:
    """One solve at Q = 0."""

    def __init__(self, map_: TokenMap, draws: int, seed: int) -> None:
        self.map, self.model = map_, map_.model
        self.rule = OriginRule(map_.model, draws, seed)
        self.shape = self.rule.shape
        self.maps = 0

    # -- averages -----------------------------------------------------------------------------

    def conjugates(self, B: Array) -> TokenConjugates:
        """The conjugates of an average ``E B``."""
        L, r, _ = self.shape
        blocks = B.reshape(L, r, L, r)
        V_hat = self.map.alpha * np.array([blocks[l, :, l] for l in range(L)])
        return TokenConjugates(
            q_hat=np.zeros(self.shape),
            m_hat=np.zeros((L, r)),
            V_hat=0.5 * (V_hat + np.swapaxes(V_hat, 1, 2)),
            theta_hat=np.zeros((L, r, self.model.teacher_rank)),
        )

    def image(self, B: Array) -> Array:
        """V of an average ``E B``.

        Raises
        ------
        OutsideDomain
            If the ridge's quadratic form has no minimum.
        """
        try:
            return token_prior_overlaps(self.model.law, self.conjugates(B), self.map.lam).V
        except ValueError:
            raise OutsideDomain from None

    # -- the solution -------------------------------------------------------------------------

    def solve(self) -> TokenOrigin:
        """The smallest solution, whether it is one, and what grows there."""
        try:
            V, settled = self.climb()
        except OutsideDomain:
            return self.nothing(Status.DOES_NOT_EXIST)
        if not settled:
            return self.nothing(Status.ITERATION_LIMIT)
        margin = 1 - self.rule.strongest_pull(V)
        if margin <= 0 or self.rule.another_minimum(V):
            return self.nothing(Status.DOES_NOT_EXIST, margin)
        try:
            return self.linearised(V, margin)
        except OutsideDomain:  # so near to where it ends that its scrambles disagree
            return self.nothing(Status.ITERATION_LIMIT, margin)

    def climb(self) -> tuple[Array, bool]:
        """V from 0 upwards, with Newton steps where they help; whether it has settled."""
        V = self.next(np.zeros(self.shape))
        before = math.inf
        for _ in range(MAPS):
            image = self.next(V)
            change = float(np.max(abs(image - V)) / np.max(abs(V)))
            if change <= SETTLED:
                return image, True
            slow = SLOW * before < change < NEWTON_FROM
            found = self.newton(V, image) if slow else None
            V, before = image if found is None else found, change
        return V, False

    def next(self, V: Array) -> Array:
        """One map of V."""
        self.maps += 1
        return self.image(self.rule.trace(V))

    def newton(self, V: Array, image: Array) -> Array | None:
        """A Newton step from V; None if it does not help, or may lead beyond the first solution."""
        try:
            step = self.settled_change(self.rule.sums(V).mean(), image - V)
            there = V + step
            left = self.next(there) - there
            self.settled_change(self.rule.sums(there).mean(), left)
        except OutsideDomain:
            return None
        return there if np.max(abs(left)) < 0.5 * np.max(abs(image - V)) else None

    def settled_change(self, sums: OriginAverages, change: Array) -> Array:
        """``(1 - K)^-1`` of a change of V, K the derivative of its map.

        Raises
        ------
        OutsideDomain
            If an eigenvalue of K is 1 or more, as beyond the first solution.
        """
        K = self.response(sums)
        if np.max(abs(np.linalg.eigvals(K))) >= 1:
            raise OutsideDomain
        step = np.linalg.solve(np.eye(len(K)) - K, change.ravel())
        return np.asarray(step, dtype=float).reshape(self.shape)

    def response(self, sums: OriginAverages) -> Array:
        """Linear growth of a change of q, which is that of V too; shape (L r r, L r r)."""
        hats = self.conjugates(sums.B)
        return np.asarray(self.map.noise_response(hats) @ (self.map.alpha * sums.square))

    # -- what grows there ---------------------------------------------------------------------

    def linearised(self, V: Array, margin: float) -> TokenOrigin:
        """The answer at the solution V."""
        sums = self.rule.sums(V)
        mean = sums.mean()
        rates = self.rates(mean)
        leading = _leading(rates)
        directions = self.coordinates_of_V()
        slopes = np.array([self.slope(V, direction) for direction in directions])
        V_shifts, rate_shifts = [], []
        for s in range(len(sums.B)):
            without = sums.mean(without=s)
            shift = self.settled_change(mean, self.image(without.B) - V)
            along = np.linalg.lstsq(
                directions.reshape(len(directions), -1).T, shift.ravel(), rcond=None
            )[0]
            V_shifts.append(shift)
            rate_shifts.append(_leading(self.rates(without)) - leading + along @ slopes)
        errors = jackknife(np.array(rate_shifts))
        losses = self.rule.mean_losses()
        values = np.concatenate(list(rates.values()))
        values[abs(values) < ROUNDING * np.max(abs(values))] = 0
        return TokenOrigin(
            status=Status.CONVERGED,
            V=V,
            V_error=jackknife(np.array(V_shifts)),
            conjugates=self.conjugates(mean.B),
            margin=margin,
            growth={
                name: (float(value), float(error))
                for name, value, error in zip(rates, leading, errors, strict=True)
            },
            eigenvalues=tuple(
                complex(value) for value in values[np.argsort(-values.real, kind="stable")]
            ),
            loss=float(losses.mean()),
            loss_error=float(losses.std(ddof=1) / math.sqrt(len(losses))),
            maps=self.maps,
            draws=self.rule.draws,
        )

    def nothing(self, status: Status, margin: float = math.nan) -> TokenOrigin:
        """There is no such fixed point, or it was not found."""
        nan = np.full(self.shape, np.nan)
        return TokenOrigin(
            status, nan, nan, None, margin, {}, (), math.nan, math.nan, self.maps, self.rule.draws
        )

    def coordinates_of_V(self) -> Array:
        """Directions in which V can change: symmetric, tokens of a class alike; (n, L, r, r)."""
        labels, r = self.map.coordinates.labels, self.model.rank
        found = []
        for c in range(self.map.coordinates.classes):
            for a in range(r):
                for b in range(a + 1):
                    E = np.zeros(self.shape)
                    E[labels == c, a, b] = E[labels == c, b, a] = 1.0
                    found.append(E)
        return np.array(found)

    def slope(self, V: Array, direction: Array) -> Array:
        """Derivative of the leading growth rates along a direction of V."""
        step = STEP * float(np.max(abs(V)))
        sides = [
            _leading(self.rates(self.rule.sums(V + sign * step * direction).mean()))
            for sign in (1, -1)
        ]
        return (sides[0] - sides[1]) / (2 * step)

    def rates(self, sums: OriginAverages) -> dict[str, NDArray[np.complex128]]:
        """Eigenvalues of the linearised map, by what they make grow."""
        directions = self.coordinates_of_V().reshape(-1, self.shape[0] * self.shape[1] ** 2)
        K = np.linalg.lstsq(directions.T, self.response(sums) @ directions.T, rcond=None)[0]
        rates = {"q": np.linalg.eigvals(K)}
        J, m = self.field_response(sums), self.map.coordinates.slices["m"]
        count = m.stop - m.start
        if self.model.positions_independent and self.model.even_target:
            if count:
                rates["m"] = np.linalg.eigvals(J[:count, :count])
            rates["theta"] = np.linalg.eigvals(J[count:, count:])
        else:
            rates["m and theta"] = np.linalg.eigvals(J)
        return rates

    def field_response(self, sums: OriginAverages) -> Array:
        """The linearised map of m and theta, in their coordinates.

        With ``E[w|y] = m + theta rho^-1 y`` and ``g = -B w``.
        """
        map_, law = self.map, self.model.law
        L, r, t = self.model.tokens, self.model.rank, self.model.teacher_rank
        coordinates, where = map_.coordinates, map_.coordinates.slices
        first = sums.first.reshape(L * r, L, r, L, t)
        second = sums.second.reshape(L * r, L, r, L, t, L, t)
        hats = self.conjugates(sums.B)
        columns = []
        for x in np.eye(coordinates.size)[np.r_[where["m"], where["theta"]]]:
            state = coordinates.unpack(x)
            slope = _over(state.theta, law.rho)
            g = -np.einsum("xka,ka->x", sums.B.reshape(L * r, L, r), state.m)
            g -= np.einsum("xkakc,kac->x", first, slope)
            gy = -np.einsum("xkalc,ka->xlc", first, state.m)
            gy -= np.einsum("xkakelc,kae->xlc", second, slope)
            own = np.einsum("lalc->lac", gy.reshape(L, r, L, t))
            moved = TokenConjugates(
                q_hat=hats.q_hat,
                m_hat=map_.alpha * g.reshape(L, r),
                V_hat=hats.V_hat,
                theta_hat=_over(map_.alpha * own + hats.V_hat @ state.theta, law.rho),
            )
            there = token_prior_overlaps(law, moved, map_.lam)
            m = coordinates.basis.T @ there.m
            columns.append(np.append(m, there.theta[coordinates.representatives]))
        return np.stack(columns, axis=1)


def _over(x: Array, rho: Array) -> Array:
    """``x_l rho_l^-1``."""
    return np.asarray(np.swapaxes(np.linalg.solve(rho, np.swapaxes(x, 1, 2)), 1, 2))


def _leading(rates: dict[str, NDArray[np.complex128]]) -> Array:
    return np.array([float(values.real.max()) for values in rates.values()])
