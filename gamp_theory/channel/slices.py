"""The slice rule: slower than the plane rule, safe everywhere (docs/numerics.md, "Slices").

The teacher's fields are integrated by Gauss's rules for their own density, in pieces that end where
the prox starts to jump at the origin; the cavity field along parallel lines, each of which is
cut exactly where the globally minimising prox jumps.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel import slices_kernels as kernels
from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.outer import Counts, outer_rule, symmetries, teacher_fields
from gamp_theory.channel.search_kernels import SearchGrid
from gamp_theory.channel.sheet_kernels import MOST_NODES
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import LARGEST_PIECE, gauss_legendre, trapezoid_normal
from gamp_theory.overlaps import Overlaps

__all__ = ["SliceReport", "SliceRule", "slice_averages", "slice_rule"]

#: Smallest width of w given y, relative to sqrt(q): below it averages are taken in the limit.
NARROWEST = 1e-4
#: Gauss-Legendre nodes of a panel in b: at tolerances of 1e-4 and more, and of 1e-7 and less.  A
#: kink near the end of a panel is seen by none: few nodes leave a floor of errors there.
NODES = (8, 16)
B_PANEL = 4.5
B_STEP = 0.5
CELL = 3.0  # widest panels in a
CELL_SHARE = 0.01  # of the tolerance, that the probability mass of such a panel may be off by
SPENT = 1.0  # what panels may add up to, in units of tol
#: Teacher draws along either axis: at a tolerance of 1e-2, and more for each power of ten; by how
#: much more where w is narrow, s less than this times its mean; and how they grow, how often, until
#: what that changes is less than this share of the tolerance.
DRAWS = Counts(8, 5)
DRAWS_PER_DIGIT = Counts(2, 1)
NARROW = 2.0
NARROWER = 6.0  # but no more than this
GROWTH = 1.4
GROWTHS = 10
OUTER_SHARE = 1.5
MOST_DRAWS = 20_000
#: Growth that changes the averages by more than this part of what the last one did has stalled, and
#: so often it may: what is left then is noise, of the panels in b.
STALLS = 0.5
MOST_STALLED = 2
SLOWLY = 3.0
#: How many more draws there are on a line of which no half stands for the other.
WHOLE_LINE = 1.5
THREADS = min(4, os.cpu_count() or 1)
#: Step of the search grid: the coarsest, and at a tolerance of 1e-6 and its power of that.  What a
#: grid misses, wells in narrow valleys, falls faster than the fifth power of the step.
SEARCH_STEPS = (0.16, 0.12, 0.19)
STRAIGHT = 4.0  # |U| from which on its rows are closer
N_AVERAGES = len(fields(ChannelAverages))
LIGHT = 4.0  # weight of a draw, in units of the mean, below which it may err by more
SEARCH_MARGIN = 0.3  # of the search radius, for states near that of the rule


@dataclass(frozen=True, eq=False)
class SliceRule:
    """A frozen slice rule: its averages are a fixed function of the overlaps.

    Attributes
    ----------
    y : array, shape (n, 2)
        Teacher fields.
    weight : array, shape (n,)
        Their weights.
    counts : Counts
        How many along either axis.
    state : slices_kernels.SliceState
        What it was made for.
    draws : array, shape (n, len(OUTPUTS))
        The averages of each draw there.
    radius : array, shape (n,)
        How far the prox can be from the window of w.
    ends : array, shape (n, p + 1)
        Ends of the panels in b of each draw, in standard deviations.
    panels : array of int, shape (n,)
        How many there are; 0 where the trapezoid rule over b will do.
    grid : slices_kernels.SliceGrid
        Nodes of a panel in b and in U, cut.
    search : search_kernels.SearchGrid
        The search grid.
    outer_error : array
        By how much the averages change with more teacher draws, in the order of ChannelAverages.
    """

    y: NDArray[np.float64]
    weight: NDArray[np.float64]
    counts: Counts
    state: kernels.SliceState
    draws: NDArray[np.float64]
    radius: NDArray[np.float64]
    ends: NDArray[np.float64]
    panels: NDArray[np.int64]
    grid: kernels.SliceGrid
    search: SearchGrid
    outer_error: NDArray[np.float64]

    @property
    def totals(self) -> NDArray[np.float64]:
        """What is added up, at the state that the rule was made for."""
        return self.weight @ self.draws

    @property
    def slices(self) -> int:
        """Number of slices that one evaluation integrates."""
        panels = self.panels * self.grid.b_gauss.size
        few = self.grid.zeta.size // (2 if self.grid.mirror else 1)
        return int(np.where(self.panels, panels, few).sum())


@dataclass(frozen=True)
class SliceReport:
    """What the slice rule sees beside the averages.

    Attributes
    ----------
    mass : float
        Integral of one; its distance from one measures cuts and slices.
    slope : float
        ``-E sum dg_l/dw_l`` from pointwise derivatives only: V_hat without the jumps.
    contraction : float
        ``E |dprox/dw - 1|_F**2``: kappa/alpha, regular part.  Crude where there are jumps, at
        whose ends it is singular: :mod:`gamp_theory.channel.contraction` resolves that.
    jump_mass : float
        J, summed over the jumps.
    unresolved : float
        Probability mass that slices lack.
    """

    mass: float
    slope: float
    contraction: float
    jump_mass: float
    unresolved: float


def width(model: AttentionModel, overlaps: Overlaps) -> float:
    """``s = sqrt(q - theta**2/rho)``, the width of the cavity field given the teacher's."""
    gap = overlaps.q - overlaps.theta**2 / model.rho
    return float(np.sqrt(max(gap, NARROWEST**2 * overlaps.q)))


def _state(model: AttentionModel, overlaps: Overlaps) -> kernels.SliceState:
    a1, a2 = model.target.contrasts
    return kernels.SliceState(
        model.rho / 2,
        overlaps.V,
        model.omega,
        a1,
        a2,
        overlaps.m,
        overlaps.theta / model.rho,
        width(model, overlaps),
    )


def slice_averages(
    model: AttentionModel, overlaps: Overlaps, rule: SliceRule
) -> tuple[ChannelAverages, SliceReport]:
    """Averages by the given rule, at overlaps near those that it was made for."""
    state = _state(model, overlaps)
    draws = rule.draws
    if state != rule.state:
        (draws,) = _spread(
            lambda y, radius, ends, panels: (
                kernels.frozen_averages(y, radius, ends, panels, state, rule.grid, rule.search),
            ),
            (rule.y, rule.radius, rule.ends, rule.panels),
        )
    totals = rule.weight @ draws
    mass, slope, contraction, jump_mass = totals[[0, 7, 8, 9]].tolist()
    return _averages(model, overlaps, totals), SliceReport(
        mass,
        slope,
        contraction,
        jump_mass,
        float(totals[kernels.UNRESOLVED]),
    )


def _averages(
    model: AttentionModel, overlaps: Overlaps, totals: NDArray[np.float64]
) -> ChannelAverages:
    """The averages out of what the kernels add up (`slices_kernels.OUTPUTS`)."""
    gg, g_m, g_y, score, loss, loss_omega = totals[1:7].tolist()
    along_m, along_y = totals[10:12].tolist()
    variance = width(model, overlaps) ** 2
    V_hat = score / variance
    return ChannelAverages(
        q_hat=gg,
        m_hat=g_m if overlaps.m else 0.0,
        V_hat=V_hat,
        theta_hat=(g_y + overlaps.theta * V_hat) / model.rho if overlaps.theta else 0.0,
        loss=loss,
        loss_omega=loss_omega,
        m_slope=along_m / variance,
        theta_slope=(along_y / (model.rho * variance) + V_hat) / model.rho,
    )


def slice_rule(
    model: AttentionModel,
    overlaps: Overlaps,
    tol: float,
    *,
    even: bool = True,
    counts: Counts | None = None,
    least: Counts | None = None,
) -> SliceRule:
    """A slice rule for states near `overlaps`, adapted to them once.

    Panels in b are bisected until the error estimated for each from the decay of its Legendre
    coefficients is below its share of `tol`; along either axis of the teacher's fields there are so
    many draws that :data:`GROWTH` times as many change nothing that matters.

    Parameters
    ----------
    model : AttentionModel
    overlaps : Overlaps
    tol : float
        Relative error aimed at in the averages, between 1e-2 and 1e-9.
    even : bool
        Whether the symmetries of `overlaps` may thin the teacher draws; say False if the rule is
        to be used off the subspaces m = 0 and theta = 0.
    counts : Counts, optional
        Teacher draws along either axis, if they are not to be chosen; then nothing is known of
        the error that they make.
    least : Counts, optional
        Where the choice begins: what a coarser rule has taken nearby.
    """
    problem = _Problem.make(model, overlaps, tol, even)
    crude = _assemble(problem, DRAWS, np.zeros(kernels.N_OUT))
    tolerance = SPENT * tol * _scales(crude.totals, problem.state)
    if even:  # what vanishes by symmetry does not do so over the draws that represent the plane
        tolerance[[2, 3]] *= [overlaps.m != 0, overlaps.theta != 0]
    if counts is not None:
        return _assemble(problem, counts, tolerance)
    counts = _first_counts(problem, tol, least or DRAWS)
    rule = _assemble(problem, counts, tolerance)
    before, stalled = math.inf, 0
    for growth in range(GROWTHS + 1):
        U, W = _grown(counts.U), _grown(counts.W)
        more = [_assemble(problem, Counts(*c), tolerance) for c in ((U, counts.W), (counts.U, W))]
        change = [_change(finer, rule, tolerance) for finer in more]
        stalled += max(change) > STALLS * before
        before = max(change)
        spent = growth == GROWTHS or stalled == MOST_STALLED or rule.weight.size > MOST_DRAWS
        if before <= OUTER_SHARE or spent:
            break
        # one at a time: what is too coarse along one axis is noise along the other
        rule = more[int(np.argmax(change))]
        counts = rule.counts
    here = _averages(model, overlaps, rule.totals).as_array()
    changes = [_averages(model, overlaps, finer.totals).as_array() - here for finer in more]
    error = np.abs(changes).sum(axis=0)
    # where more draws help slowly, what they change is a part of what is missing
    return replace(rule, outer_error=error if before <= OUTER_SHARE else SLOWLY * error)


def _change(finer: SliceRule, rule: SliceRule, tolerance: NDArray[np.float64]) -> float:
    """By how much more draws change what matters, in units of its tolerance."""
    matters = tolerance > 0
    return float(np.max(abs(finer.totals - rule.totals)[matters] / tolerance[matters]))


def _grown(count: int) -> int:
    return min(math.ceil(GROWTH * count), LARGEST_PIECE)


def _first_counts(problem: _Problem, tol: float, least: Counts) -> Counts:
    """Teacher draws along either axis to begin with."""
    digits = max(0.0, -2 - math.log10(tol))
    narrow = abs(problem.state.tilt) * problem.model.sigma / problem.state.s
    times = min(max(1.0, narrow / NARROW), NARROWER)
    line = 1.0 if problem.swap else WHOLE_LINE
    return Counts(
        max(least.U, math.ceil(times * (DRAWS.U + DRAWS_PER_DIGIT.U * digits))),
        max(least.W, math.ceil(times * line * (DRAWS.W + DRAWS_PER_DIGIT.W * digits))),
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """What the construction of a rule is about."""

    model: AttentionModel
    V: float
    state: kernels.SliceState
    flip: bool
    swap: bool
    grid: kernels.SliceGrid
    search: SearchGrid

    @classmethod
    def make(cls, model: AttentionModel, overlaps: Overlaps, tol: float, even: bool) -> _Problem:
        flip, swap = symmetries(model, overlaps, even)
        state = _state(model, overlaps)
        # a ball of radius R in four Gaussian variables leaves out exp(-R^2/2) (1 + R^2/2)
        cut = float(np.sqrt(2 * np.log(1 / tol) + 4 * np.log(np.log(1 / tol)) + 6))
        nodes = _nodes(tol)
        panel = gauss_legendre(nodes, 0.0, 1.0)
        cell = gauss_legendre(MOST_NODES, 0.0, 1.0)
        slices = trapezoid_normal(B_STEP * (tol / 1e-6) ** 0.05, cut)
        grid = kernels.SliceGrid(
            slices.nodes,
            slices.weights,
            panel.nodes,
            panel.weights,
            B_PANEL,
            _legendre(nodes),
            cell.nodes,
            cell.weights,
            cut,
            CELL,
            CELL_SHARE * tol,
            even and overlaps.m == 0 == overlaps.theta,
        )
        ring = np.concatenate(
            [
                teacher_fields(model, np.linspace(0, cut, 7), np.full(7, phi))
                for phi in np.linspace(0, 2 * np.pi / ((1 + flip) * (1 + swap)), 9)
            ]
        )
        radius = kernels.search_radii(ring, state, cut, _candidates()).max() + SEARCH_MARGIN
        centre = np.sqrt(2) * (cut * model.sigma * abs(state.tilt) + abs(state.m))
        reach = float(radius + centre + cut * state.s)
        return cls(
            model,
            overlaps.V,
            state,
            flip,
            swap,
            grid,
            _search_grid(reach, _search_step(tol)),
        )


def _assemble(problem: _Problem, counts: Counts, tolerance: NDArray[np.float64]) -> SliceRule:
    """The rule with so many teacher draws; with a tolerance of zero nothing in b is refined."""
    cut = problem.grid.cut
    y, weight = outer_rule(
        problem.model, problem.V, counts, cut, flip=problem.flip, swap=problem.swap
    )
    radius = kernels.search_radii(y, problem.state, cut, problem.search.candidates)
    radius += SEARCH_MARGIN
    # every draw may err by its share: the weights sum to one
    share = np.maximum(1.0, LIGHT / (weight.size * weight))[:, None]
    draws, ends, panels = _spread(
        lambda y, radius, allowed: kernels.refined_averages(
            y, radius, allowed, problem.state, problem.grid, problem.search
        ),
        (y, radius, 0.3 * tolerance * share),
    )
    return SliceRule(
        y,
        weight,
        counts,
        problem.state,
        draws,
        radius,
        ends[:, : panels.max() + 1],
        panels,
        problem.grid,
        problem.search,
        np.zeros(N_AVERAGES),
    )


def _spread(
    kernel: Callable[..., tuple[NDArray, ...]], nodes: tuple[NDArray, ...]
) -> tuple[NDArray, ...]:
    """Call a kernel of teacher draws in threads, each with every n-th draw, and sort the answers.

    Draws do not know of each other: the answer does not depend on the number of threads.
    """
    draws = len(nodes[0])
    workers = min(THREADS, draws)
    if workers < 2:
        return kernel(*nodes)
    parts = [[np.ascontiguousarray(x[i::workers]) for x in nodes] for i in range(workers)]
    answers = list(_pool().map(lambda part: kernel(*part), parts))
    merged = []
    for pieces in zip(*answers, strict=True):
        whole = np.empty((draws, *pieces[0].shape[1:]), pieces[0].dtype)
        for i, piece in enumerate(pieces):
            whole[i::workers] = piece
        merged.append(whole)
    return tuple(merged)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="slices")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork: a child makes its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


@functools.cache
def _candidates() -> NDArray[np.float64]:
    """Points (U, W) with their contrasts, each standing for (-U, -W) too, that bound the prox."""
    U, W = np.meshgrid(np.arange(0, 11) * 0.5, np.arange(-10, 11) * 0.5, indexing="ij")
    return np.stack([U, W, *_student(U, W)], axis=-1).reshape(-1, 4)


def _nodes(tol: float) -> int:
    few, many = NODES
    return few + round((many - few) * min(1.0, max(0.0, np.log10(1e-4 / tol) / 3)))


def _search_step(tol: float) -> float:
    coarsest, step, power = SEARCH_STEPS
    return min(coarsest, step * (tol / 1e-6) ** power)


def _search_grid(reach: float, step: float) -> SearchGrid:
    """Rows up to ``U = reach``; at large U rows and their nodes are closer to each other."""
    rows = [0.0]
    while rows[-1] < reach:
        rows.append(rows[-1] + step * min(1.0, STRAIGHT / max(rows[-1], 1e-9)))
    U = np.array(rows)
    spacing = step * np.minimum(1.5, STRAIGHT / np.maximum(U, 1e-9))
    half = int(np.ceil(reach / spacing.min())) + 1
    W = spacing[:, None] * np.arange(-half, half + 1)
    return SearchGrid(U, spacing, _student(U[:, None], W)[0], _candidates())


def _student(U: NDArray[np.float64], W: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """The student contrasts ``tanh((U**2 +- U W)/2)``."""
    U, W = np.broadcast_arrays(U, W)
    s = softmax_contrasts(np.stack([W + U, W - U], axis=-1) * np.sqrt(0.5))
    return np.ascontiguousarray(s[..., 0]), np.ascontiguousarray(s[..., 1])


def _legendre(n: int) -> NDArray[np.float64]:
    """Matrix (degree, node) that turns samples at Gauss nodes into Legendre coefficients."""
    x, w = np.polynomial.legendre.leggauss(n)
    return np.polynomial.legendre.legvander(x, n - 1).T * w * (np.arange(n)[:, None] + 0.5)


def _scales(totals: NDArray[np.float64], state: kernels.SliceState) -> NDArray[np.float64]:
    """What an error of each output is measured against; 0 where it does not matter.

    The size of the average itself, or a fiftieth of its Cauchy-Schwarz bound where that is
    more: averages that nearly cancel need not be known to a relative error.
    """
    gg, loss = totals[1], totals[5]
    size = np.sqrt(gg)
    natural = np.array([gg, size, size * np.sqrt(2 * state.c), size * state.s, loss])
    scales = np.zeros(kernels.N_OUT)
    scales[1:6] = np.maximum(abs(totals[1:6]), natural / 50)
    return scales
