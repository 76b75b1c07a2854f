"""The study of the general model agrees, finds its records again, and can fail."""

from __future__ import annotations

import dataclasses

import pytest

from validation import general


@pytest.mark.slow
def test_the_study_agrees_and_can_fail(tmp_path, monkeypatch, capsys):
    """Slow: six trainings and three fixed points."""
    arguments = ["three_tokens", "--quick", "--results", str(tmp_path)]
    assert general.main(arguments) == 0
    records = (tmp_path / "general.json").read_text()
    assert records.count('"case"') == general.QUICK_INSTANCES
    assert "FAILS" not in (tmp_path / "GENERAL.md").read_text()

    monkeypatch.setattr(general, "_measure", lambda case: pytest.fail("simulated again"))
    right = general.solve

    def wrong(*args):
        point = right(*args)
        return dataclasses.replace(point, train_loss=1.1 * point.train_loss)

    monkeypatch.setattr(general, "solve", wrong)
    assert general.main(arguments) == 1
    assert "FAILED  three_tokens: train_loss" in capsys.readouterr().out
    assert (tmp_path / "general.json").read_text() == records
