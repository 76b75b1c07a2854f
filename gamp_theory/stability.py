"""Stability of a fixed point: the Jacobian of the map, the replicon, the jump mass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.contraction import contraction
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

__all__ = [
    "MapJacobian",
    "Stability",
    "contracted",
    "growth_rates",
    "map_jacobian",
    "origin_stability",
    "spectrum",
    "stability",
]

Vector = NDArray[np.float64]
#: Difference step, relative in the overlaps.
STEP = 3e-4


@dataclass(frozen=True)
class Stability:
    """What is known of the stability of a fixed point (docs/theory.md, section 6).

    Attributes
    ----------
    eigenvalues : tuple of complex
        Of the Jacobian of the undamped map in (q, m, V, theta), by decreasing real part.  The
        branch changes stability only where a real one crosses +1; one below -1 says that the
        undamped iteration oscillates, which damping cures.
    spectral_radius : float
        Largest modulus: undamped message passing can converge only where it is below 1.
    transverse : dict
        Eigenvalues that lead out of the subspaces ``m = 0`` and ``theta = 0``; None where the
        fixed point does not lie in that subspace.
    replicon : float
        ``kappa = alpha E |d prox/d w - 1|_F^2``, regular part: the growth of a random
        perturbation where the prox does not jump.
    replicon_error : float
        Its estimated error.
    jump_mass : float
        J, the rate at which the prox jumps; replica symmetry is broken wherever J > 0.
    stable : bool
        No eigenvalue has a real part of 1 or more.
    """

    eigenvalues: tuple[complex, ...]
    spectral_radius: float
    transverse: dict[str, float | None]
    replicon: float
    replicon_error: float
    jump_mass: float
    stable: bool


@dataclass(frozen=True, eq=False)
class MapJacobian:
    """Jacobian of the undamped map in (q, m, V, theta), by differences of a frozen rule.

    Attributes
    ----------
    matrix : array, shape (4, 4)
        Zero where symmetry forbids an entry.
    evaluations : int
        Maps that it took.
    """

    matrix: Vector
    evaluations: int
    transverse: dict[str, float | None] = field(default_factory=dict)


def growth_rates(
    rho: float, averages: ChannelAverages, alpha: float, lam: float
) -> dict[str, float]:
    """How the map multiplies a small m, and a small theta: ``d F_m/d m`` and ``d F_theta/d theta``.

    They are eigenvalues of the Jacobian where m, or theta, is 0; by Stein's lemma they are
    averages at the state itself (docs/theory.md, section 6).

    Parameters
    ----------
    rho : float
        ``sigma**2``.
    averages : ChannelAverages
        At the state.
    alpha, lam : float
    """
    D = lam + alpha * rho * averages.V_hat
    return {
        "m": alpha * averages.m_slope / D,
        "theta": alpha * rho**2 * averages.theta_slope / D,
    }


def map_jacobian(
    image: Callable[[Vector], Vector], x: Vector, rho: float, growth: Mapping[str, float]
) -> MapJacobian:
    """Jacobian at `x`, block by block.

    A component that is exactly 0 (m or theta) spans a subspace that the map leaves only along
    itself: by symmetry its row and column vanish but for the diagonal.

    Parameters
    ----------
    image : callable
        The map.
    x : array, shape (4,)
    rho : float
        ``sigma**2``.
    growth : mapping
        The diagonal for ``m`` and ``theta`` where they are 0 (:func:`growth_rates`).
    """
    matrix = np.zeros((4, 4))
    transverse: dict[str, float | None] = {"m": None, "theta": None}
    inside = [i for i in range(4) if x[i] != 0]
    evaluations = 0
    gap = x[0] - x[3] ** 2 / rho
    for j in inside:
        step = STEP * abs(x[j])
        if j in (0, 3):  # stay well inside theta**2 < rho q
            step = min(step, 0.1 * gap / (1.0 if j == 0 else 2 * abs(x[3]) / rho))
        up, down = x.copy(), x.copy()
        up[j] += step
        down[j] -= step
        matrix[:, j] = (image(up) - image(down)) / (2 * step)
        evaluations += 2
    for j, name in ((1, "m"), (3, "theta")):
        if x[j] == 0:
            matrix[j, j] = transverse[name] = growth[name]
    return MapJacobian(matrix, evaluations, transverse)


def stability(
    model: AttentionModel, overlaps: Overlaps, alpha: float, jacobian: MapJacobian
) -> Stability:
    """Assemble the stability of a fixed point from the Jacobian of its map.

    Parameters
    ----------
    model : AttentionModel
    overlaps : Overlaps
        The fixed point.
    alpha : float
    jacobian : MapJacobian
    """
    return contracted(spectrum(jacobian), model, overlaps, alpha)


def contracted(
    known: Stability, model: AttentionModel, overlaps: Overlaps, alpha: float
) -> Stability:
    """The same with replicon and jump mass."""
    regular = contraction(model, overlaps)
    return replace(
        known,
        replicon=alpha * regular.value,
        replicon_error=alpha * regular.error,
        jump_mass=regular.jump_mass,
    )


def spectrum(jacobian: MapJacobian) -> Stability:
    """What the Jacobian of the map alone says of stability; replicon and jump mass are NaN."""
    values = np.linalg.eigvals(jacobian.matrix)
    values = values[np.argsort(-values.real, kind="stable")]
    return Stability(
        eigenvalues=tuple(complex(value) for value in values),
        spectral_radius=float(np.max(np.abs(values))),
        transverse=jacobian.transverse,
        replicon=math.nan,
        replicon_error=math.nan,
        jump_mass=math.nan,
        stable=bool(np.all(values.real < 1)),
    )


def origin_stability(growth: dict[str, float]) -> Stability:
    """Stability of Q = 0 from its growth rates in q, m and theta; V only relaxes.

    The growth rate in q is the replicon: a random perturbation is a change of q.
    """
    values = tuple(complex(growth[name]) for name in ("q", "m", "theta"))
    values = tuple(sorted(values, key=lambda value: -value.real))
    return Stability(
        eigenvalues=values,
        spectral_radius=max(abs(value) for value in values),
        transverse={"m": growth["m"], "theta": growth["theta"]},
        replicon=growth["q"],
        replicon_error=1e-10,
        jump_mass=0.0,
        stable=all(value.real < 1 for value in values),
    )
