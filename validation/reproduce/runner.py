"""``gamp-theory reproduce``: the figures of the paper, recomputed on this package's numbers.

A figure is drawn from datasets: of theory, which are computed, and of students, which are read from
the records of `validation`.  Datasets and figures that are finished stay in the folder and are used
again by the next run of the same code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gamp_theory import plotting
from gamp_theory.files import replacing
from validation.records import provenance
from validation.reproduce import comparison, diagrams, drawing
from validation.reproduce.simulation import SIMULATIONS, MissingRecords, records_hash
from validation.reproduce.store import Store, key_of
from validation.reproduce.theory import THEORIES, Work

if TYPE_CHECKING:
    import xarray

__all__ = ["FIGURES", "Figure", "Reproduction", "check_names"]

FORMATS = ("pdf", "png")
TABLE = "COMPARISON.md"
MANIFEST = "figures.json"
#: Modules that a picture depends on beside its data.
DRAWN_BY = ("drawing", "diagrams", "strokes", "published", "runner")


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes
    ----------
    title : str
    needs : tuple of str
        Datasets, in the order in which `draw` takes them.
    draw : callable
    size : tuple of float
        In inches.
    panels : int
        Side by side.
    """

    title: str
    needs: tuple[str, ...]
    draw: Callable[..., list]
    size: tuple[float, float]
    panels: int = 1
    shared: bool = False


def _slice(parameter: str, name: str) -> Figure:
    return Figure(
        {
            "omega": "along the weight of position",
            "sigma": "along the standard deviation of the tokens",
            "lam": "along the ridge",
            "second_target": "the second target, along the weight of position",
        }[name],
        (name, f"students_{name}"),
        partial(drawing.slice_along, parameter=parameter),
        (7.0, 2.5),
        3,
    )


#: By name, in the order in which they are made: what is quick comes first.
FIGURES = {
    "scaling": Figure(
        "scaling in d", ("omega", "students_scaling"), drawing.scaling, (7.0, 2.8), 2
    ),
    "omega": _slice("omega", "omega"),
    "sigma": _slice("sigma", "sigma"),
    "lam": _slice("lam", "lam"),
    "second_target": _slice("omega", "second_target"),
    "overlaps": Figure(
        "overlaps along alpha", ("alpha", "students_alpha"), drawing.overlaps, (3.6, 2.8)
    ),
    "test_error": Figure(
        "test errors along alpha", ("alpha", "students_alpha"), drawing.test_error, (3.6, 2.8)
    ),
    "loss_difference": Figure(
        "difference of training losses along alpha",
        ("alpha", "students_alpha", "students_crossing"),
        drawing.loss_difference,
        (3.6, 2.8),
    ),
    "rank_two": Figure(
        "students of rank two",
        ("rank_two", "rank_one", "students_rank_two"),
        diagrams.rank_two,
        (7.0, 2.9),
        3,
    ),
    "loss_diagram": Figure(
        "difference of training losses over alpha and omega",
        ("plane", "lines", "students_plane"),
        diagrams.loss_diagram,
        (7.0, 3.3),
        2,
        True,
    ),
    "error_diagram": Figure(
        "gain over a linear layer over alpha and omega",
        ("plane", "lines", "students_plane"),
        diagrams.error_diagram,
        (7.0, 3.3),
        2,
        True,
    ),
    "thresholds": Figure(
        "alpha_c and alpha_l beside the published ones",
        ("thresholds", "lines"),
        diagrams.thresholds,
        (7.0, 2.8),
        2,
    ),
}
#: Rows of the table, and the datasets they are from.
ROWS: tuple[tuple[tuple[str, ...], Callable[..., list[comparison.Row]]], ...] = (
    (("thresholds",), comparison.threshold_rows),
    (("students_rank_two", "rank_two"), comparison.rank_two_rows),
)


def check_names(names: Sequence[str]) -> list[str]:
    """The figures that are asked for, in the order in which they are made; all if none is named.

    Raises
    ------
    ValueError
        If there is no such figure.
    """
    for name in names:
        if name not in FIGURES:
            raise ValueError(f"figure must be one of {', '.join(FIGURES)}, got {name!r}")
    return [name for name in FIGURES if name in names or not names]


class Reproduction:
    """One run.

    Parameters
    ----------
    names : sequence of str
        Of figures, checked by :func:`check_names`.
    out : Path
    quick : bool
        Coarser grids and tolerances; what was recorded at finite d is the same.
    jobs : int
        Threads.
    """

    def __init__(self, names: Sequence[str], out: Path, quick: bool, jobs: int) -> None:
        self.names, self.quick, self.jobs = names, quick, jobs
        self.store = Store(out)
        self.figures: list[dict[str, Any]] = []
        self._datasets: dict[str, xarray.Dataset] = {}

    @property
    def needs(self) -> list[str]:
        """All datasets of theory."""
        needed = [name for figure in self.names for name in FIGURES[figure].needs]
        return [name for name in dict.fromkeys(needed) if name in THEORIES]

    @property
    def steps(self) -> int:
        """How often :meth:`run` tells of progress, about."""
        return len(self.names) + sum(
            THEORIES[name].steps(**THEORIES[name].asked(self.quick)) for name in self.needs
        )

    def run(
        self,
        tell: Callable[[int], object],
        on_figure: Callable[[dict[str, Any]], object] = lambda entry: None,
    ) -> None:
        """Make the figures, one after the other; each stays when it is finished.

        What was finished is in `figures`, whatever ends it.

        Parameters
        ----------
        tell : callable
            Called with the number of steps that are done, from any thread.
        on_figure : callable
            Called with the entry of each figure that is finished.
        """
        work = Work(self.store, self.quick, self.jobs, tell)
        for name in self.names:
            began = time.perf_counter()
            entry: dict[str, Any] = {"name": name, "title": FIGURES[name].title, "files": []}
            try:
                entry |= self._figure(name, work)
            except MissingRecords as error:
                entry |= {"status": "no_records", "message": str(error)}
            entry["seconds"] = time.perf_counter() - began
            self.figures.append(entry)
            self._write_table()
            tell(1)
            on_figure(entry)

    def _figure(self, name: str, work: Work) -> dict[str, Any]:
        figure = FIGURES[name]
        datasets = [self._dataset(need, work) for need in figure.needs]
        pictures = [self.store.path / f"{name}.{suffix}" for suffix in FORMATS]
        keys = [dataset.attrs["key"] for dataset in datasets]
        key = key_of(name, keys, modules=DRAWN_BY)
        done = all(path.exists() for path in pictures) and self._manifest().get(name) == key
        if not done:
            with plotting.figure(*figure.size) as drawn:
                axes = drawn.subplots(1, figure.panels, sharey=figure.shared)
                figure.draw(*datasets, axes)
                for path in pictures:
                    with replacing(path) as temporary:
                        plotting.save(drawn, temporary)
            self._keep(name, key)
        files = [*pictures, *(self.store.file(need) for need in figure.needs)]
        status = "reused" if done else "made"
        message = "; ".join(
            f"{need}: {text}" for need in figure.needs for text in _gaps(self._datasets[need])
        )
        return {"files": [str(path) for path in files], "status": status, "message": message}

    def _key(self, name: str) -> str:
        """What a dataset is found again by."""
        if name in THEORIES:
            return THEORIES[name].key(name, self.quick)
        studies, _ = SIMULATIONS[name]
        return key_of(name, records_hash(studies), modules=("labelled", "simulation"))

    def _dataset(self, name: str, work: Work) -> xarray.Dataset:
        """A dataset, computed or read if it is not there."""
        if name not in self._datasets:
            kept = self.store.kept(name, self._key(name))
            if kept is None:
                if name in THEORIES:
                    made = THEORIES[name].make(work, **THEORIES[name].asked(self.quick))
                else:
                    made = SIMULATIONS[name][1]()
                kept = self.store.keep(name, self._key(name), made)
            elif name in THEORIES:
                work.tell(THEORIES[name].steps(**THEORIES[name].asked(self.quick)))
            self._datasets[name] = kept
        return self._datasets[name]

    def _manifest(self) -> dict[str, str]:
        try:
            return json.loads((self.store.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _keep(self, name: str, key: str) -> None:
        text = json.dumps(self._manifest() | {name: key}, indent=1)
        with replacing(self.store.path / MANIFEST) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @property
    def rows(self) -> list[comparison.Row]:
        """Rows of the table: of this run, and of datasets that are there from earlier ones."""
        rows = []
        for needs, rows_of in ROWS:
            datasets = [self._there(need) for need in needs]
            if not any(dataset is None for dataset in datasets):
                rows += rows_of(*datasets)
        return rows

    def _there(self, name: str) -> xarray.Dataset | None:
        """A dataset, if nothing has to be computed for it."""
        if name in self._datasets:
            return self._datasets[name]
        return self.store.kept(name, self._key(name))

    @property
    def files(self) -> list[str]:
        """The table, if there is one."""
        table = self.store.path / TABLE
        return [str(table)] if table.exists() else []

    def _write_table(self) -> None:
        rows = self.rows
        if rows:
            with replacing(self.store.path / TABLE) as temporary:
                text = comparison.markdown(rows, provenance())
                temporary.write_text(text, encoding="utf-8")


def _gaps(dataset: xarray.Dataset) -> list[str]:
    """What could not be computed, counted."""
    if dataset.attrs["kind"] == "phase_diagram":
        count = dataset.sizes.get("failure", 0)
        return [f"{count} failures"] if count else []
    if "status" not in dataset:
        return []
    words = dataset["status"].attrs.get("flag_meanings")
    values = dataset["status"].values.ravel().tolist()
    named = [words.split()[value] if words else str(value) for value in values]
    bad = ("iteration_limit", "non_finite", "left_domain", "solve_failed", "not_bracketed")
    return [f"{named.count(word)} {word}" for word in bad if word in named]
