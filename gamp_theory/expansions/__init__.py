"""Limits that can be solved, derived with sympy from the loss itself (docs/theory.md, section 8).

Nothing here knows the solver: the loss is written down as a matrix expression, differentiated by
sympy, and averaged over Gaussian fields by trapezoid rules.  What the solver returns in these
limits has to agree.

* the origin Q = 0: its response, growth rates, and the sample ratios where they reach 1 or where it
  ceases to exist (:func:`expand_origin`, :func:`origin_onsets`);
* a target that ignores its fields, omega = 1: the same as formulas (:func:`constant_target`);
* a large ridge: first order in 1/lam (:func:`large_ridge`);
* many samples: the population landscape and its first correction (:func:`population_limit`);
* small sigma: the positional branch to second order (:func:`small_sigma`).
"""

from gamp_theory.expansions.constant import ConstantTarget, constant_target
from gamp_theory.expansions.origin import (
    OriginExpansion,
    OriginOnset,
    expand_origin,
    origin_bound,
    origin_onsets,
)
from gamp_theory.expansions.population import PopulationLimit, population_limit
from gamp_theory.expansions.ridge import LargeRidge, large_ridge
from gamp_theory.expansions.sigma import SmallSigma, small_sigma

__all__ = [
    "ConstantTarget",
    "LargeRidge",
    "OriginExpansion",
    "OriginOnset",
    "PopulationLimit",
    "SmallSigma",
    "constant_target",
    "expand_origin",
    "large_ridge",
    "origin_bound",
    "origin_onsets",
    "population_limit",
    "small_sigma",
]
