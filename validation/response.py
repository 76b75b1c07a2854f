"""V is the response of the minimum: (sigma**2/d) tr of the inverse Hessian of the risk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from validation.minima import BROKEN, FAMILY, SOURCES, minimum, theory, unfinished
from validation.study import (
    Case,
    Place,
    Record,
    Study,
    Verdict,
    fixed_point,
    groups,
    judged_at,
    row,
)

__all__ = ["STUDY"]

POINTS = [
    (2.0, 0.01, "semantic"),
    (1.5, 0.01, "semantic"),
    (1.5, 0.1, "positional"),
    (1.5, 0.01, "positional"),
]
QUICK_POINTS = POINTS[:1] + POINTS[2:3]
D, INSTANCES = 300, 12
QUICK_D, QUICK_INSTANCES = 400, 12


def cases(quick: bool) -> list[Case]:
    """Bias-free tasks: what is left of finite d are fluctuations, and terms that d hides."""
    points, d, instances = (
        (QUICK_POINTS, QUICK_D, QUICK_INSTANCES) if quick else (POINTS, D, INSTANCES)
    )
    return [
        {
            **FAMILY,
            "d": d,
            "alpha": alpha,
            "lam": lam,
            "start": start,
            "bias_free": True,
            "hessian": True,
            "seed": [43, number, instance],
        }
        for (number, (alpha, lam, start)), instance in itertools.product(
            enumerate(points), range(instances)
        )
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """V and the overlaps where the prox hardly jumps; every point has to be a minimum."""
    rows, problems, notes = [], [], []
    for case, found in groups(cases, records, ("alpha", "lam", "start")):
        series = f"{case['start']}, lam = {case['lam']:g}, d = {case['d']}"
        where = Place(series, "alpha", case["alpha"])
        problems += unfinished(found, where)
        saddles = sum(r["negative"] > 0 for r in found)
        if saddles:
            problems.append(f"{where}: {saddles} of {len(found)} instances are saddles")
        point = fixed_point(case, problems)
        if point is None:
            continue
        judged = judged_at(point)
        expected = theory(point)
        for name in ("V", BROKEN[case["start"]], "q"):
            rows.append(row(where, name, expected[name], [r[name] for r in found], judged))
        lowest = sorted(r["lowest"] / case["lam"] for r in found)
        notes.append(
            f"{where}: jump mass {point.stability.jump_mass:.2g}; lowest eigenvalue of the Hessian "
            f"between {lowest[0]:.3g} and {lowest[-1]:.3g} lam"
        )
    return Verdict(rows, problems, notes)


STUDY = Study(
    name="response",
    title="V from the Hessian of the risk",
    text=(
        "At a minimum with a smooth prox V = (sigma^2/d) tr H^-1, with H the Hessian of the "
        "risk: a test of V, which no overlap of a trained student shows. Bias-free tasks. Where "
        "the prox jumps, the trace misses what the jumps contribute."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
    sources=SOURCES,
)
