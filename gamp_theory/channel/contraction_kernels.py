"""Kernels of the contraction rule: kappa, whose integrand is singular where jumps end.

Along a slice (see :mod:`gamp_theory.channel.slices_kernels`) ``|dprox/dw - 1|**2 da`` is
``N/B'' dU`` with smooth N, and ``B'' = 3 x**2 + eps`` next to the end of a jump (a cusp), ``eps``
being the distance in b.  Hence two refinements over the ordinary slice rule:

* cells in U are bisected until B'' varies little over each, down to width ``sqrt(eps)``;
* the integral over a is about ``eps**(-1/2)``, so panels in b end at the cusps, which are found
  where the number of jumps changes, and their nodes crowd quadratically at both ends.

As ``h -> -h`` changes nothing but the density of w, only ``b >= 0`` is integrated, with the
densities of w and -w together.  For the same reason a double well about to form at the origin
shows as a peak at b = 0, where nodes crowd.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.channel.jumps_kernels import bitangent, locate, small_bitangent
from gamp_theory.channel.search_kernels import (
    Reach,
    energy,
    find_hull,
    find_rows,
    lower_hull,
    memory,
    settle,
)
from gamp_theory.channel.slices_kernels import Draw, coefficient, place
from gamp_theory.numerics.jit import kernel

__all__ = ["OUTPUTS", "ContractionGrid", "contraction_sums", "geometric_error"]

#: What is accumulated, in order.
OUTPUTS = ("mass", "slope", "contraction", "jump_mass", "unresolved")
N_OUT = len(OUTPUTS)
MOST_JUMPS = 16  # of one slice that are remembered
MOST_CELLS = 64  # open at a time in one piece
MOST_PANELS = 60
EDGE_RATIO = 8.0  # of B'' over a cell that it grows along
INNER_RATIO = 2.5  # over a cell with a minimum of B'' inside
NARROWEST_CELL = 1e-7
NEWTON = 30
SMALLEST_HOLE = 1e-5  # half its length
FINER = 16
SMALL_JUMP = 0.015  # length at which its square is linear in b to a few digits
LOCATIONS = 24
EDGE = 1e-6  # how well the edge of the window is found, relative to the piece that it cuts


class ContractionGrid(NamedTuple):
    """The frozen nodes: slices in a panel of b, nodes in a cell, the cut."""

    b_gauss: np.ndarray  # Gauss-Legendre nodes on [0, 1] of a panel in b
    b_gauss_weight: np.ndarray
    legendre: np.ndarray  # coefficients of degree (row) from the samples of a panel (column)
    gauss: np.ndarray  # Gauss-Legendre nodes on [0, 1] of a cell
    gauss_weight: np.ndarray
    cut: float  # radius of the ball in (y, a, b), in standard deviations
    b_panel: float  # widest panels, in b and in a, in standard deviations
    a_panel: float


class Line(NamedTuple):
    """One slice: the densities of w and -w along it, and the window that carries weight."""

    t: tuple
    b: float
    k: float  # V c
    V: float
    s: float
    centre: float  # mean of a
    here: float  # density at the two centres
    mirror: float
    low: float
    high: float
    panel: float  # widest cell in a


class Store(NamedTuple):
    """Memory that is used again for every draw."""

    cells: np.ndarray  # open cells of a piece
    fine: np.ndarray  # points of an edge with a jump, and the hull over them
    fine_U: np.ndarray
    fine_B: np.ndarray
    fine_hull: np.ndarray
    piece: np.ndarray  # integrals: of a piece, a slice
    slice: np.ndarray
    samples: np.ndarray  # slices of a panel, with the Jacobian of the nodes
    jumps: np.ndarray  # of each slice of a panel: a, squared length, density
    counts: np.ndarray
    b: np.ndarray
    todo: np.ndarray  # open panels


@kernel
def density(a, line):
    """Density of w or -w at this point of the slice."""
    x = (a - line.centre) / line.s
    z = (a + line.centre) / line.s
    return line.here * math.exp(-0.5 * x * x) + line.mirror * math.exp(-0.5 * z * z)


@kernel
def add_cell(left, right, line, grid, sums):
    """Integrate one cell, Gauss-Legendre in U, into `sums`.

    Returns
    -------
    int
        0 if all is well, 1 if the cell is too wide, 2 if the prox turns back inside it.
    """
    t, b, k = line.t, line.b, line.k
    length = right[0] - left[0]
    rise = right[2] - left[2]
    if rise <= 0 or rise > 4 * line.panel:
        return 2 if rise <= 0 else 1
    ends_low = min(left[4], right[4])
    highest = max(left[4], right[4])
    lowest = ends_low
    mass = 0.0
    total = 0.0
    trace = 0.0
    square = 0.0
    for n in range(grid.gauss.size):
        x = grid.gauss[n]
        x2 = x * x
        x3 = x2 * x
        W = (
            (2 * x3 - 3 * x2 + 1) * left[1]
            + (3 * x2 - 2 * x3) * right[1]
            + length * ((x3 - 2 * x2 + x) * left[3] + (x3 - x2) * right[3])
        )
        U = left[0] + x * length
        done = False
        for _ in range(6):
            _, A_U, A_W, A_UU, A_UW, A_WW, _, _ = energy(U, W, t[0], t[1], k)
            if not A_WW > 0:
                return 1
            step = (b - A_W) / A_WW
            if abs(step) < 1e-6:
                done = True
                break
            if abs(step) > 0.5:
                return 1
            W += step
        if not done:
            return 1
        det = A_UU * A_WW - A_UW * A_UW
        if not det > 0:
            return 2
        bend = det / A_WW
        lowest = min(lowest, bend)
        highest = max(highest, bend)
        dU = grid.gauss_weight[n] * length
        mass += dU * bend
        p = density(A_U + A_UW * step, line) * dU * bend
        # the inverse of the Hessian of A is dprox/dw
        i11 = 1 / bend - 1
        i22 = A_UU / det - 1
        i12 = A_UW / det
        total += p
        trace += p * (i11 + i22)
        square += p * (i11 * i11 + 2 * i12 * i12 + i22 * i22)
    if highest > (INNER_RATIO if lowest < ends_low else EDGE_RATIO) * lowest:
        return 1
    if abs(mass - rise) > 1e-3 * rise + 1e-9 or rise > line.panel:
        return 1
    sums[0] += total
    sums[1] -= trace / line.V
    sums[2] += square
    return 0


@kernel
def unpack(row, n):
    """Point n of a row of memory."""
    j = 5 * n
    return (row[j], row[j + 1], row[j + 2], row[j + 3], row[j + 4])


@kernel
def pack(row, left, right):
    """Two points into a row of memory."""
    row[0], row[1], row[2], row[3], row[4] = left
    row[5], row[6], row[7], row[8], row[9] = right


@kernel
def add_piece(left, right, line, grid, store):
    """Add a piece between two points of a sheet: clipped to the window, cut to cells.

    Returns
    -------
    bool
        False if the prox turns back; then nothing is added.
    left, right
        The cell where it does.
    """
    t, b, k = line.t, line.b, line.k
    sign = 1.0
    if left[0] > right[0]:  # beyond the bitangent: the same piece, taken back
        left, right = right, left
        sign = -1.0
    whole = (left, right)
    if max(left[2], right[2]) <= line.low or min(left[2], right[2]) >= line.high:
        return True, left, right
    if right[0] - left[0] < 1e-12:
        return True, left, right
    if left[2] >= right[2]:
        return False, left, right
    if left[2] < line.low:
        left = locate(line.low, left, right, b, t, k, EDGE * (right[2] - left[2]))
    if right[2] > line.high:
        right = locate(line.high, left, right, b, t, k, EDGE * (right[2] - left[2]))
    if not (left[4] > 0 and right[4] > 0):
        return False, whole[0], whole[1]
    sums = store.piece
    sums[:] = 0.0
    pack(store.cells[0], left, right)
    waiting = 1
    while waiting > 0:
        waiting -= 1
        row = store.cells[waiting]
        left = unpack(row, 0)
        right = unpack(row, 1)
        verdict = add_cell(left, right, line, grid, sums)
        if verdict == 0:
            continue
        length = right[0] - left[0]
        if verdict == 2 or length < NARROWEST_CELL or waiting + 2 > MOST_CELLS:
            return False, left, right
        U = left[0] + 0.5 * length
        W = 0.5 * (left[1] + right[1]) + 0.125 * length * (left[3] - right[3])
        W, _, a, dW, bend, ok = settle(U, W, b, t, k)
        if not (ok and bend > 0 and left[2] < a < right[2]):
            return False, left, right
        middle = (U, W, a, dW, bend)
        pack(store.cells[waiting], middle, right)
        pack(store.cells[waiting + 1], left, middle)
        waiting += 2
    for o in range(N_OUT):
        store.slice[o] += sign * sums[o]
    return True, left, right


@kernel
def touch(left, right, line):
    """The bitangent of two wells as two points, and whether there is one."""
    t, b, k = line.t, line.b, line.k
    UL, WL, UR, WR, _, ok = bitangent(left[0], left[1], right[0], right[1], b, t, k)
    if not (ok and UL < UR):
        return left, right, False
    WL, _, aL, dL, bendL, okL = settle(UL, WL, b, t, k)
    WR, _, aR, dR, bendR, okR = settle(UR, WR, b, t, k)
    ok = okL and okR and bendL > 0 and bendR > 0
    return (UL, WL, aL, dL, bendL), (UR, WR, aR, dR, bendR), ok


@kernel
def add_edge(left, right, line, grid, store, jumps, count):
    """Add what lies between two neighbouring vertices of the hull; returns the count of jumps.

    Where the prox turns back the hull is taken once more, on points closer to each other: then
    Newton's method has the right pair of wells from the start.
    """
    smooth, _, _ = add_piece(left, right, line, grid, store)
    if smooth:
        return count
    t, b, k = line.t, line.b, line.k
    step = (right[0] - left[0]) / FINER
    W = left[1]
    n = 0
    for i in range(FINER + 1):
        row = store.fine[n]
        U = left[0] + i * step
        W, B, a, dW, bend, ok = settle(U, W, b, t, k)
        if not ok:
            W = left[1] + (right[1] - left[1]) * (i + 1) / FINER
            continue
        if bend > 0:
            row[0], row[1], row[2], row[3], row[4] = U, W, a, dW, bend
            store.fine_U[n] = U
            store.fine_B[n] = B
            n += 1
        W += dW * step
    size = lower_hull(store.fine_U, store.fine_B, n, store.fine_hull)
    for p in range(size - 1):
        here = unpack(store.fine[store.fine_hull[p]], 0)
        there = unpack(store.fine[store.fine_hull[p + 1]], 0)
        near, far = here, there
        if there[0] - here[0] < 1.5 * step:
            smooth, near, far = add_piece(here, there, line, grid, store)
            if smooth:
                continue
        before, after, ok = small_bitangent(near, far, line.b, line.t, line.k)
        if not ok:
            before, after, ok = touch(near, far, line)
        if ok:
            ok, _, _ = add_piece(here, before, line, grid, store)
        if ok:
            ok, _, _ = add_piece(after, there, line, grid, store)
        if ok:
            a = 0.5 * (before[2] + after[2])
            dU = after[0] - before[0]
            square = dU * dU + (after[1] - before[1]) ** 2
            weight = density(a, line)
            store.slice[3] += weight * square / dU
            if line.low < a < line.high and count < MOST_JUMPS:
                jumps[count, 0] = a
                jumps[count, 1] = square
                jumps[count, 2] = weight
                count += 1
            continue
        here_a = min(max(line.centre, here[2]), there[2])
        there_a = min(max(-line.centre, here[2]), there[2])
        rise = abs(there[2] - here[2])
        store.slice[4] += rise * max(density(here_a, line), density(there_a, line))
    return count


@kernel
def vertices_in_window(low, high, size, hull):
    """First and last vertex of the hull over the rows that a window of a needs.

    Edges whose slopes lie in the window, and two more on either side: a vertex of the search grid
    may lie beyond the bitangent of a jump, so that a there is not between the slopes of its edges.
    """
    edge = hull.edge
    first = size - 1
    last = 0
    for p in range(size - 1):
        rise = hull.B[edge[p + 1]] - hull.B[edge[p]]
        run = hull.U[edge[p + 1]] - hull.U[edge[p]]
        if rise > low * run:
            first = min(first, p)
        if rise < high * run:
            last = p + 1
    return max(first - 2, 0), min(last + 2, size - 1)


@kernel
def add_slice(b, draw, state, grid, searched, store, jumps):
    """Integrate one slice into ``store.slice``; returns the number of jumps.

    `searched` is the search grid with the memory of its hulls and the number of its rows.
    """
    search, hull, rows = searched
    store.slice[:] = 0.0
    k = state.c * state.V
    x = (b - draw.b) / state.s
    z = (b + draw.b) / state.s
    room = draw.room - x * x
    room_mirror = draw.room - z * z
    low = 1e300
    high = -1e300
    if room > 0:
        low = min(low, draw.a - math.sqrt(room) * state.s)
        high = max(high, draw.a + math.sqrt(room) * state.s)
    if room_mirror > 0:
        low = min(low, -draw.a - math.sqrt(room_mirror) * state.s)
        high = max(high, -draw.a + math.sqrt(room_mirror) * state.s)
    if low >= high:
        return 0
    norm = 1 / (2 * math.pi * state.s * state.s)
    line = Line(
        draw.t,
        b,
        k,
        state.V,
        state.s,
        draw.a,
        norm * math.exp(-0.5 * x * x),
        norm * math.exp(-0.5 * z * z),
        low,
        high,
        grid.a_panel * state.s,
    )
    size = find_hull(b, rows, search, hull)
    p, last = vertices_in_window(low, high, size, hull)
    have = False
    previous = (0.0, 0.0, 0.0, 0.0, 0.0)
    count = 0
    while p <= last:
        U = hull.U[hull.edge[p]]
        W, _, a, dW, bend, ok = settle(U, hull.W[hull.edge[p]], b, draw.t, k)
        if ok and bend > 0:
            point = (U, W, a, dW, bend)
            if have:
                count = add_edge(previous, point, line, grid, store, jumps, count)
            previous = point
            have = True
        p += 1
    return count


@kernel
def odd_one(many, n_many, few, n_few):
    """Which of the jumps of one slice has no counterpart in the other one."""
    best = 0
    if n_many == n_few + 1:
        least = 1e300
        for skip in range(n_many):
            cost = 0.0
            for j in range(n_few):
                cost += abs(few[j, 0] - many[j if j < skip else j + 1, 0])
            if cost < least:
                least = cost
                best = skip
    else:
        for j in range(1, n_many):
            if many[j, 1] < many[best, 1]:
                best = j
    return best


@kernel
def find_end(i, draw, state, grid, searched, store, tolerance):
    """Where, between nodes i and i + 1 of the panel, a jump ends, or two of them merge.

    At a cusp the squared length of the jump vanishes linearly: extrapolate it, from the side
    where the jump is.  Where that fails (jumps merge at triple points) bisect their number.
    """
    counts = store.counts
    n = grid.b_gauss.size
    m = i if counts[i] > counts[i + 1] else i + 1
    f = 2 * i + 1 - m
    many = store.jumps[n]  # two spare slots
    few = store.jumps[n + 1]
    trial = store.jumps[n + 2]
    many[:] = store.jumps[m]
    few[:] = store.jumps[f]
    n_many, n_few = counts[m], counts[f]
    b_many, b_few = store.b[m], store.b[f]
    last_b = b_many
    last_square = -1.0
    back = 2 * m - f  # the next node on the side of the jump
    if 0 <= back < n and counts[back] == n_many:
        last_b = store.b[back]
        last_square = store.jumps[back, odd_one(many, n_many, few, n_few), 1]
    for turn in range(LOCATIONS):
        odd = odd_one(many, n_many, few, n_few)
        square = many[odd, 1]
        width = abs(b_few - b_many)
        share = 0.5
        if last_square > square:
            share = (b_many - last_b) * square / (last_square - square) / (b_few - b_many)
            if square < SMALL_JUMP**2 and 0 < share < 1:
                return b_many + share * (b_few - b_many)
        if many[odd, 2] * math.sqrt(width) < tolerance or width < 1e-7 * state.s:
            break
        # stay on the side of the jump, where there is something to extrapolate
        share = min(0.93 * share, 0.95) if 0 < share < 1 and turn % 4 < 3 else 0.5
        b = b_many + share * (b_few - b_many)
        count = add_slice(b, draw, state, grid, searched, store, trial)
        if count > n_few:
            last_b, last_square = b_many, square
            if count != n_many:
                last_square = -1.0
            b_many = b
            n_many = count
            many[:] = trial
        else:
            b_few = b
            n_few = count
            few[:] = trial
    return 0.5 * (b_many + b_few)


@kernel
def sample_panel(lo, hi, draw, state, grid, searched, store):
    """The slices of one panel in b, into ``store.samples``; their nodes crowd at both ends."""
    for i in range(grid.b_gauss.size):
        x = grid.b_gauss[i]
        store.b[i] = lo + (hi - lo) * x * x * (3 - 2 * x)
        jacobian = (hi - lo) * 6 * x * (1 - x)
        store.counts[i] = add_slice(store.b[i], draw, state, grid, searched, store, store.jumps[i])
        for o in range(N_OUT):
            store.samples[i, o] = jacobian * store.slice[o]


@kernel
def geometric_error(samples, legendre, tolerance):
    """Error of a panel whose Legendre coefficients fall geometrically: ``c_n (c_n/c_m)**2``.

    The ends of panels are where jumps begin, and mapped so that nothing is singular there.  Slices
    are good to 1e-3 only: an estimate that takes slow decay for a singularity, as that of
    :func:`gamp_theory.channel.slices_kernels.panel_error` does, would refine their noise.

    Returns
    -------
    float
        The largest error over the averages, each in units of its `tolerance`.
    """
    n = samples.shape[0]
    worst = 0.0
    for o in range(tolerance.size):
        if tolerance[o] > 0:
            last = coefficient(n - 1, samples, o, legendre)
            middle = coefficient(n // 2 - 1, samples, o, legendre)
            worst = max(worst, last * min(1.0, last / middle) ** 2 / tolerance[o])
    return worst


@kernel
def add_draw(draw, state, grid, searched, store, tolerance, out):
    """Integrate one teacher draw over w, into `out`; returns the number of panels in b."""
    n = grid.b_gauss.size
    reach = math.sqrt(draw.room) * state.s
    start = max(0.0, draw.b - reach)
    stop = draw.b + reach
    first = max(1, int(math.ceil((stop - start) / (grid.b_panel * state.s))))
    for i in range(first):
        store.todo[first - 1 - i, 0] = start + (stop - start) * i / first
        store.todo[first - 1 - i, 1] = start + (stop - start) * (i + 1) / first
    waiting = first
    done = 0
    while waiting > 0:
        waiting -= 1
        lo, hi = store.todo[waiting]
        sample_panel(lo, hi, draw, state, grid, searched, store)
        samples = store.samples
        error = geometric_error(samples, grid.legendre, tolerance)
        if error > 1 and done + waiting + 2 < MOST_PANELS and hi - lo > 1e-4 * state.s:
            middle = 0.5 * (lo + hi)
            for i in range(n - 1):
                if store.counts[i] != store.counts[i + 1]:
                    middle = find_end(i, draw, state, grid, searched, store, 0.1 * tolerance[2])
                    break
            store.todo[waiting, 0] = middle
            store.todo[waiting, 1] = hi
            store.todo[waiting + 1, 0] = lo
            store.todo[waiting + 1, 1] = middle
            waiting += 2
            continue
        for i in range(n):
            for o in range(N_OUT):
                out[o] += grid.b_gauss_weight[i] * samples[i, o]
        done += 1
    return done


@kernel
def upright(draw):
    """The draw or its image under ``h -> -h``, whichever has its mean at ``b >= 0``."""
    if draw.b >= 0:
        return draw
    return Draw(draw.t, draw.y, -draw.a, -draw.b, draw.room)


@kernel
def contraction_sums(y_nodes, radii, tolerance, state, grid, search):
    """Average over w for each teacher draw.

    Parameters
    ----------
    y_nodes : array, shape (n, 2)
        Teacher fields, both tokens.
    radii : array, shape (n,)
        How far the prox can be from the window of w.
    tolerance : array, shape (n, len(OUTPUTS))
        Absolute error allowed for a panel in b of each draw; 0 for what does not matter.
    state : SliceState
    grid : ContractionGrid
    search : SearchGrid

    Returns
    -------
    sums : array, shape (n, len(OUTPUTS))
        Not weighted by the density of y.
    panels : int
        Panels in b, all in all.
    """
    n = grid.b_gauss.size
    hull = memory(search)
    store = Store(
        np.empty((MOST_CELLS, 10)),
        np.empty((FINER + 1, 5)),
        np.empty(FINER + 1),
        np.empty(FINER + 1),
        np.empty(FINER + 1, np.int64),
        np.empty(N_OUT),
        np.empty(N_OUT),
        np.empty((n, N_OUT)),
        np.empty((n + 3, MOST_JUMPS, 3)),
        np.empty(n, np.int64),
        np.empty(n),
        np.empty((MOST_PANELS + 2, 2)),
    )
    out = np.zeros((radii.size, N_OUT))
    panels = 0
    for i in range(radii.size):
        draw = upright(place((y_nodes[i, 0], y_nodes[i, 1]), state, grid.cut))
        if draw.room > 0:
            reach = Reach(draw.a, draw.b, math.sqrt(draw.room) * state.s, radii[i])
            rows = find_rows(draw.t, state.c * state.V, reach, search, hull)
            searched = (search, hull, rows)
            panels += add_draw(draw, state, grid, searched, store, tolerance[i], out[i])
    return out, panels
