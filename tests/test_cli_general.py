"""``simulate`` and ``gamp`` for general models."""

import math

import numpy as np
import pytest
from command import run, run_json

from gamp_theory.empirical import token_task
from gamp_theory.model_file import read_model

THREE = ("--tokens", 3, "--target", "0.6,0.3,0.1;0.2,0.6,0.2;0.1,0.3,0.6")
FILE = """
rank = 2

[target]
kind = "softmax"
omega = 0.3
A = [[0.6, 0.4], [0.4, 0.6]]

[student]
kind = "softmax"

[law]
kind = "isotropic"
sigma = 0.5
positions = [[1.0], [-1.0]]
"""


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(FILE)
    return path


def test_simulate_has_nested_lists(capsys, model_file):
    arguments = ("simulate", "--d", 60, "--alpha", 2, "--instances", 3, "--seed", 5)
    arguments += ("--model", model_file, "--start", "mixed")
    code, document = run_json(capsys, *arguments)
    assert code == 0
    assert {name: document[name] for name in ("tokens", "rank", "teacher_rank")} == {
        "tokens": 2,
        "rank": 2,
        "teacher_rank": 1,
    }
    assert (document["d"], document["n"], document["lam"]) == (60, 120, 0.01)
    instances = document["instances"]
    assert [instance["seed"] for instance in instances] == [[5, 0], [5, 1], [5, 2]]
    task = token_task.draw_token_task(read_model(model_file), 60, 2, 0.01, (5, 1))
    student = token_task.train_tokens(task, "mixed")
    assert instances[1]["q"] == student.q.tolist()
    assert instances[1]["theta"] == student.theta.tolist()
    assert instances[1]["train_loss"] == student.train_loss
    for name, shape in {"q": (2, 2, 2), "m": (2, 2), "theta": (2, 2, 1)}.items():
        values = np.array([instance[name] for instance in instances])
        values = values if name == "q" else abs(values)
        assert values.shape == (3, *shape)
        np.testing.assert_allclose(document["mean"][name], values.mean(axis=0), rtol=1e-12)
        stderr = values.std(axis=0, ddof=1) / math.sqrt(3)
        np.testing.assert_allclose(document["stderr"][name], stderr, rtol=1e-9, atol=1e-18)
    trace = [np.trace(instance["q"], axis1=1, axis2=2).mean() for instance in instances]
    assert document["mean"]["norms"]["q"] == pytest.approx(np.mean(trace), rel=1e-12)
    assert run_json(capsys, *arguments, "--jobs", 1)[1] == document
    assert "mixed start" in run(capsys, *arguments)[1]


def test_one_instance_of_a_general_model_has_no_standard_error(capsys):
    arguments = ("simulate", "--d", 30, "--alpha", 1, "--instances", 1, *THREE)
    code, document = run_json(capsys, *arguments)
    assert code == 0
    assert document["mean"]["q"] == document["instances"][0]["q"]
    assert document["stderr"]["q"] == [[[None]]] * 3
    assert document["stderr"]["norms"]["m"] is None


def test_a_general_instance_that_does_not_converge_exits_1(capsys, monkeypatch):
    real = token_task.train_tokens
    monkeypatch.setattr(token_task, "train_tokens", lambda *a: real(*a, max_iterations=1))
    arguments = ("simulate", "--d", 30, "--alpha", 1, "--instances", 2, "--rank", 2)
    code, document = run_json(capsys, *arguments)
    assert code == 1
    assert {instance["status"] for instance in document["instances"]} == {"iteration_limit"}


def test_gamp_of_three_tokens_stands_beside_state_evolution(capsys):
    options = ("--d", 400, "--alpha", 1.5, "--lam", 0.1, "--iterations", 2, "--start", "positional")
    code, document = run_json(capsys, "gamp", *options, *THREE)
    assert (code, document["status"]) == (1, "iteration_limit")
    found, theory = document["trajectory"], document["state_evolution"]
    assert [state["iteration"] for state in found] == [0, 1, 2]
    assert [state["iteration"] for state in theory] == [0, 1, 2]
    assert found[-1].keys() == theory[-1].keys() == {"iteration", "m", "theta", "q", "V", "step"}
    for name, shape in {"q": (3, 1, 1), "m": (3, 1), "theta": (3, 1, 1), "V": (3, 1, 1)}.items():
        assert np.shape(found[1][name]) == np.shape(theory[1][name]) == shape
        assert found[0][name] == theory[0][name]  # where both begin
    # two maps, and fluctuations of order 1/sqrt(d)
    np.testing.assert_allclose(found[2]["V"], theory[2]["V"], rtol=0.15)
    text = run(capsys, "gamp", *options, *THREE)[1]
    assert "L = 3, r = 1, t = 1" in text


def test_damped_gamp_of_a_general_model_reaches_a_fixed_point(capsys, model_file):
    options = ("--d", 100, "--alpha", 3, "--lam", 0.05, "--damping", 0.5, "--iterations", 400)
    code, document = run_json(capsys, "gamp", *options, "--tokens", 2, "--onsager", "pointwise")
    assert (code, document["status"]) == (0, "converged")
    assert document["state_evolution"] == []


@pytest.mark.parametrize("command", ["simulate", "gamp"])
@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ("--tokens 1", "tokens must be at least 2, got 1"),
        ("--tokens 3", "--target must be given with --tokens 3"),
        ("--start mixed", "start must be one of semantic, positional, random for the two-token"),
        ("--rank 2 --alpha 0", "alpha"),
        ("--rank 2 --d 1", "d must be at least 2, got 1"),
        ("--rank 2 --lam -1", "lam must be >= 0"),
        ("--model /no/file.toml", "can not be read"),
    ],
)
def test_what_is_refused(capsys, monkeypatch, command, arguments, fragment):
    def drawn(*_):
        pytest.fail("something was drawn")

    monkeypatch.setattr("gamp_theory.empirical.token_task._sentences", drawn)
    code, out, err = run(capsys, command, "--alpha", 1, *arguments.split())
    assert code == 2
    assert out == ""
    assert fragment in err


def test_descent_is_for_two_tokens(capsys):
    code, _, err = run(capsys, "simulate", "--alpha", 1, "--rank", 2, "--optimizer", "gd")
    assert code == 2
    assert "--optimizer gd is for the two-token model" in err


def test_options_that_contradict_the_file_are_refused(capsys, model_file):
    for command in ("simulate", "gamp"):
        code, _, err = run(capsys, command, "--alpha", 1, "--model", model_file, "--rank", 1)
        assert code == 2
        assert "--rank 1, but the file has 2" in err
