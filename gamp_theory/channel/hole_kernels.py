"""The hole at the origin of the rule "whole h-plane minus hole" (docs/theory.md, section 4).

There A lies above its convex hull.  The hole is integrated over the bitangent chords that cover it,
one for each direction of the field; the sums are those of :mod:`gamp_theory.channel.plane_kernels`.
"""

from __future__ import annotations

import math

import numpy as np

from gamp_theory.channel.pair_kernels import loss_derivatives
from gamp_theory.channel.plane_kernels import (
    SUMS,
    exp_clamped,
    gradient_and_hessian,
    half_tanh,
)
from gamp_theory.channel.unstable_kernels import unstable_direction
from gamp_theory.numerics.jit import kernel

__all__ = ["MOST_NODES", "hole_shapes", "hole_sums", "march", "origin_well", "polish_bitangent"]

MOST_NODES = 320  # across a hole
# A hole contributes the third power of -V (least eigenvalue) - 1: less than this is nothing
NEWBORN = 1e-3


@kernel
def origin_well(t1, t2, e1, e2, k):
    """The minimum p of ``A/V`` reached from the origin along its unstable direction e.

    Parameters
    ----------
    t1, t2 : float
        Target contrasts.
    e1, e2 : float
        Unit vector of the unstable direction.
    k : float
        ``V c``.

    Returns
    -------
    p1, p2, ok
    """
    # on the line h = x e the contrasts are tanh(kappa x**2): solve dA/d(x**2) = 0 first
    kappa1 = 0.5 * e1 * (e1 - e2)
    kappa2 = 0.5 * e2 * (e2 - e1)
    low = 0.0
    high = (k * (t1 * kappa1 + t2 * kappa2) - 0.5) / (k * (kappa1 * kappa1 + kappa2 * kappa2))
    for _ in range(40):
        s1 = math.tanh(kappa1 * high)
        s2 = math.tanh(kappa2 * high)
        slope = 0.5 - k * (kappa1 * (t1 - s1) * (1 - s1 * s1) + kappa2 * (t2 - s2) * (1 - s2 * s2))
        if slope > 0:
            break
        low = high
        high *= 2
    for _ in range(8):
        middle = 0.5 * (low + high)
        s1 = math.tanh(kappa1 * middle)
        s2 = math.tanh(kappa2 * middle)
        slope = 0.5 - k * (kappa1 * (t1 - s1) * (1 - s1 * s1) + kappa2 * (t2 - s2) * (1 - s2 * s2))
        if slope > 0:
            high = middle
        else:
            low = middle
    x = math.sqrt(0.5 * (low + high))
    p1 = x * e1
    p2 = x * e2
    for _ in range(40):
        value, l1, l2, l11, l12, l22 = loss_derivatives(p1, p2, t1, t2, k)
        r1 = p1 + l1
        r2 = p2 + l2
        a = 1 + l11
        b = 1 + l22
        det = a * b - l12 * l12
        if det <= 0 or a + b <= 0:  # not convex here: shift the spectrum to at least 1/2
            shift = 0.5 - (0.5 * (a + b) - math.hypot(0.5 * (a - b), l12))
            a += shift
            b += shift
            det = a * b - l12 * l12
        d1 = -(b * r1 - l12 * r2) / det
        d2 = -(a * r2 - l12 * r1) / det
        length = math.hypot(d1, d2)
        limit = 0.5 * x
        if length > limit:
            d1 *= limit / length
            d2 *= limit / length
        p1 += d1
        p2 += d2
        if length < 1e-8 * x:  # quadratic convergence: the step just taken made it exact
            return p1, p2, p1 * e1 + p2 * e2 > 0
    return p1, p2, False


@kernel
def polish_bitangent(guess, draw, frame, angle, k):
    """Newton's method for the bitangent at one polar angle (:func:`march`).

    Parameters
    ----------
    guess : array, shape (12,)
        The first six entries ``p, n, w`` are the guess.
    draw : tuple
        ``t_1, t_2``.
    frame : tuple
        ``e_1, e_2, delta_0, v_0, polar``.
    angle : float
    k : float
        ``V c``.

    Returns
    -------
    ok : bool
    row : tuple of 12 floats
        ``p, n, w`` and their derivatives with respect to the angle.
    """
    t1, t2 = draw
    e1, e2, delta0, v0, polar = frame
    f1 = -e2
    f2 = e1
    p1, p2, n1, n2, w1, w2 = guess[0], guess[1], guess[2], guess[3], guess[4], guess[5]
    # the condition that picks the bitangent: C v - S (2 delta) = T
    C = 1 / v0
    S = 0.0
    T = angle
    if polar:
        C = math.cos(angle) / v0
        S = 0.5 * math.sin(angle) / delta0
        T = 0.0
    solved = False
    previous = 1e300
    for _ in range(12):
        Ap, gp1, gp2, a11, a12, a22 = gradient_and_hessian(p1, p2, t1, t2, k)
        An, gn1, gn2, b11, b12, b22 = gradient_and_hessian(n1, n2, t1, t2, k)
        detp = a11 * a22 - a12 * a12
        detn = b11 * b22 - b12 * b12
        if not (detp > 0 and detn > 0 and a11 > 0 and b11 > 0):
            break
        # inverse Hessians P, N and their difference applied to e
        P11 = a22 / detp
        P12 = -a12 / detp
        P22 = a11 / detp
        N11 = b22 / detn
        N12 = -b12 / detn
        N22 = b11 / detn
        D1 = (P11 - N11) * e1 + (P12 - N12) * e2
        D2 = (P12 - N12) * e1 + (P22 - N22) * e2
        d1 = p1 - n1
        d2 = p2 - n2
        turn1 = C * f1 - S * D1
        turn2 = C * f2 - S * D2
        if solved:
            # along the arch grad A(p) = grad A(n) = w moves normal to the chord
            rate = 1.0
            if polar:
                v = w1 * f1 + w2 * f2
                delta = 0.5 * (e1 * d1 + e2 * d2)
                rate = math.sin(angle) * v / v0 + math.cos(angle) * delta / delta0
            rate /= d1 * turn2 - d2 * turn1
            dw1 = -d2 * rate
            dw2 = d1 * rate
            dp1 = P11 * dw1 + P12 * dw2
            dp2 = P12 * dw1 + P22 * dw2
            dn1 = N11 * dw1 + N12 * dw2
            dn2 = N12 * dw1 + N22 * dw2
            return True, (p1, p2, n1, n2, w1, w2, dp1, dp2, dn1, dn2, dw1, dw2)
        # residuals: grad A - w at both ends, the energies, the polar angle
        x1 = gp1 - w1
        x2 = gp2 - w2
        z1 = gn1 - w1
        z2 = gn2 - w2
        energy = Ap - An - (w1 * d1 + w2 * d2)
        turn = C * (w1 * f1 + w2 * f2) - S * (e1 * d1 + e2 * d2) - T
        # dp = P (dw - x) and dn = N (dw - z) leave two equations for dw
        px1 = P11 * x1 + P12 * x2
        px2 = P12 * x1 + P22 * x2
        nz1 = N11 * z1 + N12 * z2
        nz2 = N12 * z1 + N22 * z2
        m11 = px1 - nz1 - d1
        m12 = px2 - nz2 - d2
        right1 = -energy + (x1 * px1 + x2 * px2) - (z1 * nz1 + z2 * nz2)
        right2 = -turn - S * (e1 * (px1 - nz1) + e2 * (px2 - nz2))
        det = m11 * turn2 - m12 * turn1
        u1 = (turn2 * right1 - m12 * right2) / det
        u2 = (m11 * right2 - turn1 * right1) / det
        sp1 = P11 * (u1 - x1) + P12 * (u2 - x2)
        sp2 = P12 * (u1 - x1) + P22 * (u2 - x2)
        sn1 = N11 * (u1 - z1) + N12 * (u2 - z2)
        sn2 = N12 * (u1 - z1) + N22 * (u2 - z2)
        p1 += sp1
        p2 += sp2
        n1 += sn1
        n2 += sn2
        w1 += u1
        w2 += u2
        size = abs(sp1) + abs(sp2) + abs(sn1) + abs(sn2)
        gap = (p1 - n1) * e1 + (p2 - n2) * e2
        if not (gap > 0 and size < 4 * delta0):
            break
        # converged if quadratically small, or if rounding (near the cusp) stops the descent
        solved = size < 1e-7 * gap or (size < 1e-4 * gap and size > 0.5 * previous)
        previous = size
    return False, (p1, p2, n1, n2, w1, w2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@kernel
def same_branch(guess, row, here, step):
    """Whether a polished bitangent is where the tangent pointed, not a pair of other wells."""
    miss = 0.0
    move = 0.0
    for n in range(4):
        miss += abs(row[n] - guess[n])
        move += abs(step * here[6 + n])
    return miss < 0.5 * move + 1e-3 * abs(here[0] - here[2])


@kernel
def march(draw, frame, angles, k, out):
    """Follow the bitangents of A from the origin towards the cusp.

    A bitangent is a pair (p, n) with ``grad A(p) = grad A(n) = w`` and
    ``A(p) - w.p = A(n) - w.n``.  With the coordinates ``v = w.f`` and ``delta = e.(p - n)/2``
    the pairs form an arch from (0, delta_0) to the cusp (v_c, 0).  If that is near, the arch is
    followed by its polar angle, ``(v/v_0) cos phi = (delta/delta_0) sin phi``, which is regular
    at both ends; if density ends long before, or the hole opens again, by ``phi = v/v_0``.

    Parameters
    ----------
    draw : tuple
        ``t_1, t_2``.
    frame : tuple
        ``e_1, e_2, p_1, p_2, v_0, polar``: unstable direction, well at v = 0, scale of v,
        and whether phi is the polar angle; ``f = (-e_2, e_1)``.
    angles : array, shape (n,)
        Increasing values of phi, positive.
    k : float
        ``V c``.
    out : array, shape (n, 12)
        Filled with ``p, n, w`` and their derivatives with respect to phi.

    Returns
    -------
    int
        How many values were solved; fewer than n is a failure.
    """
    e1, e2, p1, p2, v0, polar = frame
    scales = (e1, e2, p1 * e1 + p2 * e2, v0, polar)
    here = np.zeros(12)
    here[0] = p1
    here[1] = p2
    here[2] = -p1
    here[3] = -p2
    ok, row = polish_bitangent(here, draw, scales, 0.0, k)
    if not ok:
        return 0
    for n in range(12):
        here[n] = row[n]
    guess = np.empty(6)
    at = 0.0
    for i in range(angles.size):
        step = angles[i] - at
        halvings = 0
        while at < angles[i]:
            # the last step lands on the angle exactly, however often it was halved
            last = step >= angles[i] - at
            goal = angles[i] if last else at + step
            for n in range(6):
                guess[n] = here[n] + (goal - at) * here[6 + n]
            ok, row = polish_bitangent(guess, draw, scales, goal, k)
            if ok and same_branch(guess, row, here, goal - at):
                at = goal
                for n in range(12):
                    here[n] = row[n]
            elif halvings < 6:
                halvings += 1
                step = 0.5 * (goal - at)
            else:
                return i
        for n in range(12):
            out[i, n] = here[n]
    return angles.size


@kernel
def add_chord(sums, row, frame, draw, nodes, weights, weight, state):
    """Add the sums over one chord of the hole, and over its mirror image, to `sums`.

    Chord map ``h = (p+n)/2 + tau (p-n)/2 + (1 - tau**2) b f`` with the bulge
    ``b = v - f.grad A((p+n)/2)``, which keeps ``f.w`` close to v along the chord.

    Parameters
    ----------
    sums : array, shape (SUMS,)
    row : array, shape (12,)
        One row of :func:`march`.
    frame : tuple
        ``e_1, e_2``.
    draw : array, shape (4,)
        ``t_1, t_2, mu_1, mu_2``.
    nodes, weights : array, shape (n,)
        Gauss-Legendre rule on [-1, 1].
    weight : float
        Weight of the chord: quadrature weight in phi.
    state : Kinetics
    """
    e1, e2 = frame
    f1 = -e2
    f2 = e1
    t1, t2, mu1, mu2 = draw
    k = state.c * state.V
    minus = -0.5 / state.variance
    c1 = 0.5 * (row[0] + row[2])
    c2 = 0.5 * (row[1] + row[3])
    d1 = 0.5 * (row[0] - row[2])
    d2 = 0.5 * (row[1] - row[3])
    dc1 = 0.5 * (row[6] + row[8])
    dc2 = 0.5 * (row[7] + row[9])
    dd1 = 0.5 * (row[6] - row[8])
    dd2 = 0.5 * (row[7] - row[9])
    _, g1, g2, a11, a12, a22 = gradient_and_hessian(c1, c2, t1, t2, k)
    bulge = f1 * (row[4] - g1) + f2 * (row[5] - g2)
    dbulge = f1 * (row[10] - a11 * dc1 - a12 * dc2) + f2 * (row[11] - a12 * dc1 - a22 * dc2)
    # one array of sums per node: the loop runs in the lanes of the processor's vector units
    lanes = np.empty((SUMS, MOST_NODES))
    for j in range(nodes.size):
        tau = nodes[j]
        arch = 1 - tau * tau
        h1 = c1 + tau * d1 + arch * bulge * f1
        h2 = c2 + tau * d2 + arch * bulge * f2
        across1 = d1 - 2 * tau * bulge * f1
        across2 = d2 - 2 * tau * bulge * f2
        along1 = dc1 + tau * dd1 + arch * dbulge * f1
        along2 = dc2 + tau * dd2 + arch * dbulge * f2
        # loss, gradient and Hessian by the arguments of the two contrasts and their derivatives
        s1 = half_tanh(h1 * (h1 - h2))
        s2 = half_tanh(h2 * (h2 - h1))
        e1_1 = h1 - 0.5 * h2
        e1_2 = -0.5 * h1
        e2_1 = -0.5 * h2
        e2_2 = h2 - 0.5 * h1
        v1 = 1 - s1 * s1
        v2 = 1 - s2 * s2
        l1 = (s1 - t1) * v1
        l2 = (s2 - t2) * v2
        l11 = v1 * v1 - 2 * s1 * l1
        l22 = v2 * v2 - 2 * s2 * l2
        G1 = -(l1 * e1_1 + l2 * e2_1)
        G2 = -(l1 * e1_2 + l2 * e2_2)
        H11 = 1 + k * (l11 * e1_1 * e1_1 + l1 + l22 * e2_1 * e2_1)
        H12 = k * (l11 * e1_1 * e1_2 + l22 * e2_1 * e2_2 - 0.5 * (l1 + l2))
        H22 = 1 + k * (l11 * e1_2 * e1_2 + l22 * e2_2 * e2_2 + l2)
        # along = f, across = e is a frame of negative orientation
        area = across1 * along2 - across2 * along1
        p = weight * weights[j] * area * (H11 * H22 - H12 * H12)
        w1 = h1 - k * G1
        w2 = h2 - k * G2
        x1 = w1 - mu1
        x2 = w2 - mu2
        z1 = w1 + mu1
        z2 = w2 + mu2
        here = p * exp_clamped(minus * (x1 * x1 + x2 * x2))
        mirror = p * exp_clamped(minus * (z1 * z1 + z2 * z2))
        both = here + mirror
        lanes[0, j] = both
        lanes[1, j] = (here - mirror) * G1
        lanes[2, j] = (here - mirror) * G2
        lanes[3, j] = both * (G1 * G1 + G2 * G2)
        lanes[4, j] = G1 * (here * x1 + mirror * z1)
        lanes[5, j] = G2 * (here * x2 + mirror * z2)
        lanes[6, j] = here * (G1 * x2 + G2 * x1) + mirror * (G1 * z2 + G2 * z1)
        lanes[7, j] = both * s1
        lanes[8, j] = both * s2
        lanes[9, j] = both * (s1 * s1 + s2 * s2)
    for o in range(SUMS):
        total = 0.0
        for j in range(nodes.size):
            total += lanes[o, j]
        sums[o] += total


@kernel
def hole_sums(draws, shapes, counts, legendre, state):
    """The sums over the hole at the origin, for each teacher draw.

    Parameters
    ----------
    draws : array, shape (n, 4)
        ``t_1, t_2, mu_1, mu_2``.
    shapes : array, shape (n, 6)
        Scale, extent and coordinate of each hole (:func:`hole_shapes`).
    counts : int64 array, shape (n, 2)
        Numbers of Gauss-Legendre nodes along and across each hole.
    legendre : array, shape (N, 2, N)
        ``legendre[n, :, :n]`` are the nodes and weights of the n-point rule on [-1, 1].
    state : Kinetics

    Returns
    -------
    sums : array, shape (n, SUMS)
    edges : array, shape (n,)
        Distance of the density from the chord where the march broke off; infinite if it did not.
    """
    k = state.c * state.V
    out = np.zeros((draws.shape[0], SUMS))
    edges = np.full(draws.shape[0], np.inf)
    rows = np.empty((legendre.shape[0], 12))
    for i in range(draws.shape[0]):
        t1, t2, _, _ = draws[i]
        e1, e2, strength = unstable_direction(t1, t2)
        if k * strength < 1 + NEWBORN:
            continue
        p1, p2, ok = origin_well(t1, t2, e1, e2, k)
        if not ok:
            edges[i] = 0.0
            continue
        delta0 = p1 * e1 + p2 * e2
        polar = shapes[i, 2] > 0
        frame = (e1, e2, p1, p2, shapes[i, 0] * delta0, polar)
        along = legendre[counts[i, 0], :, : counts[i, 0]]
        nodes = legendre[counts[i, 1], 0, : counts[i, 1]]
        weights = legendre[counts[i, 1], 1, : counts[i, 1]]
        phi = 0.5 * shapes[i, 1] * (along[0] + 1)
        solved = march((t1, t2), frame, phi, k, rows)
        if solved < phi.size and not (polar and negligible_tip(phi[solved], delta0)):
            edges[i] = 0.0
            if solved > 0:
                edge = distance_to_chord(rows[solved - 1], (e1, e2), draws[i], k)
                edges[i] = max(edge, 0.0)
        for j in range(solved):
            weight = 0.5 * shapes[i, 1] * along[1, j]
            add_chord(out[i], rows[j], (e1, e2), draws[i], nodes, weights, weight, state)
    return out, edges


@kernel
def negligible_tip(phi, delta0):
    """Whether the tip of a hole beyond the polar angle `phi` may be left out.

    Its share falls like ``(delta/delta_0)**5``, and rounding stops Newton's method there.
    """
    share = math.cos(phi)
    return share < 0.02 or share * delta0 < 0.003


@kernel
def distance_to_chord(row, frame, draw, k):
    """Distance of the nearer of ``+-mu`` to the fields of a chord, all of them taken together."""
    e1, e2 = frame
    t1, t2, mu1, mu2 = draw
    c1 = 0.5 * (row[0] + row[2])
    c2 = 0.5 * (row[1] + row[3])
    d1 = 0.5 * (row[0] - row[2])
    d2 = 0.5 * (row[1] - row[3])
    fold = 0.0
    for tau in (-0.577, 0.577):  # where a symmetric double well folds over furthest
        h1 = c1 + tau * d1
        h2 = c2 + tau * d2
        _, g1, g2, _, _, _ = gradient_and_hessian(h1, h2, t1, t2, k)
        fold = max(fold, abs((g1 - row[4]) * e1 + (g2 - row[5]) * e2))
    near = math.hypot(row[4] - mu1, row[5] - mu2)
    return min(near, math.hypot(row[4] + mu1, row[5] + mu2)) - fold


@kernel
def extent_of_hole(frame, draw, radius, trial, k):
    """Follow a hole until its density is gone.

    Parameters
    ----------
    frame : tuple
        As for :func:`march`.
    draw : array, shape (4,)
        ``t_1, t_2, mu_1, mu_2``.
    radius : float
        There is no density further than this from mu.
    trial : array, shape (n,)
        Increasing values of phi for :func:`march`.
    k : float
        ``V c``.

    Returns
    -------
    reach : float
        Value of phi at which density ends; the last of `trial` if it does not.
    inside : bool
        Whether the hole carries any density.
    edge : float
        Distance of the density from the chord where the march broke off; infinite if it did not.
    """
    e1, e2, p1, p2, _, polar = frame
    t1, t2, mu1, mu2 = draw
    rows = np.empty((trial.size, 12))
    count = march((t1, t2), frame, trial, k, rows)
    middle = abs(e1 * mu2 - e2 * mu1)
    inside = False
    last = 0.0
    before = 0.0
    for j in range(count):
        v = e1 * rows[j, 5] - e2 * rows[j, 4]
        distance = distance_to_chord(rows[j], (e1, e2), draw, k)
        if distance < radius + abs(v - last):
            inside = True
        if distance > radius and v > middle:
            # stop at the edge of the density and not beyond: other wells take over out there
            if j == 0 or before > radius:
                return trial[j], inside, np.inf
            part = (radius - before) / (distance - before)
            return trial[j - 1] + part * (trial[j] - trial[j - 1]), inside, np.inf
        last = v
        before = distance
    if count == trial.size or (polar and negligible_tip(trial[count], p1 * e1 + p2 * e2)):
        return trial[-1], inside, np.inf
    # a third well has swallowed one end: find out where
    low = trial[count - 1] if count > 0 else 0.0
    high = trial[count]
    angles = np.append(trial[:count], 0.0)
    for _ in range(5):
        angles[count] = 0.5 * (low + high)
        if march((t1, t2), frame, angles, k, rows) == angles.size:
            low = angles[count]
            before = distance_to_chord(rows[count], (e1, e2), draw, k)
        else:
            high = angles[count]
    # short of the very end, where derivatives grow without bound
    return 0.98 * low, inside, max(before, 0.0)


@kernel
def hole_shapes(draws, cuts, trial, k):
    """How each hole is to be followed, and how far.

    Parameters
    ----------
    draws : array, shape (n, 4)
        ``t_1, t_2, mu_1, mu_2``.
    cuts : array, shape (n,)
        There is no density where ``|w - mu|**2 >= cuts``.
    trial : array, shape (a,)
        Increasing fractions, the last of them close to 1, at which a hole is tried.
    k : float
        ``V c``.

    Returns
    -------
    shapes : array, shape (n, 6)
        The scale ``v_0/delta_0``; the largest phi (0: no density); 1 if phi is the polar angle;
        the hole's length in v and its fold, the largest ``|w(h) - w|`` over a chord; and the
        distance of the density from the end of the march (infinite if the hole ends before).
    failed : int
        Number of holes without a well to start from.
    """
    shapes = np.zeros((draws.shape[0], 6))
    shapes[:, 5] = np.inf
    failed = 0
    for i in range(draws.shape[0]):
        t1, t2, mu1, mu2 = draws[i]
        e1, e2, strength = unstable_direction(t1, t2)
        if k * strength < 1 + NEWBORN:
            continue
        f1 = -e2
        f2 = e1
        p1, p2, ok = origin_well(t1, t2, e1, e2, k)
        if not ok:
            failed += 1
            continue
        radius = math.sqrt(cuts[i])
        delta0 = p1 * e1 + p2 * e2
        v_cut = abs(mu1 * f1 + mu2 * f2) + radius
        # the cusp lies about where the curvature along e changes sign on the axis h = z f
        z = 0.0
        v_cusp = 0.0
        while v_cusp < v_cut:
            z += 0.2 * delta0
            _, g1, g2, a11, a12, a22 = gradient_and_hessian(z * f1, z * f2, t1, t2, k)
            v_cusp = f1 * g1 + f2 * g2
            if e1 * (a11 * e1 + a12 * e2) + e2 * (a12 * e1 + a22 * e2) > 0 or z > 10:
                break
        polar = v_cusp < v_cut
        for _ in range(2):
            v0 = min(v_cusp, v_cut) if polar else v_cut
            span = 0.5 * math.pi if polar else 1.0
            frame = (e1, e2, p1, p2, v0, polar)
            reach, inside, edge = extent_of_hole(frame, draws[i], radius, span * trial, k)
            # keep what goes furthest
            if shapes[i, 0] == 0 or edge > shapes[i, 5]:
                shapes[i, 0] = v0 / delta0
                shapes[i, 1] = (span if reach == span * trial[-1] else reach) if inside else 0.0
                shapes[i, 2] = 1.0 if polar else 0.0
                shapes[i, 3] = v0 * (1.0 if polar else reach)
                # of the cubic with zeros -delta_0, 0, delta_0 and this slope at 0
                shapes[i, 4] = 0.385 * (k * strength - 1) * delta0
                shapes[i, 5] = edge
            if edge == np.inf:
                break
            polar = not polar
    return shapes, failed
