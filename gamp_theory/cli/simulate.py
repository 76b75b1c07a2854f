"""``simulate``: training at finite d."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    Commands,
    add_alpha,
    add_command,
    add_model,
    build_model,
    integer,
)
from gamp_theory.cli.general import (
    add_general,
    add_general_start,
    build_general,
    general_record,
    overlap_norms,
    refuse_general_start,
)
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import number_cell, table
from gamp_theory.cli.threads import in_threads, single_blas_thread
from gamp_theory.records import model_record

if TYPE_CHECKING:
    from gamp_theory.token_model import GeneralModel

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"instances": [], "mean": {}, "stderr": {}}

OPTIMIZERS = ("lbfgs", "gd", "adam")
OVERLAPS, LOSSES = ("m", "theta", "q"), ("train_loss", "test_error")
MEASURED = (*OVERLAPS, *LOSSES)
BIASES = ("train_loss_bias", "test_error_bias")


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
    add_general(command, "trained by L-BFGS at finite dimension,")
    add_general_start(command)
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
    single_blas_thread()
    general = build_general(options)
    if general is not None:
        return _run_general(general, options)
    refuse_general_start(options.start)
    model = build_model(options)

    from gamp_theory.empirical.measure import test_error_bias, train_loss_bias
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
    for name in (*MEASURED, *BIASES):
        values = [abs(i[name]) if name in ("m", "theta") else i[name] for i in instances]
        mean[name], stderr[name] = _mean(values)
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


def _run_general(model: GeneralModel, options: argparse.Namespace) -> Answer:
    """The same for a general model; `norms` are means of :func:`overlap_norms`."""
    if options.optimizer != "lbfgs":
        raise BadInput(
            f"--optimizer {options.optimizer} is for the two-token model: a general one is trained "
            "by lbfgs"
        )
    import numpy as np

    from gamp_theory.empirical.token_task import draw_token_task, train_tokens

    def instance(number: int) -> dict[str, Any]:
        seed = (options.seed, number)
        task = draw_token_task(model, options.d, options.alpha, options.lam, seed)
        student = train_tokens(task, options.start)
        advance()
        return {
            "seed": list(seed),
            **{name: getattr(student, name).tolist() for name in OVERLAPS},
            "train_loss": student.train_loss,
            "train_loss_bias": student.train_loss_bias,
            "test_error": student.test_error,
            "test_error_stderr": student.test_error_stderr,
            "test_error_bias": student.test_error_bias,
            "iterations": student.iterations,
            "gradient_norm": student.gradient_norm,
            "status": str(student.status),
            "message": student.message,
        }

    with progress(options.instances, "instances") as advance:
        instances = in_threads(instance, range(options.instances), options.jobs)
    mean: dict[str, Any] = {}
    stderr: dict[str, Any] = {}
    for name in (*MEASURED, *BIASES):
        values = np.array([found[name] for found in instances])
        if name in ("m", "theta"):
            values = abs(values)
        entries = [_mean(column) for column in values.reshape(len(values), -1).T.tolist()]
        both = np.array(entries).T.reshape(2, *values.shape[1:])
        mean[name], stderr[name] = both[0].tolist(), both[1].tolist()
    norms = [overlap_norms({name: found[name] for name in OVERLAPS}) for found in instances]
    both_norms = {name: _mean([found[name] for found in norms]) for name in OVERLAPS}
    mean["norms"] = {name: value for name, (value, _) in both_norms.items()}
    stderr["norms"] = {name: error for name, (_, error) in both_norms.items()}
    n = round(options.alpha * options.d)
    document = {
        "d": options.d,
        "n": n,
        "alpha": n / options.d,
        **general_record(model, options.lam),
        "start": options.start,
        "optimizer": options.optimizer,
        "instances": instances,
        "mean": mean,
        "stderr": stderr,
    }
    converged = all(found["status"] == "converged" for found in instances)
    return Answer(document, _general_text(document), SUCCESS if converged else UNSETTLED)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; one instance has no error bar."""
    from gamp_theory.empirical.measure import mean_and_stderr

    return mean_and_stderr(values)[:2] if len(values) > 1 else (values[0], math.nan)


def _general_text(document: Mapping[str, Any]) -> str:
    """Norms of the overlaps, which have no gauge, and their means entry by entry."""
    rows = [["seed", "|m|", "|theta|", "tr q", *LOSSES, "iterations", "status"]]
    for instance in document["instances"]:
        norms = overlap_norms({name: instance[name] for name in OVERLAPS})
        numbers = [*norms.values(), *(instance[name] for name in LOSSES)]
        rows.append(["/".join(map(str, instance["seed"])), *(f"{x:.6g}" for x in numbers)])
        rows[-1] += [str(instance["iterations"]), instance["status"]]
    for name in ("mean", "stderr"):
        found = document[name]
        numbers = [*found["norms"].values(), *(found[loss] for loss in LOSSES)]
        rows.append([name, *(number_cell(x, 6 if name == "mean" else 2) for x in numbers), "", ""])
    mean, stderr = document["mean"], document["stderr"]
    return (
        f"{document['optimizer']} from the {document['start']} start: d = {document['d']}, "
        f"n = {document['n']}, alpha = {document['alpha']:g}, lam = {document['lam']:g}, "
        f"L = {document['tokens']}, r = {document['rank']}, t = {document['teacher_rank']}\n\n"
        f"{table(rows)}\n\nMeans token by token, over absolute values for m and theta:\n"
        + "".join(
            f"  {name} = {_rounded(mean[name], 5)} +- {_rounded(stderr[name], 2)}\n"
            for name in OVERLAPS
        )
        + f"Losses still contain their 1/d bias, about {mean['train_loss_bias']:.2g} "
        f"(train_loss) and {mean['test_error_bias']:.2g} (test_error)."
    )


def _rounded(value: Any, digits: int) -> str:
    """A number or nested lists of them, to so many digits."""
    if isinstance(value, list):
        return "[" + ", ".join(_rounded(x, digits) for x in value) + "]"
    return number_cell(value, digits)


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
