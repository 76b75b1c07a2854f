"""Fixed points ``x = F(x)`` of smooth maps of a few variables, where F is what costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gamp_theory.numerics.differences import NoDifferenceQuotient, jacobian

__all__ = ["FixedPointResult", "FixedPointStatus", "solve_fixed_point"]

Vector = NDArray[np.float64]

HALVINGS = 10  # of one step, before it is given up
STALL = 12  # evaluations in which the residual has to fall tenfold
BLOW_UP = 100.0  # growth of the residual over the best one that discards an accelerated step
DEPENDENT = 1e-2  # a residual difference this close to the span of newer ones tells only curvature


class FixedPointStatus(Enum):
    """How a solve ended; the value is the sentence for the user, `token` the word for programs."""

    CONVERGED = "The residual of every component is within its tolerance."
    ITERATION_LIMIT = "The allowed evaluations of the map were used up before convergence."
    LEFT_DOMAIN = "Every step from the last iterate leaves the domain of the map."
    NON_FINITE = "The map returned a value that is not finite."

    @property
    def token(self) -> str:
        """The name in lower case."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class FixedPointResult:
    """Where a solve ended and how.

    Attributes
    ----------
    x : array, shape (n,)
        The converged iterate; if there is none, the best one, by scaled residual.
    value : array, shape (n,)
        ``F(x)``.
    residual : array, shape (n,)
        ``|F(x) - x|``, undamped.
    iterations : int
        Steps taken.
    evaluations : int
        Calls of F, those for difference quotients and for steps taken back included.
    status : FixedPointStatus
        How it ended.
    history : array, shape (iterations + 1,)
        Scaled residual of every iterate: ``max |F(x) - x|/(atol + rtol |x|)``, 1 or less where
        converged.  Empty if F was not finite, or not to be called, at the start.
    """

    x: Vector
    value: Vector
    residual: Vector
    iterations: int
    evaluations: int
    status: FixedPointStatus
    history: Vector


def solve_fixed_point(
    F: Callable[[Vector], ArrayLike],
    x0: ArrayLike,
    *,
    atol: ArrayLike,
    rtol: ArrayLike,
    memory: int = 6,
    mixing: float = 0.4,
    max_evaluations: int = 200,
    admissible: Callable[[Vector], bool] | None = None,
    newton: bool = True,
    callback: Callable[[Vector, Vector], object] | None = None,
) -> FixedPointResult:
    """Solve ``x = F(x)``, also where F repels: eigenvalues of its Jacobian are free.

    Anderson acceleration, and Newton's method on differences of F where that stalls.  Converged
    means ``|F(x) - x| <= atol + rtol |x|`` in every component.  Components that F keeps at
    exactly 0 stay exactly 0.

    Parameters
    ----------
    F : callable
        The map, of vectors of shape (n,).
    x0 : array, shape (n,)
        Where to start.
    atol, rtol : float or array, shape (n,)
        Tolerances; `atol` positive.  They are the units of the components as well: what is
        minimised is the residual in units of ``atol + rtol |x|``.
    memory : int
        How many past steps the acceleration remembers; 0 is plain damped iteration.
    mixing : float
        The fraction, in (0, 1], of the residual that is added where nothing is known of the map.
    max_evaluations : int
        Bound on the calls of F.
    admissible : callable, optional
        Whether F may be called at a point.  A step that leads out is halved, a bounded number of
        times.
    newton : bool
        Whether Newton's method may come to the rescue.
    callback : callable, optional
        Called with x and F(x) at every iterate.

    Returns
    -------
    FixedPointResult
        Nothing is raised for a solve that fails; see its `status`.

    Raises
    ------
    ValueError
        On bad arguments, or if F returns a vector of another shape.

    Notes
    -----
    Anderson acceleration of type II [1]_.  As many residual differences as there are variables
    make it a multisecant quasi-Newton method, and more would leave the least-squares problem
    without a unique answer; so differences enter from the newest on, and one that depends
    on newer ones is left out.

    References
    ----------
    .. [1] H. F. Walker and P. Ni, "Anderson acceleration for fixed-point iterations", SIAM J.
       Numer. Anal. 49, 1715 (2011).
    """
    x0 = np.array(x0, dtype=float)
    atol, rtol = np.asarray(atol, dtype=float), np.asarray(rtol, dtype=float)
    _validate(x0, atol, rtol, memory, mixing, max_evaluations)
    run = _Run(F, admissible, callback, atol, rtol, max_evaluations)
    try:
        run.start(x0)
        while True:
            _anderson(run, memory, mixing, stall=STALL if newton else None)
            _newton(run)
            mixing *= 0.5  # or the next round would repeat this one
    except _Finished as finished:
        return run.result(finished.status, x0)


def _validate(
    x0: Vector, atol: Vector, rtol: Vector, memory: int, mixing: float, max_evaluations: int
) -> None:
    if x0.ndim != 1 or x0.size == 0:
        raise ValueError(f"x0 must be a non-empty vector, got shape {x0.shape}")
    if not np.all(np.isfinite(x0)):
        raise ValueError(f"x0 must be finite, got {x0}")
    if not np.all(np.isfinite(atol) & (atol > 0)):
        raise ValueError(f"atol must be positive and finite, got {atol}")
    if not np.all(np.isfinite(rtol) & (rtol >= 0)):
        raise ValueError(f"rtol must be finite and >= 0, got {rtol}")
    if memory < 0:
        raise ValueError(f"memory must be >= 0, got {memory!r}")
    if not 0 < mixing <= 1:
        raise ValueError(f"mixing must lie in (0, 1], got {mixing!r}")
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations must be at least 1, got {max_evaluations!r}")


class _Finished(Exception):
    """Unwinds both methods at once; never leaves this module."""

    def __init__(self, status: FixedPointStatus) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, eq=False)
class _Iterate:
    x: Vector
    f: Vector  # F(x) - x
    scaled: float  # max |f|/(atol + rtol |x|)


class _Run:
    """The books of one solve: counts, the best iterate, and the reasons to finish."""

    def __init__(
        self,
        F: Callable[[Vector], ArrayLike],
        admissible: Callable[[Vector], bool] | None,
        callback: Callable[[Vector, Vector], object] | None,
        atol: Vector,
        rtol: Vector,
        max_evaluations: int,
    ) -> None:
        self._F = F
        self.admissible = admissible
        self._callback = callback
        self._atol = atol
        self._rtol = rtol
        self._max_evaluations = max_evaluations
        self.evaluations = 0
        self.history: list[float] = []
        self.current: _Iterate
        self.best: _Iterate | None = None

    def start(self, x0: Vector) -> None:
        if self.admissible is not None and not self.admissible(x0):
            raise _Finished(FixedPointStatus.LEFT_DOMAIN)
        first = self.iterate(x0)
        if first is None:
            raise _Finished(FixedPointStatus.NON_FINITE)
        self.accept(first)

    def scale(self, x: Vector) -> Vector:
        return self._atol + self._rtol * np.abs(x)

    def map(self, x: Vector) -> Vector:
        if self.evaluations == self._max_evaluations:
            raise _Finished(FixedPointStatus.ITERATION_LIMIT)
        self.evaluations += 1
        value = np.array(self._F(x.copy()), dtype=float)
        if value.shape != x.shape:
            raise ValueError(f"F must return shape {x.shape}, got {value.shape}")
        return value

    def iterate(self, x: Vector) -> _Iterate | None:
        """Evaluate; None if the value is not finite."""
        f = self.map(x) - x
        if not np.all(np.isfinite(f)):
            return None
        return _Iterate(x, f, float(np.max(np.abs(f) / self.scale(x))))

    def accept(self, iterate: _Iterate) -> None:
        self.current = iterate
        self.history.append(iterate.scaled)
        if self.best is None or iterate.scaled < self.best.scaled:
            self.best = iterate
        if self._callback is not None:
            self._callback(iterate.x.copy(), iterate.x + iterate.f)
        if iterate.scaled <= 1:
            self.best = iterate
            raise _Finished(FixedPointStatus.CONVERGED)

    def step(self, direction: Vector) -> _Iterate | FixedPointStatus:
        """The iterate one step on, halved until it can be evaluated, or why it can not be."""
        reason = FixedPointStatus.LEFT_DOMAIN
        for k in range(HALVINGS + 1):
            x = self.current.x + 0.5**k * direction
            if not np.all(np.isfinite(x)) or (
                self.admissible is not None and not self.admissible(x)
            ):
                continue
            iterate = self.iterate(x)
            if iterate is not None:
                return iterate
            reason = FixedPointStatus.NON_FINITE
        return reason

    def result(self, status: FixedPointStatus, x0: Vector) -> FixedPointResult:
        unknown = np.full_like(x0, np.nan)
        end = self.best or _Iterate(x0, unknown, np.nan)
        return FixedPointResult(
            x=end.x,
            value=end.x + end.f,
            residual=np.abs(end.f),
            iterations=max(len(self.history) - 1, 0),
            evaluations=self.evaluations,
            status=status,
            history=np.array(self.history),
        )


def _anderson(run: _Run, memory: int, mixing: float, stall: int | None) -> None:
    """Accelerated iteration; returns when the residual stalls, at the best iterate."""
    assert run.best is not None
    run.current = run.best
    steps: list[Vector] = []  # x_{k+1} - x_k, newest first
    changes: list[Vector] = []  # f_{k+1} - f_k
    mark, mark_evaluations = run.best.scaled, run.evaluations
    while True:
        here = run.current
        scale = run.scale(here.x)
        gamma = _least_squares(changes, here.f, scale)
        direction = mixing * here.f
        for g, dx, df in zip(gamma, steps, changes, strict=False):
            direction = direction - g * (dx + mixing * df)
        there = run.step(direction)
        if isinstance(there, FixedPointStatus) and here is run.best and not steps:
            raise _Finished(there)
        if isinstance(there, FixedPointStatus) or (
            memory > 0 and there.scaled > BLOW_UP * run.best.scaled
        ):
            # The secants mislead here, or the damping is too weak: begin again, from the best
            # iterate, without the ones and with more of the other.
            steps.clear()
            changes.clear()
            mixing *= 0.5
            run.current = run.best
            continue
        run.accept(there)
        steps.insert(0, there.x - here.x)
        changes.insert(0, there.f - here.f)
        del steps[memory:], changes[memory:]
        if run.best.scaled <= 0.1 * mark:
            mark, mark_evaluations = run.best.scaled, run.evaluations
        elif stall is not None and run.evaluations - mark_evaluations >= stall:
            run.current = run.best
            return


def _least_squares(changes: list[Vector], f: Vector, scale: Vector) -> list[float]:
    """Coefficients g that minimise ``|(f - sum g_j changes_j)/scale|``, newest first.

    Gram-Schmidt in that order; a change that depends on the newer ones gets the coefficient 0.
    """
    basis: list[Vector] = []
    kept: list[int] = []
    for j, change in enumerate(changes):
        column = change / scale
        size = np.linalg.norm(column)
        for _ in range(2):  # twice is enough, once is not (Kahan)
            for b in basis:
                column = column - (b @ column) * b
        rest = np.linalg.norm(column)
        if rest > DEPENDENT * size:
            basis.append(column / rest)
            kept.append(j)
    coefficients = [0.0] * len(changes)
    if kept:
        Q = np.stack(basis, axis=1)
        R = Q.T @ np.stack([changes[j] / scale for j in kept], axis=1)
        for j, g in zip(kept, np.linalg.solve(R, Q.T @ (f / scale)), strict=True):
            coefficients[j] = float(g)
    return coefficients


def _newton(run: _Run) -> None:
    """Newton's method from the current iterate; returns when no step reduces the residual.

    The Jacobian is kept as long as every step with it reduces the residual tenfold.
    """
    while True:
        here = run.current
        # Components that are 0 and stay 0 span no direction: perturbing them would leave the
        # invariant subspace, and they are to be 0 exactly.
        active = (here.x != 0) | (here.f != 0)
        try:
            J = jacobian(
                run.map,
                here.x,
                method="forward",
                value=here.x + here.f,
                admissible=run.admissible,
                components=active,
            )[active]
        except NoDifferenceQuotient:
            return
        if not np.all(np.isfinite(J)):
            return
        fresh = True
        while True:
            here = run.current
            direction = np.zeros_like(here.x)
            unit = run.scale(here.x)[active]
            matrix = (np.eye(J.shape[0]) - J) * (unit / unit[:, None])
            # Least squares: at a fold the matrix is singular, and the short step is the right one.
            scaled_step = np.linalg.lstsq(matrix, here.f[active] / unit, rcond=1e-12)[0]
            direction[active] = unit * scaled_step
            there = _descend(run, direction)
            if there is None:
                if fresh:
                    return
                break
            run.accept(there)
            if there.scaled > 0.1 * here.scaled:
                break
            fresh = False


def _descend(run: _Run, direction: Vector) -> _Iterate | None:
    """Halve a step until the residual falls; None if it does not."""
    here = run.current
    unit = run.scale(here.x)
    size = np.linalg.norm(here.f / unit)
    for k in range(HALVINGS + 1):
        x = here.x + 0.5**k * direction
        if run.admissible is not None and not run.admissible(x):
            continue
        there = run.iterate(x)
        if there is not None and np.linalg.norm(there.f / unit) < (1 - 1e-4 * 0.5**k) * size:
            return there
    return None
