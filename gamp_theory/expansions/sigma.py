"""Small sigma: the positional branch to second order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from gamp_theory.expansions.fields import (
    bracketed_root,
    check_positive,
    loss_expression,
)
from gamp_theory.model import AttentionModel

__all__ = ["SmallSigma", "small_sigma"]


@dataclass(frozen=True)
class SmallSigma:
    """The positional branch for sigma to 0 at fixed alpha and ``lam/sigma**2``, to two orders.

    Attributes
    ----------
    m, V : float
        With errors of order ``sigma**4``.
    q, train_loss : float
        With errors of order ``sigma**6``; both start at order ``sigma**2``.
    """

    m: float
    V: float
    q: float
    train_loss: float


def small_sigma(model: AttentionModel, alpha: float, lam: float) -> SmallSigma | None:
    """Series of the positional branch in ``sigma**2``, at fixed alpha and ``lam/sigma**2``.

    The fields become the numbers +-m, the target omega A, and the risk a function of m alone::

        alpha sum_k (omega a_k - tanh m**2)**2/4 + (lam/sigma**2) m**2/2

    whose minimum is corrected by the fluctuations of y and w and by the fit to the samples
    (docs/theory.md, section 8).

    Returns
    -------
    SmallSigma or None
        None where the minimum is at m = 0: ``alpha omega (a_1 + a_2) <= lam/sigma**2``.

    Raises
    ------
    ValueError
        Unless `alpha` and `lam` are positive and finite.
    """
    check_positive(alpha=alpha, lam=lam)
    a1, a2 = model.target.contrasts
    rho = model.rho
    ridge = lam / rho
    mean = model.omega * (a1 + a2) / 2
    # (mean - T)(1 - T**2) = ridge/(2 alpha), T = tanh m**2; the left side falls for 0 < T < mean
    T = bracketed_root(lambda T: (mean - T) * (1 - T * T) - ridge / (2 * alpha), 0.0, mean)
    if mean <= 0 or T is None:
        return None
    m = math.sqrt(math.atanh(T))
    F0, F1, slope, bend, curvature, beyond = _sigma_functions()(
        m, alpha, ridge, model.omega, a1, a2
    )
    m1 = -slope / bend
    return SmallSigma(
        m=m + rho * m1,
        V=1 / ridge - rho * curvature / ridge**2,
        q=rho * m**2 + rho**2 * (2 * m * m1 + beyond),
        train_loss=rho * (F0 + rho * F1),
    )


@lru_cache(maxsize=1)
def _sigma_functions() -> Callable:
    """Both orders of the loss and what the series needs of them, as functions of m, parameters."""
    import sympy as sp

    loss, h, t, rho = loss_expression()
    m, alpha, ridge, omega = sp.symbols("m alpha ridge omega", positive=True)
    a = sp.symbols("a1 a2", real=True)
    at = {h[0]: m, h[1]: -m}
    fixed = {t[k]: omega * a[k] for k in range(2)}
    per_rho = sp.expand(loss / rho)  # the loss is proportional to sigma**2
    F0 = alpha * per_rho.subs(fixed).subs(at) + ridge * m**2 / 2
    force = sum(per_rho.diff(x).subs(fixed).subs(at) ** 2 for x in h)
    curvature = sum(per_rho.diff(x, 2).subs(fixed).subs(at) for x in h)
    # E t_k = omega a_k + (1 - omega) E z_k with E z_k = sigma**2/2; Var t_k is of order sigma**4
    teacher = sum(per_rho.diff(t[k]).subs(fixed).subs(at) * (1 - omega) / 2 for k in range(2))
    # the field has the variance sigma**2 m**2; fitting the samples gains V |grad l|**2/2
    F1 = alpha * (m**2 * curvature / 2 + teacher - force / (2 * ridge))
    rows = [F0, F1, F1.diff(m), F0.diff(m, 2), alpha * curvature, alpha * force / ridge**2]
    return sp.lambdify([m, alpha, ridge, omega, *a], rows, "math", cse=True)
