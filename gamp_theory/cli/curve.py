"""``curve``: fixed points along alpha, omega, lam or sigma, by continuation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import INTERRUPTED, SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    DEFAULT_POINTS,
    Commands,
    Range,
    add_branch,
    add_command,
    add_model,
    add_tol,
    build_model,
    number_or_range,
    shown,
    starts,
    writable,
)
from gamp_theory.cli.general import add_general, asks_general, build_general, general_starts
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import concise, number_cell, quantity_cell, stability_cell, table
from gamp_theory.cli.threads import follow_branches, single_blas_thread
from gamp_theory.records import OVERLAPS, general_point_record, point_record, settled

if TYPE_CHECKING:
    from gamp_theory.result import FixedPoint
    from gamp_theory.token_model import GeneralModel
    from gamp_theory.token_result import GeneralFixedPoint

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"points": []}
PARAMETERS = ("alpha", "omega", "lam", "sigma")


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "curve",
        "Fixed points along a range of alpha, omega, lam or sigma. A branch is followed from the "
        "first value of the range to the last, so 2:0.1 goes down; where it ends before, its start "
        "is asked again. After Ctrl-C the points that are finished are printed.",
    )
    command.add_argument(
        "--along",
        choices=PARAMETERS,
        default="alpha",
        help="the parameter that varies (default: %(default)s)",
    )
    command.add_argument(
        "--alpha",
        type=number_or_range,
        required=True,
        metavar="LO:HI[:N]",
        help=f"sample ratio n/d, positive: N values from LO to HI (N is {DEFAULT_POINTS} if left "
        "out); one number along another parameter",
    )
    add_model(command, ranges=True)
    add_branch(command, mixed=True)
    add_tol(command, general=True)
    add_general(command)
    command.add_argument(
        "--data",
        metavar="FILE.nc",
        help="write the points as a dataset; numbers of points on another branch than that of "
        "their start are left out there",
    )


def run(options: argparse.Namespace) -> Answer:
    """Follow each start; after Ctrl-C the answer is what was finished."""
    single_blas_thread()
    from gamp_theory.state_evolution import PAIR_TOL, check_arguments

    along = options.along
    if asks_general(options) and along not in ("alpha", "lam"):
        raise BadInput(f"a general model has curves along alpha and lam, not {along}")
    span = getattr(options, along)
    if not isinstance(span, Range):
        raise BadInput(f"{along} must be a range LO:HI[:N] along {along}, got {shown(span)}")
    constant = {name: getattr(options, name) for name in PARAMETERS if name != along}
    for name, value in constant.items():
        if isinstance(value, Range):
            raise BadInput(f"{name} must be one number along {along}, got {shown(value)}")
    values = span.values()
    general = build_general(options)
    if general is not None:
        return _run_general(general, options, values)
    tol = PAIR_TOL if options.tol is None else options.tol
    data = None if options.data is None else writable(options.data, "data")
    names = starts(options.branch)
    for value in (values[-1], values[0]):  # refused before the first is solved
        here = {**constant, along: value}
        model = build_model(options, omega=here["omega"], sigma=here["sigma"])
        check_arguments(model, here["alpha"], here["lam"], names[0], tol)
        if along == "lam" and value == 0:
            raise BadInput("lam must be > 0 along lam, got 0.0")
    with progress(len(names) * len(values), "points") as advance:
        points, complete = follow_branches(
            model,
            values,
            values[0] if along == "lam" else constant["lam"],
            names,
            along=along,
            alpha=constant.get("alpha"),
            tol=tol,
            advance=advance,
        )
    found = [point for start in names for point in points[start]]
    document: dict[str, Any] = {"points": [point_record(point) for point in found]}
    text = _text(found, along)
    if data is not None and found:
        from gamp_theory.grids import curve_dataset
        from gamp_theory.netcdf import save

        save(curve_dataset(points, along, values), data)
    if not complete:
        return _interrupted(document, text, len(found), len(names) * len(values))
    return Answer(document, text, SUCCESS if all(map(settled, found)) else UNSETTLED)


def _run_general(
    model: GeneralModel, options: argparse.Namespace, values: Sequence[float]
) -> Answer:
    """The same for a general model, one start after the other: its averages take all threads."""
    from gamp_theory.state_evolution import GENERAL_TOL
    from gamp_theory.token_branches import trace_general
    from gamp_theory.token_starts import check_general_arguments

    along = options.along
    if options.data is not None:
        raise BadInput("--data is for the two-token model: give --json or --out for a general one")
    tol = GENERAL_TOL if options.tol is None else options.tol
    names = general_starts(options.branch)
    for value in (values[-1], values[0]):  # refused before the first is solved
        here = {"alpha": options.alpha, "lam": options.lam, along: value}
        for name in names:
            check_general_arguments(model, here["alpha"], here["lam"], name, tol)
    found: list[GeneralFixedPoint] = []
    complete = True
    with progress(len(names) * len(values), "points") as advance:

        def finished(point: GeneralFixedPoint) -> None:
            found.append(point)
            advance()

        try:
            for name in names:
                trace_general(
                    model,
                    values,
                    values[0] if along == "lam" else options.lam,
                    name,
                    alpha=None if along == "alpha" else options.alpha,
                    along=along,
                    tol=tol,
                    progress=finished,
                )
        except KeyboardInterrupt:
            complete = False
    document: dict[str, Any] = {"points": [general_point_record(point) for point in found]}
    text = _general_text(found, along)
    if not complete:
        return _interrupted(document, text, len(found), len(names) * len(values))
    return Answer(document, text, SUCCESS if all(map(settled, found)) else UNSETTLED)


def _interrupted(document: dict[str, Any], text: str, done: int, asked: int) -> Answer:
    """What Ctrl-C has left."""
    document |= {"status": "interrupted", "message": "Interrupted by the user."}
    print(f"gamp-theory: interrupted: {done} of {asked} points done", file=sys.stderr)
    return Answer(document, text, INTERRUPTED)


def _general_text(points: Sequence[GeneralFixedPoint], along: str) -> str:
    """One row a fixed point; of the overlaps the largest entries."""
    losses = ("train_loss", "test_error")
    rows = [["start", "branch", "status", along, *OVERLAPS, *losses, "leading", "stable"]]
    for point in points:
        found = point.stability
        rows.append(
            [
                point.start,
                point.branch,
                point.status.token,
                f"{getattr(point, along):.6g}",
                *(_largest(point, name) for name in OVERLAPS),
                *(concise(getattr(point, name), getattr(point.errors, name)) for name in losses),
                "-" if found is None else number_cell(found.eigenvalues[0].real),
                "-" if found is None else "yes" if found.stable else "no",
            ]
        )
    return table(rows, left=3)


def _largest(point: GeneralFixedPoint, name: str) -> str:
    """The entry of largest size, with its standard error."""
    value, error = getattr(point.overlaps, name), getattr(point.errors, name)
    where = abs(value).argmax()
    return concise(float(value.flat[where]), float(error.flat[where]))


def _text(points: Sequence[FixedPoint], along: str) -> str:
    """One row a fixed point."""
    names = (*OVERLAPS, "train_loss", "test_error")
    rows = [["start", "branch", "status", along, *names, "stable"]]
    for point in points:
        record = point_record(point)
        rows.append(
            [
                point.start,
                point.branch or "-",
                point.status.token,
                f"{record[along]:.6g}",
                *(quantity_cell(record, name) for name in names),
                stability_cell(record, "stable"),
            ]
        )
    return table(rows, left=3)
