"""Both informed minima of one task over alpha and omega: the simulated phase diagrams."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from validation.grid import compare
from validation.minima import BROKEN, FAMILY, SOURCES, minimum
from validation.study import Case, Place, Record, Study, Verdict, groups

__all__ = ["STUDY"]

ALPHAS = tuple(round(0.2 * k, 1) for k in range(1, 12))
OMEGAS = tuple(round(0.05 * k, 2) for k in range(11))
D, INSTANCES = 1000, 3
QUICK_ALPHAS, QUICK_OMEGAS = (1.0, 2.0), (0.1, 0.3)
QUICK_D, QUICK_INSTANCES = 200, 3


def cases(quick: bool) -> list[Case]:
    """Tasks at each point; a seed does not depend on the start, so both starts meet one task."""
    alphas, omegas = (QUICK_ALPHAS, QUICK_OMEGAS) if quick else (ALPHAS, OMEGAS)
    d, instances = (QUICK_D, QUICK_INSTANCES) if quick else (D, INSTANCES)
    points = list(itertools.product(alphas, omegas))
    return [
        {
            **FAMILY,
            "omega": omega,
            "d": d,
            "alpha": alpha,
            "lam": 0.01,
            "start": start,
            "bias_free": False,
            "hessian": False,
            "seed": [109, number, instance],
        }
        for number, (alpha, omega) in enumerate(points)
        for instance in range(instances)
        for start in BROKEN
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Rows where the branch exists, judged where it is stable with few jumps."""
    return compare(
        [
            (case, found, Place(f"{case['start']}, omega = {case['omega']:g}", "alpha", x))
            for case, found in groups(cases, records, ("alpha", "omega", "start"))
            for x in [case["alpha"]]
        ]
    )


STUDY = Study(
    name="plane",
    title="The plane of alpha and omega",
    text=(
        "Both informed minima of the same tasks, d = 1000: what the simulated halves of the phase "
        "diagrams of `gamp-theory reproduce` are made of."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
    sources=SOURCES,
)
