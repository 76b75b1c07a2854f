"""A target that ignores its fields, omega = 1: the onsets of Q = 0 as formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from gamp_theory.expansions.fields import (
    check_positive,
    loss_expression,
)
from gamp_theory.model import AttentionModel

__all__ = ["ConstantTarget", "constant_target"]


@dataclass(frozen=True)
class ConstantTarget:
    """Q = 0 at omega = 1 with equal contrasts a > 0 of the two rows: formulas, no averages.

    Attributes
    ----------
    alpha_positional : float
        ``lam/(rho a (2 + rho)) - rho/2``: here the growth rate of m is 1.
    V_positional : float
        The response there, ``rho (2 + rho)/(2 lam)``.
    alpha_fold : float
        ``(sqrt(lam/(rho**2 a)) - 1)**2``: here the growth rate of q is 1, and Q = 0 ends.
        NaN if ``lam <= rho**2 a``, where Q = 0 does not exist at any alpha.
    onset_reached : bool
        ``alpha_positional > rho**2/4``: the direction of p leaves the bulk before the bulk itself
        becomes unstable.
    """

    alpha_positional: float
    V_positional: float
    alpha_fold: float
    onset_reached: bool


def constant_target(model: AttentionModel, lam: float) -> ConstantTarget:
    """The onsets of Q = 0 where the target is the matrix A alone (docs/theory.md, section 8).

    With ``x = rho a V`` the response solves ``lam x/(rho**2 a) = 1 + alpha x/(1 - x)``, the rate of
    m is ``2 alpha x/(rho (1 - x))``, that of q is ``alpha x**2/(1 - x)**2``, that of theta is 0.

    Raises
    ------
    ValueError
        Unless omega = 1, both rows of A have the same positive contrast, and `lam` is positive.
    """
    check_positive(lam=lam)
    a1, a2 = model.target.contrasts
    if model.omega != 1 or not (a1 > 0 and abs(a1 - a2) <= 1e-12):
        raise ValueError(
            f"the model must have omega = 1 and equal positive contrasts, got omega = "
            f"{model.omega!r}, contrasts {(a1, a2)!r}"
        )
    alpha, V, fold = (float(f(model.rho, a1, lam)) for f in _constant_functions())
    exists = lam > model.rho**2 * a1
    return ConstantTarget(
        alpha_positional=alpha,
        V_positional=V,
        alpha_fold=fold if exists else math.nan,
        onset_reached=exists and alpha > model.rho**2 / 4,
    )


@lru_cache(maxsize=1)
def _constant_functions() -> tuple[Callable, Callable, Callable]:
    """The formulas of :class:`ConstantTarget`, solved for by sympy, as functions of rho, a, lam."""
    import sympy as sp

    loss, h, t, rho = loss_expression()
    a, lam, alpha, V, r = sp.symbols("a lam alpha V r", positive=True)
    H = sp.hessian(loss, h).subs(dict.fromkeys(h, 0)).subs(dict.fromkeys(t, a))
    B = (H * (sp.eye(2) + V * H).inv()).applyfunc(sp.simplify)
    e = sp.Matrix([1, -1])
    response = lam * V / rho + alpha * V * B.trace() - 1
    growth_m = -alpha * V / rho * (e.T * B * e)[0]
    (onset,) = sp.solve([sp.together(response), sp.together(growth_m - 1)], [alpha, V], dict=True)
    # one direction has curvature: kappa = alpha r**2 with r = -V tr B > 0
    (V_fold,) = sp.solve(sp.together(V * B.trace() + r), V)
    at_fold = sp.together(response.subs(V, V_fold).subs(alpha, 1 / r**2))
    (r_fold,) = (x for x in sp.solve(at_fold, r) if x.subs({rho: 1, a: 1, lam: 4}) > 0)
    return tuple(
        sp.lambdify([rho, a, lam], expression, "math")
        for expression in (onset[alpha], onset[V], 1 / r_fold**2)
    )
