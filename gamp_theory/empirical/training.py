"""Minimising the exact risk of one task from a named start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from gamp_theory.empirical.task import Task, checked_integer, checked_number

__all__ = ["OPTIMIZERS", "STARTS", "TrainingResult", "TrainingStatus", "train"]

STARTS = ("semantic", "positional", "random")
OPTIMIZERS = ("lbfgs",)


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
    status : TrainingStatus
        A token; ``converged`` exactly if ``gradient_norm <= gradient_tol``.
    """

    Q: NDArray[np.float64]
    q: float
    m: float
    theta: float
    train_loss: float
    gradient_norm: float
    gradient_tol: float
    iterations: int
    start: str
    status: TrainingStatus

    @property
    def message(self) -> str:
        """The sentence that belongs to `status`."""
        return self.status.sentence


def train(
    task: Task,
    start: str | ArrayLike = "semantic",
    optimizer: str = "lbfgs",
    *,
    gradient_tol: float = 1e-7,
    max_iterations: int = 5000,
) -> TrainingResult:
    """Minimise the risk of a task from a start.

    L-BFGS finds a local minimum; which one is decided by the start.  Nothing is raised when it
    stops early: the result carries its status, so that no instance of a study is lost.

    Parameters
    ----------
    task : Task
        What to minimise.
    start : {"semantic", "positional", "random"} or array, shape (d,)
        ``semantic`` is ``Q = Q*``; ``positional`` is ``Q = p_1 = (1, ..., 1)/sqrt(d)``, small but
        with nothing but the position in it; ``random`` has N(0, 1) entries from the task's seed.
    optimizer : {"lbfgs"}
        The method.
    gradient_tol : float
        Converged means ``max_i |dR/dQ_i|`` at most this.  Where the curvature is of order lam,
        the default leaves each weight within about 1e-5 at lam = 0.01; rounding in the risk
        allows about 1e-9.
    max_iterations : int
        Bound on the iterations; 30 to 200 are usual.

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
    gradient_tol = checked_number("gradient_tol", gradient_tol)
    if gradient_tol <= 0:
        raise ValueError(f"gradient_tol must be positive, got {gradient_tol!r}")
    max_iterations = checked_integer("max_iterations", max_iterations, at_least=1)
    name, Q = _start(task, start)

    # Weights too large for the scores overflow: that is a status of the result, not a warning.
    with np.errstate(all="ignore"):
        found = minimize(
            task.risk_and_gradient,
            Q,
            jac=True,
            method="L-BFGS-B",
            options={
                "gtol": gradient_tol,
                "ftol": 0.0,  # a small step is not a small gradient: only the gradient decides
                "maxiter": max_iterations,
                "maxfun": 10 * max_iterations,
            },
        )
        Q = found.x
        risk, gradient = task.risk_and_gradient(Q)
        overlaps = task.overlaps(Q)
    gradient_norm = float(abs(gradient).max())
    if not np.isfinite([risk, gradient_norm, overlaps.q]).all():
        status = TrainingStatus.non_finite
    elif gradient_norm <= gradient_tol:
        status = TrainingStatus.converged
    elif found.status == 1:  # scipy: iterations or evaluations exhausted
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
        iterations=int(found.nit),
        start=name,
        status=status,
    )


def _start(task: Task, start: str | ArrayLike) -> tuple[str, NDArray[np.float64]]:
    """The name of a start and its weights."""
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
