"""State evolution of a solvable attention model: fixed points, transitions, phase diagrams.

The names below are loaded when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gamp_theory.branch_result import Branch
    from gamp_theory.branches import emerging, follow
    from gamp_theory.model import AttentionModel
    from gamp_theory.netcdf import load
    from gamp_theory.overlaps import Conjugates, Overlaps
    from gamp_theory.spectrum import JointLaw
    from gamp_theory.state_evolution import ConvergenceError, FixedPoint, Status, solve
    from gamp_theory.token_model import GeneralModel
    from gamp_theory.token_overlaps import TokenOverlaps
    from gamp_theory.transition_result import Transition
    from gamp_theory.transitions import find_transition

__version__ = "0.1.0"

__all__ = [
    "AttentionModel",
    "Branch",
    "Conjugates",
    "ConvergenceError",
    "FixedPoint",
    "GeneralModel",
    "JointLaw",
    "Overlaps",
    "Status",
    "TokenOverlaps",
    "Transition",
    "emerging",
    "find_transition",
    "follow",
    "load",
    "solve",
]

_MODULE_OF = {
    "AttentionModel": "model",
    "Branch": "branch_result",
    "Conjugates": "overlaps",
    "ConvergenceError": "state_evolution",
    "FixedPoint": "state_evolution",
    "GeneralModel": "token_model",
    "JointLaw": "spectrum",
    "Overlaps": "overlaps",
    "Status": "state_evolution",
    "TokenOverlaps": "token_overlaps",
    "Transition": "transition_result",
    "emerging": "branches",
    "find_transition": "transitions",
    "follow": "branches",
    "load": "netcdf",
    "solve": "state_evolution",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    """The names there are, loaded or not."""
    return sorted({*globals(), *__all__})
