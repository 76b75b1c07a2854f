"""A published table against recorded students: matching, floors, biases, verdict."""

import csv
import json

import numpy as np
import pytest

from validation import published

SIGMA = 0.5
COLUMNS = ("m", "theta_over_sigma2", "train_loss", "test_error")


def instances(count=40, d=1000):
    """Students around the semantic fixed point at alpha = 1.5, as a study would record them."""
    rng = np.random.default_rng(7)
    case = {"omega": 0.3, "sigma": SIGMA, "lam": 0.01, "alpha": 1.5, "start": "semantic", "d": d}
    return [
        {
            "case": {**case, "seed": [1, i]},
            "record": {
                "m": 0.01 * rng.standard_normal(),
                "theta": 0.134547 + 0.005 * rng.standard_normal(),
                "q": 0.094,
                "train_loss": 0.00305369 + 2e-5 + 5e-5 * rng.standard_normal(),
                "train_loss_bias": 2e-5,
                "test_error": 0.00196067 + 1e-5 + 5e-5 * rng.standard_normal(),
                "test_error_bias": 1e-5,
            },
        }
        for i in range(count)
    ]


def table(path, **changes):
    """Means of the same law, as a table would print them."""
    row = {
        "alpha": 1.50003,
        "start": "semantic",
        "m": 0.01 * np.sqrt(2 / np.pi),
        "theta_over_sigma2": 0.134547 / SIGMA**2,
        "train_loss": 0.00305369 + 2e-5,
        "test_error": 0.00196067 + 1e-5,
        "m_stderr": 0.001,
        "theta_over_sigma2_stderr": 0.003,
        "train_loss_stderr": 1e-5,
        "test_error_stderr": 1e-5,
        **changes,
    }
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        writer.writeheader()
        writer.writerow(row)
    return path


@pytest.fixture
def results(tmp_path):
    (tmp_path / "small_alpha.json").write_text(json.dumps({"instances": instances()}))
    return tmp_path


def test_the_truth_agrees_floors_and_biases_included(results):
    with table(results / "x.csv").open(newline="") as stream:
        found = published.compare(list(csv.DictReader(stream)), instances(), SIGMA**2)
    assert [x.quantity for x in found] == ["m", "theta", "train_loss", "test_error"]
    for x in found:
        assert abs(x.z) < 3
        assert abs(x.z_theory) < 3
    floor, theta = found[0], found[1]
    assert floor.theory == pytest.approx(0.01 * np.sqrt(2 / np.pi), rel=0.3)
    assert theta.published_error == pytest.approx(0.003 * SIGMA**2)
    assert theta.theory == pytest.approx(0.134547, abs=1e-6)


def test_students_of_descent_are_compared_apart(results):
    descents = [
        {
            "case": {**entry["case"], "steps": 5000},
            "record": {name: entry["record"][name] for name in ("m", "theta", "q", "train_loss")},
        }
        for entry in instances()
    ]
    with table(results / "x.csv").open(newline="") as stream:
        found = published.compare(list(csv.DictReader(stream)), instances() + descents, SIGMA**2)
    assert [x.quantity for x in found if x.steps == 5000] == ["m", "theta", "train_loss"]
    assert len(found) == 7


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"theta_over_sigma2": 0.7}, 1), ({"train_loss": 0.0032}, 1), ({"alpha": 1.6}, 2)],
)
def test_exit_codes(changes, code, results, capsys):
    path = table(results / "x.csv", **changes)
    assert published.main([str(path), "--results", str(results)]) == code
    out, err = capsys.readouterr()
    if code == 2:
        assert "no point of the table was simulated" in err
    else:
        assert f"{4 - code} of 4 within 4 standard errors" in out


def test_missing_files_and_columns(results, capsys):
    assert published.main([str(results / "none.csv"), "--results", str(results)]) == 2
    (results / "bad.csv").write_text("alpha,start\n1.5,semantic\n")
    assert published.main([str(results / "bad.csv"), "--results", str(results)]) == 2
    assert "KeyError: 'm'" in capsys.readouterr().err
