"""The published way of solving these equations, replayed: what its parts do to the thresholds.

Run ``python -m validation.published_scheme`` (ten minutes).  What is replayed:

* averages by a nested degree-7 rule: the 12 points of Stroud's rule E_2^{r^2} 7-1 for the two
  noises of the cavity fields, and for each of them 12 more for the teacher's fields given those;
* the prox by `scipy.optimize.minimize` (BFGS) from the origin: a local minimum;
* the plain iteration, ``x <- 0.8 x + 0.2 F(x)`` (with the weights the other way round the
  positional branch, where J has an eigenvalue of -4, oscillates away).

Of `alpha_l` three versions are found, each with one more average by the rule: those of the state
equations, the test error, the linear baseline; the last one once more with the global prox.  Of
`alpha_c` it is recorded by how much our two losses differ at the published value: the rule by which
the published losses were averaged is not known, and this one does not reproduce them.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize

from gamp_theory import AttentionModel, Overlaps, find_transition, solve
from gamp_theory.channel.sobol import global_proxes
from gamp_theory.files import replacing
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.observables import linear_error, test_error
from gamp_theory.prior import prior_map
from validation.records import provenance
from validation.report import aligned
from validation.reproduce.published import THRESHOLDS

__all__ = [
    "local_prox",
    "rule_linear_error",
    "rule_test_error",
    "scheme_map",
    "scheme_solve",
    "stroud_degree_7",
]

RESULTS = Path(__file__).with_name("results") / "published_scheme.json"
LAM = 0.01
DAMPING = 0.8
#: Range around our alpha_l in which that of the scheme is looked for, and points in it.
NEAR, POINTS = (0.9, 1.04), 8

Array = np.ndarray
Prox = Callable[[Array, Array, float, float], Array]


def stroud_degree_7() -> tuple[Array, Array]:
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


def local_prox(w: Array, t: Array, V: float, sigma: float) -> Array:
    """What BFGS finds from the origin, for each of n cavity fields; shape (n, 2)."""
    c = sigma**2 / 2

    def objective(h: Array, w: Array, t: Array) -> float:
        h1, h2 = h.tolist()
        r1 = t[0] - math.tanh(0.5 * h1 * (h1 - h2))
        r2 = t[1] - math.tanh(0.5 * h2 * (h2 - h1))
        return ((h1 - w[0]) ** 2 + (h2 - w[1]) ** 2) / (2 * V) + 0.5 * c * (r1 * r1 + r2 * r2)

    pairs = zip(w.tolist(), t.tolist(), strict=True)
    return np.array([minimize(objective, np.zeros(2), args=pair).x for pair in pairs])


def _fields(model: AttentionModel, x: Array) -> tuple[Array, ...]:
    """All 144 nodes: weights, cavity fields w and their noises, teacher's fields y given those.

    And what y has besides its mean given w.
    """
    q, m, _, theta = x
    nodes, weights = stroud_degree_7()
    xi = np.repeat(nodes, len(nodes), axis=0)
    rest = math.sqrt(max(model.rho - theta**2 / q, 0.0)) * np.tile(nodes, (len(nodes), 1))
    w = math.sqrt(q) * xi + m * np.array([1.0, -1.0])
    return np.outer(weights, weights).ravel(), w, xi, theta / math.sqrt(q) * xi + rest, rest


def _targets(model: AttentionModel, y: Array) -> Array:
    a = np.array(model.target.contrasts)
    return (1 - model.omega) * softmax_contrasts(y) + model.omega * a


def scheme_map(
    model: AttentionModel, x: Array, alpha: float, lam: float, prox: Prox = local_prox
) -> tuple[Array, float]:
    """One undamped map of (q, m, V, theta), and the training loss, by the scheme."""
    q, _, V, theta = x
    rho = model.rho
    weight, w, xi, y, rest = _fields(model, x)
    t = _targets(model, y)
    h = prox(w, t, V, model.sigma)
    g = (h - w) / V
    loss = weight @ ((t - softmax_contrasts(h)) ** 2).sum(axis=1) * rho / 4
    theta_hat = weight @ (g * rest).sum(axis=1) / (rho - theta**2 / q)
    V_hat = theta_hat * theta / q - weight @ (g * xi).sum(axis=1) / math.sqrt(q)
    hats = np.array([weight @ (g * g).sum(axis=1), weight @ (g[:, 0] - g[:, 1]), V_hat, theta_hat])
    return prior_map(rho, alpha * hats, lam), alpha * loss + lam * q / (2 * rho)


def scheme_solve(
    model: AttentionModel,
    x: Array,
    alpha: float,
    lam: float,
    prox: Prox = local_prox,
    tolerance: float = 1e-4,
    most_maps: int = 300,
) -> tuple[Array, float, int]:
    """Overlaps, training loss and maps from overlaps x, until none moves by more than `tolerance`.

    Relative; 1e-4 is the published one.
    """
    loss, maps = math.nan, 0
    while maps < most_maps:
        maps += 1
        image, loss = scheme_map(model, x, alpha, lam, prox)
        # the sign of what vanishes by symmetry is the minimiser's rounding
        step = (1 - DAMPING) * np.where(x == 0, 0.0, image - x)
        x = x + step
        if np.all(np.abs(step) <= tolerance * np.abs(x)):
            break
    return x, loss, maps


def rule_test_error(model: AttentionModel, x: Array) -> float:
    """The test error of overlaps x by the nested rule."""
    weight, w, _, y, _ = _fields(model, x)
    gap = _targets(model, y) - softmax_contrasts(w)
    return float(weight @ (gap**2).sum(axis=1)) * model.rho / 4


def rule_linear_error(model: AttentionModel) -> float:
    """The linear baseline by the same 12 points for the teacher's fields."""
    nodes, weight = stroud_degree_7()
    t = softmax_contrasts(model.sigma * nodes)
    spread = (weight @ (t - weight @ t) ** 2).sum()
    return float((1 - model.omega) ** 2 * model.rho / 4 * spread)


# ------------------------------------------------------------------------------------ thresholds


def alpha_l_shares(omega: float, published: float) -> dict[str, float]:
    """alpha_l with one more average by the rule at a time, on the semantic branch."""
    model = AttentionModel.mixture(omega=omega)
    found = find_transition(model, "alpha_l", (0.5 * published, 1.5 * published), lam=LAM, tol=1e-5)
    alphas = found.value * np.linspace(*NEAR, POINTS)
    exact = {"test_error": lambda x: test_error(model, Overlaps(*x)), "base": linear_error(model)}
    rule = {"test_error": lambda x: rule_test_error(model, x), "base": rule_linear_error(model)}
    row = {"omega": omega, "published": published, "ours": found.value, "error": found.error}
    for prox in (local_prox, global_proxes):
        states = []
        x = solve(model, alphas[-1], LAM, "semantic", with_stability=False).overlaps.as_array()
        for alpha in alphas[::-1]:
            x, _, _ = scheme_solve(model, x, alpha, LAM, prox, tolerance=1e-6)
            states.append(x)
        states.reverse()

        def threshold(errors: Any, baseline: float, states: list[Array] = states) -> float:
            roots = CubicSpline(alphas, [errors(x) for x in states]).solve(baseline, False, False)
            if len(roots) != 1:
                raise RuntimeError(f"omega = {omega:g}: {len(roots)} crossings in the range")
            return float(roots[0])

        if prox is local_prox:
            row["state_equations"] = threshold(exact["test_error"], exact["base"])
            row["and_test_error"] = threshold(rule["test_error"], exact["base"])
            row["and_baseline"] = threshold(rule["test_error"], rule["base"])
        else:
            row["global_prox"] = threshold(rule["test_error"], rule["base"])
    return row


def loss_gap(omega: float, published: float) -> dict[str, float]:
    """By how much our two training losses differ at the published alpha_c."""
    model = AttentionModel.mixture(omega=omega)
    semantic, positional = (
        solve(model, published, LAM, start, with_stability=False).train_loss
        for start in ("semantic", "positional")
    )
    return {"omega": omega, "published": published, "gap": semantic / positional - 1}


def rule_alpha_c(omega: float, alphas: tuple[float, float] = (1.2, 1.5)) -> dict[str, float]:
    """Where the losses of the scheme itself are equal, with the global prox."""
    model = AttentionModel.mixture(omega=omega)
    grid = np.linspace(*alphas, POINTS)
    losses = np.empty((2, POINTS))
    for k, start in enumerate(("semantic", "positional")):
        x = solve(model, grid[0], LAM, start, with_stability=False).overlaps.as_array()
        for i, alpha in enumerate(grid):
            x, losses[k, i], _ = scheme_solve(model, x, alpha, LAM, global_proxes, tolerance=1e-6)
    (root,) = CubicSpline(grid, losses[0] - losses[1]).solve(0.0, False, False)
    return {"omega": omega, "alpha": float(root)}


def main() -> int:
    """Compute, record and print; the exit code."""
    rows: dict[str, list[dict[str, float]]] = {"alpha_l": [], "alpha_c": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of BFGS, where it steps far
        for omega, published in THRESHOLDS["alpha_l"].items():
            rows["alpha_l"].append(alpha_l_shares(omega, published))
            print(f"alpha_l at omega = {omega:g}", file=sys.stderr, flush=True)
    rows["alpha_c"] = [loss_gap(*pair) for pair in THRESHOLDS["alpha_c"].items()]
    rows["alpha_c_of_the_rule"] = [rule_alpha_c(0.3)]
    for kind, table in rows.items():
        cells = [[f"{value:.6g}" for value in row.values()] for row in table]
        print(f"\n{kind}\n" + aligned(list(table[0]), cells))
    text = json.dumps({**rows, "provenance": provenance()}, indent=1)
    with replacing(RESULTS) as path:
        path.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
