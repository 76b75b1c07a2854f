"""From alpha = 2 down to where replica symmetry is badly broken; the alphas of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gamp_theory.empirical.measure import mean_and_stderr
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import train
from validation.branches import branch_rows
from validation.minima import BROKEN, FAMILY, SOURCES, minimum
from validation.study import Case, Place, Record, Study, Table, Verdict, groups, model_of

__all__ = ["STUDY"]

#: 25 values from .01 to 2, as in the descents that the paper reports.
ALPHAS = tuple(float(round(x, 9)) for x in np.linspace(0.01, 2, 25))
QUICK_ALPHAS = (1.5025,)
D, INSTANCES = 1000, 8
QUICK_D, QUICK_INSTANCES = 400, 10
#: Where there are many minima it matters how one descends: some alphas with the published steps.
DESCENTS, DESCENT_INSTANCES, DESCENT_STEPS = (1, 2, 4), 3, 5000


def cases(quick: bool) -> list[Case]:
    """Independent tasks at each alpha and start."""
    alphas, d, instances = (
        (QUICK_ALPHAS, QUICK_D, QUICK_INSTANCES) if quick else (ALPHAS, D, INSTANCES)
    )
    starts = list(BROKEN)[: 1 if quick else None]
    points = [(alpha, start) for start in starts for alpha in alphas]
    lbfgs = [
        {
            **FAMILY,
            "d": d,
            "alpha": alpha,
            "lam": 0.01,
            "start": start,
            "bias_free": False,
            "hessian": False,
            "seed": [101, number, instance],
        }
        for number, (alpha, start) in enumerate(points)
        for instance in range(instances)
    ]
    if quick:
        return lbfgs
    return lbfgs + [
        {
            **FAMILY,
            "d": d,
            "alpha": ALPHAS[number],
            "lam": 0.01,
            "start": "semantic",
            "steps": DESCENT_STEPS,
            "seed": [107, number, instance],
        }
        for number in DESCENTS
        for instance in range(DESCENT_INSTANCES)
    ]


def measure(case: Case) -> Record:
    """A student of L-BFGS, or of so many steps of descent at the published rate."""
    if "steps" not in case:
        return minimum(case)
    task = draw_task(model_of(case), case["d"], case["alpha"], case["lam"], tuple(case["seed"]))
    student = train(task, case["start"], "gd", max_iterations=case["steps"])
    return {
        "q": student.q,
        "m": student.m,
        "theta": student.theta,
        "train_loss": student.train_loss,
        "gradient_norm": student.gradient_norm,
        "status": str(student.status),
    }


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Rows where the theory has the branch; deviations beside jump mass and replicon."""
    rows, lines, notes = [], [], []
    problems: list[str] = []
    pairs = list(zip(cases, records, strict=True))
    descents = {
        case["alpha"]: mean_and_stderr(r["theta"] for r in found)
        for case, found in groups(*_split(pairs, True), ("alpha",))
    }
    for case, found in groups(*_split(pairs, False), ("start", "alpha")):
        place = Place(f"{case['start']}, d = {case['d']}", "alpha", case["alpha"])
        failed: list[str] = []
        here, point = branch_rows(case, found, place, failed)
        if point is None and case["alpha"] < 1:
            notes += failed  # far inside the broken phase: said, and no more is asked of the theory
        else:
            problems += failed
        rows += here
        broken = BROKEN[case["start"]]
        sample = mean_and_stderr(r[broken] for r in found)
        theory, deviation, mass, kappa = "none", "", "", ""
        if point is not None and point.overlaps is not None and point.stability is not None:
            theory = f"{getattr(point.overlaps, broken):.5f}"
            if point.branch != case["start"]:
                theory += f" ({point.branch})"
            z = (sample.mean - getattr(point.overlaps, broken)) / sample.stderr
            deviation = f"{z:+.1f}"
            mass, kappa = f"{point.stability.jump_mass:.2g}", f"{point.stability.replicon:.3f}"
        lines.append(
            (
                str(place),
                broken,
                theory,
                f"{sample.mean:.5f}({sample.stderr:.5f})",
                "{0.mean:.5f}({0.stderr:.5f})".format(descents[case["alpha"]])
                if case["start"] == "semantic" and case["alpha"] in descents
                else "",
                deviation,
                mass,
                kappa,
            )
        )
    head = ("where", "overlap", "theory", "L-BFGS", "descent", "z", "jump mass", "replicon")
    tables = [Table("Deviation beside jump mass and replicon", head, lines)]
    return Verdict(rows, problems, notes, tables)


def _split(pairs: Sequence[tuple[Case, Record]], descent: bool) -> tuple[list[Case], list[Record]]:
    chosen = [pair for pair in pairs if ("steps" in pair[0]) is descent]
    return [case for case, _ in chosen], [record for _, record in chosen]


STUDY = Study(
    name="small_alpha",
    title="Down to small alpha",
    text=(
        "L-BFGS from both informed starts at the alphas of the paper's descents, d = 1000; at "
        "some small alphas also 5000 steps of descent at the published rate. "
        "`python -m validation.published FILE` holds the same students against published means."
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure, *SOURCES),
)
