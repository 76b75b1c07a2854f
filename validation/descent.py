"""Full-batch descent at the published setting, continued, against L-BFGS on the same task."""

from __future__ import annotations

from collections.abc import Sequence

from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import TrainingResult, train
from validation.minima import BROKEN, FAMILY, theory
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

__all__ = ["STUDY"]

#: d, alpha, start, instances.
PLAN = [
    (300, 1.5, "semantic", 10),
    (300, 1.5, "positional", 10),
    (1000, 1.5, "semantic", 10),
    (1000, 1.5, "positional", 10),
]
QUICK_PLAN = [(100, 2.0, "semantic", 5)]
#: Steps of the published descents, and bound on those that follow, to the gradient of L-BFGS.
PUBLISHED_STEPS, FURTHER_STEPS = 5000, 150_000
GRADIENT_TOL = 1e-7
#: Overlaps that differ by less are of one minimum.
SAME = 1e-4
#: Of ten semantic tasks, how many have to end at one minimum.
FEWEST = 0.8


def cases(quick: bool) -> list[Case]:
    """Independent tasks at each point."""
    return [
        {
            **FAMILY,
            "d": d,
            "alpha": alpha,
            "lam": 0.01,
            "start": start,
            "published_steps": PUBLISHED_STEPS,
            "further_steps": FURTHER_STEPS,
            "gradient_tol": GRADIENT_TOL,
            "seed": [89, number, instance],
        }
        for number, (d, alpha, start, count) in enumerate(QUICK_PLAN if quick else PLAN)
        for instance in range(count)
    ]


def measure(case: Case) -> Record:
    """Where L-BFGS is, where the published steps end, and where more of them do."""
    task = draw_task(model_of(case), case["d"], case["alpha"], case["lam"], tuple(case["seed"]))
    tol = {"gradient_tol": case["gradient_tol"]}
    lbfgs = train(task, case["start"], **tol)
    published = train(task, case["start"], "gd", max_iterations=case["published_steps"], **tol)
    descent = train(task, published.Q, "gd", max_iterations=case["further_steps"], **tol)
    return {
        "lbfgs": _described(lbfgs),
        "published": _described(published),
        "descent": _described(descent),
    }


def _described(student: TrainingResult) -> Record:
    return {
        "q": student.q,
        "m": student.m,
        "theta": student.theta,
        "train_loss": student.train_loss,
        "gradient_norm": student.gradient_norm,
        "iterations": student.iterations,
        "status": str(student.status),
    }


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """How many end at one minimum, and whether descent alone agrees with the theory."""
    rows: list[Row] = []
    problems: list[str] = []
    lines = []
    for case, found in groups(cases, records, ("start", "alpha", "d")):
        series = f"{case['start']}, d = {case['d']}"
        place = Place(series, "alpha", case["alpha"])
        gaps = [
            max(abs(r["descent"][name] - r["lbfgs"][name]) for name in ("q", "m", "theta"))
            for r in found
        ]
        same = sum(gap <= SAME for gap in gaps)
        short = sum(r["descent"]["status"] != "converged" for r in found)
        early = [
            max(abs(r["published"][name] - r["descent"][name]) for name in ("q", "m", "theta"))
            for r in found
        ]
        lower = sum(r["descent"]["train_loss"] < r["lbfgs"]["train_loss"] for r in found)
        lines.append(
            (
                str(place),
                f"{same} of {len(found)}",
                f"{sorted(gaps)[len(gaps) // 2]:.1g}, {max(gaps):.1g}",
                f"{lower} of {len(found)}",
                f"{max(early):.1g}",
                f"{max(r['descent']['iterations'] for r in found)}",
                f"{short}",
            )
        )
        point = fixed_point(case, problems)
        if point is None:
            continue
        if judged_at(point):
            if same < FEWEST * len(found):
                problems.append(f"{place}: descent ends elsewhere in {len(found) - same} instances")
            if short:
                problems.append(f"{place}: {short} descents were not finished")
        expected = theory(point)
        for name in (BROKEN[case["start"]], "q"):
            values = [r["descent"][name] for r in found]
            rows.append(row(place, name, expected[name], values, judged_at(point)))
    head = (
        "where",
        f"same overlaps to {SAME:g}",
        "difference: median, largest",
        "descent lower",
        f"still moved after {PUBLISHED_STEPS}",
        "most further steps",
        "unfinished",
    )
    return Verdict(rows, problems, [], [Table("Descent and L-BFGS on the same tasks", head, lines)])


STUDY = Study(
    name="descent",
    title="Descent at the published setting",
    text=(
        "Rate .15 on the gradient of the sum over sentences, 5000 steps, then on to the gradient "
        "norm of L-BFGS (1e-7); both on the same tasks from the same starts."
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure, _described),
)
