"""Other sigma, other ridges, and a target whose tokens differ."""

from __future__ import annotations

from collections.abc import Sequence

from validation.grid import compare
from validation.minima import FAMILY, SOURCES, minimum
from validation.study import Case, Place, Record, Study, Verdict, groups

__all__ = ["STUDY"]

#: Attends to the other token, and the more so at the second: no symmetry between the tokens.
SECOND = [[0.3, 0.7], [0.8, 0.2]]
#: What is varied, its values, the starts, and what is changed beside it; alpha = 1.5 is the base.
PLAN = [
    ("sigma", (0.3, 0.4, 0.6, 0.7), ("semantic", "positional"), {}),
    ("lam", (0.003, 0.005, 0.02, 0.05, 0.1), ("semantic", "positional"), {}),
    ("omega", (0.05, 0.14, 0.3, 0.5), ("semantic", "positional"), {"A": SECOND}),
]
QUICK_PLAN = [
    ("sigma", (0.6,), ("semantic",), {}),
    ("lam", (0.02,), ("semantic",), {}),
    ("omega", (0.14,), ("semantic",), {"A": SECOND}),
]
D, INSTANCES = 250, 10
QUICK_D, QUICK_INSTANCES = 400, 10


def cases(quick: bool) -> list[Case]:
    """Independent tasks at each point."""
    d, instances = (QUICK_D, QUICK_INSTANCES) if quick else (D, INSTANCES)
    points = [
        {**FAMILY, "alpha": 1.5, "lam": 0.01, **more, name: value, "start": start, "varied": name}
        for name, values, starts, more in (QUICK_PLAN if quick else PLAN)
        for value in values
        for start in starts
    ]
    return [
        {**point, "d": d, "bias_free": False, "hessian": False, "seed": [67, number, instance]}
        for number, point in enumerate(points)
        for instance in range(instances)
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Rows where the branch exists; where students end in any case."""
    points = []
    for case, found in groups(cases, records, ("varied", "sigma", "lam", "omega", "start")):
        series = case["start"] + (", second target" if "A" in case else "")
        points.append((case, found, Place(series, case["varied"], case[case["varied"]])))
    return compare(points)


STUDY = Study(
    name="parameters",
    title="Sigma, ridge and a second target",
    text=(
        "At alpha = 1.5 around sigma = .5, lam = .01, omega = .3, d = 250. The second target is "
        "A = [[.3, .7], [.8, .2]]: it attends to the other token, more so at the second."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
    sources=SOURCES,
)
