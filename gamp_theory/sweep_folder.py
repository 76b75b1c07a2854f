"""What a sweep keeps in its folder: its plan, and one file for each line that is finished.

``sweep.json`` holds the plan and is written first.  ``<key>-<number>.json`` is a line, ``<key>`` a
hash of the plan: of the model, the grid, the tolerance, the versions and the package's source.  So
a line can not be taken for one of another sweep, whichever folder it is copied to.  Every file is
written under another name and renamed, and carries a checksum.  Lines depend on their plan alone,
to the last bit: two runs in one folder write the same files, and need no lock.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from gamp_theory.files import replacing
from gamp_theory.model import AttentionModel
from gamp_theory.sweep_lines import LineResult

__all__ = ["Damaged", "Folder", "Line", "Plan", "source_hash"]

PLAN = "sweep.json"
#: Of the files in the folder, of a grid and of a list; goes up when their meaning changes.
GRID_FORMAT, LIST_FORMAT = 1, 2


class Damaged(ValueError):
    """A file of a sweep that is not as it was written."""


class Line(NamedTuple):
    """Where a line is: everything but alpha."""

    omega: float
    sigma: float
    lam: float
    tol: float
    branch: str


@dataclass(frozen=True)
class Plan:
    """What a sweep computes, and with what.

    Attributes
    ----------
    A : tuple of tuple of float
        Positional attention of the target.
    alpha, omega, sigma, lam : tuple of float
        The values whose product is the grid; of a list of points one value for each point.
    branch : tuple of str
    axes : tuple of str
        Which of alpha, omega, sigma and lam are axes of the result; the others have one value.  Of
        a list of points ``("point",)``.
    tol : float, or tuple of float
        The latter of a list of points.
    versions, source : str
        Of the package and what it stands on; hash of the source of the package.
    """

    A: tuple[tuple[float, ...], ...]
    alpha: tuple[float, ...]
    omega: tuple[float, ...]
    sigma: tuple[float, ...]
    lam: tuple[float, ...]
    branch: tuple[str, ...]
    axes: tuple[str, ...]
    tol: float | tuple[float, ...]
    versions: str
    source: str

    @property
    def listed(self) -> bool:
        """Whether it is a list of points, not a grid."""
        return self.axes == ("point",)

    @property
    def format(self) -> int:
        """Of the files."""
        return LIST_FORMAT if self.listed else GRID_FORMAT

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """All lines, the branch varying fastest; in a list, in the order of their first points."""
        if self.listed:
            return tuple(Line(*place, name) for place in self.members for name in self.branch)
        places = product(self.omega, self.sigma, self.lam, (self.tol,), self.branch)
        return tuple(map(Line._make, places))

    @cached_property
    def members(self) -> dict[tuple[float, float, float, float], list[int]]:
        """The points of a list that differ in alpha only, by (omega, sigma, lam, tol)."""
        assert isinstance(self.tol, tuple)
        found: dict[tuple[float, float, float, float], list[int]] = {}
        for k, place in enumerate(zip(self.omega, self.sigma, self.lam, self.tol, strict=True)):
            found.setdefault(place, []).append(k)
        return found

    def alphas(self, line: Line) -> tuple[float, ...]:
        """The values of alpha on a line."""
        if not self.listed:
            return self.alpha
        return tuple(self.alpha[k] for k in self.members[line[:-1]])

    @cached_property
    def key(self) -> str:
        """Hash of all of it."""
        return _digest([self.format, asdict(self)])[:16]

    def model(self, line: Line) -> AttentionModel:
        """The model of a line."""
        return AttentionModel.mixture(line.omega, line.sigma, self.A)


class Folder:
    """The folder of one sweep.

    Parameters
    ----------
    path : Path
    plan : Plan
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan

    @classmethod
    def prepared(cls, path: Path, plan: Plan) -> Folder:
        """The folder for a plan, made if need be.

        Raises
        ------
        ValueError
            If it can not be written to, or holds another sweep.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):  # permissions do not tell of a full disk
                pass
            if not (path / PLAN).exists():
                document = {"format": plan.format, "key": plan.key, "plan": asdict(plan)}
                with replacing(path / PLAN) as temporary:
                    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"out must be a folder that can be written to, got {str(path)!r}: {error.strerror}"
            ) from error
        there = cls.opened(path).plan
        if there != plan:
            old, new = asdict(there), asdict(plan)
            name = next(name for name in new if old[name] != new[name])
            raise ValueError(
                f"out must be a folder of this sweep or a new one, got {str(path)!r}, which holds "
                f"another: {name} is {_short(old[name])} there and {_short(new[name])} here"
            )
        return cls(path, plan)

    @classmethod
    def opened(cls, path: Path) -> Folder:
        """The folder of a sweep that is there.

        Raises
        ------
        ValueError
            If it is none, its plan is damaged, or it is one of a later version.
        """
        file = path / PLAN
        try:
            document = json.loads(file.read_bytes())
            form, key, entries = document["format"], document["key"], document["plan"]
        except OSError as error:
            raise ValueError(
                f"{str(path)!r} is not the folder of a sweep: {PLAN} can not be read "
                f"({error.strerror})"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{str(file)!r} is damaged: {error}") from error
        if form not in (GRID_FORMAT, LIST_FORMAT):
            raise ValueError(
                f"{str(file)!r} has format {form!r}; this version of gamp_theory reads "
                f"{GRID_FORMAT} and {LIST_FORMAT}"
            )
        try:
            plan = Plan(**{field.name: _frozen(entries[field.name]) for field in fields(Plan)})
        except (KeyError, TypeError) as error:
            raise Damaged(f"{str(file)!r} is damaged: {error}") from error
        if plan.key != key:
            raise Damaged(f"{str(file)!r} is damaged: its checksum is wrong")
        return cls(path, plan)

    def holds(self, number: int) -> bool:
        """Whether there is a file for a line of the plan."""
        return self._file(number).exists()

    def read(self, number: int) -> LineResult:
        """A line.

        Raises
        ------
        Damaged
            If it is not what was written, or can not be read.
        """
        file = self._file(number)
        try:
            document = json.loads(file.read_bytes())
            body = document["line"], document["columns"], document["failures"]
            checksum = document["checksum"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{str(file)!r} is damaged ({type(error).__name__}: {error})") from error
        if checksum != _digest([file.name, *body]):
            raise Damaged(f"{str(file)!r} is damaged (its checksum is wrong)")
        return LineResult(*body[1:])

    def write(self, number: int, result: LineResult) -> None:
        """Keep a line.

        Raises
        ------
        OSError
            If it can not be written; then there is no file.
        """
        file = self._file(number)
        document: dict[str, Any] = {"line": self.plan.lines[number]._asdict(), **result._asdict()}
        document["checksum"] = _digest([file.name, *document.values()])
        with replacing(file) as temporary:
            # NaN and Infinity as Python writes them: they come back as they were
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def _file(self, number: int) -> Path:
        return self.path / f"{self.plan.key}-{number:05d}.json"


def source_hash() -> str:
    """Hash of the package's source: a checkout changes between releases."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"\n{file.relative_to(package).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
