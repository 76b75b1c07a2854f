"""What all expansions start from: the loss as an expression, averages over the teacher's fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel

__all__ = [
    "DIRECTIONS",
    "FIRST_STEP",
    "LEVELS",
    "REFINEMENT",
    "TEACHER_CUT",
    "TEACHER_STEP",
    "TOL",
    "bracketed_root",
    "by_direction",
    "check_positive",
    "integrate",
    "loss_expression",
    "teacher_average",
    "teacher_contrasts",
    "teacher_nodes",
]

Vector = NDArray[np.float64]

#: Trapezoid steps in units of the standard deviation: the first, their ratio, how many.
FIRST_STEP, REFINEMENT, LEVELS = 0.4, 0.7, 12
TOL = 1e-11
TEACHER_STEP, TEACHER_CUT = 0.35, 8.0
DIRECTIONS = ("q", "m", "theta")


def loss_expression() -> tuple[Any, Any, Any, Any]:
    """The loss of one sample (2.1) as a matrix expression, and its symbols h, t and rho.

    A row softmax of two scores is ``(1 +- tanh(difference/2))/2``: no exponential overflows.
    """
    import sympy as sp

    h = sp.symbols("h1 h2", real=True)
    t = sp.symbols("t1 t2", real=True)
    rho = sp.symbols("rho", positive=True)
    scores = sp.Matrix(h) * sp.Matrix(h).T

    def rows(x1: Any, x2: Any) -> Any:
        return sp.Matrix([[1 + x1, 1 - x1], [1 - x2, 1 + x2]]) / 2

    S = rows(sp.tanh((scores[0, 0] - scores[0, 1]) / 2), sp.tanh((scores[1, 1] - scores[1, 0]) / 2))
    D = rows(*t) - S
    return (D * (rho * sp.eye(2)) * D.T).trace() / 2, h, t, rho


def teacher_average(model: AttentionModel, f: Callable) -> tuple[Vector, Vector]:
    """Averages over y of the integrands that `f` returns, in two halves."""
    last = None
    for level in range(LEVELS):
        step = TEACHER_STEP / max(1.0, 4 * model.rho) * REFINEMENT**level
        y, weight = teacher_nodes(model.sigma, step, TEACHER_CUT)
        t, bend = teacher_contrasts(model, y)
        value = integrate(f(model.rho, *t, *y, *bend), weight)
        if last is not None and np.all(abs(value - last) <= TOL * np.maximum(1.0, abs(value))):
            break
        last = value
    half = value.size // 2
    return value[:half], value[half:]


def integrate(rows: Sequence[Any], weight: Vector) -> Vector:
    """Weighted sums; a row that does not depend on the node is a number."""
    return np.array([float(np.sum(np.broadcast_to(row, weight.shape) * weight)) for row in rows])


def teacher_nodes(sigma: float, step: float, cut: float) -> tuple[Vector, Vector]:
    """Fields of shape (2, n) and weights that sum to 1; half of the plane, all being even in y."""
    half = int(cut / step)
    line = (np.arange(-half, half) + 0.5) * step
    u, v = (x.ravel() for x in np.meshgrid(line[half:], line, indexing="ij"))
    inside = u**2 + v**2 <= cut**2
    u, v = u[inside], v[inside]
    weight = np.exp(-0.5 * (u**2 + v**2)) * step**2 / math.pi
    return np.stack([v + u, v - u]) * sigma * math.sqrt(0.5), weight


def teacher_contrasts(model: AttentionModel, y: Vector) -> tuple[Vector, Vector]:
    """Target contrasts ``t_k`` and their slopes in ``z_k = y_k (y_k - y_k')/2``, shape (2, n)."""
    s = softmax_contrasts(y.T).T
    a = np.array(model.target.contrasts)[:, None]
    return (1 - model.omega) * s + model.omega * a, (1 - model.omega) * (1 - s**2)


def bracketed_root(f: Callable[[float], float], lo: float, hi: float) -> float | None:
    """A root by bracketing; None if there is no change of sign."""
    from scipy.optimize import brentq

    if not f(lo) * f(hi) < 0:
        return None
    return float(brentq(f, lo, hi, xtol=1e-300, rtol=1e-14))


def by_direction(values: Vector) -> dict[str, float]:
    """Growth rates by what grows."""
    return {name: float(value) for name, value in zip(DIRECTIONS, values, strict=True)}


def check_positive(**arguments: float) -> None:
    """Refuse arguments that are not positive and finite, by their names.

    Raises
    ------
    ValueError
    """
    for name, value in arguments.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be > 0 and finite, got {value!r}")
