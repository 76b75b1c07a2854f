"""One draw of the learning problem at finite dimension: sentences, teacher, risk and gradient.

The risk sees the student's weights only through the fields ``h = (x + p) Q / sqrt(d)`` and the
sentences only through L x L Gram matrices (docs/theory.md, section 7).  The Gram matrices are
formed once, so that a gradient is two products with the one (n L) x d data matrix, and that matrix
is the only thing of its size: a task holds ``itemsize n L d`` bytes and ``16 n L**2`` beside it.
At d = 10,000 and alpha = 2 that is 1.6 GB in float32, 3.2 GB in float64.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gamp_theory.model import AttentionModel

__all__ = [
    "DEFAULT_MEMORY_LIMIT",
    "DTYPES",
    "ErrorEstimate",
    "StudentOverlaps",
    "Task",
    "draw_task",
    "position_square",
]

DEFAULT_MEMORY_LIMIT = 4 * 2**30
"""Bytes that a task may hold unless told otherwise (4 GiB)."""

# Bytes of one block of sentences while it is drawn: inside the cache of a core, or nearly.
_BLOCK_BYTES = 4 * 2**20

DTYPES = {"float64": 8, "float32": 4}
"""Bytes of a number, by the names that :func:`draw_task` knows."""

# Independent random streams of one seed.  The numbers are part of what a seed means: appending a
# stream changes no other draw, and the teacher does not depend on alpha.
_TEACHER, _SENTENCES, _FRESH, _START, _NOISE = range(5)


class StudentOverlaps(NamedTuple):
    """Overlaps of one student, signed (docs/theory.md, section 1).

    Attributes
    ----------
    q : float
        ``sigma**2 |Q|**2 / d``.
    m : float
        ``Q^T p_1 / sqrt(d)``; at a student that knows nothing of p it is of order 1/sqrt(d).
    theta : float
        ``sigma**2 Q.Q* / d``.
    """

    q: float
    m: float
    theta: float


class ErrorEstimate(NamedTuple):
    """A mean over fresh sentences.

    Attributes
    ----------
    value : float
        Test error ``1/(d L) E |y(x) - f_Q(x)|**2``, per token and dimension.
    stderr : float
        Standard error of `value` over the fresh sentences, the task and Q being fixed.
    position_square : float
        ``E sum_i |sum_j S_ij p_j|**2`` over the same sentences, for
        :func:`gamp_theory.empirical.measure.test_error_bias`; 0 in a bias-free task.
    samples : int
        Number of fresh sentences.
    """

    value: float
    stderr: float
    position_square: float
    samples: int


@dataclass(frozen=True, eq=False)
class Task:
    """One draw of teacher and training sentences, with the exact risk (docs/theory.md, section 1).

    Made by :func:`draw_task`.  Arrays are read-only.

    Attributes
    ----------
    model : AttentionModel
        What is learned.
    lam : float
        Ridge.
    seed : int or tuple of int
        What the draw was seeded with.
    bias_free : bool
        Whether this is the variant without the 1/d bias, see :func:`draw_task`.
    teacher : array, shape (d,)
        Q*, entries N(0, 1).
    teacher_fields : array, shape (n, L)
        ``y = x Q*/sqrt(d)``.
    tokens : array, shape (n, L, d)
        ``(x + p)/sqrt(d)``: the data as the student meets them, scaled so that fields are
        ``tokens @ Q``; float32 if that was asked for, the rest is float64.
    gram : array, shape (n, L, L)
        ``(x + p)(x + p)^T / d``; ``sigma**2 I`` in the bias-free variant.
    cross : array, shape (n, L, L)
        ``T x (x + p)^T / d``, with T the target's attention ``T[y]``; ``sigma**2 T`` in the
        bias-free variant.
    target_square : float
        ``sum_mu tr[T x x^T T^T] / d``, the part of the risk that no student changes.
    """

    model: AttentionModel
    lam: float
    seed: int | tuple[int, ...]
    bias_free: bool
    teacher: NDArray[np.float64]
    teacher_fields: NDArray[np.float64]
    tokens: NDArray[np.floating]
    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
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

    def fields(self, Q: ArrayLike) -> NDArray[np.float64]:
        """Fields ``h = (x + p) Q / sqrt(d)`` of the training sentences, shape (n, L)."""
        return self._fields(self._checked(Q))

    def risk(self, Q: ArrayLike) -> float:
        """``R(Q) = sum_mu 1/(2d) |y - f_Q|_F**2 + lam/2 |Q|**2``: a sum over samples, order d."""
        return self.risk_and_gradient(Q)[0]

    def risk_and_gradient(self, Q: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """Risk and its gradient in Q.

        Parameters
        ----------
        Q : array, shape (d,)
            The student's weights.

        Returns
        -------
        risk : float
            R(Q).
        gradient : array, shape (d,)
            ``dR/dQ``; its entries are of order 1 as d grows.
        """
        Q = self._checked(Q)
        h = self._fields(Q)
        S = self.model.student.matrix(h[..., None])
        # |Tx - Sz|^2/d = tr[T xx^T T^T] - 2 tr[T xz^T S^T] + tr[S zz^T S^T] (over d), z = x + p.
        slope = S @ self.gram - self.cross  # d(risk)/dS
        misfit = self.target_square + float(np.sum(S * (slope - self.cross)))
        risk = 0.5 * (misfit + self.lam * float(Q @ Q))
        # Row softmax of the scores h_i h_j: first the chain to the scores, then to the fields.
        scores = S * (slope - np.sum(S * slope, axis=-1, keepdims=True))
        scores += np.swapaxes(scores, -1, -2).copy()
        field_slope = (scores @ h[..., None]).ravel()
        return risk, self.transposed(field_slope) + self.lam * Q

    def transposed(self, u: ArrayLike) -> NDArray[np.float64]:
        """``F^T u``: from one number a token, shape (n, L) or (n L,), back to weights, (d,)."""
        u = np.asarray(u, dtype=self.tokens.dtype).ravel()
        return (u @ self._matrix).astype(float, copy=False)

    def overlaps(self, Q: ArrayLike) -> StudentOverlaps:
        """Signed overlaps of a student, Q of shape (d,)."""
        Q = self._checked(Q)
        variance = self.model.spectrum.variance
        d = self.d
        return StudentOverlaps(
            q=float(variance * (Q @ Q) / d),
            m=float(self.model.positions[0] * Q.sum() / d),  # p_1 = c_1 (1, ..., 1)/sqrt(d)
            theta=float(variance * (Q @ self.teacher) / d),
        )

    def position_square(self, Q: ArrayLike) -> float:
        """Mean over the training sentences of ``sum_i |sum_j S_ij p_j|**2`` at the fields of Q.

        Zero in a bias-free task, whose risk holds no such term.
        """
        if self.bias_free:
            return 0.0
        S = self.model.student.matrix(self.fields(Q)[..., None])
        return float(position_square(S, self.model.positions).mean())

    def random_start(self) -> NDArray[np.float64]:
        """A start that knows nothing: N(0, 1) entries from the task's own seed, shape (d,)."""
        return _stream(self.seed, _START).standard_normal(self.d)

    def noise(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """N(0, 1) numbers from the task's own seed, the same at every call."""
        return _stream(self.seed, _NOISE).standard_normal(shape)

    def test_error(self, Q: ArrayLike, samples: int = 20_000) -> ErrorEstimate:
        """Test error of a student on fresh sentences, from the definition.

        The outputs ``T x`` and ``S (x + p)`` are formed (in blocks of a few megabytes) and
        subtracted: nothing is shared with the Gram-matrix route of the risk.  The same task
        always uses the same fresh sentences, so two students are compared without sampling noise.
        A bias-free task averages ``(1/L) tr[(T - S) sigma**2 (T - S)^T]`` instead.

        Parameters
        ----------
        Q : array, shape (d,)
            The student's weights.
        samples : int
            Number of fresh sentences, at least 2.

        Returns
        -------
        ErrorEstimate
            Mean, its standard error over the sentences, and what the 1/d bias needs.
        """
        Q = self._checked(Q)
        samples = checked_integer("samples", samples, at_least=2)
        L, d = self.tokens.shape[1:]
        rng = _stream(self.seed, _FRESH)
        errors, leaks = np.empty(samples), np.empty(samples)
        block = max(1, _BLOCK_BYTES // (8 * L * d))
        for first in range(0, samples, block):
            part = slice(first, min(first + block, samples))
            x = _sentences(rng, part.stop - part.start, d, self.model)  # over sqrt(d)
            T = self.model.target.matrix((x @ self.teacher)[..., None])
            z = x + _positions(self.model, d)
            S = self.model.student.matrix((z @ Q)[..., None])
            if self.bias_free:
                errors[part] = self.model.spectrum.variance * np.sum((T - S) ** 2, axis=(1, 2)) / L
                leaks[part] = 0.0
                continue
            residual = T @ x - S @ z
            errors[part] = np.einsum("nld,nld->n", residual, residual) / L
            leaks[part] = position_square(S, self.model.positions)
        stderr = errors.std(ddof=1) / math.sqrt(samples)
        return ErrorEstimate(float(errors.mean()), float(stderr), float(leaks.mean()), samples)

    @property
    def _matrix(self) -> NDArray[np.floating]:
        return self.tokens.reshape(-1, self.d)

    def _fields(self, Q: NDArray[np.float64]) -> NDArray[np.float64]:
        h = self._matrix @ Q.astype(self.tokens.dtype, copy=False)
        return h.astype(float, copy=False).reshape(self.tokens.shape[:2])

    def _checked(self, Q: ArrayLike) -> NDArray[np.float64]:
        Q = np.asarray(Q, dtype=float)
        if Q.shape != (self.d,):
            raise ValueError(f"Q must have shape ({self.d},), got {Q.shape}")
        return Q


def draw_task(
    model: AttentionModel,
    d: int,
    alpha: float,
    lam: float,
    seed: int | Sequence[int],
    *,
    bias_free: bool = False,
    dtype: str = "float64",
    memory_limit: float = DEFAULT_MEMORY_LIMIT,
) -> Task:
    """Draw a teacher and ``n = round(alpha d)`` training sentences.

    Sentences have independent N(0, sigma**2) entries and the teacher N(0, 1) entries.  Teacher,
    sentences, fresh sentences and random start come from independent streams of the one seed.

    The bias-free variant has the same limit but none of the explicit terms of order 1/d: the
    teacher is scaled and projected to ``|Q*|**2 = d`` and ``Q*.p = 0``, and in risk and test error
    the Gram matrices ``xx^T/d``, ``x(x+p)^T/d``, ``(x+p)(x+p)^T/d`` are replaced by their common
    limit ``sigma**2 I``.  Critical points of its risk are exactly the fixed points of message
    passing (:mod:`gamp_theory.empirical.gamp`).

    Parameters
    ----------
    model : AttentionModel
        What is learned.
    d : int
        Embedding dimension, at least 2.
    alpha : float
        Sample ratio, positive; what was drawn is ``Task.alpha``.
    lam : float
        Ridge, non-negative.
    seed : int or sequence of int
        Non-negative; a sequence names one instance of a study, as in ``(seed, instance)``.
        Trailing zeros do not count: 7 and (7, 0) are the same draw.
    bias_free : bool
        Whether to draw the variant without the 1/d bias.
    dtype : {"float64", "float32"}
        Precision of the data matrix and of the products with it.  In float32, which rounds the
        same draw, gradients are good to about 1e-6 of their typical entry.
    memory_limit : float
        Bytes that the task may hold.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If an argument is outside its range, no sentence is left, or the task would need more
        than `memory_limit` bytes; before anything is allocated.
    """
    d = checked_integer("d", d, at_least=2)
    alpha = checked_number("alpha", alpha)
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, got {alpha!r}")
    lam = checked_number("lam", lam)
    if lam < 0:
        raise ValueError(f"lam must be >= 0, got {lam!r}")
    n = round(alpha * d)
    if n < 1:
        raise ValueError(f"alpha*d must round to 1 sentence or more, got alpha*d = {alpha * d:.3g}")
    seed = _checked_seed(seed)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {tuple(DTYPES)}, got {dtype!r}")
    L = model.target.tokens
    # The data matrix; beside it gram, cross and teacher fields, and one block while it is drawn.
    needed = DTYPES[dtype] * n * L * d + 8 * n * L * (2 * L + 1)
    needed += 3 * min(max(_BLOCK_BYTES, 8 * L * d), 8 * n * L * d)
    if not needed <= memory_limit:
        raise ValueError(
            f"d = {d} and alpha = {alpha:g} need {needed:.3g} bytes, more than memory_limit = "
            f"{memory_limit:.3g}; lower d or alpha, or raise memory_limit"
        )
    return _draw(model, d, n, lam, seed, bias_free, dtype)


def _draw(
    model: AttentionModel,
    d: int,
    n: int,
    lam: float,
    seed: int | tuple[int, ...],
    bias_free: bool,
    dtype: str,
) -> Task:
    L, variance = model.target.tokens, model.spectrum.variance
    teacher = _stream(seed, _TEACHER).standard_normal(d)
    if bias_free:
        teacher -= teacher.mean()  # all p_l are multiples of (1, ..., 1)
        teacher *= math.sqrt(d) / np.linalg.norm(teacher)
    positions = _positions(model, d)
    tokens = np.empty((n, L, d), dtype=dtype)
    fields, cross = np.empty((n, L)), np.empty((n, L, L))
    gram = np.empty((n, L, L))
    target_square = 0.0
    rng = _stream(seed, _SENTENCES)
    block = max(1, _BLOCK_BYTES // (8 * L * d))
    for first in range(0, n, block):
        part = slice(first, min(first + block, n))
        x = _sentences(rng, part.stop - part.start, d, model)  # over sqrt(d)
        fields[part] = x @ teacher
        T = model.target.matrix(fields[part][..., None])
        xx = variance * np.eye(L) if bias_free else x @ np.swapaxes(x, -1, -2)
        xz = xx if bias_free else xx + x @ positions.T
        target_square += float(np.sum(T * (T @ xx)))
        cross[part] = T @ xz
        x += positions  # from here on these are the student's tokens
        gram[part] = xx if bias_free else x @ np.swapaxes(x, -1, -2)
        tokens[part] = x
    for array in (teacher, fields, tokens, gram, cross):
        array.setflags(write=False)
    return Task(
        model=model,
        lam=lam,
        seed=seed,
        bias_free=bias_free,
        teacher=teacher,
        teacher_fields=fields,
        tokens=tokens,
        gram=gram,
        cross=cross,
        target_square=target_square,
    )


def position_square(
    attention: NDArray[np.float64], positions: Sequence[float]
) -> NDArray[np.float64]:
    """``sum_i |sum_j S_ij p_j|**2``: how much of the positions a student's output carries.

    With two tokens and ``p_1 = -p_2``, ``|p_1| = 1``, this is ``s_1**2 + s_2**2`` in the
    contrasts ``s_1 = S_11 - S_12``, ``s_2 = S_22 - S_21``.

    Parameters
    ----------
    attention : array, shape (..., L, L)
        Attention matrices S.
    positions : sequence of L floats
        The c_l of ``p_l = c_l (1, ..., 1)/sqrt(d)``.

    Returns
    -------
    array, shape (...)
        One number a sentence.
    """
    return np.sum((attention @ np.asarray(positions, dtype=float)) ** 2, axis=-1)


def _sentences(
    rng: np.random.Generator, count: int, d: int, model: AttentionModel
) -> NDArray[np.float64]:
    """``x/sqrt(d)``, shape (count, L, d)."""
    x = rng.standard_normal((count, model.target.tokens, d))
    x *= model.sigma / math.sqrt(d)
    return x


def _positions(model: AttentionModel, d: int) -> NDArray[np.float64]:
    """``p/sqrt(d)``, shape (L, d)."""
    return np.repeat(np.asarray(model.positions, dtype=float)[:, None] / d, d, axis=1)


def _stream(seed: int | tuple[int, ...], number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))


def checked_number(name: str, value: float) -> float:
    """`value` as a finite float, or a ``ValueError`` that names the argument."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def checked_integer(name: str, value: int, at_least: int) -> int:
    """`value` as an int of at least `at_least`, or a ``ValueError`` that names the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")
    return number


def _checked_seed(seed: int | Sequence[int]) -> int | tuple[int, ...]:
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        if not seed:
            raise ValueError(f"seed must not be empty, got {seed!r}")
        return tuple(checked_integer("seed", part, at_least=0) for part in seed)
    return checked_integer("seed", seed, at_least=0)
