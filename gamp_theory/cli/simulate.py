"""``simulate``: training at finite d."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from typing import Any

from gamp_theory.cli.answer import SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    Commands,
    add_alpha,
    add_command,
    add_model,
    build_model,
    integer,
)
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import number_cell, table
from gamp_theory.cli.threads import in_threads
from gamp_theory.records import model_record

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"instances": [], "mean": {}, "stderr": {}}

OPTIMIZERS = ("lbfgs", "gd", "adam")
MEASURED = ("m", "theta", "q", "train_loss", "test_error")


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "simulate",
        "Train at finite dimension d. Independent instances of the task are drawn and the exact "
        "risk is minimised from one start; overlaps are signed, means of m and theta are over "
        "absolute values.",
    )
    command.add_argument(
        "--d",
        type=integer,
        default=1000,
        help="embedding dimension, at least 2 (default: %(default)s)",
    )
    add_alpha(command)
    add_model(command)
    command.add_argument(
        "--start",
        choices=("semantic", "positional", "random"),
        default="semantic",
        help="weights to start from: the teacher, the position vector, or random ones "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default="lbfgs",
        help="full-batch descent (gd: rate .15, 5000 steps) and Adam stop by their gradient too "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--instances",
        type=integer,
        default=8,
        metavar="N",
        help="independent tasks (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=integer,
        default=0,
        help="instance i is drawn from the seed (SEED, i) (default: %(default)s)",
    )
    command.add_argument(
        "--jobs",
        type=integer,
        default=2,
        metavar="N",
        help="instances at a time, which changes no number (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> Answer:
    """Draw and train the instances; mean and standard error over them."""
    for name, least in (("instances", 1), ("seed", 0), ("jobs", 1)):
        if getattr(options, name) < least:
            raise BadInput(f"{name} must be at least {least}, got {getattr(options, name)}")
    # Instances run side by side, where a BLAS with threads of its own only gets in their way:
    # measured 6 times slower on two busy cores.  It is read when NumPy is first imported, which
    # in this command is below; a value that the user has set is left alone.
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    model = build_model(options)

    from gamp_theory.empirical.measure import mean_and_stderr, test_error_bias, train_loss_bias
    from gamp_theory.empirical.task import draw_task
    from gamp_theory.empirical.training import train

    def instance(number: int) -> dict[str, Any]:
        seed = (options.seed, number)
        task = draw_task(model, options.d, options.alpha, options.lam, seed)
        student = train(task, options.start, options.optimizer)
        fresh = task.test_error(student.Q)
        advance()
        return {
            "seed": list(seed),
            "m": student.m,
            "theta": student.theta,
            "q": student.q,
            "train_loss": student.train_loss,
            "train_loss_bias": train_loss_bias(task.position_square(student.Q), task.alpha, task.d),
            "test_error": fresh.value,
            "test_error_stderr": fresh.stderr,
            "test_error_bias": test_error_bias(fresh.position_square, task.d),
            "iterations": student.iterations,
            "gradient_norm": student.gradient_norm,
            "status": str(student.status),
            "message": student.message,
        }

    with progress(options.instances, "instances") as advance:
        instances = in_threads(instance, range(options.instances), options.jobs)
    mean, stderr = {}, {}
    for name in (*MEASURED, "train_loss_bias", "test_error_bias"):
        values = [abs(i[name]) if name in ("m", "theta") else i[name] for i in instances]
        if len(values) > 1:
            mean[name], stderr[name], _ = mean_and_stderr(values)
        else:
            mean[name], stderr[name] = values[0], math.nan  # one instance has no error bar
    document = {
        "d": options.d,
        "n": round(options.alpha * options.d),
        "alpha": round(options.alpha * options.d) / options.d,
        **model_record(model, options.lam),
        "start": options.start,
        "optimizer": options.optimizer,
        "instances": instances,
        "mean": mean,
        "stderr": stderr,
    }
    converged = all(i["status"] == "converged" for i in instances)
    return Answer(document, _text(document), SUCCESS if converged else UNSETTLED)


def _text(document: Mapping[str, Any]) -> str:
    rows = [["seed", *MEASURED, "iterations", "status"]]
    rows += [
        [
            "/".join(map(str, instance["seed"])),
            *(f"{instance[name]:.6g}" for name in MEASURED),
            str(instance["iterations"]),
            instance["status"],
        ]
        for instance in document["instances"]
    ]
    for name in ("mean", "stderr"):
        values = (document[name][key] for key in MEASURED)
        rows.append([name, *(number_cell(value, 6 if name == "mean" else 2) for value in values)])
        rows[-1] += ["", ""]
    return (
        f"{document['optimizer']} from the {document['start']} start: d = {document['d']}, "
        f"n = {document['n']}, alpha = {document['alpha']:g}, omega = {document['omega']:g}, "
        f"sigma = {document['sigma']:g}, lam = {document['lam']:g}\n\n"
        f"{table(rows)}\n\n"
        "Means of m and theta are over absolute values. Losses still contain their 1/d bias, about "
        f"{document['mean']['train_loss_bias']:.2g} (train_loss) and "
        f"{document['mean']['test_error_bias']:.2g} (test_error)."
    )
