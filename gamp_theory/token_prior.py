"""The ridge prior of the general model: a spectral average (docs/theory.md, section 2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gamp_theory.spectrum import JointLaw
from gamp_theory.token_overlaps import TokenConjugates, TokenOverlaps

__all__ = ["ridge_terms", "token_prior_energy", "token_prior_norm", "token_prior_overlaps"]

Array = NDArray[np.float64]


class RidgeTerms(NamedTuple):
    """What the ridge does in each atom.

    Attributes
    ----------
    inverse : array, shape (K, r, r)
        ``A^-1``, ``A = lam + sum_l gamma_l V_hat_l``.
    source : array, shape (K, r, L + t)
        The mean is ``A^-1 b`` with ``b = source @ u``, ``u = (tau, pi)``.
    square : array, shape (K, r, r)
        ``A^-1 (sum_l gamma_l q_hat_l + E b b^T) A^-1``: second moment of the student's entries.
    """

    inverse: Array
    source: Array
    square: Array


def ridge_terms(law: JointLaw, conjugates: TokenConjugates, lam: float) -> RidgeTerms:
    """What :func:`token_prior_overlaps` averages, atom by atom.

    Raises
    ------
    ValueError
        If ``lam + sum_l gamma_l V_hat_l`` is not positive definite in an atom: the quadratic form
        has no minimum.
    """
    hats = conjugates
    rank = hats.m_hat.shape[1]
    A = lam * np.eye(rank) + np.einsum("kl,lab->kab", law.gamma, hats.V_hat)
    lowest = np.linalg.eigvalsh(0.5 * (A + np.swapaxes(A, 1, 2)))[:, 0]
    if not np.all(lowest > 0):
        raise ValueError(
            "lam + sum_l gamma_l V_hat_l must be positive definite in every atom, got the "
            f"eigenvalue {lowest.min():.6g}"
        )
    inverse = np.linalg.inv(A)
    atoms = len(law.weights)
    from_positions = np.broadcast_to(hats.m_hat.T, (atoms, *hats.m_hat.T.shape))
    from_teacher = np.einsum("kl,lat->kat", law.gamma, hats.theta_hat)
    source = np.concatenate([from_positions, from_teacher], axis=2)
    noise = np.einsum("kl,lab->kab", law.gamma, hats.q_hat)
    square = inverse @ (noise + source @ law.moments @ np.swapaxes(source, 1, 2)) @ inverse
    return RidgeTerms(inverse, source, square)


def token_prior_overlaps(law: JointLaw, conjugates: TokenConjugates, lam: float) -> TokenOverlaps:
    """Overlaps of the ridge posterior mode, given the conjugates.

    With ``A = lam + sum_l gamma_l V_hat_l`` and ``b = sum_l tau_l m_hat_l + gamma_l theta_hat_l
    pi``, averaged over the joint law::

        q_l = gamma_l A^-1 (sum_k gamma_k q_hat_k + b b^T) A^-1       V_l = gamma_l A^-1
        m_l = tau_l A^-1 b                                            theta_l = gamma_l A^-1 b pi^T

    Raises
    ------
    ValueError
        As :func:`ridge_terms`.
    """
    terms = ridge_terms(law, conjugates, lam)
    tokens = law.tokens
    mean = terms.inverse @ terms.source @ law.moments  # E[A^-1 b u^T], shape (K, r, L + t)
    w, gamma = law.weights, law.gamma
    q = np.einsum("k,kl,kab->lab", w, gamma, terms.square)
    V = np.einsum("k,kl,kab->lab", w, gamma, terms.inverse)
    return TokenOverlaps(
        q=0.5 * (q + np.swapaxes(q, 1, 2)),
        m=np.einsum("k,kal->la", w, mean[:, :, :tokens]),
        V=0.5 * (V + np.swapaxes(V, 1, 2)),
        theta=np.einsum("k,kl,kat->lat", w, gamma, mean[:, :, tokens:]),
    )


def token_prior_energy(law: JointLaw, conjugates: TokenConjugates, lam: float) -> float:
    """The prior's term of the free entropy, ``(1/2) int tr[A^-1 (sum gamma q_hat + b b^T)]``."""
    terms = ridge_terms(law, conjugates, lam)
    A = np.linalg.inv(terms.inverse)
    return 0.5 * float(np.einsum("k,kab,kba->", law.weights, A, terms.square))


def token_prior_norm(law: JointLaw, conjugates: TokenConjugates, lam: float) -> float:
    """``|Q|^2/d``, twice the derivative of the training loss with respect to lam."""
    terms = ridge_terms(law, conjugates, lam)
    return float(np.einsum("k,kaa->", law.weights, terms.square))
