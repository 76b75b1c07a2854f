"""Arguments that commands share: how they are declared, read and refused."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from gamp_theory.cli.answer import BadInput

if TYPE_CHECKING:
    from gamp_theory.model import AttentionModel

__all__ = [
    "DEFAULT_POINTS",
    "DEFAULT_TARGET",
    "Commands",
    "Parser",
    "Range",
    "add_alpha",
    "add_branch",
    "add_command",
    "add_model",
    "add_tol",
    "build_model",
    "integer",
    "joined",
    "number",
    "number_or_range",
    "shown",
    "starts",
    "target",
    "writable",
]

STARTS = ("semantic", "positional", "uninformed", "zero")
DEFAULT_TARGET = "0.6,0.4;0.4,0.6"
DEFAULT_POINTS = 40  # of a range without :N


class Parser(argparse.ArgumentParser):
    """argparse, but what it refuses goes the way of all bad input."""

    def error(self, message: str) -> NoReturn:
        """Raise BadInput instead of leaving the process."""
        raise BadInput(f"{message} (see {self.prog} --help)")


#: What ``ArgumentParser.add_subparsers`` returns.
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


# ---------------------------------------------------------------------------- to declare them


def add_command(
    commands: Commands, name: str, description: str, *, writes_document: bool = True
) -> Parser:
    """A command with the options that all of them have.

    Parameters
    ----------
    commands : argparse action
        What the command is added to.
    name : str
    description : str
        Its first sentence is what the list of commands says.
    writes_document : bool
        Whether it has ``--out FILE`` for its JSON document; if not, ``--out`` is its own.
    """
    command = commands.add_parser(
        name,
        help=description.split(". ")[0].lower(),
        description=description,
        allow_abbrev=False,
    )
    command.set_defaults(writes_document=writes_document)
    command.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document on standard output; numbers that are not finite are null",
    )
    if writes_document:
        command.add_argument(
            "--out", metavar="FILE", help="write the JSON document to FILE as well"
        )
    return command


def add_alpha(command: Parser) -> None:
    """``--alpha``, one number."""
    command.add_argument(
        "--alpha",
        type=number,
        required=True,
        help="sample ratio n/d (samples per dimension), positive; required",
    )


def add_model(
    command: Parser, *, ranges: bool = False, plane: bool = False, grid: bool = False
) -> None:
    """``--omega --sigma --lam --target``; the first three as ranges, too, if there are `ranges`.

    In the `plane` of alpha and omega, omega is a range; on a `grid` any of them may be one.
    """
    group = command.add_argument_group("model")
    if plane:
        group.add_argument(
            "--omega",
            type=number_or_range,
            default=Range(0.0, 0.5, None),
            metavar="LO:HI",
            help="range of the weight of the positional part of the target, within [0, 1] "
            "(default: 0:0.5)",
        )
    numbers = (
        ("omega", 0.3, "weight of the positional part of the target, in [0, 1]"),
        ("sigma", 0.5, "standard deviation of the token entries, positive"),
        ("lam", 0.01, "ridge, on a risk that is a sum over samples; not negative"),
    )
    for name, default, meaning in numbers[1:] if plane else numbers:
        group.add_argument(
            f"--{name}",
            type=number_or_range if ranges or grid else number,
            default=default,
            help=meaning
            + (f"; LO:HI[:N] with --along {name}" if ranges else "")
            + ("; a number or LO:HI:N" if grid else "")
            + " (default: %(default)s)",
        )
    group.add_argument(
        "--target",
        type=target,
        default=DEFAULT_TARGET,
        metavar="A",
        help="positional attention of the target, rows between semicolons, each summing to 1 "
        "(default: '%(default)s')",
    )


def add_branch(
    command: Parser, *, mixed: bool = False, default: Sequence[str] = ("semantic",)
) -> None:
    """``--branch``, one start or more; `mixed` where general models have theirs."""
    command.add_argument(
        "--branch",
        nargs="+",
        choices=(*STARTS, *(("mixed",) if mixed else ()), "all"),
        default=list(default),
        metavar="START",
        help=f"where to start from: any of {', '.join(STARTS)}, or all; a solution that ends on "
        f"another branch says so (default: {' '.join(default)})"
        + ("; a general model has mixed, too" if mixed else ""),
    )


def add_tol(command: Parser, *, general: bool = False) -> None:
    """``--tol``; with `general`, its default is left to the solver."""
    command.add_argument(
        "--tol",
        type=number,
        default=None if general else 1e-6,
        help="relative accuracy promised for the answer (default: 1e-6"
        + ("; for a general model the standard error aimed at, 1e-2)" if general else ")"),
    )


# ------------------------------------------------------------------------------- to read them


@dataclass(frozen=True)
class Range:
    """``LO:HI[:N]``."""

    low: float
    high: float
    count: int | None

    def values(self) -> list[float]:
        """N points, ends included."""
        import numpy as np

        return np.linspace(self.low, self.high, self.count or DEFAULT_POINTS).tolist()


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


def number(text: str) -> float:
    """A decimal number; whether it is allowed is for what it is given to."""
    if not _NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a number such as 0.25, got {text!r}")
    return float(text)


def integer(text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def number_or_range(text: str) -> float | Range:
    """A number, ``LO:HI`` or ``LO:HI:N``."""
    if ":" not in text:
        return number(text)
    parts = text.split(":")
    if len(parts) in (2, 3) and all(_NUMBER.fullmatch(part) for part in parts[:2]):
        low, high = map(float, parts[:2])
        count = int(parts[2]) if len(parts) == 3 and parts[2].isdecimal() else None
        if (
            math.isfinite(low)
            and math.isfinite(high)
            and low != high
            and (len(parts) == 2 or (count is not None and count >= 2))
        ):
            return Range(low, high, count)
    raise argparse.ArgumentTypeError(
        f"expected LO:HI or LO:HI:N with finite LO and HI that differ and N of at least 2, "
        f"got {text!r}"
    )


def target(text: str) -> tuple[tuple[float, ...], ...]:
    """Rows between semicolons, entries between commas; numbers only, nothing is evaluated."""
    rows = [[entry.strip() for entry in row.split(",")] for row in text.split(";")]
    if not all(_NUMBER.fullmatch(entry) for row in rows for entry in row):
        raise argparse.ArgumentTypeError(
            f"expected rows of numbers such as {DEFAULT_TARGET!r}, got {text!r}"
        )
    return tuple(tuple(float(entry) for entry in row) for row in rows)


def shown(value: float | Range) -> str:
    """A number or range as it was given, for a message."""
    if isinstance(value, Range):
        return f"{value.low:g}:{value.high:g}" + (f":{value.count}" if value.count else "")
    return repr(value)


def joined(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``--option -1:2`` made ``--option=-1:2``, which argparse can not tell."""
    result: list[str] = []
    for argument in arguments:
        if result and result[-1].startswith("--") and re.match(r"-[\d.in]", argument):
            result[-1] += f"={argument}"
        else:
            result.append(argument)
    return result


# ------------------------------------------------------------------------------ what they mean


def starts(names: Sequence[str]) -> list[str]:
    """The starts asked for, each once; ``all`` for all of them."""
    return list(STARTS if "all" in names else dict.fromkeys(names))


def build_model(
    options: argparse.Namespace, omega: float | None = None, sigma: float | None = None
) -> AttentionModel:
    """The model of ``--omega --sigma --target``, or of the `omega` or `sigma` given."""
    from gamp_theory.model import AttentionModel

    try:
        AttentionModel.mixture(A=options.target)
    except ValueError as error:
        raise BadInput(f"--target: {error}") from None
    return AttentionModel.mixture(
        omega=options.omega if omega is None else omega,
        sigma=options.sigma if sigma is None else sigma,
        A=options.target,
    )


def writable(name: str, option: str = "out") -> Path:
    """The path of an output file, refused before anything is computed for it."""
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadInput(
            f"{option} must be a file in a directory that can be written to, got {name!r}"
        )
    return path
