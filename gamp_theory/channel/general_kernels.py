"""Averages over the fields of L tokens at any rank: prox by Newton's method from many starts.

A sample is one draw of the teacher's fields y (L, t) and of the cavity fields w (L, r).  Its prox
minimises

    E(h) = (1/2) sum_l (h_l - w_l)^T V_l^-1 (h_l - w_l) + (1/2) sum_ij var_j (T_ij - S_ij(h))^2,

which may have several minima ("wells").  They are searched for once, from many starts, and kept:
at other overlaps nearby, each is followed by Newton's method and the lowest one taken.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.numerics.jit import kernel

__all__ = [
    "Mechanism",
    "TokenState",
    "derivative_sums",
    "field_sums",
    "find_wells",
    "reduced_sums_size",
]

DESCENT_STEPS = 100
#: A Newton step below this, relative to h, ends a descent: the next would be its square.
SMALL_STEP = 1e-8
FIRST_RADIUS = 0.5
#: Wells closer than this are one.
SAME_WELL = 1e-5
UNSTABLE_STARTS = 4
#: Distance of the starts along the unstable directions of the origin.
UNSTABLE_DISTANCE = 0.7


class Mechanism(NamedTuple):
    """``(1 - omega) S(h) + omega A`` with S from compiled functions."""

    value: object
    first: object
    second: object
    params: object
    omega: float
    A: object


class TokenState(NamedTuple):
    """What the averages depend on.

    ``y_l = root_rho_l z`` and ``w_l = m_l + slope_l y_l + noise_l zeta``, with lower Cholesky
    factors ``root_rho`` (L, t, t) of rho and ``noise`` (L, r, r) of ``q - theta rho^-1 theta^T``,
    and ``slope = theta rho^-1`` (L, r, t); ``precision = V^-1`` (L, r, r); ``root_V`` its inverse's
    factor; `variance` (L,) the mean eigenvalues of the covariances.
    """

    m: object
    slope: object
    noise: object
    root_rho: object
    precision: object
    root_V: object
    variance: object


class Work(NamedTuple):
    """Arrays that one thread works in."""

    S: object
    dS: object
    W: object
    gradient: object
    hessian: object
    loss_gradient: object
    loss_hessian: object
    factor: object
    step: object
    trial: object


@kernel
def make_work(L, r):
    """Work space for L tokens at rank r."""
    N = L * r
    return Work(
        np.empty((L, L)),
        np.empty((L, L, N)),
        np.empty((L, L)),
        np.empty(N),
        np.empty((N, N)),
        np.empty(N),
        np.empty((N, N)),
        np.empty((N, N)),
        np.empty(N),
        np.empty((L, r)),
    )


@kernel
def assign(x, factor, y):
    """``x = factor y`` for matrices: a loop compiles many times faster than an array expression."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] = factor * y[i, j]


@kernel
def loss_value(h, T, variance, student, work):
    """``(1/2) sum_ij var_j (T_ij - S_ij)^2``."""
    student.value(h, student.params, work.S)
    L = h.shape[0]
    total = 0.0
    for i in range(L):
        for j in range(L):
            gap = (1 - student.omega) * work.S[i, j] + student.omega * student.A[i, j] - T[i, j]
            total += variance[j] * gap * gap
    return 0.5 * total


@kernel
def loss_derivatives(h, T, variance, student, work):
    """Loss; its gradient and Hessian go to ``work.loss_gradient`` and ``work.loss_hessian``."""
    L, r = h.shape
    N = L * r
    student.first(h, student.params, work.S, work.dS)
    share = 1 - student.omega
    total = 0.0
    for x in range(N):
        work.loss_gradient[x] = 0.0
    for i in range(L):
        for j in range(L):
            gap = share * work.S[i, j] + student.omega * student.A[i, j] - T[i, j]
            total += variance[j] * gap * gap
            work.W[i, j] = share * variance[j] * gap
            for x in range(N):
                work.loss_gradient[x] += work.W[i, j] * work.dS[i, j, x]
    student.second(h, student.params, work.W, work.loss_hessian)
    for i in range(L):
        for j in range(L):
            c = share * share * variance[j]
            for x in range(N):
                factor = c * work.dS[i, j, x]
                if factor != 0.0:
                    for y in range(x + 1):
                        work.loss_hessian[x, y] += factor * work.dS[i, j, y]
    for x in range(N):
        for y in range(x):
            work.loss_hessian[y, x] = work.loss_hessian[x, y]
    return 0.5 * total


@kernel
def distance(h, w, precision):
    """``(1/2) sum_l (h_l - w_l)^T V_l^-1 (h_l - w_l)``."""
    L, r = h.shape
    total = 0.0
    for l in range(L):
        for a in range(r):
            for b in range(r):
                total += (h[l, a] - w[l, a]) * precision[l, a, b] * (h[l, b] - w[l, b])
    return 0.5 * total


@kernel
def energy(h, w, T, state, student, work):
    """What the prox minimises."""
    return distance(h, w, state.precision) + loss_value(h, T, state.variance, student, work)


@kernel
def energy_derivatives(h, w, T, state, student, work):
    """Energy; gradient and Hessian go to `work`."""
    L, r = h.shape
    total = distance(h, w, state.precision)
    total += loss_derivatives(h, T, state.variance, student, work)
    assign(work.hessian, 1.0, work.loss_hessian)
    for x in range(L * r):
        work.gradient[x] = work.loss_gradient[x]
    for l in range(L):
        for a in range(r):
            for b in range(r):
                work.gradient[l * r + a] += state.precision[l, a, b] * (h[l, b] - w[l, b])
                work.hessian[l * r + a, l * r + b] += state.precision[l, a, b]
    return total


@kernel
def newton_step(work, shift):
    """``step = -(hessian + shift)^-1 gradient``; False if the matrix is not positive definite."""
    N = work.step.shape[0]
    C = work.factor
    for i in range(N):
        for j in range(i + 1):
            s = work.hessian[i, j]
            if i == j:
                s += shift
            for k in range(j):
                s -= C[i, k] * C[j, k]
            if i == j:
                if not s > 1e-12 * (abs(work.hessian[i, i]) + shift):
                    return False
                C[i, i] = math.sqrt(s)
            else:
                C[i, j] = s / C[j, j]
    for i in range(N):
        s = -work.gradient[i]
        for k in range(i):
            s -= C[i, k] * work.step[k]
        work.step[i] = s / C[i, i]
    for i in range(N - 1, -1, -1):
        s = work.step[i]
        for k in range(i + 1, N):
            s -= C[k, i] * work.step[k]
        work.step[i] = s / C[i, i]
    return True


@kernel
def descend(h, w, T, state, student, work):
    """Newton descent from h, in place: ``(energy, whether it has converged)``.

    An indefinite Hessian is shifted until it is positive; a trust radius bounds the step, and
    Armijo's condition decides, so that the energy never goes up.
    """
    L, r = h.shape
    N = L * r
    radius = FIRST_RADIUS
    e = energy_derivatives(h, w, T, state, student, work)
    for _ in range(DESCENT_STEPS):
        if not math.isfinite(e):
            return math.inf, False
        shift = 0.0
        size = 0.0
        for x in range(N):
            size = max(size, abs(work.hessian[x, x]))
        for _attempt in range(60):
            if newton_step(work, shift):
                break
            shift = max(4 * shift, 1e-2 * size)
        length = 0.0
        slope = 0.0
        reach = 0.0
        for x in range(N):
            length += work.step[x] ** 2
            slope += work.step[x] * work.gradient[x]
        for l in range(L):
            for a in range(r):
                reach += h[l, a] ** 2
        length = math.sqrt(length)
        reach = 1 + math.sqrt(reach)
        if shift == 0.0 and length <= SMALL_STEP * reach:
            for x in range(N):
                h[x // r, x % r] += work.step[x]
            return energy(h, w, T, state, student, work), True
        factor = 1.0
        if length > radius:
            factor = radius / length
        accepted = False
        for _halving in range(40):
            for x in range(N):
                work.trial[x // r, x % r] = h[x // r, x % r] + factor * work.step[x]
            e_new = energy(work.trial, w, T, state, student, work)
            if e_new <= e + 1e-4 * factor * slope + 1e-15 * abs(e):
                accepted = True
                break
            factor *= 0.5
        if not accepted:
            return e, slope > -1e-13 * (1 + abs(e))
        if factor * length >= 0.99 * radius:
            radius *= 2
        else:
            radius = max(2 * factor * length, 1e-3)
        assign(h, 1.0, work.trial)
        e = energy_derivatives(h, w, T, state, student, work)
    return e, False


@kernel
def insert_well(h, e, wells, energies, count):
    """Keep the lowest distinct wells, sorted; returns how many there are."""
    most = wells.shape[0]
    L, r = h.shape
    for k in range(count):
        gap = 0.0
        size = 1.0
        for l in range(L):
            for a in range(r):
                gap += (wells[k, l, a] - h[l, a]) ** 2
                size += h[l, a] ** 2
        if gap <= SAME_WELL**2 * size:
            return count
    k = count
    if count == most:
        if e >= energies[most - 1]:
            return count
        k = most - 1
    else:
        count += 1
    while k > 0 and energies[k - 1] > e:
        assign(wells[k], 1.0, wells[k - 1])
        energies[k] = energies[k - 1]
        k -= 1
    assign(wells[k], 1.0, h)
    energies[k] = e
    return count


@kernel
def draw_fields(point, state, y, w):
    """Teacher and cavity fields of a point of standard normals ``(z, zeta)``."""
    L, r = w.shape
    t = y.shape[1]
    for l in range(L):
        for a in range(t):
            y[l, a] = 0.0
            for b in range(a + 1):
                y[l, a] += state.root_rho[l, a, b] * point[l * t + b]
        for a in range(r):
            w[l, a] = state.m[l, a]
            for b in range(t):
                w[l, a] += state.slope[l, a, b] * y[l, b]
            for b in range(a + 1):
                w[l, a] += state.noise[l, a, b] * point[L * t + l * r + b]


@kernel
def mixed_value(mechanism, h, S):
    """The whole attention matrix of a mechanism."""
    mechanism.value(h, mechanism.params, S)
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            S[i, j] = (1 - mechanism.omega) * S[i, j] + mechanism.omega * mechanism.A[i, j]


@kernel
def jacobi(A, U):
    """Eigenvectors of a symmetric matrix in the columns of U; its eigenvalues on A's diagonal."""
    N = A.shape[0]
    for i in range(N):
        for j in range(N):
            U[i, j] = 1.0 if i == j else 0.0
    for _sweep in range(12):
        off = 0.0
        size = 0.0
        for i in range(N):
            size += A[i, i] ** 2
            for j in range(i):
                off += A[i, j] ** 2
        if off <= 1e-16 * size:
            break
        for p in range(N):
            for q in range(p + 1, N):
                if A[p, q] == 0.0:
                    continue
                ratio = (A[q, q] - A[p, p]) / (2 * A[p, q])
                t = 1 / (abs(ratio) + math.sqrt(ratio * ratio + 1))
                if ratio < 0:
                    t = -t
                c = 1 / math.sqrt(t * t + 1)
                s = t * c
                for k in range(N):
                    x = A[k, p]
                    z = A[k, q]
                    A[k, p] = c * x - s * z
                    A[k, q] = s * x + c * z
                for k in range(N):
                    x = A[p, k]
                    z = A[q, k]
                    A[p, k] = c * x - s * z
                    A[q, k] = s * x + c * z
                    x = U[k, p]
                    z = U[k, q]
                    U[k, p] = c * x - s * z
                    U[k, q] = s * x + c * z


@kernel
def fill_starts(y, w, T, state, student, random, work, starts):
    """Where descents begin: fills `starts` (K, L, r), returns how many there are.

    The cavity field, next to the origin, the cavity field mirrored, the teacher's fields with
    either sign, both sides of the origin along its unstable directions, and the cavity field
    displaced by `random` (K, L, r) standard normals in units of the farthest that a prox can be.
    """
    L, r = w.shape
    t = y.shape[1]
    N = L * r
    assign(starts[0], 1.0, w)
    assign(starts[1], 1e-3, w)
    assign(starts[2], -1.0, w)
    for l in range(L):
        for a in range(r):
            starts[3, l, a] = y[l, a] if a < t else 0.0
            starts[4, l, a] = -starts[3, l, a]
    count = 5
    # the energy's Hessian at the origin: w does not enter
    assign(work.trial, 0.0, w)
    energy_derivatives(work.trial, w, T, state, student, work)
    jacobi(work.hessian, work.factor)
    for _ in range(min(N, UNSTABLE_STARTS)):
        lowest = 0
        for k in range(N):
            if work.hessian[k, k] < work.hessian[lowest, lowest]:
                lowest = k
        if work.hessian[lowest, lowest] >= 0:
            break
        work.hessian[lowest, lowest] = math.inf  # each only once
        for x in range(N):
            starts[count, x // r, x % r] = UNSTABLE_DISTANCE * work.factor[x, lowest]
            starts[count + 1, x // r, x % r] = -UNSTABLE_DISTANCE * work.factor[x, lowest]
        count += 2
    reach = math.sqrt(2 * loss_value(w, T, state.variance, student, work) / N)
    for k in range(random.shape[0]):
        for l in range(L):
            for a in range(r):
                starts[count, l, a] = w[l, a]
                for b in range(a + 1):
                    starts[count, l, a] += reach * state.root_V[l, a, b] * random[k, l, b]
        count += 1
    return count


@kernel
def find_wells(points, state, target, student, random, wells, energies, counts, brief):
    """Search the wells of every sample; those of a previous search serve as starts.

    Parameters
    ----------
    points : array, shape (n, L t + L r)
        Standard normals.
    state : TokenState
    target, student : Mechanism
    random : array, shape (R, L, r)
        Standard normals for R random starts a sample.
    wells : array, shape (n, K, L, r)
    energies : array, shape (n, K)
    counts : int array, shape (n,)
        How many wells of a sample are known; all three are updated.
    brief : bool
        Whether to start from known wells and the cavity field only, where there are known ones.

    Returns
    -------
    int
        Descents that have not converged.
    """
    L, r = state.m.shape
    t = state.root_rho.shape[1]
    work = make_work(L, r)
    y = np.empty((L, t))
    w = np.empty((L, r))
    h = np.empty((L, r))
    T = np.empty((L, L))
    starts = np.empty((5 + 2 * UNSTABLE_STARTS + random.shape[0] + wells.shape[1], L, r))
    failures = 0
    for i in range(points.shape[0]):
        draw_fields(points[i], state, y, w)
        mixed_value(target, y, T)
        if brief and counts[i] > 0:
            assign(starts[0], 1.0, w)
            n = 1
        else:
            n = fill_starts(y, w, T, state, student, random, work, starts)
        for k in range(counts[i]):
            assign(starts[n], 1.0, wells[i, k])
            n += 1
        count = 0
        for k in range(n):
            assign(h, 1.0, starts[k])
            e, fine = descend(h, w, T, state, student, work)
            if fine:
                count = insert_well(h, e, wells[i], energies[i], count)
            else:
                failures += 1
        counts[i] = count
    return failures


@kernel
def reduced_sums_size(L, r, t):
    """Length of what :func:`field_sums` returns."""
    return 2 * L * r * r + L * r + L * r * t + 4


@kernel
def field_sums(points, state, target, student, wells, counts, proxes):
    """Means over samples of what makes up the channel averages.

    The wells of a sample are followed, and the lowest one is its prox; `proxes` (n, L, r) is filled
    with them.

    Returns
    -------
    array
        Means of ``g_l g_l^T`` (L, r, r), ``g_l`` (L, r), ``g_l zeta_l^T`` (L, r, r) and
        ``g_l y_l^T`` (L, r, t), flattened; then the loss at the prox, the loss at w, the number of
        descents that failed and the number of samples that have more than one well.
    """
    L, r = state.m.shape
    t = state.root_rho.shape[1]
    work = make_work(L, r)
    y = np.empty((L, t))
    w = np.empty((L, r))
    h = np.empty((L, r))
    T = np.empty((L, L))
    out = np.zeros(reduced_sums_size(L, r, t))
    at_m = L * r * r
    at_zeta = at_m + L * r
    at_y = at_zeta + L * r * r
    at_loss = at_y + L * r * t
    for i in range(points.shape[0]):
        draw_fields(points[i], state, y, w)
        mixed_value(target, y, T)
        lowest = math.inf
        failed = 0
        for k in range(counts[i]):
            assign(h, 1.0, wells[i, k])
            e, fine = descend(h, w, T, state, student, work)
            if not fine:
                failed += 1
            if e < lowest:
                lowest = e
                assign(proxes[i], 1.0, h)
        loss = loss_derivatives(proxes[i], T, state.variance, student, work)
        for l in range(L):
            for a in range(r):
                # V^-1 (prox - w), without its cancellation
                g = -work.loss_gradient[l * r + a]
                for b in range(r):
                    out[(l * r + a) * r + b] -= g * work.loss_gradient[l * r + b]
                    out[at_zeta + (l * r + a) * r + b] += g * points[i, L * t + l * r + b]
                out[at_m + l * r + a] += g
                for b in range(t):
                    out[at_y + (l * r + a) * t + b] += g * y[l, b]
        out[at_loss] += loss
        out[at_loss + 1] += loss_value(w, T, state.variance, student, work)
        out[at_loss + 2] += failed
        out[at_loss + 3] += counts[i] > 1
    for k in range(at_loss + 2):
        out[k] /= points.shape[0]
    return out


@kernel
def prox_derivative(h, w, T, state, student, work, D):
    """``D = dg/dw = V^-1 ((V^-1 + H)^-1 V^-1 - 1)``, H the Hessian of the loss at the prox h."""
    L, r = h.shape
    N = L * r
    energy_derivatives(h, w, T, state, student, work)
    for x in range(N):
        for z in range(N):
            work.gradient[z] = 0.0
        for b in range(r):
            work.gradient[(x // r) * r + b] = -state.precision[x // r, b, x % r]
        # at a minimum the Hessian is positive: a shift is for rounding beside a cusp
        if not newton_step(work, 0.0):
            newton_step(work, 1e-9 * state.precision[0, 0, 0])
        for z in range(N):
            D[z, x] = 0.0
            for b in range(r):
                D[z, x] += state.precision[z // r, z % r, b] * work.step[(z // r) * r + b]
        for b in range(r):
            D[(x // r) * r + b, x] -= state.precision[x // r, b, x % r]


@kernel
def derivative_sums(points, state, target, student, proxes):
    """Means of ``D_{la,lb}`` (L, r, r) and ``D_{la,kc} D_{lb,kd}`` (L r r, L r r), D = dg/dw.

    D of :func:`prox_derivative`: what differentiating sample by sample gives, without the jumps.
    """
    L, r = state.m.shape
    t = state.root_rho.shape[1]
    N = L * r
    work = make_work(L, r)
    y = np.empty((L, t))
    w = np.empty((L, r))
    T = np.empty((L, L))
    D = np.empty((N, N))
    diagonal = np.zeros((L, r, r))
    square = np.zeros((N * r, N * r))
    for i in range(points.shape[0]):
        draw_fields(points[i], state, y, w)
        mixed_value(target, y, T)
        prox_derivative(proxes[i], w, T, state, student, work, D)
        for l in range(L):
            for a in range(r):
                for b in range(r):
                    diagonal[l, a, b] += D[l * r + a, l * r + b]
                    row = (l * r + a) * r + b
                    for k in range(L):
                        for c in range(r):
                            for e in range(r):
                                square[row, (k * r + c) * r + e] += (
                                    D[l * r + a, k * r + c] * D[l * r + b, k * r + e]
                                )
    return diagonal / points.shape[0], square / points.shape[0]
