"""``solve``: the fixed points at one set of parameters."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    Commands,
    add_alpha,
    add_branch,
    add_command,
    add_model,
    add_tol,
    build_model,
    starts,
)
from gamp_theory.cli.general import add_general, build_general, general_starts, general_text
from gamp_theory.cli.text import number_cell, quantity_cell, stability_cell, table
from gamp_theory.records import (
    LOSSES,
    OVERLAPS,
    general_point_record,
    point_record,
    settled,
)

if TYPE_CHECKING:
    from gamp_theory.result import FixedPoint
    from gamp_theory.token_model import GeneralModel

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"points": []}


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "solve",
        "Fixed points at one set of parameters. Each quantity comes with an error bar, in "
        "brackets in units of its last digit.",
    )
    add_alpha(command)
    add_model(command)
    add_branch(command, mixed=True)
    add_tol(command, general=True)
    add_general(command)
    command.add_argument(
        "--check",
        action="store_true",
        help="recompute with an independent rule (randomised quasi-Monte Carlo); exit code 1 if "
        "the difference is more than four times its error",
    )


def run(options: argparse.Namespace) -> Answer:
    """Solve from each start, and check if asked to."""
    from gamp_theory.state_evolution import solve

    general = build_general(options)
    if general is not None:
        return _run_general(general, options)
    model = build_model(options)
    points = [
        solve(model, options.alpha, options.lam, start=start, tol=options.tol, on_failure="return")
        for start in starts(options.branch)
    ]
    records = [point_record(point) for point in points]
    agree = True
    if options.check:
        agree = _add_checks(points, records)
    done = agree and all(settled(point) for point in points)
    return Answer({"points": records}, _text(points, records), SUCCESS if done else UNSETTLED)


def _run_general(model: GeneralModel, options: argparse.Namespace) -> Answer:
    """The same for a general model."""
    from gamp_theory.state_evolution import solve

    if options.check:
        raise BadInput("--check is for the two-token model: a general one has standard errors")
    points = [
        solve(model, options.alpha, options.lam, start=start, tol=options.tol, on_failure="return")
        for start in general_starts(options.branch)
    ]
    done = all(settled(point) for point in points)
    records = [general_point_record(point) for point in points]
    return Answer({"points": records}, general_text(points), SUCCESS if done else UNSETTLED)


def _add_checks(points: Sequence[FixedPoint], records: Sequence[dict]) -> bool:
    """Recompute each converged point by the independent rule; whether all of them agree."""
    from gamp_theory.check import check_point

    agree = True
    for point, record in zip(points, records, strict=True):
        if point.status.token != "converged":
            record["check"] = None  # nothing to recompute
            continue
        differences = check_point(point)
        record["check"] = {key: found.difference for key, found in differences.items()}
        record["check_standard_error"] = {
            key: found.standard_error for key, found in differences.items()
        }
        record["check_agrees"] = all(bool(found.agrees) for found in differences.values())
        agree = agree and record["check_agrees"]
    return agree


def _text(points: Sequence[FixedPoint], records: Sequence[Mapping[str, Any]]) -> str:
    """Quantities down, one column a fixed point."""
    rows = [
        ["start", *(point.start for point in points)],
        ["branch", *(point.branch or "-" for point in points)],
        ["status", *(point.status.token for point in points)],
    ]
    rows += [
        [name, *(quantity_cell(record, name) for record in records)]
        for name in (*OVERLAPS, *LOSSES)
    ]
    rows += [
        [name, *(stability_cell(record, name) for record in records)]
        for name in ("stable", "spectral_radius", "jump_mass", "replicon")
    ]
    rows += [
        ["residual", *(number_cell(point.residual) for point in points)],
        ["iterations", *(str(point.iterations) for point in points)],
        ["seconds", *(f"{point.seconds:.2f}" for point in points)],
    ]
    if any("check" in record for record in records):
        rows.append(["check", *(_check_cell(record) for record in records)])
    first = points[0]
    lines = [
        f"alpha = {first.alpha:g}, omega = {first.model.omega:g}, sigma = {first.model.sigma:g}, "
        f"lam = {first.lam:g}; test error of the linear baseline {first.linear_error:.9g}",
        "",
        table(rows),
    ]
    lines += [
        f"{point.start}: {point.message}"
        for point in points
        if point.status.token != "converged" or point.branch != point.start
    ]
    return "\n".join(lines)


def _check_cell(record: Mapping[str, Any]) -> str:
    if record["check"] is None:
        return "-"
    return "agrees" if record["check_agrees"] else "DISAGREES"
