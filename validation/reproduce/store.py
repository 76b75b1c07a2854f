"""What a reproduction keeps in its folder: datasets and single results, keyed by what made them.

Everything is written as soon as it is there and found again by its key, a hash of what was asked
for and of the code: of the package, of what it stands on, and of this directory.  So a run that was
ended goes on where it was, and nothing of other code is taken for new.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gamp_theory import load
from gamp_theory.files import replacing
from gamp_theory.netcdf import save
from gamp_theory.records import versions
from gamp_theory.sweep_plans import source_hash

if TYPE_CHECKING:
    import xarray

__all__ = ["Store", "code_hash", "key_of"]

HERE = Path(__file__).resolve().parent
#: Single results, and the lines of sweeps: of no interest to a reader.
PARTS = ".parts"


@functools.cache
def code_hash(modules: tuple[str, ...]) -> str:
    """Hash of the package, of the versions it runs on, and of some modules beside this one."""
    digest = hashlib.sha256(f"{source_hash()}\n{versions()}".encode())
    for name in modules:
        digest.update((HERE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def key_of(*asked: Any, modules: tuple[str, ...]) -> str:
    """Hash of what was asked for and of the code that answers: the package, and `modules`."""
    text = json.dumps([code_hash(modules), *asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """The folder of a reproduction.

    Parameters
    ----------
    path : Path
        Made if need be.

    Raises
    ------
    ValueError
        If it can not be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            (path / "data").mkdir(parents=True, exist_ok=True)
            (path / PARTS).mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"out must be a directory that can be made, got {str(path)!r}: {error.strerror}"
            ) from None

    def kept(self, name: str, key: str) -> xarray.Dataset | None:
        """The dataset of this name, if it is there, whole, and of this key."""
        try:
            found = load(self.file(name))
        except (OSError, ValueError):  # not there, damaged, or of a later version
            return None
        return found if found.attrs.get("key") == key else None

    def keep(self, name: str, key: str, made: xarray.Dataset) -> xarray.Dataset:
        """Write a dataset; what is returned is as it will be read again."""
        save(made.assign_attrs(key=key), self.file(name))
        return load(self.file(name))

    def file(self, name: str) -> Path:
        """Where the dataset of this name is."""
        return self.path / "data" / f"{name}.nc"

    def part(self, name: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """One result as plain data: what is there is read, what is not is made and kept."""
        file = self.path / PARTS / f"{name}-{key}.json"
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged
            found = make()
            with replacing(file) as temporary:
                # NaN as Python writes it: it comes back as it was
                temporary.write_text(json.dumps(found), encoding="utf-8")
            return json.loads(json.dumps(found))

    def folder(self, name: str, key: str) -> Path:
        """A folder for the lines of a sweep."""
        return self.path / PARTS / f"{name}-{key}"
