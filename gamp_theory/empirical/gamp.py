"""Generalised approximate message passing on one task (docs/theory.md, section 7).

With F the rows ``(x_l + p_l)/sqrt(d)`` of all sentences, t the target contrasts and V a number,
one iteration is::

    w = F Q - V g        g = (prox_V(w; t) - w)/V        R = -(sigma**2/d) sum_{mu,l} dg_l/dw_l
    Q = (F^T g + R Q)/(lam + R)                          V = sigma**2/(lam + R)

At large d its overlaps follow state evolution, iterate by iteration, as long as it is undamped.
At a fixed point ``F Q = prox(w)``, so that ``lam Q = F^T g = -F^T grad loss(F Q)``: Q is a critical
point of the risk in which the Gram matrices are ``sigma**2 I``, whatever V and R are; exactly one
of a bias-free task, and one of the risk up to 1/sqrt(d).

For a task of the general model V and R are matrices for each token; what is computed in an
iteration is then in :mod:`gamp_theory.empirical.token_gamp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from gamp_theory.channel.sobol_kernels import LEAF
from gamp_theory.empirical.gamp_kernels import sentence_proxes
from gamp_theory.empirical.task import Task, checked_integer, checked_number
from gamp_theory.empirical.token_gamp import TokenMessages
from gamp_theory.empirical.token_task import TokenTask
from gamp_theory.empirical.training import start_weights

__all__ = ["ONSAGER", "GampResult", "GampStatus", "GampTrajectory", "message_passing"]

Array = NDArray[np.float64]
#: An overlap: a number, or for a general model an array with the token first.
Overlap = TypeVar("Overlap", float, Array)

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
    """Overlaps of every iterate; the iterates come first, entry 0 being the start.

    Attributes
    ----------
    q, m, theta, V : array, shape (iterates,)
        Overlaps of Q, signed, and the variance V that belongs to it.  For a general model of shape
        (iterates, L, r, r), (iterates, L, r), (iterates, L, r, t) and (iterates, L, r, r).
    step : array, shape (iterates,)
        How far this iterate's undamped successors are: the larger of ``|Q' - Q|/|Q'|`` and
        ``|g' - g|/|g'|``; NaN at the last entry, which has none.
    response_pointwise, response_stein : array
        The two forms of R that were found from this iterate, of the shape of V; the second is NaN
        if it was not asked for.  Their difference is what the jumps of the prox contribute.
    """

    q: Array
    m: Array
    theta: Array
    V: Array
    step: Array
    response_pointwise: Array
    response_stein: Array


@dataclass(frozen=True, eq=False)
class GampResult(Generic[Overlap]):
    """Where message passing has arrived.

    Attributes
    ----------
    Q : array, shape (d,), for a general model (d, r)
        The last weights.
    fields : array, shape (n, 2), for a general model (n, L, r)
        The last proxes, which are the fields of the training sentences at a fixed point.
    q, m, theta, V : float, for a general model array
        The last overlaps, of shapes (L, r, r), (L, r), (L, r, t) and (L, r, r).
    step : float
        The last step, undamped.
    iterations : int
        Iterations made.
    start : str
        The name of the start, or ``array``.
    status : GampStatus
        ``converged`` exactly if ``step <= tol``.
    trajectory : GampTrajectory
        All iterates, ``iterations + 1`` of them.
    """

    Q: Array
    fields: Array
    q: Overlap
    m: Overlap
    theta: Overlap
    V: Overlap
    step: float
    iterations: int
    start: str
    status: GampStatus
    trajectory: GampTrajectory

    @property
    def message(self) -> str:
        """The sentence that belongs to `status`."""
        return self.status.sentence


@overload
def message_passing(
    task: Task,
    start: str | ArrayLike = ...,
    V: float | None = ...,
    *,
    damping: float = ...,
    lagging: bool = ...,
    onsager: str = ...,
    tol: float = ...,
    max_iterations: int = ...,
    progress: bool = ...,
) -> GampResult[float]: ...


@overload
def message_passing(
    task: TokenTask,
    start: str | ArrayLike = ...,
    V: ArrayLike | None = ...,
    *,
    damping: float = ...,
    lagging: bool = ...,
    onsager: str = ...,
    tol: float = ...,
    max_iterations: int = ...,
    progress: bool = ...,
) -> GampResult[Array]: ...


def message_passing(
    task: Task | TokenTask,
    start: str | ArrayLike = "semantic",
    V: Any = None,
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
    task : Task or TokenTask
        What to solve; the latter is a task of the general model.
    start : {"semantic", "positional", "random"} or array, shape (d,)
        Q at the start, as in :func:`gamp_theory.empirical.training.train`; for a general model as
        in :func:`gamp_theory.empirical.token_task.train_tokens`, an array of shape (d, r).
    V : float or array, optional
        V at the start, positive; unless given, ``sigma**2/(lam + .75 alpha sigma**4 (q + m**2))``:
        the typical curvature of the loss.  For a general model a number or matrices, shape
        (L, r, r); unless given, from the curvature of the loss at the start.
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
    messages: _Messages = (
        TokenMessages(task, SMALLEST_SPREAD) if isinstance(task, TokenTask) else _PairMessages(task)
    )
    name, Q, V = messages.start(start, V)

    g = np.zeros(messages.shape)
    own = g  # the part of F Q, over V, that each sentence has put there
    h = np.zeros(messages.shape)
    response: Any = None
    step, status = math.nan, GampStatus.iteration_limit
    rows = []
    with (
        np.errstate(all="ignore"),
        tqdm(total=max_iterations, desc="gamp", disable=not progress, leave=False) as bar,
    ):
        for _ in range(max_iterations):
            w = messages.cavity(Q, V, own)
            h, new_g, pointwise, failures = messages.proxes(w, V, h)
            stein = (
                messages.stein(Q, w, V, h, new_g) if onsager == "stein" else pointwise * math.nan
            )
            new_response = stein if onsager == "stein" else pointwise
            old_g, g = g, _mixed(damping, g, new_g)
            own = _mixed(damping, own, g) if lagging else g
            response = _mixed(damping, new_response if response is None else response, new_response)
            new_Q, new_V, positive = messages.update(Q, g, response)
            old_Q, Q = Q, _mixed(damping, Q, new_Q)
            step = max(_change(old_Q, new_Q), _change(old_g, new_g))
            rows.append((*messages.overlaps(old_Q), V, step, pointwise, stein))
            bar.update()
            V = new_V
            last = (*messages.overlaps(Q), V, step)
            if failures or not all(np.isfinite(value).all() for value in last):
                status = GampStatus.non_finite
            elif not positive:
                status = GampStatus.left_domain
            elif step <= tol:
                status = GampStatus.converged
            if status is not GampStatus.iteration_limit:
                break
        q, m, theta = messages.overlaps(Q)
    rows.append((q, m, theta, V, math.nan, V * math.nan, V * math.nan))
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
        trajectory=GampTrajectory(*map(np.array, zip(*rows, strict=True))),
    )


class _Messages(Protocol):
    """What is computed in one iteration; V and R are numbers or arrays (L, r, r)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the fields: (n, 2) or (n, L, r)."""

    def start(self, start: str | ArrayLike, V: Any) -> tuple[str, Array, Any]:
        """Name of the start, Q and V."""

    def overlaps(self, Q: Array) -> tuple[Any, Any, Any]:
        """q, m and theta."""

    def cavity(self, Q: Array, V: Any, g: Array) -> Array:
        """``w = F Q - V g``: fields without what each sentence has put there."""

    def proxes(self, w: Array, V: Any, h: Array) -> tuple[Array, Array, Any, int]:
        """New h and g, the pointwise R, and how many proxes were not found; h are the last ones."""

    def stein(self, Q: Array, w: Array, V: Any, h: Array, g: Array) -> Any:
        """R by parts, from the h and g found at w."""

    def update(self, Q: Array, g: Array, R: Any) -> tuple[Array, Any, bool]:
        """New Q and V, and whether lam and the response are positive together."""


class _PairMessages:
    """Two tokens at rank one."""

    def __init__(self, task: Task) -> None:
        self.task, self.rho = task, task.model.rho
        T = task.model.target.matrix(task.teacher_fields[..., None])
        #: ``t_1 = T_11 - T_12`` and ``t_2 = T_22 - T_21`` of every sentence, shape (n, 2).
        self.contrasts = np.stack([T[:, 0, 0] - T[:, 0, 1], T[:, 1, 1] - T[:, 1, 0]], axis=-1)
        self.shape = self.contrasts.shape

    def start(self, start: str | ArrayLike, V: float | None) -> tuple[str, Array, float]:
        """Name of the start, Q and V."""
        task, rho = self.task, self.rho
        name, Q = start_weights(task, start)
        if V is None:
            q, m, _ = task.overlaps(Q)
            V = rho / (task.lam + 0.75 * task.alpha * rho**2 * (q + m * m))
        V = checked_number("V", V)
        if V <= 0:
            raise ValueError(f"V must be positive, got {V!r}")
        return name, Q, V

    def overlaps(self, Q: Array) -> tuple[float, float, float]:
        """q, m and theta."""
        return self.task.overlaps(Q)

    def cavity(self, Q: Array, V: float, g: Array) -> Array:
        """``w = F Q - V g``, shape (n, 2)."""
        return self.task.fields(Q) - V * g

    def proxes(self, w: Array, V: float, h: Array) -> tuple[Array, Array, float, int]:
        """New h and g, the pointwise R, and how many proxes were not found.

        The search knows no last ones: it is global.
        """
        h, g, slope, failures = sentence_proxes(w, self.contrasts, V, self.rho / 2, LEAF)
        return h, g, -self.rho / self.task.d * float(slope.sum()), failures

    def stein(self, Q: Array, w: Array, V: float, h: Array, g: Array) -> float:
        """``-(sigma**2/d) sum dg_l/dw_l`` by parts, jumps included.

        The reflection ``2 mu - w`` has the law of w given y, and takes away the part of g that is
        even around the mean, which is mere noise here.  What a jump of the prox between the two
        points adds is in the difference; in a derivative at w it is not.
        """
        task, rho = self.task, self.rho
        overlaps = task.overlaps(Q)
        tilt = float(Q @ task.teacher) / float(task.teacher @ task.teacher)
        mean = tilt * task.teacher_fields + overlaps.m * np.asarray(task.model.positions)
        residual = Q - tilt * task.teacher
        spread = math.sqrt(rho * float(residual @ residual) / task.d)
        least = SMALLEST_SPREAD * math.sqrt(overlaps.q)
        if spread > least:
            other = self.proxes(2 * mean - w, V, h)[1]
            return -rho / task.d * float(np.sum((g - other) * (w - mean))) / (2 * spread**2)
        # A direction for every sentence, the same in every run and iteration of the task.
        direction = task.noise(w.shape)
        up = self.proxes(w + least * direction, V, h)[1]
        down = self.proxes(w - least * direction, V, h)[1]
        return -rho / task.d * float(np.sum((up - down) * direction)) / (2 * least)

    def update(self, Q: Array, g: Array, R: float) -> tuple[Array, float, bool]:
        """New Q and V, and whether ``lam + R`` is positive."""
        weight = self.task.lam + R
        new_Q = (self.task.transposed(g) + R * Q) / weight
        return new_Q, self.rho / weight, not weight <= 0


def _mixed(damping: float, old, new):  # noqa: ANN001, ANN202 (numbers or arrays)
    return damping * old + (1 - damping) * new


def _change(old: Array, new: Array) -> float:
    return float(np.linalg.norm(new - old) / np.linalg.norm(new))
