"""``curve`` and ``threshold`` of a general model: documents, words, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from command import run, run_json

from gamp_theory import AttentionModel, GeneralModel, token_branches, transitions
from gamp_theory.result import Status
from gamp_theory.token_evolution import GeneralSolver
from gamp_theory.token_line_result import GeneralTransition
from gamp_theory.transitions import TransitionStatus

MODEL = GeneralModel.from_pair(AttentionModel.mixture())
FOUND_KEYS = {"alpha", "error", "bracket", "status", "message"}


def crossing(value, status="CONVERGED", others=()):
    return GeneralTransition(
        "alpha_c",
        "alpha",
        value,
        0.01 if math.isfinite(value) else math.nan,
        (value - 0.03, value + 0.03),
        TransitionStatus[status],
        MODEL,
        value,
        0.02,
        512,
        others=others,
    )


def test_a_threshold_says_of_which_model(capsys, monkeypatch):
    asked = {}

    def find(model, kind, alpha, lam, tol, **options):
        asked.update(tokens=model.tokens, rank=model.rank, alpha=alpha, lam=lam, tol=tol)
        return crossing(1.25, others=(crossing(1.75),))

    monkeypatch.setattr(transitions, "find_transition", find)
    words = ["threshold", "alpha_c", "--rank", 2, "--lam", 0.02, "--alpha", "1:2"]
    code, document = run_json(capsys, *words)
    assert code == 0
    assert asked == {"tokens": 2, "rank": 2, "alpha": (1.0, 2.0), "lam": 0.02, "tol": 0.01}
    assert set(document) >= FOUND_KEYS | {"kind", "tokens", "rank", "teacher_rank", "lam"}
    assert (document["alpha"], document["samples"], document["lam"]) == (1.25, 512, 0.02)
    (other,) = document["others"]
    assert set(other) == FOUND_KEYS
    _, out, _ = run(capsys, *words)
    assert "alpha_c = 1.25(1) (tokens = 2, rank = 1, teacher rank = 1, lam = 0.02)" in out
    assert "further: alpha = 1.75(1), converged" in out


@pytest.mark.parametrize(("status", "exit_code"), [("DOES_NOT_EXIST", 0), ("SOLVE_FAILED", 1)])
def test_a_threshold_without_value_is_null(capsys, monkeypatch, status, exit_code):
    monkeypatch.setattr(transitions, "find_transition", lambda *_, **__: crossing(math.nan, status))
    code, document = run_json(capsys, "threshold", "alpha_c", "--tokens", 2)
    assert code == exit_code
    assert document["alpha"] is document["bracket"] is None
    assert document["status"] == status.lower()


@pytest.fixture
def solved(monkeypatch):
    """Fixed points that take no time: what a search that has failed reports, with numbers."""
    state = MODEL_STATE

    def trace(model, values, lam, start, *, alpha=None, along="alpha", tol, progress):
        for value in values:
            here = (value, lam) if along == "alpha" else (alpha, value)
            solver = GeneralSolver(model, *here, start, tol)
            progress(solver.failed(solver.coordinates.pack(state), Status.CONVERGED))

    monkeypatch.setattr(token_branches, "trace_general", trace)


MODEL_STATE = GeneralSolver(MODEL, 1.5, 0.01, "semantic", 0.05).first_state()


def test_a_curve_has_a_point_for_each_value_and_start(capsys, solved):
    words = ["curve", "--tokens", 2, "--alpha", "1:2:3", "--branch", "semantic", "positional"]
    code, document = run_json(capsys, *words)
    assert code == 0
    assert [point["alpha"] for point in document["points"]] == [1.0, 1.5, 2.0] * 2
    assert [point["start"] for point in document["points"]] == ["semantic"] * 3 + ["positional"] * 3
    assert np.shape(document["points"][0]["overlaps"]["theta"]) == (2, 1, 1)
    _, out, _ = run(capsys, *words)
    lines = out.splitlines()
    assert len(lines) == 7
    assert lines[0].split()[:5] == ["start", "branch", "status", "alpha", "q"]


def test_a_curve_along_lam(capsys, solved):
    words = ["curve", "--tokens", 2, "--alpha", 1.5, "--along", "lam", "--lam", "0.02:0.01:2"]
    code, document = run_json(capsys, *words)
    assert code == 0
    assert [(x["alpha"], x["lam"]) for x in document["points"]] == [(1.5, 0.02), (1.5, 0.01)]


def test_an_interrupted_curve_gives_what_is_finished(capsys, monkeypatch):
    def trace(model, values, lam, start, *, progress, **_):
        solver = GeneralSolver(model, values[0], lam, start, 0.05)
        progress(solver.failed(solver.coordinates.pack(MODEL_STATE), Status.CONVERGED))
        raise KeyboardInterrupt

    monkeypatch.setattr(token_branches, "trace_general", trace)
    code, out, err = run(capsys, "curve", "--tokens", 2, "--alpha", "1:2:3", "--json")
    assert code == 130
    assert len(json.loads(out)["points"]) == 1
    assert "interrupted: 1 of 3 points done" in err


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("curve --tokens 2 --alpha 1 --along omega --omega 0:1", ["along alpha and lam", "omega"]),
        ("curve --tokens 2 --alpha 1:2 --data x.nc", ["--data", "two-token"]),
        ("curve --tokens 2 --alpha 1:2 --tol 1e-7", ["tol", "1e-5", "1e-07"]),
        ("curve --tokens 2 --alpha 1:2 --branch nought", ["--branch", "semantic", "'nought'"]),
        ("curve --tokens 2 --alpha 1:2 --lam 0", ["lam", "> 0", "0.0"]),
        ("curve --tokens 3 --alpha 1:2", ["--target", "--tokens 3"]),
        ("threshold alpha_c --tokens 2 --tol 1e-7", ["tol", "1e-5", "1e-07"]),
        ("threshold alpha_c --tokens 2 --lam 0", ["lam", "> 0", "0.0"]),
        ("threshold alpha_c --tokens 2 --alpha 2:1", ["alpha", "low < high"]),
        ("threshold alpha_c --rank 0", ["rank", "at least 1", "0"]),
    ],
)
def test_bad_input_is_refused(capsys, monkeypatch, tmp_path, arguments, fragments):
    def work(*_, **__):
        pytest.fail("something was computed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GeneralSolver, "run", work)
    code, _, err = run(capsys, *arguments.split())
    assert code == 2
    for fragment in fragments:
        assert fragment in err


@pytest.mark.slow
def test_the_commands_are_what_the_library_says(capsys, tmp_path):
    """Slow: fixed points with few samples, nothing replaced."""
    code, document = run_json(
        capsys,
        *("curve", "--tokens", 2, "--lam", 0.1, "--branch", "positional"),
        *("--alpha", "1.5:1.3:2", "--tol", 0.05),
    )
    assert code == 0
    want = {1.5: 0.00643105}  # docs/theory.md
    for point in document["points"]:
        assert point["status"] == "converged"
        if point["alpha"] in want:
            gap = abs(point["train_loss"] - want[point["alpha"]])
            assert gap < 4 * point["error"]["train_loss"]
    assert document["points"][1]["stability"]["replicon"] is not None
