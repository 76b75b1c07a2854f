"""Commands run in this process, and a result for them to be given."""

import json
import math

import pytest

from gamp_theory import transitions
from gamp_theory.branch_map import Place
from gamp_theory.cli import main
from gamp_theory.model import AttentionModel


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys, *arguments):
    """Exit code and document of a command."""
    code, out, _ = run(capsys, *arguments, "--json")
    return code, json.loads(out, parse_constant=pytest.fail)


def transition(value, status, kind="alpha_c", **changes):
    """A transition with this value and the status of this name."""
    half = 1e-6
    alpha = value if math.isfinite(value) else 1.0
    return transitions.Transition(
        kind=kind,
        parameter="alpha",
        value=value,
        error=1e-7 if math.isfinite(value) else math.nan,
        bracket=(value - half, value + half),
        status=transitions.TransitionStatus[status],
        place=Place(AttentionModel.mixture(), alpha, 0.01),
        **changes,
    )
