"""The experiment on two mechanisms: its record, and what is said of it."""

import dataclasses
import json

import numpy as np
import pytest

from validation import histogram
from validation.histogram import (
    CONTROLS,
    HELD,
    RELEASES,
    RESULTS,
    Settings,
    load,
    main,
    released,
    run,
    stays,
    summary,
)
from validation.histogram_figure import draw, plot_attention
from validation.transformer import (
    LENGTH,
    MECHANISMS,
    SYMBOLS,
    attention,
    evaluate,
    initial_weights,
    predict,
    score_shares,
    train,
    trainable,
)

SMALL = Settings(training=200, test=100, learning=40, cooling=8, released=12, points=3, solved=0.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("histogram") / "histogram.json"
    return path, run(SMALL, [0, 1], path)


def test_record_has_every_run(small):
    path, document = small
    starts = [(start, *release) for start in MECHANISMS for release in (*RELEASES, HELD)]
    starts += [("untrained", *control) for control in CONTROLS]
    names = {"/".join(map(str, (seed, *start))) for seed in (0, 1) for start in starts}
    assert document["rows"].keys() == names | {"0/pair", "1/pair"}
    assert document["settings"] == dataclasses.asdict(SMALL)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_row_is_what_training_gives(small):
    """One run of the record, made again from the parts."""
    _, document = small
    row = document["rows"]["1/semantic/sgd/0.01"]
    training, test = SMALL.data()
    solution, other = (
        train(initial_weights(1), mechanism, training, SMALL.learning, seed=1, cooling=8)
        for mechanism in ("semantic", "positional")
    )
    start = released(solution, "semantic", 1)
    end = train(start, "both", training, SMALL.released, "sgd", 0.01, seed=1001)
    assert row["step"] == [0, 4, 8, 12]
    assert row["moved"][0] == row["attention_moved"][0] == 0
    assert row["moved"][-1] == pytest.approx(np.linalg.norm(end - start), rel=1e-4)
    assert row["test_loss"][-1] == pytest.approx(evaluate(end, test).loss, rel=1e-4)
    assert row["train_loss"][0] == pytest.approx(evaluate(start, training).loss, rel=1e-4)
    assert row["semantic"][-1] == pytest.approx(score_shares(end).semantic, rel=1e-4)
    np.testing.assert_allclose(row["attention"][1], attention(end, histogram.EXAMPLE)[0], atol=6e-4)
    between = document["rows"]["1/pair"]["between"]
    assert between == pytest.approx(np.linalg.norm(other - solution), rel=1e-6)


def test_with_masks_kept_nothing_else_is_trained(small):
    for mechanism in MECHANISMS:
        row = small[1]["rows"][f"0/{mechanism}/held/0.001"]
        assert row[mechanism] == [1, 1, 1, 1]
        assert row["freed"] == 0
        assert row["moved"][-1] > 0
        released_row = small[1]["rows"][f"0/{mechanism}/sgd/0.001"]
        assert released_row["freed"] > 0


def test_network_that_cannot_count_is_recorded_but_not_released(tmp_path, monkeypatch):
    monkeypatch.setattr(histogram, "TICK", 10)
    strict = dataclasses.replace(SMALL, solved=0.99)
    steps = []
    path = tmp_path / "histogram.json"
    document = run(strict, [0], path, progress=steps.append)
    keys = {"0/pair", *(f"0/untrained/{name}/{rate}" for name, rate in CONTROLS)}
    assert document["rows"].keys() == keys
    assert max(document["rows"]["0/pair"]["accuracy"].values()) < 0.99
    assert sum(steps) == histogram._steps(strict)
    with pytest.raises(ValueError, match="must have a start that learnt both"):
        draw(document)


def test_pair_says_how_well_the_worst_symbol_is_counted(small):
    training, test = SMALL.data()
    end = train(initial_weights(0), "semantic", training, SMALL.learning, seed=0, cooling=8)
    right = predict(end, test.symbols) == test.counts
    row = small[1]["rows"]["0/pair"]
    assert row["accuracy"]["semantic"] == np.mean(right)
    worst = min(np.mean(right[test.symbols == s]) for s in range(SYMBOLS))
    assert row["worst_symbol"]["semantic"] == worst < np.mean(right)


def test_release_adds_a_little_to_what_was_held_at_zero():
    free = trainable("positional")
    weights = np.where(free, initial_weights(0), np.float32(0))
    change = released(weights, "positional", seed=3) - weights
    assert (change[free] == 0).all()
    assert change[~free].std() == pytest.approx(histogram.NOISE, rel=0.05)
    assert change.dtype == np.float32


@pytest.mark.parametrize("stop", [30, 110])
def test_interrupted_run_goes_on_to_the_same_record(small, tmp_path, monkeypatch, stop):
    """Stopped while learning, and within a release."""
    monkeypatch.setattr(histogram, "TICK", 10)
    path = tmp_path / "histogram.json"
    done = []

    def progress(steps):
        done.append(steps)
        if sum(done) >= stop and len(done) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, [0], path, progress=progress)
    steps = []
    again = run(SMALL, [0, 1], path, resume=True, progress=steps.append)
    assert again == small[1]
    assert sum(steps) == 2 * histogram._steps(SMALL)


def test_finished_run_is_not_done_again(small, monkeypatch):
    path, document = small
    monkeypatch.setattr(histogram, "train", None)  # would not be callable
    steps = []
    assert run(SMALL, [0, 1], path, resume=True, progress=steps.append) == document
    assert sum(steps) == 2 * histogram._steps(SMALL)


def test_resuming_with_other_sizes_is_refused(small):
    path, document = small
    with pytest.raises(ValueError, match=r"resume: .* was made with .*'released': 12"):
        run(dataclasses.replace(SMALL, released=13), [0], path, resume=True)
    assert load(path) == document


def test_staying_is_mechanism_and_accuracy():
    row = {"start": "positional", "positional": [1.0, 0.96], "test_accuracy": [0.999, 0.995]}
    assert stays(row)
    assert not stays(row | {"positional": [1.0, 0.94]})
    assert not stays(row | {"test_accuracy": [0.999, 0.98]})
    assert not stays(row | {"start": "semantic", "semantic": [0.0, 0.04]})


def test_summary_averages_over_starts(small):
    _, document = small
    lines = summary(document).splitlines()
    assert len(lines) == 2 + 2 + len(MECHANISMS) * (len(RELEASES) + 1) + len(CONTROLS)
    rows = document["rows"]
    line = next(x for x in lines if x.startswith("semantic") and "adam" in x)
    moved = np.mean(
        [rows[f"{s}/semantic/adam/0.001"]["moved"][-1] / rows[f"{s}/pair"]["between"] for s in "01"]
    )
    assert float(line.split()[3]) == pytest.approx(moved, abs=6e-4)
    assert line.endswith("0 of 2")  # 40 steps are too few to count


def test_figure_has_attention_lines_and_segments(small):
    drawn = draw(small[1])
    assert len(drawn.axes) == 7
    maps, (moved, shares, segment) = drawn.axes[:4], drawn.axes[4:]
    np.testing.assert_array_equal(
        maps[3].images[0].get_array(), small[1]["rows"]["0/semantic/sgd/0.001"]["attention"][1]
    )
    runs = len(MECHANISMS) * len(RELEASES)
    assert len(moved.lines) == 2 * (runs + len(CONTROLS)) + 1
    assert len(shares.lines) == 2 * runs
    assert len(segment.lines) == 2


def test_attention_is_labelled_by_its_symbols():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    plot_attention(np.eye(LENGTH), np.arange(LENGTH), ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == list("abcdefghij")


def test_command_writes_record_figure_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(histogram, "Settings", lambda: SMALL)
    path = tmp_path / "record.json"
    assert main(["--seeds", "1", "--out", str(path)]) == 0
    assert summary(load(path)) in capsys.readouterr().out
    assert path.with_suffix(".png").stat().st_size > 10_000
    assert len(list(tmp_path.iterdir())) == 2


def test_command_stopped_by_hand_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(histogram, "run", stopped)
    assert main(["--out", str(tmp_path / "record.json")]) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--seeds", "0"], ["--resume"]])
def test_command_refuses_bad_input(arguments, tmp_path, capsys):
    path = tmp_path / "record.json"
    other = dataclasses.asdict(SMALL)
    path.write_text(json.dumps({"settings": other, "rows": {}}), encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(path)])
    assert stop.value.code == 2
    assert arguments[0].strip("-") in capsys.readouterr().err


def test_recorded_networks_count_and_stay_at_the_published_rate():
    """What docs/histogram.md says, read off the record."""
    document = load(RESULTS)
    assert document["settings"] == dataclasses.asdict(Settings())
    rows = document["rows"]
    pairs = [row for row in rows.values() if "between" in row]
    both = [row for row in pairs if min(row["accuracy"].values()) > 0.99]
    assert both
    for pair in pairs:
        assert pair["accuracy"]["positional"] > 0.99
        for mechanism, accuracy in pair["accuracy"].items():
            names = {
                how: f"{pair['seed']}/{mechanism}/{how}" for how in ("sgd/0.001", "adam/0.001")
            }
            assert (names["sgd/0.001"] in rows) == (accuracy > 0.99)
            if accuracy > 0.99:
                assert stays(rows[names["sgd/0.001"]])
                # with Adam it is only the semantic mechanism that stays, and both keep counting
                assert stays(rows[names["adam/0.001"]]) == (mechanism == "semantic")
                assert min(rows[names["adam/0.001"]]["test_accuracy"]) > 0.98
