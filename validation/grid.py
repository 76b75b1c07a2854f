"""A grid over alpha and omega: both starts, where their branch is, and where it is not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from validation.branches import branch_rows, ends
from validation.minima import FAMILY, SOURCES, minimum
from validation.study import Case, Place, Record, Study, Table, Verdict, groups

__all__ = ["STUDY", "compare"]

ALPHAS = (1.0, 1.5, 2.0)
OMEGAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
STARTS = ("semantic", "positional")
D, INSTANCES = 300, 12
QUICK = [(1.5, 0.1, "semantic"), (1.5, 0.7, "positional")]
QUICK_D, QUICK_INSTANCES = 500, 10


def cases(quick: bool) -> list[Case]:
    """Independent tasks at each point."""
    points = QUICK if quick else list(itertools.product(ALPHAS, OMEGAS, STARTS))
    d, instances = (QUICK_D, QUICK_INSTANCES) if quick else (D, INSTANCES)
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
            "seed": [61, number, instance],
        }
        for number, (alpha, omega, start) in enumerate(points)
        for instance in range(instances)
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Rows where the branch exists; where students end in any case."""
    return compare(
        [
            (
                case,
                found,
                Place(f"{case['start']}, alpha = {case['alpha']:g}", "omega", case["omega"]),
            )
            for case, found in groups(cases, records, ("alpha", "omega", "start"))
        ]
    )


def compare(points: Sequence[tuple[Case, Sequence[Record], Place]]) -> Verdict:
    """Rows where the theory has the branch that the start names, and a table of all ends."""
    rows, lines = [], []
    problems: list[str] = []
    for case, found, place in points:
        here, point = branch_rows(case, found, place, problems)
        rows += here
        if point is None:
            continue
        stability = point.stability
        lines.append(
            (
                f"{place} (d = {case['d']})",
                point.branch,
                *(
                    ("", "", "")
                    if stability is None
                    else (
                        "stable" if stability.stable else "unstable",
                        f"{stability.jump_mass:.2g}",
                        f"{stability.replicon:.2f}",
                    )
                ),
                ends(found, case["sigma"]),
            )
        )
    head = ("where", "theory ends", "", "jump mass", "replicon", "students end")
    return Verdict(rows, problems, [], [Table("Where both end", head, lines)])


STUDY = Study(
    name="grid",
    title="A grid over alpha and omega",
    text=(
        "Both informed starts at d = 300. A stable fixed point with few jumps is judged. Where "
        "the theory's search leaves for another branch, or its fixed point is unstable, the "
        "table says where students end."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
    sources=SOURCES,
)
