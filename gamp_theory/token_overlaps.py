"""Overlaps of any number of tokens and any ranks: matrices per token, and their coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gamp_theory.spectrum import JointLaw

__all__ = ["NOISE_FLOOR", "Coordinates", "TokenConjugates", "TokenOverlaps"]

Array = NDArray[np.float64]

NOISE_FLOOR = 1e-6
"""Least variance of the cavity field given the teacher's, relative to the mean over directions.

A direction that the student does not use has none, and averages divided by it are noise."""


@dataclass(frozen=True, eq=False)
class TokenOverlaps:
    """Order parameters of L tokens at student rank r, teacher rank t (docs/theory.md, section 2).

    Attributes
    ----------
    q : array, shape (L, r, r)
        ``Q^T Sigma_l Q/d``, positive semi-definite.
    m : array, shape (L, r)
        ``Q^T p_l/sqrt(d)``.
    V : array, shape (L, r, r)
        Response, positive semi-definite.
    theta : array, shape (L, r, t)
        ``Q^T Sigma_l Q*/d``.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or `q` or `V` is not positive semi-definite.
    """

    q: Array
    m: Array
    V: Array
    theta: Array

    def __post_init__(self) -> None:
        _freeze(self, ("q", 3), ("m", 2), ("V", 3), ("theta", 3))
        tokens, rank = self.m.shape
        if (
            self.q.shape != (tokens, rank, rank)
            or self.V.shape != self.q.shape
            or self.theta.shape[:2] != self.m.shape
        ):
            raise ValueError(
                "q and V must be (L, r, r), m (L, r) and theta (L, r, t), got "
                f"{self.q.shape}, {self.V.shape}, {self.m.shape}, {self.theta.shape}"
            )
        for name in ("q", "V"):
            _check_semidefinite(name, getattr(self, name))

    @property
    def tokens(self) -> int:
        """Number of tokens L."""
        return self.m.shape[0]

    @property
    def rank(self) -> int:
        """Rank r of the student."""
        return self.m.shape[1]

    @property
    def teacher_rank(self) -> int:
        """Rank t of the teacher."""
        return self.theta.shape[2]

    def noise(self, rho: Array) -> Array:
        """``q_l - theta_l rho_l^-1 theta_l^T``: covariance of the cavity field given the teacher's.

        Parameters
        ----------
        rho : array, shape (L, t, t)
        """
        return self.q - self.theta @ np.linalg.solve(rho, np.swapaxes(self.theta, 1, 2))

    def check_domain(self, rho: Array) -> None:
        """Raise ``ValueError`` unless ``q_l - theta_l rho_l^-1 theta_l^T`` is semi-definite."""
        if rho.shape != (self.tokens, self.teacher_rank, self.teacher_rank):
            raise ValueError(
                f"overlaps of {self.tokens} tokens and teacher rank {self.teacher_rank} do not "
                f"belong to a law with rho of shape {rho.shape}"
            )
        noise = self.noise(rho)
        scale = np.trace(self.q, axis1=1, axis2=2)
        lowest = np.linalg.eigvalsh(_symmetric(noise))[:, 0]
        if np.any(lowest < -1e-10 * scale - 1e-300):
            raise ValueError(
                "q - theta rho^-1 theta^T must be positive semi-definite for every token, got "
                f"lowest eigenvalues {lowest.tolist()}"
            )

    def rotated(self, O: ArrayLike) -> TokenOverlaps:
        """The overlaps of the student Q O, O of shape (r, r), orthogonal."""
        O = np.asarray(O, dtype=float)
        return TokenOverlaps(O.T @ self.q @ O, self.m @ O, O.T @ self.V @ O, O.T @ self.theta)

    def canonical(self) -> TokenOverlaps:
        """The representative of the orbit Q -> Q O in which ``sum_l q_l`` is diagonal.

        Eigenvalues fall; the sign of each column makes its first large entry of ``(m, theta)``
        positive, one of at least half the largest.  For students whose attention does not change
        along the orbit.
        """
        O = np.linalg.eigh(self.q.sum(axis=0))[1][:, ::-1]
        turned = self.rotated(O)
        entries = np.concatenate(
            [turned.m.T, np.moveaxis(turned.theta, 1, 0).reshape(self.rank, -1)], axis=1
        )
        big = abs(entries) >= 0.5 * np.max(abs(entries), axis=1, keepdims=True)
        first = entries[np.arange(self.rank), np.argmax(big, axis=1)]
        return turned.rotated(np.diag(np.where(first < 0, -1.0, 1.0)))


@dataclass(frozen=True, eq=False)
class TokenConjugates:
    """Conjugate order parameters per token, of the shapes of :class:`TokenOverlaps`."""

    q_hat: Array
    m_hat: Array
    V_hat: Array
    theta_hat: Array

    def __post_init__(self) -> None:
        _freeze(self, ("q_hat", 3), ("m_hat", 2), ("V_hat", 3), ("theta_hat", 3))


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Overlaps as a vector in which every point is admissible, without what the law makes equal.

    Tokens with the same eigenvalues in every atom share q, V and theta, whatever the conjugates;
    and m lies in the span of the position moments.  The vector holds, for each class of tokens, the
    Cholesky factor of ``q - theta rho^-1 theta^T``, then m in a basis of that span, then for each
    class the factor of V, and theta.  At L = 2, r = t = 1, one covariance and ``p_1 = -p_2`` these
    are four numbers.

    Attributes
    ----------
    labels : array of int, shape (L,)
        Class of each token.
    basis : array, shape (L, R)
        Orthonormal; ``m = basis @ c``.
    rho : array, shape (L, t, t)
    rank : int
    """

    labels: NDArray[np.intp]
    basis: Array
    rho: Array
    rank: int

    @classmethod
    def of(cls, law: JointLaw, rank: int) -> Coordinates:
        """The coordinates of a law at student rank `rank`."""
        columns = np.round(law.gamma / np.max(law.gamma), 12).T
        _, first, labels = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))  # classes in the order of their first token
        rows = np.moveaxis(law.moments[:, : law.tokens], 1, 0).reshape(law.tokens, -1)
        U, s, _ = np.linalg.svd(rows, full_matrices=False)
        basis = U[:, s > 1e-10 * max(np.max(s), 1e-300)]
        # signs of singular vectors are arbitrary: the first entry of some size is positive
        if basis.size:
            top = np.argmax(abs(basis) > 1e-6, axis=0)
            basis = basis * np.sign(basis[top, np.arange(basis.shape[1])])
        return cls(order[labels.ravel()], basis, law.rho, rank)

    @property
    def classes(self) -> int:
        """Number of classes of tokens."""
        return int(self.labels.max()) + 1

    @property
    def representatives(self) -> NDArray[np.intp]:
        """The first token of each class."""
        return np.array([int(np.argmax(self.labels == c)) for c in range(self.classes)])

    @property
    def slices(self) -> dict[str, slice]:
        """Where noise (factors of the conditional covariance), m, V and theta are in a vector."""
        triangle = self.rank * (self.rank + 1) // 2
        sizes = {
            "noise": self.classes * triangle,
            "m": self.basis.shape[1] * self.rank,
            "V": self.classes * triangle,
            "theta": self.classes * self.rank * self.rho.shape[1],
        }
        ends = np.cumsum(list(sizes.values()))
        return {
            name: slice(int(end) - size, int(end))
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.slices["theta"].stop

    def pack(self, overlaps: TokenOverlaps) -> Array:
        """The vector of overlaps that obey the law, but for :data:`NOISE_FLOOR`.

        Raises
        ------
        ValueError
            If they are outside the domain, or do not have the equalities that the law imposes.
        """
        first = self.representatives
        lower = np.tril_indices(self.rank)
        noise = _cholesky("q - theta rho^-1 theta^T", _lifted(overlaps.noise(self.rho)[first]))
        V = _cholesky("V", overlaps.V[first])
        return np.concatenate(
            [
                noise[:, lower[0], lower[1]].ravel(),
                (self.basis.T @ overlaps.m).ravel(),
                V[:, lower[0], lower[1]].ravel(),
                overlaps.theta[first].ravel(),
            ]
        )

    def unpack(self, x: Array) -> TokenOverlaps:
        """The overlaps of a vector; any vector will do."""
        where = self.slices
        rank, teacher_rank = self.rank, self.rho.shape[1]
        theta = x[where["theta"]].reshape(self.classes, rank, teacher_rank)[self.labels]
        noise = self._square(x[where["noise"]])
        informed = theta @ np.linalg.solve(self.rho, np.swapaxes(theta, 1, 2))
        return TokenOverlaps(
            q=noise + _symmetric(informed),
            m=self.basis @ x[where["m"]].reshape(-1, rank),
            V=self._square(x[where["V"]]),
            theta=theta,
        )

    def _square(self, entries: Array) -> Array:
        lower = np.tril_indices(self.rank)
        factor = np.zeros((self.classes, self.rank, self.rank))
        factor[:, lower[0], lower[1]] = entries.reshape(self.classes, -1)
        return (factor @ np.swapaxes(factor, 1, 2))[self.labels]


def _symmetric(x: Array) -> Array:
    return 0.5 * (x + np.swapaxes(x, -1, -2))


def _freeze(owner: object, *names: tuple[str, int]) -> None:
    """Replace the fields by read-only arrays of floats."""
    for name, dimensions in names:
        value = np.array(getattr(owner, name), dtype=float)
        if value.ndim != dimensions:
            raise ValueError(f"{name} must have {dimensions} dimensions, got shape {value.shape}")
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{name} must be finite, got {value.tolist()}")
        value.setflags(write=False)
        object.__setattr__(owner, name, value)


def _check_semidefinite(name: str, x: Array) -> None:
    scale = np.trace(x, axis1=1, axis2=2)
    if np.max(abs(x - np.swapaxes(x, 1, 2))) > 1e-9 * np.max(abs(x), initial=1e-300):
        raise ValueError(f"{name} must be symmetric for every token, got {x.tolist()}")
    lowest = np.linalg.eigvalsh(_symmetric(x))[:, 0]
    if np.any(scale < 0) or np.any(lowest < -1e-10 * scale):
        raise ValueError(
            f"{name} must be positive semi-definite for every token, got lowest eigenvalues "
            f"{lowest.tolist()}"
        )


def _lifted(x: Array) -> Array:
    """The matrices with no eigenvalue below the floor; those that have none are not touched."""
    values, vectors = np.linalg.eigh(_symmetric(x))
    floor = NOISE_FLOOR * np.maximum(values.mean(axis=1, keepdims=True), 0)
    low = values[:, 0] < floor[:, 0]
    raised = (vectors * np.maximum(values, floor)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return np.where(low[:, None, None], raised, x)


def _cholesky(name: str, x: Array) -> Array:
    try:
        return np.asarray(np.linalg.cholesky(_symmetric(x)), dtype=float)
    except np.linalg.LinAlgError:
        raise ValueError(f"{name} must be positive definite for every token") from None
