"""Datasets of a reproduction that no function of the package makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory.netcdf import SCHEMA, SCHEMA_VERSION
from gamp_theory.records import versions

if TYPE_CHECKING:
    import xarray

__all__ = ["dataset_of_rows"]

ABOUT = {
    "alpha": "sample ratio n/d",
    "omega": "weight of the positional part of the target",
    "sigma": "standard deviation of the token entries",
    "lam": "ridge",
    "d": "embedding dimension",
    "start": "start of training",
    "study": "study of validation whose records these are",
    "instances": "independent tasks",
    "steps": "steps of descent; 0 for L-BFGS",
    "bias_free": "1 for tasks without the 1/d bias",
    "share": "part of the students that ended on the branch that the start names",
    "q": "student norm Q.Sigma.Q/d",
    "m": "positional overlap, absolute value",
    "theta": "semantic overlap Q.Sigma.Q*/d, absolute value",
    "train_loss": "training loss R/d",
    "test_error": "test error per token and dimension",
    "linear_error": "test error of the best linear layer",
    "train_loss_gap": "training loss, semantic less positional, of the same tasks",
    "gain": "linear_error less the test error of the lower of both minima",
    "train_loss_bias": "what finite d adds to the training loss, subtracted already",
    "test_error_bias": "what finite d adds to the test error, subtracted already",
    "kind": "transition",
    "status": "how the search ended",
    "low": "lower end of the bracket",
    "high": "upper end of the bracket",
    "jump_mass": "jump mass; of a threshold, the largest of the fixed points it is about",
    "replicon": "replicon, regular part",
    "branch": "branch on which the solve ended",
}
SUFFIXES = {"_stderr": "standard error of ", "_error": "error bar of "}


def dataset_of_rows(
    kind: str, rows: Sequence[Mapping[str, Any]], **attributes: str | float
) -> xarray.Dataset:
    """Rows of numbers and words as a labelled dataset with one dimension, ``point``.

    Parameters
    ----------
    kind : str
        One of those that :func:`gamp_theory.load` knows.
    rows : sequence of mapping
        With the same keys, those of `ABOUT` or with one of `SUFFIXES` behind; at least one.
    attributes
        Of the dataset.
    """
    import xarray

    dataset = xarray.Dataset(
        attrs={
            "Conventions": "CF-1.11",
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "versions": versions(),
            **attributes,
        }
    )
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        attrs = {"long_name": _about(name)}
        if values.dtype.kind == "f":
            attrs["units"] = "1"
        dataset[name] = ("point", values, attrs)
    return dataset


def _about(name: str) -> str:
    if name in ABOUT:
        return ABOUT[name]
    suffix = next(suffix for suffix in SUFFIXES if name.endswith(suffix))
    return SUFFIXES[suffix] + ABOUT[name.removesuffix(suffix)]
