"""``validate``: the study of the checkout that holds theory against simulation."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gamp_theory
from gamp_theory.cli.answer import BAD_INPUT, UNSETTLED, Answer
from gamp_theory.cli.arguments import Commands, add_command, number

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {}


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "validate",
        "Hold the theory against simulation. Runs the study validation.first_check of the source "
        "checkout: training at finite d, from the semantic start, z-scores against the fixed "
        "point.",
    )
    command.add_argument("--quick", action="store_true", help="d = 500 and 6 instances")
    for name, text in (
        ("alpha", "sample ratio n/d (default: 1.5)"),
        ("omega", "weight of the positional part of the target (default: 0.3)"),
        ("sigma", "standard deviation of the token entries (default: 0.5)"),
        ("lam", "ridge (default: 0.01)"),
    ):
        command.add_argument(f"--{name}", type=number, help=text)


def run(options: argparse.Namespace) -> Answer:
    """Run the study, if it is there."""
    root = Path(gamp_theory.__file__).resolve().parent.parent
    if not (root / "validation" / "first_check.py").is_file():
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

    # Its package sets the threads of the BLAS before NumPy is imported.
    first_check = importlib.import_module("validation.first_check")
    arguments = ["--json"] if options.json or options.out else []
    if options.quick:
        arguments += ["--d", "500", "--instances", "6"]
    # The options of the model that it knows, where they were given.
    for name in ("alpha", "omega", "sigma", "lam"):
        if getattr(options, name) is not None:
            arguments += [f"--{name}={getattr(options, name)!r}"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exit_code = first_check.main(arguments)
    text = printed.getvalue().rstrip("\n")
    if not arguments or arguments[0] != "--json":
        return Answer({}, text, exit_code)
    if not text:  # it has said on stderr why there is nothing
        status = "bad_input" if exit_code == BAD_INPUT else "failed"
        return Answer({"status": status, "message": "See standard error."}, "", exit_code)
    document = json.loads(text)
    return Answer(document, f"{document['status']}: {document['message']}", exit_code)
