"""Undamped message passing, iterate by iterate, against the dynamics of state evolution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from gamp_theory.empirical.gamp import message_passing
from gamp_theory.empirical.task import draw_task
from gamp_theory.overlaps import Overlaps
from gamp_theory.trajectory import trajectory
from validation.minima import BROKEN, FAMILY
from validation.study import (
    Case,
    Place,
    Record,
    Study,
    Verdict,
    fixed_point,
    groups,
    model_of,
    row,
)

__all__ = ["STUDY"]

#: alpha, lam, start, V at the start; a positional one has m = .25 and nothing else.
POINTS = [
    (2.0, 0.01, "semantic", 12.0),
    (1.5, 0.01, "semantic", 15.0),
    (1.5, 0.1, "positional", 3.0),
]
M_START = 0.25
D, INSTANCES, ITERATIONS = 4000, 10, 10
QUICK_D, QUICK_INSTANCES, QUICK_ITERATIONS = 500, 8, 4
#: Iterations that are judged where the noise of finite d grows from one to the next.
UNSTABLE = 3
#: How a run that could not go on has ended.
ENDED = ("left_domain", "non_finite")
#: Accuracies of a map of state evolution; what the iterates differ by is their error bar.
TOLERANCES = (1e-5, 1e-6)


def cases(quick: bool) -> list[Case]:
    """Bias-free tasks: there the start has the overlaps of the limit exactly."""
    points, d, instances, iterations = (
        ([POINTS[0], POINTS[2]], QUICK_D, QUICK_INSTANCES, QUICK_ITERATIONS)
        if quick
        else (POINTS, D, INSTANCES, ITERATIONS)
    )
    return [
        {
            **FAMILY,
            "d": d,
            "alpha": alpha,
            "lam": lam,
            "start": start,
            "V": V,
            "m_start": M_START,
            "iterations": iterations,
            "seed": [53, number, instance],
        }
        for (number, (alpha, lam, start, V)), instance in itertools.product(
            enumerate(points), range(instances)
        )
    ]


def measure(case: Case) -> Record:
    """Overlaps of every iterate of one task."""
    task = draw_task(
        model_of(case), case["d"], case["alpha"], case["lam"], tuple(case["seed"]), bias_free=True
    )
    start = "semantic" if case["start"] == "semantic" else np.full(case["d"], case["m_start"])
    found = message_passing(task, start, case["V"], max_iterations=case["iterations"])
    record: Record = {
        name: getattr(found.trajectory, name).tolist() for name in ("q", "m", "theta", "V")
    }
    return record | {"status": str(found.status)}


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """All iterations where the fixed point attracts in all directions, else the first three."""
    rows, problems, notes = [], [], []
    for case, found in groups(cases, records, ("alpha", "lam", "start")):
        where = (
            f"{case['start']}, alpha = {case['alpha']:g}, lam = {case['lam']:g}, d = {case['d']}"
        )
        point = fixed_point(case, problems)
        if point is None:
            continue
        radius = max(
            point.stability.spectral_radius,
            *(abs(x) for x in point.stability.transverse.values() if x is not None),
        )
        iterations = case["iterations"]
        trusted = iterations if radius < 1 else min(UNSTABLE, iterations)
        # The last entry of a run that left the domain is no state.
        reached = min(len(r["q"]) - 1 - (r["status"] in ENDED) for r in found)
        if reached < trusted:
            problems.append(f"{where}: not all instances reach iteration {trusted}")
            continue
        rho = point.model.rho
        start = (
            Overlaps(q=rho, m=0.0, V=case["V"], theta=rho)
            if case["start"] == "semantic"
            else Overlaps(q=rho * M_START**2, m=M_START, V=case["V"], theta=0.0)
        )
        try:
            coarse, states = (
                trajectory(point.model, case["alpha"], case["lam"], start, iterations, tol)
                for tol in TOLERANCES
            )
        except ValueError as error:  # a map that leaves the domain of the overlaps
            problems.append(f"{where}: state evolution: {error}")
            continue
        if min(len(coarse), len(states)) <= iterations:
            problems.append(f"{where}: state evolution leaves its domain at {len(states)}")
            continue
        for k, name in itertools.product(range(1, reached + 1), ("q", "V", BROKEN[case["start"]])):
            value = getattr(states[k], name)
            error = abs(value - getattr(coarse[k], name)) + TOLERANCES[1] * abs(value)
            values = [r[name][k] for r in found]
            place = Place(where, "iteration", k)
            rows.append(row(place, name, (value, error), values, k <= trusted))
        notes.append(
            f"{where}: largest eigenvalue, transverse directions included, {radius:.3g}: "
            f"{trusted} iterations are judged; all instances reach {reached} of {iterations}"
        )
    return Verdict(rows, problems, notes)


STUDY = Study(
    name="dynamics",
    title="Message passing against state evolution, iterate by iterate",
    text=(
        "Undamped, from the same overlaps and V with g = 0, semantic Q = Q* included; the "
        "Onsager term in Stein's form, which counts jumps. Bias-free tasks. Where an eigenvalue "
        "of the map, transverse directions included, is outside the unit circle, the noise of "
        "finite d grows with the iterations, and only the first three are judged."
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure,),
)
