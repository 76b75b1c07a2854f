"""One trained student at finite d: the instance that most studies are made of."""

from __future__ import annotations

import numpy as np

from gamp_theory import FixedPoint
from gamp_theory.empirical.curvature import curvature
from gamp_theory.empirical.measure import test_error_bias, train_loss_bias
from gamp_theory.empirical.task import Task, draw_task
from gamp_theory.empirical.training import train
from validation.study import Case, Record, model_of

__all__ = ["BROKEN", "FAMILY", "SOURCES", "minimum", "theory", "unfinished"]

#: The worked case of docs/theory.md.
FAMILY = {"omega": 0.3, "sigma": 0.5}
#: The overlap that a start breaks; its sign is that of the start.
BROKEN = {"semantic": "theta", "positional": "m"}


def minimum(case: Case) -> Record:
    """Draw the task of a case, minimise its risk with L-BFGS, and measure what is there."""
    task = draw_task(
        model_of(case),
        case["d"],
        case["alpha"],
        case["lam"],
        tuple(case["seed"]),
        bias_free=case["bias_free"],
    )
    student = train(task, case["start"])
    fresh = task.test_error(student.Q, samples=5 * case["d"])
    record = {
        "q": student.q,
        "m": student.m,
        "theta": student.theta,
        "train_loss": student.train_loss,
        "train_loss_bias": train_loss_bias(task.position_square(student.Q), task.alpha, task.d),
        "test_error": fresh.value,
        "test_error_bias": test_error_bias(fresh.position_square, task.d),
        "linear_error": _linear_error(task),
        "iterations": student.iterations,
        "gradient_norm": student.gradient_norm,
        "status": str(student.status),
    }
    if case["hessian"]:
        bent = curvature(task, student.Q)
        record |= {"V": bent.response, "lowest": bent.lowest, "negative": bent.negative}
    return record


def theory(point: FixedPoint) -> dict[str, tuple[float, float]]:
    """Value and error bar of everything that an instance measures."""
    broken = BROKEN[point.start]
    x, e = point.overlaps, point.errors
    assert x is not None  # a converged point has its overlaps
    values = {name: (getattr(x, name), getattr(e, name)) for name in ("q", "V", broken)}
    values["train_loss"] = (point.train_loss, e.train_loss)
    values["train_loss_variational"] = (point.train_loss_variational, e.train_loss_variational)
    values["test_error"] = (point.test_error, e.test_error)
    values["linear_error"] = (point.linear_error, 0.0)
    return values


def unfinished(records: list[Record], where: str) -> list[str]:
    """A problem for instances that are no minimum."""
    bad = [r["status"] for r in records if r["status"] != "converged"]
    if not bad:
        return []
    return [f"{where}: {len(bad)} of {len(records)} instances did not converge ({bad[0]})"]


def _linear_error(task: Task) -> float:
    """Error of the mean attention of the target, over the training sentences."""
    T = task.model.target.matrix(task.teacher_fields[..., None])
    spread = np.var(T, axis=0, ddof=1).sum()
    return float(task.model.rho * spread / T.shape[1])


#: What the instances of :func:`minimum` depend on, for their records.
SOURCES = (minimum, _linear_error)
