"""``validate``: the studies of the checkout that hold theory against simulation."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gamp_theory
from gamp_theory.cli.answer import BAD_INPUT, INTERRUPTED, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import Commands, add_command, integer, number

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {}
POINT = ("alpha", "omega", "sigma", "lam")


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "validate",
        "Hold the theory against simulation. Runs studies of the source checkout (python -m "
        "validation); or, where a point is given by any of --alpha, --omega, --sigma, --lam, "
        "training at that point from the semantic start. Exits 1 if they disagree.",
    )
    command.add_argument(
        "studies", nargs="*", metavar="STUDY", help="names of studies (default: all)"
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="small d, few points, seconds; at a point, d = 500 and 6 instances",
    )
    command.add_argument(
        "--jobs", type=integer, default=2, metavar="N", help="instances at a time (default: 2)"
    )
    for name, text in (
        ("alpha", "sample ratio n/d (1.5 where another is given)"),
        ("omega", "weight of the positional part of the target (likewise 0.3)"),
        ("sigma", "standard deviation of the token entries (likewise 0.5)"),
        ("lam", "ridge (likewise 0.01)"),
    ):
        command.add_argument(f"--{name}", type=number, help=text)


def run(options: argparse.Namespace) -> Answer:
    """Run the study, if it is there."""
    root = Path(gamp_theory.__file__).resolve().parent.parent
    if not (root / "validation" / "runner.py").is_file():
        message = (
            "The validation studies belong to the source checkout and are not part of an installed "
            "package; run this command from a clone of the repository."
        )
        print(f"gamp-theory: {message}", file=sys.stderr)
        return Answer({"status": "not_available", "message": message}, "", UNSETTLED)
    if str(root) not in sys.path:
        sys.path.append(str(root))
    import importlib
    import io

    arguments = ["--json"] if options.json or options.out else []
    given = [name for name in POINT if getattr(options, name) is not None]
    if given:
        if options.studies:
            raise BadInput(f"a study has its own points, got {options.studies[0]!r} and {given[0]}")
        module = "validation.first_check"
        arguments += ["--d", "500", "--instances", "6"] if options.quick else []
        arguments += [f"--{name}={getattr(options, name)!r}" for name in given]
    else:
        module = "validation.runner"
        arguments += ["--quick"] if options.quick else []
    arguments.append(f"--jobs={options.jobs}")
    # Its package sets the threads of the BLAS before NumPy is imported.
    study = importlib.import_module(module)
    if not given:
        unknown = [name for name in options.studies if name not in study.STUDIES]
        if unknown:
            raise BadInput(f"study must be one of {', '.join(study.STUDIES)}, got {unknown[0]!r}")
        arguments += options.studies
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exit_code = study.main(arguments)
    text = printed.getvalue().rstrip("\n")
    if arguments[0] != "--json":
        return Answer({}, text, exit_code)
    if not text:  # it has said on stderr why there is nothing
        status = {BAD_INPUT: "bad_input", INTERRUPTED: "interrupted"}.get(exit_code, "failed")
        return Answer({"status": status, "message": "See standard error."}, "", exit_code)
    document = json.loads(text)
    return Answer(document, f"{document['status']}: {document['message']}", exit_code)
