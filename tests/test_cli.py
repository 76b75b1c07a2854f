"""The commands: their documents and exit codes."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
from command import run, run_json, transition

import gamp_theory
from gamp_theory import state_evolution, transitions
from gamp_theory.cli import arguments, threshold
from gamp_theory.state_evolution import Status

POINT_KEYS = {
    *("branch", "start", "alpha", "omega", "sigma", "lam", "overlaps", "train_loss"),
    *("train_loss_variational", "test_error", "linear_error", "error", "residual", "iterations"),
    *("map_evaluations", "seconds", "status", "message", "stability"),
}
STABILITY_KEYS = {
    *("eigenvalues", "spectral_radius", "transverse", "replicon", "jump_mass", "stable"),
}


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
    assert arguments.target("0.3,0.7; .8,2e-1") == ((0.3, 0.7), (0.8, 0.2))


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


@pytest.mark.parametrize(
    ("along", "span", "values"),
    [("lam", "0.1:0.11:2", [0.1, 0.11]), ("sigma", "0.5:0.49:2", [0.5, 0.49])],
)
def test_curve_follows_lam_and_sigma(capsys, along, span, values):
    lam = () if along == "lam" else ("--lam", 0.1)
    code, document = run_json(
        capsys,
        *("curve", "--along", along, f"--{along}", span, *lam),
        *("--alpha", 1.5, "--branch", "positional", "--tol", 1e-4),
    )
    assert code == 0
    assert [point[along] for point in document["points"]] == values
    assert {point["alpha"] for point in document["points"]} == {1.5}
    assert document["points"][0]["overlaps"]["m"] == pytest.approx(0.136490, rel=1e-4)


def test_an_interrupted_curve_gives_what_is_finished(capsys, monkeypatch, tmp_path):
    def interrupted(model, values, lam, start, *, progress, **options):
        progress(state_evolution.solve(model, values[0], lam, "zero", on_failure="return"))
        raise KeyboardInterrupt

    monkeypatch.setattr("gamp_theory.tracing.trace", interrupted)
    path = tmp_path / "curve.json"
    code, out, err = run(capsys, "curve", "--alpha", "1:2:5", "--json", "--out", path)
    assert code == 130
    document = json.loads(out)
    assert [point["alpha"] for point in document["points"]] == [1.0]
    assert document["status"] == "interrupted"
    assert json.loads(path.read_text()) == document
    assert "interrupted: 1 of 5 points done" in err


# -------------------------------------------------------------------------------- threshold


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
    assert "training losses of the semantic and the positional branch are equal" in out
    assert "further: alpha = 1.7500000(1), converged" in out


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


@pytest.mark.parametrize("kind", threshold.KINDS)
def test_every_threshold_has_words(capsys, monkeypatch, kind):
    monkeypatch.setattr(
        transitions, "find_transition", lambda _, kind, **__: transition(0.7, "CONVERGED", kind)
    )
    code, out, _ = run(capsys, "threshold", kind)
    assert code == 0
    first, second = out.splitlines()
    name = kind if kind.startswith("alpha") else f"{kind}: alpha"
    assert first.startswith(f"{name} = 0.7000000(1) (omega = 0.3")
    assert second == f"there {threshold.MEANING[kind]}"
    _, document = run_json(capsys, "threshold", kind)
    assert (document["kind"], document["alpha"]) == (kind, 0.7)
    with pytest.raises(SystemExit):
        run(capsys, "threshold", "--help")
    assert threshold.MEANING[kind][:20] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("status", ["NOT_BRACKETED", "SOLVE_FAILED"])
def test_a_further_threshold_that_failed_is_no_success(capsys, monkeypatch, status):
    monkeypatch.setattr(
        transitions,
        "find_transition",
        lambda *_, **__: transition(1.25, "CONVERGED", others=(transition(math.nan, status),)),
    )
    code, document = run_json(capsys, "threshold", "alpha_c")
    assert code == 1
    assert document["alpha"] == 1.25
    (other,) = document["others"]
    assert (other["alpha"], other["bracket"]) == (None, None)
    assert other["status"] == status.lower()
    assert transitions.TransitionStatus[status].value in run(capsys, "threshold", "alpha_c")[1]


@pytest.mark.parametrize("kind", ["spinodal_semantic", "spinodal_positional"])
def test_a_threshold_that_does_not_exist(capsys, kind):
    """Neither branch turns back along alpha here."""
    arguments = ("threshold", kind, "--alpha", "1.2:1.25", "--tol", 1e-3)
    code, document = run_json(capsys, *arguments)
    assert code == 0
    assert (document["kind"], document["alpha"]) == (kind, None)
    assert (document["status"], document["others"]) == ("does_not_exist", [])
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "does_not_exist" in out


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


def test_gamp_stands_beside_state_evolution(capsys):
    options = ("--d", 400, "--alpha", 1.5, "--iterations", 3, "--seed", 2)
    code, document = run_json(capsys, "gamp", *options)
    assert (code, document["status"]) == (1, "iteration_limit")  # three are not enough
    found, theory = document["trajectory"], document["state_evolution"]
    assert [state["iteration"] for state in found] == [state["iteration"] for state in theory]
    assert found[-1].keys() == theory[-1].keys() == {"iteration", "m", "theta", "q", "V", "step"}
    assert found[-1]["step"] is None
    for name in ("m", "theta", "q", "V"):
        assert found[0][name] == pytest.approx(theory[0][name], rel=0.2)  # where both begin
    # one map, and fluctuations of order 1/sqrt(d)
    assert found[1]["V"] == pytest.approx(theory[1]["V"], rel=0.15)


def test_damped_gamp_reaches_a_fixed_point(capsys):
    options = ("--d", 200, "--alpha", 2, "--damping", 0.5, "--iterations", 400, "--lam", 0.05)
    code, document = run_json(capsys, "gamp", *options)
    assert (code, document["status"]) == (0, "converged")
    assert document["state_evolution"] == []


@pytest.mark.parametrize("exit_code", [0, 1])
def test_validate_runs_the_studies_of_the_checkout(capsys, monkeypatch, exit_code):
    from validation import first_check, runner

    asked = []

    def study(arguments):
        asked.append(arguments)
        print(json.dumps({"status": "agree", "message": "fine"}))
        return exit_code

    monkeypatch.setattr(first_check, "main", study)
    monkeypatch.setattr(runner, "main", study)
    code, document = run_json(capsys, "validate", "--quick", "--alpha", 2)
    assert code == exit_code
    assert document == {"status": "agree", "message": "fine"}
    assert run(capsys, "validate")[:2] == (exit_code, '{"status": "agree", "message": "fine"}\n')
    assert run_json(capsys, "validate", "curve", "--quick", "--jobs", 1) == (code, document)
    assert asked == [
        ["--json", "--d", "500", "--instances", "6", "--alpha=2.0", "--jobs=2"],
        ["--jobs=2"],
        ["--json", "--quick", "--jobs=1", "curve"],
    ]
    first_check._parser().parse_args(asked[0])  # they know these options
    runner._parser().parse_args(asked[2])


@pytest.mark.parametrize("arguments", [("kurve",), ("curve", "--alpha", 1), ("--jobs", 0)])
def test_validate_refuses(capsys, arguments):
    code, document = run_json(capsys, "validate", *arguments)
    assert code == 2
    assert document["status"] == "bad_input"


def test_validate_says_that_the_studies_are_not_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        gamp_theory, "__file__", str(tmp_path / "site-packages/gamp_theory/__init__.py")
    )
    code, out, err = run(capsys, "validate", "--json")
    assert code == 1
    assert json.loads(out)["status"] == "not_available"
    assert "source checkout" in err
