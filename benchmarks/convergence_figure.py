"""Error of one map against its cost: the two rules of this package, Gauss-Hermite, Sobol.

Run ``python -m benchmarks.convergence_figure``; it writes ``docs/figures/convergence.png`` and,
beside it, the numbers.  Semantic and positional fixed points at alpha = 1.25, omega = 0.3.  Gauss-
Hermite is the tensor rule in the noises of the cavity fields and of the teacher's fields given
those; it and Sobol have the global prox of the independent check.  The error of Sobol is the root
mean square over scrambles; all are the largest relative error of q_hat, m_hat, V_hat, theta_hat
and the loss.  The truth is the slice rule at 1e-9; the fine plane rule confirms it.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import numba
import numpy as np

from benchmarks.states import ORDINARY, State, beside, cpu_seconds, error, truth
from gamp_theory import plotting
from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.plane import plane_averages, plane_rule
from gamp_theory.channel.slices import slice_averages, slice_rule
from gamp_theory.channel.sobol import sobol_averages
from gamp_theory.channel.sobol_kernels import (
    LEAF,
    STACK_ROWS,
    ProxProblem,
    force,
    global_prox,
    target_pair,
)
from gamp_theory.numerics.quadrature import gauss_hermite_normal

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "convergence.png"
SLICES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
HERMITE = (8, 10, 12, 14, 16, 18, 20, 22, 24)
SOBOL = (8, 10, 12, 14, 16)
SCRAMBLES = 16
DOTS = (0, (1, 1.5))
STYLES = {
    "plane": {"color": "#0072B2", "marker": "o", "label": "plane minus holes"},
    "slices": {"color": "#009E73", "marker": "s", "label": "slices"},
    "Gauss-Hermite": {"color": "#D55E00", "marker": "^", "label": "Gauss–Hermite"},
    "Sobol": {"color": "#666666", "marker": "D", "label": "randomised Sobol"},
}


@numba.njit(error_model="numpy")
def _hermite_sums(nodes, weights, q, m, V, theta, rho, omega, a1, a2, c):
    stack = np.empty((STACK_ROWS, 3))
    sums = np.zeros(5)
    tilt = theta / math.sqrt(q)
    spread = math.sqrt(rho - theta * theta / q)
    n = nodes.size
    for i1 in range(n):
        for i2 in range(n):
            x1, x2 = nodes[i1], nodes[i2]
            w1, w2 = math.sqrt(q) * x1 + m, math.sqrt(q) * x2 - m
            for j1 in range(n):
                for j2 in range(n):
                    z1, z2 = spread * nodes[j1], spread * nodes[j2]
                    t1, t2 = target_pair(tilt * x1 + z1, tilt * x2 + z2, omega, a1, a2)
                    h1, h2, _ = global_prox(ProxProblem(w1, w2, t1, t2, V * c), LEAF, stack)
                    g1, g2 = force(h1, h2, t1, t2, c)
                    r1 = t1 - math.tanh(0.5 * h1 * (h1 - h2))
                    r2 = t2 - math.tanh(0.5 * h2 * (h2 - h1))
                    weight = weights[i1] * weights[i2] * weights[j1] * weights[j2]
                    sums[0] += weight * (g1 * g1 + g2 * g2)
                    sums[1] += weight * (g1 - g2)
                    sums[2] += weight * (g1 * z1 + g2 * z2)
                    sums[3] += weight * (g1 * x1 + g2 * x2)
                    sums[4] += weight * 0.5 * c * (r1 * r1 + r2 * r2)
    return sums


def hermite_averages(state: State, n: int) -> ChannelAverages:
    """Averages by the tensor Gauss-Hermite rule with n nodes an axis (loss_omega is not done)."""
    model, x = state.model, state.overlaps
    rule = gauss_hermite_normal(n)
    a1, a2 = model.target.contrasts
    q_hat, m_hat, covariance, response, loss = _hermite_sums(
        rule.nodes,
        rule.weights,
        x.q,
        x.m,
        x.V,
        x.theta,
        model.rho,
        model.omega,
        a1,
        a2,
        model.rho / 2,
    )
    theta_hat = covariance / (model.rho - x.theta**2 / x.q)
    V_hat = theta_hat * x.theta / x.q - response / math.sqrt(x.q)
    # what is zero by symmetry is known to be so in every rule
    hats = (q_hat, m_hat if x.m else 0.0, V_hat, theta_hat if x.theta else 0.0)
    return ChannelAverages(*hats, loss, math.nan, math.nan, math.nan)


def measure(state: State) -> list[tuple[str, float, float, float]]:
    """Rows ``(rule, parameter, seconds of a map, seconds with the making of the rule, error)``."""
    model, x = state.model, state.overlaps
    near = beside(x)  # where nothing is known in advance
    rows = []
    families = (
        ("plane", range(7), lambda level: plane_rule(model, x, level), plane_averages),
        ("slices", SLICES, lambda tol: slice_rule(model, x, tol), slice_averages),
    )
    for name, parameters, make, evaluate in families:
        for parameter in parameters:
            make(parameter)
            began = time.process_time()
            rule = make(parameter)
            building = time.process_time() - began
            averages, _ = evaluate(model, x, rule)
            cost = cpu_seconds(lambda rule=rule, evaluate=evaluate: evaluate(model, near, rule))
            rows.append((name, parameter, cost, cost + building, error(averages, truth(state))))
    hermite_averages(state, 4)
    for n in HERMITE:
        began = time.process_time()
        averages = hermite_averages(state, n)
        cost = time.process_time() - began
        rows.append(("Gauss-Hermite", n, cost, cost, error(averages, truth(state))))
    for power in SOBOL:
        began = time.process_time()
        found = sobol_averages(model, x, samples=2**power, scrambles=SCRAMBLES)
        cost = (time.process_time() - began) / SCRAMBLES
        true = truth(state).as_array()[:5]
        spread = found.standard_error.as_array()[:5] * math.sqrt(SCRAMBLES)
        worst = float(np.max(spread[true != 0] / np.abs(true[true != 0])))
        rows.append(("Sobol", 2**power, cost, cost, worst))
    return rows


def draw(ax, rows) -> None:
    """One panel."""
    for name, look in STYLES.items():
        mine = [row for row in rows if row[0] == name]
        cost, whole, wrong = (np.array([row[j] for row in mine]) for j in (2, 3, 4))
        ax.loglog(1e3 * cost, wrong, markersize=3.5, linewidth=1.1, **look)
        if np.any(whole > 1.001 * cost):
            ax.loglog(1e3 * whole, wrong, color=look["color"], linestyle=DOTS, linewidth=0.9)
    # the finest rules of both kinds differ by this: nothing below it is known
    unknown = [row[4] for row in rows if row[0] == "plane"][-1]
    ax.axhspan(1e-10, unknown, color="0.92", linewidth=0, zorder=-1)
    ax.set_xlabel("processor time of one map (ms)")
    ax.set_xlim(0.4, 5e3)
    ax.set_ylim(1e-9, 0.3)
    ax.set_yticks([1e-8, 1e-6, 1e-4, 1e-2])


def write(tables: dict[str, list[tuple]], path: Path) -> None:
    """The numbers behind the figure."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["state", "rule", "parameter", "map_seconds", "with_rule_seconds", "error"])
        for state, rows in tables.items():
            for name, *numbers in rows:
                writer.writerow([state, name, *(f"{number:.4g}" for number in numbers)])


def read(path: Path) -> dict[str, list[tuple]]:
    """Inverse of :func:`write`."""
    tables: dict[str, list[tuple]] = {}
    with path.open(newline="") as file:
        for state, name, *numbers in list(csv.reader(file))[1:]:
            tables.setdefault(state, []).append((name, *map(float, numbers)))
    return tables


def main(path: Path = FIGURE, replot: bool = False) -> None:
    """Measure, write the numbers, draw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = path.with_suffix(".csv")
    if not replot:
        states = (ORDINARY[2], ORDINARY[3])
        write({" ".join(state.name.split()): measure(state) for state in states}, numbers)
    tables = read(numbers)
    for state, rows in tables.items():
        print(
            f"\n{state}\n  {'rule':<14}{'parameter':>10}"
            f"{'map ms':>10}{'with rule':>11}{'error':>10}"
        )
        for name, parameter, cost, whole, wrong in rows:
            print(f"  {name:<14}{parameter:10g}{1e3 * cost:10.2f}{1e3 * whole:11.1f}{wrong:10.1e}")
    with plotting.figure(7.0, 2.9) as drawn:
        axes = drawn.subplots(1, 2, sharey=True)
        for ax, (state, rows), letter in zip(axes, tables.items(), "ab", strict=True):
            draw(ax, rows)
            branch, alpha = state.split()
            ax.set_title(rf"({letter})  {branch}, $\{alpha}$", loc="left")
        axes[0].set_ylabel("largest relative error of the averages")
        handles, labels = axes[0].get_legend_handles_labels()
        handles += axes[0].plot([], [], color="black", linestyle=DOTS, linewidth=0.9)
        labels.append("with making the rule")
        drawn.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.4)
    plotting.save(drawn, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convergence_figure", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=FIGURE)
    parser.add_argument("--replot", action="store_true", help="draw the numbers there are")
    options = parser.parse_args()
    main(options.out, options.replot)
