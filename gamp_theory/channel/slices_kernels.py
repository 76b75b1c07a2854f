"""Kernels of the slice rule: the prox followed along straight lines in the field plane.

In the coordinates of :mod:`gamp_theory.channel.search_kernels`, at fixed target contrasts t and
fixed b, the prox is the minimiser over U of

    B(U) - a U,      B(U) = min_W [ A(U, W) - b W ],

so along a slice the jumps of the prox are the edges of the convex hull of one function of one
variable, and U itself is the integration variable on the hull: ``a = B'(U)``, ``da = B'' dU``.
Nothing is inverted, and near a cusp, where the prox is steep in a, everything is smooth in U
(docs/numerics.md, "Slices").

Every panel in U has an integral that is known exactly, that of the density of a: panels are halved
until it comes out, and what is missing of it in a slice is reported as unresolved.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.channel.jumps_kernels import jump_between, locate, third_well
from gamp_theory.channel.search_kernels import (
    Hull,
    Reach,
    find_hull,
    find_rows,
    lower_hull,
    memory,
    search_radius,
    settle,
    tanh,
)
from gamp_theory.channel.sheet_kernels import (
    MOST_OPEN,
    WIDEST,
    Slice,
    along,
    below,
    unpack,
)
from gamp_theory.numerics.jit import kernel

__all__ = [
    "OUTPUTS",
    "SliceGrid",
    "SliceState",
    "coefficient",
    "frozen_averages",
    "panel_error",
    "refined_averages",
]

#: What is accumulated, in order.
OUTPUTS = (
    "mass",
    "gg",
    "g_position",
    "g_teacher",
    "g_score",
    "loss",
    "loss_omega",
    "slope",
    "contraction",
    "jump_mass",
    "g_score_position",
    "g_score_teacher",
    "unresolved",
)
N_OUT = len(OUTPUTS)
ODD = (2, 3)  # those that change sign with w and h
UNRESOLVED = N_OUT - 1
SQRT_HALF = math.sqrt(0.5)
SHEET = 0.5  # change of W between rows that suggests two sheets
EDGE = 0.1  # how far beyond its window a slice may go, in panels
FINER = 12  # points on which the hull is taken once more where the prox turns back
MOST_WELLS = 8  # between two vertices of the hull
NARROWEST_PANEL = 0.01
MOST_PANELS = 32


class SliceState(NamedTuple):
    """Constants of one evaluation."""

    c: float  # sigma**2/2
    V: float
    omega: float
    a1: float  # contrasts of the matrix A
    a2: float
    m: float
    tilt: float  # theta/rho: the mean of w is tilt*y + (m, -m)
    s: float  # sqrt(q - theta**2/rho), the width of w given y


class Draw(NamedTuple):
    """One teacher draw: contrasts, and the window of w that carries weight."""

    t: tuple  # t1, t2 and dt/d omega = a1 - z1, a2 - z2
    y: tuple
    a: float  # mean of w
    b: float
    room: float  # what the cut leaves for a and b, in squared standard deviations


class Work(NamedTuple):
    """Memory that is used again for every draw."""

    hull: Hull
    open: np.ndarray  # right ends of the panels in U that are still open
    fine: np.ndarray  # points of a panel where the prox turns back, and the hull over them
    fine_U: np.ndarray
    fine_B: np.ndarray
    fine_edge: np.ndarray
    wells: np.ndarray  # between two vertices of the hull
    jumps: np.ndarray  # the last ones, with nothing but a well each in between
    todo: np.ndarray  # panels in b that are still open
    ends: np.ndarray  # of those that are done
    samples: np.ndarray  # slices of a panel
    piece: np.ndarray  # integrals: of a piece, a slice, a panel, a draw
    slice: np.ndarray
    panel: np.ndarray
    total: np.ndarray


class SliceGrid(NamedTuple):
    """The frozen nodes: slices in a panel of b, nodes in a panel of U, the cut."""

    zeta: np.ndarray  # trapezoid slices, b = mean + s*zeta
    zeta_weight: np.ndarray
    b_gauss: np.ndarray  # Gauss-Legendre nodes on [0, 1] of a panel in b
    b_gauss_weight: np.ndarray
    b_panel: float  # widest panel in b, in units of s
    legendre: np.ndarray  # coefficients of degree (row) from the samples of a panel (column)
    gauss: np.ndarray  # Gauss-Legendre nodes on [0, 1] of a panel in U
    gauss_weight: np.ndarray
    cut: float  # radius of the ball in (y, a, b), in standard deviations, that is integrated over
    panel: float  # widest panel in a, in units of s
    tolerance: float  # for the probability mass of a panel in U
    mirror: bool  # whether the field w does not know y: then b > 0 stands for b < 0, too


@kernel
def mend(left, right, line, gauss, gauss_weight, work):
    """Integrate over a panel in which the prox turns back: a jump that the search grid missed.

    The hull is taken once more, on points closer to each other.  A hole between two of these is
    integrated through with its sign, at an error of the fourth power of its size.
    """
    t, b, k = line.t, line.b, line.k
    step = (right[0] - left[0]) / FINER
    W = left[1]
    n = 0
    for i in range(FINER + 1):
        if i == FINER:
            W = right[1]
        row = work.fine[n]
        U = left[0] + i * step
        W, B, a, dW, bend, ok = settle(U, W, b, t, k)
        if ok and bend > 0:
            row[0], row[1], row[2], row[3], row[4] = U, W, a, dW, bend
            work.fine_U[n] = U
            work.fine_B[n] = B
            n += 1
        if ok:
            W += dW * step
    size = lower_hull(work.fine_U, work.fine_B, n, work.fine_edge)
    here = left
    for p in range(size - 1):
        first = unpack(work.fine[work.fine_edge[p]])
        second = unpack(work.fine[work.fine_edge[p + 1]])
        apart = second[0] - first[0] > 1.5 * step or abs(second[1] - first[1]) > SHEET
        if not apart:
            continue
        before, after, ok = jump_between(first, second, b, t, k)
        if ok:
            along(here, before, line, gauss, gauss_weight, True, work)
            add_jump(before, after, 1.0, line, work.slice)
            here = after
    along(here, right, line, gauss, gauss_weight, True, work)


@kernel
def go(left, right, line, gauss, gauss_weight, work):
    """Integrate from one point of the hull to another, across jumps that were not expected.

    Backwards, from beyond a bitangent, the signed integral takes back what was added.
    """
    backwards = left[0] > right[0]
    for _ in range(MOST_WELLS):
        here, there, ok = along(left, right, line, gauss, gauss_weight, backwards, work)
        if ok:
            return
        mend(here, there, line, gauss, gauss_weight, work)
        if there[0] >= right[0]:
            return
        left = there


@kernel
def add_jump(before, after, sign, line, out):
    """Add one jump to ``J = E int |jump|^2/|jump_U| p(a) p(b) db``: its length on the curve."""
    shift = (before[2] - line.centre) / line.s
    density = line.weight * math.exp(-0.5 * shift * shift) / (line.s * math.sqrt(2 * math.pi))
    length = after[0] - before[0]
    out[9] += sign * density * (length * length + (after[1] - before[1]) ** 2) / length


@kernel
def polish(i, line, hull):
    """Row i of the search as a point of the slice, and whether it is on a convex sheet."""
    U = hull.U[i]
    W, _, a, dW, bend, ok = settle(U, hull.W[i], line.b, line.t, line.k)
    return (U, W, a, dW, bend), ok and bend > 0


@kernel
def slope(p, hull):
    """Slope of edge p of the hull, from its vertex p to p + 1."""
    i = hull.edge[p]
    j = hull.edge[p + 1]
    return (hull.B[j] - hull.B[i]) / (hull.U[j] - hull.U[i])


@kernel
def suspected(p, hull):
    """Whether edge p of the hull looks like a jump: it skips rows, or changes sheets."""
    i = hull.edge[p]
    j = hull.edge[p + 1]
    return j > i + 1 or abs(hull.W[j] - hull.W[i]) > SHEET


@kernel
def cross(here, p, depth, rows, line, gauss, gauss_weight, work):
    """Integrate from `here` across the jumps of edge p of the hull.

    Between the two wells there may be others, in valleys narrower than the search grid.  And a well
    that the grid takes to be on the hull is not, if the jump from it comes before the one to it:
    then the two are one, from the well before to the well after.

    Parameters
    ----------
    depth : int
        How many jumps in ``work.jumps`` have led to `here` with nothing else in between.

    Returns
    -------
    here, depth
        The point beyond, and how many there are now.
    """
    t, b, k = line.t, line.b, line.k
    hull = work.hull
    i = hull.edge[p]
    j = hull.edge[p + 1]
    wells = work.wells
    wells[0, 0], wells[0, 1] = hull.U[j], hull.W[j]
    waiting = 1
    left = (hull.U[i], hull.W[i], 0.0, 0.0, 0.0)
    for _ in range(2 * MOST_WELLS):
        if waiting == 0:
            break
        right = (wells[waiting - 1, 0], wells[waiting - 1, 1], 0.0, 0.0, 0.0)
        before, after, ok = jump_between(left, right, b, t, k)
        if ok and waiting < MOST_WELLS:
            U, W, found = third_well(before, after, b, t, k, hull, rows)
            if found:
                wells[waiting, 0], wells[waiting, 1] = U, W
                waiting += 1
                continue
        waiting -= 1
        if not ok:
            left = right
            continue
        while depth > 0 and before[2] < work.jumps[depth - 1, 2]:
            first = unpack(work.jumps[depth - 1, :5])
            around, beyond, ok = jump_between(first, after, b, t, k)
            if not ok:
                break
            add_jump(first, unpack(work.jumps[depth - 1, 5:]), -1.0, line, work.slice)
            here, before, after = first, around, beyond
            depth -= 1
        go(here, before, line, gauss, gauss_weight, work)
        add_jump(before, after, 1.0, line, work.slice)
        if depth == work.jumps.shape[0]:
            depth = 0
        row = work.jumps[depth]
        row[0], row[1], row[2], row[3], row[4] = before
        row[5], row[6], row[7], row[8], row[9] = after
        depth += 1
        here = after
        left = after
    return here, depth


@kernel
def one_slice(zeta, weight, draw, rows, state, grid, search, work):
    """Integrate one slice into ``work.slice``."""
    out = work.slice
    out[:] = 0.0
    left_over = draw.room - zeta * zeta
    if left_over <= 0:
        return
    half = math.sqrt(left_over) * state.s
    line = Slice(
        draw.t,
        draw.y,
        draw.b + state.s * zeta,
        state.c * state.V,
        state.c,
        state.V,
        state.s,
        weight,
        draw.a,
        draw.b,
        draw.a - half,
        draw.a + half,
        grid.panel * state.s,
        grid.tolerance,
    )
    hull = work.hull
    size = find_hull(line.b, rows, search, hull)
    gauss, gauss_weight = grid.gauss, grid.gauss_weight
    # the last vertex that is surely at the lower end of the window or beyond
    p = 0
    while p + 2 < size and slope(p + 1, hull) < line.low:
        p += 1
    here, ok = polish(hull.edge[p], line, hull)
    while p > 0 and not (ok and here[2] <= line.low):
        p -= 1
        here, ok = polish(hull.edge[p], line, hull)
    while p + 2 < size and not ok:
        p += 1
        here, ok = polish(hull.edge[p], line, hull)
    margin = EDGE * line.widest
    start = line.low
    fresh = True  # nothing has been integrated yet
    depth = 0
    while p + 1 < size and here[2] < line.high:
        if suspected(p, hull):
            if fresh:
                start = here[2]
                fresh = False
            here, depth = cross(here, p, depth, rows, line, gauss, gauss_weight, work)
            p += 1
            continue
        # the farthest vertex that one panel may reach
        q = p + 1
        while q + 1 < size and not suspected(q, hull):
            ahead = slope(q, hull)
            wide = hull.U[hull.edge[q + 1]] - here[0] > WIDEST
            if wide or ahead - here[2] > line.widest or ahead > line.high:
                break
            q += 1
        p = q
        # the vertex before a jump is not needed: its bitangent is a better place to stop
        if q + 1 < size and suspected(q, hull) and slope(q, hull) < line.high:
            continue
        there, ok = polish(hull.edge[q], line, hull)
        if not ok or there[0] <= here[0]:
            continue
        if there[2] <= line.low:
            here = there
            continue
        if fresh:
            if here[2] < line.low - margin:
                here = locate(line.low - 0.5 * margin, here, there, line.b, line.t, line.k, margin)
            start = here[2]
            fresh = False
        if there[2] > line.high + margin:
            there = locate(line.high + 0.5 * margin, here, there, line.b, line.t, line.k, margin)
        go(here, there, line, gauss, gauss_weight, work)
        here = there
        depth = 0
    mass = below(max(here[2], line.high), line) - below(min(start, line.low), line)
    out[UNRESOLVED] = abs(out[0] - weight * mass)


@kernel
def normal_density(x):
    """Density of the standard normal."""
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@kernel
def panel_in_b(lo, hi, draw, rows, state, grid, search, work):
    """Gauss-Legendre over one panel in b, into ``work.panel``; slices into ``work.samples``."""
    n = grid.b_gauss.size
    work.panel[:] = 0.0
    for i in range(n):
        zeta = lo + (hi - lo) * grid.b_gauss[i]
        density = (2 if grid.mirror else 1) * normal_density(zeta)
        one_slice(zeta, density, draw, rows, state, grid, search, work)
        for o in range(N_OUT):
            work.samples[i, o] = work.slice[o]
            work.panel[o] += (hi - lo) * grid.b_gauss_weight[i] * work.slice[o]


@kernel
def panel_error(samples, length, legendre, tolerance):
    """Error of a Gauss-Legendre panel from the Legendre coefficients of its integrand.

    Gauss's rule of n nodes misses coefficients from degree 2n on.  Where they fall geometrically
    ``c_2n = c_n (c_n/c_m)**2``, with ``c_m`` half-way; where they fall like a power, at a kink or a
    singular end, ``c_2n = c_n (c_n/c_m)``.  A third one, at a quarter of n, tells which.

    Returns
    -------
    float
        The largest error over the averages, each in units of its `tolerance`.
    """
    n = samples.shape[0]
    worst = 0.0
    for o in range(tolerance.size):
        if tolerance[o] <= 0:
            continue
        quarter = coefficient(n // 4, samples, o, legendre)
        middle = coefficient(n // 2, samples, o, legendre)
        last = coefficient(n - 1, samples, o, legendre)
        error = last
        if last < middle:
            power = 1.0
            if middle < quarter:
                power = min(2.0, max(1.0, math.log(last / middle) / math.log(middle / quarter)))
            error *= (last / middle) ** power
        worst = max(worst, length * error / tolerance[o])
    return worst


@kernel
def coefficient(degree, samples, o, legendre):
    """The larger one of two Legendre coefficients, of this degree and the one below."""
    largest = 1e-300
    for row in range(degree - 1, degree + 1):
        c = 0.0
        for i in range(samples.shape[0]):
            c += legendre[row, i] * samples[i, o]
        largest = max(largest, abs(c))
    return largest


@kernel
def trapezoid_in_b(draw, rows, state, grid, search, work):
    """The trapezoid rule over b, into ``work.total``."""
    work.total[:] = 0.0
    last = grid.zeta.size - 1
    first = last // 2 if grid.mirror else 0
    for i in range(first, last + 1):
        one_slice(grid.zeta[i], grid.zeta_weight[i], draw, rows, state, grid, search, work)
        times = 2 if grid.mirror and i > first else 1
        for o in range(N_OUT):
            work.samples[i, o] = work.samples[last - i, o] = work.slice[o]
            work.total[o] += times * work.slice[o]


@kernel
def trapezoid_error(samples, tolerance):
    """Error of a trapezoid rule from the same samples at two and four times the step.

    With differences ``d_2`` and ``d_4`` to those coarser rules the error is about
    ``d_2 (d_2/d_4)``, exact for algebraic decay and pessimistic for smooth integrands.

    Returns
    -------
    float
        The largest error over the averages, each in units of its `tolerance`.
    """
    worst = 0.0
    for o in range(tolerance.size):
        if tolerance[o] <= 0:
            continue
        whole = 0.0
        half = 0.0
        quarter = 0.0
        for i in range(samples.shape[0]):
            whole += samples[i, o]
            if i % 2 == 0:
                half += 2 * samples[i, o]
            if i % 4 == 0:
                quarter += 4 * samples[i, o]
        d2 = abs(whole - half)
        d4 = abs(whole - quarter)
        worst = max(worst, d2 * min(1.0, d2 / (d4 + 1e-300)) / tolerance[o])
    return worst


@kernel
def refine(draw, rows, state, grid, search, work, tolerance):
    """Integrate over b to a tolerance, into ``work.total``; returns the number of panels.

    The trapezoid rule serves a smooth integrand, and counts as no panel.  Kinks in b (triple
    points of the jumps, cusps) defeat it: then Gauss-Legendre panels are bisected until each
    has an error below `tolerance`.  Their ends are left in ``work.ends``, in order.
    """
    trapezoid_in_b(draw, rows, state, grid, search, work)
    if trapezoid_error(work.samples[: grid.zeta.size], tolerance) <= 1:
        return 0
    work.total[:] = 0.0
    reach = math.sqrt(draw.room)
    start = 0.0 if grid.mirror else -reach
    # a stack of panels, leftmost on top
    first = max(1, int(math.ceil((reach - start) / grid.b_panel)))
    for i in range(first):
        work.todo[first - 1 - i, 0] = start + (reach - start) * i / first
        work.todo[first - 1 - i, 1] = start + (reach - start) * (i + 1) / first
    waiting = first
    done = 0
    work.ends[0] = start
    while waiting > 0:
        lo, hi = work.todo[waiting - 1, 0], work.todo[waiting - 1, 1]
        panel_in_b(lo, hi, draw, rows, state, grid, search, work)
        samples = work.samples[: grid.b_gauss.size]
        error = panel_error(samples, hi - lo, grid.legendre, tolerance)
        if error > 1 and hi - lo > NARROWEST_PANEL and done + waiting + 1 < work.ends.size:
            middle = 0.5 * (lo + hi)
            work.todo[waiting - 1, 0] = middle
            work.todo[waiting, 0] = lo
            work.todo[waiting, 1] = middle
            waiting += 1
        else:
            for o in range(N_OUT):
                work.total[o] += work.panel[o]
            done += 1
            work.ends[done] = hi
            waiting -= 1
    return done


@kernel
def place(y, state, cut):
    """The teacher draw with its window of w."""
    z1 = tanh(0.5 * y[0] * (y[0] - y[1]))
    z2 = tanh(0.5 * y[1] * (y[1] - y[0]))
    t = (
        (1 - state.omega) * z1 + state.omega * state.a1,
        (1 - state.omega) * z2 + state.omega * state.a2,
        state.a1 - z1,
        state.a2 - z2,
    )
    a = (state.tilt * (y[0] - y[1]) + 2 * state.m) * SQRT_HALF
    b = state.tilt * (y[0] + y[1]) * SQRT_HALF
    room = cut**2 - 0.5 * (y[0] * y[0] + y[1] * y[1]) / state.c
    return Draw(t, y, a, b, room)


@kernel
def search_radii(y_nodes, state, cut, candidates):
    """How far the prox can be from the window of w, for each teacher draw."""
    cost = np.empty(candidates.shape[0])
    radii = np.zeros(y_nodes.shape[0])
    for i in range(radii.size):
        draw = place((y_nodes[i, 0], y_nodes[i, 1]), state, cut)
        if draw.room > 0:
            reach = Reach(draw.a, draw.b, math.sqrt(draw.room) * state.s, 0.0)
            radii[i] = search_radius(draw.t, reach, state.c * state.V, candidates, cost)
    return radii


@kernel
def begin(draw, radius, state, search, work):
    """Search the rows of a draw; returns how many there are."""
    reach = Reach(draw.a, draw.b, math.sqrt(draw.room) * state.s, radius)
    return find_rows(draw.t, state.c * state.V, reach, search, work.hull)


@kernel
def workspace(grid, search):
    """Memory for one thread."""
    return Work(
        memory(search),
        np.empty((MOST_OPEN + 1, 5)),
        np.empty((FINER + 1, 5)),
        np.empty(FINER + 1),
        np.empty(FINER + 1),
        np.empty(FINER + 1, np.int64),
        np.empty((MOST_WELLS + 1, 2)),
        np.empty((MOST_WELLS, 10)),
        np.empty((MOST_PANELS + 1, 2)),
        np.empty(MOST_PANELS + 1),
        np.empty((max(grid.b_gauss.size, grid.zeta.size), N_OUT)),
        np.empty(N_OUT),
        np.empty(N_OUT),
        np.empty(N_OUT),
        np.empty(N_OUT),
    )


@kernel
def refined_averages(y_nodes, radii, tolerance, state, grid, search):
    """Average over w of each teacher draw, with panels in b refined to a tolerance.

    Parameters
    ----------
    y_nodes : array, shape (n, 2)
        Teacher fields, both tokens.
    radii : array, shape (n,)
        How far the prox can be from the window of w.
    tolerance : array, shape (n, len(OUTPUTS))
        Absolute error allowed for a panel of each draw; 0 for averages that do not matter.
    state : SliceState
    grid : SliceGrid
    search : SearchGrid

    Returns
    -------
    averages : array, shape (n, len(OUTPUTS))
        Not weighted by the density of y.
    ends : array, shape (n, MOST_PANELS + 1)
        Ends of the panels in b, in standard deviations.
    panels : array of int, shape (n,)
        How many there are; 0 means the trapezoid rule.
    """
    work = workspace(grid, search)
    out = np.zeros((radii.size, N_OUT))
    ends = np.zeros((radii.size, MOST_PANELS + 1))
    panels = np.zeros(radii.size, np.int64)
    for i in range(radii.size):
        draw = place((y_nodes[i, 0], y_nodes[i, 1]), state, grid.cut)
        if draw.room > 0:
            rows = begin(draw, radii[i], state, search, work)
            panels[i] = refine(draw, rows, state, grid, search, work, tolerance[i])
            ends[i] = work.ends
            out[i] = work.total
    cancel(out, grid)
    return out, ends, panels


@kernel
def frozen_averages(y_nodes, radii, ends, panels, state, grid, search):
    """Average over w of each teacher draw, with the panels that `refined_averages` left.

    Returns
    -------
    array, shape (n, len(OUTPUTS))
    """
    work = workspace(grid, search)
    out = np.zeros((radii.size, N_OUT))
    for i in range(radii.size):
        draw = place((y_nodes[i, 0], y_nodes[i, 1]), state, grid.cut)
        if draw.room > 0:
            rows = begin(draw, radii[i], state, search, work)
            if panels[i] == 0:
                trapezoid_in_b(draw, rows, state, grid, search, work)
                out[i] = work.total
            for p in range(panels[i]):
                panel_in_b(ends[i, p], ends[i, p + 1], draw, rows, state, grid, search, work)
                for o in range(N_OUT):
                    out[i, o] += work.panel[o]
    cancel(out, grid)
    return out


@kernel
def cancel(out, grid):
    """What is odd in w cancels where half of the slices stand for all."""
    if grid.mirror:
        for o in ODD:
            out[:, o] = 0.0
