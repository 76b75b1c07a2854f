"""Kernels as plain Python: the same values, and every one of them is run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gamp_theory

CHANNEL = Path(gamp_theory.__file__).parent / "channel"

PAIR = """
from gamp_theory.channel import pair_kernels as k
result = [
    *k.contrasts(0.7, -0.4),
    *k.target_contrasts(0.7, -0.4, 0.3, 0.2, 0.1),
    *k.contrast_derivatives(0.7, -0.4),
    *k.loss_derivatives(0.7, -0.4, 0.5, 0.4, 0.125),
]
"""

PLANE = """
import numpy as np
from gamp_theory.channel import hole_kernels, plane, plane_kernels as k, unstable_kernels
state = k.Kinetics(0.125, 18.0, 0.1, 0.2, 0.06, 0.5)
target = k.Target(0.3, 0.2, 0.1)
y = np.array([[0.9, -0.6], [0.2, 0.3], [0.7, -0.9]])
draws = k.targets_and_means(y, target, state)
K, step, cuts = state.c * state.V, 0.3, np.full(3, 0.5)
corners = k.candidate_tiles(np.array([1.0, 1.0]), step, K, draws)
tables = k.tile_tables(corners, step, K)
start, index = k.active_tiles(tables, draws, cuts, K)
sums = k.plane_sums(tables, start, index, draws, K, state.variance)
# so wide a density that folds far from the origin count
folds = k.outer_fold_mass(tables, start, index, draws, np.ones(3), 10 * K, 5.0)
shapes, failed = hole_kernels.hole_shapes(draws, cuts, np.linspace(0.1, 0.95, 4), K)
counts = np.full((3, 2), 4)
rules = plane.legendre_rules()[:9, :, :8].copy()
holes, edges = hole_kernels.hole_sums(draws, shapes, counts, rules, state)
brackets = unstable_kernels.unstable_brackets(np.array([0.1, 0.9]), 12, 5.0, target, state)
ends = unstable_kernels.unstable_ends(brackets, 0.1, target, state)
result = [*draws.flat, *tables[0].flat, *start, *index, *sums.flat, folds, *shapes.flat, failed,
          *holes.flat, *edges, *brackets.flat, *ends.flat,
          k.exp_clamped(-3.3), k.exp_clamped(-70.0), hole_kernels.negligible_tip(1.5, 0.1)]
"""

SOBOL = """
import numpy as np
from gamp_theory.channel import sobol_kernels as k
points = np.random.default_rng(0).standard_normal((4, 4))
states = [k.ChannelState(0.25, 0.1, 0.1, s, 18.0, 0.3, 0.2, 0.1, 0.125) for s in (0.2, 0.0)]
p = k.ProxProblem(0.2, -0.3, 0.5, 0.4, 2.3)
result = [*k.energy_derivatives(0.7, -0.4, p),
          *k.global_prox(p, k.LEAF, np.empty((k.STACK_ROWS, 3))),
          *[x for state in states for x in k.sobol_sums(points, state, k.LEAF)]]
"""

CONTRACTION = """
import numpy as np
from gamp_theory.channel import contraction as c
from gamp_theory.channel import contraction_kernels as k
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
model = AttentionModel.mixture()
problem = c._Problem.make(model, Overlaps(0.08, 0.0, 18.0, 0.11), 1e-2)
y = c.teacher_fields(model, np.array([1.6]), np.array([0.2]))
allowed = np.array([[0, 0, 3e-2, 3e-3, 0]])
sums, panels = k.contraction_sums(
    y, np.array([1.5]), allowed, problem.state, problem.grid, c._search_grid(4.0, 0.2)
)
line = k.Line((0.45, 0.25), 0.05, 3.1, 25.0, 0.3, 0.2, 1.0, 1.0, -1.0, 1.0, 1.5)
wells = [(side * 0.5, 0.0, 0.0, 0.0, 1.0) for side in (-1, 1)]
before, after, found = k.touch(*wells, line)  # what a slice resorts to where the hull is coarse
result = [*sums.flat, panels, *before, *after, found]
"""

GENERAL = """
import numpy as np
from gamp_theory.channel import general
from gamp_theory.channel.general import general_rule
from gamp_theory.model import AttentionModel
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
ones = np.ones((2, 1, 1))
overlaps = TokenOverlaps(0.08 * ones, [[0.2], [-0.2]], 18.0 * ones, 0.05 * ones)
model = GeneralModel.from_pair(AttentionModel.mixture())
general.THREADS = 1  # a profile sees one thread
rule = general_rule(model, overlaps, 1, scrambles=2)
diagonal, square = rule.derivatives(overlaps)
result = [*rule.averages(overlaps).values.flat, *diagonal.flat, *square.flat]
"""

CASES = {
    "pair": PAIR,
    "plane": PLANE,
    "sobol": SOBOL,
    "contraction": CONTRACTION,
    "general": GENERAL,
}

#: Put before a case: notes which functions of kernel files are called.
WATCH = """
import sys
called = set()
def watch(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.endswith("kernels.py"):
        called.add((frame.f_code.co_filename, frame.f_code.co_name))
sys.setprofile(watch)
"""

REPORT = """
sys.setprofile(None)
import json
print(json.dumps({"called": sorted(called), "values": [float(x).hex() for x in result]}))
"""


def kernels_in(path):
    """Names of the functions that carry the decorator."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator) == "kernel" for decorator in node.decorator_list)
    }


@pytest.mark.parametrize("case", CASES)
def test_kernels_do_the_same_uncompiled(case):
    compiled = {}
    exec(CASES[case], compiled)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCH + CASES[case] + REPORT],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        cwd=CHANNEL.parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    plain = [float.fromhex(value) for value in report["values"]]
    # iterations stop a rounding error apart
    np.testing.assert_allclose(plain, np.array(compiled["result"], float), rtol=1e-9, atol=1e-12)

    path = CHANNEL / f"{case}_kernels.py"
    ran = {name for file, name in report["called"] if Path(file) == path}
    assert kernels_in(path) - ran == set()
    assert len(kernels_in(path)) > 3
