"""alpha_c from simulation: where the two informed minima of one task exchange."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gamp_theory import find_transition
from gamp_theory.empirical.measure import train_loss_bias
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import train
from validation.minima import BROKEN, FAMILY, unfinished
from validation.study import (
    Case,
    Place,
    Record,
    Row,
    Study,
    Verdict,
    fixed_point,
    groups,
    model_of,
    row,
)

__all__ = ["STUDY", "crossing"]

ALPHAS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
SIZES = {500: 24, 1000: 12, 2000: 4}
QUICK_ALPHAS = (1.0, 1.2, 1.4)
QUICK_SIZES = {300: 16}
#: Accuracy of the theory's alpha_c: far below that of any simulation.
TRANSITION_TOL = 1e-5
#: Degree of the polynomial through the loss differences.
DEGREE, QUICK_DEGREE = 2, 1


def cases(quick: bool) -> list[Case]:
    """Independent tasks at every alpha; both starts meet the same task."""
    alphas, sizes = (QUICK_ALPHAS, QUICK_SIZES) if quick else (ALPHAS, SIZES)
    return [
        {**FAMILY, "d": d, "alpha": alpha, "lam": 0.01, "seed": [71, number, d, instance]}
        for d, count in sizes.items()
        for number, alpha in enumerate(alphas)
        for instance in range(count)
    ]


def measure(case: Case) -> Record:
    """Training losses of both minima of one task, their 1/d bias beside them."""
    task = draw_task(model_of(case), case["d"], case["alpha"], case["lam"], tuple(case["seed"]))
    record: Record = {"status": "converged"}
    for start in BROKEN:
        student = train(task, start)
        if str(student.status) != "converged":
            record["status"] = str(student.status)
        record[start] = student.train_loss
        record[f"{start}_bias"] = train_loss_bias(
            task.position_square(student.Q), task.alpha, task.d
        )
    return record


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """The zero of the difference of losses, at every d; all sizes together are judged."""
    rows: list[Row] = []
    problems: list[str] = []
    notes: list[str] = []
    crossings: list[tuple[float, float]] = []
    total = 0
    model = model_of(cases[0])
    alphas = sorted({case["alpha"] for case in cases})
    theory = find_transition(
        model, "alpha_c", (alphas[0], alphas[-1]), cases[0]["lam"], TRANSITION_TOL
    )
    largest = max(case["d"] for case in cases)
    by_size: dict[int, list[tuple[Case, list[Record]]]] = {}
    for case, found in groups(cases, records, ("d", "alpha")):
        by_size.setdefault(case["d"], []).append((case, found))
        problems += unfinished(found, f"d = {case['d']}, alpha = {case['alpha']:g}")
    points = {
        (start, case["alpha"]): fixed_point({**case, "start": start}, problems)
        for case, _ in by_size[largest]
        for start in BROKEN
    }
    for d, here in by_size.items():
        means, squares, counts = [], [], []
        for case, found in here:
            differences = [difference(record) for record in found]
            means.append(float(np.mean(differences)))
            squares.append(float(np.sum((np.array(differences) - means[-1]) ** 2)))
            counts.append(len(differences))
            pair = [points[start, case["alpha"]] for start in BROKEN]
            if pair[0] is not None and pair[1] is not None:
                value = pair[0].train_loss - pair[1].train_loss
                error = math.hypot(pair[0].errors.train_loss, pair[1].errors.train_loss)
                place = Place(f"semantic - positional, d = {d}", "alpha", case["alpha"])
                rows.append(row(place, "loss difference", (value, error), differences, False))
        # One spread for all alphas: that of a few instances is hardly known.
        freedom = sum(counts) - len(counts)
        errors = np.sqrt(sum(squares) / freedom / np.array(counts))
        degree = QUICK_DEGREE if len(alphas) < len(ALPHAS) else DEGREE
        value, error = crossing(np.array(alphas), np.array(means), errors, degree)
        crossings.append((value, error))
        place = Place("semantic = positional", "d", d)
        rows.append(
            Row(place, "alpha_c", theory.value, theory.error, value, error, freedom + 1, False)
        )
        total += freedom
    values, weights = np.array([x[0] for x in crossings]), np.array([x[1] for x in crossings]) ** -2
    together = float(weights @ values / weights.sum())
    scatter = float(weights @ (values - together) ** 2)
    rows.append(
        Row(
            Place("semantic = positional, all sizes", "d", math.inf),
            "alpha_c",
            theory.value,
            theory.error,
            together,
            float(weights.sum() ** -0.5),
            total + 1,
            True,
        )
    )
    notes.append(
        f"the sizes agree with one another: chi^2 = {scatter:.2f}, {len(crossings) - 1} degrees of "
        "freedom"
    )
    return Verdict(rows, problems, notes)


def difference(record: Record) -> float:
    """Semantic loss less positional loss, without their bias."""
    semantic, positional = (record[start] - record[f"{start}_bias"] for start in BROKEN)
    return semantic - positional


def crossing(
    alphas: NDArray[np.float64],
    means: NDArray[np.float64],
    errors: NDArray[np.float64],
    degree: int,
) -> tuple[float, float]:
    """Zero of a polynomial fitted to means with these errors, inside `alphas`, and its error.

    NaN if there is none or more than one.
    """
    centre = alphas.mean()
    coefficients, covariance = np.polyfit(
        alphas - centre, means, degree, w=1 / errors, cov="unscaled"
    )
    roots = np.roots(coefficients)
    roots = roots[np.isreal(roots)].real
    roots = roots[(roots >= alphas.min() - centre) & (roots <= alphas.max() - centre)]
    if roots.size != 1:
        return math.nan, math.nan
    powers = roots[0] ** np.arange(degree, -1, -1)
    slope = np.polyval(np.polyder(coefficients), roots[0])
    return float(roots[0] + centre), float(np.sqrt(powers @ covariance @ powers) / abs(slope))


STUDY = Study(
    name="crossing",
    title="alpha_c from simulation",
    text=(
        "Both informed minima of the same tasks. Their losses exchange at alpha_c: the zero of a "
        "parabola (a line with `--quick`) through the mean differences, without the 1/d bias of "
        "either. Around alpha_c the positional minimum has a jump mass of .05, so this also asks "
        "whether its loss, which is stationary, suffers less from broken replica symmetry than "
        "its overlaps."
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure,),
)
