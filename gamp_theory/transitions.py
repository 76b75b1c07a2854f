"""Transitions: where two branches exchange, one appears, or one loses stability.

:func:`find_transition` looks for the branches a transition is about, follows them, and closes in
on what they show with the equations of :mod:`gamp_theory.transition_equations`.  The answer is a
value with its error, and a bracket at whose ends fixed points of full accuracy have been seen to
be on either side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, overload

from gamp_theory.branch_map import Place
from gamp_theory.branch_result import Branch
from gamp_theory.model import AttentionModel
from gamp_theory.state_evolution import (
    GENERAL_TOL,
    PAIR_TOL,
    check_arguments,
)
from gamp_theory.token_model import GeneralModel
from gamp_theory.transition_result import KINDS, Transition, TransitionStatus
from gamp_theory.transition_search import TransitionSearch

if TYPE_CHECKING:
    from gamp_theory.token_line_result import GeneralTransition

__all__ = [
    "KINDS",
    "Transition",
    "TransitionStatus",
    "find_transition",
    "survey_transitions",
]


@overload
def find_transition(
    model: AttentionModel,
    kind: str,
    alpha: float | tuple[float, float] = (0.01, 4.0),
    lam: float | tuple[float, float] = 0.01,
    tol: float | None = None,
    *,
    omega: tuple[float, float] | None = None,
    sigma: tuple[float, float] | None = None,
    progress: Callable[[float], object] | None = None,
) -> Transition: ...


@overload
def find_transition(
    model: GeneralModel,
    kind: str,
    alpha: float | tuple[float, float] = (0.01, 4.0),
    lam: float | tuple[float, float] = 0.01,
    tol: float | None = None,
    *,
    progress: Callable[[float], object] | None = None,
) -> GeneralTransition: ...


def find_transition(
    model: AttentionModel | GeneralModel,
    kind: str,
    alpha: float | tuple[float, float] = (0.01, 4.0),
    lam: float | tuple[float, float] = 0.01,
    tol: float | None = None,
    *,
    omega: tuple[float, float] | None = None,
    sigma: tuple[float, float] | None = None,
    progress: Callable[[float], object] | None = None,
) -> Transition | GeneralTransition:
    """Locate a transition between fixed points in one parameter: the one that is given as a range.

    Parameters
    ----------
    model : AttentionModel or GeneralModel
        A general one gives a :class:`gamp_theory.token_line_result.GeneralTransition`.
    kind : str
        One of :data:`KINDS`; see :class:`Transition`.
    alpha, lam : float or (low, high)
        Samples per dimension, and ridge.
    tol : float, optional
        Accuracy of the fixed points, 1e-6 by default; for a general model the relative standard
        error of the value that is aimed at, .01 by default.
    omega, sigma : (low, high), optional
        To search in one of them, at a given alpha.  Not for a general model.
    progress : callable, optional
        Called with the parameter at every point of the branches that are followed.

    Returns
    -------
    Transition
        The one of lowest value; further ones in its `others`.

    Raises
    ------
    ValueError
        On an unknown kind, a bad range, or other than one range.

    Notes
    -----
    Branches are looked for at five values of the parameter at most, and followed from where they
    are found.  A piece of a branch that is not connected to these is not seen.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    given = {"alpha": alpha, "lam": lam, "omega": omega, "sigma": sigma}
    if isinstance(model, GeneralModel) and (omega is not None or sigma is not None):
        raise ValueError("a general model has transitions in alpha and lam, not omega or sigma")
    ranges = {name: value for name, value in given.items() if isinstance(value, tuple)}
    if len(ranges) != 1:
        raise ValueError(
            f"one of alpha, lam, omega and sigma must be a range (low, high), got "
            f"{', '.join(ranges) or 'none'}"
        )
    ((parameter, (lo, hi)),) = ranges.items()
    low_allowed = "0 <= low < high <= 1" if parameter == "omega" else "0 < low < high"
    good = 0 <= lo < hi <= 1 if parameter == "omega" else 0 < lo < hi
    if not (math.isfinite(hi) and good):
        raise ValueError(f"{parameter} must be a range with {low_allowed}, got {(lo, hi)!r}")
    if isinstance(model, GeneralModel):
        from gamp_theory.token_transitions import find_general_transition

        other = lam if parameter == "alpha" else alpha
        return find_general_transition(
            model,
            kind,
            parameter,
            (float(lo), float(hi)),
            float(other),  # type: ignore[arg-type]
            GENERAL_TOL if tol is None else tol,
            progress=progress,
        )
    tol = PAIR_TOL if tol is None else tol
    numbers = {name: lo if name == parameter else given[name] for name in ("alpha", "lam")}
    check_arguments(model, numbers["alpha"], numbers["lam"], "semantic", tol)  # type: ignore[arg-type]
    place = Place(model, float(numbers["alpha"]), float(numbers["lam"]))  # type: ignore[arg-type]
    search = TransitionSearch(kind, place, parameter, (lo, hi), tol, progress)
    found = search.run()
    if not found:
        return search.answer(math.nan, math.nan, search.why_none())
    return dataclasses.replace(found[0], others=tuple(found[1:]))


def survey_transitions(
    place: Place,
    parameter: str,
    span: tuple[float, float],
    kinds: Sequence[str] = KINDS,
    tol: float = 1e-4,
    *,
    progress: Callable[[float], object] | None = None,
) -> list[Transition]:
    """All transitions of some kinds along a parameter, from branches that are followed once.

    For lines that begin there: the brackets are error bars, nothing is solved beside them.

    Parameters
    ----------
    place : Place
    parameter : {"alpha", "omega", "lam", "sigma"}
    span : (low, high)
    kinds : sequence of str
    tol : float
        Accuracy of the fixed points.
    progress : callable, optional
        As in :func:`find_transition`.
    """
    followed: dict[str, list[Branch]] = {}
    found: list[Transition] = []
    for kind in kinds:
        search = TransitionSearch(kind, place, parameter, span, tol, progress, certify=False)
        search.followed = followed
        found += [one for one in search.run() if one.status is TransitionStatus.CONVERGED]
    return found
