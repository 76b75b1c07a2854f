"""Records of instances: written one by one, found again after an interruption."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import platform
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gamp_theory
from gamp_theory.files import replacing
from validation.study import Case, Record, Study

__all__ = ["Records", "provenance", "simulation_hash"]

PACKAGE = Path(gamp_theory.__file__).resolve().parent
#: What an instance depends on: it may change, but then old records are of another program.
SOURCES = (
    "empirical/*.py",
    "mechanisms.py",
    "model.py",
    "spectrum.py",
    "channel/sobol_kernels.py",
)


def simulation_hash(study: Study) -> str:
    """A hash of the code that simulates, which shares no line with the theory above the model.

    Of its syntax trees without docstrings: comments and layout may change.
    """
    paths = [path for pattern in SOURCES for path in sorted(PACKAGE.glob(pattern))]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    texts += [textwrap.dedent(inspect.getsource(function)) for function in study.sources]
    digest = hashlib.sha256()
    for text in texts:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""  # a string that nothing uses is a docstring
        digest.update(ast.dump(tree).encode() + b"\0")
    return digest.hexdigest()[:16]


def provenance() -> dict[str, str]:
    """Versions of what the numbers come from."""
    return {
        "gamp_theory": gamp_theory.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "numba")},
    }


class Records:
    """The finished instances of one study, in a JSON file.

    Parameters
    ----------
    path : Path
        The file; what it holds is taken over if the same simulating code made it.
    study : Study
        Whose instances.
    fresh : bool
        Whether to begin anew instead.
    adopt : bool
        Whether to take over what other code has made, if samples of it come out the same again to
        the last digit.
    """

    def __init__(self, path: Path, study: Study, fresh: bool = False, adopt: bool = False) -> None:
        self.path = path
        self.provenance = {"simulation": simulation_hash(study), **provenance()}
        self._found: dict[str, tuple[Case, Record]] = {}
        if path.exists() and not fresh:
            document = json.loads(path.read_text(encoding="utf-8"))
            entries = document["instances"]
            same = document["provenance"]["simulation"] == self.provenance["simulation"]
            if same or (adopt and all(_again(study, entry) for entry in _samples(entries))):
                self.provenance |= {
                    name: value
                    for name, value in document["provenance"].items()
                    if name != "simulation"
                }
                self._found = {_key(e["case"]): (e["case"], e["record"]) for e in entries}
                if not same:
                    self._write()  # under the hash of this code: adopted once and for all
            else:
                kept = path.with_suffix(".old.json")  # they may have cost hours
                path.replace(kept)
                print(
                    f"validation: {path.name}: the {len(entries)} instances in it were made by "
                    f"other code, and are simulated anew; the old file is now {kept.name}",
                    file=sys.stderr,
                )

    def get(self, case: Case) -> Record | None:
        """The record of a case, if it is there."""
        found = self._found.get(_key(case))
        return None if found is None else found[1]

    def add(self, case: Case, record: Record) -> None:
        """Keep a finished instance, on disk as well."""
        self._found[_key(case)] = (case, record)
        self._write()

    def _write(self) -> None:
        entries = [{"case": c, "record": r} for c, r in self._found.values()]
        entries.sort(key=lambda entry: _key(entry["case"]))  # whatever finished first
        document: dict[str, Any] = {"provenance": self.provenance, "instances": entries}
        with replacing(self.path) as temporary:
            temporary.write_text(_lines(document), encoding="utf-8")


def _samples(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cheapest instance of each point: cases that differ in more than the seed."""
    points: dict[str, dict[str, Any]] = {}
    for entry in sorted(entries, key=lambda entry: entry["case"]["d"]):
        case = entry["case"]
        rest = {name: value for name, value in case.items() if name not in ("seed", "d")}
        points.setdefault(_key(rest), entry)
    return list(points.values())


def _again(study: Study, entry: dict[str, Any]) -> bool:
    found = json.loads(json.dumps(study.measure(entry["case"])))
    same = found == entry["record"]
    print(
        f"validation: {study.name}: {'same again' if same else 'DIFFERENT'}: {entry['case']}",
        file=sys.stderr,
    )
    return same


def _key(case: Case) -> str:
    return json.dumps(case, sort_keys=True)


def _lines(document: dict[str, Any]) -> str:
    """JSON with one instance a line."""
    entries = ",\n".join(json.dumps(entry, sort_keys=True) for entry in document["instances"])
    head = json.dumps(document["provenance"], sort_keys=True)
    return f'{{"provenance": {head},\n"instances": [\n{entries}\n]}}\n'
