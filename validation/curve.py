"""Both branches along alpha: overlaps and losses of trained students against the theory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from gamp_theory.empirical.measure import joint_test
from validation.minima import BROKEN, FAMILY, minimum, theory, unfinished
from validation.study import (
    CLEAR_JUMP_MASS,
    SIGMAS,
    Case,
    Record,
    Study,
    Verdict,
    fixed_point,
    groups,
    row,
)

__all__ = ["STUDY"]

POINTS = [
    *((alpha, 0.01, start) for start in BROKEN for alpha in (1.0, 1.25, 1.5, 2.0)),
    (1.5, 0.1, "positional"),  # no jumps at all
]
QUICK_POINTS = [(1.5, 0.01, "semantic"), (1.5, 0.1, "positional")]
D, INSTANCES = 1000, 24
QUICK_D, QUICK_INSTANCES = 500, 12


def cases(quick: bool) -> list[Case]:
    """Independent tasks at each point."""
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
            "bias_free": False,
            "hessian": False,
            "seed": [41, number, instance],
        }
        for (number, (alpha, lam, start)), instance in itertools.product(
            enumerate(points), range(instances)
        )
    ]


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Each quantity, and all of one point together (Hotelling)."""
    rows, problems, notes = [], [], []
    for case, found in groups(cases, records, ("alpha", "lam", "start")):
        where = f"{case['start']}, alpha = {case['alpha']:g}, lam = {case['lam']:g}"
        problems += unfinished(found, where)
        point = fixed_point(case, problems)
        if point is None:
            continue
        judged = point.stability.jump_mass <= CLEAR_JUMP_MASS
        expected = theory(point)
        names = [BROKEN[case["start"]], "q", "train_loss", "test_error"]
        values = {
            name: [r[name] - r.get(f"{name}_bias", 0.0) for r in found]
            for name in (*names, "linear_error")
        }
        rows += [row(where, name, expected[name], x, judged) for name, x in values.items()]
        joint = joint_test(
            np.transpose([values[name] for name in names]), [expected[name][0] for name in names]
        )
        notes.append(
            f"{where}: jump mass {point.stability.jump_mass:.2g}, replicon "
            f"{point.stability.replicon:.3g}; {', '.join(names)} jointly: p = {joint.p_value:.2g}"
        )
        if judged and not joint.p_value >= 2 * norm.sf(SIGMAS):
            problems.append(f"{where}: jointly, p = {joint.p_value:.2g}")
    return Verdict(rows, problems, notes)


STUDY = Study(
    name="curve",
    title="Both branches along alpha",
    text=(
        "Students trained with L-BFGS from the start that names the branch. The 1/d bias of the "
        "losses is removed by formula, nothing is fitted. `linear_error` is the error of the mean "
        "attention of the target."
    ),
    cases=cases,
    measure=minimum,
    judge=judge,
)
