"""Students of rank two on a teacher of rank one, from random starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gamp_theory import ConvergenceError, GeneralModel, JointLaw, solve
from gamp_theory.empirical.measure import mean_and_stderr
from gamp_theory.empirical.token_task import TokenTask, draw_token_task, train_tokens
from gamp_theory.mechanisms import DEFAULT_A
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax
from validation.study import (
    CLEAR_JUMP_MASS,
    Case,
    Place,
    Record,
    Row,
    Study,
    Table,
    Verdict,
    groups,
    row,
)

__all__ = ["ALPHAS", "STUDY", "model"]

OMEGA, SIGMA, LAM = 0.3, 0.5, 0.01
ALPHAS = (1.005, 1.5, 2.0, 3.0, 4.0)
D, INSTANCES = 1000, 10
QUICK_ALPHAS, QUICK_D, QUICK_INSTANCES = (2.0,), 200, 4
#: Students of descent from random starts, at each number of steps; each takes a minute or more.
#: The published descents have 5000 steps.  The shorter ones show how far from its end one is.
DESCENT_ALPHAS, DESCENTS = (1.005, 2.0, 4.0), 6
DESCENT_STEPS, RATE = (1000, 2000, 5000), 0.15
GRADIENT_TOL = 1e-6
QUANTITIES = ("q", "m", "theta", "train_loss", "test_error")


def model() -> GeneralModel:
    """The worked case with a student of two columns."""
    law = JointLaw.isotropic(SIGMA, [[1.0], [-1.0]])
    return GeneralModel(FixedMixture(OMEGA, DEFAULT_A), RowSoftmax(), law, rank=2)


def cases(quick: bool) -> list[Case]:
    """L-BFGS on tasks with the 1/d bias, as published, and without it, as the theory; descent."""
    alphas, d, instances = (
        (QUICK_ALPHAS, QUICK_D, QUICK_INSTANCES) if quick else (ALPHAS, D, INSTANCES)
    )
    plan = [(alpha, d, free, 0, instances) for alpha in alphas for free in (False, True)]
    if not quick:
        plan += [
            (alpha, D, False, steps, DESCENTS)
            for alpha in DESCENT_ALPHAS
            for steps in DESCENT_STEPS
        ]
    return [
        {
            "omega": OMEGA,
            "sigma": SIGMA,
            "lam": LAM,
            "d": d,
            "alpha": alpha,
            "bias_free": free,
            "steps": steps,
            "seed": [113, ALPHAS.index(alpha), int(free), instance],
        }
        for alpha, d, free, steps, count in plan
        for instance in range(count)
    ]


def measure(case: Case) -> Record:
    """Where a random start ends; norms of the overlaps, which do not depend on the gauge."""
    task = draw_token_task(
        model(),
        case["d"],
        case["alpha"],
        case["lam"],
        tuple(case["seed"]),
        bias_free=case["bias_free"],
    )
    samples = 5 * case["d"]
    if case["steps"]:
        Q = descend(task, case["steps"])
        risk, gradient = task.risk_and_gradient(Q)
        q, m, theta = task.overlaps(Q)
        loss, error = risk / task.d, task.test_error(Q, samples)
        norm, status = float(np.max(abs(gradient))), "step_limit"
    else:
        student = train_tokens(task, "random", gradient_tol=GRADIENT_TOL, test_samples=samples)
        q, m, theta = student.q, student.m, student.theta
        loss, error, norm = student.train_loss, student.test_error, student.gradient_norm
        status = "converged" if norm <= 10 * GRADIENT_TOL else "iteration_limit"
    return {
        "q": float(np.trace(q, axis1=1, axis2=2).mean()),
        "m": math.sqrt(float((m**2).sum()) / len(m)),
        "theta": math.sqrt(float((theta**2).sum()) / len(theta)),
        "train_loss": loss,
        "test_error": error,
        "gradient_norm": norm,
        "status": status,
    }


def descend(task: TokenTask, steps: int) -> np.ndarray:
    """Full-batch gradient descent from the random start of the task."""
    Q = task.start("random")
    for _ in range(steps):
        Q = Q - RATE * task.risk_and_gradient(Q)[1]
    return Q


def judge(cases: Sequence[Case], records: Sequence[Record]) -> Verdict:
    """Minima of bias-free tasks against the general theory; what descent has reached is shown."""
    rows, problems, lines = [], [], []
    for case, found in groups(cases, records, ("alpha", "bias_free", "steps")):
        if case["steps"]:
            how = f"{case['steps']} steps of descent"
        else:
            how = "minima, bias-free" if case["bias_free"] else "minima"
            unfinished = [r for r in found if r["status"] != "converged"]
            if unfinished:
                problems.append(f"alpha = {case['alpha']:g}: {len(unfinished)} are no minima")
        samples = [mean_and_stderr(r[name] for r in found) for name in QUANTITIES]
        lines.append(
            (how, f"{case['alpha']:g}", *(f"{x.mean:.5g}({x.stderr:.1g})" for x in samples))
        )
        if case["bias_free"]:
            rows += _rows(case, found, problems)
    head = ("students", "alpha", *QUANTITIES)
    return Verdict(rows, problems, [], [Table("Means and standard errors", head, lines)])


def _rows(case: Case, found: Sequence[Record], problems: list[str]) -> list[Row]:
    """Losses of minima beside those of the mixed branch."""
    try:
        point = solve(model(), case["alpha"], case["lam"], start="mixed")
    except ConvergenceError as error:
        problems.append(f"alpha = {case['alpha']:g}: no fixed point: {error}")
        return []
    assert point.stability is not None  # which a solve that has converged comes with
    mass = point.stability.jump_mass - 2 * point.stability.jump_mass_error
    judged = mass <= CLEAR_JUMP_MASS and point.stability.replicon < 1
    place = Place(f"random starts, d = {case['d']}", "alpha", case["alpha"])
    expected = {
        "train_loss": (point.train_loss, point.errors.train_loss),
        "test_error": (point.test_error, point.errors.test_error),
    }
    return [row(place, name, expected[name], [r[name] for r in found], judged) for name in expected]


STUDY = Study(
    name="rank_two",
    title="Students of rank two",
    text="From random starts at d = 1000 against the general theory, omega = .3.",
    cases=cases,
    measure=measure,
    judge=judge,
    sources=(measure, descend, model),
)
