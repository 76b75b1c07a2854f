"""From d to infinity: means at several d, extrapolated without the bias formula."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from gamp_theory.empirical.measure import extrapolate, mean_and_stderr
from validation.minima import BROKEN, FAMILY, SOURCES, minimum, theory, unfinished
from validation.study import (
    Case,
    Place,
    Record,
    Row,
    Study,
    Verdict,
    fixed_point,
    groups,
    judged_at,
    row,
)

__all__ = ["STUDY"]

#: Instances by d: as many as keep the standard errors alike.
SIZES = {100: 80, 200: 40, 400: 20, 800: 10}
QUICK_SIZES = {100: 40, 200: 20, 400: 10}
STARTS = tuple(BROKEN)
QUICK_STARTS = STARTS[:1]


def cases(quick: bool) -> list[Case]:
    """Tasks of both starts at alpha = 1.5."""
    sizes, starts = (QUICK_SIZES, QUICK_STARTS) if quick else (SIZES, STARTS)
    return [
        {
            **FAMILY,
            "d": d,
            "alpha": 1.5,
            "lam": 0.01,
            "start": start,
            "bias_free": False,
            "hessian": False,
            "seed": [47, number, instance],
        }
        for (number, start), d in itertools.product(enumerate(starts), sizes)
        for instance in range(sizes[d])
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """The limit of each quantity is judged; the means at each d are shown."""
    rows: list[Row] = []
    problems: list[str] = []
    notes: list[str] = []
    by_start: dict[str, list[tuple[Case, list[Record]]]] = {}
    for case, found in groups(cases, records, ("start", "d")):
        by_start.setdefault(case["start"], []).append((case, found))
        problems += unfinished(found, f"{case['start']}, d = {case['d']}")
    for start, sizes in by_start.items():
        point = fixed_point(sizes[0][0], problems)
        if point is None:
            continue
        judged = judged_at(point)
        expected = theory(point)
        for name in (BROKEN[start], "q", "train_loss", "test_error"):
            means = [mean_and_stderr(r[name] for r in found) for _, found in sizes]
            for case, found in sizes:
                where = Place(start, "d", case["d"])
                rows.append(row(where, name, expected[name], [r[name] for r in found], False))
            limit = extrapolate(
                [case["d"] for case, _ in sizes], [x.mean for x in means], [x.stderr for x in means]
            )
            fewest = min(x.instances for x in means)
            rows.append(
                Row(
                    Place(start, "d", math.inf),
                    name,
                    *expected[name],
                    limit.value,
                    limit.stderr,
                    fewest,
                    judged,
                )
            )
            notes.append(
                f"{start}, {name}: {limit.value:.5g} + {limit.coefficient:.3g}/d^{limit.power:g} "
                f"(fit: p = {limit.p_value:.2g})"
            )
    return Verdict(rows, problems, notes)


STUDY = Study(
    name="scaling",
    title="Scaling in d at alpha = 1.5",
    text=(
        "The losses still contain their 1/d bias here: the limit comes from a weighted fit of "
        "`value + coefficient/d^power`, averaged over the powers 1/2, 1 and 3/2 by their evidence."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
    sources=SOURCES,
)
