"""Generalised approximate message passing on one task (docs/theory.md, section 7).

With F the rows ``(x_l + p_l)/sqrt(d)`` of all sentences, t the target contrasts and V a number,
one iteration is::

    w = F Q - V g        g = (prox_V(w; t) - w)/V        R = -(sigma**2/d) sum_{mu,l} dg_l/dw_l
    Q = (F^T g + R Q)/(lam + R)                          V = sigma**2/(lam + R)

At large d its overlaps follow state evolution, iterate by iteration, as long as it is undamped.
At a fixed point ``F Q = prox(w)``, so that ``lam Q = F^T g = -F^T grad loss(F Q)``: Q is a critical
point of the risk in which the Gram matrices are ``sigma**2 I``, whatever V and R are; exactly one
of a bias-free task, and one of the risk up to 1/sqrt(d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from gamp_theory.channel.sobol_kernels import LEAF
from gamp_theory.empirical.gamp_kernels import sentence_proxes
from gamp_theory.empirical.task import Task, checked_integer, checked_number
from gamp_theory.empirical.training import start_weights

__all__ = ["ONSAGER", "GampResult", "GampStatus", "GampTrajectory", "message_passing"]

Vector = NDArray[np.float64]

ONSAGER = ("stein", "pointwise")
#: Where the spread of w given y is below this part of sqrt(q) (at Q = Q* it is 0), Stein's form
#: becomes a difference quotient of this step; its error is of second order in it.
SMALLEST_SPREAD = 0.05


class GampStatus(StrEnum):
    """How message passing ended; the value is the token, ``sentence`` what a user is shown."""

    converged = "converged"
    iteration_limit = "iteration_limit"
    left_domain = "left_domain"
    non_finite = "non_finite"

    @property
    def sentence(self) -> str:
        """The sentence for this token."""
        return _SENTENCES[self]


_SENTENCES = {
    GampStatus.converged: "The messages repeat themselves to within the tolerance.",
    GampStatus.iteration_limit: "Stopped at the iteration limit; the messages still move.",
    GampStatus.left_domain: "The response R has made lam + R negative: there is no next iterate.",
    GampStatus.non_finite: "The messages are not finite, or a proximal map was not found.",
}


@dataclass(frozen=True, eq=False)
class GampTrajectory:
    """Overlaps of every iterate; arrays of one shape, entry 0 being the start.

    Attributes
    ----------
    q, m, theta, V : array
        Overlaps of Q, signed, and the variance V that belongs to it.
    step : array
        How far this iterate's undamped successors are: the larger of ``|Q' - Q|/|Q'|`` and
        ``|g' - g|/|g'|``; NaN at the last entry, which has none.
    response_pointwise, response_stein : array
        The two forms of R that were found from this iterate; the second is NaN if it was not
        asked for.  Their difference is what the jumps of the prox contribute.
    """

    q: Vector
    m: Vector
    theta: Vector
    V: Vector
    step: Vector
    response_pointwise: Vector
    response_stein: Vector


@dataclass(frozen=True, eq=False)
class GampResult:
    """Where message passing has arrived.

    Attributes
    ----------
    Q : array, shape (d,)
        The last weights.
    fields : array, shape (n, 2)
        The last proxes, which are the fields of the training sentences at a fixed point.
    q, m, theta, V : float
        The last overlaps.
    step : float
        The last step, undamped.
    iterations : int
        Iterations made.
    start : str
        ``semantic``, ``positional``, ``random`` or ``array``.
    status : GampStatus
        ``converged`` exactly if ``step <= tol``.
    trajectory : GampTrajectory
        All iterates, ``iterations + 1`` of them.
    """

    Q: Vector
    fields: Vector
    q: float
    m: float
    theta: float
    V: float
    step: float
    iterations: int
    start: str
    status: GampStatus
    trajectory: GampTrajectory

    @property
    def message(self) -> str:
        """The sentence that belongs to `status`."""
        return self.status.sentence


def message_passing(
    task: Task,
    start: str | ArrayLike = "semantic",
    V: float | None = None,
    *,
    damping: float = 0.0,
    lagging: bool = False,
    onsager: str = "stein",
    tol: float = 1e-10,
    max_iterations: int = 200,
    progress: bool = False,
) -> GampResult:
    """Run message passing from a start, with g = 0 before the first iteration.

    Parameters
    ----------
    task : Task
        What to solve.
    start : {"semantic", "positional", "random"} or array, shape (d,)
        Q at the start, as in :func:`gamp_theory.empirical.training.train`.
    V : float, optional
        V at the start, positive; unless given, ``sigma**2/(lam + .75 alpha sigma**4 (q + m**2))``:
        the typical curvature of the loss.
    damping : float
        Part of the old g, R and Q that is kept, in [0, 1).  State evolution describes the undamped
        iteration; damping only serves to reach fixed points.
    lagging : bool
        Whether the Onsager term lags as Q does.  ``-V g`` takes out of ``F Q`` what a sentence has
        put there itself; with damping Q holds older g as well, and a sentence whose prox jumps
        flips with period two for ever.  With `lagging` the g in that term is damped once more,
        like Q.  Without damping, and at a fixed point, it makes no difference.
    onsager : {"stein", "pointwise"}
        How R is found.  ``pointwise`` differentiates the prox where it stands, and so misses its
        jumps.  ``stein`` integrates by parts over the cavity field: with mean ``mu`` and spread s
        of w given the teacher's fields, ``-E dg/dw = -E [g(w) - g(2 mu - w)].(w - mu)/(2 s**2)``
        summed over tokens, which counts them, at the price of a second prox and more noise.
    tol : float
        Converged means that one more undamped iteration changes neither Q nor g by more, relative
        to their norms.
    max_iterations : int
        Bound on the iterations.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    GampResult
        Never raises for what happens on the way: see its status.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    damping = checked_number("damping", damping)
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be in [0, 1), got {damping!r}")
    if onsager not in ONSAGER:
        raise ValueError(f"onsager must be one of {ONSAGER}, got {onsager!r}")
    tol = checked_number("tol", tol)
    if tol <= 0:
        raise ValueError(f"tol must be positive, got {tol!r}")
    max_iterations = checked_integer("max_iterations", max_iterations, at_least=1)
    name, Q = start_weights(task, start)
    rho = task.model.rho
    if V is None:
        q, m, _ = task.overlaps(Q)
        V = rho / (task.lam + 0.75 * task.alpha * rho**2 * (q + m * m))
    V = checked_number("V", V)
    if V <= 0:
        raise ValueError(f"V must be positive, got {V!r}")

    t = _target_contrasts(task)
    g = np.zeros_like(t)
    own = g  # the part of F Q, over V, that each sentence has put there
    h = np.zeros_like(t)
    response: float | None = None
    step, status = math.nan, GampStatus.iteration_limit
    rows = []
    with (
        np.errstate(all="ignore"),
        tqdm(total=max_iterations, desc="gamp", disable=not progress, leave=False) as bar,
    ):
        for _ in range(max_iterations):
            w = task.fields(Q) - V * own
            h, new_g, slope, failures = sentence_proxes(w, t, V, rho / 2, LEAF)
            pointwise = -rho / task.d * float(slope.sum())
            stein = _stein_response(task, Q, w, t, V, new_g) if onsager == "stein" else math.nan
            new_response = stein if onsager == "stein" else pointwise
            old_g, g = g, _mixed(damping, g, new_g)
            own = _mixed(damping, own, g) if lagging else g
            response = _mixed(damping, new_response if response is None else response, new_response)
            weight = task.lam + response
            new_Q = (task.transposed(g) + response * Q) / weight
            old_Q, Q = Q, _mixed(damping, Q, new_Q)
            step = max(_change(old_Q, new_Q), _change(old_g, new_g))
            rows.append((*task.overlaps(old_Q), V, step, pointwise, stein))
            bar.update()
            V = rho / weight
            if failures or not np.isfinite([step, V, *task.overlaps(Q)]).all():
                status = GampStatus.non_finite
            elif weight <= 0:
                status = GampStatus.left_domain
            elif step <= tol:
                status = GampStatus.converged
            if status is not GampStatus.iteration_limit:
                break
        q, m, theta = task.overlaps(Q)
    rows.append((q, m, theta, V, math.nan, math.nan, math.nan))
    return GampResult(
        Q=Q,
        fields=h,
        q=q,
        m=m,
        theta=theta,
        V=V,
        step=step,
        iterations=len(rows) - 1,
        start=name,
        status=status,
        trajectory=GampTrajectory(*np.array(rows).T),
    )


def _target_contrasts(task: Task) -> Vector:
    """``t_1 = T_11 - T_12`` and ``t_2 = T_22 - T_21`` of every sentence, shape (n, 2)."""
    T = task.model.target.matrix(task.teacher_fields[..., None])
    return np.stack([T[:, 0, 0] - T[:, 0, 1], T[:, 1, 1] - T[:, 1, 0]], axis=-1)


def _stein_response(task: Task, Q: Vector, w: Vector, t: Vector, V: float, g: Vector) -> float:
    """``-(sigma**2/d) sum dg_l/dw_l`` by parts, jumps included.

    The reflection ``2 mu - w`` has the law of w given y, and takes away the part of g that is even
    around the mean, which is mere noise here.  What a jump of the prox between the two points
    adds is in the difference; in a derivative at w it is not.
    """
    rho = task.model.rho
    overlaps = task.overlaps(Q)
    tilt = float(Q @ task.teacher) / float(task.teacher @ task.teacher)
    mean = tilt * task.teacher_fields + overlaps.m * np.asarray(task.model.positions)
    residual = Q - tilt * task.teacher
    spread = math.sqrt(rho * float(residual @ residual) / task.d)
    least = SMALLEST_SPREAD * math.sqrt(overlaps.q)
    if spread > least:
        other = sentence_proxes(2 * mean - w, t, V, rho / 2, LEAF)[1]
        return -rho / task.d * float(np.sum((g - other) * (w - mean))) / (2 * spread**2)
    # A direction for every sentence, the same in every run and iteration of the task.
    direction = task.noise(w.shape)
    up = sentence_proxes(w + least * direction, t, V, rho / 2, LEAF)[1]
    down = sentence_proxes(w - least * direction, t, V, rho / 2, LEAF)[1]
    return -rho / task.d * float(np.sum((up - down) * direction)) / (2 * least)


def _mixed(damping: float, old, new):  # noqa: ANN001, ANN202 (numbers or arrays)
    return damping * old + (1 - damping) * new


def _change(old: Vector, new: Vector) -> float:
    return float(np.linalg.norm(new - old) / np.linalg.norm(new))
