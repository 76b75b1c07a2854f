"""Both branches along alpha: overlaps and losses of trained students against the theory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from gamp_theory.empirical.measure import joint_test, mean_and_stderr
from validation.minima import BROKEN, FAMILY, SOURCES, minimum, theory, unfinished
from validation.study import (
    SIGMAS,
    Case,
    Place,
    Record,
    Study,
    Table,
    Verdict,
    fixed_point,
    groups,
    judged_at,
    row,
)

__all__ = ["STUDY"]

ALPHAS = (1.0, 1.25, 1.5, 2.0)
#: Instances by d, as many as keep the standard errors alike.
SIZES = {500: 96, 1000: 48, 2000: 24}
QUICK_SIZES = {500: 12}
#: Where jumps are heavy, one size more: does the deviation go away?
LARGE = (4000, 12, (1.25, 0.01, "positional"))
POINTS = [
    *((alpha, 0.01, start) for start in BROKEN for alpha in ALPHAS),
    (1.5, 0.1, "positional"),  # no jumps at all
]
QUICK_POINTS = [(1.5, 0.01, "semantic"), (1.5, 0.1, "positional")]
#: Tasks without the 1/d bias, as a third leg where all quantities are tested jointly.
FREE_D, FREE_INSTANCES = 500, 24
FREE_POINTS = [(alpha, 0.01, "semantic") for alpha in ALPHAS[1:]]
#: The smallest d that is judged in a full run: below, 1/d terms of overlaps outweigh the errors.
SMALLEST_JUDGED = 2000


def cases(quick: bool) -> list[Case]:
    """Independent tasks at each point."""
    sizes = QUICK_SIZES if quick else SIZES
    points = QUICK_POINTS if quick else POINTS
    plan = [(d, count, point) for point in points for d, count in sizes.items()]
    if not quick:
        plan.append(LARGE)
    found = [(*entry, False) for entry in plan]
    if not quick:
        found += [(FREE_D, FREE_INSTANCES, point, True) for point in FREE_POINTS]
    return [
        {
            **FAMILY,
            "d": d,
            "alpha": alpha,
            "lam": lam,
            "start": start,
            "bias_free": bias_free,
            "hessian": False,
            "seed": [103 if bias_free else 41, points.index((alpha, lam, start)), d, instance],
        }
        for d, count, (alpha, lam, start), bias_free in found
        for instance in range(count)
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Each quantity, and all of one point together (Hotelling), at the largest d."""
    rows, problems, joints = [], [], []
    deviations: dict[tuple[str, float], list[str]] = {}
    largest = max(case["d"] for case in cases)
    for case, found in groups(cases, records, ("alpha", "lam", "start", "d", "bias_free")):
        free = ", bias-free" if case["bias_free"] else ""
        series = f"{case['start']}, lam = {case['lam']:g}, d = {case['d']}{free}"
        where = Place(series, "alpha", case["alpha"])
        problems += unfinished(found, str(where))
        point = fixed_point(case, problems)
        if point is None or point.stability is None:
            continue
        large = case["bias_free"] or case["d"] >= min(SMALLEST_JUDGED, largest)
        judged = judged_at(point) and large
        expected = theory(point)
        names = [BROKEN[case["start"]], "q", "train_loss", "test_error"]
        values = {
            name: [r[name] - r.get(f"{name}_bias", 0.0) for r in found]
            for name in (*names, "linear_error")
        }
        values["train_loss_variational"] = values["train_loss"]  # one number, two formulas for it
        here = [row(where, name, expected[name], x, judged) for name, x in values.items()]
        rows += here
        joint = joint_test(
            np.transpose([values[name] for name in names]), [expected[name][0] for name in names]
        )
        joints.append(
            (
                str(where),
                f"{point.stability.jump_mass:.2g}",
                f"{point.stability.replicon:.2f}",
                f"{joint.statistic:.3g}",
                f"{joint.p_value:.2g}",
                ("agrees" if joint.p_value >= LEAST else "FAILS") if judged else "shown",
            )
        )
        if judged and not joint.p_value >= LEAST:
            problems.append(f"{where}: jointly, p = {joint.p_value:.2g}")
        if any(r.theory_error > 0.1 * r.stderr for r in here):
            problems.append(f"{where}: the error of the theory is not small beside the noise")
        if case["bias_free"]:
            continue
        q = mean_and_stderr(values["q"])
        key = f"{case['start']}, lam = {case['lam']:g}, alpha = {case['alpha']:g}"
        line = deviations.setdefault(
            (key, point.stability.jump_mass), [key, f"{point.stability.jump_mass:.2g}"]
        )
        relative, error = q.mean / expected["q"][0] - 1, q.stderr / expected["q"][0]
        line.append(f"{case['d']}: {100 * relative:+.1f}({100 * error:.1f})")
    by_mass = [
        (line[0], line[1], ", ".join(line[2:]))
        for _, line in sorted(deviations.items(), key=lambda item: item[0][1])
    ]
    tables = [
        Table(f"{', '.join(QUANTITIES)} jointly (Hotelling)", JOINT_HEAD, joints),
        Table(
            "Deviation of q from the theory, by jump mass",
            ("where", "jump mass", "d: per cent (standard error)"),
            by_mass,
        ),
    ]
    return Verdict(rows, problems, [], tables)


QUANTITIES = ("broken overlap", "q", "train_loss", "test_error")
JOINT_HEAD = ("where", "jump mass", "replicon", "T^2", "p", "")
#: As improbable as `SIGMAS` either way.
LEAST = 2 * norm.sf(SIGMAS)

STUDY = Study(
    name="curve",
    title="Both branches along alpha",
    text=(
        "Students trained with L-BFGS from the start that names the branch. The 1/d bias of the "
        "losses is removed by formula, nothing is fitted. `linear_error` is the error of the mean "
        "attention of the target. Judged at d = 2000 (d = 500 with `--quick`)."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
    sources=SOURCES,
)
