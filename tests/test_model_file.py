"""Models from TOML, the command line for them, and the page that explains both."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from command import run

from gamp_theory.model_file import read_model
from gamp_theory.token_mechanisms import FixedMixture, LinearAttention, RowSoftmax

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/howto/your_own_model.md").read_text(encoding="utf-8")
GOOD = """
rank = 2
[target]
kind = "softmax"
omega = 0.3
A = [[0.6, 0.4], [0.4, 0.6]]
[student]
kind = "linear"
scale = 0.5
[law]
kind = "isotropic"
sigma = [0.5, 0.6]
positions = [[1.0], [-1.0]]
"""


@pytest.fixture
def write(tmp_path):
    def function(text):
        path = tmp_path / "model.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return function


def test_a_file_is_the_model_it_says(write):
    model = read_model(write(GOOD))
    assert (model.tokens, model.rank, model.teacher_rank) == (2, 2, 1)
    assert model.student == LinearAttention(0.5)
    assert model.target == FixedMixture(0.3, [[0.6, 0.4], [0.4, 0.6]], RowSoftmax())
    assert model.law.variance == pytest.approx([0.25, 0.36])


def test_the_example_of_the_page_is_a_model(write):
    model = read_model(write(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]))
    assert model.law.rho.shape == (2, 1, 1)
    assert len(model.law.weights) == 24


@pytest.mark.slow
def test_the_python_of_the_page_runs():
    """Slow: a fixed point and a training."""
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(code, "your_own_model.md", "exec"), names)  # the project's own text
    assert "GeneralFixedPoint" in printed.getvalue()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("rank = 2", "rank = 2.5", "rank must be a whole number"),
        ("rank = 2", "rnak = 2", "unknown key 'rnak'; known are law, rank, student, target"),
        ("[student]", "[pupil]", "unknown key 'pupil'"),
        ('kind = "linear"', 'kind = "magic"', r"\[student\] kind must be one of softmax, linear"),
        ("scale = 0.5", "temperature = 0.5", "unknown key 'temperature'; known are causal, scale"),
        ("scale = 0.5", "scale = 0", "scale must be finite and not 0"),
        ("omega = 0.3\n", "", "must have both omega and A"),
        ("omega = 0.3", "omega = 3", r"\[target\]: omega must lie in"),
        ("[[0.6, 0.4], [0.4, 0.6]]", "[[0.6, 0.4], [0.4, 0.7]]", "rows of A must sum to 1"),
        ("sigma = [0.5, 0.6]\n", "", r"\[law\]: missing .*'sigma'"),
        ("sigma = [0.5, 0.6]", "sigma = [0.5, 0.6, 0.7]", "one for each of 2 tokens"),
        ("positions = [[1.0], [-1.0]]", "positions = 1 +", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(write, old, new, match):
    assert old in GOOD
    with pytest.raises(ValueError, match=match):
        read_model(write(GOOD.replace(old, new)))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ValueError, match="can not be read"):
        read_model(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ("--tokens 1", "tokens must be at least 2, got 1"),
        ("--rank 0", "rank must be at least 1, got 0"),
        ("--teacher-rank 0", "teacher rank must be at least 1"),
        ("--tokens 3", "--target must be given with --tokens 3"),
        ("--tokens 3 --target .6,.4;.4,.6", "--target must be given with --tokens 3"),
        ("--branch mixed", "start must be one of semantic, positional, uninformed, zero"),
        ("--rank 2 --check", "--check is for the two-token model"),
        ("--rank 2 --tol 1e-8", "tol must be in [1e-5, 0.1]"),
        ("--model /no/file.toml", "can not be read"),
    ],
)
def test_bad_options_are_refused(capsys, arguments, fragment):
    code, out, err = run(capsys, "solve", "--alpha", "1", *arguments.split())
    assert code == 2
    assert out == ""
    assert fragment in err


def test_options_that_contradict_the_file_are_refused(capsys, write):
    path = write(GOOD)
    for arguments, fragment in (
        (("--rank", "3"), "--rank 3, but the file has 2"),
        (("--omega", "0.5"), "--omega does not go with --model"),
    ):
        code, _, err = run(capsys, "solve", "--alpha", "1", "--model", path, *arguments)
        assert code == 2
        assert fragment in err


def test_solve_prints_nested_lists(capsys, tmp_path):
    arguments = ("--alpha", 1.5, "--lam", 0.1, "--tokens", 2, "--branch", "positional")
    out = tmp_path / "point.json"
    code, text, _ = run(capsys, "solve", *arguments, "--tol", 0.05, "--out", out)
    assert code == 0
    (point,) = json.loads(out.read_text(), parse_constant=pytest.fail)["points"]
    assert point["status"] == "converged"
    assert (point["tokens"], point["rank"], point["teacher_rank"]) == (2, 1, 1)
    assert np.shape(point["overlaps"]["q"]) == (2, 1, 1)
    assert np.shape(point["error"]["overlaps"]["m"]) == (2, 1)
    m, error = point["overlaps"]["m"][0][0], point["error"]["overlaps"]["m"][0][0]
    assert abs(m - 0.136490) < 4 * error  # positions at equal angles: +-1
    assert point["stability"]["stable"] is True
    assert "positional" in text
    assert "replicon" in text
