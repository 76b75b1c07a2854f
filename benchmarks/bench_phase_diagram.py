"""The whole phase diagram on two threads, and where its time goes.

Run ``python -m benchmarks.bench_phase_diagram``.  Wall-clock seconds suffer from other work on the
machine, so processor seconds stand beside them.  The aim is 60 s on two cores.
"""

from __future__ import annotations

import time

from gamp_theory import AttentionModel
from gamp_theory.branch_map import Place
from gamp_theory.phase_diagram import COLUMNS, DIAGRAM_TOL, LARGEST_STEP, phase_diagram
from gamp_theory.transition_lines import trace_transition
from gamp_theory.transitions import survey_transitions

ALPHA, OMEGA, LAM = (0.05, 2.2), (0.0, 0.5), 0.01


def timed(name: str, work):
    """What `work` returns; prints how long it took."""
    began, began_cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    print(f"  {name:<34}{wall:>8.1f} s wall{cpu:>8.1f} s CPU", flush=True)
    return result


def main() -> None:
    """Print the tables."""
    model = AttentionModel.mixture()
    print("\nsurveys of all transitions along alpha, one thread, the first with compilation")
    found = []
    for fraction in (COLUMNS[0], *COLUMNS):
        omega = OMEGA[0] + fraction * (OMEGA[1] - OMEGA[0])
        place = Place(model.with_parameters(omega=omega), ALPHA[0], LAM)
        found.append(
            timed(
                f"omega = {omega:g}",
                lambda place=place: survey_transitions(place, "alpha", ALPHA),
            )
        )
    print(f"\nlines from omega = {OMEGA[0] + COLUMNS[0] * (OMEGA[1] - OMEGA[0]):g}, one thread")
    for transition in found[0]:
        line = timed(
            transition.kind,
            lambda one=transition: trace_transition(
                one,
                "omega",
                OMEGA[1],
                back_to=OMEGA[0],
                between=ALPHA,
                tol=DIAGRAM_TOL,
                largest_step=LARGEST_STEP,
            ),
        )
        print(
            f"    {line.positions.size} points, {line.map_evaluations} maps, "
            f"error at most {line.errors.max():.1g}"
        )
    print("\nall of it")
    diagram = timed(
        "phase_diagram(jobs=2)", lambda: phase_diagram(model, ALPHA, OMEGA, LAM, jobs=2)
    )
    print(diagram)


if __name__ == "__main__":
    main()
