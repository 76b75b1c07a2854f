"""The state-evolution map of the general model as a deterministic function of a vector.

The points of a :class:`gamp_theory.channel.general.GeneralRule` are the same in every map, so that
the map can be differentiated and followed; leaving out one scramble at a time (the jackknife) gives
the errors of all that is computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.general import FieldAverages, GeneralRule
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import Coordinates, TokenConjugates, TokenOverlaps
from gamp_theory.token_prior import ridge_terms, token_prior_overlaps
from gamp_theory.token_result import GeneralStability

__all__ = ["TokenEvaluation", "TokenMap", "TokenSlopes", "jackknife", "mean_size"]

Array = NDArray[np.float64]

STEP = 0.02  # of differences, in units of each coordinate
ROTATION_STEP = 1e-4
DEPENDENT = 1e-6  # relative size of a tangent that is taken for zero


@dataclass(frozen=True, eq=False)
class TokenEvaluation:
    """One map: where, the value in coordinates, and the averages."""

    x: Array
    value: Array
    averages: FieldAverages
    conjugates: TokenConjugates


@dataclass(frozen=True, eq=False)
class TokenSlopes:
    """Derivatives of the map, with one scramble left out in each, and of the test error."""

    matrix: Array  # (n, n)
    without: Array  # (scrambles, n, n)
    test_error: Array  # (n,)


class TokenMap:
    """The map at one place: model, alpha and lam.

    Attributes
    ----------
    coordinates : Coordinates
        Of the vectors x.
    maps, other_maps : int
        Maps so far: those that lead to a fixed point, and those for Jacobians and error bars; who
        calls :meth:`map` counts.
    """

    def __init__(self, model: GeneralModel, alpha: float, lam: float) -> None:
        self.model, self.alpha, self.lam = model, alpha, lam
        self.coordinates = Coordinates.of(model.law, model.rank)
        self.maps = self.other_maps = 0

    def map(self, x: Array, rule: GeneralRule) -> TokenEvaluation:
        """One undamped map.

        Raises
        ------
        ValueError
            If x, or where it leads, is outside the domain.
        """
        averages = rule.averages(self.coordinates.unpack(x))
        hats = averages.conjugates(self.alpha)
        return TokenEvaluation(x, self.prior(hats), averages, hats)

    def prior(self, hats: TokenConjugates) -> Array:
        """What the ridge makes of the conjugates, in coordinates."""
        return self.coordinates.pack(token_prior_overlaps(self.model.law, hats, self.lam))

    def without_one(self, averages: FieldAverages) -> list[Array]:
        """Averages over all scrambles but one."""
        total, count = averages.values.sum(axis=0), len(averages.values)
        return [(total - values) / (count - 1) for values in averages.values]

    def values_without_one(self, averages: FieldAverages) -> Array:
        """The map with one scramble left out, shape (scrambles, n)."""
        return np.array(
            [
                self.prior(averages.conjugates(self.alpha, values))
                for values in self.without_one(averages)
            ]
        )

    def units(self, x: Array) -> Array:
        """Natural size of each coordinate."""
        overlaps, where = self.coordinates.unpack(x), self.coordinates.slices
        q, V = mean_size(overlaps.q), mean_size(overlaps.V)
        rho = mean_size(self.model.law.rho)
        units = np.empty(len(x))
        units[where["noise"]] = math.sqrt(mean_size(overlaps.noise(self.model.law.rho)))
        units[where["m"]] = math.sqrt(q)
        units[where["V"]] = math.sqrt(V)
        units[where["theta"]] = math.sqrt(q * rho)
        return units

    def orbit(self, x: Array, along: Callable[[Array], Array] | None = None) -> Array:
        """Orthonormal directions in which x moves when the student is rotated, shape (n, k).

        Or those in which a function `along` of x moves.
        """
        rank = self.model.rank
        columns = []
        if rank > 1 and self.model.rotation_invariant:
            overlaps = self.coordinates.unpack(x)
            for a in range(rank):
                for b in range(a):
                    turned = []
                    for sign in (1, -1):
                        O = np.eye(rank)
                        c, s = math.cos(ROTATION_STEP), sign * math.sin(ROTATION_STEP)
                        O[np.ix_([a, b], [a, b])] = [[c, s], [-s, c]]
                        there = self.coordinates.pack(overlaps.rotated(O))
                        turned.append(there if along is None else along(there))
                    columns.append((turned[0] - turned[1]) / (2 * ROTATION_STEP))
        if not columns:
            return np.zeros((len(x) if along is None else len(along(x)), 0))
        U, sizes, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
        return U[:, sizes > DEPENDENT * float(np.linalg.norm(x))]

    def residual(self, evaluation: TokenEvaluation) -> Array:
        """F(x) - x without what only rotates the student."""
        f = evaluation.value - evaluation.x
        B = self.orbit(evaluation.x)
        return f - B @ (B.T @ f)

    def moved(self, x: Array, there: TokenOverlaps) -> float:
        """How far a state is from where a rule was made, in units of its size."""
        here = self.coordinates.unpack(x)
        rho = self.model.law.rho
        q = mean_size(there.q)
        return max(
            float(np.max(abs(here.V - there.V))) / mean_size(there.V),
            float(np.max(abs(here.noise(rho) - there.noise(rho)))) / mean_size(there.noise(rho)),
            float(np.max(abs(here.m - there.m), initial=0)) / math.sqrt(q),
            float(np.max(abs(here.theta - there.theta))) / math.sqrt(q * mean_size(rho)),
        )

    def slopes(self, x: Array, rule: GeneralRule) -> TokenSlopes:
        """Jacobian of the map by central differences, also with each scramble left out."""
        units = STEP * self.units(x)
        columns, without, test = [], [], []
        for j in range(len(x)):
            sides = []
            for sign in (1, -1):
                z = x.copy()
                z[j] += sign * units[j]
                evaluation = self.map(z, rule)
                self.other_maps += 1
                # a difference of Cholesky factors needs both with one sign
                sides.append(
                    (
                        evaluation.value,
                        self.values_without_one(evaluation.averages),
                        float(evaluation.averages.test_error.mean()),
                    )
                )
            width = 2 * units[j]
            columns.append((sides[0][0] - sides[1][0]) / width)
            without.append((sides[0][1] - sides[1][1]) / width)
            test.append((sides[0][2] - sides[1][2]) / width)
        return TokenSlopes(np.stack(columns, axis=1), np.stack(without, axis=2), np.array(test))

    def propagate(self, slopes: TokenSlopes, evaluation: TokenEvaluation, f: Array) -> Array:
        """``(1 - J)^-1 f`` among the coordinates that take part, off the orbit; f (..., n)."""
        x = evaluation.x
        B = self.orbit(x)
        active = (x != 0) | (evaluation.value != 0)
        project = np.eye(len(x)) - B @ B.T
        unit = self.units(x)
        matrix = np.eye(len(x)) - project @ slopes.matrix @ project
        matrix = (matrix * unit / unit[:, None])[np.ix_(active, active)]
        step = np.zeros_like(f)
        scaled = (f @ project.T / unit)[..., active]
        # at a fold the matrix is singular, and the short step is the right one
        step[..., active] = np.linalg.lstsq(matrix, np.atleast_2d(scaled).T, rcond=1e-12)[
            0
        ].T.reshape(scaled.shape)
        return (step * unit) @ project.T

    def coupling(self, x: TokenOverlaps, hats: TokenConjugates) -> float:
        """``(1/2) sum tr[V_hat q - q_hat V] - sum m_hat.m - sum tr[theta_hat theta^T]``."""
        return float(
            0.5 * np.sum(hats.V_hat * x.q - hats.q_hat * x.V)
            - np.sum(hats.m_hat * x.m)
            - np.sum(hats.theta_hat * x.theta)
        )

    def eigenvalues(self, x: Array, J: Array) -> NDArray[np.complex128]:
        """Eigenvalues of a Jacobian at x off the orbit, by decreasing real part."""
        B = self.orbit(x)
        across = np.linalg.svd(B, full_matrices=True)[0][:, B.shape[1] :]
        values = np.linalg.eigvals(across.T @ J @ across)
        return values[np.argsort(-values.real, kind="stable")]

    def transverse(self, name: str, slopes: TokenSlopes) -> tuple[float, float]:
        """Leading eigenvalue towards m or theta, where a symmetry keeps it at 0; standard error.

        The Jacobian has no entries that mix such an overlap with the others.
        """
        where = self.coordinates.slices[name]

        def leading(J: Array) -> float:
            return float(np.max(np.linalg.eigvals(J[where, where]).real))

        value = leading(slopes.matrix)
        shifts = np.array([leading(J) - value for J in slopes.without])
        return value, jackknife(shifts).item()

    def growth(
        self, evaluation: TokenEvaluation, slopes: TokenSlopes
    ) -> dict[str, tuple[float, float]]:
        """Eigenvalues towards the overlaps that a symmetry keeps at 0, with standard errors."""
        flat = evaluation.averages
        kept = {"m": flat.zero_m and bool(self.coordinates.basis.size), "theta": flat.zero_theta}
        return {name: self.transverse(name, slopes) for name, zero in kept.items() if zero}

    def stability(
        self,
        evaluation: TokenEvaluation,
        slopes: TokenSlopes,
        rule: GeneralRule,
        *,
        with_replicon: bool = True,
    ) -> GeneralStability:
        """Eigenvalues off the orbit, replicon and jump mass, with their standard errors."""
        x = evaluation.x
        values = self.eigenvalues(x, slopes.matrix)
        leading = np.array([self.eigenvalues(x, J)[0].real for J in slopes.without])
        replicon = mass = (math.nan, math.nan)
        if with_replicon:
            replicon, mass = self.contraction(evaluation, rule)
        return GeneralStability(
            eigenvalues=tuple(complex(value) for value in values),
            spectral_radius=float(np.max(abs(values))),
            leading_error=jackknife(leading - leading.mean()).item(),
            transverse=self.growth(evaluation, slopes),
            orbit_directions=self.orbit(x).shape[1],
            replicon=replicon[0],
            replicon_error=replicon[1],
            jump_mass=mass[0],
            jump_mass_error=mass[1],
            stable=bool(values[0].real < 1),
        )

    def contraction(
        self, evaluation: TokenEvaluation, rule: GeneralRule
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """Replicon (regular part) and jump mass, each with its standard error."""
        overlaps = self.coordinates.unpack(evaluation.x)
        diagonal, square = rule.derivatives(overlaps)
        averages = rule.averages(overlaps)
        others = len(diagonal) - 1
        replicons, masses = [], []
        for s in range(-1, len(diagonal)):  # -1: all scrambles
            if s < 0:
                D, M, sums = diagonal.mean(axis=0), square.mean(axis=0), None
            else:
                D = (diagonal.sum(axis=0) - diagonal[s]) / others
                M = (square.sum(axis=0) - square[s]) / others
                sums = (averages.values.sum(axis=0) - averages.values[s]) / others
            hats = averages.conjugates(self.alpha, sums)
            gap = -D - hats.V_hat / self.alpha
            masses.append(float(np.einsum("lab,lba->", overlaps.V, gap)))
            response = self.noise_response(evaluation.conjugates) @ (self.alpha * M)
            replicons.append(float(np.max(abs(np.linalg.eigvals(response)))))
        first, second = (
            (values[0], jackknife(np.array(values[1:]) - values[0]).item())
            for values in (replicons, masses)
        )
        return first, second

    def noise_response(self, hats: TokenConjugates) -> Array:
        """``dq_l = int gamma_l A^-1 (sum_k gamma_k dq_hat_k) A^-1`` as a matrix."""
        law = self.model.law
        inverse = ridge_terms(law, hats, self.lam).inverse
        size = self.model.tokens * self.model.rank**2
        return np.einsum(
            "j,jl,jk,jac,jdb->labkcd", law.weights, law.gamma, law.gamma, inverse, inverse
        ).reshape(size, size)


def mean_size(matrices: Array) -> float:
    """Mean diagonal entry."""
    return float(np.mean(np.diagonal(matrices, axis1=1, axis2=2)))


def jackknife(deviations: NDArray[np.floating]) -> Array:
    """Standard error from values with one scramble left out, minus the whole; first axis."""
    count = len(deviations)
    centred = deviations - deviations.mean(axis=0)
    return np.sqrt((count - 1) / count * np.sum(centred**2, axis=0))
