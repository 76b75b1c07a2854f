"""Second derivatives of the risk: what kind of point it is, and the response V (section 7)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gamp_theory.empirical.task import DEFAULT_MEMORY_LIMIT, Task

__all__ = ["Curvature", "curvature", "hessian"]

_BLOCK_BYTES = 32 * 2**20


class Curvature(NamedTuple):
    """What the Hessian of the risk says about one student.

    Attributes
    ----------
    response : float
        ``V = (sigma**2/d) tr[H**-1]``: at a minimum where the prox is smooth, the V of the theory.
        NaN unless H is positive definite.
    lowest : float
        Lowest eigenvalue of H; a minimum needs it positive, and a flat one is well below lam.
    negative : int
        Number of negative eigenvalues: 0 at a minimum, more at a saddle.
    """

    response: float
    lowest: float
    negative: int


def curvature(task: Task, Q: ArrayLike) -> Curvature:
    """Eigenvalues of the Hessian at Q, shape (d,), condensed; costs d**3."""
    values = np.linalg.eigvalsh(hessian(task, Q))
    lowest = float(values[0])
    response = task.model.rho / task.d * float(np.sum(1 / values)) if lowest > 0 else float("nan")
    return Curvature(response, lowest, int(np.sum(values < 0)))


def hessian(
    task: Task, Q: ArrayLike, *, memory_limit: float = DEFAULT_MEMORY_LIMIT
) -> NDArray[np.float64]:
    """Hessian of the risk, ``F^T B F + lam``, with B the second derivatives in the fields.

    Parameters
    ----------
    task : Task
        Whose risk.
    Q : array, shape (d,)
        Where.
    memory_limit : float
        Bytes that it may take.

    Returns
    -------
    array, shape (d, d)

    Raises
    ------
    ValueError
        If it would take more than `memory_limit` bytes; before anything is allocated.
    """
    d = task.d
    needed = 2 * 8 * d * d  # the sum and one product that is added to it
    if not needed <= memory_limit:
        raise ValueError(
            f"a Hessian at d = {d} needs {needed:.3g} bytes, more than memory_limit = "
            f"{memory_limit:.3g}"
        )
    B = field_curvature(task, task.fields(Q))
    result = task.lam * np.eye(d)
    block = max(1, _BLOCK_BYTES // (8 * task.tokens.shape[1] * d))
    for first in range(0, task.n, block):
        F = task.tokens[first : first + block].astype(float, copy=False)
        bent = B[first : first + block] @ F
        result += F.reshape(-1, d).T @ bent.reshape(-1, d)
    return 0.5 * (result + result.T)


def field_curvature(task: Task, h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Second derivatives of each sentence's misfit in its fields, shape (n, L, L).

    The chain of :meth:`Task.risk_and_gradient`, differentiated once more along each field.
    """
    S = task.model.student.matrix(h[..., None])
    slope = S @ task.gram - task.cross
    mean = np.sum(S * slope, axis=-1, keepdims=True)
    scores = S * (slope - mean)
    scores += np.swapaxes(scores, -1, -2).copy()
    columns = []
    for k in range(h.shape[1]):
        e = np.zeros_like(h)
        e[:, k] = 1.0
        d_scores = e[:, :, None] * h[:, None, :] + h[:, :, None] * e[:, None, :]
        d_S = S * (d_scores - np.sum(S * d_scores, axis=-1, keepdims=True))
        d_slope = d_S @ task.gram
        d_mean = np.sum(d_S * slope + S * d_slope, axis=-1, keepdims=True)
        bent = d_S * (slope - mean) + S * (d_slope - d_mean)
        bent += np.swapaxes(bent, -1, -2).copy()
        columns.append((bent @ h[..., None])[..., 0] + scores[..., k])
    return np.stack(columns, axis=-1)
