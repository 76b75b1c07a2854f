"""``threshold``: where along alpha something happens."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gamp_theory import __version__
from gamp_theory.cli.answer import SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    Commands,
    Range,
    add_command,
    add_model,
    add_tol,
    build_model,
    number_or_range,
    shown,
)
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import concise
from gamp_theory.records import settled, transition_record

if TYPE_CHECKING:
    from gamp_theory.transitions import Transition

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {
    "kind": None,
    "omega": None,
    "alpha": None,
    "bracket": None,
    "others": [],
}

KINDS = ("alpha_c", "alpha_l")
LATER_KINDS = tuple(
    f"{what}_{branch}"
    for what in ("onset", "spinodal", "instability")
    for branch in ("semantic", "positional")
)


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "threshold",
        "Where a transition takes place along alpha. alpha_c: the training losses of the semantic "
        "and the positional branch are equal. alpha_l: the test error of the branch with the "
        "lowest training loss equals that of the best linear layer.",
    )
    command.add_argument(
        "kind",
        choices=(*KINDS, *LATER_KINDS),
        metavar="KIND",
        help=f"{' or '.join(KINDS)} (later versions: {', '.join(LATER_KINDS)})",
    )
    command.add_argument(
        "--alpha",
        type=number_or_range,
        default=Range(0.01, 4.0, None),
        metavar="LO:HI",
        help="where to search, as a range of the sample ratio n/d (default: 0.01:4)",
    )
    add_model(command)
    add_tol(command)


def run(options: argparse.Namespace) -> Answer:
    """Search the range."""
    if options.kind in LATER_KINDS:
        raise BadInput(
            f"threshold kind must be one of {', '.join(KINDS)} in this version ({__version__}), "
            f"which does not compute {options.kind!r} yet"
        )
    span = options.alpha
    if not isinstance(span, Range) or span.count is not None:
        raise BadInput(f"alpha must be a range LO:HI to search in (without :N), got {shown(span)}")
    model = build_model(options)

    from gamp_theory.state_evolution import check_arguments
    from gamp_theory.transitions import find_transition

    check_arguments(model, span.low, options.lam, "semantic", options.tol)
    began = time.perf_counter()
    with progress(None, "values of alpha") as advance:
        transition = find_transition(
            model,
            options.kind,
            alpha=(span.low, span.high),
            lam=options.lam,
            tol=options.tol,
            progress=lambda _: advance(),
        )
    record = transition_record(transition, model, options.lam)
    record["seconds"] = time.perf_counter() - began
    exit_code = SUCCESS if settled(transition) else UNSETTLED
    return Answer(record, _text(transition, record), exit_code)


def _text(transition: Transition, record: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name} = {record[name]:g}" for name in ("omega", "sigma", "lam"))
    if not math.isfinite(transition.value):
        return f"{transition.kind} ({parameters}): {record['status']}. {transition.message}"
    low, high = transition.bracket
    lines = [
        f"{transition.kind} = {concise(transition.value, transition.error)} ({parameters}), "
        f"bracket [{low:.10g}, {high:.10g}], {record['status']}"
    ]
    if record["status"] != "converged":
        lines.append(transition.message)
    if transition.others:
        further = (concise(other.value, other.error) for other in transition.others)
        lines.append(f"further ones at alpha = {', '.join(further)}")
    return "\n".join(lines)
