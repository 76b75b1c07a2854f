"""The joint spectral law of token covariances, position vectors and teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Isotropic", "JointLaw"]


@dataclass(frozen=True)
class Isotropic:
    """All tokens share ``Sigma = sigma**2 I`` and the teacher has i.i.d. N(0, 1) entries.

    Raises
    ------
    ValueError
        If `sigma` is not a positive finite number.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma must be positive and finite, got {self.sigma!r}")
        object.__setattr__(self, "sigma", float(self.sigma))

    @property
    def variance(self) -> float:
        """``sigma**2``: the eigenvalue of Sigma and, per token, the teacher overlap rho."""
        return self.sigma**2


@dataclass(frozen=True, eq=False)
class JointLaw:
    """The joint law nu(gamma, tau, pi) as a mixture of atoms (docs/theory.md, section 2).

    An atom stands for a share of the d common eigendirections of the covariances.  In it the
    eigenvalues ``gamma_l`` are fixed, while ``u = (tau, pi)``, the entries of positions and teacher
    along the direction, may be random: state evolution sees their second moments only.

    Attributes
    ----------
    weights : array, shape (K,)
        Shares of the atoms, positive, summing to 1.
    gamma : array, shape (K, L)
        Eigenvalue of each token's covariance, non-negative.
    moments : array, shape (K, L + t, L + t)
        ``E u u^T`` within the atom, ``u = (tau_1 .. tau_L, pi_1 .. pi_t)``, where
        ``tau_l = sqrt(d) e.p_l`` and ``pi = e.Q*``; positive semi-definite.

    Raises
    ------
    ValueError
        If shapes disagree, weights are not a distribution, an eigenvalue is negative, moments are
        not positive semi-definite, or the teacher's overlap of a token is singular.
    """

    weights: NDArray[np.float64]
    gamma: NDArray[np.float64]
    moments: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name, dimensions in (("weights", 1), ("gamma", 2), ("moments", 3)):
            value = _frozen(name, getattr(self, name), dimensions)
            object.__setattr__(self, name, value)
        atoms = len(self.weights)
        if self.gamma.shape[0] != atoms or self.moments.shape[0] != atoms:
            raise ValueError(
                f"weights, gamma and moments must have one entry per atom, got {atoms}, "
                f"{self.gamma.shape[0]} and {self.moments.shape[0]}"
            )
        if np.any(self.weights <= 0) or abs(self.weights.sum() - 1) > 1e-9:
            raise ValueError(f"weights must be positive and sum to 1, got {self.weights.tolist()}")
        if np.any(self.gamma < 0) or not np.all(self.weights @ self.gamma > 0):
            raise ValueError("gamma must be >= 0, and positive on average for every token")
        size = self.moments.shape[1]
        if self.moments.shape[2] != size or size <= self.tokens:
            raise ValueError(
                f"moments must have shape (atoms, L + t, L + t) with L = {self.tokens} tokens and "
                f"t >= 1, got {self.moments.shape}"
            )
        if np.max(abs(self.moments - np.swapaxes(self.moments, 1, 2))) > 1e-9 * (
            1 + np.max(abs(self.moments))
        ):
            raise ValueError("moments must be symmetric")
        lowest = np.linalg.eigvalsh(self.moments)[:, 0]
        if np.any(lowest < -1e-9 * (1 + np.trace(self.moments, axis1=1, axis2=2))):
            raise ValueError(
                f"moments must be positive semi-definite, got the eigenvalue {lowest.min():.3g}"
            )
        smallest = np.linalg.eigvalsh(self.rho)[:, 0]
        if np.any(smallest <= 1e-12 * np.trace(self.rho, axis1=1, axis2=2)):
            raise ValueError(
                "the teacher overlap rho_l = int gamma_l pi pi^T must be positive definite for "
                f"every token, got lowest eigenvalues {smallest.tolist()}"
            )

    @property
    def tokens(self) -> int:
        """Number of tokens L."""
        return self.gamma.shape[1]

    @property
    def teacher_rank(self) -> int:
        """Number of columns t of the teacher."""
        return self.moments.shape[1] - self.tokens

    @property
    def variance(self) -> NDArray[np.float64]:
        """``int gamma_l``: the variance of the entries of each token, shape (L,)."""
        return self.weights @ self.gamma

    @property
    def rho(self) -> NDArray[np.float64]:
        """Teacher overlaps ``Q*^T Sigma_l Q*/d``, shape (L, t, t)."""
        pi = self.moments[:, self.tokens :, self.tokens :]
        return np.einsum("k,kl,kab->lab", self.weights, self.gamma, pi)

    @property
    def position_gram(self) -> NDArray[np.float64]:
        """``p_l . p_l'``, shape (L, L)."""
        tau = self.moments[:, : self.tokens, : self.tokens]
        return np.einsum("k,klm->lm", self.weights, tau)

    def sample(
        self, d: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues, positions and teacher in the common eigenbasis, in dimension d.

        The atoms get the numbers of directions nearest to their shares, and ``u`` is drawn with the
        second moments of the atom: Gaussian, but with the empirical second moments of a large atom
        made exact, as nothing is to fluctuate that the theory takes for fixed.

        Returns
        -------
        gamma : array, shape (d, L)
        tau : array, shape (d, L)
            ``sqrt(d) e_i . p_l``.
        pi : array, shape (d, t)
            ``e_i . Q*``.
        """
        edges = np.rint(d * np.concatenate([[0.0], np.cumsum(self.weights)])).astype(int)
        edges[-1] = d
        u = np.empty((d, self.moments.shape[1]))
        for k, moments in enumerate(self.moments):
            z = rng.standard_normal((edges[k + 1] - edges[k], u.shape[1]))
            if len(z) > 4 * u.shape[1]:
                z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / len(z))).T
            values, vectors = np.linalg.eigh(moments)
            u[edges[k] : edges[k + 1]] = z @ (vectors * np.sqrt(np.maximum(values, 0))).T
        gamma = np.repeat(self.gamma, np.diff(edges), axis=0)
        return gamma, u[:, : self.tokens], u[:, self.tokens :]

    # -- constructors -------------------------------------------------------------------------

    @classmethod
    def isotropic(
        cls,
        sigma: float | Sequence[float],
        positions: ArrayLike,
        teacher: ArrayLike = ((1.0,),),
        correlation: ArrayLike | None = None,
    ) -> JointLaw:
        """``Sigma_l = sigma_l**2 I``.

        Parameters
        ----------
        sigma : float or sequence of L floats
            Standard deviation of the token entries.
        positions : array, shape (L, R)
            Positions ``p_l`` in an orthonormal basis of R directions that are generic (not
            correlated with the teacher unless `correlation` says so).
        teacher : array, shape (t, t)
            ``Q*^T Q*/d``.
        correlation : array, shape (L, t), optional
            ``p_l . Q*/sqrt(d)``.
        """
        positions = _frozen("positions", positions, 2)
        tokens = len(positions)
        sigmas = _per_token("sigma", sigma, tokens)
        moments = _moments(positions @ positions.T, teacher, correlation)
        return cls(np.ones(1), sigmas[None] ** 2, moments[None])

    @classmethod
    def power_law(
        cls,
        exponent: float,
        sigma: float | Sequence[float],
        positions: ArrayLike,
        teacher: ArrayLike = ((1.0,),),
        alignment: float = 0.0,
        nodes: int = 24,
    ) -> JointLaw:
        """Eigenvalues ``gamma(u) ~ u**-exponent``, u uniform in (0, 1), the same for all tokens.

        The law is integrated by Gauss-Legendre nodes in a root of u that makes the integrands of
        the teacher overlap vanish at u = 0.

        Parameters
        ----------
        exponent : float
            In [0, 1): the trace has to exist.
        sigma : float or sequence of L floats
            ``sigma_l**2`` is the mean eigenvalue of token l.
        positions : array, shape (L, R)
            See :meth:`isotropic`; their weight is spread evenly over the spectrum.
        teacher : array, shape (t, t)
            ``Q*^T Q*/d``.
        alignment : float
            The teacher's weight along the spectrum is ``~ u**-alignment``: positive on the leading
            directions, negative on the trailing ones; `exponent` + `alignment` < 1, or the
            teacher's overlap does not exist (up to .95, as nodes have to resolve it).
        nodes : int
            Number of atoms.
        """
        if not 0 <= exponent < 1:
            raise ValueError(f"exponent must lie in [0, 1), got {exponent!r}")
        if not (np.isfinite(alignment) and exponent + alignment <= 0.95):
            raise ValueError(
                f"alignment must be finite and exponent + alignment at most 0.95, got "
                f"{alignment!r} with exponent {exponent!r}"
            )
        positions = _frozen("positions", positions, 2)
        tokens = len(positions)
        sigmas = _per_token("sigma", sigma, tokens)
        x, w = np.polynomial.legendre.leggauss(nodes)
        s = (x + 1) / 2
        power = max(4, math.ceil(3 / (1 - exponent - max(alignment, 0))))
        weights = s ** (power - 1) * w
        u = s**power
        weights /= weights.sum()
        gamma = u**-exponent
        gamma /= weights @ gamma
        strength = u**-alignment
        strength /= weights @ strength
        moments = np.zeros((nodes, tokens, tokens))
        moments[:] = positions @ positions.T
        whole = np.array(
            [
                _moments(gram, np.asarray(teacher, dtype=float) * c, None)
                for gram, c in zip(moments, strength, strict=True)
            ]
        )
        return cls(weights, gamma[:, None] * sigmas**2, whole)

    @classmethod
    def discrete(
        cls, weights: ArrayLike, gamma: ArrayLike, tau: ArrayLike, pi: ArrayLike
    ) -> JointLaw:
        """Atoms at which tau and pi are fixed as well.

        Parameters
        ----------
        weights : array, shape (K,)
        gamma : array, shape (K, L)
        tau : array, shape (K, L)
        pi : array, shape (K, t)
        """
        u = np.concatenate([_frozen("tau", tau, 2), _frozen("pi", pi, 2)], axis=1)
        return cls(np.asarray(weights), np.asarray(gamma), u[:, :, None] * u[:, None, :])

    @classmethod
    def from_matrices(
        cls, covariances: ArrayLike, positions: ArrayLike, teacher: ArrayLike
    ) -> JointLaw:
        """The law of given matrices.  Directions with equal eigenvalues become one atom.

        Parameters
        ----------
        covariances : array, shape (L, d, d)
            ``Sigma_l``, symmetric positive semi-definite, commuting.
        positions : array, shape (L, d)
            ``p_l``, of length of order 1.
        teacher : array, shape (d, t)
            ``Q*``, entries of order 1.

        Raises
        ------
        ValueError
            If two covariances do not commute, naming them, or shapes disagree.
        """
        S = _frozen("covariances", covariances, 3)
        p, Q = _frozen("positions", positions, 2), _frozen("teacher", teacher, 2)
        tokens, d = S.shape[0], S.shape[1]
        if S.shape[2] != d or p.shape != (tokens, d) or Q.shape[0] != d:
            raise ValueError(
                "covariances must be (L, d, d), positions (L, d) and teacher (d, t), got "
                f"{S.shape}, {p.shape} and {Q.shape}"
            )
        sizes = np.linalg.norm(S, axis=(1, 2))
        for a in range(tokens):
            if np.max(abs(S[a] - S[a].T)) > 1e-10 * sizes[a]:
                raise ValueError(f"covariances[{a}] must be symmetric")
            for b in range(a):
                gap = np.linalg.norm(S[a] @ S[b] - S[b] @ S[a])
                if gap > 1e-9 * sizes[a] * sizes[b]:
                    raise ValueError(
                        f"covariances must commute, got |[Sigma_{b}, Sigma_{a}]| = {gap:.3g} "
                        f"with |Sigma_{b}| = {sizes[b]:.3g}, |Sigma_{a}| = {sizes[a]:.3g}"
                    )
        # A generic combination has the common eigenvectors; fixed numbers, so that it is the same
        # every time.
        mix = np.random.default_rng(0).uniform(0.5, 1.5, tokens) / sizes
        basis = np.linalg.eigh(np.einsum("l,lij->ij", mix, S))[1]
        gamma = np.einsum("ia,lij,ja->al", basis, S, basis, optimize=True)
        u = np.concatenate([math.sqrt(d) * basis.T @ p.T, basis.T @ Q], axis=1)
        # equal up to the rounding of the eigenvalue solver
        label = np.rint(gamma / (1e-10 * np.max(gamma))).astype(np.int64)
        _, which = np.unique(label, axis=0, return_inverse=True)
        which = which.ravel()
        counts = np.bincount(which)
        moments = np.zeros((len(counts), u.shape[1], u.shape[1]))
        np.add.at(moments, which, u[:, :, None] * u[:, None, :])
        means = np.zeros((len(counts), tokens))
        np.add.at(means, which, gamma)
        means = np.maximum(means / counts[:, None], 0.0)
        return cls(counts / d, means, moments / counts[:, None, None])


def _frozen(name: str, value: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, got {value!r}") from None
    if array.ndim != dimensions or array.size == 0:
        raise ValueError(f"{name} must have {dimensions} dimensions, got shape {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite")
    array.setflags(write=False)
    return array


def _per_token(name: str, value: float | Sequence[float], tokens: int) -> NDArray[np.float64]:
    array = np.array(value, dtype=float)
    if array.shape not in ((), (tokens,)) or not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError(
            f"{name} must be a positive number or one for each of {tokens} tokens, got {value!r}"
        )
    return np.broadcast_to(array, (tokens,)).copy()


def _moments(
    gram: NDArray[np.float64], teacher: ArrayLike, correlation: ArrayLike | None
) -> NDArray[np.float64]:
    """``E u u^T`` out of its blocks."""
    square = _frozen("teacher", teacher, 2)
    tokens, rank = len(gram), len(square)
    if square.shape != (rank, rank):
        raise ValueError(f"teacher must be square, (t, t), got {square.shape}")
    cross = np.zeros((tokens, rank))
    if correlation is not None:
        cross = _frozen("correlation", correlation, 2)
        if cross.shape != (tokens, rank):
            raise ValueError(f"correlation must have shape {(tokens, rank)}, got {cross.shape}")
    return np.block([[gram, cross], [cross.T, square]])
