"""Which branch a random start reaches, as a fraction, against alpha, omega and d."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

from validation.branches import branch_reached
from validation.minima import BROKEN, FAMILY, SOURCES, minimum, theory, unfinished
from validation.study import (
    Case,
    Place,
    Record,
    Row,
    Study,
    Table,
    Verdict,
    fixed_point,
    groups,
    judged_at,
    row,
)

__all__ = ["STUDY", "wilson"]

POINTS = [(alpha, omega) for omega in (0.1, 0.3, 0.5) for alpha in (1.0, 2.0)]
QUICK_POINTS = [(2.0, 0.3)]
SIZES = {125: 24, 250: 24}
QUICK_SIZES = {200: 16, 400: 16}
#: Fewer students of a branch have so large a limit of z that nothing could fail.
FEWEST = 8


def cases(quick: bool) -> list[Case]:
    """One random start of each task."""
    points, sizes = (QUICK_POINTS, QUICK_SIZES) if quick else (POINTS, SIZES)
    return [
        {
            **FAMILY,
            "omega": omega,
            "d": d,
            "alpha": alpha,
            "lam": 0.01,
            "start": "random",
            "bias_free": False,
            "hessian": False,
            "seed": [73, number, d, instance],
        }
        for (number, (alpha, omega)), d in itertools.product(enumerate(points), sizes)
        for instance in range(sizes[d])
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Fractions are shown; those that reached a branch have to look like it."""
    rows: list[Row] = []
    problems: list[str] = []
    lines = []
    largest = max(case["d"] for case in cases)
    for case, found in groups(cases, records, ("omega", "alpha", "d")):
        where = f"omega = {case['omega']:g}, alpha = {case['alpha']:g}, d = {case['d']}"
        problems += unfinished(found, where)
        reached = [branch_reached(record, case["sigma"]) for record in found]
        counts = Counter(reached)
        others = sorted(set(counts) - set(BROKEN))
        lines.append(
            (
                where,
                *(wilson(counts[name], len(found)) for name in BROKEN),
                ", ".join(f"{name} {counts[name]}" for name in others) or "none",
            )
        )
        if case["d"] != largest:
            continue
        for start, broken in BROKEN.items():
            mine = [r for r, name in zip(found, reached, strict=True) if name == start]
            if len(mine) < FEWEST:
                continue
            point = fixed_point({**case, "start": start}, problems)
            if point is None:
                continue
            expected = theory(point)
            place = Place(
                f"ended {start}, omega = {case['omega']:g}, d = {case['d']}", "alpha", case["alpha"]
            )
            for name in (broken, "q", "train_loss"):
                values = [abs(r[name]) - r.get(f"{name}_bias", 0.0) for r in mine]
                rows.append(row(place, name, expected[name], values, judged_at(point)))
    head = ("where", "semantic: fraction (68 %)", "positional: fraction (68 %)", "others")
    return Verdict(rows, problems, [], [Table("Where random starts end", head, lines)])


def wilson(successes: int, trials: int, sigmas: float = 1.0) -> str:
    """A fraction and the interval of Wilson's score that belongs to it, as text."""
    fraction, square = successes / trials, sigmas**2 / trials
    middle = (fraction + square / 2) / (1 + square)
    half = sigmas * math.sqrt(fraction * (1 - fraction) / trials + square / (4 * trials))
    half /= 1 + square
    return f"{fraction:.3f} ({middle - half:.3f} to {middle + half:.3f})"


STUDY = Study(
    name="random_starts",
    title="Where random starts end",
    text=(
        "L-BFGS from Q ~ N(0, 1), one start a task. The theory says which branches there are, not "
        "which one is reached: fractions are shown with Wilson's intervals. Students that ended "
        "on a branch are compared with it, by absolute overlaps; these are far above the floor "
        "of an absolute value, and the sign of a random start is arbitrary."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
    sources=SOURCES,
)
