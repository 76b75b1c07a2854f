"""Results as plain data: the JSON objects of the command line, and where numbers come from.

Programs outside this project read them, so keys only ever grow (docs/design.md, "Command line").
"""

from __future__ import annotations

import math
import platform
from typing import TYPE_CHECKING, Any

from gamp_theory import __version__

if TYPE_CHECKING:
    from gamp_theory.model import AttentionModel
    from gamp_theory.result import FixedPoint
    from gamp_theory.token_line_result import GeneralTransition
    from gamp_theory.token_result import GeneralFixedPoint
    from gamp_theory.transition_result import Transition

__all__ = [
    "KNOWN",
    "LOSSES",
    "OVERLAPS",
    "SETTLED",
    "general_point_record",
    "general_transition_record",
    "model_record",
    "point_record",
    "settled",
    "transition_record",
    "versions",
]

OVERLAPS = ("q", "m", "V", "theta")
LOSSES = ("train_loss", "train_loss_variational", "test_error")

#: Statuses that answer what was asked: there is a number, or there is none to be had.
SETTLED = ("converged", "does_not_exist")
#: Statuses of points whose numbers have error bars.
KNOWN = ("converged", "quadrature_limit")


def settled(result: FixedPoint | GeneralFixedPoint | Transition | GeneralTransition) -> bool:
    """Whether a result answers what was asked, by a number or by "there is none".

    A transition does so if its `others` do, too.
    """
    others: tuple[Transition | GeneralTransition, ...] = getattr(result, "others", ())
    return result.status.token in SETTLED and all(map(settled, others))


def point_record(point: FixedPoint) -> dict[str, Any]:
    """A fixed point as the JSON object of the command line.

    ``branch`` is where it ended, ``start`` where it began.  Eigenvalues are pairs
    ``[real, imaginary]``; ``theta`` is ``sigma**2 Q.Q*/d``, ``test_error`` is per token.
    """
    overlaps = {
        name: math.nan if point.overlaps is None else getattr(point.overlaps, name)
        for name in OVERLAPS
    }
    errors = {name: getattr(point.errors, name) for name in (*OVERLAPS, *LOSSES)}
    return {
        "branch": point.branch,
        "start": point.start,
        "alpha": point.alpha,
        **model_record(point.model, point.lam),
        "overlaps": overlaps,
        **{name: getattr(point, name) for name in LOSSES},
        "linear_error": point.linear_error,
        "error": {
            "overlaps": {name: errors[name] for name in OVERLAPS},
            **{name: errors[name] for name in LOSSES},
        },
        "residual": point.residual,
        "iterations": point.iterations,
        "map_evaluations": point.map_evaluations,
        "seconds": point.seconds,
        "status": point.status.token,
        "message": point.message,
        "tol": point.tol,
        "rule": point.rule,
        "stability": _stability_record(point),
    }


def _stability_record(point: FixedPoint) -> dict[str, Any] | None:
    found = point.stability
    if found is None:
        return None
    return {
        "eigenvalues": [[complex(e).real, complex(e).imag] for e in found.eigenvalues],
        "spectral_radius": found.spectral_radius,
        "transverse": {name: found.transverse.get(name) for name in ("m", "theta")},
        "replicon": found.replicon,
        "replicon_error": found.replicon_error,
        "jump_mass": found.jump_mass,
        "stable": bool(found.stable),
    }


def general_point_record(point: GeneralFixedPoint) -> dict[str, Any]:
    """A fixed point of a general model; overlaps are nested lists with the token first."""
    errors = point.errors
    return {
        "branch": point.branch,
        "start": point.start,
        "alpha": point.alpha,
        "lam": point.lam,
        "tokens": point.model.tokens,
        "rank": point.model.rank,
        "teacher_rank": point.model.teacher_rank,
        "overlaps": {name: getattr(point.overlaps, name).tolist() for name in OVERLAPS},
        **{name: getattr(point, name) for name in LOSSES},
        "linear_error": point.linear_error,
        "error": {
            "overlaps": {name: getattr(errors, name).tolist() for name in OVERLAPS},
            **{name: getattr(errors, name) for name in (*LOSSES, "linear_error")},
        },
        "residual": point.residual,
        "iterations": point.iterations,
        "map_evaluations": point.map_evaluations,
        "seconds": point.seconds,
        "status": point.status.token,
        "message": point.message,
        "tol": point.tol,
        "rule": "quasi_monte_carlo",
        "samples": point.samples,
        "scrambles": point.scrambles,
        "missed_wells": point.missed_wells,
        "stability": _general_stability_record(point),
    }


def _general_stability_record(point: GeneralFixedPoint) -> dict[str, Any] | None:
    found = point.stability
    if found is None:
        return None
    unknown = (None, None)
    transverse = {name: found.transverse.get(name, unknown) for name in ("m", "theta")}
    return {
        "eigenvalues": [[value.real, value.imag] for value in found.eigenvalues],
        "spectral_radius": found.spectral_radius,
        "leading_error": found.leading_error,
        "transverse": {name: rate[0] for name, rate in transverse.items()},
        "transverse_error": {name: rate[1] for name, rate in transverse.items()},
        "orbit_directions": found.orbit_directions,
        "replicon": found.replicon,
        "replicon_error": found.replicon_error,
        "jump_mass": found.jump_mass,
        "jump_mass_error": found.jump_mass_error,
        "stable": found.stable,
    }


def general_transition_record(transition: GeneralTransition) -> dict[str, Any]:
    """A transition in alpha of a general model."""
    model = transition.model
    return {
        "kind": transition.kind,
        "tokens": model.tokens,
        "rank": model.rank,
        "teacher_rank": model.teacher_rank,
        "lam": transition.lam,
        **_found(transition),
        "samples": transition.samples,
        "others": [_found(other) for other in transition.others],
    }


def transition_record(transition: Transition, model: AttentionModel, lam: float) -> dict[str, Any]:
    """A transition as the JSON object of the command line."""
    return {
        "kind": transition.kind,
        **model_record(model, lam),
        **_found(transition),
        "others": [_found(other) for other in transition.others],
    }


def _found(transition: Transition | GeneralTransition) -> dict[str, Any]:
    bracket = transition.bracket
    return {
        "alpha": transition.value,
        "error": transition.error,
        "bracket": list(bracket) if math.isfinite(bracket[0]) else None,
        "status": transition.status.token,
        "message": transition.message,
    }


def versions() -> str:
    """The versions that a number depends on, for the provenance of a file."""
    import numba
    import numpy
    import scipy

    packages = (("numpy", numpy), ("scipy", scipy), ("numba", numba))
    return ", ".join(
        [
            f"gamp_theory {__version__}",
            f"python {platform.python_version()}",
            *(f"{name} {package.__version__}" for name, package in packages),
        ]
    )


def model_record(model: AttentionModel, lam: float) -> dict[str, float]:
    """What a document repeats of the model and the ridge."""
    return {"omega": model.omega, "sigma": model.sigma, "lam": lam}
