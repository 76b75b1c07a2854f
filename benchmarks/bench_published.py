"""The published way of solving these equations, replayed, against this package.

Run ``python -m benchmarks.bench_published``.  What is replayed, at omega = 0.3, alpha = 1.25:

* averages by a nested degree-7 rule: the 12 points of Stroud's rule E_2^{r^2} 7-1 for the two
  noises of the cavity fields, and for each of them 12 more for the teacher's fields given those;
* the prox by `scipy.optimize.minimize` (BFGS) from the origin: a local minimum;
* the plain iteration, ``x <- 0.8 x + 0.2 F(x)`` (with the weights the other way round the
  positional branch, where J has an eigenvalue of -4, oscillates away), until no overlap moves
  by more than 1e-4, relative.

The truth is this package at a tolerance of 1e-8.
"""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
from scipy.optimize import minimize

from gamp_theory import AttentionModel, Overlaps, solve
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.prior import prior_map

ALPHA, LAM = 1.25, 0.01
DAMPING, TOLERANCE, MOST_MAPS = 0.8, 1e-4, 200
NAMES = ("q", "m", "V", "theta")


def stroud_degree_7() -> tuple[np.ndarray, np.ndarray]:
    """E_2^{r^2} 7-1 (Stroud 1971) for the standard normal density: nodes (12, 2) and weights."""
    r = math.sqrt(6)
    s = math.sqrt((9 - 3 * math.sqrt(5)) / 4)
    t = math.sqrt((9 + 3 * math.sqrt(5)) / 4)
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    nodes = np.array(
        [(r, 0), (-r, 0), (0, r), (0, -r), *(np.array(signs) * s), *(np.array(signs) * t)],
        dtype=float,
    )
    weights = np.repeat([1 / 36, (5 + 2 * math.sqrt(5)) / 45, (5 - 2 * math.sqrt(5)) / 45], 4)
    return nodes, weights


def published_map(model: AttentionModel, x: np.ndarray) -> tuple[np.ndarray, float]:
    """One undamped map, and the training loss, of the published scheme."""
    q, m, V, theta = x
    rho, sigma = model.rho, model.sigma
    nodes, weights = stroud_degree_7()
    a = np.array(model.target.contrasts)
    spread = math.sqrt(max(rho - theta**2 / q, 0.0))
    totals = np.zeros(5)
    for xi, weight_xi in zip(nodes, weights, strict=True):
        w = math.sqrt(q) * xi + m * np.array([1.0, -1.0])
        for eta, weight_eta in zip(nodes, weights, strict=True):
            y = theta / math.sqrt(q) * xi + spread * eta
            t = (1 - model.omega) * softmax_contrasts(y) + model.omega * a
            h, loss = _local_prox(w, t, V, sigma)
            g = (h - w) / V
            noise = y - theta / math.sqrt(q) * xi
            totals += (
                weight_xi * weight_eta * np.array([g @ g, g[0] - g[1], g @ noise, g @ xi, loss])
            )
    q_hat, m_hat, covariance, response, loss = totals
    theta_hat = covariance / spread**2
    V_hat = theta_hat * theta / q - response / math.sqrt(q)
    hats = ALPHA * np.array([q_hat, m_hat, V_hat, theta_hat])
    return prior_map(rho, hats, LAM), ALPHA * loss + LAM * q / (2 * rho)


def _local_prox(w: np.ndarray, t: np.ndarray, V: float, sigma: float) -> tuple[np.ndarray, float]:
    (w1, w2), (t1, t2), c = w.tolist(), t.tolist(), sigma**2 / 2

    def loss(h1: float, h2: float) -> float:
        r1 = t1 - math.tanh(0.5 * h1 * (h1 - h2))
        r2 = t2 - math.tanh(0.5 * h2 * (h2 - h1))
        return 0.5 * c * (r1 * r1 + r2 * r2)

    def objective(h: np.ndarray) -> float:
        h1, h2 = h.tolist()
        return ((h1 - w1) ** 2 + (h2 - w2) ** 2) / (2 * V) + loss(h1, h2)

    h = minimize(objective, np.zeros(2)).x
    return h, loss(*h.tolist())


def published_solve(model: AttentionModel, x: np.ndarray) -> tuple[np.ndarray, float, int, float]:
    """Overlaps, training loss, maps and seconds of the published scheme, from overlaps x."""
    began = time.perf_counter()
    loss, maps = math.nan, 0
    while maps < MOST_MAPS:
        maps += 1
        image, loss = published_map(model, x)
        # the sign of what vanishes by symmetry is the minimiser's rounding
        step = (1 - DAMPING) * np.where(x == 0, 0.0, image - x)
        x = x + step
        if np.all(np.abs(step) <= TOLERANCE * np.abs(x)):
            break
    return x, loss, maps, time.perf_counter() - began


def main() -> None:
    """Both branches, both schemes."""
    model = AttentionModel.mixture()
    print(f"\nalpha={ALPHA:g}, omega={model.omega:g}, sigma={model.sigma:g}, lam={LAM:g}; (errors)")
    for start in ("semantic", "positional"):
        true = solve(model, ALPHA, LAM, start, tol=1e-8, with_stability=False, on_failure="return")
        exact = np.append(true.overlaps.as_array(), true.train_loss)
        began = time.perf_counter()
        ours = solve(model, ALPHA, LAM, start, with_stability=False)
        seconds = time.perf_counter() - began
        first = Overlaps(q=0.9 * exact[0], m=0.9 * exact[1], V=exact[2], theta=0.9 * exact[3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, loss, maps, theirs = published_solve(model, first.as_array())
        print(f"\n{start} (truth: {true.overlaps}, train_loss={true.train_loss:.9g})")
        _line(
            "this package",
            ours.iterations,
            seconds,
            [*ours.overlaps.as_array(), ours.train_loss],
            exact,
        )
        _line("published", maps, theirs, [*x, loss], exact)
        print(f"  published / this package: {theirs / seconds:.0f} times the time")


def _line(name: str, maps: int, seconds: float, values: list[float], exact: np.ndarray) -> None:
    parts = [
        f"{label}={value:.7g} ({abs(value / e - 1):.0e})"
        for label, value, e in zip((*NAMES, "eps_t"), values, exact, strict=True)
        if e
    ]
    print(f"  {name:<13}{maps:4d} maps {seconds:8.2f} s  " + "  ".join(parts))


def test_published(capsys):
    """For ``make bench``: prints; passes if the rule is of degree 7, whatever the clock says."""
    nodes, weights = stroud_degree_7()
    moment = {0: 1, 1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15, 7: 0}
    for i in range(8):
        for j in range(8 - i):
            got = weights @ (nodes[:, 0] ** i * nodes[:, 1] ** j)
            assert abs(got - moment[i] * moment[j]) < 1e-12
    with capsys.disabled():
        main()


if __name__ == "__main__":
    main()
