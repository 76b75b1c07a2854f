"""What a sweep keeps in its folder: its plan, and one file for each line that is finished.

``sweep.json`` holds the plan and is written first.  ``<key>-<number>.json`` is a line, ``<key>`` a
hash of the plan: of the model, the grid, the tolerance, the versions and the package's source.  So
a line can not be taken for one of another sweep, whichever folder it is copied to.  Every file is
written under another name and renamed, and carries a checksum.  Lines depend on their plan alone,
to the last bit: two runs in one folder write the same files, and need no lock.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gamp_theory.files import replacing
from gamp_theory.sweep_lines import LineResult
from gamp_theory.sweep_plans import (
    GENERAL_FORMAT,
    GRID_FORMAT,
    LIST_FORMAT,
    GeneralPlan,
    Plan,
    digest,
)

__all__ = ["Damaged", "Folder"]

PLAN = "sweep.json"


class Damaged(ValueError):
    """A file of a sweep that is not as it was written."""


_PLANS: dict[int, type[Plan] | type[GeneralPlan]] = {
    GRID_FORMAT: Plan,
    LIST_FORMAT: Plan,
    GENERAL_FORMAT: GeneralPlan,
}


class Folder:
    """The folder of one sweep.

    Parameters
    ----------
    path : Path
    plan : Plan or GeneralPlan
    """

    def __init__(self, path: Path, plan: Plan | GeneralPlan) -> None:
        self.path, self.plan = path, plan

    @classmethod
    def prepared(cls, path: Path, plan: Plan | GeneralPlan) -> Folder:
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
            old, new = ({"format": p.format, **asdict(p)} for p in (there, plan))
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
        if form not in _PLANS:
            raise ValueError(
                f"{str(file)!r} has format {form!r}; this version of gamp_theory reads "
                f"{GRID_FORMAT} to {GENERAL_FORMAT}"
            )
        kind = _PLANS[form]
        try:
            plan = kind(**{field.name: _frozen(entries[field.name]) for field in fields(kind)})
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
        if checksum != digest([file.name, *body]):
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
        document["checksum"] = digest([file.name, *document.values()])
        with replacing(file) as temporary:
            # NaN and Infinity as Python writes them: they come back as they were
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def _file(self, number: int) -> Path:
        return self.path / f"{self.plan.key}-{number:05d}.json"


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
