"""The slice rule: slower than the plane rule, safe everywhere (docs/numerics.md, "Slices").

The teacher field is integrated in polar coordinates, with radial panels that end where the
prox starts to jump at the origin; the cavity field along parallel lines, each of which is
cut exactly where the globally minimising prox jumps.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel import slices_kernels as kernels
from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.outer import onsets, symmetry, teacher_fields
from gamp_theory.channel.search_kernels import SearchGrid
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import gauss_legendre, trapezoid_normal
from gamp_theory.overlaps import Overlaps

__all__ = ["SliceReport", "SliceRule", "slice_averages", "slice_rule"]

#: Smallest width of w given y, relative to sqrt(q): below it averages are taken in the limit.
NARROWEST = 1e-4
#: Gauss-Legendre nodes of a panel, radial or in b: at tolerances of 1e-4 and more, and of 1e-7 and
#: less.  A kink near the end of a panel is seen by none: few nodes leave a floor of errors there.
NODES = (8, 16)
#: Widest radial panels, in standard deviations: at tolerances of 1e-4 and more, and of less.  In
#: wide panels the smooth part of the integrand hides kinks from the estimate of the error.
R_PANEL = (3.5, 1.75)
B_PANEL = 4.5
B_STEP = 0.5
CELL = 3.0  # widest panels in a, and their nodes
CELL_NODES = 8
CELL_SHARE = 0.01  # of the tolerance, that the probability mass of such a panel may be off by
R_BISECTIONS = 6
FEWEST_ANGLES = 32  # on the circle; doubled until the averages no longer change
DOUBLINGS = 4
ANGLE_SHARE = 8.0  # how far they may, in units of what is spent: the last angles do better
SPENT = 1.0  # what panels may add up to, in units of tol
THREADS = min(4, os.cpu_count() or 1)
WIDEST_SMEAR = 0.25  # of an onset, in radius, that radial panels have to know of
#: Step of the search grid: the coarsest, and at a tolerance of 1e-6 and its power of that.  What a
#: grid misses, wells in narrow valleys, falls faster than the fifth power of the step.
SEARCH_STEPS = (0.16, 0.12, 0.19)
STRAIGHT = 4.0  # |U| from which on its rows are closer
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
    ray : array of int, shape (n,)
        Which angle they are at, out of equidistant ones.
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
    """

    y: NDArray[np.float64]
    weight: NDArray[np.float64]
    ray: NDArray[np.int64]
    state: kernels.SliceState
    draws: NDArray[np.float64]
    radius: NDArray[np.float64]
    ends: NDArray[np.float64]
    panels: NDArray[np.int64]
    grid: kernels.SliceGrid
    search: SearchGrid

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

    @property
    def angles(self) -> int:
        """Number of intervals between the first angle and the last."""
        return int(self.ray.max())

    def thinned(self, every: int) -> NDArray[np.float64]:
        """Weights of the rule with every second, fourth, ... angle only."""
        return self.weight * np.where(self.ray % every == 0, every, 0)


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
    fewer : dict of int to ChannelAverages
        The averages with so many angles only: all of them, half, a quarter, ...
    """

    mass: float
    slope: float
    contraction: float
    jump_mass: float
    unresolved: float
    fewer: dict[int, ChannelAverages]


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
    fewer, every = {}, 1
    while rule.angles % every == 0:
        fewer[rule.angles // every] = _averages(model, overlaps, rule.thinned(every) @ draws)
        every *= 2
    totals = rule.weight @ draws
    mass, slope, contraction, jump_mass = totals[[0, 7, 8, 9]].tolist()
    return _averages(model, overlaps, totals), SliceReport(
        mass,
        slope,
        contraction,
        jump_mass,
        float(totals[kernels.UNRESOLVED]),
        fewer,
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
) -> SliceRule:
    """A slice rule for states near `overlaps`, adapted to them once.

    Panels, radial and in b, are bisected until the error estimated for each from the decay of
    its Legendre coefficients is below its share of `tol`; angles are doubled until the averages
    stand.

    Parameters
    ----------
    model : AttentionModel
    overlaps : Overlaps
    tol : float
        Relative error aimed at in the averages, between 1e-2 and 1e-9.
    even : bool
        Whether the symmetries of `overlaps` may thin the teacher draws; say False if the rule is
        to be used off the subspaces m = 0 and theta = 0.
    """
    problem = _Problem.make(model, overlaps, tol, even)
    points = max(2, FEWEST_ANGLES // problem.fold)
    some = np.linspace(0, 1, points + 1)
    few = some[:: points // 2]  # for the sizes of the averages
    crude = _assemble(problem, _refine(problem, few, np.zeros(kernels.N_OUT)))
    tolerance = SPENT * tol * _scales(crude.totals, problem.state)
    if even:  # what vanishes by symmetry does not do so over the draws that represent the plane
        tolerance[[2, 3]] *= [overlaps.m != 0, overlaps.theta != 0]
    matters = tolerance > 0
    rays = _refine(problem, some, tolerance)
    last = _assemble(problem, rays)
    for _ in range(DOUBLINGS):
        # between any two angles one more: the trapezoid rule that exists is half of the next
        between = (np.arange(len(rays) - 1) + 0.5) / (len(rays) - 1)
        new = _refine(problem, between, tolerance)
        rays = [ray for pair in zip(rays, [*new, None], strict=True) for ray in pair if ray]
        finer = _assemble(problem, rays)
        change = abs(finer.totals - last.totals)
        if np.all(change[matters] <= ANGLE_SHARE * tolerance[matters]):
            return finer
        last = finer
    return last


@dataclass(frozen=True, eq=False)
class _Problem:
    """What the construction of a rule is about."""

    model: AttentionModel
    V: float
    state: kernels.SliceState
    fold: int
    nodes: int
    r_panel: float
    grid: kernels.SliceGrid
    search: SearchGrid
    legendre: NDArray[np.float64]

    @classmethod
    def make(cls, model: AttentionModel, overlaps: Overlaps, tol: float, even: bool) -> _Problem:
        fold = symmetry(model, overlaps, even)
        state = _state(model, overlaps)
        # a ball of radius R in four Gaussian variables leaves out exp(-R^2/2) (1 + R^2/2)
        cut = float(np.sqrt(2 * np.log(1 / tol) + 4 * np.log(np.log(1 / tol)) + 6))
        nodes = _nodes(tol)
        panel = gauss_legendre(nodes, 0.0, 1.0)
        cell = gauss_legendre(CELL_NODES, 0.0, 1.0)
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
                for phi in np.linspace(0, 2 * np.pi / fold, 9)
            ]
        )
        radius = kernels.search_radii(ring, state, cut, _candidates()).max() + SEARCH_MARGIN
        centre = np.sqrt(2) * (cut * model.sigma * abs(state.tilt) + abs(state.m))
        reach = float(radius + centre + cut * state.s)
        return cls(
            model,
            overlaps.V,
            state,
            fold,
            nodes,
            R_PANEL[0] if tol >= 1e-4 else R_PANEL[1],
            grid,
            _search_grid(reach, _search_step(tol)),
            _legendre(nodes),
        )


@dataclass(frozen=True, eq=False)
class _Ray:
    """The refined radial rule at one angle."""

    y: NDArray[np.float64]
    weight: NDArray[np.float64]
    radius: NDArray[np.float64]
    ends: NDArray[np.float64]
    panels: NDArray[np.int64]
    draws: NDArray[np.float64]


def _refine(
    problem: _Problem, fractions: NDArray[np.float64], tolerance: NDArray[np.float64]
) -> list[_Ray]:
    """Radial rules at the given fractions of the fundamental angle, refined to `tolerance`.

    With a tolerance of zero nothing is refined.
    """
    cut, nodes = problem.grid.cut, problem.nodes
    todo = []
    for ray, fraction in enumerate(fractions):
        phi = 2 * np.pi / problem.fold * fraction
        ends = _graded(onsets(problem.model, problem.V, phi, cut), problem.state.s, cut)
        for lo, hi in itertools.pairwise(ends):
            count = max(1, int(np.ceil((hi - lo) / problem.r_panel)))
            edges = np.linspace(lo, hi, count + 1)
            todo += [(ray, phi, a, b) for a, b in itertools.pairwise(edges)]
    parts: list[list[_Ray]] = [[] for _ in fractions]
    for generation in range(R_BISECTIONS + 1):
        panels = [(ray, phi, gauss_legendre(nodes, lo, hi)) for ray, phi, lo, hi in todo]
        r = np.concatenate([rule.nodes for _, _, rule in panels])
        y = teacher_fields(problem.model, r, np.repeat([phi for _, phi, _ in panels], nodes))
        density = r * np.exp(-(r**2) / 2)
        weight = density * np.concatenate([rule.weights for _, _, rule in panels])
        radius = _radii(problem, y)
        # every draw may err by its share: the weights sum to one
        share = np.maximum(1.0, 0.02 / (weight + 1e-300))[:, None]
        averages, places, panels_in_b = _spread(
            lambda y, radius, allowed: kernels.refined_averages(
                y, radius, allowed, problem.state, problem.grid, problem.search
            ),
            (y, radius, 0.3 * tolerance * share),
        )
        bisected = []
        for p, (ray, phi, lo, hi) in enumerate(todo):
            here = slice(p * nodes, (p + 1) * nodes)
            samples = averages[here] * density[here, None]
            error = kernels.panel_error(samples, hi - lo, problem.legendre, 0.3 * tolerance)
            if error > 1 and generation < R_BISECTIONS:
                middle = 0.5 * (lo + hi)
                bisected += [(ray, phi, lo, middle), (ray, phi, middle, hi)]
            else:
                parts[ray].append(
                    _Ray(
                        y[here],
                        weight[here],
                        radius[here],
                        places[here],
                        panels_in_b[here],
                        averages[here],
                    )
                )
        if not bisected:
            break
        todo = bisected
    return [_join(ray) for ray in parts]


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


def _join(parts: list[_Ray]) -> _Ray:
    """One ray out of its panels."""
    return _Ray(
        y=np.concatenate([part.y for part in parts]),
        weight=np.concatenate([part.weight for part in parts]),
        radius=np.concatenate([part.radius for part in parts]),
        ends=np.concatenate([part.ends for part in parts]),
        panels=np.concatenate([part.panels for part in parts]),
        draws=np.concatenate([part.draws for part in parts]),
    )


def _assemble(problem: _Problem, rays: list[_Ray]) -> SliceRule:
    """The trapezoid rule over equidistant angles: by symmetry its two ends count half."""
    angular = np.full(len(rays), 1 / (len(rays) - 1))
    angular[[0, -1]] /= 2
    whole = _join(rays)
    return SliceRule(
        whole.y,
        np.concatenate([a * ray.weight for a, ray in zip(angular, rays, strict=True)]),
        np.repeat(np.arange(len(rays)), [ray.weight.size for ray in rays]),
        problem.state,
        whole.draws,
        whole.radius,
        whole.ends[:, : whole.panels.max() + 1],
        whole.panels,
        problem.grid,
        problem.search,
    )


def _graded(onsets_: list[float], s: float, cut: float) -> list[float]:
    """Ends of the radial panels: the onsets, and points close by where the field is narrow.

    Near an onset a double well of depth of order eps**2 forms; a field of width s smears that
    over a range ``eps ~ s**(2/3)`` of the radius, which a wide panel would not see.
    """
    ends = {0.0, cut, *onsets_}
    smear = s ** (2 / 3)
    if smear < WIDEST_SMEAR:
        ends |= {r + k * smear for r in onsets_ for k in (-3.0, -1.0, 1.0, 3.0)}
    return sorted(r for r in ends if 0 <= r <= cut)


def _radii(problem: _Problem, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Search radius of each draw: the bound of `search_kernels.search_radius` and a margin."""
    radii = kernels.search_radii(y, problem.state, problem.grid.cut, problem.search.candidates)
    return radii + SEARCH_MARGIN


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
