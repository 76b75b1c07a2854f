"""A large ridge: first order in 1/lam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gamp_theory.expansions.fields import (
    by_direction,
    check_positive,
    loss_expression,
    teacher_average,
)
from gamp_theory.model import AttentionModel

__all__ = ["LargeRidge", "large_ridge"]


@dataclass(frozen=True)
class LargeRidge:
    """The solution Q = 0 for lam to infinity, where it is the only one.

    Attributes
    ----------
    V : float
        ``rho/lam - alpha rho**2 E tr H/lam**2``, with an error of order ``lam**-3``.
    growth : dict
        Growth rates of q, m and theta, with errors of order ``lam**-3``.
    """

    V: float
    growth: dict[str, float]


def large_ridge(model: AttentionModel, alpha: float, lam: float) -> LargeRidge:
    """Perturbation series in 1/lam around Q = 0 (docs/theory.md, section 8).

    ``B = H - V H**2 + ...`` and V itself are series in 1/lam; the coefficients are averages of
    polynomials in the teacher's contrasts.

    Raises
    ------
    ValueError
        Unless `alpha` and `lam` are positive and finite.
    """
    check_positive(alpha=alpha, lam=lam)
    first, second = teacher_average(model, _ridge_functions())
    bare = model.rho / lam
    V = bare - alpha * bare**2 * first[0]
    growth = alpha * (V * first[1:] + bare**2 * second[1:])
    return LargeRidge(V=float(V), growth=by_direction(growth))


@lru_cache(maxsize=1)
def _ridge_functions() -> Callable:
    """Coefficients of V and V**2 in the integrands of the origin, as functions of t, y, slopes."""
    import sympy as sp

    loss, h, t, rho = loss_expression()
    y, bend = sp.symbols("y1 y2", real=True), sp.symbols("bend1 bend2", positive=True)
    H = sp.hessian(loss, h).subs(dict.fromkeys(h, 0)).applyfunc(sp.expand)
    z = (y[0] * (y[0] - y[1]) / 2, y[1] * (y[1] - y[0]) / 2)
    e = sp.Matrix([1, -1])

    def integrands(B: Any, growth_q: Any) -> list[Any]:
        def along_y(l: int, k: int) -> Any:
            return sum(B[l, k].diff(t[j]) * bend[j] * z[j].diff(y[l]) for j in range(2))

        return [
            B.trace(),
            growth_q,
            -(e.T * B * e)[0] / rho,
            -sum(along_y(l, k) * y[k] for l in range(2) for k in range(2)),
        ]

    square = (H * H).applyfunc(sp.expand)
    rows = [*integrands(H, sp.Integer(0)), *integrands(-square, square.trace())]
    return sp.lambdify([rho, *t, *y, *bend], rows, "numpy", cse=True)
