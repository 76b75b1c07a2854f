"""State evolution of the general model: the map, its fixed points, their errors and stability.

The fixed point is that of the map with the average over all scrambles; the points are the same in
every map, so that the map is deterministic.  Leaving out one scramble at a time (the jackknife)
gives the standard errors, those of the overlaps propagated through ``(1 - J)^-1``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.general import (
    DEFAULT_MEMORY_LIMIT,
    SCRAMBLES,
    FieldAverages,
    GeneralRule,
    general_rule,
    rule_bytes,
    token_linear_error,
)
from gamp_theory.numerics.fixed_point import FixedPointStatus, solve_fixed_point
from gamp_theory.result import Status
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import NOISE_FLOOR, Coordinates, TokenConjugates, TokenOverlaps
from gamp_theory.token_prior import (
    ridge_terms,
    token_prior_energy,
    token_prior_norm,
    token_prior_overlaps,
)
from gamp_theory.token_result import GeneralFixedPoint, GeneralStability, TokenErrors
from gamp_theory.token_starts import TOKEN_STARTS, token_branch_name, token_start

__all__ = ["check_general_arguments", "solve_general"]

Array = NDArray[np.float64]

#: Points per scramble of the search, of the first answer, and the most of any.
SEARCH_SAMPLES = 2**7
FIRST_SAMPLES = 2**9
MOST_SAMPLES = 2**15
SEARCH_TOL = 5e-3
#: Mixing of each attempt of the search; the later ones follow the flow of the map.
ATTEMPTS = ((24, 6, 0.4), (20, 0, 0.15), (30, 6, 0.2), (30, 0, 0.08), (40, 6, 0.1))
#: A rule is made anew where the state has moved by more than this part of its size.
MOVED = 0.3
STRETCHED = 0.05  # the same for an answer
REACH = 3.0  # largest factor by which the size of q or V may change in a step
#: The search is on its way to Q = 0 when q, in units of rho, is below this.
VANISHING = 1e-6
SMALL_Q = 1e-4  # where a search that has ended is taken to be on that way
CHORD_STEPS = 10
#: Residual that ends the polishing, as a part of the tolerance.
RESIDUAL_SHARE = 0.03
STEP = 0.02  # of differences, in units of each coordinate
LEVELS = 6
#: The error falls at least like this power of the number of points.
RATE = 0.55
#: m and theta count relative to their largest entry, or to this part of their natural size.
LEAST = 0.1
ROTATION_STEP = 1e-4
DEPENDENT = 1e-6  # relative size of a tangent that is taken for zero


def check_general_arguments(
    model: GeneralModel, alpha: float, lam: float, start: str | TokenOverlaps, tol: float
) -> None:
    """Refuse what :func:`solve_general` refuses.

    Raises
    ------
    ValueError
        Naming the argument, its value, and what is allowed.
    """
    for name, value, allowed, ok in (
        ("alpha", alpha, "> 0", alpha > 0),
        ("lam", lam, "> 0 for a general model", lam > 0),
        ("tol", tol, "in [1e-5, 0.1] for a general model", 1e-5 <= tol <= 0.1),
    ):
        if not (math.isfinite(value) and ok):
            raise ValueError(f"{name} must be {allowed} and finite, got {value!r}")
    if isinstance(start, TokenOverlaps):
        if (start.tokens, start.rank, start.teacher_rank) != (
            model.tokens,
            model.rank,
            model.teacher_rank,
        ):
            raise ValueError(
                f"the start has (L, r, t) = {(start.tokens, start.rank, start.teacher_rank)}, "
                f"the model {(model.tokens, model.rank, model.teacher_rank)}"
            )
        start.check_domain(model.law.rho)
    elif start not in TOKEN_STARTS:
        raise ValueError(
            f"start must be one of {', '.join(TOKEN_STARTS)} or TokenOverlaps, got {start!r}"
        )


def solve_general(
    model: GeneralModel,
    alpha: float,
    lam: float,
    start: str | TokenOverlaps,
    tol: float,
    *,
    with_stability: bool = True,
    seed: int = 0,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
) -> GeneralFixedPoint:
    """A fixed point of the general model; :func:`gamp_theory.solve` comes here.

    Parameters
    ----------
    model : GeneralModel
    alpha, lam : float
        Samples per dimension and ridge, both positive.
    start : {"semantic", "positional", "mixed", "uninformed"} or TokenOverlaps
    tol : float
        Standard error aimed at: relative to the largest entry of q, m, V and theta each (of m and
        theta at least to a tenth of their natural size), and of the losses.
    with_stability : bool
    seed : int
        Of the scrambles.
    memory_limit : int
        Bytes of the largest rule, see :func:`gamp_theory.channel.general.rule_bytes`.

    Raises
    ------
    ValueError
        On bad input, before any work.
    """
    check_general_arguments(model, alpha, lam, start, tol)
    return _GeneralSolver(
        model, float(alpha), float(lam), start, tol, with_stability, seed, memory_limit
    ).run()


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """One map: where, the value in coordinates, and the averages."""

    x: Array
    value: Array
    averages: FieldAverages
    conjugates: TokenConjugates


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Derivatives of the map, with one scramble left out in each, and of the test error."""

    matrix: Array  # (n, n)
    without: Array  # (scrambles, n, n)
    test_error: Array  # (n,)


@dataclass(frozen=True, eq=False)
class _Answer:
    overlaps: TokenOverlaps
    errors: TokenErrors
    losses: dict[str, float]
    worst: float  # largest bar over what is allowed


class _Vanishes(Exception):
    """The student shrinks to nothing: the search is on its way to Q = 0."""


class _GeneralSolver:
    """One solve: search with few points, then Newton steps with more and more of them."""

    def __init__(
        self,
        model: GeneralModel,
        alpha: float,
        lam: float,
        start: str | TokenOverlaps,
        tol: float,
        with_stability: bool,
        seed: int,
        memory_limit: int,
    ) -> None:
        self.model, self.alpha, self.lam, self.start, self.tol = model, alpha, lam, start, tol
        self.with_stability, self.seed, self.memory_limit = with_stability, seed, memory_limit
        self.coordinates = Coordinates.of(model.law, model.rank)
        self.rule: GeneralRule | None = None
        self.maps = self.other_maps = 0
        self.last: Array | None = None
        self.began = time.perf_counter()

    # -- the map ------------------------------------------------------------------------------

    def map(self, x: Array, rule: GeneralRule) -> _Evaluation:
        """One undamped map.

        Raises
        ------
        ValueError
            If x, or where it leads, is outside the domain.
        """
        averages = rule.averages(self.coordinates.unpack(x))
        hats = averages.conjugates(self.alpha)
        return _Evaluation(x, self.prior(hats), averages, hats)

    def prior(self, hats: TokenConjugates) -> Array:
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
        q, V = _size(overlaps.q), _size(overlaps.V)
        rho = _size(self.model.law.rho)
        units = np.empty(len(x))
        units[where["noise"]] = math.sqrt(_size(overlaps.noise(self.model.law.rho)))
        units[where["m"]] = math.sqrt(q)
        units[where["V"]] = math.sqrt(V)
        units[where["theta"]] = math.sqrt(q * rho)
        return units

    def orbit(self, x: Array) -> Array:
        """Orthonormal directions in which x moves when the student is rotated, shape (n, k)."""
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
                        turned.append(self.coordinates.pack(overlaps.rotated(O)))
                    columns.append((turned[0] - turned[1]) / (2 * ROTATION_STEP))
        if not columns:
            return np.zeros((len(x), 0))
        U, sizes, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
        return U[:, sizes > DEPENDENT * float(np.linalg.norm(x))]

    def residual(self, evaluation: _Evaluation) -> Array:
        """F(x) - x without what only rotates the student."""
        f = evaluation.value - evaluation.x
        B = self.orbit(evaluation.x)
        return f - B @ (B.T @ f)

    def moved(self, x: Array, rule: GeneralRule) -> float:
        """How far a state is from where its rule was made."""
        there, here = rule.at, self.coordinates.unpack(x)
        rho = self.model.law.rho
        q = _size(there.q)
        return max(
            float(np.max(abs(here.V - there.V))) / _size(there.V),
            float(np.max(abs(here.noise(rho) - there.noise(rho)))) / _size(there.noise(rho)),
            float(np.max(abs(here.m - there.m), initial=0)) / math.sqrt(q),
            float(np.max(abs(here.theta - there.theta))) / math.sqrt(q * _size(rho)),
        )

    def admissible(self, x: Array) -> bool:
        """Whether the map can be taken at x, and x is within reach of the last state."""
        overlaps = self.coordinates.unpack(x)
        q, V = _size(overlaps.q), _size(overlaps.V)
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
        ratios = (q / _size(before.q), V / _size(before.V))
        return all(1 / REACH < ratio < REACH for ratio in ratios)

    # -- stages -------------------------------------------------------------------------------

    def run(self) -> GeneralFixedPoint:
        x = self.coordinates.pack(self.first_state())
        try:
            x, status = self.search(x)
            if _size(self.coordinates.unpack(x).q) < SMALL_Q * _size(self.model.law.rho):
                raise _Vanishes
        except _Vanishes:  # Q = 0 is not among the answers of this version
            assert self.last is not None
            return self.failed(self.last, Status.LEFT_DOMAIN)
        if status is not Status.CONVERGED:
            return self.failed(x, status)
        try:
            return self.polish(x)
        except ValueError:
            return self.failed(x, Status.LEFT_DOMAIN)

    def first_state(self) -> TokenOverlaps:
        if isinstance(self.start, str):
            return token_start(self.start, self.model, self.alpha, self.lam)
        # averages are taken inside the domain: a start on its edge is moved off
        rho, start = self.model.law.rho, self.start
        edge = 1e-3 * np.trace(start.q, axis1=1, axis2=2)[:, None, None] * np.eye(start.rank)
        lowest = np.linalg.eigvalsh(start.noise(rho))[:, :1, None]
        q = start.q + np.where(lowest < edge[:, :1, :1], edge + 1e-12 * np.eye(start.rank), 0.0)
        return TokenOverlaps(q, start.m, start.V, start.theta)

    def search(self, x0: Array) -> tuple[Array, Status]:
        """Find the fixed point of the map with few points, made anew where the state has moved."""

        def cheap(x: Array) -> Array:
            self.maps += 1
            self.last = x
            if _size(self.coordinates.unpack(x).q) < VANISHING * _size(self.model.law.rho):
                raise _Vanishes
            try:
                if self.rule is None or self.moved(x, self.rule) > MOVED:
                    self.rule = self.make(x, SEARCH_SAMPLES)
                evaluation = self.map(x, self.rule)
            except ValueError:  # outside the domain
                return np.full_like(x, np.nan)
            return x + self.residual(evaluation)

        x, status = x0, Status.ITERATION_LIMIT
        for maps, memory, mixing in ATTEMPTS:
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

    def make(
        self, x: Array, samples: int, *, brief: bool = False, audit: bool = False
    ) -> GeneralRule:
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

    def polish(self, x: Array) -> GeneralFixedPoint:
        """Chord steps at more and more points, until the error bars are below the tolerance."""
        samples = FIRST_SAMPLES
        most = MOST_SAMPLES
        while most > samples and rule_bytes(self.model, most) > self.memory_limit:
            most //= 2
        slopes: _Slopes | None = None
        for level in range(LEVELS):
            x = self.representative(x)
            self.rule = rule = self.make(x, samples, brief=level > 0)
            if slopes is None:
                x = self.representative(self.approach(x, rule))
                if self.moved(x, rule) > STRETCHED:
                    self.rule = rule = self.make(x, samples)
                slopes = self.slopes(x, rule)
            for _ in range(CHORD_STEPS):
                if self.moved(x, rule) > STRETCHED:
                    self.rule = rule = self.make(x, samples, brief=True)
                evaluation = self.map(x, rule)
                self.maps += 1
                f = self.residual(evaluation)
                if np.max(abs(f) / self.units(x)) <= RESIDUAL_SHARE * self.tol:
                    break
                step = self.propagate(slopes, evaluation, f)
                if not self.admissible(x + step):
                    break
                x = x + step
            evaluation = self.map(x, rule)
            answer = self.answer(evaluation, slopes)
            if answer.worst <= 1 or samples >= most:
                break
            wanted = samples * answer.worst ** (1 / RATE)
            while samples < most and samples < wanted:
                samples *= 2
        assert slopes is not None
        audited = self.make(x, samples, brief=True, audit=True)
        missed = audited.missed / max(audited.audited, 1)
        status = Status.CONVERGED if answer.worst <= 1 else Status.QUADRATURE_LIMIT
        return self.point(evaluation, answer, slopes, status, samples, missed, audited)

    def representative(self, x: Array) -> Array:
        """The canonical point of the orbit of x, if there is one."""
        if self.model.rotation_invariant and self.model.rank > 1:
            return self.coordinates.pack(self.coordinates.unpack(x).canonical())
        return x

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

    def slopes(self, x: Array, rule: GeneralRule) -> _Slopes:
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
        return _Slopes(np.stack(columns, axis=1), np.stack(without, axis=2), np.array(test))

    def propagate(self, slopes: _Slopes, evaluation: _Evaluation, f: Array) -> Array:
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

    # -- answers ------------------------------------------------------------------------------

    def answer(self, evaluation: _Evaluation, slopes: _Slopes) -> _Answer:
        """Overlaps and losses with their standard errors."""
        x, averages = evaluation.x, evaluation.averages
        # The canonical representative was taken before the last steps, which do not turn it.  Not
        # after: where two directions are equivalent it turns by any angle for nothing.
        overlaps_at = self.coordinates.unpack
        overlaps = overlaps_at(x)
        deviations = self.values_without_one(averages) - evaluation.value
        shifts = self.propagate(slopes, evaluation, deviations)
        left = self.propagate(slopes, evaluation, self.residual(evaluation))
        count = len(averages.values)
        moved = [overlaps_at(x + shift) for shift in shifts]
        still = overlaps_at(x + left)
        bars = {}
        worst = 0.0
        sizes = self.sizes(overlaps)
        for name in ("q", "m", "V", "theta"):
            value = getattr(overlaps, name)
            spread = np.array([getattr(other, name) - value for other in moved])
            bars[name] = _jackknife(spread) + abs(getattr(still, name) - value)
            worst = max(worst, float(np.max(bars[name], initial=0)) / (self.tol * sizes[name]))
        hats, law = evaluation.conjugates, self.model.law
        envelope, test = averages.envelope, averages.test_error
        train = self.alpha * float(averages.loss.mean()) + 0.5 * self.lam * token_prior_norm(
            law, hats, self.lam
        )
        mean_envelope = float(envelope.mean())
        variational = (
            self.alpha * mean_envelope
            - token_prior_energy(law, hats, self.lam)
            - self.coupling(self.coordinates.unpack(x), hats)
        )
        test_error = float(test.mean())
        test_shifts = (test_error - test) / (count - 1) + shifts @ slopes.test_error
        test_bar = _jackknife(test_shifts).item() + abs(float(left @ slopes.test_error))
        # stationary in the overlaps: the error of the envelope is all
        train_bar = self.alpha * float(np.std(envelope, ddof=1)) / math.sqrt(count)
        train_bar += abs(train - variational)
        worst = max(worst, train_bar / (self.tol * abs(train)), test_bar / (self.tol * test_error))
        errors = TokenErrors(
            bars["q"],
            bars["m"],
            bars["V"],
            bars["theta"],
            train_bar,
            train_bar,
            test_bar,
            math.nan,  # filled in at the end
        )
        losses = {"train": train, "variational": variational, "test": test_error}
        return _Answer(overlaps, errors, losses, worst)

    def sizes(self, overlaps: TokenOverlaps) -> dict[str, float]:
        """What the tolerance of each overlap is relative to."""
        q = float(np.max(overlaps.q))
        rho = float(np.max(self.model.law.rho))
        return {
            "q": q,
            "m": max(float(np.max(abs(overlaps.m))), LEAST * math.sqrt(q)),
            "V": float(np.max(overlaps.V)),
            "theta": max(float(np.max(abs(overlaps.theta))), LEAST * math.sqrt(q * rho)),
        }

    def coupling(self, x: TokenOverlaps, hats: TokenConjugates) -> float:
        """``(1/2) sum tr[V_hat q - q_hat V] - sum m_hat.m - sum tr[theta_hat theta^T]``."""
        return float(
            0.5 * np.sum(hats.V_hat * x.q - hats.q_hat * x.V)
            - np.sum(hats.m_hat * x.m)
            - np.sum(hats.theta_hat * x.theta)
        )

    def point(
        self,
        evaluation: _Evaluation,
        answer: _Answer,
        slopes: _Slopes,
        status: Status,
        samples: int,
        missed: float,
        rule: GeneralRule,
    ) -> GeneralFixedPoint:
        errors = answer.errors
        linear, linear_error = token_linear_error(
            self.model, min(4 * samples, MOST_SAMPLES), seed=self.seed
        )
        branch = token_branch_name(
            answer.overlaps,
            self.model.law.rho,
            float(np.max(errors.m, initial=0)),
            float(np.max(errors.theta)),
        )
        stability = None
        if self.with_stability:
            stability = self.stability(evaluation, slopes, rule)
        return GeneralFixedPoint(
            model=self.model,
            alpha=self.alpha,
            lam=self.lam,
            start=self.start if isinstance(self.start, str) else "given",
            branch=branch,
            overlaps=answer.overlaps,
            conjugates=evaluation.conjugates,
            train_loss=answer.losses["train"],
            train_loss_variational=answer.losses["variational"],
            test_error=answer.losses["test"],
            linear_error=linear,
            errors=errors._replace(linear_error=linear_error),
            residual=float(np.max(abs(self.residual(evaluation)) / self.units(evaluation.x))),
            iterations=self.maps,
            map_evaluations=self.maps + self.other_maps,
            seconds=time.perf_counter() - self.began,
            status=status,
            tol=self.tol,
            samples=samples,
            scrambles=SCRAMBLES,
            missed_wells=missed,
            stability=stability,
        )

    def failed(self, x: Array, status: Status) -> GeneralFixedPoint:
        """What a solve that has failed reports: where it was, and no numbers but that."""
        overlaps = self.coordinates.unpack(x)
        q, m, V, theta = (
            np.full_like(getattr(overlaps, n), np.nan) for n in ("q", "m", "V", "theta")
        )
        nan = math.nan
        return GeneralFixedPoint(
            model=self.model,
            alpha=self.alpha,
            lam=self.lam,
            start=self.start if isinstance(self.start, str) else "given",
            branch=token_branch_name(overlaps, self.model.law.rho),
            overlaps=overlaps,
            conjugates=None,
            train_loss=nan,
            train_loss_variational=nan,
            test_error=nan,
            linear_error=nan,
            errors=TokenErrors(q, m, V, theta, nan, nan, nan, nan),
            residual=nan,
            iterations=self.maps,
            map_evaluations=self.maps + self.other_maps,
            seconds=time.perf_counter() - self.began,
            status=status,
            tol=self.tol,
            samples=SEARCH_SAMPLES,
            scrambles=SCRAMBLES,
            missed_wells=nan,
            stability=None,
        )

    def stability(
        self, evaluation: _Evaluation, slopes: _Slopes, rule: GeneralRule
    ) -> GeneralStability:
        """Eigenvalues off the orbit, replicon and jump mass, with their standard errors."""
        x = evaluation.x
        B = self.orbit(x)
        across = np.linalg.svd(B, full_matrices=True)[0][:, B.shape[1] :]

        def eigenvalues(J: Array) -> Array:
            values = np.linalg.eigvals(across.T @ J @ across)
            return values[np.argsort(-values.real, kind="stable")]

        values = eigenvalues(slopes.matrix)
        leading = np.array([eigenvalues(J)[0].real for J in slopes.without])
        overlaps = self.coordinates.unpack(x)
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
        return GeneralStability(
            eigenvalues=tuple(complex(value) for value in values),
            spectral_radius=float(np.max(abs(values))),
            leading_error=float(_jackknife(leading - leading.mean())),
            orbit_directions=B.shape[1],
            replicon=replicons[0],
            replicon_error=float(_jackknife(np.array(replicons[1:]) - replicons[0])),
            jump_mass=masses[0],
            jump_mass_error=float(_jackknife(np.array(masses[1:]) - masses[0])),
            stable=bool(values[0].real < 1),
        )

    def noise_response(self, hats: TokenConjugates) -> Array:
        """``dq_l = int gamma_l A^-1 (sum_k gamma_k dq_hat_k) A^-1`` as a matrix."""
        law = self.model.law
        inverse = ridge_terms(law, hats, self.lam).inverse
        size = self.model.tokens * self.model.rank**2
        return np.einsum(
            "j,jl,jk,jac,jdb->labkcd", law.weights, law.gamma, law.gamma, inverse, inverse
        ).reshape(size, size)


_STATUS = {
    FixedPointStatus.CONVERGED: Status.CONVERGED,
    FixedPointStatus.ITERATION_LIMIT: Status.ITERATION_LIMIT,
    FixedPointStatus.LEFT_DOMAIN: Status.LEFT_DOMAIN,
    FixedPointStatus.NON_FINITE: Status.NON_FINITE,
}


def _size(matrices: Array) -> float:
    """Mean diagonal entry."""
    return float(np.mean(np.diagonal(matrices, axis1=1, axis2=2)))


def _jackknife(deviations: Array) -> Array:
    """Standard error from values with one scramble left out, minus the whole; first axis."""
    count = len(deviations)
    centred = deviations - deviations.mean(axis=0)
    return np.sqrt((count - 1) / count * np.sum(centred**2, axis=0))
