"""State evolution as a dynamics: what undamped message passing does, iterate by iterate."""

from __future__ import annotations

import math
import operator

from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_overlaps

__all__ = ["trajectory"]


def trajectory(
    model: AttentionModel,
    alpha: float,
    lam: float,
    start: Overlaps,
    iterations: int,
    tol: float = 1e-5,
) -> list[Overlaps]:
    """Iterates of the undamped map (docs/theory.md, section 2), the start being the first.

    As d grows, message passing that starts from weights with these overlaps, this V and g = 0
    has these overlaps at every iteration (:mod:`gamp_theory.empirical.gamp`).  A rule is made for
    every state, so its cost does not depend on where the dynamics goes.

    Parameters
    ----------
    model : AttentionModel
    alpha, lam : float
        Samples per dimension, positive; ridge, non-negative.
    start : Overlaps
        With V > 0; ``theta**2 = rho q``, the state of Q = Q*, is allowed.
    iterations : int
        Maps, at least 1.
    tol : float
        Relative accuracy of the average over fields in each map.

    Returns
    -------
    list of Overlaps
        ``iterations + 1`` states; fewer if the map leads out of the domain (a ridge plus response
        that is not positive), which ends it.

    Raises
    ------
    ValueError
        On bad input.
    """
    for name, value, allowed, ok in (
        ("alpha", alpha, "> 0", alpha > 0),
        ("lam", lam, ">= 0", lam >= 0),
        ("tol", tol, "in [1e-8, 0.01]", 1e-8 <= tol <= 0.01),
    ):
        if not (math.isfinite(value) and ok):
            raise ValueError(f"{name} must be {allowed} and finite, got {value!r}")
    if operator.index(iterations) < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations!r}")
    start.check_domain(model.rho)
    if start.V <= 0:
        raise ValueError(f"V must be positive at the start, got {start.V!r}")
    channel = PairChannel(model)
    states = [start]
    for _ in range(iterations):
        now = states[-1]
        conjugates = channel.rule(now, tol).averages(now).conjugates(alpha)
        if lam + model.rho * conjugates.V_hat <= 0:
            break
        states.append(prior_overlaps(model, conjugates, lam))
    return states
