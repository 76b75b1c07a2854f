"""What the benchmarks have in common: states, the truth at them, errors and clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.slices import slice_averages, slice_rule
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

#: Slices of this tolerance are the truth that other rules are measured against; of the second one
#: in hard places, where finer ones take minutes.
TRUTH, HARD_TRUTH = 1e-9, 5e-8
#: Nothing is said about the speed of one map from fewer seconds than this, nor from one run.
LEAST_SECONDS, LEAST_RUNS = 0.03, 3
#: How far from the state of a rule it is timed, relative: there, slices know the answer already.
BESIDE = 1e-4


@dataclass(frozen=True)
class State:
    """One fixed point, to the digits that a benchmark needs."""

    name: str
    overlaps: Overlaps
    sigma: float = 0.5
    omega: float = 0.3

    @property
    def model(self) -> AttentionModel:
        """The model, with the standard target."""
        return AttentionModel.mixture(omega=self.omega, sigma=self.sigma)


#: The ordinary range: sigma = 0.5, lam = 0.01, omega = 0.3.
ORDINARY = (
    State("semantic   alpha=1", Overlaps(0.0680892, 0.0, 21.6195, 0.0945874)),
    State("positional alpha=1", Overlaps(0.0434472, 0.248241, 16.4294, 0.0)),
    State("semantic   alpha=1.25", Overlaps(0.0816247508, 0.0, 18.3211212, 0.117926388)),
    State("positional alpha=1.25", Overlaps(0.0471005, 0.252411, 14.9034, 0.0)),
    State("semantic   alpha=1.5", Overlaps(0.0939554, 0.0, 16.0190, 0.134547)),
    State("positional alpha=1.5", Overlaps(0.0494713, 0.254733, 13.5928, 0.0)),
    State("semantic   alpha=2", Overlaps(0.114817, 0.0, 12.6684, 0.158159)),
    State("positional alpha=2", Overlaps(0.0510654, 0.258238, 11.3677, 0.0)),
)


@cache
def truth(state: State) -> ChannelAverages:
    """The averages at a state, by slices far finer than what is measured."""
    tol = TRUTH if state in ORDINARY else HARD_TRUTH
    rule = slice_rule(state.model, state.overlaps, tol)
    return slice_averages(state.model, state.overlaps, rule)[0]


def beside(overlaps: Overlaps) -> Overlaps:
    """A state nearby, where a rule has to work."""
    return Overlaps(*(overlaps.as_array() * (1 + BESIDE)))


def error(found: ChannelAverages, true: ChannelAverages) -> float:
    """Largest relative error of q_hat, m_hat, V_hat, theta_hat and the loss."""
    got, exact = found.as_array()[:5], true.as_array()[:5]
    present = exact != 0
    return float(np.max(np.abs(got - exact)[present] / np.abs(exact)[present]))


def cpu_seconds(function: Callable[[], object], most: float = 2.0) -> float:
    """Processor time of one call, the least of several: other work on the machine does not count.

    One call may come first, to compile and to fill caches.
    """
    function()
    best, spent, runs = np.inf, 0.0, 0
    while (spent < LEAST_SECONDS or runs < LEAST_RUNS) and spent < most:
        began = time.process_time()
        function()
        took = time.process_time() - began
        best, spent, runs = min(best, took), spent + took, runs + 1
    return float(best)
