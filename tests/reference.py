"""Twins of the kernels: slow, and written to be the formulas of docs/theory.md.

Everything is a matrix, every softmax has its exponentials, nothing is simplified to two numbers a
row.  Arguments may be complex, so that `complex_step` gives derivatives without cancellation.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def softmax(h):
    """Row softmax of ``h h^T`` for fields of shape (..., L); naive, so keep ``|h| < 20``."""
    weights = np.exp(h[..., :, None] * h[..., None, :])
    return weights / weights.sum(axis=-1, keepdims=True)


def target(y, omega, A):
    """``T = (1 - omega) softmax(y y^T) + omega A``, shape (..., L, L)."""
    return (1 - omega) * softmax(y) + omega * np.asarray(A)


def loss(h, T, sigma):
    """``(1/2) tr[(T - S(h)) rho (T - S(h))^T]``, ``rho = sigma**2 I``; shape (...)."""
    D = T - softmax(h)
    rho = sigma**2 * np.eye(T.shape[-1])
    return 0.5 * np.trace(D @ rho @ np.swapaxes(D, -1, -2), axis1=-2, axis2=-1)


def contrasts(T):
    """``(T_11 - T_12, T_22 - T_21)``, shape (..., 2)."""
    return np.stack([T[..., 0, 0] - T[..., 0, 1], T[..., 1, 1] - T[..., 1, 0]], axis=-1)


def complex_step(f, x, step=1e-30):
    """Gradient of an analytic function, exact to rounding: ``Im f(x + i step e_j)/step``."""
    x = np.asarray(x, dtype=float)
    return np.stack([np.imag(f(x + 1j * step * e)) / step for e in np.eye(x.size)], axis=-1)


def gradient(f, h, step=1e-30):
    """Gradient of `f` at many points of shape (..., 2), by the complex step."""
    h = np.asarray(h, dtype=float)
    return np.stack([np.imag(f(h + 1j * step * e)) / step for e in np.eye(2)], axis=-1)


def hessian(f, h, step=2e-3):
    """Hessian at many points: differences of the gradient, of sixth order, good to 1e-12."""
    h = np.asarray(h, dtype=float)
    rows = []
    for e in np.eye(2):
        d = [
            (gradient(f, h + k * step * e) - gradient(f, h - k * step * e)) / (2 * step)
            for k in (1, 2, 3)
        ]
        rows.append((15 * d[0] - 3 * d[1] + d[2] / 3) / 10)
    return np.stack(rows, axis=-2)


def objective(h, w, T, V, sigma):
    """``|h - w|**2/(2 V) + loss(h)``."""
    return ((h - w) ** 2).sum(axis=-1) / (2 * V) + loss(h, T, sigma)


def prox(w, T, V, sigma, points=121):
    """Global minimiser of `objective`: the best points of a dense grid, polished without gradients.

    The objective at w bounds how far away the minimiser can be.
    """
    w = np.asarray(w, dtype=float)
    radius = np.sqrt(2 * V * loss(w, T, sigma))
    axis = np.linspace(-radius, radius, points)
    grid = w + np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    values = objective(grid, w, T, V, sigma)
    inner = values[1:-1, 1:-1]
    neighbours = [values[:-2, 1:-1], values[2:, 1:-1], values[1:-1, :-2], values[1:-1, 2:]]
    wells = np.argwhere(np.all([inner <= n for n in neighbours], axis=0)) + 1
    wells = sorted(wells, key=lambda ij: values[tuple(ij)])[:4]
    options = {"xatol": 1e-11, "fatol": 0.0, "maxiter": 400, "maxfev": 400}
    polished = [
        minimize(
            objective, grid[tuple(ij)], (w, T, V, sigma), method="Nelder-Mead", options=options
        )
        for ij in wells
    ]
    return min(polished, key=lambda result: result.fun).x


def envelope(w, T, V, sigma):
    """Moreau envelope M: the minimum of `objective`."""
    return objective(prox(w, T, V, sigma), w, T, V, sigma)


def fields(xi, eta, overlaps, rho):
    """Cavity and teacher fields, given standard normals of shape (n, 2).

    ``w = sqrt(q) xi + (m, -m)`` and ``y ~ N(theta xi/sqrt(q), rho - theta**2/q)``.
    """
    q, m, _, theta = overlaps
    w = np.sqrt(q) * xi + np.array([m, -m])
    return w, theta / np.sqrt(q) * xi + np.sqrt(rho - theta**2 / q) * eta


def averages(xi, eta, overlaps, model, prox=prox):
    """The terms whose means are the channel averages, one row a draw; in the order of the fields.

    In the form of docs/theory.md, section 2, with xi outside and y given xi.
    """
    q, m, V, theta = overlaps
    rho = model.sigma**2
    w, y = fields(xi, eta, overlaps, rho)
    T = target(y, model.omega, model.target.A)
    h = np.array([prox(w_i, T_i, V, model.sigma) for w_i, T_i in zip(w, T, strict=True)])
    g = (h - w) / V
    theta_hat = (g * (y - theta / np.sqrt(q) * xi)).sum(axis=1) / (rho - theta**2 / q)
    V_hat = theta_hat * theta / q - (g * xi).sum(axis=1) / np.sqrt(q)
    # d loss/d omega = tr[(T - S) rho (A - softmax(y y^T))^T]
    slope = np.asarray(model.target.A) - softmax(y)
    loss_omega = rho * ((T - softmax(h)) * slope).sum(axis=(1, 2))
    loss_h = loss(h, T, model.sigma)
    # Stein's lemma in w given y
    beyond = w - np.array([m, -m]) - theta / rho * y
    variance = q - theta**2 / rho
    m_slope = (g[:, 0] - g[:, 1]) * (beyond[:, 0] - beyond[:, 1]) / variance
    along_y = (g * y).sum(axis=1) * (beyond * y).sum(axis=1) / (rho * variance)
    hats = [(g**2).sum(axis=1), g[:, 0] - g[:, 1], V_hat, theta_hat]
    return np.stack([*hats, loss_h, loss_omega, m_slope, (along_y + V_hat) / rho], axis=1)


def test_error(xi, eta, overlaps, model):
    """``(1/L) tr[(T - S(w)) rho (T - S(w))^T]``, one number a draw."""
    w, y = fields(xi, eta, overlaps, model.sigma**2)
    D = target(y, model.omega, model.target.A) - softmax(w)
    return model.sigma**2 * (D**2).sum(axis=(1, 2)) / 2


def prior_map(q_hat, m_hat, V_hat, theta_hat, sigma, lam):
    """``(q, m, V, theta)`` from the conjugates; gamma = sigma**2, tau_1 = 1, pi ~ N(0, 1).

    With ``b = m_hat + gamma theta_hat pi``: ``E b**2 = m_hat**2 + (gamma theta_hat)**2`` and
    ``E b pi = gamma theta_hat``.
    """
    gamma = sigma**2
    A_hat = lam + gamma * V_hat
    q = gamma * (gamma * q_hat + m_hat**2 + (gamma * theta_hat) ** 2) / A_hat**2
    return np.array([q, m_hat / A_hat, gamma / A_hat, gamma * gamma * theta_hat / A_hat])
