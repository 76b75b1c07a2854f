"""One map on one core: cost and error of both rules, with the floor beside it.

Run ``python -m benchmarks.bench_map``.  The floor of the plane rule is its number of nodes times
one scalar evaluation of the loss with gradient and Hessian, which is the Jacobian of the
substitution; that of the slice rule is its number of nodes times one scalar prox (Newton from the
neighbouring one).  Maps are timed a little beside the state that the rule was made for, where
nothing is known in advance.  A plane node is cheaper than its floor: the student's part is
tabulated once for all teacher draws.  "build" is what making the frozen rule costs, once per fixed
point.
"""

from __future__ import annotations

import time

import numba
import numpy as np

from benchmarks.states import ORDINARY, State, beside, cpu_seconds, error, truth
from gamp_theory.channel.pair_kernels import loss_derivatives
from gamp_theory.channel.plane import PlaneUnusable, plane_averages, plane_rule
from gamp_theory.channel.slices import slice_averages, slice_rule
from gamp_theory.overlaps import Overlaps

LEVELS = range(7)
SLICES = (1e-4, 2e-5, 1e-5, 5e-6, 1e-6, 1e-7)
TARGETS = (1e-5, 1e-7)

#: Fixed points of the hard places, rounded (validation/hard_places.py).
HARD = (
    State(
        "semantic alpha=1.5 sigma=0.5 lam=0.001 omega=0.3",
        Overlaps(0.183297, 0.0, 31.20448, 0.206595),
        0.5,
        0.3,
    ),
    State(
        "uninformed alpha=1.5 sigma=0.5 lam=0.001 omega=0.3",
        Overlaps(0.2259037, 0.0, 76.26631, 0.0),
        0.5,
        0.3,
    ),
    State(
        "semantic alpha=1.17 sigma=0.7 lam=0.01 omega=0.3",
        Overlaps(0.2430611, 0.0, 12.69796, 0.3263045),
        0.7,
        0.3,
    ),
    State(
        "uninformed alpha=1.17 sigma=0.7 lam=0.01 omega=0.3",
        Overlaps(0.2571134, 0.0, 28.13357, 0.0),
        0.7,
        0.3,
    ),
    State(
        "semantic alpha=1 sigma=1 lam=0.01 omega=0.3",
        Overlaps(0.5066878, 0.0, 9.288957, 0.6816132),
        1,
        0.3,
    ),
    State(
        "uninformed alpha=1 sigma=1 lam=0.01 omega=0.3",
        Overlaps(0.6420353, 0.0, 30.69715, 0.0),
        1,
        0.3,
    ),
    State(
        "semantic alpha=1.5 sigma=0.5 lam=0.01 omega=0",
        Overlaps(0.1188136, 0.0, 12.54447, 0.1594506),
        0.5,
        0,
    ),
    State(
        "uninformed alpha=1.5 sigma=0.5 lam=0.01 omega=0",
        Overlaps(0.105245, 0.0, 22.61214, 0.0),
        0.5,
        0,
    ),
    State(
        "uninformed alpha=1.5 sigma=0.5 lam=0.01 omega=0.7",
        Overlaps(0.08576632, 0.0, 30.07729, 0.0),
        0.5,
        0.7,
    ),
    State(
        "positional alpha=1.5 sigma=0.5 lam=0.01 omega=0.7",
        Overlaps(0.03572218, 0.3125529, 10.47473, 0.0),
        0.5,
        0.7,
    ),
    State(
        "positional alpha=0.9 sigma=0.5 lam=0.01 omega=0.1",
        Overlaps(0.05742222, 0.180354, 21.29859, 0.0),
        0.5,
        0.1,
    ),
    State(
        "uninformed alpha=0.02 sigma=0.5 lam=0.01 omega=0.3",
        Overlaps(0.001613696, 0.0, 26.83977, 0.0),
        0.5,
        0.3,
    ),
    State(
        "semantic alpha=20 sigma=0.5 lam=0.01 omega=0.3",
        Overlaps(0.2007123, 0.0, 1.094758, 0.2238384),
        0.5,
        0.3,
    ),
    State(
        "positional alpha=20 sigma=0.5 lam=0.01 omega=0.3",
        Overlaps(0.02520381, 0.2860234, 1.148884, 0.0),
        0.5,
        0.3,
    ),
)


@numba.njit(error_model="numpy")
def _losses(count):
    total = 0.0
    for i in range(count):
        l, l_1, l_2, l_11, l_12, l_22 = loss_derivatives(1e-6 * i, 0.3, 0.2, 0.1, 0.125)
        total += l + l_1 + l_2 + l_11 + l_12 + l_22
    return total


@numba.njit(error_model="numpy")
def _proxes(count, V):
    """Newton along a line in w, from the neighbouring prox; the steps it took in the mean."""
    h1 = h2 = total = 0.0
    steps = 0
    for i in range(count):
        w1, w2 = 1.0 + 1e-6 * (i % 1000) * 1e2, 0.2
        if i % 1000 == 0:
            h1, h2 = w1, w2
        for _ in range(50):
            _, g1, g2, h11, h12, h22 = loss_derivatives(h1, h2, 0.2, 0.1, 0.125)
            r1, r2 = h1 - w1 + V * g1, h2 - w2 + V * g2
            a, b, d = 1 + V * h11, V * h12, 1 + V * h22
            determinant = a * d - b * b
            h1 -= (d * r1 - b * r2) / determinant
            h2 -= (a * r2 - b * r1) / determinant
            steps += 1
            if r1 * r1 + r2 * r2 < 1e-24:
                break
        total += h1 + h2
    return steps / count, total


def scalar_costs() -> tuple[float, float, float]:
    """Seconds of one loss with derivatives and of one prox, and the Newton steps of that prox."""
    count = 1_000_000
    loss = cpu_seconds(lambda: _losses(count)) / count
    prox = cpu_seconds(lambda: _proxes(count // 10, 10.0)) / (count // 10)
    return loss, prox, _proxes(count // 10, 10.0)[0]


def measure(state: State, loss: float, prox: float) -> list[tuple]:
    """Rows ``(rule, nodes, holes or slices, build ms, map ms, floor ms, error)``."""
    model, x = state.model, state.overlaps
    near = beside(x)
    rows = []
    for level in LEVELS:
        try:
            build, rule = _timed(lambda level=level: plane_rule(model, x, level))
        except PlaneUnusable as reason:
            rows.append((f"plane {level}", str(reason)))
            break
        averages, seen = plane_averages(model, x, rule)
        cost = cpu_seconds(lambda rule=rule: plane_averages(model, near, rule))
        floor = seen.nodes * loss
        rows.append(
            (
                f"plane {level}",
                seen.nodes,
                seen.holes,
                build,
                cost,
                floor,
                error(averages, truth(state)),
            )
        )
    for tol in SLICES:
        build, rule = _timed(lambda tol=tol: slice_rule(model, x, tol))
        averages, _ = slice_averages(model, x, rule)
        cost = cpu_seconds(lambda rule=rule: slice_averages(model, near, rule))
        nodes = rule.slices * _nodes_of_slice(rule)
        rows.append(
            (
                f"slices {tol:.0e}",
                nodes,
                rule.slices,
                build,
                cost,
                nodes * prox,
                error(averages, truth(state)),
            )
        )
    return rows


def _nodes_of_slice(rule) -> int:
    """Nodes of a slice through the middle that no jump cuts: the mean over slices is lower."""
    return int(np.ceil(2 * rule.grid.cut / rule.grid.panel)) * rule.grid.gauss.size


def _timed(make):
    make()
    began = time.process_time()
    made = make()
    return time.process_time() - began, made


def report(states: tuple[State, ...]) -> None:
    """Print the tables."""
    loss, prox, steps = scalar_costs()
    print(
        f"\none loss with gradient and Hessian {1e9 * loss:.1f} ns; one prox from its neighbour "
        f"{1e9 * prox:.0f} ns ({steps:.1f} Newton steps)"
    )
    cheapest = []
    for state in states:
        print(f"\n{state.name}: {state.overlaps}")
        print(
            f"  {'rule':<13}{'nodes':>9}{'holes|slices':>13}"
            f"{'build ms':>10}{'map ms':>9}{'floor ms':>10}{'error':>10}"
        )
        rows = measure(state, loss, prox)
        for row in rows:
            if len(row) == 2:
                print(f"  {row[0]:<13} unusable: {row[1]}")
                continue
            name, nodes, parts, build, cost, floor, wrong = row
            print(
                f"  {name:<13}{nodes:9d}{parts:13d}{1e3 * build:10.1f}{1e3 * cost:9.2f}"
                f"{1e3 * floor:10.2f}{wrong:10.1e}"
            )
        cheapest.append((state.name, [_cheapest(rows, target) for target in TARGETS]))
    print(f"\ncheapest map (ms, rule) with an error below {TARGETS[0]:.0e} and {TARGETS[1]:.0e}")
    for name, entries in cheapest:
        print(f"  {name:<58}" + "".join(f"{entry:>24}" for entry in entries))


def _cheapest(rows: list[tuple], target: float) -> str:
    good = [(row[4], row[0]) for row in rows if len(row) > 2 and row[6] < target]
    if not good:
        return "none"
    cost, name = min(good)
    return f"{1e3 * cost:.2f} {name}"


def main() -> None:
    """Ordinary range and hard places."""
    report(ORDINARY + HARD)


def test_map(capsys):
    """For ``make bench``: prints, and passes whatever the clock says."""
    with capsys.disabled():
        main()


if __name__ == "__main__":
    main()
