"""``gamp``: message passing at finite d, beside the state evolution that describes it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    Commands,
    add_alpha,
    add_command,
    add_model,
    build_model,
    integer,
    number,
)
from gamp_theory.cli.general import (
    add_general,
    add_general_start,
    build_general,
    general_record,
    overlap_norms,
    refuse_general_start,
)
from gamp_theory.cli.text import number_cell, table
from gamp_theory.records import model_record

if TYPE_CHECKING:
    from gamp_theory.empirical.gamp import GampResult
    from gamp_theory.token_model import GeneralModel

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"trajectory": [], "state_evolution": []}

OVERLAPS = ("m", "theta", "q", "V")
ONSAGER = ("stein", "pointwise")
LAST_SHOWN = 12  # iterations in the text; the document has all


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "gamp",
        "Run message passing on one task of finite dimension d, and state evolution from the same "
        "overlaps beside it. State evolution describes the undamped iteration; with damping, "
        "which serves to reach fixed points, there is nothing to compare.",
    )
    command.add_argument(
        "--d",
        type=integer,
        default=2000,
        help="embedding dimension, at least 2 (default: %(default)s)",
    )
    add_alpha(command)
    add_model(command)
    add_general(command, "that of message passing and state evolution,")
    add_general_start(command)
    command.add_argument(
        "--iterations",
        type=integer,
        default=10,
        metavar="N",
        help="bound on the iterations (default: %(default)s)",
    )
    command.add_argument(
        "--damping",
        type=number,
        default=0.0,
        help="part of the old messages that is kept, in [0, 1), by the Onsager term as well "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--onsager",
        choices=ONSAGER,
        default="stein",
        help="response of the prox: by parts, which counts its jumps, or by derivatives where it "
        "stands (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=integer,
        default=0,
        help="the task is drawn from the seed (SEED, 0), as the first one of simulate (default: "
        "%(default)s)",
    )


def run(options: argparse.Namespace) -> Answer:
    """Message passing on one task, and state evolution from the overlaps of its start."""
    if options.seed < 0:
        raise BadInput(f"seed must be at least 0, got {options.seed}")
    if options.iterations < 1:
        raise BadInput(f"iterations must be at least 1, got {options.iterations}")
    if not 0 <= options.damping < 1:  # before the task is drawn
        raise BadInput(f"damping must be in [0, 1), got {options.damping}")
    general = build_general(options)
    if general is not None:
        return _run_general(general, options)
    refuse_general_start(options.start)
    model = build_model(options)

    from gamp_theory.empirical.gamp import message_passing
    from gamp_theory.empirical.task import draw_task
    from gamp_theory.overlaps import Overlaps
    from gamp_theory.trajectory import trajectory

    task = draw_task(model, options.d, options.alpha, options.lam, (options.seed, 0))
    result = message_passing(task, options.start, **_settings(options))
    found = result.trajectory
    iterates = [
        {
            "iteration": i,
            **{name: float(getattr(found, name)[i]) for name in OVERLAPS},
            "step": float(found.step[i]),
        }
        for i in range(len(found.q))
    ]
    theory: list[dict[str, Any]] = []
    if options.damping == 0:
        first = iterates[0]
        # the teacher's length fluctuates: at Q = Q* theta**2 = rho q holds for its mean only
        edge = math.sqrt(model.rho * first["q"])
        theta = math.copysign(min(abs(first["theta"]), edge), first["theta"])
        start = Overlaps(q=first["q"], m=first["m"], V=first["V"], theta=theta)
        states = trajectory(model, task.alpha, options.lam, start, result.iterations)
        theory = [
            {"iteration": i, **{name: getattr(state, name) for name in OVERLAPS}, "step": math.nan}
            for i, state in enumerate(states)
        ]
    return _answer(
        options,
        {"d": options.d, "n": task.n, "alpha": task.alpha, **model_record(model, options.lam)},
        iterates,
        theory,
        result,
    )


def _run_general(model: GeneralModel, options: argparse.Namespace) -> Answer:
    """The same for a general model: overlaps are nested lists with the token first."""
    from gamp_theory.empirical.gamp import message_passing
    from gamp_theory.empirical.token_task import draw_token_task
    from gamp_theory.token_overlaps import TokenOverlaps
    from gamp_theory.trajectory import trajectory

    task = draw_token_task(model, options.d, options.alpha, options.lam, (options.seed, 0))
    result = message_passing(task, options.start, **_settings(options))
    found = result.trajectory
    iterates = [
        {
            "iteration": i,
            **{name: getattr(found, name)[i].tolist() for name in OVERLAPS},
            "step": float(found.step[i]),
        }
        for i in range(len(found.q))
    ]
    theory: list[dict[str, Any]] = []
    if options.damping == 0:
        start = TokenOverlaps(found.q[0], found.m[0], found.V[0], found.theta[0])
        states = trajectory(model, task.alpha, options.lam, start, result.iterations)
        theory = [
            {
                "iteration": i,
                **{name: getattr(state, name).tolist() for name in OVERLAPS},
                "step": math.nan,
            }
            for i, state in enumerate(states)
        ]
    return _answer(
        options,
        {"d": options.d, "n": task.n, "alpha": task.alpha, **general_record(model, options.lam)},
        iterates,
        theory,
        result,
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "damping": options.damping,
        "lagging": True,
        "onsager": options.onsager,
        "max_iterations": options.iterations,
        "progress": True,
    }


def _answer(
    options: argparse.Namespace,
    head: Mapping[str, Any],
    iterates: list[dict[str, Any]],
    theory: list[dict[str, Any]],
    result: GampResult,
) -> Answer:
    document = {
        **head,
        "start": options.start,
        "damping": options.damping,
        "onsager": options.onsager,
        "seed": [options.seed, 0],
        "trajectory": iterates,
        "state_evolution": theory,
        "status": str(result.status),
        "message": result.message,
    }
    converged = str(result.status) == "converged"
    return Answer(document, _text(document), SUCCESS if converged else UNSETTLED)


def _text(document: Mapping[str, Any]) -> str:
    general = "tokens" in document
    names = ("|m|", "|theta|", "tr q", "tr V") if general else OVERLAPS
    theory = {state["iteration"]: state for state in document["state_evolution"]}
    rows = [["iteration", *(cell for name in names for cell in (name, "theory")), "step"]]
    for iterate in document["trajectory"][:LAST_SHOWN]:
        rows.append([str(iterate["iteration"])])
        here, there = (
            _numbers(state, general) for state in (iterate, theory.get(iterate["iteration"], {}))
        )
        for name in OVERLAPS:
            rows[-1].append(number_cell(here.get(name), 5))
            rows[-1].append(number_cell(there.get(name), 5))
        rows[-1].append(number_cell(iterate["step"], 2))
    left_out = len(document["trajectory"]) - LAST_SHOWN
    more = f"\n({left_out} more iterations in the document: --json)" if left_out > 0 else ""
    if general:
        more += "\nNorms, in the mean over tokens; the document has all entries."
        model = f"L = {document['tokens']}, r = {document['rank']}, t = {document['teacher_rank']}"
    else:
        model = f"omega = {document['omega']:g}, sigma = {document['sigma']:g}"
    return (
        f"message passing from the {document['start']} start: d = {document['d']}, "
        f"n = {document['n']}, alpha = {document['alpha']:g}, {model}, lam = {document['lam']:g}, "
        f"damping = {document['damping']:g}\n\n{table(rows)}{more}\n\n{document['message']}"
    )


def _numbers(state: Mapping[str, Any], general: bool) -> dict[str, float]:
    """The overlaps of an iterate, those of a general model as norms."""
    overlaps = {name: state[name] for name in OVERLAPS if name in state}
    return overlap_norms(overlaps) if general else overlaps
