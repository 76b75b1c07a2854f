"""The lowest minimum of a branch, sought by many restarts, against the theory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from gamp_theory.empirical.measure import mean_and_stderr, train_loss_bias
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import TrainingResult, train
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

__all__ = ["STUDY"]

POINTS = [(1.25, "positional"), (2.0, "positional"), (1.5, "semantic"), (1.0, "positional")]
QUICK_POINTS = POINTS[2:3]
SIZES = {250: 12, 500: 12, 1000: 6}
QUICK_SIZES = {250: 8}
RESTARTS, QUICK_RESTARTS = 24, 4
#: Sizes of the kicks, in units of the student's root mean square weight, in turn.  From smaller
#: ones it falls back (18 of 18 times from 1, d = 500), from larger ones it ends far above.
KICKS = [1.0, 1.5, 2.0, 3.0]
#: Losses that differ by less, relatively, are of one minimum.
SAME_LOSS = 1e-6


def cases(quick: bool) -> list[Case]:
    """Independent tasks at each point."""
    points, sizes, restarts = (
        (QUICK_POINTS, QUICK_SIZES, QUICK_RESTARTS) if quick else (POINTS, SIZES, RESTARTS)
    )
    return [
        {
            **FAMILY,
            "d": d,
            "alpha": alpha,
            "lam": 0.01,
            "start": start,
            "restarts": restarts,
            "kicks": KICKS,
            "same_loss": SAME_LOSS,
            "seed": [79, number, d, instance],
        }
        for (number, (alpha, start)), d in itertools.product(enumerate(points), sizes)
        for instance in range(sizes[d])
    ]


def measure(case: Case) -> Record:
    """The minimum of the named start, and the lowest that kicks from the lowest so far find.

    Kicks that lead off the branch of the start do not count.
    """
    task = draw_task(model_of(case), case["d"], case["alpha"], case["lam"], tuple(case["seed"]))
    rng = np.random.default_rng([83, *case["seed"]])
    first = best = train(task, case["start"])
    losses, left = [first.train_loss], 0
    for number in range(case["restarts"]):
        size = case["kicks"][number % len(case["kicks"])] * np.sqrt(np.mean(best.Q**2))
        found = train(task, best.Q + size * rng.standard_normal(task.d))
        here = {"q": found.q, "m": found.m, "theta": found.theta}
        if branch_reached(here, case["sigma"]) != case["start"] or found.status != first.status:
            left += 1
            continue
        losses.append(found.train_loss)
        if found.train_loss < best.train_loss:
            best = found

    def described(student: TrainingResult) -> Record:
        bias = train_loss_bias(task.position_square(student.Q), task.alpha, task.d)
        return {
            "q": student.q,
            "m": student.m,
            "theta": student.theta,
            "train_loss": student.train_loss - bias,
        }

    ordered = np.sort(losses)
    return {
        "first": described(first),
        "best": described(best),
        "minima": 1 + int(np.sum(np.diff(ordered) > case["same_loss"] * ordered[1:])),
        "left": left,
        "status": str(first.status),
    }


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Both minima against the theory, and how many there are."""
    rows: list[Row] = []
    problems: list[str] = []
    lines = []
    for case, found in groups(cases, records, ("alpha", "start", "d")):
        series = f"{case['start']}, alpha = {case['alpha']:g}"
        problems += unfinished(found, f"{series}, d = {case['d']}")
        point = fixed_point(case, problems)
        if point is None or point.stability is None:
            continue
        expected = theory(point)
        for kind, text in (("first", "first minimum"), ("best", "lowest minimum")):
            place = Place(f"{series}, {text}", "d", case["d"])
            for name in (BROKEN[case["start"]], "q", "train_loss"):
                values = [abs(r[kind][name]) for r in found]
                rows.append(row(place, name, expected[name], values, judged_at(point)))
        drop = mean_and_stderr(
            1 - r["best"]["train_loss"] / r["first"]["train_loss"] for r in found
        )
        change = mean_and_stderr(r["best"]["q"] / r["first"]["q"] - 1 for r in found)
        lowered = sum(
            r["best"]["train_loss"] < (1 - case["same_loss"]) * r["first"]["train_loss"]
            for r in found
        )
        lines.append(
            (
                f"{series}, d = {case['d']}",
                f"{point.stability.jump_mass:.2g}",
                f"{np.mean([r['minima'] for r in found]):.1f} of {case['restarts'] + 1}",
                f"{np.mean([r['left'] for r in found]):.1f}",
                f"{lowered} of {len(found)}",
                f"{100 * drop.mean:.3f}({100 * drop.stderr:.3f})",
                f"{100 * change.mean:+.2f}({100 * change.stderr:.2f})",
            )
        )
    head = (
        "where",
        "jump mass",
        "different minima",
        "left the branch",
        "a lower one found",
        "loss lower by per cent",
        "q changes by per cent",
    )
    return Verdict(rows, problems, [], [Table("What restarts find", head, lines)])


STUDY = Study(
    name="restarts",
    title="The lowest minimum of a branch",
    text=(
        "The minimum that the named start finds is kicked and minimised again, and again from "
        "the lowest one so far, staying on its branch: is there a lower one, and does it agree "
        "better?"
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure, branch_reached),
)
