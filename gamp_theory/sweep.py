"""Many fixed points: a grid or list of parameters, any executor, one labelled result.

The unit of work is a line: one branch at all values of alpha, with warm starts.  Lines that are
finished are kept in a folder, from which a sweep goes on after whatever has ended it.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory.grids import FLAGS, grid_dataset, no_general_point, no_point
from gamp_theory.model import AttentionModel
from gamp_theory.state_evolution import GENERAL_TOL, PAIR_TOL
from gamp_theory.sweep_folder import Damaged, Folder
from gamp_theory.sweep_lines import LineResult, solve_general_line, solve_line
from gamp_theory.sweep_plans import (
    PARAMETERS,
    GeneralPlan,
    Plan,
    Points,
    general_plan,
    pair_plan,
)
from gamp_theory.token_model import GeneralModel

if TYPE_CHECKING:
    import xarray

__all__ = ["SweepError", "merge", "sweep"]


class SweepError(RuntimeError):
    """A sweep that could not go on; the message says why, and what is kept."""


def sweep(
    model: AttentionModel | GeneralModel,
    *,
    alpha: float | Sequence[float] | None = None,
    omega: float | Sequence[float] | None = None,
    sigma: float | Sequence[float] | None = None,
    lam: float | Sequence[float] = 0.01,
    points: Points | None = None,
    branches: str | Sequence[str] = ("semantic", "positional"),
    tol: float | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    executor: int | Executor | Any = 1,
    progress: Callable[[int, int], object] | None = None,
) -> xarray.Dataset:
    """Branches of fixed points on a grid of parameters, or at a list of them.

    Parameters
    ----------
    model : AttentionModel or GeneralModel
        The omega and sigma of the former are replaced where they are given.  The latter is swept on
        grids of alpha and lam; its overlaps are arrays with the token first.
    alpha, omega, sigma, lam : float or sequence of float
        The grid is their product.
    points : sequence of mappings, or mapping of sequences
        A list instead of a grid: for each point, or as columns, any of alpha, omega, sigma, lam and
        tol.  What is not in it is the same at all points, the argument of its name, a number.
        Points that differ in alpha only are one line, followed as in a grid.
    branches : str or sequence of str
        Named starts; a branch is followed along alpha from wherever its start leads to it
        (:func:`gamp_theory.sweep_lines.solve_line`, :func:`gamp_theory.sweep_lines.
        solve_general_line`).
    tol : float, optional
        Accuracy of each point, as in :func:`gamp_theory.solve`.
    out : str or Path, optional
        Folder for the lines that are finished, made if need be.  Without one, nothing is kept if
        the sweep is ended.
    resume : bool
        Whether lines of this sweep may be in the folder already: they are read.  A damaged one is
        computed again, with a warning.
    shard : (i, n)
        Do the i-th of n parts only, counted from 1: every n-th line.  The parts may share `out`.
    executor : int, concurrent.futures.Executor, or dask Client
        A number of threads, or what runs the lines.  The result is the same to the last bit.
    progress : callable, optional
        Called with (lines finished, lines of this part) at the beginning and after each line, by
        the caller's thread.

    Returns
    -------
    xarray.Dataset
        Dimensions alpha, omega, sigma and lam if they were given as sequences, and branch; of a
        list, point, along which the parameters are coordinates, and branch.  Overlaps of a general
        model have further ones: token, column, other_column, teacher_column.  Each point has a
        `status` (its attribute ``flag_meanings``): numbers are NaN where a branch does not exist or
        was not found (``does_not_exist``, ``left_branch`` with the other branch in `reached`),
        where a solve failed, and where the line belongs to another part (``not_computed``).

    Raises
    ------
    ValueError
        On bad input, before any work; if `out` can not be written to, holds another sweep, or holds
        lines of this part without `resume`.
    SweepError
        If a worker dies or a line can not be written.  What is finished is kept in `out`.
    """
    plan: Plan | GeneralPlan
    if isinstance(model, GeneralModel):
        for name, value in (("omega", omega), ("sigma", sigma), ("points", points)):
            if value is not None:
                raise ValueError(f"{name} must be left out for a general model, got {value!r}")
        plan = general_plan(model, alpha, lam, branches, GENERAL_TOL if tol is None else tol)
    elif isinstance(model, AttentionModel):
        given = {
            "alpha": alpha,
            "omega": model.omega if omega is None else omega,
            "sigma": model.sigma if sigma is None else sigma,
            "lam": lam,
        }
        plan = pair_plan(model, given, branches, PAIR_TOL if tol is None else tol, points)
    else:
        raise ValueError(
            f"model must be an AttentionModel or a GeneralModel, got {type(model).__name__}"
        )
    i, n = shard
    if not 1 <= i <= n:
        raise ValueError(f"shard must be (i, n) with 1 <= i <= n, got {shard!r}")
    numbers = range(i - 1, len(plan.lines), n)
    _check_executor(executor)
    folder = None if out is None else Folder.prepared(Path(out), plan)
    results = {} if folder is None else _finished(folder, numbers, resume)
    waiting = [number for number in numbers if number not in results]
    if progress is not None:
        progress(len(results), len(numbers))

    def keep(number: int, result: LineResult) -> None:
        if folder is not None:
            try:
                folder.write(number, result)
            except OSError as error:
                raise _Trouble(f"a line could not be written ({error})") from error
        results[number] = result
        if progress is not None:
            progress(len(results), len(numbers))

    try:
        _run({number: _work(plan, number, model) for number in waiting}, executor, keep)
    except _Trouble as error:
        kept = "lost, as there is no folder" if folder is None else f"kept in {str(out)!r}: resume"
        raise SweepError(
            f"{error}; {len(results)} of {len(numbers)} lines are finished, and {kept}"
        ) from error.__cause__
    return _dataset(plan, results)


def merge(folder: str | Path) -> xarray.Dataset:
    """The lines in the folder of a sweep, of however many parts, as one dataset.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    xarray.Dataset
        As :func:`sweep` returns it.  Its attribute ``complete`` is 0 if lines are missing; their
        points are ``not_computed``.

    Raises
    ------
    ValueError
        If it is not the folder of a sweep, or a file in it is damaged.
    """
    opened = Folder.opened(Path(folder))
    numbers = [number for number in range(len(opened.plan.lines)) if opened.holds(number)]
    try:
        results = {number: opened.read(number) for number in numbers}
    except Damaged as error:
        raise Damaged(f"{error}: resume the sweep, which computes it again") from None
    return _dataset(opened.plan, results)


# -------------------------------------------------------------------------------------- the work


def _check_executor(executor: Any) -> None:
    number = isinstance(executor, int) and not isinstance(executor, bool) and executor >= 1
    if not (number or isinstance(executor, Executor) or hasattr(executor, "get_executor")):
        raise ValueError(
            "executor must be a number of threads >= 1, a concurrent.futures.Executor or a dask "
            f"Client, got {executor!r}"
        )


class _Trouble(Exception):
    """Why a sweep can not go on, whatever its points; the cause is what was raised."""


def _finished(folder: Folder, numbers: Sequence[int], resume: bool) -> dict[int, LineResult]:
    """The lines that are in the folder already."""
    there = [number for number in numbers if folder.holds(number)]
    if there and not resume:
        raise ValueError(
            f"out must be a new folder unless the sweep is resumed, got {str(folder.path)!r} with "
            f"{len(there)} lines of this sweep"
        )
    results = {}
    for number in there:
        try:
            results[number] = folder.read(number)
        except Damaged as error:
            warnings.warn(f"{error}: the line is computed again", stacklevel=3)
    return results


def _work(
    plan: Plan | GeneralPlan, number: int, model: AttentionModel | GeneralModel
) -> tuple[Any, ...]:
    """A line as a function and its arguments."""
    if isinstance(plan, GeneralPlan):
        general = plan.lines[number]
        return solve_general_line, model, plan.alpha, general.lam, general.branch, plan.tol
    line = plan.lines[number]
    alphas = plan.alphas(line)
    return solve_line, plan.model(line), alphas, line.lam, line.branch, line.tol


def _run(
    work: Mapping[int, tuple[Any, ...]],
    executor: Any,
    keep: Callable[[int, LineResult], None],
) -> None:
    """Compute lines and keep each as soon as it is there."""
    lost: Exception | None = None
    futures: dict[Future[LineResult], int] = {}
    with _pool(executor) as submit:
        try:
            for number, call in work.items():
                futures[submit(*call)] = number
            # a line is struck off when it is kept, not before: Ctrl-C may come in between
            for future in as_completed(list(futures)):
                try:
                    result = future.result()
                except Exception as error:
                    lost = error  # with a worker; the lines of others are kept all the same
                else:
                    keep(futures[future], result)
                del futures[future]
        except BaseException as error:
            for future in futures:
                future.cancel()
            if not isinstance(error, _Trouble):  # which is that no line can be written
                _keep_finished(futures, keep)
            if isinstance(error, BrokenExecutor):  # it takes no more lines
                raise _worker_failed(error) from error
            raise
    if lost is not None:
        raise _worker_failed(lost) from lost


def _keep_finished(
    futures: Mapping[Future[LineResult], int], keep: Callable[[int, LineResult], None]
) -> None:
    """Keep the lines that are there and were not asked for yet."""
    for future, number in futures.items():
        if future.done() and not future.cancelled() and future.exception() is None:
            keep(number, future.result())


def _worker_failed(error: Exception) -> _Trouble:
    return _Trouble(f"a worker failed ({type(error).__name__}: {error})")


@contextlib.contextmanager
def _pool(executor: Any) -> Iterator[Callable[..., Future[LineResult]]]:
    """What submits a line; threads of our own end with the block."""
    if not isinstance(executor, int):
        client = hasattr(executor, "get_executor")
        yield (executor.get_executor() if client else executor).submit
        return
    stop = threading.Event()
    pool = ThreadPoolExecutor(executor)

    def submit(work: Callable[..., LineResult], *arguments: Any) -> Future[LineResult]:
        return pool.submit(partial(work, stopped=stop.is_set), *arguments)

    try:
        yield submit
    except BaseException:
        stop.set()
        # a solve that is under way is not waited for: it can take a minute
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


# ------------------------------------------------------------------------------------- the result


def _dataset(plan: Plan | GeneralPlan, results: Mapping[int, LineResult]) -> xarray.Dataset:
    """All points of a plan, those of lines that are not there as ``not_computed``."""
    listed = isinstance(plan, Plan) and plan.listed
    coordinates: dict[str, float | list[float]] = {}
    for name in PARAMETERS[:4] if isinstance(plan, Plan) else ("alpha", "lam"):
        values = getattr(plan, name)
        coordinates[name] = list(values) if listed or name in plan.axes else values[0]
    tol = plan.tol
    if isinstance(tol, tuple):
        if len(set(tol)) > 1:
            coordinates["tol"] = list(tol)
        tol = max(tol)
    if isinstance(plan, GeneralPlan):
        dataset = grid_dataset(
            "general_sweep",
            coordinates,
            plan.branch,
            _grid_columns(plan, results, no_general_point("not_computed", plan.shape)),
            tol=tol,
            computed_with=plan.versions,
        ).assign_attrs(model=plan.model)
    else:
        empty = no_point("not_computed")
        dataset = grid_dataset(
            "sweep",
            coordinates,
            plan.branch,
            _listed_columns(plan, results, empty)
            if listed
            else _grid_columns(plan, results, empty),
            A=plan.A,
            tol=tol,
            computed_with=plan.versions,
            listed=listed,
        )
    failures = [failure for number in sorted(results) for failure in results[number].failures]
    return dataset.assign_attrs(
        source=plan.source,
        complete=int(len(results) == len(plan.lines)),
        failures="\n".join(failures),
    )


def _grid_columns(
    plan: Plan | GeneralPlan, results: Mapping[int, LineResult], empty: Mapping[str, Any]
) -> dict[str, Any]:
    """Columns of shape (alpha, other axes, branch), and the dimensions of an overlap after them."""
    shape = [len(getattr(plan, name)) for name in plan.line_axes]
    # parameters that are no axes have one value
    single = tuple(1 + k for k, name in enumerate(plan.line_axes[:-1]) if name not in plan.axes)
    columns = {}
    for name, missing in empty.items():
        table = [
            results[number].columns[name] if number in results else [missing] * len(plan.alpha)
            for number in range(len(plan.lines))
        ]
        values = np.array(table, float if name not in FLAGS else np.int8)
        values = values.reshape(*shape, *values.shape[1:])
        columns[name] = np.moveaxis(values, len(shape), 0).squeeze(single)
    return columns


def _listed_columns(
    plan: Plan, results: Mapping[int, LineResult], empty: Mapping[str, Any]
) -> dict[str, Any]:
    """Columns of shape (points, branches)."""
    shape = (len(plan.alpha), len(plan.branch))
    columns = {}
    for name, missing in empty.items():
        table = np.full(shape, missing, float if name not in FLAGS else np.int8)
        for number, result in results.items():
            line = plan.lines[number]
            table[plan.members[line[:-1]], plan.branch.index(line.branch)] = result.columns[name]
        columns[name] = table
    return columns
