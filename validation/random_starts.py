"""Where random starts end: which branch, in which minimum of it, against alpha, omega and d."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from gamp_theory.empirical.curvature import curvature
from gamp_theory.empirical.measure import extrapolate, mean_and_stderr, train_loss_bias
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import train
from validation.branches import branch_reached
from validation.minima import BROKEN, FAMILY, theory, unfinished
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
    model_of,
    row,
)

__all__ = ["STUDY", "wilson"]

POINTS = [(alpha, omega) for omega in (0.1, 0.3, 0.5) for alpha in (1.0, 2.0)]
QUICK_POINTS = POINTS[-1:]
SIZES = {125: 48, 250: 48, 500: 48, 1000: 24}
QUICK_SIZES = {125: 24, 250: 24}
#: Tasks without the 1/d bias, where the overlaps can be held against their limit at one d.
FREE_SIZES = {250: 48}
QUICK_FREE_SIZES = {250: 16}
#: Weights that differ by less, relatively and up to the sign, are of one minimum.
SAME = 1e-3
#: Fewer students of a minimum have so large a limit of z that nothing could fail.
FEWEST = 8


def cases(quick: bool) -> list[Case]:
    """Tasks at each point; each is trained from one random start and from the named ones."""
    points = QUICK_POINTS if quick else POINTS
    plan = [
        *((d, count, False) for d, count in (QUICK_SIZES if quick else SIZES).items()),
        *((d, count, True) for d, count in (QUICK_FREE_SIZES if quick else FREE_SIZES).items()),
    ]
    return [
        {
            **FAMILY,
            "omega": omega,
            "d": d,
            "alpha": alpha,
            "lam": 0.01,
            "bias_free": bias_free,
            "seed": [73, POINTS.index((alpha, omega)), d, instance],
        }
        for (alpha, omega), (d, count, bias_free) in itertools.product(points, plan)
        for instance in range(count)
    ]


def measure(case: Case) -> Record:
    """Where the random start and the named ones end, and how far apart."""
    task = draw_task(
        model_of(case),
        case["d"],
        case["alpha"],
        case["lam"],
        tuple(case["seed"]),
        bias_free=case["bias_free"],
    )
    ends = {start: train(task, start) for start in ("random", *BROKEN)}
    Q = ends["random"].Q
    record: Record = {"lowest": curvature(task, Q).lowest}
    for start, end in ends.items():
        apart = min(np.linalg.norm(Q - end.Q), np.linalg.norm(Q + end.Q))
        record[start] = {
            "q": end.q,
            "m": end.m,
            "theta": end.theta,
            "train_loss": end.train_loss,
            "train_loss_bias": train_loss_bias(task.position_square(end.Q), task.alpha, task.d),
            "distance": float(apart / np.linalg.norm(end.Q)),
            "status": str(end.status),
        }
    return record


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Fractions are shown; students in the minimum of a named start have to be its branch."""
    problems: list[str] = []
    fractions, minima = [], []
    series: dict[tuple[str, float, float, bool], list[tuple[Case, list[Record]]]] = {}
    for case, found in groups(cases, records, ("omega", "alpha", "bias_free", "d")):
        where = f"omega = {case['omega']:g}, alpha = {case['alpha']:g}, d = {case['d']}"
        where += ", bias-free" if case["bias_free"] else ""
        problems += unfinished([r[start] for r in found for start in ("random", *BROKEN)], where)
        reached = [branch_reached(r["random"], case["sigma"]) for r in found]
        counts = Counter(reached)
        others = sorted(set(counts) - set(BROKEN))
        fractions.append(
            (
                where,
                *(wilson(counts[name], len(found)) for name in BROKEN),
                ", ".join(f"{name} {counts[name]}" for name in others) or "none",
            )
        )
        for start in BROKEN:
            here = [r for r, name in zip(found, reached, strict=True) if name == start]
            point = fixed_point({**case, "start": start}, problems, elsewhere=True)
            if not here or point is None or point.branch != start or point.stability is None:
                continue
            mass = point.stability.jump_mass
            same = [r for r in here if r[start]["distance"] <= SAME]
            minima.append((where, start, *_jumps(case, mass), *_kinds(case, here, start)))
            key = (start, case["omega"], case["alpha"], case["bias_free"])
            series.setdefault(key, []).append((case, same))
    rows = [r for (start, *_), sizes in series.items() for r in _rows(start, sizes, problems)]
    tables = [
        Table("Where random starts end", FRACTIONS_HEAD, fractions),
        Table(
            "Random starts that end on a branch: in the minimum of its named start, or elsewhere",
            MINIMA_HEAD,
            minima,
        ),
    ]
    return Verdict(rows, problems, [], tables)


FRACTIONS_HEAD = ("where", "semantic: fraction (68 %)", "positional: fraction (68 %)", "others")
MINIMA_HEAD = (
    "where",
    "branch",
    "jump mass",
    "n x jump mass",
    "same minimum",
    "elsewhere: loss higher by per cent",
    "lower than the named",
    "its overlap, relatively",
    "lowest curvature / lam: same, elsewhere",
)


def _jumps(case: Case, mass: float) -> tuple[str, str]:
    """Jump mass, and how many jumps that is for n sentences."""
    return f"{mass:.2g}", f"{case['alpha'] * case['d'] * mass:.2g}"


def _kinds(case: Case, found: Sequence[Record], start: str) -> tuple[str, ...]:
    """How many are in the minimum of the named start, and what the others are like: medians."""
    same = [r for r in found if r[start]["distance"] <= SAME]
    others = [r for r in found if r[start]["distance"] > SAME]
    name = BROKEN[start]
    rise = [r["random"]["train_loss"] / r[start]["train_loss"] - 1 for r in others]
    ratio = [abs(r["random"][name] / r[start][name]) for r in others]

    def median(values: Sequence[float], form: str) -> str:
        return format(float(np.median(values)), form) if values else "-"

    bent = [median([r["lowest"] / case["lam"] for r in kind], ".2f") for kind in (same, others)]
    return (
        f"{len(same)} of {len(found)}",
        median([100 * x for x in rise], "+.2g"),
        str(sum(x < 0 for x in rise)),
        median(ratio, ".2f"),
        ", ".join(bent),
    )


def _rows(start: str, sizes: Sequence[tuple[Case, list[Record]]], problems: list[str]) -> list[Row]:
    """Means at each d, and their limit; bias-free tasks are judged as they are."""
    sizes = [(case, same) for case, same in sizes if len(same) >= FEWEST]
    if not sizes:
        return []
    case = sizes[0][0]
    point = fixed_point({**case, "start": start}, problems)
    if point is None:
        return []
    judged, free, expected = judged_at(point), case["bias_free"], theory(point)
    label = f"{start}, omega = {case['omega']:g}, alpha = {case['alpha']:g}"
    label += ", bias-free" if free else ""
    rows = []
    for name in (BROKEN[start], "q", "train_loss"):
        values = [
            [abs(r["random"][name]) - r["random"].get(f"{name}_bias", 0.0) for r in same]
            for _, same in sizes
        ]
        rows += [
            row(Place(label, "d", case["d"]), name, expected[name], x, judged and free)
            for (case, _), x in zip(sizes, values, strict=True)
        ]
        if free or len(sizes) < 2:
            continue
        means = [mean_and_stderr(x) for x in values]
        limit = extrapolate(
            [case["d"] for case, _ in sizes], [x.mean for x in means], [x.stderr for x in means]
        )
        fewest = min(x.instances for x in means)
        place = Place(label, "d", math.inf)
        rows.append(Row(place, name, *expected[name], limit.value, limit.stderr, fewest, judged))
    return rows


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
        "L-BFGS from Q ~ N(0, 1), one start a task, and from the named starts on the same tasks. "
        "The theory says which branches there are, not which one is reached: fractions are shown "
        "with Wilson's intervals. Rows are of the students that ended in the very minimum of the "
        "named start of their branch, by absolute overlaps (the sign of a random start is "
        "arbitrary, and they are far above the floor of an absolute value). At finite d the "
        "overlaps are off by 1/d: what is judged is the limit of a weighted fit, as in `scaling`, "
        "and tasks without that bias as they are. Random starts that end on the branch, but in "
        "another minimum of it, are counted and described; the theory does not know them."
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure,),
)
