"""``diagram``: all transitions in the plane of alpha and omega."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gamp_theory.cli.answer import INTERRUPTED, SUCCESS, UNSETTLED, Answer, BadInput
from gamp_theory.cli.arguments import (
    Commands,
    Range,
    add_command,
    add_model,
    build_model,
    integer,
    number,
    number_or_range,
    shown,
    writable,
)
from gamp_theory.cli.progress import progress
from gamp_theory.cli.text import table
from gamp_theory.cli.threads import single_blas_thread
from gamp_theory.files import replacing
from gamp_theory.records import point_record

if TYPE_CHECKING:
    from gamp_theory.phase_diagram import PhaseDiagram

__all__ = ["EMPTY", "add_parser", "run"]

EMPTY: Mapping[str, Any] = {"lines": [], "regions": [], "failures": [], "files": []}


def add_parser(commands: Commands) -> None:
    """Declare the command and its options."""
    command = add_command(
        commands,
        "diagram",
        "The phase diagram in alpha and omega. Every transition is traced as a line with its error "
        "bars; regions are named by the minimum of lowest training loss and those beside it. After "
        "Ctrl-C the lines that are finished are printed and written.",
        writes_document=False,
    )
    command.add_argument(
        "--alpha",
        type=number_or_range,
        default=Range(0.05, 2.2, None),
        metavar="LO:HI",
        help="range of the sample ratio n/d (default: 0.05:2.2)",
    )
    add_model(command, plane=True)
    command.add_argument(
        "--tol",
        type=number,
        default=1e-4,
        help="relative accuracy of the fixed points on the lines (default: 1e-4)",
    )
    command.add_argument("--jobs", type=integer, default=2, help="threads (default: %(default)s)")
    command.add_argument("--out", metavar="FILE.nc", help="write lines and regions as a dataset")
    command.add_argument(
        "--plot", metavar="FILE", help="write the figure; the suffix is its format, such as .png"
    )


def run(options: argparse.Namespace) -> Answer:
    """Trace the lines; after Ctrl-C the answer is what was finished."""
    single_blas_thread()
    spans = {}
    for name in ("alpha", "omega"):
        span = getattr(options, name)
        if not isinstance(span, Range) or span.count is not None:
            raise BadInput(f"{name} must be a range LO:HI (without :N), got {shown(span)}")
        spans[name] = (span.low, span.high)
    files = {name: getattr(options, name) for name in ("out", "plot")}
    paths = {name: writable(file, name) for name, file in files.items() if file is not None}
    if "plot" in paths:
        _check_format(paths["plot"])
    model = build_model(options, omega=min(max(spans["omega"][0], 0.0), 1.0))

    from gamp_theory.phase_diagram import phase_diagram

    began = time.perf_counter()
    with progress(None, "points of lines") as advance:
        diagram = phase_diagram(
            model,
            spans["alpha"],
            spans["omega"],
            options.lam,
            options.tol,
            jobs=options.jobs,
            progress=lambda *_: advance(),
        )
    _write(diagram, paths)
    document = _document(diagram, [str(path) for path in paths.values()])
    document["seconds"] = time.perf_counter() - began
    if not diagram.complete:
        print(f"gamp-theory: interrupted: {len(diagram.lines)} lines finished", file=sys.stderr)
        return Answer(document, _text(diagram), INTERRUPTED)
    return Answer(document, _text(diagram), UNSETTLED if diagram.failures else SUCCESS)


def _check_format(path: Path) -> None:
    from gamp_theory.plotting import formats

    allowed = formats()
    if path.suffix.lower().lstrip(".") not in allowed:
        raise BadInput(
            f"plot must end in one of {', '.join('.' + name for name in allowed)}, "
            f"got {path.name!r}"
        )


def _write(diagram: PhaseDiagram, paths: Mapping[str, Path]) -> None:
    """The dataset and the figure, whole or not at all."""
    if not paths:
        return
    from gamp_theory.datasets import phase_diagram_dataset
    from gamp_theory.netcdf import save

    dataset = phase_diagram_dataset(diagram)
    dataset.attrs["command"] = "gamp-theory diagram"
    if "out" in paths:
        save(dataset, paths["out"])
    if "plot" in paths:
        from gamp_theory import plotting

        with plotting.figure(4.6, 4.0) as drawn, replacing(paths["plot"]) as temporary:
            plotting.plot_phase_diagram(dataset, drawn.subplots())
            plotting.save(drawn, temporary)


def _document(diagram: PhaseDiagram, files: list[str]) -> dict[str, Any]:
    if not diagram.complete:
        status, message = "interrupted", "Interrupted by the user."
    elif diagram.failures:
        status, message = "incomplete", "Not everything could be computed."
    else:
        status, message = "converged", "Everything converged."
    return {
        "lines": [
            {
                "kind": line.kind,
                "omega": line.positions.tolist(),
                "alpha": line.values.tolist(),
                "error": line.errors.tolist(),
                "meaningful": line.meaningful.tolist(),
                "begins": line.ends[0],
                "ends": line.ends[1],
            }
            for line in diagram.lines
        ],
        "regions": [
            {
                "label": region.label,
                "lowest": region.lowest,
                "stable": list(region.stable),
                "omega": region.omega.tolist(),
                "low": region.low.tolist(),
                "high": region.high.tolist(),
                "points": [point_record(point) for point in region.points],
            }
            for region in diagram.regions
        ],
        "failures": [
            {
                "kind": failure.kind,
                "omega": failure.omega,
                "alpha": failure.alpha,
                "status": failure.status,
                "message": failure.message,
            }
            for failure in diagram.failures
        ],
        "sigma": diagram.model.sigma,
        "lam": diagram.lam,
        "files": files,
        "status": status,
        "message": message,
    }


def _text(diagram: PhaseDiagram) -> str:
    """One row a line, one a region, and what failed."""
    rows = [["line", "points", "from (omega, alpha)", "to", "error <=", "it ends"]]
    for line in diagram.lines:
        ends = [f"({line.positions[k]:.4f}, {line.values[k]:.5g})" for k in (0, -1)]
        nothing = "" if line.meaningful.any() else " (not of minima)"
        rows.append(
            [
                line.kind + nothing,
                str(line.positions.size),
                *ends,
                f"{line.errors.max():.1g}",
                line.ends[1],
            ]
        )
    regions = [["region", "omega", "named at (omega, alpha)"]]
    for region in diagram.regions:
        alpha, omega = region.probe
        span = f"{region.omega[0]:.4g} to {region.omega[-1]:.4g}"
        regions.append([region.label, span, f"({omega:.4g}, {alpha:.4g})"])
    parts = [table(rows, left=1), "", table(regions, left=1)]
    parts += [f"failed: {failure.message}" for failure in diagram.failures]
    return "\n".join(parts)
