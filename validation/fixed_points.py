"""Three ways to one point: message passing, a minimiser, and state evolution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from gamp_theory.empirical.curvature import curvature
from gamp_theory.empirical.gamp import message_passing
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import train
from validation.minima import BROKEN, FAMILY
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

POINTS = [
    (2.0, 0.01, "semantic"),
    (1.5, 0.01, "semantic"),
    (1.0, 0.01, "semantic"),
    (1.5, 0.1, "positional"),
    (1.5, 0.01, "positional"),
]
QUICK_POINTS = [POINTS[0], POINTS[3]]
D, INSTANCES = 300, 10
QUICK_D, QUICK_INSTANCES = 300, 8
DAMPING, ITERATIONS = 0.5, 300
#: The named positional start is too small: around Q = 0 the response is negative.
M_START = 0.25


def cases(quick: bool) -> list[Case]:
    """Bias-free tasks: fixed points of message passing are exact critical points of their risk."""
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
            "damping": DAMPING,
            "lagging": True,
            "m_start": M_START,
            "iterations": ITERATIONS,
            "seed": [97, number, instance],
        }
        for (number, (alpha, lam, start)), instance in itertools.product(
            enumerate(points), range(instances)
        )
    ]


def measure(case: Case) -> Record:
    """Message passing, L-BFGS from the same start, and the Hessian at both."""
    task = draw_task(
        model_of(case), case["d"], case["alpha"], case["lam"], tuple(case["seed"]), bias_free=True
    )
    start = task.teacher if case["start"] == "semantic" else np.full(task.d, case["m_start"])
    messages = message_passing(
        task,
        start,
        damping=case["damping"],
        lagging=case["lagging"],
        max_iterations=case["iterations"],
    )
    student = train(task, start)
    at_messages, at_student = curvature(task, messages.Q), curvature(task, student.Q)
    gradient = task.risk_and_gradient(messages.Q)[1]
    distance = np.linalg.norm(messages.Q - student.Q) / np.linalg.norm(student.Q)
    return {
        "gamp": {
            "q": messages.q,
            "m": messages.m,
            "theta": messages.theta,
            "V": messages.V,
            "train_loss": task.risk(messages.Q) / task.d,
            "step": messages.step,
            "status": str(messages.status),
            "gradient_norm": float(abs(gradient).max()),
            "lowest": at_messages.lowest,
            "negative": at_messages.negative,
        },
        "lbfgs": {
            "q": student.q,
            "m": student.m,
            "theta": student.theta,
            "V": at_student.response,
            "train_loss": student.train_loss,
            "status": str(student.status),
            "lowest": at_student.lowest,
            "negative": at_student.negative,
        },
        "distance": float(distance),
    }


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Overlaps, V and loss of either against the theory; minima or saddles."""
    rows: list[Row] = []
    problems: list[str] = []
    lines = []
    for case, found in groups(cases, records, ("alpha", "lam", "start")):
        series = f"{case['start']}, lam = {case['lam']:g}, d = {case['d']}"
        point = fixed_point(case, problems)
        if point is None or point.stability is None:
            continue
        judged = judged_at(point)
        for way, text in (("gamp", "message passing"), ("lbfgs", "L-BFGS")):
            place = Place(f"{series}, {text}", "alpha", case["alpha"])
            converged = sum(r[way]["status"] == "converged" for r in found)
            saddles = sum(r[way]["negative"] > 0 for r in found)
            lowest = sorted(r[way]["lowest"] / case["lam"] for r in found)
            lines.append(
                (
                    str(place),
                    f"{point.stability.jump_mass:.2g}",
                    f"{converged} of {len(found)}",
                    f"{saddles} of {len(found)}",
                    f"{lowest[0]:.3g} to {lowest[-1]:.3g}",
                    f"{np.median([r['distance'] for r in found]):.1g}",
                )
            )
            if way == "lbfgs" and (saddles or converged < len(found)):
                problems.append(
                    f"{place}: {saddles} saddles, {converged} of {len(found)} converged"
                )
            for name in (BROKEN[case["start"]], "q", "V", "train_loss"):
                expected = getattr(point if name == "train_loss" else point.overlaps, name)
                values = [r[way][name] for r in found if np.isfinite(r[way][name])]
                rows.append(
                    row(place, name, (expected, getattr(point.errors, name)), values, judged)
                )
    head = (
        "where",
        "jump mass",
        "converged",
        "saddles",
        "lowest eigenvalue / lam",
        "median distance of the two",
    )
    return Verdict(rows, problems, [], [Table("What kind of points they are", head, lines)])


STUDY = Study(
    name="fixed_points",
    title="Message passing, L-BFGS and state evolution: three ways",
    text=(
        "Bias-free tasks, both from the same start (Q = Q*, or m = .25); message passing with "
        "damping 1/2, its Onsager term lagging as Q does, for at most 300 iterations. V is that of "
        "message passing, and (sigma^2/d) tr H^-1 at the minimum. The lowest eigenvalue of the "
        "Hessian tells minimum from saddle; distances are relative to |Q|."
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure,),
)
