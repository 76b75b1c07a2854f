"""Named starts of the general model, and what its fixed points are called."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from gamp_theory.spectrum import JointLaw
from gamp_theory.token_mechanisms import attention, pullback
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps

__all__ = [
    "GENERAL_STARTS",
    "TOKEN_STARTS",
    "check_general_arguments",
    "start_coefficients",
    "token_branch_name",
    "token_start",
]

Array = NDArray[np.float64]

#: States that a search, or a student, may begin at.
TOKEN_STARTS = ("semantic", "positional", "mixed", "uninformed")
#: What may be solved for: "zero" is the fixed point Q = 0.
GENERAL_STARTS = (*TOKEN_STARTS, "zero")
#: Overlaps below this part of their natural unit, or below their error bar, count as zero.
ZERO_OVERLAP = 1e-6
#: A student of less than this part of the teacher's norm is the zero vector.
ZERO_Q = 1e-4
#: Fields that a start averages over; only a guess depends on them.
DRAWS = 2000
#: Share of the start's variance that is noise.
NOISE = 0.2


def check_general_arguments(
    model: GeneralModel, alpha: float, lam: float, start: str | TokenOverlaps, tol: float
) -> None:
    """Refuse what :func:`gamp_theory.token_evolution.solve_general` refuses.

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
    elif start not in GENERAL_STARTS:
        raise ValueError(
            f"start must be one of {', '.join(GENERAL_STARTS)} or TokenOverlaps, got {start!r}"
        )
    elif start == "zero" and not model.flat_student:
        raise ValueError(
            "zero needs a student whose attention does not change to first order at vanishing "
            f"fields: else Q = 0 is no critical point, got {model.student!r}"
        )


def token_start(name: str, model: GeneralModel, alpha: float, lam: float) -> TokenOverlaps:
    """A state in the basin of the branch `name`.

    "semantic" is a student along the teacher, as informed as the samples allow; "positional" one
    along the positions, whose mean fields attend as the mean target does; "mixed" has the first
    columns of the one and the rest of the other (at rank 1, their sum); "uninformed" is noise.

    Raises
    ------
    ValueError
        If `name` is none of these.
    """
    B, noise = start_coefficients(name, model, alpha)
    return _linear_student(model, B, noise, alpha, lam)


def start_coefficients(name: str, model: GeneralModel, alpha: float) -> tuple[Array, Array]:
    """The student of a start: entries ``Q_i = B u_i + noise``, ``u_i = (tau_i, pi_i)``.

    Returns
    -------
    B : array, shape (r, L + t)
    noise : array, shape (r, r)
        Covariance of the noise of an entry.

    Raises
    ------
    ValueError
        If `name` is not one of :data:`TOKEN_STARTS`.
    """
    law, r, t, L = model.law, model.rank, model.teacher_rank, model.tokens
    B = np.zeros((r, L + t))
    size = float(np.mean(np.diagonal(law.rho, axis1=1, axis2=2)) / np.mean(law.variance))
    strength = max(0.5, alpha / (1 + alpha))
    if name not in TOKEN_STARTS:
        raise ValueError(f"start must be one of {', '.join(TOKEN_STARTS)}, got {name!r}")
    columns = r if name == "semantic" else max(r - 1, 1)
    positional = {"positional": 0, "mixed": min(columns, t) if r > 1 else 0}.get(name, r)
    if name in ("semantic", "mixed"):
        for a in range(min(columns, t)):
            B[a, L + a] = strength
    if positional < r and np.any(law.position_gram):
        m = _attending_fields(model, positional)
        B[positional:, :L] += (np.linalg.pinv(law.position_gram) @ m).T[positional:]
    noise = NOISE * (strength**2 if name == "semantic" else 1.0) * size * np.eye(r)
    return B, noise


def token_branch_name(
    overlaps: TokenOverlaps, rho: Array, m_error: float = 0.0, theta_error: float = 0.0
) -> str:
    """What a fixed point is called: zero, uninformed, positional, semantic or mixed.

    Errors are those of the largest entries.
    """
    unit = float(np.sqrt(np.max(overlaps.q)))
    if unit**2 < ZERO_Q * np.max(rho):
        return "zero"
    positional = np.max(abs(overlaps.m)) > max(m_error, ZERO_OVERLAP * unit)
    floor = ZERO_OVERLAP * unit * float(np.sqrt(np.max(rho)))
    semantic = np.max(abs(overlaps.theta)) > max(theta_error, floor)
    if positional and semantic:
        return "mixed"
    if positional:
        return "positional"
    return "semantic" if semantic else "uninformed"


def _linear_student(
    model: GeneralModel, B: Array, noise: Array, alpha: float, lam: float
) -> TokenOverlaps:
    """Overlaps of ``Q_i = B u_i + noise``; V from the curvature of the loss at such fields."""
    law, L = model.law, model.tokens
    moments = np.einsum("kl,k,kuv->luv", law.gamma, law.weights, law.moments)
    q = B @ moments @ B.T + law.variance[:, None, None] * noise
    m = np.einsum("k,klu,au->la", law.weights, law.moments[:, :L], B)
    theta = B @ moments[:, :, L:]
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(q)
    w = m + np.einsum("lab,nlb->nla", root, rng.standard_normal((DRAWS, *m.shape)))
    # E over W of (sum W_ij dS_ij)(...)^T with Var W_ij = var_j is the Gauss-Newton curvature
    W = rng.standard_normal((DRAWS, L, L)) * np.sqrt(law.variance)
    slopes = pullback(model.student, w, W)
    curvature = alpha * np.einsum("nla,nlb->lab", slopes, slopes) / DRAWS
    A = lam * np.eye(model.rank) + np.einsum("kl,lab->kab", law.gamma, curvature)
    A += 1e-6 * np.trace(A, axis1=1, axis2=2)[:, None, None] * np.eye(model.rank) + 1e-12
    V = np.einsum("k,kl,kab->lab", law.weights, law.gamma, np.linalg.inv(A))
    return TokenOverlaps(q=q, m=m, V=0.5 * (V + np.swapaxes(V, 1, 2)), theta=theta)


def _attending_fields(model: GeneralModel, first: int) -> Array:
    """Mean fields m, within the span of the positions, whose attention is nearest to E T.

    Columns before `first` are zero.
    """
    law: JointLaw = model.law
    L, r, t = model.tokens, model.rank, model.teacher_rank
    values, vectors = np.linalg.eigh(law.position_gram)
    basis = vectors[:, values > 1e-10 * values[-1]]
    root = np.linalg.cholesky(law.rho)
    z = np.random.default_rng(0).standard_normal((DRAWS, L, t))
    y = np.einsum("lab,nlb->nla", root, z)
    mean = attention(model.target, np.concatenate([y, -y])).mean(axis=0)
    shape = (basis.shape[1], r - first)

    def fields(c: Array) -> Array:
        h = np.zeros((L, r))
        h[:, first:] = basis @ c.reshape(shape)
        return h

    def misfit(c: Array) -> tuple[float, Array]:
        h = fields(c)
        gap = (attention(model.student, h) - mean) * law.variance
        value = 0.5 * float(np.sum(gap**2 / law.variance))
        slope = basis.T @ pullback(model.student, h, gap)[:, first:]
        return value + 1e-6 * float(c @ c), slope.ravel() + 2e-6 * c

    guesses = np.random.default_rng(1).standard_normal((12, shape[0] * shape[1]))
    ends = [minimize(misfit, guess, jac=True, method="BFGS") for guess in guesses]
    best = min(ends, key=lambda end: end.fun).x
    # from nowhere else than the origin: an attention that says nothing of positions
    if np.max(abs(best)) < 1e-3:
        best = 0.2 * guesses[0] / np.linalg.norm(guesses[0])
    h = fields(best)
    top = h.ravel()[int(np.argmax(abs(h)))]
    return -h if top < 0 and model.even_student else h
