"""What the command line refuses, before any work; Ctrl-C; help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import run

from gamp_theory import cli, starts, state_evolution, transitions
from gamp_theory.cli import arguments, gamp, simulate, threshold
from gamp_theory.empirical import gamp as message_passing
from gamp_theory.empirical import training
from gamp_theory.model import AttentionModel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def no_work(monkeypatch):
    def work(*_, **__):
        pytest.fail("something was computed")

    monkeypatch.setattr(state_evolution.Solver, "run", work)
    monkeypatch.setattr("gamp_theory.transition_search.TransitionSearch.run", work)
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
        ("curve --alpha -1:2:4", ["alpha", "> 0", "-1.0"]),
        ("curve --alpha 2:0:4", ["alpha", "> 0", "0.0"]),
        ("curve --alpha 1:2 --lam -1", ["lam", ">= 0", "-1.0"]),
        ("curve --alpha 1:2 --tol 0", ["tol", "1e-9", "0.0"]),
        ("curve --alpha 1:2 --omega 0:1", ["omega", "one number", "0:1"]),
        ("curve --along omega --alpha 1 --omega 0:1.2", ["omega", "[0, 1]", "1.2"]),
        ("curve --along omega --alpha 1:2 --omega 0:1", ["alpha", "one number", "1:2"]),
        ("curve --along omega --alpha 1", ["omega", "LO:HI[:N]", "0.3"]),
        ("curve --along q --alpha 1:2", ["--along", "'q'", "alpha"]),
        ("curve --along sigma --alpha 1", ["sigma must", "range", "0.5"]),
        ("curve --along lam --lam 0:.1 --alpha 1", ["lam must be > 0"]),
        ("curve --along sigma --sigma .3:.5 --alpha 1:2", ["alpha must", "one number"]),
        ("threshold", ["KIND"]),
        ("threshold beta", ["KIND", "'beta'", "alpha_c"]),
        ("threshold spinodal", ["KIND", "'spinodal'", "spinodal_semantic"]),
        ("threshold onset_positional --alpha 1:inf", ["alpha", "finite"]),
        ("threshold alpha_c --alpha 1", ["alpha", "LO:HI", "1.0"]),
        ("threshold alpha_c --alpha 2:1", ["alpha", "low < high", "(2.0, 1.0)"]),
        ("threshold alpha_c --alpha 1:2:5", ["alpha", "without :N", "1:2:5"]),
        ("threshold alpha_c --alpha 0:1", ["alpha", "> 0", "0.0"]),
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
        ("gamp --alpha 1 --d 1", ["d must", "1"]),
        ("gamp --alpha 1 --iterations 0", ["iterations", "at least 1", "0"]),
        ("gamp --alpha 1 --damping 1", ["damping", "[0, 1)", "1.0"]),
        ("gamp --alpha 1 --seed -1", ["seed", "-1"]),
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

    monkeypatch.setattr(state_evolution.Solver, "run", interrupted)
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


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
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


def test_what_can_be_chosen_is_what_the_library_knows():
    """The command line repeats these names, so as not to import the library for its help."""
    assert arguments.STARTS == starts.STARTS
    assert threshold.KINDS == transitions.KINDS
    assert simulate.OPTIMIZERS == training.OPTIMIZERS
    assert gamp.ONSAGER == message_passing.ONSAGER
    default = AttentionModel.mixture()
    assert arguments.target(arguments.DEFAULT_TARGET) == default.target.A
    options = cli._parser().parse_args(["solve", "--alpha", "1"])
    assert arguments.build_model(options) == default
