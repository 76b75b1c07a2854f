"""Results in netCDF files that say what they are, and are read back only if they are that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gamp_theory.files import replacing

if TYPE_CHECKING:
    import xarray

__all__ = ["SCHEMA", "SCHEMA_VERSION", "load", "save"]

#: Every file has these two as attributes, and its `kind`; docs/howto/sweep.md describes them.
SCHEMA = "gamp_theory"
#: Goes up when a reader of the last version would misunderstand; new variables do not count.
SCHEMA_VERSION = 1
#: What a file of each kind holds at least.
KINDS: Mapping[str, tuple[str, ...]] = {
    "curve": ("branch", "status", "reached", "q", "train_loss"),
    "general": ("alpha", "status", "train_loss"),
    "general_sweep": ("alpha", "branch", "status", "reached", "q", "train_loss"),
    "phase_diagram": ("kind", "alpha", "omega", "label"),
    "simulation": ("alpha", "omega", "sigma", "lam", "d", "start", "instances"),
    "sweep": ("alpha", "branch", "status", "reached", "q", "train_loss"),
    "thresholds": ("kind", "omega", "alpha", "alpha_error", "status"),
    "transition": ("alpha", "branch", "status", "reached", "q", "train_loss"),
}
_HDF5 = b"\x89HDF\r\n\x1a\n"


def save(dataset: xarray.Dataset, path: Path) -> None:
    """Write a dataset of this package: the whole file or nothing, numbers with checksums.

    Parameters
    ----------
    dataset : xarray.Dataset
        What one of the functions of :mod:`gamp_theory.datasets`, a sweep or a merge has made.
    path : Path

    Raises
    ------
    OSError
        If it can not be written; what stood there stands.
    """
    # HDF5 checks chunks only: neither single numbers, nor strings, which lie elsewhere.
    checked = {
        str(name): {"fletcher32": True}
        for name, variable in dataset.variables.items()
        if variable.size and variable.ndim and variable.dtype.kind in "fiub"
    }
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=checked)


def load(path: str | Path) -> xarray.Dataset:
    """Read a file that this package has written, after making sure that it is one.

    Parameters
    ----------
    path : str or Path
        Of ``sweep`` and ``merge``, ``curve``, ``diagram``, ``demo`` or ``reproduce``.

    Returns
    -------
    xarray.Dataset
        In memory; the file is closed.  What it is stands in its attribute ``kind``.

    Raises
    ------
    OSError
        If there is no such file, or it may not be read.
    ValueError
        If it is not of this package, of a later version of it, or damaged.
    """
    import xarray

    path = Path(path)
    with path.open("rb") as file:
        if file.read(len(_HDF5)) != _HDF5:
            raise ValueError(f"{str(path)!r} is not a netCDF-4 file")
    try:
        dataset = xarray.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # HDF5 and its readers raise anything where bytes are wrong
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error
    if dataset.attrs.get("schema") != SCHEMA:
        raise ValueError(f"{str(path)!r} was not written by gamp_theory")
    version = dataset.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{str(path)!r} has schema version {version}, written by "
            f"{dataset.attrs.get('versions', 'an unknown version')}; this version of gamp_theory "
            f"reads {SCHEMA_VERSION}: install a later one"
        )
    kind = str(dataset.attrs.get("kind"))
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r} is damaged: it is of the unknown kind {kind!r}")
    missing = [name for name in KINDS[kind] if name not in dataset.variables]
    if missing:
        raise ValueError(f"{str(path)!r} is damaged: a {kind} without {', '.join(missing)}")
    return dataset
