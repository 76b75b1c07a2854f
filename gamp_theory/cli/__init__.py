"""The command line: ``gamp-theory``, also ``python -m gamp_theory``.

Programs outside this project parse it, so commands, options and JSON keys only ever grow
(docs/design.md, "Command line").  Each command is a module with ``add_parser(commands)``, which
declares its options, and ``run(options)``, which turns them into an answer; :func:`main` alone
writes to the outside.  What is slow to import is imported by the command that needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gamp_theory import __version__
from gamp_theory.cli import (
    curve,
    demo,
    diagram,
    gamp,
    merge,
    reproduce,
    simulate,
    solve,
    sweep,
    threshold,
    validate,
)
from gamp_theory.cli.answer import BAD_INPUT, INTERRUPTED, Answer, BadInput, as_json
from gamp_theory.cli.arguments import Parser, joined, writable
from gamp_theory.files import replacing

__all__ = ["main"]

#: In the order in which ``--help`` lists them.
COMMANDS = {
    "solve": solve,
    "curve": curve,
    "threshold": threshold,
    "diagram": diagram,
    "sweep": sweep,
    "merge": merge,
    "simulate": simulate,
    "gamp": gamp,
    "validate": validate,
    "reproduce": reproduce,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    to_stdout = "--json" in arguments  # holds even where the rest can not be understood
    out: Path | None = None
    command = next((word for word in arguments if word in COMMANDS), None)
    try:
        options = _parser().parse_args(joined(arguments))
        if options.writes_document and options.out is not None:
            out = writable(options.out)
        answer = COMMANDS[options.command].run(options)
    except (BadInput, ValueError) as error:
        print(f"gamp-theory: error: {error}", file=sys.stderr)
        out = None  # what stands there is better than nothing
        answer = _nothing(command, "bad_input", str(error), BAD_INPUT)
    except KeyboardInterrupt:
        print("gamp-theory: interrupted", file=sys.stderr)
        out = None
        answer = _nothing(command, "interrupted", "Interrupted by the user.", INTERRUPTED)
    if to_stdout:
        print(as_json(answer.document))
    elif answer.text:
        print(answer.text)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(as_json(answer.document) + "\n", encoding="utf-8")
    return answer.exit_code


def _nothing(command: str | None, status: str, message: str, exit_code: int) -> Answer:
    """The answer where nothing could be computed: the keys of the command, and why."""
    empty = {} if command is None else COMMANDS[command].EMPTY
    return Answer({**empty, "status": status, "message": message}, "", exit_code)


def _parser() -> Parser:
    parser = Parser(
        prog="gamp-theory",
        description="State evolution of a solvable attention model: fixed points, transitions, "
        "and their check at finite dimension.",
        epilog="Exit code: 0 if all that was asked for converged or was found not to exist, 1 if "
        "not, 2 for bad input (nothing is computed), 130 after Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gamp-theory {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS.values():
        command.add_parser(commands)
    return parser
