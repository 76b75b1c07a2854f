"""The command line: its JSON, its exit codes, and what it refuses before any work."""

import dataclasses
import json
import math
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from gamp_theory import cli, demo, state_evolution, transitions
from gamp_theory.state_evolution import Status

ROOT = Path(__file__).resolve().parent.parent

POINT_KEYS = {
    *("branch", "start", "alpha", "omega", "sigma", "lam", "overlaps", "train_loss"),
    *("train_loss_variational", "test_error", "linear_error", "error", "residual", "iterations"),
    *("map_evaluations", "seconds", "status", "message", "stability"),
}
STABILITY_KEYS = {
    *("eigenvalues", "spectral_radius", "transverse", "replicon", "jump_mass", "stable"),
}


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command in this process."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys, *arguments):
    code, out, _ = run(capsys, *arguments, "--json")
    return code, json.loads(out, parse_constant=pytest.fail)


# ------------------------------------------------------------------------------------ solve


def test_solve_prints_one_document_with_every_key(capsys):
    code, document = run_json(capsys, "solve", "--alpha", 1.5, "--tol", 1e-5)
    assert code == 0
    assert set(document) == {"points"}
    (point,) = document["points"]
    assert set(point) >= POINT_KEYS
    assert set(point["overlaps"]) == set(point["error"]["overlaps"]) == {"q", "m", "V", "theta"}
    assert set(point["error"]) == {
        "overlaps",
        "train_loss",
        "train_loss_variational",
        "test_error",
    }
    assert set(point["stability"]) >= STABILITY_KEYS
    assert set(point["stability"]["transverse"]) == {"m", "theta"}
    assert np.shape(point["stability"]["eigenvalues"]) == (4, 2)
    assert isinstance(point["stability"]["stable"], bool)
    assert (point["start"], point["branch"], point["status"]) == ("semantic",) * 2 + ("converged",)
    assert point["message"] == Status.CONVERGED.value
    assert (point["omega"], point["sigma"], point["lam"]) == (0.3, 0.5, 0.01)
    assert point["overlaps"]["theta"] == pytest.approx(0.134547, rel=5e-5)
    assert point["train_loss"] == pytest.approx(0.00305369, rel=5e-5)


def test_what_does_not_exist_is_an_answer(capsys):
    code, document = run_json(capsys, "solve", "--alpha", 1.5, "--branch", "zero")
    assert code == 0
    (point,) = document["points"]
    assert point["status"] == "does_not_exist"
    assert point["train_loss"] is None
    assert point["overlaps"] == {"q": None, "m": None, "V": None, "theta": None}
    assert point["stability"] is None


def test_a_start_that_ends_elsewhere_says_so_and_exits_0(capsys):
    arguments = ("solve", "--alpha", 1.5, "--lam", 0.1, "--tol", 1e-4)
    code, document = run_json(capsys, *arguments)
    assert code == 0
    (point,) = document["points"]
    assert (point["start"], point["branch"]) == ("semantic", "zero")
    _, out, _ = run(capsys, *arguments)
    assert "The semantic start ended on the zero branch." in out


def test_the_table_gives_values_with_error_bars(capsys):
    code, out, err = run(
        capsys, "solve", "--alpha", 1.5, "--tol", 1e-5, "--branch", "semantic", "positional"
    )
    assert code == 0
    assert err == ""
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows["branch"] == rows["start"] == ["semantic", "positional"]
    assert rows["m"][0] == "0"
    assert rows["q"][0].startswith("0.0939")
    assert rows["q"][0].endswith(")")
    assert rows["stable"] == ["yes", "yes"]


def test_a_solve_that_fails_is_printed_and_exits_1(capsys, monkeypatch):
    def failed(model, alpha, lam, **_):
        point = real(model, alpha, lam, "zero", on_failure="return")
        return dataclasses.replace(point, status=Status.ITERATION_LIMIT)

    real = state_evolution.solve
    monkeypatch.setattr(state_evolution, "solve", failed)
    code, document = run_json(capsys, "solve", "--alpha", 1.5, "--check")
    assert code == 1
    (point,) = document["points"]
    assert point["status"] == "iteration_limit"
    assert point["message"] == Status.ITERATION_LIMIT.value
    assert point["check"] is None
    assert run(capsys, "solve", "--alpha", 1.5)[0] == 1


def test_check_adds_the_differences_and_decides_the_exit_code(capsys, monkeypatch):
    arguments = ("solve", "--alpha", 1.5, "--tol", 1e-4, "--check")
    code, document = run_json(capsys, *arguments)
    (point,) = document["points"]
    assert code == 0
    assert set(point["check"]) >= {"q", "V", "theta", "train_loss"}
    assert all(isinstance(value, float) for value in point["check"].values())
    assert point["check_agrees"] is True

    disagrees = types.SimpleNamespace(difference=1.0, standard_error=1e-9, error=0.0, agrees=False)
    monkeypatch.setattr("gamp_theory.check.check_point", lambda point: {"q": disagrees})
    code, document = run_json(capsys, *arguments)
    assert code == 1
    assert document["points"][0]["check"] == {"q": 1.0}
    assert "DISAGREES" in run(capsys, *arguments)[1]


def test_all_stands_for_every_start(capsys, monkeypatch):
    real = state_evolution.solve
    starts = []

    def zero(*arguments, start, **options):
        starts.append(start)
        return real(*arguments, start="zero", **options)

    monkeypatch.setattr(state_evolution, "solve", zero)
    assert run(capsys, "solve", "--alpha", 1, "--branch", "all")[0] == 0
    assert starts == ["semantic", "positional", "uninformed", "zero"]


def test_the_document_goes_to_a_file_as_well(capsys, tmp_path):
    path = tmp_path / "point.json"
    code, out, _ = run(capsys, "solve", "--alpha", 1.5, "--branch", "zero", "--out", path, "--json")
    assert code == 0
    written, printed = json.loads(path.read_text()), json.loads(out)
    assert written == printed
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


def test_the_target_is_read_as_numbers(capsys):
    _, document = run_json(
        capsys, "solve", "--alpha", 1, "--branch", "zero", "--target", "0.3,0.7; .8,2e-1"
    )
    assert document["points"][0]["status"] in ("converged", "does_not_exist")
    assert cli._target("0.3,0.7; .8,2e-1") == ((0.3, 0.7), (0.8, 0.2))


# ------------------------------------------------------------------------------------ curve


def test_curve_follows_alpha_in_the_order_given(capsys):
    code, document = run_json(capsys, "curve", "--alpha", "1.6:1.4:3", "--tol", 1e-4)
    assert code == 0
    assert [point["alpha"] for point in document["points"]] == [1.6, 1.5, 1.4]
    assert all(set(point) >= POINT_KEYS for point in document["points"])
    assert document["points"][1]["overlaps"]["theta"] == pytest.approx(0.134547, rel=2e-4)


def test_curve_follows_omega(capsys):
    code, document = run_json(
        capsys, "curve", "--along", "omega", "--omega", "0.3:0.32:2", "--alpha", 1.5, "--tol", 1e-4
    )
    assert code == 0
    assert [(p["omega"], p["alpha"]) for p in document["points"]] == [(0.3, 1.5), (0.32, 1.5)]


def test_an_interrupted_curve_gives_what_is_finished(capsys, monkeypatch, tmp_path):
    def interrupted(model, values, lam, start, *, progress, **options):
        progress(state_evolution.solve(model, values[0], lam, "zero", on_failure="return"))
        raise KeyboardInterrupt

    monkeypatch.setattr("gamp_theory.branches.trace", interrupted)
    path = tmp_path / "curve.json"
    code, out, err = run(capsys, "curve", "--alpha", "1:2:5", "--json", "--out", path)
    assert code == 130
    document = json.loads(out)
    assert [point["alpha"] for point in document["points"]] == [1.0]
    assert document["status"] == "interrupted"
    assert json.loads(path.read_text()) == document
    assert "interrupted: 1 of 5 points done" in err


def test_after_ctrl_c_the_other_branches_stop_at_their_next_point(monkeypatch):
    def trace(model, values, lam, start, *, progress, **options):
        if start == "semantic":
            raise KeyboardInterrupt
        for value in values:
            progress(value)

    class Pool(cli.ThreadPoolExecutor):
        """One that begins the second branch after the first has ended."""

        def __init__(self, jobs):
            super().__init__(1)

    monkeypatch.setattr("gamp_theory.branches.trace", trace)
    monkeypatch.setattr(cli, "ThreadPoolExecutor", Pool)
    points, complete = cli.follow_branches(None, range(10**6), 0.01, ["semantic", "positional"])
    assert not complete
    assert len(points["positional"]) < 10**6


def test_a_branch_may_end_where_it_is_left(monkeypatch):
    def trace(model, values, lam, start, *, progress, tol, **options):
        for value in values:
            branch = start if value > 1 else "uninformed"
            progress(types.SimpleNamespace(alpha=value, branch=branch, converged=True, tol=tol))

    monkeypatch.setattr("gamp_theory.branches.trace", trace)
    steps = []
    tol = {"semantic": 1e-3, "uninformed": 1e-2}
    points, complete = cli.follow_branches(
        None,
        [3, 2, 1, 0.5],
        0.01,
        list(tol),
        tol=tol,
        until_left=True,
        advance=lambda n=1: steps.append(n),
    )
    assert complete
    assert [point.alpha for point in points["semantic"]] == [3, 2, 1]
    assert {point.tol for point in points["semantic"]} == {1e-3}
    assert [point.alpha for point in points["uninformed"]] == [3, 2, 1, 0.5]
    assert sum(steps) == 8


# -------------------------------------------------------------------------------- threshold


def transition(value, status, **changes):
    half = 1e-6
    return transitions.Transition(
        kind="alpha_c",
        parameter="alpha",
        value=value,
        error=1e-7 if math.isfinite(value) else math.nan,
        bracket=(value - half, value + half),
        status=transitions.TransitionStatus[status],
        **changes,
    )


def test_threshold_gives_the_lowest_and_further_ones(capsys, monkeypatch):
    asked = {}

    def find(model, kind, alpha, lam, tol, **options):
        asked.update(kind=kind, alpha=alpha, lam=lam, tol=tol)
        return transition(1.25, "CONVERGED", others=(transition(1.75, "CONVERGED"),))

    monkeypatch.setattr(transitions, "find_transition", find)
    code, document = run_json(capsys, "threshold", "alpha_c", "--omega", 0.3)
    assert code == 0
    assert asked == {"kind": "alpha_c", "alpha": (0.01, 4.0), "lam": 0.01, "tol": 1e-6}
    assert set(document) >= {"kind", "omega", "alpha", "bracket", "status", "others"}
    assert (document["kind"], document["omega"], document["alpha"]) == ("alpha_c", 0.3, 1.25)
    assert document["bracket"][0] < 1.25 < document["bracket"][1]
    assert document["status"] == "converged"
    assert [other["alpha"] for other in document["others"]] == [1.75]
    _, out, _ = run(capsys, "threshold", "alpha_c")
    assert "alpha_c = 1.2500000(1)" in out


@pytest.mark.parametrize(("status", "exit_code"), [("DOES_NOT_EXIST", 0), ("SOLVE_FAILED", 1)])
def test_a_threshold_without_value_is_null(capsys, monkeypatch, status, exit_code):
    monkeypatch.setattr(
        transitions, "find_transition", lambda *_, **__: transition(math.nan, status)
    )
    code, document = run_json(capsys, "threshold", "alpha_c", "--alpha", "0.1:0.2")
    assert code == exit_code
    assert document["alpha"] is None
    assert document["bracket"] is None
    assert document["status"] == status.lower()
    assert run(capsys, "threshold", "alpha_c")[0] == exit_code


def test_threshold_finds_the_crossing(capsys):
    code, document = run_json(
        capsys, "threshold", "alpha_c", "--alpha", "1.25:1.253", "--tol", 1e-5
    )
    assert code == 0
    assert document["alpha"] == pytest.approx(1.25154, abs=5e-5)


# ----------------------------------------------------------------------- simulate, validate


def test_simulate_reports_instances_and_their_mean(capsys):
    arguments = ("simulate", "--d", 60, "--alpha", 1.5, "--instances", 3, "--seed", 5)
    code, document = run_json(capsys, *arguments)
    assert code == 0
    instances = document["instances"]
    assert [instance["seed"] for instance in instances] == [[5, 0], [5, 1], [5, 2]]
    measured = {"m", "theta", "q", "train_loss", "test_error"}
    for instance in instances:
        assert set(instance) >= {"seed", *measured, "iterations", "gradient_norm", "status"}
    assert set(document["mean"]) >= measured
    m = np.array([instance["m"] for instance in instances])
    assert document["mean"]["m"] == pytest.approx(abs(m).mean(), rel=1e-12)
    assert document["stderr"]["m"] == pytest.approx(abs(m).std(ddof=1) / math.sqrt(3), rel=1e-12)
    assert run_json(capsys, *arguments, "--jobs", 1)[1] == document
    assert "semantic start" in run(capsys, *arguments)[1]


def test_one_instance_has_no_standard_error(capsys):
    code, document = run_json(capsys, "simulate", "--d", 40, "--alpha", 1, "--instances", 1)
    assert code == 0
    assert document["stderr"]["q"] is None
    assert document["mean"]["q"] == document["instances"][0]["q"]


def test_an_instance_that_does_not_converge_is_kept_and_exits_1(capsys, monkeypatch):
    from gamp_theory.empirical import training

    real = training.train
    monkeypatch.setattr(training, "train", lambda *a: real(*a, max_iterations=1))
    code, document = run_json(capsys, "simulate", "--d", 40, "--alpha", 1, "--instances", 2)
    assert code == 1
    assert {instance["status"] for instance in document["instances"]} == {"iteration_limit"}


@pytest.mark.parametrize("exit_code", [0, 1])
def test_validate_runs_the_study_of_the_checkout(capsys, monkeypatch, exit_code):
    from validation import first_check

    asked = []

    def study(arguments):
        asked.append(arguments)
        print(json.dumps({"status": "agree", "message": "fine"}))
        return exit_code

    monkeypatch.setattr(first_check, "main", study)
    code, document = run_json(capsys, "validate", "--quick", "--alpha", 2)
    assert code == exit_code
    assert document == {"status": "agree", "message": "fine"}
    assert run(capsys, "validate")[:2] == (exit_code, '{"status": "agree", "message": "fine"}\n')
    assert asked == [["--json", "--d", "500", "--instances", "6", "--alpha=2.0"], []]
    first_check._parser().parse_args(asked[0])  # it knows these options


def test_validate_says_that_the_studies_are_not_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site-packages" / "gamp_theory" / "cli.py"))
    code, out, err = run(capsys, "validate", "--json")
    assert code == 1
    assert json.loads(out)["status"] == "not_available"
    assert "source checkout" in err


# ------------------------------------------------------------------------------------- demo


def test_demo_tells_the_story_and_leaves_its_files(capsys, monkeypatch, tmp_path):
    import xarray

    monkeypatch.setattr(demo, "ALPHAS", (1.0, 1.2, 1.3, 1.5))
    monkeypatch.setattr(demo, "SHOWN", (1.0, 1.2, 1.3, 1.5))
    monkeypatch.setattr(demo, "BRANCH_TOL", dict.fromkeys(demo.STARTS, 1e-3))
    found = {"alpha_c": 1.25154, "alpha_l": 1.4923}
    spans = {}

    def find(model, kind, alpha, **options):
        spans[kind] = alpha
        return transition(found[kind], "CONVERGED")

    monkeypatch.setattr(transitions, "find_transition", find)
    out = tmp_path / "new" / "demo"
    code, text, _ = run(capsys, "demo", "--out", out)
    assert code == 0
    assert spans == {"alpha_c": (1.2, 1.3), "alpha_l": (1.3, 1.5)}
    assert "alpha_c = 1.2515400(1)" in text
    assert "from the positional to the semantic solution" in text
    assert sorted(path.name for path in out.iterdir()) == ["transition.nc", "transition.png"]

    with xarray.open_dataset(out / "transition.nc", engine="h5netcdf") as dataset:
        assert dict(dataset.sizes) == {"branch": 3, "alpha": 4}
        assert float(dataset["alpha_c"]) == 1.25154
        assert list(dataset["lowest_branch"].values) == ["positional"] * 2 + ["semantic"] * 2
        semantic = dataset.sel(branch="semantic", alpha=1.5)
        assert float(semantic["theta"]) == pytest.approx(0.134547, rel=1e-3)
        assert bool(semantic["stable"])
        assert str(semantic["reached"].values) == "semantic"
        for variable in dataset.data_vars.values():
            assert variable.attrs["long_name"]
        numbers = [v for v in dataset.data_vars.values() if v.dtype.kind == "f"]
        assert all(v.attrs["units"] == "1" for v in numbers)
        assert dataset.attrs["omega"] == 0.3
        assert "numba" in dataset.attrs["versions"]


def test_a_crossing_that_is_not_on_the_grid_is_searched_everywhere():
    assert demo._crossing({"semantic": [], "positional": []}, "alpha_c") == (0.1, 2.0)


# -------------------------------------------------------------------------------- bad input


@pytest.fixture
def no_work(monkeypatch):
    def work(*_, **__):
        pytest.fail("something was computed")

    monkeypatch.setattr(state_evolution._Solver, "run", work)
    monkeypatch.setattr("gamp_theory.transitions._Search.sample", work)
    monkeypatch.setattr("gamp_theory.empirical.task._sentences", work)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("solve", ["--alpha"]),
        ("solve --alpha 0", ["alpha", "> 0", "0.0"]),
        ("solve --alpha -1", ["alpha", "> 0", "-1.0"]),
        ("solve --alpha nan", ["alpha", "finite", "nan"]),
        ("solve --alpha -inf", ["alpha", "finite", "-inf"]),
        ("solve --alpha 1e", ["--alpha", "number", "'1e'"]),
        ("solve --alpha 1_0", ["--alpha", "number", "'1_0'"]),
        ("solve --alpha 1:2", ["--alpha", "number", "'1:2'"]),
        ("solve --alpha 1 --lam -0.1", ["lam", ">= 0", "-0.1"]),
        ("solve --alpha 1 --lam inf", ["lam", "finite", "inf"]),
        ("solve --alpha 1 --omega 1.5", ["omega", "[0, 1]", "1.5"]),
        ("solve --alpha 1 --omega -.1", ["omega", "[0, 1]", "-0.1"]),
        ("solve --alpha 1 --omega nan", ["omega", "[0, 1]", "nan"]),
        ("solve --alpha 1 --sigma 0", ["sigma", "positive", "0.0"]),
        ("solve --alpha 1 --sigma inf", ["sigma", "finite", "inf"]),
        ("solve --alpha 1 --tol 0", ["tol", "1e-9", "0.0"]),
        ("solve --alpha 1 --tol 1", ["tol", "0.01", "1.0"]),
        ("solve --alpha 1 --branch both", ["--branch", "'both'", "semantic"]),
        ("solve --alpha 1 --target 0.6,0.4", ["--target", "A", "square", "(1, 2)"]),
        ("solve --alpha 1 --target .6,.4;.4,.7", ["--target", "sum to 1", "1.1"]),
        ("solve --alpha 1 --target -0.6,1.6;.4,.6", ["--target", "non-negative", "-0.6"]),
        ("solve --alpha 1 --target .6,.4;.4", ["--target", "square", "0.4"]),
        ("solve --alpha 1 --target nan,.4;.4,.6", ["--target", "finite", "nan"]),
        ("solve --alpha 1 --target 1,0,0;0,1,0;0,0,1", ["--target", "2 x 2", "3 x 3"]),
        ("solve --alpha 1 --target __import__('os');1,0", ["--target", "numbers", "__import__"]),
        ("solve --alpha 1 --out /no/such/place.json", ["out", "directory", "/no/such/place.json"]),
        ("solve --alpha 1 --out /", ["out", "file", "'/'"]),
        ("solve --alpha 1 --alp 2", ["--alp"]),
        ("solve --alpha 1 --check=yes", ["--check", "'yes'"]),
        ("curve --alpha 1.5", ["alpha", "LO:HI[:N]", "1.5"]),
        ("curve --alpha 1:1", ["--alpha", "differ", "'1:1'"]),
        ("curve --alpha 1:2:1", ["--alpha", "N of at least 2", "'1:2:1'"]),
        ("curve --alpha 1:2:x", ["--alpha", "LO:HI", "'1:2:x'"]),
        ("curve --alpha 1:inf", ["--alpha", "finite", "'1:inf'"]),
        ("curve --alpha -1:2:4", ["alpha", "positive", "-1.0"]),
        ("curve --alpha 2:0:4", ["alpha", "positive", "0.0"]),
        ("curve --alpha 1:2 --lam -1", ["lam", ">= 0", "-1.0"]),
        ("curve --alpha 1:2 --tol 0", ["tol", "1e-9", "0.0"]),
        ("curve --alpha 1:2 --omega 0:1", ["omega", "one number", "0:1"]),
        ("curve --along omega --alpha 1 --omega 0:1.2", ["omega", "[0, 1]", "1.2"]),
        ("curve --along omega --alpha 1:2 --omega 0:1", ["alpha", "one number", "1:2"]),
        ("curve --along omega --alpha 1", ["omega", "LO:HI[:N]", "0.3"]),
        ("curve --along sigma --alpha 1:2", ["--along", "'sigma'", "alpha"]),
        ("threshold", ["KIND"]),
        ("threshold beta", ["KIND", "'beta'", "alpha_c"]),
        ("threshold spinodal_semantic", ["kind", "spinodal_semantic", "alpha_c, alpha_l"]),
        ("threshold onset_positional", ["kind", "onset_positional", "alpha_c, alpha_l"]),
        ("threshold alpha_c --alpha 1", ["alpha", "LO:HI", "1.0"]),
        ("threshold alpha_c --alpha 2:1", ["alpha", "LO < HI", "2:1"]),
        ("threshold alpha_c --alpha 1:2:5", ["alpha", "without :N", "1:2:5"]),
        ("threshold alpha_c --alpha 0:1", ["alpha", "positive", "0.0"]),
        ("threshold alpha_c --lam -1", ["lam", ">= 0", "-1.0"]),
        ("threshold alpha_l --omega 2", ["omega", "[0, 1]", "2.0"]),
        ("threshold alpha_l --tol nan", ["tol", "1e-9", "nan"]),
        ("simulate --alpha 1 --d 1", ["d ", "2", "1"]),
        ("simulate --alpha 1 --d 2.5", ["--d", "whole number", "'2.5'"]),
        ("simulate --alpha 0", ["alpha", "positive", "0.0"]),
        ("simulate --alpha 1 --lam -1", ["lam", ">= 0", "-1.0"]),
        ("simulate --alpha 1 --d 1000000", ["memory_limit", "1000000"]),
        ("simulate --alpha 1 --instances 0", ["instances", "at least 1", "0"]),
        ("simulate --alpha 1 --seed -1", ["seed", "at least 0", "-1"]),
        ("simulate --alpha 1 --jobs 0", ["jobs", "at least 1", "0"]),
        ("simulate --alpha 1 --start zero", ["--start", "'zero'", "semantic"]),
        ("simulate --alpha 1 --optimizer gd", ["optimizer", "lbfgs", "'gd'"]),
        ("simulate --alpha 1 --optimizer sgd", ["--optimizer", "'sgd'", "lbfgs"]),
        ("demo --out /dev/null", ["out", "directory", "/dev/null"]),
        ("phase_diagram", ["'phase_diagram'", "solve"]),
        ("", ["COMMAND"]),
    ],
)
def test_bad_input_is_refused_by_name_before_any_work(capsys, arguments, fragments):
    code, out, err = run(capsys, *arguments.split())
    assert code == 2
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("gamp-theory: error: ")
    assert [fragment for fragment in fragments if fragment not in last] == []

    code, out, _ = run(capsys, *arguments.split(), "--json")
    assert code == 2
    document = json.loads(out)
    assert document["status"] == "bad_input"
    assert document["message"] in last


@pytest.mark.usefixtures("no_work")
def test_a_refused_command_leaves_an_existing_file_alone(capsys, tmp_path):
    path = tmp_path / "point.json"
    path.write_text("what was here")
    assert run(capsys, "solve", "--alpha", -1, "--out", path)[0] == 2
    assert path.read_text() == "what was here"


def test_ctrl_c_exits_130_with_a_line(capsys, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(state_evolution._Solver, "run", interrupted)
    path = tmp_path / "point.json"
    code, out, err = run(capsys, "solve", "--alpha", 1, "--json", "--out", path)
    assert code == 130
    assert not path.exists()
    assert json.loads(out) == {
        "points": [],
        "status": "interrupted",
        "message": "Interrupted by the user.",
    }
    assert err == "gamp-theory: interrupted\n"


# ------------------------------------------------------------------------------ small parts


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.081624751, 2.1e-7, "0.0816248(3)"),  # .0000002.1 and the rounding of the value
        (18.3211, 9.6e-5, "18.3211(1)"),
        (1.25154, 0.0, "1.25154"),
        (0.0, 0.0, "0"),
        (123.4, 17.0, "120(30)"),
        (2.5e-9, 1e-11, "2.50(1)e-9"),
        (0.0, 3e-9, "0(3)e-9"),
        (math.nan, 1e-3, "-"),
        (None, None, "-"),
        (0.25, math.nan, "0.25(?)"),
        (1.0, 1e-30, "1.000000000000000(1)"),
    ],
)
def test_concise(value, error, expected):
    assert cli.concise(value, error) == expected


def test_concise_covers_what_was_reported():
    rng = np.random.default_rng(0)
    for _ in range(500):
        value = rng.normal() * 10 ** rng.uniform(-3, 3)
        error = 10 ** rng.uniform(-12, 0) * abs(value)
        text = cli.concise(value, error)
        digits, rest = text.split("(")
        bar, exponent = rest.split(")")
        scale = 10.0 ** int(exponent[1:] or 0)
        places = len(digits.split(".")[1]) if "." in digits else 0
        half = int(bar) * 10.0**-places * scale
        slack = 1e-5 * half
        assert abs(float(digits) * scale - value) + error <= half + slack, (value, error, text)
        assert half <= 3 * error + 1e-14 * abs(value) + slack, (value, error, text)


def test_replacing_leaves_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "data.nc"
    path.write_text("old")

    def fail():
        with cli.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", [[], *([name] for name in cli._EMPTY)])
def test_help_is_there_and_starts_fast(command):
    code = "import sys; from gamp_theory.cli import main; main(sys.argv[1:])"
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0
    assert "usage: gamp-theory" in run.stdout
    assert " numpy\n" not in run.stderr  # nothing heavy was imported to say this


def test_the_package_runs_as_a_program():
    run = subprocess.run(
        [sys.executable, "-m", "gamp_theory", "solve", "--alpha", "-1", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 2
    assert json.loads(run.stdout)["status"] == "bad_input"
