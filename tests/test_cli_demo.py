"""``demo``: the story, the figure and the dataset."""

import pytest
from command import run, transition

from gamp_theory import load, transitions
from gamp_theory.cli import demo


def test_demo_tells_the_story_and_leaves_its_files(capsys, monkeypatch, tmp_path):
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

    dataset = load(out / "transition.nc")
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
