"""Many fixed points: a grid or list of parameters, any executor, one labelled result.

The unit of work is a line: one branch at all values of alpha, with warm starts.  Lines that are
finished are kept in a folder, from which a sweep goes on after whatever has ended it.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gamp_theory.grids import FLAGS, grid_dataset, no_point
from gamp_theory.model import AttentionModel
from gamp_theory.records import versions
from gamp_theory.starts import STARTS
from gamp_theory.state_evolution import PAIR_TOL, check_arguments
from gamp_theory.sweep_folder import Damaged, Folder, Plan, source_hash
from gamp_theory.sweep_lines import LineResult, solve_line

if TYPE_CHECKING:
    import xarray

__all__ = ["SweepError", "merge", "sweep"]

#: These are axes of the result even with one value; sigma and lam where they are given as lists.
ALWAYS = ("alpha", "omega")
PARAMETERS = ("alpha", "omega", "sigma", "lam", "tol")

Points: TypeAlias = Sequence[Mapping[str, float]] | Mapping[str, Sequence[float]]


class SweepError(RuntimeError):
    """A sweep that could not go on; the message says why, and what is kept."""


def sweep(
    model: AttentionModel,
    *,
    alpha: float | Sequence[float] | None = None,
    omega: float | Sequence[float] | None = None,
    sigma: float | Sequence[float] | None = None,
    lam: float | Sequence[float] = 0.01,
    points: Points | None = None,
    branches: str | Sequence[str] = ("semantic", "positional"),
    tol: float = PAIR_TOL,
    out: str | Path | None = None,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    executor: int | Executor | Any = 1,
    progress: Callable[[int, int], object] | None = None,
) -> xarray.Dataset:
    """Branches of fixed points on a grid of parameters, or at a list of them.

    Parameters
    ----------
    model : AttentionModel
        Its omega and sigma are replaced where they are given.
    alpha, omega, sigma, lam : float or sequence of float
        The grid is their product.
    points : sequence of mappings, or mapping of sequences
        A list instead of a grid: for each point, or as columns, any of alpha, omega, sigma, lam and
        tol.  What is not in it is the same at all points, the argument of its name, a number.
        Points that differ in alpha only are one line, followed as in a grid.
    branches : str or sequence of str
        Named starts; a branch is followed along alpha from wherever its start leads to it
        (:func:`gamp_theory.sweep_lines.solve_line`).
    tol : float
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
        list, point, along which the parameters are coordinates, and branch.  Each point has a
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
    if not isinstance(model, AttentionModel):
        raise ValueError(f"model must be an AttentionModel, got {type(model).__name__}")
    given = {
        "alpha": alpha,
        "omega": model.omega if omega is None else omega,
        "sigma": model.sigma if sigma is None else sigma,
        "lam": lam,
    }
    plan = _plan(model, given, branches, tol, points)
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
        _run(plan, waiting, executor, keep)
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


# ------------------------------------------------------------------------------ what is asked for


def _plan(
    model: AttentionModel,
    given: Mapping[str, Any],
    branches: str | Sequence[str],
    tol: float,
    points: Points | None,
) -> Plan:
    """What to compute, checked."""
    names = (branches,) if isinstance(branches, str) else tuple(branches)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"branches must be one or more that differ, got {branches!r}")
    for name in names:
        if name not in STARTS:
            raise ValueError(f"branches must be among {', '.join(STARTS)}, got {name!r}")
    if points is None:
        if given["alpha"] is None:
            raise ValueError("alpha must be given, as an argument or in points")
        values = {name: _values(name, value) for name, value in given.items()}
        axes = tuple(name for name in given if name in ALWAYS or np.ndim(given[name]) == 1)
        for omega in values["omega"]:
            for sigma in values["sigma"]:
                model.with_parameters(omega, sigma)
        for alpha in values["alpha"]:
            for lam in values["lam"]:
                check_arguments(model, alpha, lam, names[0], tol)
    else:
        values = _columns(points, {**given, "tol": tol})
        axes = ("point",)
        for alpha, omega, sigma, lam, accuracy in zip(*values.values(), strict=True):
            check_arguments(model.with_parameters(omega, sigma), alpha, lam, names[0], accuracy)
    return Plan(
        A=tuple(map(tuple, model.target.A)),
        alpha=values["alpha"],
        omega=values["omega"],
        sigma=values["sigma"],
        lam=values["lam"],
        branch=names,
        axes=axes,
        tol=float(tol) if points is None else values["tol"],
        versions=versions(),
        source=source_hash(),
    )


def _columns(points: Points, given: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """The parameters of each point of a list, one column for each of `PARAMETERS`."""
    if isinstance(points, Mapping):
        columns = {str(name): list(np.atleast_1d(column)) for name, column in points.items()}
        if len(set(map(len, columns.values()))) > 1:
            sizes = {name: len(column) for name, column in columns.items()}
            raise ValueError(f"points must have columns of one length, got {sizes}")
        points = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    for name, value in given.items():
        if np.ndim(value):
            raise ValueError(f"{name} must be one number beside points, got {value!r}")
    rows: dict[tuple[float, ...], None] = {}
    for k, point in enumerate(points if isinstance(points, Iterable) else [points]):
        if not isinstance(point, Mapping) or not point.keys() <= set(PARAMETERS):
            raise ValueError(
                f"points must be mappings with keys among {', '.join(PARAMETERS)}, got {point!r}"
            )
        whole = {**given, **point}
        try:
            row = tuple(float(whole[name]) for name in PARAMETERS)
        except (TypeError, ValueError):
            missing = "" if whole["alpha"] is not None else ", and alpha for each of them"
            raise ValueError(
                f"points must hold numbers{missing}, got {dict(point)!r} as number {k}"
            ) from None
        if row in rows:
            raise ValueError(f"points must differ, got {dict(point)!r} twice")
        rows[row] = None
    if not rows:
        raise ValueError(f"points must hold at least one point, got {points!r}")
    return dict(zip(PARAMETERS, zip(*rows, strict=True), strict=True))


def _values(name: str, value: Any) -> tuple[float, ...]:
    """A number or a sequence of numbers, none of them twice."""
    try:
        array = np.atleast_1d(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        array = np.zeros((0, 0))
    if array.ndim != 1 or not array.size or np.unique(array).size < array.size:
        raise ValueError(f"{name} must be a number or a list of numbers that differ, got {value!r}")
    return tuple(array.tolist())


def _check_executor(executor: Any) -> None:
    number = isinstance(executor, int) and not isinstance(executor, bool) and executor >= 1
    if not (number or isinstance(executor, Executor) or hasattr(executor, "get_executor")):
        raise ValueError(
            "executor must be a number of threads >= 1, a concurrent.futures.Executor or a dask "
            f"Client, got {executor!r}"
        )


# --------------------------------------------------------------------------------------- the work


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


def _run(
    plan: Plan, numbers: Sequence[int], executor: Any, keep: Callable[[int, LineResult], None]
) -> None:
    """Compute lines and keep each as soon as it is there."""
    lost: Exception | None = None
    futures: dict[Future[LineResult], int] = {}
    with _pool(executor) as submit:
        try:
            for number in numbers:
                line = plan.lines[number]
                work = (plan.model(line), plan.alphas(line), line.lam, line.branch, line.tol)
                futures[submit(solve_line, *work)] = number
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


def _dataset(plan: Plan, results: Mapping[int, LineResult]) -> xarray.Dataset:
    """All points of a plan, those of lines that are not there as ``not_computed``."""
    listed = plan.listed
    coordinates: dict[str, float | list[float]] = {}
    for name in PARAMETERS[:4]:
        values = getattr(plan, name)
        coordinates[name] = list(values) if listed or name in plan.axes else values[0]
    tol = plan.tol
    if isinstance(tol, tuple):
        if len(set(tol)) > 1:
            coordinates["tol"] = list(tol)
        tol = max(tol)
    dataset = grid_dataset(
        "sweep",
        coordinates,
        plan.branch,
        _listed_columns(plan, results) if listed else _grid_columns(plan, results),
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


def _grid_columns(plan: Plan, results: Mapping[int, LineResult]) -> dict[str, Any]:
    """Columns of shape (alpha, other axes, branch)."""
    shape = [len(getattr(plan, name)) for name in ("omega", "sigma", "lam", "branch", "alpha")]
    kept = [k for k, name in enumerate(("omega", "sigma", "lam")) if name in plan.axes]
    columns = {}
    for name, missing in no_point("not_computed").items():
        table = [
            results[number].columns[name] if number in results else [missing] * len(plan.alpha)
            for number in range(len(plan.lines))
        ]
        values = np.array(table, float if name not in FLAGS else np.int8).reshape(shape)
        # alpha first; parameters that are no axes have one value
        columns[name] = np.moveaxis(values, -1, 0).reshape(
            [shape[-1], *(shape[k] for k in kept), shape[3]]
        )
    return columns


def _listed_columns(plan: Plan, results: Mapping[int, LineResult]) -> dict[str, Any]:
    """Columns of shape (points, branches)."""
    shape = (len(plan.alpha), len(plan.branch))
    columns = {}
    for name, missing in no_point("not_computed").items():
        table = np.full(shape, missing, float if name not in FLAGS else np.int8)
        for number, result in results.items():
            line = plan.lines[number]
            table[plan.members[line[:-1]], plan.branch.index(line.branch)] = result.columns[name]
        columns[name] = table
    return columns
