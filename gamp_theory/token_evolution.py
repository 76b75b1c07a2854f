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
    rule_bytes,
    token_linear_error,
)
from gamp_theory.result import Status
from gamp_theory.token_map import TokenEvaluation, TokenSlopes, jackknife, mean_size
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_origin import solve_token_origin
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_prior import token_prior_energy, token_prior_norm
from gamp_theory.token_result import GeneralFixedPoint, TokenErrors
from gamp_theory.token_search import SEARCH_SAMPLES, TokenSearch, Vanishes
from gamp_theory.token_starts import check_general_arguments, token_branch_name

__all__ = [
    "FIRST_SAMPLES",
    "GeneralAnswer",
    "GeneralSolver",
    "solve_general",
]

Array = NDArray[np.float64]

#: Points per scramble of the first answer, and the most of any.
FIRST_SAMPLES = 2**9
MOST_SAMPLES = 2**15
#: The rule of an answer is made anew where the state has moved by more than this part of its size.
STRETCHED = 0.05
#: A search that has ended with q, in units of rho, below this is taken to be on its way to Q = 0.
SMALL_Q = 1e-4
CHORD_STEPS = 10
#: Residual that ends the polishing, as a part of the tolerance.
RESIDUAL_SHARE = 0.03
LEVELS = 6
#: The error falls at least like this power of the number of points.
RATE = 0.55
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


class GeneralSolver(TokenSearch):
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
        super().__init__(model, alpha, lam, start, seed, memory_limit)
        self.tol, self.with_stability = tol, with_stability
        self.began = time.perf_counter()

    # -- stages -------------------------------------------------------------------------------

    def run(self) -> GeneralFixedPoint:
        """Search, and polish what is found."""
        if self.start == "zero":
            return self.zero()
        x = self.coordinates.pack(self.first_state())
        try:
            x, status = self.search(x)
            if mean_size(self.coordinates.unpack(x).q) < SMALL_Q * mean_size(self.model.law.rho):
                raise Vanishes
        except Vanishes:
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
