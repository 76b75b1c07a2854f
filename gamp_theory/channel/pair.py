"""The channel of two tokens, rank one: picks a rule, freezes it, and says how far to trust it.

Two deterministic rules give the same averages (docs/numerics.md).  The plane rule is the fast
one; it knows where it can not be used.  The slice rule takes over there by itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.plane import (
    PlaneDiagnostics,
    PlaneRule,
    PlaneUnusable,
    outer_folds,
    plane_averages,
    plane_rule,
)
from gamp_theory.channel.slices import SliceRule, slice_averages, slice_rule
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

__all__ = ["PairChannel", "PairRule"]

#: Accuracy of the plane rule by level, and of the finest slices worth their time.
PLANE_TOLERANCES = (3e-4, 3e-5, 1e-5, 1e-6, 3e-7, 5e-8, 1e-8)
FINEST_SLICES = 2e-9
#: Slices of a rule beyond which it is not refined further: a few seconds an evaluation.
MOST_SLICES = 1_000_000
#: Two neighbouring rules can err alike: what their difference is multiplied by.
SAFETY = 2.0
#: And by chance they can be equal; two levels of the plane rule differ by more than this.
TWO_LEVELS = 8.0
#: By how much the companion of a slice rule is coarser.
COARSER = 5.0
#: By chance two rules can agree: an error is at least this part of what a rule was made for.
LEAST_OF_TOLERANCE = 0.3
#: What a truncated hole can cost, relative to the density that was cut off.
TRUNCATION = 5.0
#: What a hole whose chords miss its edge can cost, relative to its spurious mass, and what all of
#: them can, relative to theirs: where V sigma**2/2 > 3 and q is small they miss alike, and the loss
#: is off by 22 to 44 times that mass.
HOLE = 30.0
HOLES = 50.0
#: Spurious mass of the plane that is allowed, relative to the tolerance.
MASS = 0.1
#: What the tests of the plane rule can not tell from rounding.
LEAST_LOSS = 1e-7
#: Levels of the plane rule that are tried where a coarser one fails its tests.
LATER_LEVELS = (4, 5, 6)


@dataclass(frozen=True)
class PairRule:
    """A frozen rule: its averages are a fixed, smooth function of the overlaps.

    Attributes
    ----------
    model : AttentionModel
    at : Overlaps
        The state it was made for.
    tol : float
        The relative accuracy it was made for.
    nodes : PlaneRule or SliceRule
    even : bool
        Whether it uses the symmetries of the state.
    """

    model: AttentionModel
    at: Overlaps
    tol: float
    nodes: PlaneRule | SliceRule
    even: bool

    @property
    def kind(self) -> str:
        """``"plane"`` or ``"slices"``."""
        return "plane" if isinstance(self.nodes, PlaneRule) else "slices"

    @property
    def accuracy(self) -> float:
        """What the nodes were made for, relative; a plane can be better than `tol`."""
        return PLANE_TOLERANCES[self.nodes.level] if isinstance(self.nodes, PlaneRule) else self.tol

    @property
    def cost(self) -> int:
        """Slices that one evaluation integrates, about ten microseconds each; 0 for a plane."""
        return self.nodes.slices if isinstance(self.nodes, SliceRule) else 0

    @property
    def comparisons(self) -> int:
        """Evaluations that :meth:`error` takes: the coarser rules, and once more its own."""
        return 1 + (min(2, self.nodes.level) if isinstance(self.nodes, PlaneRule) else 1)

    def for_model(self, model: AttentionModel) -> PairRule:
        """The same nodes for a model nearby: a smooth function of omega and sigma, too."""
        nodes = self.nodes
        if isinstance(nodes, SliceRule):  # those of a plane are in units of sigma
            nodes = replace(nodes, y=nodes.y * (model.sigma / self.model.sigma))
        return replace(self, model=model, nodes=nodes)

    def averages(self, overlaps: Overlaps) -> ChannelAverages:
        """The averages at overlaps near those that the rule was made for."""
        return _evaluate(self.model, overlaps, self.nodes)[0]

    def error(self, overlaps: Overlaps, averages: ChannelAverages) -> ChannelAverages:
        """Signed estimate of the error of `averages`: a coarser rule against this one.

        What the two have in common (holes cut short, slices with a piece missing, draws) is added
        with the sign of the difference.
        """
        if isinstance(self.nodes, PlaneRule):
            difference = self._between_planes(overlaps, self.nodes, averages.as_array())
        else:
            difference = self._between_slices(overlaps, self.nodes)
        least = LEAST_OF_TOLERANCE * self.accuracy * _sizes(self.model, averages.as_array())
        # what a coarser rule of the kind has in common with this one
        shared = _evaluate(self.model, overlaps, self.nodes)[1]
        size = np.maximum(np.abs(difference), least) + shared
        return ChannelAverages.from_array(np.copysign(size, difference))

    def _between_planes(
        self, overlaps: Overlaps, nodes: PlaneRule, fine: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Planes one and two levels coarser against this one."""
        flip = None if self.even else False
        differences = []
        for level in range(nodes.level - 1, max(nodes.level - 3, -1), -1):
            coarse = plane_rule(self.model, self.at, level, flip=flip)
            differences.append(_evaluate(self.model, overlaps, coarse)[0].as_array() - fine)
        one, *two = differences
        sizes = [SAFETY * abs(one), *(abs(d) / TWO_LEVELS for d in two)]
        return np.copysign(np.max(sizes, axis=0), one)

    def _between_slices(self, overlaps: Overlaps, nodes: SliceRule) -> NDArray[np.float64]:
        """Slices of a larger tolerance against these, with as many teacher draws.

        What more draws would change the rule knows (:func:`_evaluate`).
        """
        tol = min(COARSER * self.tol, 0.01)
        coarse_nodes = slice_rule(self.model, overlaps, tol, even=self.even, counts=nodes.counts)
        fine = _sliced(self.model, overlaps, nodes)[0]
        coarse = _sliced(self.model, overlaps, coarse_nodes)[0]
        return SAFETY * (coarse.as_array() - fine.as_array())


class PairChannel:
    """Averages over the fields of a two-token, rank-one model.

    Parameters
    ----------
    model : AttentionModel
    """

    def __init__(self, model: AttentionModel) -> None:
        self.model = model

    def rule(
        self,
        overlaps: Overlaps,
        tol: float,
        *,
        slices_tol: float | None = None,
        even: bool = True,
        checked: bool = True,
        after: PairRule | None = None,
    ) -> PairRule:
        """A rule of relative accuracy about `tol` for states near `overlaps`.

        The plane rule where it is sound, the slice rule elsewhere.

        Parameters
        ----------
        overlaps : Overlaps
        tol : float
            Between 1e-2 and 1e-8.
        slices_tol : float, optional
            The same for the slice rule, if that is what it comes to.
        even : bool
            Whether the states it will be used for share the symmetries of `overlaps`; say False
            for differences out of the subspaces m = 0 and theta = 0.
        checked : bool
            Whether the plane rule must pass its own tests; a search may do without.
        after : PairRule, optional
            As for :meth:`slices`.
        """
        plane = self.plane(overlaps, tol, even=even, checked=checked)
        return plane or self.slices(overlaps, slices_tol or tol, even=even, after=after)

    def plane(
        self, overlaps: Overlaps, tol: float, *, even: bool = True, checked: bool = True
    ) -> PairRule | None:
        """The plane rule of :meth:`rule`; None where it is not sound."""
        level = max(1, int(np.searchsorted(-np.array(PLANE_TOLERANCES), -tol)))
        # where holes are hard to follow, a finer plane is still far cheaper than slices
        for attempt in (level, *(later for later in LATER_LEVELS if later > level)):
            if attempt == len(PLANE_TOLERANCES):
                break
            try:
                nodes = plane_rule(self.model, overlaps, attempt, flip=None if even else False)
            except PlaneUnusable:
                break
            if not checked or self._sound(overlaps, nodes, tol):
                return PairRule(self.model, overlaps, tol, nodes, even)
        return None

    def slices(
        self,
        overlaps: Overlaps,
        tol: float,
        *,
        even: bool = True,
        after: PairRule | None = None,
    ) -> PairRule:
        """The slice rule, whatever the plane rule could do.

        Parameters
        ----------
        overlaps : Overlaps
        tol : float
        even : bool
            As for :meth:`rule`.
        after : PairRule, optional
            A rule for states nearby, no finer: its numbers of teacher draws will be needed, too.
        """
        tol = min(max(tol, FINEST_SLICES), 0.01)
        least = after.nodes.counts if after and isinstance(after.nodes, SliceRule) else None
        nodes = slice_rule(self.model, overlaps, tol, even=even, least=least)
        return PairRule(self.model, overlaps, tol, nodes, even)

    def _sound(self, overlaps: Overlaps, nodes: PlaneRule, tol: float) -> bool:
        """Whether nothing that the plane rule can see of itself speaks against it."""
        if TRUNCATION * nodes.truncation > tol:
            return False
        _, seen = _planed(self.model, overlaps, nodes)
        lost, most = _shared(seen), max(tol, LEAST_LOSS)
        if lost >= most or abs(seen.mass) >= MASS * tol:
            return False
        coarse = nodes if nodes.level <= 1 else plane_rule(self.model, overlaps, 0)
        return lost + outer_folds(self.model, overlaps, coarse) < most


#: The last averages are needed once more: by tests of a rule, and by estimates of its error.
_planed = functools.lru_cache(maxsize=8)(plane_averages)
_sliced = functools.lru_cache(maxsize=4)(slice_averages)


def _evaluate(
    model: AttentionModel, overlaps: Overlaps, rule: PlaneRule | SliceRule
) -> tuple[ChannelAverages, NDArray[np.float64]]:
    """Averages, and estimates of the errors that a coarser rule of the kind may share."""
    if isinstance(rule, SliceRule):
        averages, report = _sliced(model, overlaps, rule)
        unresolved = report.unresolved * _sizes(model, averages.as_array())
        return averages, SAFETY * rule.outer_error + unresolved
    averages, diagnostics = _planed(model, overlaps, rule)
    return averages, _shared(diagnostics) * _sizes(model, averages.as_array())


def _sizes(model: AttentionModel, averages: NDArray[np.float64]) -> NDArray[np.float64]:
    """What relative errors are relative to.

    Twice the loss for its derivative in omega, and V_hat for slopes: these may cancel.
    """
    sizes = np.abs(averages)
    sizes[5] = max(sizes[5], 2 * sizes[4])
    sizes[6:] = np.maximum(sizes[6:], sizes[2] / np.array([1.0, model.rho]))
    return sizes


def _shared(seen: PlaneDiagnostics) -> float:
    """Relative error from holes cut short and from chords that miss the edge of a hole."""
    holes = max(HOLE * seen.hole_mass, HOLES * abs(seen.holes_mass))
    return TRUNCATION * seen.truncation + holes
