"""What a layer does with its fields: the target mechanism T and the student mechanism S.

Both map the fields of L tokens to an L x L row-stochastic matrix.  At L = 2 such a matrix is
one number per row, its off-diagonal contrast (docs/theory.md, section 3):
``s_1 = S_11 - S_12`` and ``s_2 = S_22 - S_21``, both in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_A", "Softmax", "SoftmaxMixture", "softmax_contrasts"]

DEFAULT_A = ((0.6, 0.4), (0.4, 0.6))


def softmax_contrasts(h: NDArray[np.float64]) -> NDArray[np.float64]:
    """Contrasts of ``softmax(h h^T)`` for two tokens and rank one.

    Parameters
    ----------
    h : array, shape (..., 2)
        Fields of the two tokens.

    Returns
    -------
    array, shape (..., 2)
        ``tanh(h_1 (h_1 - h_2) / 2)`` and ``tanh(h_2 (h_2 - h_1) / 2)``: the row softmax without
        its exponentials, so nothing overflows at any field.
    """
    h = np.asarray(h, dtype=float)
    u = h[..., 0] - h[..., 1]
    return np.stack([np.tanh(h[..., 0] * u / 2), np.tanh(-h[..., 1] * u / 2)], axis=-1)


@dataclass(frozen=True)
class Softmax:
    """The student's mechanism: row softmax of ``h h^T``."""

    def matrix(self, h: NDArray[np.float64]) -> NDArray[np.float64]:
        """Attention matrices, shape (..., L, L), of fields of shape (..., L, r)."""
        scores = h @ np.swapaxes(h, -1, -2)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return scores / scores.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class SoftmaxMixture:
    """The target's mechanism: ``(1 - omega) softmax(h h^T) + omega A``.

    Attributes
    ----------
    omega : float
        Weight of the positional part, in [0, 1].
    A : nested sequence or array of float
        Row-stochastic L x L matrix, entries in [0, 1]; kept as a tuple of tuples.

    Raises
    ------
    ValueError
        If `omega` is outside [0, 1] or `A` is not square and row-stochastic.
    """

    omega: float
    A: Sequence[Sequence[float]] | NDArray[np.float64] = DEFAULT_A

    def __post_init__(self) -> None:
        if not (np.isfinite(self.omega) and 0 <= self.omega <= 1):
            raise ValueError(f"omega must lie in [0, 1], got {self.omega!r}")
        try:
            matrix = np.array(self.A, dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"A must be a square matrix of numbers, got {self.A!r}") from None
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"A must be a square matrix, got shape {matrix.shape}")
        if not np.all(np.isfinite(matrix)) or np.any(matrix < 0):
            raise ValueError(f"A must have finite, non-negative entries, got {self.A!r}")
        if np.any(abs(matrix.sum(axis=1) - 1) > 1e-9):
            raise ValueError(
                f"the rows of A must sum to 1, got row sums {matrix.sum(axis=1).tolist()}"
            )
        object.__setattr__(self, "omega", float(self.omega))
        object.__setattr__(self, "A", tuple(tuple(float(x) for x in row) for row in matrix))

    @property
    def tokens(self) -> int:
        """Number of tokens L."""
        return len(self.A)

    @property
    def contrasts(self) -> tuple[float, float]:
        """``(a_1, a_2)`` of `A`, for two tokens."""
        (a11, a12), (a21, a22) = self.A
        return a11 - a12, a22 - a21

    def matrix(self, h: NDArray[np.float64]) -> NDArray[np.float64]:
        """Target attention matrices, shape (..., L, L), of fields of shape (..., L, t)."""
        return (1 - self.omega) * Softmax().matrix(h) + self.omega * np.array(self.A)
