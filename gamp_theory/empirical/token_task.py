"""The general model at finite dimension: sentences, risk, L-BFGS, overlaps of the trained student.

Shares the definition of the model and its mechanisms with the theory, and nothing else.  A draw
works in the common eigenbasis of the covariances.  It holds ``8 n L d`` bytes, and ``24 n L**2``
beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from gamp_theory.empirical.task import DEFAULT_MEMORY_LIMIT, checked_integer, checked_number
from gamp_theory.token_mechanisms import attention, pullback
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_starts import TOKEN_STARTS, start_coefficients

__all__ = ["TokenStudent", "TokenTask", "draw_token_task", "train_tokens"]

Array = NDArray[np.float64]

_LAW, _SENTENCES, _FRESH, _START = range(4)


class TokenStudent(NamedTuple):
    """A trained student.

    Attributes
    ----------
    Q : array, shape (d, r)
        Weights, in the common eigenbasis.
    q : array, shape (L, r, r)
    m : array, shape (L, r)
    theta : array, shape (L, r, t)
        Overlaps, in the gauge and sign they were found in.
    train_loss : float
        ``R(Q)/d``.
    test_error : float
        Per token, over fresh sentences.
    gradient_norm : float
        ``max |dR/dQ|``.
    iterations : int
    start : str
    """

    Q: Array
    q: Array
    m: Array
    theta: Array
    train_loss: float
    test_error: float
    gradient_norm: float
    iterations: int
    start: str


@dataclass(frozen=True, eq=False)
class TokenTask:
    """One draw of teacher and sentences.  Made by :func:`draw_token_task`.

    Attributes
    ----------
    model : GeneralModel
    lam : float
    seed : tuple of int
    bias_free : bool
    gamma : array, shape (d, L)
    tau : array, shape (d, L)
        ``sqrt(d) p_l``.
    teacher : array, shape (d, t)
    tokens : array, shape (n, L, d)
        ``(x + p)/sqrt(d)``.
    gram, cross : array, shape (n, L, L)
        ``(x + p)(x + p)^T/d`` and ``T x (x + p)^T/d``.
    target_square : float
        ``sum tr[T x x^T T^T]/d``.
    """

    model: GeneralModel
    lam: float
    seed: tuple[int, ...]
    bias_free: bool
    gamma: Array
    tau: Array
    teacher: Array
    tokens: Array
    gram: Array
    cross: Array
    target_square: float

    @property
    def d(self) -> int:
        """Embedding dimension."""
        return self.tokens.shape[2]

    def risk_and_gradient(self, Q: Array) -> tuple[float, Array]:
        """Risk ``sum_mu |y - f_Q|^2/(2d) + lam |Q|^2/2`` and its gradient, (d, r)."""
        n, L, d = self.tokens.shape
        matrix = self.tokens.reshape(-1, d)
        h = (matrix @ Q).reshape(n, L, self.model.rank)
        S = attention(self.model.student, h)
        slope = S @ self.gram - self.cross
        misfit = self.target_square + float(np.sum(S * (slope - self.cross)))
        fields = pullback(self.model.student, h, slope)
        gradient = matrix.T @ fields.reshape(n * L, -1) + self.lam * Q
        return 0.5 * (misfit + self.lam * float(np.sum(Q * Q))), gradient

    def overlaps(self, Q: Array) -> tuple[Array, Array, Array]:
        """``q`` (L, r, r), ``m`` (L, r) and ``theta`` (L, r, t) of a student, Q of shape (d, r)."""
        q = np.einsum("il,ia,ib->lab", self.gamma, Q, Q) / self.d
        m = self.tau.T @ Q / self.d
        theta = np.einsum("il,ia,it->lat", self.gamma, Q, self.teacher) / self.d
        return q, m, theta

    def start(self, name: str) -> Array:
        """Weights of a named start, with noise from the task's seed; "random" is N(0, 1)."""
        rng = _stream(self.seed, _START)
        z = rng.standard_normal((self.d, self.model.rank))
        if name == "random":
            return z
        alpha = len(self.tokens) / self.d
        B, noise = start_coefficients(name, self.model, alpha)
        u = np.concatenate([self.tau, self.teacher], axis=1)
        return u @ B.T + z @ np.linalg.cholesky(noise).T

    def test_error(self, Q: Array, samples: int = 20_000) -> float:
        """Test error per token over fresh sentences."""
        rng = _stream(self.seed, _FRESH)
        L, d = self.tokens.shape[1:]
        total, done = 0.0, 0
        variance = self.gamma.mean(axis=0)
        while done < samples:
            count = min(samples - done, max(1, 2**22 // (8 * L * d)))
            x = _sentences(rng, count, self.gamma)
            T = attention(self.model.target, x @ self.teacher)
            z = x + self.tau.T / d
            S = attention(self.model.student, z @ Q)
            if self.bias_free:
                total += float(np.sum((T - S) ** 2 * variance))
            else:
                total += float(np.sum((T @ x - S @ z) ** 2))
            done += count
        return total / (samples * L)


def draw_token_task(
    model: GeneralModel,
    d: int,
    alpha: float,
    lam: float,
    seed: int | Sequence[int],
    *,
    bias_free: bool = False,
    memory_limit: float = DEFAULT_MEMORY_LIMIT,
) -> TokenTask:
    """Draw positions, teacher and ``n = round(alpha d)`` sentences of a general model.

    The law is drawn with exact second moments (:meth:`gamp_theory.spectrum.JointLaw.sample`); the
    bias-free variant has in risk and test error the limits of the Gram matrices as well.

    Raises
    ------
    ValueError
        If d is below 2 or below a rank, no sentence is left, or memory does not suffice; before
        anything is allocated.
    """
    d = checked_integer("d", d, at_least=2)
    for name, rank in (("rank", model.rank), ("teacher rank", model.teacher_rank)):
        if rank > d:
            raise ValueError(f"{name} must be at most d = {d}, got {rank}")
    alpha, lam = checked_number("alpha", alpha), checked_number("lam", lam)
    n, L = round(alpha * d), model.tokens
    if alpha <= 0 or n < 1:
        raise ValueError(f"alpha*d must round to 1 sentence or more, got alpha*d = {alpha * d:.3g}")
    if lam < 0:
        raise ValueError(f"lam must be >= 0, got {lam!r}")
    needed = 8 * n * L * d * 2 + 24 * n * L * L
    if needed > memory_limit:
        raise ValueError(
            f"d = {d} and alpha = {alpha:g} need {needed:.3g} bytes, more than memory_limit = "
            f"{memory_limit:.3g}"
        )
    seed = tuple(seed) if isinstance(seed, Sequence) else (seed,)
    gamma, tau, teacher = model.law.sample(d, _stream(seed, _LAW))
    x = _sentences(_stream(seed, _SENTENCES), n, gamma)
    T = attention(model.target, x @ teacher)
    p = tau.T / d
    if bias_free:
        xx = np.broadcast_to(np.diag(gamma.mean(axis=0)), (n, L, L))
        xz = zz = xx
    else:
        xx = x @ np.swapaxes(x, 1, 2)
        xz = xx + x @ p.T
        zz = xz + p @ np.swapaxes(x, 1, 2) + p @ p.T
    target_square = float(np.sum(T * (T @ xx)))
    x += p
    return TokenTask(
        model=model,
        lam=lam,
        seed=seed,
        bias_free=bias_free,
        gamma=gamma,
        tau=tau,
        teacher=teacher,
        tokens=x,
        gram=np.array(zz),
        cross=T @ xz,
        target_square=target_square,
    )


def train_tokens(
    task: TokenTask,
    start: str | ArrayLike = "semantic",
    *,
    gradient_tol: float = 1e-6,
    max_iterations: int = 3000,
    test_samples: int = 20_000,
) -> TokenStudent:
    """Minimise the risk by L-BFGS from a named start, "random", or weights of shape (d, r).

    Raises
    ------
    ValueError
        If the start is none of these.
    """
    d, r = task.d, task.model.rank
    if isinstance(start, str):
        if start not in (*TOKEN_STARTS, "random"):
            raise ValueError(
                f"start must be one of {', '.join(TOKEN_STARTS)}, random or an array, got {start!r}"
            )
        name, Q = start, task.start(start)
    else:
        name, Q = "array", np.asarray(start, dtype=float)
        if Q.shape != (d, r) or not np.all(np.isfinite(Q)):
            raise ValueError(f"start must be finite and of shape {(d, r)}, got {Q.shape}")

    def function(weights: Array) -> tuple[float, Array]:
        risk, gradient = task.risk_and_gradient(weights.reshape(d, r))
        return risk, gradient.ravel()

    end = minimize(
        function,
        Q.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": max_iterations,
            "maxfun": 2 * max_iterations,
            "maxcor": 20,
            "gtol": gradient_tol,
            "ftol": 0.0,
        },
    )
    Q = end.x.reshape(d, r)
    risk, gradient = task.risk_and_gradient(Q)
    q, m, theta = task.overlaps(Q)
    return TokenStudent(
        Q=Q,
        q=q,
        m=m,
        theta=theta,
        train_loss=risk / d,
        test_error=task.test_error(Q, test_samples),
        gradient_norm=float(np.max(abs(gradient))),
        iterations=int(end.nit),
        start=name,
    )


def _sentences(rng: np.random.Generator, count: int, gamma: Array) -> Array:
    """``x/sqrt(d)`` in the eigenbasis, shape (count, L, d)."""
    d, L = gamma.shape
    x = rng.standard_normal((count, L, d))
    x *= np.sqrt(gamma.T / d)
    return x


def _stream(seed: tuple[int, ...], number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
