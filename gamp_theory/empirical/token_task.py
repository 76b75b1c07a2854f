"""The general model at finite dimension: sentences, risk, L-BFGS, overlaps of the trained student.

Shares the definition of the model and its mechanisms with the theory, and nothing else.  A draw
works in the common eigenbasis of the covariances.  It holds ``8 n L d`` bytes, and ``24 n L**2``
beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from gamp_theory.empirical.measure import test_error_bias, train_loss_bias
from gamp_theory.empirical.task import (
    DEFAULT_MEMORY_LIMIT,
    ErrorEstimate,
    checked_integer,
    checked_number,
)
from gamp_theory.empirical.training import TrainingStatus
from gamp_theory.token_mechanisms import attention, pullback
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_starts import TOKEN_STARTS, start_coefficients

__all__ = ["TokenStudent", "TokenTask", "draw_token_task", "token_start_weights", "train_tokens"]

Array = NDArray[np.float64]

_LAW, _SENTENCES, _FRESH, _START, _NOISE = range(5)


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
    status : TrainingStatus
        ``converged`` exactly if `gradient_norm` is at most the tolerance.
    train_loss_bias, test_error_bias : float
        What the positions in the student's output add at finite d (docs/theory.md, section 7); 0 in
        a bias-free task.
    test_error_stderr : float
        Over the fresh sentences.
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
    status: TrainingStatus
    train_loss_bias: float
    test_error_bias: float
    test_error_stderr: float

    @property
    def message(self) -> str:
        """The sentence that belongs to `status`."""
        return self.status.sentence


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

    @property
    def n(self) -> int:
        """Number of training sentences."""
        return self.tokens.shape[0]

    @property
    def alpha(self) -> float:
        """The sample ratio that was drawn, ``n/d``."""
        return self.n / self.d

    @property
    def teacher_fields(self) -> Array:
        """``y = x Q*/sqrt(d)`` of the training sentences, shape (n, L, t)."""
        return self.fields(self.teacher) - self.tau.T @ self.teacher / self.d

    def fields(self, Q: Array) -> Array:
        """``(x + p) Q/sqrt(d)`` of the training sentences, shape (n, L, r); Q is (d, r)."""
        return (self._matrix @ Q).reshape(*self.tokens.shape[:2], -1)

    def transposed(self, u: Array) -> Array:
        """``F^T u``: from r numbers a token, shape (n, L, r), back to weights, (d, r)."""
        return self._matrix.T @ u.reshape(self.n * self.model.tokens, -1)

    def noise(self, shape: tuple[int, ...]) -> Array:
        """N(0, 1) numbers from the task's own seed, the same at every call."""
        return _stream(self.seed, _NOISE).standard_normal(shape)

    def risk_and_gradient(self, Q: Array) -> tuple[float, Array]:
        """Risk ``sum_mu |y - f_Q|^2/(2d) + lam |Q|^2/2`` and its gradient, (d, r)."""
        h = self.fields(Q)
        S = attention(self.model.student, h)
        slope = S @ self.gram - self.cross
        misfit = self.target_square + float(np.sum(S * (slope - self.cross)))
        gradient = self.transposed(pullback(self.model.student, h, slope)) + self.lam * Q
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
        B, noise = start_coefficients(name, self.model, self.alpha)
        u = np.concatenate([self.tau, self.teacher], axis=1)
        return u @ B.T + z @ np.linalg.cholesky(noise).T

    def position_square(self, Q: Array) -> float:
        """Mean over the training sentences of ``sum_i |sum_j S_ij p_j|**2`` at the fields of Q.

        Zero in a bias-free task, whose risk holds no such term.
        """
        return 0.0 if self.bias_free else float(self._leaks(self.fields(Q)).mean())

    def test_error(self, Q: Array, samples: int = 20_000) -> float:
        """Test error per token over fresh sentences."""
        return self.error_estimate(Q, samples).value

    def error_estimate(self, Q: Array, samples: int = 20_000) -> ErrorEstimate:
        """The same with its standard error over the sentences, and what its 1/d bias needs."""
        rng = _stream(self.seed, _FRESH)
        L, d = self.tokens.shape[1:]
        total, done = 0.0, 0
        squares, leaks = np.empty(samples), np.zeros(samples)
        variance = self.gamma.mean(axis=0)
        while done < samples:
            count = min(samples - done, max(1, 2**22 // (8 * L * d)))
            part = slice(done, done + count)
            x = _sentences(rng, count, self.gamma)
            T = attention(self.model.target, x @ self.teacher)
            z = x + self.tau.T / d
            h = z @ Q
            S = attention(self.model.student, h)
            if self.bias_free:
                gap = (T - S) ** 2 * variance
            else:
                gap = (T @ x - S @ z) ** 2
                leaks[part] = self._leaks(h)
            total += float(np.sum(gap))
            squares[part] = gap.sum(axis=(1, 2)) / L
            done += count
        stderr = float(squares.std(ddof=1) / math.sqrt(samples)) if samples > 1 else math.nan
        return ErrorEstimate(total / (samples * L), stderr, float(leaks.mean()), samples)

    def _leaks(self, h: Array) -> Array:
        """``sum_i |sum_j S_ij p_j|**2`` at fields h, one number a sentence."""
        S = attention(self.model.student, h)
        return np.einsum("nij,nik,jk->n", S, S, self.tau.T @ self.tau / self.d, optimize=True)

    @property
    def _matrix(self) -> Array:
        return self.tokens.reshape(-1, self.d)


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
    name, Q = token_start_weights(task, start)

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
    norm = float(np.max(abs(gradient)))
    fresh = task.error_estimate(Q, test_samples)
    if not (np.isfinite(risk) and np.isfinite(norm)):
        status = TrainingStatus.non_finite
    elif norm <= gradient_tol:
        status = TrainingStatus.converged
    elif end.status == 1:
        status = TrainingStatus.iteration_limit
    else:
        status = TrainingStatus.line_search_failed
    return TokenStudent(
        Q=Q,
        q=q,
        m=m,
        theta=theta,
        train_loss=risk / d,
        test_error=fresh.value,
        gradient_norm=norm,
        iterations=int(end.nit),
        start=name,
        status=status,
        train_loss_bias=train_loss_bias(task.position_square(Q), task.alpha, d),
        test_error_bias=test_error_bias(fresh.position_square, d, task.model.tokens),
        test_error_stderr=fresh.stderr,
    )


def token_start_weights(task: TokenTask, start: str | ArrayLike) -> tuple[str, Array]:
    """The name of a start and its weights, shape (d, r), a copy.

    Raises
    ------
    ValueError
        If a name is unknown, or an array is not finite or not of shape (d, r).
    """
    if isinstance(start, str):
        if start not in (*TOKEN_STARTS, "random"):
            raise ValueError(
                f"start must be one of {', '.join(TOKEN_STARTS)}, random or an array, got {start!r}"
            )
        return start, task.start(start)
    shape = (task.d, task.model.rank)
    Q = np.array(start, dtype=float)
    if Q.shape != shape or not np.all(np.isfinite(Q)):
        raise ValueError(f"start must be finite and of shape {shape}, got {Q.shape}")
    return "array", Q


def _sentences(rng: np.random.Generator, count: int, gamma: Array) -> Array:
    """``x/sqrt(d)`` in the eigenbasis, shape (count, L, d)."""
    d, L = gamma.shape
    x = rng.standard_normal((count, L, d))
    x *= np.sqrt(gamma.T / d)
    return x


def _stream(seed: tuple[int, ...], number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
