"""Many samples: the population landscape and its first correction."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gamp_theory.expansions.fields import (
    REFINEMENT,
    TEACHER_CUT,
    loss_expression,
    teacher_contrasts,
    teacher_nodes,
)
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import gauss_hermite_normal

__all__ = ["PopulationLimit", "population_limit"]

Vector = NDArray[np.float64]

NEWTON_STEPS = 40
CLOUD = 12  # Gauss-Hermite nodes of the student's own noise, an axis, at the lowest level
NEGLIGIBLE = 1e-16  # weight of a node
DIFFERENCE = 1e-2  # relative step of a difference quotient of fourth order


@dataclass(frozen=True)
class PopulationLimit:
    """A stationary point of the population risk, and how alpha to infinity approaches it.

    With ``lam = ridge alpha``, up to relative errors of order ``alpha**-2`` (V: ``1/alpha``)::

        m = m_0 + m_1/alpha      theta = theta_0 + theta_1/alpha      q = q_0 + q_1/alpha
        V = V_1/alpha            train_loss = alpha loss_0 + loss_1

    Attributes
    ----------
    ridge : float
    m, theta, q, loss : tuple of two floats
        The coefficients of order 0 and 1.
    V : float
        ``V_1``.
    test_error : float
        ``E l(w; y)`` at order 0.
    minimum : bool
        Whether the Hessian of the risk in (m, theta) is positive.
    error : float
        Change of the coefficients with the last refinement of the averages, relative to
        ``max(1, |x|)``.
    """

    ridge: float
    m: tuple[float, float]
    theta: tuple[float, float]
    q: tuple[float, float]
    loss: tuple[float, float]
    V: float
    test_error: float
    minimum: bool
    error: float


def population_limit(
    model: AttentionModel, ridge: float, m: float, theta: float, tol: float = 1e-9
) -> PopulationLimit:
    """The stationary point of the population risk near a student with overlaps (m, theta).

    With infinitely many samples per dimension the student is a combination of p and Q*: ``q =
    rho m**2 + theta**2/rho``, and ``E l(w; y) + (ridge/2) (m**2 + theta**2/rho**2)`` is
    stationary in m and theta (docs/theory.md, section 8).  Newton's method; a coordinate that is 0
    stays 0.

    Parameters
    ----------
    model : AttentionModel
    ridge : float
        ``lam/alpha``, non-negative.
    m, theta : float
        Where to begin.
    tol : float
        Accuracy of the coefficients.

    Raises
    ------
    ValueError
        If `ridge` is negative or not finite, or both m and theta are 0.
    RuntimeError
        If Newton's method does not converge.
    """
    if not (math.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge must be >= 0 and finite, got {ridge!r}")
    if m == 0 and theta == 0:
        raise ValueError("m and theta must not both be 0; for Q = 0 there is expand_origin")
    last = None
    x = np.array([m, theta], dtype=float)
    for level in range(5):
        landscape = _Landscape(model, ridge, level)
        x = landscape.stationary(x)
        limit = landscape.limit(x)
        values = np.array([*limit.m, *limit.theta, *limit.q, *limit.loss, limit.V])
        if last is not None:
            error = float(np.max(abs(values - last) / np.maximum(1.0, abs(values))))
            limit = replace(limit, error=error)
            if error <= tol:
                break
        last = values
        if m != 0 and theta != 0 and level == 2:
            break  # four dimensions: a million nodes
    return limit


class _Landscape:
    """The population risk and its derivatives, by one quadrature rule."""

    def __init__(self, model: AttentionModel, ridge: float, level: int) -> None:
        self.model, self.ridge = model, ridge
        step = 0.6 * REFINEMENT**level / max(1.0, 4 * model.rho)
        y, weight = teacher_nodes(model.sigma, step, TEACHER_CUT)
        t, _ = teacher_contrasts(model, y)
        # averages with the student's noise are not even in y
        self.y = np.concatenate([y, -y], axis=1)
        self.t = np.concatenate([t, t], axis=1)
        self.weight = np.concatenate([weight, weight]) / 2
        rule = gauss_hermite_normal(CLOUD + 6 * level)
        xi = np.stack([z.ravel() for z in np.meshgrid(rule.nodes, rule.nodes)])
        share = np.outer(rule.weights, rule.weights).ravel()
        self.xi, self.share = xi[:, share > NEGLIGIBLE], share[share > NEGLIGIBLE]

    def nodes(self, x: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """Weights, contrasts t, the teacher's fields y and the student's noise xi, all flat.

        Where the student does not see the teacher (theta = 0) averages depend on t through its mean
        and covariance only, the loss being quadratic in t: four points represent it.
        """
        m, theta = x
        if m == 0:
            return self.weight, self.t, self.y, np.zeros_like(self.y)
        if theta == 0:
            mean = self.t @ self.weight
            apart = self.t - mean[:, None]
            values, vectors = np.linalg.eigh(self.weight * apart @ apart.T)
            root = vectors * np.sqrt(2 * np.maximum(values, 0))
            t = mean[:, None] + np.concatenate([root, -root], axis=1)
            y, weight = np.zeros((2, 4)), np.full(4, 0.25)
        else:
            t, y, weight = self.t, self.y, self.weight
        joint = np.outer(weight, self.share)
        i, j = np.nonzero(joint > NEGLIGIBLE)
        return joint[i, j], t[:, i], y[:, i], self.xi[:, j]

    def derivatives(self, x: Vector) -> tuple[float, Vector, Vector, float, float]:
        """Risk, gradient, Hessian in (m, theta); ``E |grad l|**2`` and ``E tr grad grad l``."""
        rho = self.model.rho
        weight, t, y, xi = self.nodes(x)
        # w = +-m + theta y/rho + sigma m xi
        along = (np.array([[1.0], [-1.0]]) + self.model.sigma * xi, y / rho)
        w = x[0] * along[0] + x[1] * along[1]
        l, g1, g2, h11, h12, h22 = _loss_functions()(rho, *t, *w)
        ridge = self.ridge * np.array([1.0, 1 / rho**2])
        slope = np.array([weight @ (g1 * a[0] + g2 * a[1]) for a in along]) + ridge * x
        bend = np.diag(ridge)
        for i, a in enumerate(along):
            for j, b in enumerate(along):
                bend[i, j] += weight @ (
                    h11 * a[0] * b[0] + h12 * (a[0] * b[1] + a[1] * b[0]) + h22 * a[1] * b[1]
                )
        value = float(weight @ l + ridge @ x**2 / 2)
        return value, slope, bend, float(weight @ (g1**2 + g2**2)), float(weight @ (h11 + h22))

    def stationary(self, x: Vector) -> Vector:
        """Newton's method in the coordinates that are not 0, which change by half at most."""
        inside = x != 0
        for _ in range(NEWTON_STEPS):
            _, slope, bend, _, _ = self.derivatives(x)
            step = np.linalg.solve(bend[np.ix_(inside, inside)], -slope[inside])
            size = float(np.max(abs(step / x[inside])))
            x = x.copy()
            x[inside] += step / max(1.0, 2 * size)
            if size < 1e-10:
                return x
        raise RuntimeError(f"no stationary point found near m, theta = {x[0]:.6g}, {x[1]:.6g}")

    def correction(self, x: Vector) -> tuple[float, float, float]:
        """The loss of order 1/alpha, the q beyond the span of p and Q*, and ``V_1``."""
        _, _, _, force, curvature = self.derivatives(x)
        b = curvature / 2 + self.ridge / (2 * self.model.rho)
        return -force / (4 * b), force / (4 * b * b), 1 / (2 * b)

    def limit(self, x: Vector) -> PopulationLimit:
        """Both orders at a stationary point."""
        rho = self.model.rho
        value, _, bend, _, _ = self.derivatives(x)
        inside = x != 0
        loss, beyond, V = self.correction(x)
        # x_1 = -(Hessian)^-1 times the gradient of the loss of order 1/alpha
        slope = np.zeros(2)
        for j in np.flatnonzero(inside):
            step = np.where(np.arange(2) == j, DIFFERENCE * x[j], 0.0)
            d1, d2 = (
                (self.correction(x + k * step)[0] - self.correction(x - k * step)[0])
                / (2 * k * step[j])
                for k in (1, 2)
            )
            slope[j] = (4 * d1 - d2) / 3
        x1 = np.zeros(2)
        x1[inside] = np.linalg.solve(bend[np.ix_(inside, inside)], -slope[inside])
        m, theta = (float(z) for z in x)
        span = 2 * rho * m * x1[0] + 2 * theta * x1[1] / rho
        return PopulationLimit(
            ridge=float(self.ridge),
            m=(m, float(x1[0])),
            theta=(theta, float(x1[1])),
            q=(rho * m**2 + theta**2 / rho, float(beyond + span)),
            loss=(value, loss),
            V=V,
            test_error=value - self.ridge * (m**2 + theta**2 / rho**2) / 2,
            minimum=bool(np.all(np.linalg.eigvalsh(bend) > 0)),
            error=math.inf,
        )


@lru_cache(maxsize=1)
def _loss_functions() -> Callable:
    """``l``, its gradient and its Hessian as functions of (rho, t1, t2, h1, h2)."""
    import sympy as sp

    loss, h, t, rho = loss_expression()
    H = sp.hessian(loss, h)
    rows = [loss, *(loss.diff(x) for x in h), H[0, 0], H[0, 1], H[1, 1]]
    return sp.lambdify([rho, *t, *h], rows, "numpy", cse=True)
