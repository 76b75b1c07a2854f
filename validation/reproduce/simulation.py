"""Recorded students as labelled means: read, never made here.

The records are those of ``python -m validation`` and ``python -m validation.reproduce``.
Losses are without their 1/d bias where a dataset does not say otherwise; means of m and theta are
of absolute values.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory.empirical.measure import mean_and_stderr
from validation.branches import branch_reached
from validation.minima import BROKEN
from validation.reproduce.labelled import dataset_of_rows
from validation.study import Case, Record, groups

if TYPE_CHECKING:
    import xarray

__all__ = ["MissingRecords", "read", "records_hash", "SIMULATIONS"]

RESULTS = Path(__file__).resolve().parent.parent / "results"
OVERLAPS = ("q", "m", "theta")
LOSSES = ("train_loss", "test_error")
Pair = tuple[Case, Record]


class MissingRecords(Exception):
    """Records that a figure needs are not there."""


def read(study: str) -> list[Pair]:
    """All instances of a study.

    Raises
    ------
    MissingRecords
        If there are none, or the file can not be read.
    """
    file = RESULTS / f"{study}.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return [(entry["case"], entry["record"]) for entry in document["instances"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingRecords(
            f"the records of the study {study!r} can not be read from {str(file)!r} "
            f"({type(error).__name__})"
        ) from error


def records_hash(studies: Sequence[str]) -> str:
    """Hash of the files of some studies; of nothing for one that is missing."""
    digest = hashlib.sha256()
    for study in studies:
        file = RESULTS / f"{study}.json"
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()[:16]


def _means(
    study: str,
    keep: Callable[[Case], bool] = lambda case: True,
    *,
    raw: bool = False,
) -> list[dict[str, Any]]:
    """A row for each point of a study: means over its instances and their standard errors."""
    pairs = [(case, record) for case, record in read(study) if keep(case)]
    keys = ("omega", "sigma", "lam", "alpha", "start", "d", "bias_free")
    rows = []
    for case, found in _points(pairs, keys):
        row: dict[str, Any] = {"study": study}
        row |= {name: float(case[name]) for name in ("alpha", "omega", "sigma", "lam")}
        row |= {"start": case["start"], "d": case["d"], "instances": len(found)}
        row["bias_free"] = int(case["bias_free"])
        ends = [branch_reached(record, case["sigma"]) for record in found]
        row["share"] = float(np.mean([end == case["start"] for end in ends]))
        columns = {name: [abs(r[name]) for r in found] for name in OVERLAPS}
        columns |= {
            name: [r[name] - (0.0 if raw else r[f"{name}_bias"]) for r in found] for name in LOSSES
        }
        columns["linear_error"] = [r["linear_error"] for r in found]
        for name, values in columns.items():
            row |= _column(name, values)
        rows.append(row)
    if not rows:
        raise MissingRecords(f"the records of the study {study!r} hold nothing of this figure")
    return rows


def _column(name: str, values: Sequence[float]) -> dict[str, float]:
    sample = mean_and_stderr(values)
    return {name: sample.mean, f"{name}_stderr": sample.stderr}


def _points(pairs: Sequence[Pair], keys: Sequence[str]) -> list[tuple[Case, list[Record]]]:
    """Instances of the same point; one alone, in records that are not complete, has no error."""
    cases, records = [case for case, _ in pairs], [record for _, record in pairs]
    return [(case, found) for case, found in groups(cases, records, keys) if len(found) > 1]


def along_alpha() -> xarray.Dataset:
    """Both informed starts along alpha at omega = .3, d = 1000 and 2000."""
    rows = _means("small_alpha", lambda case: not case.get("steps"))
    rows += _means(
        "curve", lambda case: case["lam"] == 0.01 and case["d"] == 2000 and not case["bias_free"]
    )
    return _dataset(rows)


def along_parameter(name: str) -> Callable[[], xarray.Dataset]:
    """Students along omega, sigma or the ridge at alpha = 1.5 around the worked case."""

    def rows() -> xarray.Dataset:
        if name == "omega":
            return _dataset(_means("grid", lambda case: case["alpha"] == 1.5))
        found = _means("parameters", lambda case: case["varied"] == name and "A" not in case)
        found += _means(
            "curve",
            lambda case: (
                case["alpha"] == 1.5
                and case["lam"] == 0.01
                and case["d"] == 500
                and not case["bias_free"]
            ),
        )
        return _dataset(found)

    return rows


def second_target() -> xarray.Dataset:
    """Students of the second target along omega."""
    return _dataset(_means("parameters", lambda case: "A" in case))


def scaling() -> xarray.Dataset:
    """Both starts at alpha = 1.5 from d = 100 to 2000, with their 1/d bias."""
    rows = _means("scaling", raw=True)
    rows += _means(
        "curve",
        lambda case: case["alpha"] == 1.5 and case["lam"] == 0.01 and not case["bias_free"],
        raw=True,
    )
    return _dataset(rows, bias="contained")


def crossing() -> xarray.Dataset:
    """The gap between both training losses of the same tasks along alpha, by d."""
    rows = []
    for case, found in _points(read("crossing"), ("d", "alpha")):
        gaps = [_unbiased(r, "semantic") - _unbiased(r, "positional") for r in found]
        rows.append(
            {
                "study": "crossing",
                **{name: float(case[name]) for name in ("alpha", "omega", "sigma", "lam")},
                "start": "both",
                "d": case["d"],
                "instances": len(found),
                **_column("train_loss_gap", gaps),
            }
        )
    return _dataset(rows)


def _unbiased(record: Record, start: str) -> float:
    return record[start] - record[f"{start}_bias"]


def plane() -> xarray.Dataset:
    """The gap between training losses, and the gain over a linear layer, over the plane.

    Students from both starts have met the same tasks, so their differences are taken task by task.
    Where fewer than half of those from either start have ended on its branch, there is no gap.
    """
    tasks: dict[tuple, dict[str, Record]] = {}
    for case, record in read("plane"):
        place = (case["alpha"], case["omega"], case["d"], case["sigma"], case["lam"])
        tasks.setdefault((*place, tuple(case["seed"])), {})[case["start"]] = record
    points: dict[tuple, list[dict[str, Record]]] = {}
    for key, both in tasks.items():
        if len(both) == len(BROKEN):
            points.setdefault(key[:-1], []).append(both)
    rows = []
    for (alpha, omega, d, sigma, lam), found in sorted(points.items()):
        if len(found) < 2:  # no standard error yet
            continue
        shares = [
            float(np.mean([branch_reached(both[start], sigma) == start for both in found]))
            for start in BROKEN
        ]
        gaps, gains = [], []
        for both in found:
            loss = {s: both[s]["train_loss"] - both[s]["train_loss_bias"] for s in BROKEN}
            lower = both[min(BROKEN, key=loss.__getitem__)]
            gaps.append(loss["semantic"] - loss["positional"])
            error = lower["test_error"] - lower["test_error_bias"]
            gains.append(lower["linear_error"] - error)
        gap = _column("train_loss_gap", gaps)
        if min(shares) < 0.5:
            gap = dict.fromkeys(gap, math.nan)
        where = {"alpha": alpha, "omega": omega, "sigma": sigma, "lam": lam}
        rows.append(
            {
                "study": "plane",
                **{name: float(value) for name, value in where.items()},
                "start": "both",
                "d": d,
                "instances": len(found),
                "share": min(shares),
                **gap,
                **_column("gain", gains),
            }
        )
    if not rows:
        raise MissingRecords("the records of the study 'plane' hold no pair of students")
    return _dataset(rows)


def rank_two() -> xarray.Dataset:
    """Students of rank two from random starts: minima, and what descent reaches."""
    rows = []
    for case, found in _points(read("rank_two"), ("alpha", "d", "bias_free", "steps")):
        row: dict[str, Any] = {
            "study": "rank_two",
            **{name: float(case[name]) for name in ("alpha", "omega", "sigma", "lam")},
            "start": "random",
            "d": case["d"],
            "instances": len(found),
            "steps": case["steps"],
            "bias_free": int(case["bias_free"]),
        }
        for name in (*OVERLAPS, *LOSSES):
            row |= _column(name, [r[name] for r in found])
        rows.append(row)
    return _dataset(rows, bias="contained")


def _dataset(rows: Sequence[dict[str, Any]], bias: str = "subtracted") -> xarray.Dataset:
    title = "Students of a solvable attention model at finite d"
    return dataset_of_rows("simulation", rows, title=title, bias=bias)


#: What can be asked for: the studies it is from, and what reads it.
SIMULATIONS: dict[str, tuple[tuple[str, ...], Callable[[], xarray.Dataset]]] = {
    "students_alpha": (("small_alpha", "curve"), along_alpha),
    "students_crossing": (("crossing",), crossing),
    "students_plane": (("plane",), plane),
    "students_omega": (("grid",), along_parameter("omega")),
    "students_sigma": (("parameters", "curve"), along_parameter("sigma")),
    "students_lam": (("parameters", "curve"), along_parameter("lam")),
    "students_second_target": (("parameters",), second_target),
    "students_rank_two": (("rank_two",), rank_two),
    "students_scaling": (("scaling", "curve"), scaling),
}
