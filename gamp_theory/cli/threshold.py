"""``threshold``: where along alpha something happens."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
from gamp_theory.cli.general import add_general, build_general
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import concise
from gamp_theory.records import general_transition_record, settled, transition_record

if TYPE_CHECKING:
    from gamp_theory.token_line_result import GeneralTransition
    from gamp_theory.transition_result import Transition

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {
    "kind": None,
    "omega": None,
    "alpha": None,
    "bracket": None,
    "others": [],
}

#: What each kind is, for the help; the library's own order.
MEANING: Mapping[str, str] = {
    "alpha_c": "the training losses of the semantic and the positional branch are equal",
    "alpha_l": "the test error of the branch with the lowest training loss equals that of the "
    "best linear layer",
    "onset_semantic": "the semantic branch leaves the uninformed one",
    "onset_positional": "the positional branch leaves the uninformed one",
    "spinodal_semantic": "the semantic branch turns back at a fold",
    "spinodal_positional": "the positional branch turns back at a fold",
    "instability_semantic": "the semantic branch gains or loses stability towards m",
    "instability_positional": "the positional branch gains or loses stability towards theta",
}
KINDS = tuple(MEANING)


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "threshold",
        "Where a transition takes place along alpha. "
        + " ".join(f"{kind}: {meaning}." for kind, meaning in MEANING.items()),
    )
    command.add_argument(
        "kind",
        choices=KINDS,
        metavar="KIND",
        help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}",
    )
    command.add_argument(
        "--alpha",
        type=number_or_range,
        default=Range(0.01, 4.0, None),
        metavar="LO:HI",
        help="where to search, as a range of the sample ratio n/d (default: 0.01:4)",
    )
    add_model(command)
    add_tol(command, general=True)
    add_general(command)


def run(options: argparse.Namespace) -> Answer:
    """Search the range."""
    span = options.alpha
    if not isinstance(span, Range) or span.count is not None:
        raise BadInput(f"alpha must be a range LO:HI to search in (without :N), got {shown(span)}")
    general = build_general(options)
    model = None if general is not None else build_model(options)

    from gamp_theory.state_evolution import GENERAL_TOL, PAIR_TOL, check_arguments
    from gamp_theory.token_line_result import GeneralTransition
    from gamp_theory.transitions import find_transition

    tol = options.tol
    if tol is None:
        tol = PAIR_TOL if general is None else GENERAL_TOL
    if model is not None:
        check_arguments(model, span.low, options.lam, "semantic", tol)
    began = time.perf_counter()
    with progress(None, "values of alpha") as advance:
        transition: Transition | GeneralTransition = find_transition(
            general or model,  # type: ignore[arg-type]
            options.kind,
            alpha=(span.low, span.high),
            lam=options.lam,
            tol=tol,
            progress=lambda _: advance(),
        )
    if isinstance(transition, GeneralTransition):
        record = general_transition_record(transition)
    else:
        assert model is not None
        record = transition_record(transition, model, options.lam)
    record["seconds"] = time.perf_counter() - began
    exit_code = SUCCESS if settled(transition) else UNSETTLED
    return Answer(record, _text(transition, record), exit_code)


def _text(transition: Transition | GeneralTransition, record: Mapping[str, Any]) -> str:
    names = ("omega", "sigma", "tokens", "rank", "teacher_rank", "lam")
    parameters = ", ".join(
        f"{name.replace('_', ' ')} = {record[name]:g}" for name in names if name in record
    )
    meaning = MEANING[transition.kind]
    if not math.isfinite(transition.value):
        return (
            f"{transition.kind} ({parameters}): {record['status']}. {transition.message}\n"
            f"sought: where {meaning}"
        )
    low, high = transition.bracket
    value = concise(transition.value, transition.error)
    name = transition.kind
    if not name.startswith("alpha"):
        name = f"{name}: alpha"
    lines = [
        f"{name} = {value} ({parameters}), bracket [{low:.10g}, {high:.10g}], {record['status']}",
        f"there {meaning}",
    ]
    if record["status"] != "converged":
        lines.append(transition.message)
    for other in transition.others:
        line = f"further: alpha = {concise(other.value, other.error)}, {other.status.token}"
        if other.status.token != "converged":
            line += f" ({other.message})"
        lines.append(line)
    return "\n".join(lines)
