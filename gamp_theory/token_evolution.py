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
    GeneralRule,
    general_rule,
    rule_bytes,
    token_linear_error,
)
from gamp_theory.numerics.fixed_point import FixedPointStatus, solve_fixed_point
from gamp_theory.result import Status
from gamp_theory.token_map import TokenEvaluation, TokenMap, TokenSlopes, jackknife, mean_size
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_origin import solve_token_origin
from gamp_theory.token_overlaps import NOISE_FLOOR, TokenOverlaps
from gamp_theory.token_prior import token_prior_energy, token_prior_norm
from gamp_theory.token_result import GeneralFixedPoint, TokenErrors
from gamp_theory.token_starts import check_general_arguments, token_branch_name, token_start

__all__ = [
    "FIRST_SAMPLES",
    "GeneralAnswer",
    "GeneralSolver",
    "solve_general",
]

Array = NDArray[np.float64]

#: Points per scramble of the search, of the first answer, and the most of any.
SEARCH_SAMPLES = 2**7
FIRST_SAMPLES = 2**9
MOST_SAMPLES = 2**15
SEARCH_TOL = 5e-3
#: Maps, memory and mixing of each attempt of the search.  Without memory it follows the flow of the
#: map: at first, because a map from far away can throw m to the other side and beyond the branch.
ATTEMPTS = ((16, 0, 0.1), (24, 6, 0.4), (20, 0, 0.15), (30, 6, 0.2), (30, 0, 0.08), (40, 6, 0.1))
#: A rule is made anew where the state has moved by more than this part of its size.
MOVED = 0.3
START_DOUBLINGS = 6  # of the noise that a search begins with, until the map can be taken there
STRETCHED = 0.05  # the same for an answer
REACH = 3.0  # largest factor by which the size of q or V may change in a step
#: The search is on its way to Q = 0 when q, in units of rho, is below this.
VANISHING = 1e-6
SMALL_Q = 1e-4  # where a search that has ended is taken to be on that way
CHORD_STEPS = 10
#: Residual that ends the polishing, as a part of the tolerance.
RESIDUAL_SHARE = 0.03
LEVELS = 6
#: The error falls at least like this power of the number of points.
RATE = 0.55
#: An overlap below this part of its natural size, which a symmetry could keep at 0, is taken to be
#: 0 unless what is at 0 is unstable towards it by so many standard errors.
SMALL_OVERLAP = 0.1
CERTAIN = 2.0
#: m and theta count relative to their largest entry, or to this part of their natural size.
LEAST = 0.1


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
    start : {"semantic", "positional", "mixed", "uninformed", "zero"} or TokenOverlaps
        "zero" asks for the fixed point Q = 0.
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
    return GeneralSolver(
        model, float(alpha), float(lam), start, tol, with_stability, seed, memory_limit
    ).run()


@dataclass(frozen=True, eq=False)
class GeneralAnswer:
    """Overlaps and losses of a settled map.

    Attributes
    ----------
    overlaps : TokenOverlaps
    errors : TokenErrors
        Standard errors; that of the linear baseline is not known yet.
    losses : dict
        ``train``, ``variational`` and ``test``.
    train_shifts, test_shifts : array, shape (scrambles,)
        How these losses change when one scramble is left out.
    worst : float
        Largest standard error over what is allowed.
    """

    overlaps: TokenOverlaps
    errors: TokenErrors
    losses: dict[str, float]
    train_shifts: Array
    test_shifts: Array
    worst: float


class _Vanishes(Exception):
    """The student shrinks to nothing: the search is on its way to Q = 0."""


class GeneralSolver(TokenMap):
    """One solve: search with few points, then Newton steps with more and more of them."""

    def __init__(
        self,
        model: GeneralModel,
        alpha: float,
        lam: float,
        start: str | TokenOverlaps,
        tol: float,
        with_stability: bool = True,
        seed: int = 0,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
    ) -> None:
        super().__init__(model, alpha, lam)
        self.start, self.tol = start, tol
        self.with_stability, self.seed, self.memory_limit = with_stability, seed, memory_limit
        self.rule: GeneralRule | None = None
        self.last: Array | None = None
        self.began = time.perf_counter()

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

    # -- stages -------------------------------------------------------------------------------

    def run(self) -> GeneralFixedPoint:
        """Search, and polish what is found."""
        if self.start == "zero":
            return self.zero()
        x = self.coordinates.pack(self.first_state())
        try:
            x, status = self.search(x)
            if mean_size(self.coordinates.unpack(x).q) < SMALL_Q * mean_size(self.model.law.rho):
                raise _Vanishes
        except _Vanishes:
            assert self.last is not None
            origin = self.zero() if self.model.flat_student else None
            if origin is not None and origin.status is not Status.DOES_NOT_EXIST:
                return origin
            return self.failed(self.last, Status.LEFT_DOMAIN)
        if status is not Status.CONVERGED:
            return self.failed(x, status)
        try:
            return self.polish(x)
        except ValueError:
            return self.failed(x, Status.LEFT_DOMAIN)

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
        """Find the fixed point of the map with few points, made anew where the state has moved."""

        def cheap(x: Array) -> Array:
            self.maps += 1
            self.last = x
            if mean_size(self.coordinates.unpack(x).q) < VANISHING * mean_size(self.model.law.rho):
                raise _Vanishes
            try:
                if self.rule is None or self.moved(x, self.rule.at) > MOVED:
                    self.rule = self.make(x, SEARCH_SAMPLES)
                evaluation = self.map(x, self.rule)
            except ValueError:  # outside the domain
                return np.full_like(x, np.nan)
            return x + self.residual(evaluation)

        x, status = self.mapped(x0), Status.ITERATION_LIMIT
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

    def polish(self, x: Array) -> GeneralFixedPoint:
        """The answer near x, where a search has ended."""
        x = self.representative(x)
        self.rule = rule = self.make(x, FIRST_SAMPLES)
        x = self.representative(self.approach(x, rule))
        if self.moved(x, rule.at) > STRETCHED:
            self.rule = rule = self.make(x, FIRST_SAMPLES)
        for name in self.kept_by_symmetry():
            x = self.without_remnant(x, name, rule)
        return self.finish(x, self.slopes(x, rule), FIRST_SAMPLES)

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
        overlaps = self.coordinates.unpack(x)
        unit = math.sqrt(mean_size(overlaps.q))
        if name == "theta":
            unit *= math.sqrt(mean_size(self.model.law.rho))
        if not 0 < np.max(abs(getattr(overlaps, name))) < SMALL_OVERLAP * unit:
            return x
        flat = x.copy()
        flat[self.coordinates.slices[name]] = 0.0
        flat = self.approach(flat, rule)
        evaluation, slopes = self.map(flat, rule), self.slopes(flat, rule)
        self.maps += 1
        lost = np.max(abs(self.residual(evaluation)) / self.units(flat)) > SEARCH_TOL
        rate, error = self.transverse(name, slopes)
        return x if lost or rate > 1 + CERTAIN * error else flat

    def finish(
        self,
        x: Array,
        slopes: TokenSlopes,
        samples: int,
        linear: tuple[float, float] | None = None,
    ) -> GeneralFixedPoint:
        """Chord steps at more and more points, until the error bars are below the tolerance.

        The linear baseline with its error is computed where it is not given.
        """
        most = self.most_samples()
        for _ in range(LEVELS):
            evaluation = self.settle(x, slopes, samples)
            answer = self.answer(evaluation, slopes)
            if answer.worst <= 1 or samples >= most:
                break
            x, samples = self.representative(evaluation.x), self.finer(samples, answer.worst)
        audited = self.make(evaluation.x, samples, brief=True, audit=True)
        status = Status.CONVERGED if answer.worst <= 1 else Status.QUADRATURE_LIMIT
        return self.point(evaluation, answer, slopes, status, audited, linear)

    def most_samples(self) -> int:
        """The most points a scramble may have."""
        most = MOST_SAMPLES
        while most > FIRST_SAMPLES and rule_bytes(self.model, most) > self.memory_limit:
            most //= 2
        return most

    def finer(self, samples: int, ratio: float) -> int:
        """How many points it takes to make an error smaller by `ratio`, if there may be so many."""
        wanted, most = samples * ratio ** (1 / RATE), self.most_samples()
        while samples < most and samples < wanted:
            samples *= 2
        return samples

    def settle(self, x: Array, slopes: TokenSlopes, samples: int) -> TokenEvaluation:
        """The fixed point near x of the map with so many points, by chord steps; the last map."""
        for _ in range(CHORD_STEPS):
            if (
                self.rule is None
                or self.rule.samples != samples
                or self.moved(x, self.rule.at) > STRETCHED
            ):
                self.rule = self.make(x, samples, brief=True)
            evaluation = self.map(x, self.rule)
            self.maps += 1
            f = self.residual(evaluation)
            if np.max(abs(f) / self.units(x)) <= RESIDUAL_SHARE * self.tol:
                break
            step = self.propagate(slopes, evaluation, f)
            if not self.admissible(x + step):
                break
            x = x + step
        return evaluation

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

    # -- answers ------------------------------------------------------------------------------

    def answer(self, evaluation: TokenEvaluation, slopes: TokenSlopes) -> GeneralAnswer:
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
            bars[name] = jackknife(spread) + abs(getattr(still, name) - value)
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
        test_bar = jackknife(test_shifts).item() + abs(float(left @ slopes.test_error))
        # stationary in the overlaps: the error of the envelope is all
        train_shifts = self.alpha * (mean_envelope - envelope) / (count - 1)
        train_bar = jackknife(train_shifts).item() + abs(train - variational)
        worst = max(worst, train_bar / (self.tol * abs(train)), test_bar / (self.tol * test_error))
        q, m, V, theta = (bars[name] for name in ("q", "m", "V", "theta"))
        # the error of the baseline is filled in at the end
        errors = TokenErrors(q, m, V, theta, train_bar, train_bar, test_bar, math.nan)
        losses = {"train": train, "variational": variational, "test": test_error}
        return GeneralAnswer(overlaps, errors, losses, train_shifts, test_shifts, worst)

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

    def point(
        self,
        evaluation: TokenEvaluation,
        answer: GeneralAnswer,
        slopes: TokenSlopes,
        status: Status,
        rule: GeneralRule,
        linear: tuple[float, float] | None = None,
    ) -> GeneralFixedPoint:
        """What is returned; `rule` is that of the answer, audited."""
        errors, samples = answer.errors, rule.samples
        linear_error, linear_bar = linear or token_linear_error(
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
            linear_error=linear_error,
            errors=errors._replace(linear_error=linear_bar),
            residual=float(np.max(abs(self.residual(evaluation)) / self.units(evaluation.x))),
            iterations=self.maps,
            map_evaluations=self.maps + self.other_maps,
            seconds=time.perf_counter() - self.began,
            status=status,
            tol=self.tol,
            samples=samples,
            scrambles=SCRAMBLES,
            missed_wells=rule.missed / max(rule.audited, 1),
            stability=stability,
        )

    def zero(self) -> GeneralFixedPoint:
        """The fixed point Q = 0: more and more of the teacher's fields, until the errors allow."""
        samples = FIRST_SAMPLES
        for _ in range(LEVELS):
            origin = solve_token_origin(self, samples, self.seed)
            self.maps += origin.maps
            if not origin.exists:
                break
            worst = max(
                float(np.max(origin.V_error)) / (self.tol * mean_size(origin.V)),
                origin.loss_error / (self.tol * origin.loss),
            )
            if worst <= 1 or samples >= MOST_SAMPLES:
                break
            samples *= 4
        L, r, t = self.model.tokens, self.model.rank, self.model.teacher_rank
        nothing = np.zeros((L, r, r)), np.zeros((L, r)), np.zeros((L, r, t))
        if not origin.exists:
            x = TokenOverlaps(nothing[0], nothing[1], nothing[0], nothing[2])
            return self.failed(x, origin.status)
        linear_error, linear_bar = token_linear_error(self.model, 4 * samples)
        loss, bar = self.alpha * origin.loss, self.alpha * origin.loss_error
        each = 2 / L
        return GeneralFixedPoint(
            model=self.model,
            alpha=self.alpha,
            lam=self.lam,
            start=self.start if isinstance(self.start, str) else "given",
            branch="zero",
            overlaps=TokenOverlaps(nothing[0], nothing[1], origin.V, nothing[2]),
            conjugates=origin.conjugates,
            train_loss=loss,
            train_loss_variational=loss,
            test_error=each * origin.loss,
            linear_error=linear_error,
            errors=TokenErrors(
                nothing[0], nothing[1], origin.V_error, nothing[2], bar, bar,
                each * origin.loss_error, linear_bar,
            ),
            residual=0.0,
            iterations=self.maps,
            map_evaluations=self.maps + self.other_maps,
            seconds=time.perf_counter() - self.began,
            status=Status.CONVERGED if worst <= 1 else Status.QUADRATURE_LIMIT,
            tol=self.tol,
            samples=samples,
            scrambles=SCRAMBLES,
            missed_wells=0.0,
            stability=origin.stability() if self.with_stability else None,
        )  # fmt: skip

    def failed(self, where: Array | TokenOverlaps, status: Status) -> GeneralFixedPoint:
        """What a solve that has failed reports: where it was, and no numbers but that."""
        overlaps = where if isinstance(where, TokenOverlaps) else self.coordinates.unpack(where)
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


_STATUS = {
    FixedPointStatus.CONVERGED: Status.CONVERGED,
    FixedPointStatus.ITERATION_LIMIT: Status.ITERATION_LIMIT,
    FixedPointStatus.LEFT_DOMAIN: Status.LEFT_DOMAIN,
    FixedPointStatus.NON_FINITE: Status.NON_FINITE,
}
