"""Minimising the exact risk of one task from a named start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from tqdm import tqdm

from gamp_theory.empirical.task import Task, checked_integer, checked_number

__all__ = [
    "OPTIMIZERS",
    "RATES",
    "STARTS",
    "TrainingHistory",
    "TrainingResult",
    "TrainingStatus",
    "start_weights",
    "train",
]

Vector = NDArray[np.float64]

STARTS = ("semantic", "positional", "random")
OPTIMIZERS = ("lbfgs", "gd", "adam")
#: Rates of the first-order methods on dR/dQ: that of the published descents, and Adam's, which is
#: the size of its first steps in units of a weight.
RATES = {"gd": 0.15, "adam": 0.05}
#: Adam: decay of the two moments, and what keeps a division finite.  The rate falls like
#: 1/sqrt(1 + k/HALVING): with a constant one Adam ends in a cycle, not at a minimum.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-12
HALVING = 100


class TrainingStatus(StrEnum):
    """How a training ended; the value is the token, ``sentence`` what a user is shown."""

    converged = "converged"
    iteration_limit = "iteration_limit"
    line_search_failed = "line_search_failed"
    non_finite = "non_finite"

    @property
    def sentence(self) -> str:
        """The sentence for this token."""
        return _SENTENCES[self]


_SENTENCES = {
    TrainingStatus.converged: "The gradient is below the tolerance.",
    TrainingStatus.iteration_limit: "Stopped at the iteration limit before the gradient was small.",
    TrainingStatus.line_search_failed: (
        "The optimiser found no lower risk before the gradient was small; "
        "gradient_tol may be below rounding."
    ),
    TrainingStatus.non_finite: "The risk, its gradient or the weights are not finite.",
}


@dataclass(frozen=True, eq=False)
class TrainingHistory:
    """What was seen on the way, one entry a recorded iterate; all arrays have one shape.

    Attributes
    ----------
    iteration : array of int
        0 is the start.
    train_loss, gradient_norm, q, m, theta : array of float
        As in :class:`TrainingResult`, at that iterate.
    """

    iteration: NDArray[np.int64]
    train_loss: Vector
    gradient_norm: Vector
    q: Vector
    m: Vector
    theta: Vector


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained student (docs/theory.md, sections 1 and 7).

    Attributes
    ----------
    Q : array, shape (d,)
        Weights, in the sign they were found in.
    q, m, theta : float
        Overlaps of `Q`, signed: ``sigma**2|Q|**2/d``, ``Q^T p_1/sqrt(d)``, ``sigma**2 Q.Q*/d``.
    train_loss : float
        ``R(Q)/d``, ridge included.
    gradient_norm : float
        ``max_i |dR/dQ_i|``, recomputed at `Q`; of order 1 away from a minimum, whatever d.
    gradient_tol : float
        The tolerance asked for.
    iterations : int
        Iterations of the optimiser.
    start : str
        ``semantic``, ``positional``, ``random`` or ``array``.
    optimizer : str
        ``lbfgs``, ``gd`` or ``adam``.
    status : TrainingStatus
        A token; ``converged`` exactly if ``gradient_norm <= gradient_tol``.
    history : TrainingHistory or None
        None unless it was asked for.
    """

    Q: Vector
    q: float
    m: float
    theta: float
    train_loss: float
    gradient_norm: float
    gradient_tol: float
    iterations: int
    start: str
    optimizer: str
    status: TrainingStatus
    history: TrainingHistory | None

    @property
    def message(self) -> str:
        """The sentence that belongs to `status`."""
        return self.status.sentence


def train(
    task: Task,
    start: str | ArrayLike = "semantic",
    optimizer: str = "lbfgs",
    *,
    rate: float | None = None,
    gradient_tol: float = 1e-7,
    max_iterations: int = 5000,
    record_every: int = 0,
    progress: bool = False,
) -> TrainingResult:
    """Minimise the risk of a task from a start, with all sentences in every step.

    Each method finds a local minimum; which one is decided by the start.  Nothing is raised when
    it stops early: the result carries its status, so that no instance of a study is lost.  The
    test error is the task's: ``task.test_error(result.Q)``.

    Parameters
    ----------
    task : Task
        What to minimise.
    start : {"semantic", "positional", "random"} or array, shape (d,)
        ``semantic`` is ``Q = Q*``; ``positional`` is ``Q = p_1 = (1, ..., 1)/sqrt(d)``, small but
        with nothing but the position in it; ``random`` has N(0, 1) entries from the task's seed.
    optimizer : {"lbfgs", "gd", "adam"}
        ``gd`` is ``Q <- Q - rate dR/dQ``, the gradient of the sum over sentences: at its default
        rate and 5000 steps the descent of the paper.  ``adam`` has a rate that falls like
        ``1/sqrt(k)``.
    rate : float, optional
        Rate of ``gd`` or ``adam``; ``RATES`` unless given.
    gradient_tol : float
        Converged means ``max_i |dR/dQ_i|`` at most this.  Where the curvature is of order lam,
        the default leaves each weight within about 1e-5 at lam = 0.01; rounding in the risk
        allows about 1e-9, and about 1e-5 for a task in float32.
    max_iterations : int
        Bound on the iterations; L-BFGS usually takes 30 to 200.
    record_every : int
        Iterations between two entries of the history; 0 for none.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ValueError
        If an argument is not one of those allowed, or an array start is not finite or not (d,).
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {OPTIMIZERS}, got {optimizer!r}")
    if rate is not None:
        if optimizer not in RATES:
            raise ValueError(f"rate belongs to {', '.join(RATES)}; {optimizer} has none")
        rate = checked_number("rate", rate)
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate!r}")
    gradient_tol = checked_number("gradient_tol", gradient_tol)
    if gradient_tol <= 0:
        raise ValueError(f"gradient_tol must be positive, got {gradient_tol!r}")
    max_iterations = checked_integer("max_iterations", max_iterations, at_least=1)
    record_every = checked_integer("record_every", record_every, at_least=0)
    name, Q = start_weights(task, start)

    # Weights too large for the scores overflow: that is a status of the result, not a warning.
    with (
        np.errstate(all="ignore"),
        tqdm(total=max_iterations, desc=optimizer, disable=not progress, leave=False) as bar,
    ):
        watch = _Watch(task, record_every, bar)
        if optimizer == "lbfgs":
            Q, iterations, exhausted = _lbfgs(task, Q, gradient_tol, max_iterations, watch)
        else:
            step = (_gd_step if optimizer == "gd" else _adam_step)(rate or RATES[optimizer])
            Q, iterations = _first_order(task, Q, step, gradient_tol, max_iterations, watch)
            exhausted = True
        risk, gradient = task.risk_and_gradient(Q)
        overlaps = task.overlaps(Q)
    gradient_norm = float(abs(gradient).max())
    if not np.isfinite([risk, gradient_norm, overlaps.q]).all():
        status = TrainingStatus.non_finite
    elif gradient_norm <= gradient_tol:
        status = TrainingStatus.converged
    elif exhausted:
        status = TrainingStatus.iteration_limit
    else:
        status = TrainingStatus.line_search_failed
    return TrainingResult(
        Q=Q,
        q=overlaps.q,
        m=overlaps.m,
        theta=overlaps.theta,
        train_loss=risk / task.d,
        gradient_norm=gradient_norm,
        gradient_tol=gradient_tol,
        iterations=iterations,
        start=name,
        optimizer=optimizer,
        status=status,
        history=watch.history(),
    )


def _lbfgs(
    task: Task, Q: Vector, gradient_tol: float, max_iterations: int, watch: _Watch
) -> tuple[Vector, int, bool]:
    """Weights, iterations, and whether these (or the evaluations) were used up."""
    last: list[tuple[float, Vector]] = [task.risk_and_gradient(Q)]
    watch(0, Q, *last[0])
    count = 0

    def function(weights: Vector) -> tuple[float, Vector]:
        last[0] = task.risk_and_gradient(weights)
        return last[0]

    def callback(weights: Vector) -> None:  # the last evaluation is that of the accepted step
        nonlocal count
        count += 1
        watch(count, weights, *last[0])

    found = minimize(
        function,
        Q,
        jac=True,
        method="L-BFGS-B",
        callback=callback,
        options={
            "gtol": gradient_tol,
            "ftol": 0.0,  # a small step is not a small gradient: only the gradient decides
            "maxiter": max_iterations,
            "maxfun": 10 * max_iterations,
        },
    )
    return found.x, int(found.nit), found.status == 1


def _first_order(
    task: Task,
    Q: Vector,
    step: Callable[[Vector], Vector],
    gradient_tol: float,
    max_iterations: int,
    watch: _Watch,
) -> tuple[Vector, int]:
    """Iterate ``Q <- Q - step(dR/dQ)``; weights and iterations."""
    for iteration in range(max_iterations):
        risk, gradient = task.risk_and_gradient(Q)
        watch(iteration, Q, risk, gradient)
        size = float(abs(gradient).max())
        if size <= gradient_tol or not (math.isfinite(risk) and math.isfinite(size)):
            return Q, iteration
        Q = Q - step(gradient)
    watch(max_iterations, Q, *task.risk_and_gradient(Q))
    return Q, max_iterations


def _gd_step(rate: float) -> Callable[[Vector], Vector]:
    return lambda gradient: rate * gradient


def _adam_step(rate: float) -> Callable[[Vector], Vector]:
    first = second = np.zeros(1)
    count = 0

    def step(gradient: Vector) -> Vector:
        nonlocal first, second, count
        count += 1
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * gradient**2
        size = np.sqrt(second / (1 - BETA_2**count)) + EPSILON
        now = rate / math.sqrt(1 + count / HALVING)
        return now * first / (1 - BETA_1**count) / size

    return step


class _Watch:
    """Progress bar and history of one training."""

    def __init__(self, task: Task, record_every: int, bar: tqdm) -> None:
        self.task, self.record_every, self.bar = task, record_every, bar
        self.rows: list[tuple[float, ...]] = []

    def __call__(self, iteration: int, Q: Vector, risk: float, gradient: Vector) -> None:
        self.bar.update(iteration - self.bar.n)
        if self.record_every and iteration % self.record_every == 0:
            size = float(abs(gradient).max())
            overlaps = self.task.overlaps(Q)
            self.rows.append((iteration, risk / self.task.d, size, *overlaps))

    def history(self) -> TrainingHistory | None:
        if not self.record_every:
            return None
        columns = np.array(self.rows).T
        return TrainingHistory(columns[0].astype(np.int64), *columns[1:])


def start_weights(task: Task, start: str | ArrayLike) -> tuple[str, Vector]:
    """The name of a start and its weights, shape (d,), a copy.

    Raises
    ------
    ValueError
        If a name is unknown, or an array is not finite or not of shape (d,).
    """
    if isinstance(start, str):
        if start == "semantic":
            return start, task.teacher.copy()
        if start == "positional":
            return start, np.full(task.d, task.d**-0.5)
        if start == "random":
            return start, task.random_start()
        raise ValueError(f"start must be one of {STARTS} or an array, got {start!r}")
    Q = np.array(start, dtype=float)
    if Q.shape != (task.d,):
        raise ValueError(f"start must be one of {STARTS} or have shape ({task.d},), got {Q.shape}")
    if not np.isfinite(Q).all():
        raise ValueError("start must be finite, got an array with NaN or infinity in it")
    return "array", Q
