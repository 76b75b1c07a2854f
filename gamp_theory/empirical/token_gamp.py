"""One iteration of message passing for the general model (docs/theory.md, section 7).

:func:`gamp_theory.empirical.gamp.message_passing` makes the iterations; here is what is computed in
one, for any number of tokens and ranks.  In the common eigenbasis of the covariances, with F_l the
rows ``(x_l + p_l)/sqrt(d)`` of all sentences, gamma_li the eigenvalues, and R_l and V_l of shape
(r, r)::

    w_l = F_l Q - g_l V_l      g_l = V_l^-1 (prox_l - w_l)       R_l = -(1/d) sum_mu dg_l/dw_l
    Q_i = A_i^-1 [sum_l F_l^T g_l + gamma_li R_l Q]_i            A_i = lam + sum_l gamma_li R_l
    V_l = (1/d) sum_i gamma_li A_i^-1
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gamp_theory.channel.general_kernels import Mechanism, TokenState
from gamp_theory.empirical.token_gamp_kernels import token_proxes
from gamp_theory.empirical.token_task import TokenTask, token_start_weights
from gamp_theory.token_mechanisms import attention, pullback

__all__ = ["TokenMessages"]

Array = NDArray[np.float64]

#: Descents of each prox from random places, beside those that the theory's search makes.
RANDOM_STARTS = 4


class TokenMessages:
    """What message passing computes for a task of the general model.

    Parameters
    ----------
    task : TokenTask
    smallest_spread : float
        Where the spread of w given y, in an eigendirection of its covariance, is below this part of
        that of w, Stein's form becomes a difference quotient of this step.
    """

    def __init__(self, task: TokenTask, smallest_spread: float) -> None:
        self.task, self.smallest_spread = task, smallest_spread
        model, gamma = task.model, task.gamma
        self.shape = (task.n, model.tokens, model.rank)
        self.y = task.teacher_fields
        self.target = attention(model.target, self.y)
        self.rho = np.einsum("il,is,it->lst", gamma, task.teacher, task.teacher) / task.d
        self.student = Mechanism(*model.student.functions(model.tokens, model.rank))
        rng = np.random.default_rng(0)
        self.random = rng.standard_normal((RANDOM_STARTS, model.tokens, model.rank))

    def start(self, start: str | ArrayLike, V: ArrayLike | None) -> tuple[str, Array, Array]:
        """Name of the start, Q (d, r) and V (L, r, r).

        Unless given, V is what the curvature of the loss would make it, in the Gauss-Newton form at
        the fields of the start: positive wherever that is.
        """
        task = self.task
        tokens, rank = self.shape[1:]
        name, Q = token_start_weights(task, start)
        if V is None:
            W = np.sqrt(task.gamma.mean(axis=0)) * task.noise((task.n, tokens, tokens))
            slopes = pullback(task.model.student, task.fields(Q), W)
            return name, Q, self._responses(np.einsum("nla,nlb->lab", slopes, slopes) / task.d)[1]
        try:
            value = np.asarray(V, dtype=float)
        except (TypeError, ValueError):
            value = np.full((), np.nan)
        if value.ndim == 0:
            value = value * np.broadcast_to(np.eye(rank), (tokens, rank, rank))
        if (
            value.shape != (tokens, rank, rank)
            or not np.all(np.isfinite(value))
            or np.max(abs(value - np.swapaxes(value, 1, 2))) > 1e-9 * np.max(abs(value))
            or not np.all(np.linalg.eigvalsh(value) > 0)
        ):
            raise ValueError(
                f"V must be a positive number or {tokens} positive definite matrices of shape "
                f"{(rank, rank)}, got {V!r}"
            )
        return name, Q, _symmetric(value)

    def overlaps(self, Q: Array) -> tuple[Array, Array, Array]:
        """Overlaps q (L, r, r), m (L, r) and theta (L, r, t)."""
        return self.task.overlaps(Q)

    def cavity(self, Q: Array, V: Array, g: Array) -> Array:
        """``w = F Q - g V``: fields without what each sentence has put there, shape (n, L, r)."""
        return self.task.fields(Q) - np.einsum("nla,lab->nlb", g, V)

    def proxes(self, w: Array, V: Array, h: Array) -> tuple[Array, Array, Array, int]:
        """New h and g, the pointwise R (L, r, r), and the proxes that were not found."""
        tokens, rank = self.shape[1:]
        rank_t = self.task.model.teacher_rank
        state = TokenState(
            m=np.zeros((tokens, rank)),
            slope=np.zeros((tokens, rank, rank_t)),
            noise=np.zeros((tokens, rank, rank)),
            root_rho=np.zeros((tokens, rank_t, rank_t)),
            precision=np.linalg.inv(V),
            root_V=np.linalg.cholesky(V),
            variance=self.task.gamma.mean(axis=0),
        )
        h, g, slope, failures = token_proxes(
            self.y, np.ascontiguousarray(w), self.target, state, self.student, self.random, h
        )
        return h, g, -_symmetric(slope) / self.task.d, failures

    def stein(self, Q: Array, w: Array, V: Array, h: Array, g: Array) -> Array:
        """R by parts, jumps included, shape (L, r, r).

        ``-E dg/dw = -E[g(w) - g(2 mu - w)] (w - mu)^T C^-1/2`` with mean mu and covariance C of w
        given y.  In eigendirections of C with next to no spread w is moved by noise instead.
        """
        d = self.task.d
        q, m, theta = self.overlaps(Q)
        tilt = np.swapaxes(np.linalg.solve(self.rho, np.swapaxes(theta, 1, 2)), 1, 2)
        covariance = q - tilt @ np.swapaxes(theta, 1, 2)
        if not np.all(np.isfinite(covariance)):
            return np.full_like(q, np.nan)
        variances, U = np.linalg.eigh(_symmetric(covariance))
        mean = m + np.einsum("lat,nlt->nla", tilt, self.y)
        from_mean = np.einsum("nla,lab->nlb", w - mean, U)  # along the eigendirections
        scale = np.trace(q, axis1=1, axis2=2)[:, None] / q.shape[1]
        least = self.smallest_spread * np.sqrt(scale)
        weak = variances <= least**2
        if np.any(weak):
            noise = self.task.noise(w.shape)
            moved = np.where(weak, least * noise, 0.0)
            g = self.proxes(w + np.einsum("nlb,lab->nla", moved, U), V, h)[1]
            back = np.where(weak, moved, 2 * from_mean)
            factor = np.where(weak, noise / (2 * least), from_mean / (2 * abs(variances)))
        else:
            back, factor = 2 * from_mean, from_mean / (2 * variances)
        other = self.proxes(w - np.einsum("nlb,lab->nla", back, U), V, h)[1]
        gap = np.einsum("nla,lab->nlb", g - other, U)
        R = -np.einsum("nla,nlb->lab", gap, factor) / d
        # symmetric but for noise, which in the entry (a, b) grows like 1/spread_b
        weight = np.maximum(variances, least**2)
        R *= weight[:, None, :] / (weight[:, None, :] + weight[:, :, None])
        return U @ (2 * _symmetric(R)) @ np.swapaxes(U, 1, 2)

    def update(self, Q: Array, g: Array, R: Array) -> tuple[Array, Array, bool]:
        """New Q and V, and whether every ``A_i`` is positive definite."""
        inverse, V, positive = self._responses(R)
        pull = self.task.transposed(g) + np.einsum("il,lab,ib->ia", self.task.gamma, R, Q)
        return np.einsum("iab,ib->ia", inverse, pull), V, positive

    def _responses(self, R: Array) -> tuple[Array, Array, bool]:
        """``A_i^-1`` (d, r, r), V (L, r, r), and whether every ``A_i`` is positive definite.

        A and V are made symmetric: what is not would grow from one iteration to the next.
        """
        task = self.task
        A = task.lam * np.eye(R.shape[1]) + np.einsum("il,lab->iab", task.gamma, _symmetric(R))
        try:
            inverse = np.linalg.inv(A)
            positive = bool(np.all(np.linalg.eigvalsh(A) > 0))
        except np.linalg.LinAlgError:  # singular, or not finite
            inverse, positive = np.full_like(A, np.nan), True
        V = np.einsum("il,iab->lab", task.gamma, inverse) / task.d
        return inverse, _symmetric(V), positive


def _symmetric(matrices: Array) -> Array:
    return 0.5 * (matrices + np.swapaxes(matrices, 1, 2))
