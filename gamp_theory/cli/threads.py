"""Work side by side in threads; Ctrl-C loses nothing that is finished."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gamp_theory.model import AttentionModel
    from gamp_theory.result import FixedPoint

__all__ = ["follow_branches", "in_threads", "single_blas_thread"]


def single_blas_thread() -> None:
    """Keep the BLAS from starting threads of its own, which get in the way of ours.

    Measured on two cores: 6 times slower descents at finite d, 15 % slower sweeps.  The variables
    are read when NumPy is first imported: call this before that.  A value that the user has set is
    left alone.
    """
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


class _Enough(Exception):
    """Raised in a worker that need not go on."""


def follow_branches(
    model: AttentionModel,
    values: Sequence[float],
    lam: float,
    starts: Sequence[str],
    *,
    along: str = "alpha",
    alpha: float | None = None,
    tol: float | Mapping[str, float] = 1e-6,
    until_left: bool = False,
    advance: Callable[..., object] = lambda steps=1: None,
    jobs: int = 2,
) -> tuple[dict[str, list[FixedPoint]], bool]:
    """Fixed points along a parameter from several starts, side by side in threads.

    Parameters
    ----------
    model : AttentionModel
        Its omega or sigma is replaced if `along` says so.
    values : sequence of float
        The parameter, in the order in which the branches are followed.
    lam : float
        Ridge; replaced if `along` is ``"lam"``.
    starts : sequence of str
        Names of starts.
    along : {"alpha", "omega", "lam", "sigma"}
        Which parameter `values` are of.
    alpha : float, optional
        Sample ratio, unless `along` is ``"alpha"``.
    tol : float or mapping of str to float
        Accuracy promised for each point, of all starts or by start.
    until_left : bool
        Whether to end a branch with the first point that converged on another one.
    advance : callable
        Called after each point, from any thread; with the number of points left out, if any.
    jobs : int
        Branches at a time; the kernels release the interpreter's lock.

    Returns
    -------
    points : dict of str to list of FixedPoint
        By start, in the order of `values`.
    complete : bool
        False if Ctrl-C came first: then `points` holds what was finished.
    """
    from gamp_theory.tracing import trace

    points: dict[str, list[FixedPoint]] = {start: [] for start in starts}
    stop = threading.Event()

    def follow(start: str) -> None:
        def finished(point: FixedPoint) -> None:
            points[start].append(point)
            advance()
            left = until_left and point.converged and point.branch != start
            if left or stop.is_set():
                raise _Enough

        own_tol = tol if isinstance(tol, float) else tol[start]
        with contextlib.suppress(_Enough):
            trace(
                model, values, lam, start, alpha=alpha, along=along, tol=own_tol, progress=finished
            )
        advance(len(values) - len(points[start]))

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(follow, start) for start in starts]
        try:
            for future in futures:
                future.result()
        except BaseException as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                return points, False
            raise
    return points, True


def in_threads(function: Callable[[int], dict], numbers: Sequence[int], jobs: int) -> list[dict]:
    """``map`` with `jobs` threads; Ctrl-C drops what has not begun."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(function, number) for number in numbers]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
