"""State evolution as a dynamics: what undamped message passing does, iterate by iterate."""

from __future__ import annotations

import math
import operator
from typing import overload

import numpy as np

from gamp_theory.channel.general import GeneralRule, general_rule
from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_overlaps
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_prior import token_prior_overlaps

__all__ = ["trajectory"]

PAIR_TOL, GENERAL_TOL = 1e-5, 1e-2
#: Points per scramble in a map of a general model: at first, and at most.
FIRST_SAMPLES, MOST_SAMPLES = 2**9, 2**14


@overload
def trajectory(
    model: AttentionModel,
    alpha: float,
    lam: float,
    start: Overlaps,
    iterations: int,
    tol: float | None = ...,
) -> list[Overlaps]: ...


@overload
def trajectory(
    model: GeneralModel,
    alpha: float,
    lam: float,
    start: TokenOverlaps,
    iterations: int,
    tol: float | None = ...,
) -> list[TokenOverlaps]: ...


def trajectory(
    model: AttentionModel | GeneralModel,
    alpha: float,
    lam: float,
    start: Overlaps | TokenOverlaps,
    iterations: int,
    tol: float | None = None,
) -> list[Overlaps] | list[TokenOverlaps]:
    """Iterates of the undamped map (docs/theory.md, section 2), the start being the first.

    As d grows, message passing that starts from weights with these overlaps, this V and g = 0
    has these overlaps at every iteration (:mod:`gamp_theory.empirical.gamp`).  A rule is made for
    every state, so its cost does not depend on where the dynamics goes.

    Parameters
    ----------
    model : AttentionModel or GeneralModel
    alpha, lam : float
        Samples per dimension, positive; ridge, non-negative.
    start : Overlaps, or TokenOverlaps for a general model
        With V > 0; ``theta**2 = rho q``, the state of Q = Q*, is allowed.  A general model takes
        neither a singular V nor a singular ``q - theta rho^-1 theta^T``.
    iterations : int
        Maps, at least 1.
    tol : float, optional
        Relative accuracy of the average over fields in each map, 1e-5 by default.  For a general
        model the standard error aimed at in each map, relative to the largest entry of q and V and
        to ``sqrt(q)`` and ``sqrt(q rho)`` for m and theta; 1e-2 by default, at most 2**14 points in
        each of 16 scrambles.

    Returns
    -------
    list of Overlaps or of TokenOverlaps
        ``iterations + 1`` states; fewer if the map leads out of the domain (a ridge plus response
        that is not positive), which ends it.

    Raises
    ------
    ValueError
        On bad input.
    """
    general = isinstance(model, GeneralModel)
    if tol is None:
        tol = GENERAL_TOL if general else PAIR_TOL
    least, most = (1e-4, 0.1) if general else (1e-8, 0.01)
    for name, value, allowed, ok in (
        ("alpha", alpha, "> 0", alpha > 0),
        ("lam", lam, ">= 0", lam >= 0),
        ("tol", tol, f"in [{least:g}, {most:g}]", least <= tol <= most),
    ):
        if not (math.isfinite(value) and ok):
            raise ValueError(f"{name} must be {allowed} and finite, got {value!r}")
    if operator.index(iterations) < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations!r}")
    wanted = TokenOverlaps if general else Overlaps
    if not isinstance(start, wanted):
        raise ValueError(f"start must be {wanted.__name__}, got {type(start).__name__}")
    if isinstance(model, GeneralModel):
        assert isinstance(start, TokenOverlaps)
        return _general_trajectory(model, alpha, lam, start, iterations, tol)
    assert isinstance(start, Overlaps)
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


def _general_trajectory(
    model: GeneralModel, alpha: float, lam: float, start: TokenOverlaps, iterations: int, tol: float
) -> list[TokenOverlaps]:
    """The same for a general model; points are added until a map is as accurate as asked for."""
    rule = general_rule(model, start, FIRST_SAMPLES, audit=False)
    states = [start]
    while len(states) <= iterations:
        if rule.at is not states[-1]:
            rule = general_rule(model, states[-1], rule.samples, previous=rule, audit=False)
        try:
            new, error = _general_map(model, alpha, lam, rule)
        except ValueError:  # lam and the response are not positive together
            break
        if error > tol and rule.samples < MOST_SAMPLES:
            rule = general_rule(model, states[-1], 2 * rule.samples, previous=rule, audit=False)
        else:
            states.append(new)
    return states


def _general_map(
    model: GeneralModel, alpha: float, lam: float, rule: GeneralRule
) -> tuple[TokenOverlaps, float]:
    """The map where a rule was made, and its standard error by the jackknife over scrambles."""
    averages = rule.averages(rule.at)
    new = token_prior_overlaps(model.law, averages.conjugates(alpha), lam)
    total, count = averages.values.sum(axis=0), len(averages.values)
    without = [
        token_prior_overlaps(
            model.law, averages.conjugates(alpha, (total - values) / (count - 1)), lam
        )
        for values in averages.values
    ]
    q, rho = float(np.max(new.q)), float(np.max(model.law.rho))
    sizes = {"q": q, "m": math.sqrt(q), "V": float(np.max(new.V)), "theta": math.sqrt(q * rho)}
    error = 0.0
    for name, size in sizes.items():
        spread = np.std([getattr(other, name) for other in without], axis=0)
        error = max(error, float(np.max(spread, initial=0)) * math.sqrt(count - 1) / size)
    return new, error
