"""Two mechanisms for one task: the experiment that motivates the model.

Run ``python -m validation.histogram``.  A small transformer (:mod:`validation.transformer`) learns
to count symbols with scores that see only the positions, and, from the same random weights, with
scores that see only the symbols.  Then all its weights are released, and training goes on: with
plain descent at the published rate, at larger ones, and with Adam.  What is recorded is how far the
weights and the attention move, what the scores come to depend on, and whether the network still
counts.

Distances need a scale: that between the two solutions, which have the same random start, so
that nothing in it comes from hidden units in another order.  And descent at a small rate moves
nothing far, so the same descent is also run from untrained weights (start ``untrained``), and with
the masks kept on (optimizer ``held``), to see what the release itself does.

The point where a block of Q and the same block of K are both zero is stationary in their product.
So, as in the published experiment, weights that were held at zero get noise of size 1e-3 first.

Learning can fail.  A network below .99 in test accuracy is *stuck*: it is recorded, with the
accuracy for its worst symbol, but not released.  A released network *stays* if, at the end, its
own part of the variance of the scores is at least .95 and its test accuracy at least .99
(:func:`stays`).

Writes ``validation/results/histogram.json`` run by run, and the figure beside it; ``--resume``
keeps what a stopped run has finished.  Numbers repeat on one machine; another BLAS rounds
otherwise, and single runs of stochastic training then differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gamp_theory.files import replacing
from validation.records import provenance
from validation.transformer import (
    MECHANISMS,
    SYMBOLS,
    Mechanism,
    Sequences,
    attention,
    attention_distance,
    draw_sequences,
    evaluate,
    initial_weights,
    predict,
    score_shares,
    segment_losses,
    train,
    trainable,
)

__all__ = [
    "EXAMPLE",
    "RELEASES",
    "RESULTS",
    "Settings",
    "load",
    "main",
    "released",
    "run",
    "stays",
    "summary",
]

RESULTS = Path(__file__).with_name("results") / "histogram.json"

#: How training goes on when all weights are released; the first is the published way.
RELEASES = (("sgd", 1e-3), ("sgd", 1e-2), ("sgd", 3e-2), ("adam", 1e-3))
#: Descent with the masks kept on, for comparison.
HELD = ("held", 1e-3)
#: Descent from untrained weights, for comparison.
CONTROLS = (("sgd", 1e-3), ("sgd", 1e-2))

#: The sequence whose attention is shown: four a, two b, and four others.
EXAMPLE = np.array([[0, 1, 0, 2, 3, 0, 1, 4, 5, 0]])

LEAST_SHARE, LEAST_ACCURACY = 0.95, 0.99
#: Standard deviation of what weights that were held at zero are released with.
NOISE = 1e-3
#: Test sequences whose attention is compared.
COMPARED = 1000
#: Steps between two movements of the progress bar.
TICK = 1000


@dataclass(frozen=True)
class Settings:
    """Sizes of the experiment.

    Attributes
    ----------
    training, test : int
        Numbers of sequences.
    learning, cooling : int
        Steps of Adam at rate 1e-3 within a mechanism; in the last of them the rate falls to zero.
    released : int
        Steps after the release.
    points : int
        How often a run is measured, besides its start.
    solved : float
        Least test accuracy with which a network is released.
    """

    training: int = 35_000
    test: int = 5_000
    learning: int = 16_000
    cooling: int = 4_000
    released: int = 10_000
    points: int = 10
    solved: float = LEAST_ACCURACY

    def data(self) -> tuple[Sequences, Sequences]:
        """The training and the test set: the same for all seeds, so that there is one loss."""
        return draw_sequences(self.training, seed=0), draw_sequences(self.test, seed=1)


class _Kept:
    """What is finished, on disk as soon as it is: rows in JSON, trained weights beside it."""

    def __init__(self, path: Path, settings: Settings, resume: bool) -> None:
        self.path, self.partial = path, path.with_suffix(".partial.npz")
        self.settings = asdict(settings)
        self.rows: dict[str, dict[str, Any]] = {}
        self.weights: dict[str, NDArray] = {}
        if not resume:
            self.partial.unlink(missing_ok=True)
            return
        if path.exists():
            document = load(path)
            if document["settings"] != self.settings:
                raise ValueError(
                    f"resume: {path.name} was made with {document['settings']}, not {self.settings}"
                )
            self.rows = document["rows"]
        if self.partial.exists():
            with np.load(self.partial) as stored:
                self.weights = dict(stored)

    def row(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of this name, made if it is not there."""
        if key not in self.rows:
            self.rows[key] = make()
            with replacing(self.path) as temporary:
                temporary.write_text(_lines(self.settings, self.rows), encoding="utf-8")
        return self.rows[key]

    def trained(self, key: str, make: Callable[[], NDArray]) -> NDArray:
        """The weights of this name, trained if they are not there."""
        if key not in self.weights:
            self.weights[key] = make()
            with replacing(self.partial) as temporary:
                np.savez(temporary, **self.weights)
        return self.weights[key]


def _lines(settings: dict[str, int], rows: dict[str, dict[str, Any]]) -> str:
    """JSON with one row a line."""
    head = json.dumps({"provenance": provenance(), "settings": settings})
    body = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    return f'{head[:-1]},\n"rows": {{\n{body}\n}}}}\n'


def load(path: Path = RESULTS) -> dict[str, Any]:
    """The record: its ``settings``, ``provenance`` and ``rows``."""
    return json.loads(path.read_text(encoding="utf-8"))


def run(
    settings: Settings,
    seeds: Sequence[int],
    path: Path,
    resume: bool = False,
    progress: Callable[[int], object] = lambda steps: None,
) -> dict[str, Any]:
    """The experiment from several random starts; the record is kept in `path`.

    `progress` is called with numbers of steps as they are done, or found to be done already.
    """
    kept = _Kept(path, settings, resume)
    data = settings.data()
    for seed in seeds:
        _one_seed(seed, settings, data, kept, progress)
    kept.partial.unlink(missing_ok=True)
    return load(path)


def _one_seed(
    seed: int,
    settings: Settings,
    data: tuple[Sequences, Sequences],
    kept: _Kept,
    progress: Callable[[int], object],
) -> None:
    training, test = data
    initial = initial_weights(seed)
    keys = {task: "/".join(map(str, (seed, *task))) for task in _tasks()}
    pair = f"{seed}/pair"
    if list(keys.values())[-1] in kept.rows:  # the last of this seed
        progress(_steps(settings))
        return

    def learn(mechanism: Mechanism) -> NDArray:
        return train(
            initial,
            mechanism,
            training,
            settings.learning,
            seed=seed,
            watch=lambda step, weights: progress(TICK),
            every=TICK,
            cooling=settings.cooling,
        )

    solutions = {}
    for mechanism in MECHANISMS:
        name = f"{seed}/{mechanism}"
        if name in kept.weights:
            progress(settings.learning)
        solutions[mechanism] = kept.trained(name, lambda m=mechanism: learn(m))
    row = kept.row(pair, lambda: _compare(seed, solutions, test))
    starts = {"untrained": initial}
    for mechanism, weights in solutions.items():
        starts[mechanism] = released(weights, mechanism, seed)
    for task, key in keys.items():
        stuck = row["accuracy"].get(task[0], 1) < settings.solved
        if stuck or key in kept.rows:
            progress(settings.released)
        if stuck:
            continue
        start = starts[task[0]]
        kept.row(key, lambda t=task, w=start: _release(seed, t, w, settings, data, progress))


def _compare(seed: int, solutions: dict[str, NDArray], test: Sequences) -> dict[str, Any]:
    """The two networks of one seed: whether they count, and what is between them."""
    a, b = solutions.values()
    right = {name: predict(w, test.symbols) == test.counts for name, w in solutions.items()}
    return {
        "seed": seed,
        "between": float(np.linalg.norm(a - b)),
        "attention_between": attention_distance(a, b, test.symbols[:COMPARED]),
        "segment": [float(f"{x:.5g}") for x in segment_losses(a, b, test)],
        "accuracy": {name: float(np.mean(x)) for name, x in right.items()},
        "worst_symbol": {
            name: min(float(np.mean(x[test.symbols == s])) for s in range(SYMBOLS))
            for name, x in right.items()
        },
    }


def released(weights: NDArray, mechanism: Mechanism, seed: int) -> NDArray:
    """The weights of a mechanism, with a little noise on those that it held at zero."""
    noise = NOISE * np.random.default_rng([seed, 1]).standard_normal(weights.size)
    return weights + np.where(trainable(mechanism), 0, noise).astype(weights.dtype)


def _release(
    seed: int,
    task: tuple[str, str, float],
    weights: NDArray,
    settings: Settings,
    data: tuple[Sequences, Sequences],
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """One run with all weights released, as a row of the record."""
    start, optimizer, rate = task
    training, test = data
    held = (optimizer, rate) == HELD
    if held:
        weights = np.where(trainable(start), weights, np.float32(0))
    compared = test.symbols[:COMPARED]
    seen: list[dict[str, float]] = []

    def watch(step: int, now: NDArray) -> None:
        progress(step - seen[-1]["step"] if seen else 0)
        seen.append(
            {
                "step": step,
                "moved": float(np.linalg.norm(now - weights)),
                "attention_moved": attention_distance(now, weights, compared),
                **{f"test_{name}": x for name, x in evaluate(now, test)._asdict().items()},
                **score_shares(now)._asdict(),
            }
        )

    watch(0, weights)
    every = max(1, settings.released // settings.points)
    end = train(
        weights,
        start if held else "both",
        training,
        settings.released,
        "sgd" if held else optimizer,
        rate,
        seed=seed + 1000,
        watch=watch,
        every=every,
    )
    row = {"seed": seed, "start": start, "optimizer": optimizer, "rate": rate}
    row |= {name: [float(f"{point[name]:.5g}") for point in seen] for name in seen[0]}
    row["train_loss"] = [float(f"{evaluate(w, training).loss:.5g}") for w in (weights, end)]
    if start in MECHANISMS:
        change = (end - weights) ** 2
        row["freed"] = float(f"{change[~trainable(start)].sum() / change.sum():.4g}")
        maps = (attention(w, EXAMPLE)[0].astype(float).round(3).tolist() for w in (weights, end))
        row["attention"] = list(maps)
    return row


def _tasks() -> list[tuple[str, str, float]]:
    """The runs of one seed after learning: start, optimizer, rate."""
    tasks = [(start, *how) for start in MECHANISMS for how in (*RELEASES, HELD)]
    return tasks + [("untrained", *control) for control in CONTROLS]


def _steps(settings: Settings) -> int:
    """All steps of one seed."""
    return len(MECHANISMS) * settings.learning + len(_tasks()) * settings.released


def stays(row: dict[str, Any]) -> bool:
    """Whether a run ended with the mechanism that it began with, and still counts."""
    return bool(row[row["start"]][-1] >= LEAST_SHARE and row["test_accuracy"][-1] >= LEAST_ACCURACY)


def summary(document: dict[str, Any]) -> str:
    """The record as a table: means over the random starts, and how many stayed.

    What has moved, weights and attention, is in units of what is between the two solutions.
    """
    rows = document["rows"]
    pairs = {row["seed"]: row for row in rows.values() if "between" in row}
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in rows.values():
        if "start" in row:
            groups.setdefault((row["start"], row["optimizer"], row["rate"]), []).append(row)
    lines = [
        f"start {seed}: test accuracy "
        + ", ".join(
            f"{name} {pair['accuracy'][name]:.4f} (worst symbol {pair['worst_symbol'][name]:.3f})"
            for name in MECHANISMS
        )
        for seed, pair in pairs.items()
    ]
    lines += [
        "",
        f"{'start':10}  {'released':10}  weights  attention  semantic  positional  "
        f"{'test loss':16}  {'test accuracy':16}  stay",
    ]
    for (start, optimizer, rate), group in groups.items():
        weights = np.mean([row["moved"][-1] / pairs[row["seed"]]["between"] for row in group])
        moved = np.mean(
            [row["attention_moved"][-1] / pairs[row["seed"]]["attention_between"] for row in group]
        )
        semantic, positional = (
            np.mean([row[name][-1] for row in group]) for name in ("semantic", "positional")
        )
        losses, accuracies = (
            " -> ".join(f"{np.mean([row[name][k] for row in group]):.4f}" for k in (0, -1))
            for name in ("test_loss", "test_accuracy")
        )
        kept = f"{sum(map(stays, group))} of {len(group)}" if start in MECHANISMS else "-"
        lines.append(
            f"{start:10}  {optimizer:4} {rate:<5g}  {weights:7.3f}  {moved:9.3f}  {semantic:8.4f}  "
            f"{positional:10.4f}  {losses}  {accuracies}  {kept}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment, write the record and its figure, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m validation.histogram",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=3, help="random starts (default: 3)")
    parser.add_argument("--resume", action="store_true", help="keep what is finished")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the record")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"seeds must be at least 1, got {options.seeds}")
    settings = Settings()
    began = time.perf_counter()
    try:
        with tqdm(total=options.seeds * _steps(settings), desc="steps", unit_scale=True) as bar:
            document = run(settings, range(options.seeds), options.out, options.resume, bar.update)
    except KeyboardInterrupt:
        print("interrupted; --resume goes on with what is finished", file=sys.stderr)
        return 130
    except ValueError as error:
        parser.error(str(error))
    print(summary(document))
    from validation.histogram_figure import write  # matplotlib, which is slow to import

    with replacing(options.out.with_suffix(".png")) as temporary:
        write(document, temporary)
    print(f"{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
