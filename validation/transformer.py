"""A small transformer that counts symbols, by content or by position.

The task is the histogram: for each position of a sequence, how often its symbol occurs in it.  The
network is one layer of dot-product attention and a perceptron, with model dimension d and the rows
x_i = e[symbol_i] + p[i]::

    A = softmax((x Q)(x K)^T / sqrt(d)),   y = LayerNorm(A x V),   logits = relu(y W + w) U + u

There is no residual connection: all that the last layers learn of a sequence goes through A.  A
mechanism is a restriction of the weights (:func:`trainable`): scores that see only the symbols, or
only the positions.  Symbols live in the first half of the d coordinates and positions in the
second, and the rows of Q and K that would read the other half are held at zero.  The values see
the whole of x under either mechanism, or nothing could be counted.  So both are points of one
loss, that of the network without restriction.

Sizes, starts and Adam's constants are those of the experiment published with arXiv:2402.03902.
Derivatives are written by hand, and the arrays are 32-bit: a step takes about two thirds of what it
takes with 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DIMENSION",
    "LENGTH",
    "MECHANISMS",
    "Mechanism",
    "SYMBOLS",
    "Score",
    "Sequences",
    "Shares",
    "attention",
    "attention_distance",
    "count",
    "draw_sequences",
    "evaluate",
    "initial_weights",
    "loss_and_gradient",
    "parts",
    "predict",
    "score_shares",
    "segment_losses",
    "train",
    "trainable",
]

SYMBOLS, LENGTH, DIMENSION, HIDDEN = 15, 10, 64, 128
MECHANISMS = ("positional", "semantic")
Mechanism = Literal["positional", "semantic", "both"]

#: Shapes of the weights, in the order in which they lie in one vector.
SHAPES: dict[str, tuple[int, ...]] = {
    "symbols": (SYMBOLS, DIMENSION),
    "positions": (LENGTH, DIMENSION),
    "query": (DIMENSION, DIMENSION),
    "key": (DIMENSION, DIMENSION),
    "value": (DIMENSION, DIMENSION),
    "gain": (DIMENSION,),
    "shift": (DIMENSION,),
    "hidden": (DIMENSION, HIDDEN),
    "hidden_bias": (HIDDEN,),
    "output": (HIDDEN, LENGTH),
    "output_bias": (LENGTH,),
}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())

#: What LayerNorm adds to the variance.
EPSILON = 1e-5
BATCH = 32
#: Adam: decay of the two moments, and what is added to the root of the second.
BETAS, ADAM_EPSILON = (0.9, 0.98), 1e-9
#: Sequences evaluated at a time.
_CHUNK = 2000


def _indicators() -> NDArray[np.float32]:
    """For each symbol and position the row that picks both from the stacked embeddings.

    Shape (SYMBOLS, LENGTH, SYMBOLS + LENGTH).
    """
    rows = np.zeros((SYMBOLS, LENGTH, SYMBOLS + LENGTH), dtype=np.float32)
    rows[:, :, :SYMBOLS] = np.eye(SYMBOLS)[:, None]
    rows[:, :, SYMBOLS:] = np.eye(LENGTH)
    return rows


INDICATORS = _indicators()


class Sequences(NamedTuple):
    """Inputs and targets, integers of shape (n, LENGTH)."""

    symbols: NDArray[np.int64]
    counts: NDArray[np.int64]

    def take(self, which: slice | NDArray[np.int64]) -> Sequences:
        """Some of the sequences."""
        return Sequences(self.symbols[which], self.counts[which])


class Score(NamedTuple):
    """Mean cross-entropy, in nats a position, and the fraction of positions that are right."""

    loss: float
    accuracy: float


class Shares(NamedTuple):
    """Parts of the variance of the attention scores; they sum to 1."""

    semantic: float
    positional: float
    mixed: float


def count(symbols: NDArray[np.int64]) -> NDArray[np.int64]:
    """The target: how often the symbol at each position occurs in its sequence."""
    return (symbols[:, :, None] == symbols[:, None, :]).sum(axis=-1)


def draw_sequences(number: int, seed: int) -> Sequences:
    """`number` sequences of independent, equally likely symbols."""
    symbols = np.random.default_rng(seed).integers(0, SYMBOLS, (number, LENGTH))
    return Sequences(symbols, count(symbols))


def parts(weights: NDArray) -> dict[str, NDArray]:
    """Views of the vector of all weights, by the names and with the shapes of ``SHAPES``."""
    views = {}
    first = 0
    for name, shape in SHAPES.items():
        views[name] = weights[first : first + math.prod(shape)].reshape(shape)
        first += math.prod(shape)
    return views


def initial_weights(seed: int, dtype: type = np.float32) -> NDArray:
    """Random weights: normal embeddings, all others uniform within 1/sqrt(inputs)."""
    rng = np.random.default_rng(seed)
    weights = np.empty(SIZE, dtype=dtype)
    inputs = {"output": HIDDEN, "output_bias": HIDDEN}
    for name, view in parts(weights).items():
        if name in ("symbols", "positions"):
            view[:] = rng.standard_normal(view.shape)
        elif name in ("gain", "shift"):
            view[:] = name == "gain"
        else:
            view[:] = rng.uniform(-1, 1, view.shape) / math.sqrt(inputs.get(name, DIMENSION))
    return weights


def trainable(mechanism: Mechanism) -> NDArray[np.bool_]:
    """Which weights a mechanism may use; it holds the others at zero.

    ``positional`` and ``semantic`` keep symbols in the first half of the coordinates and positions
    in the second, and let Q and K read only one of the halves; ``both`` uses all.
    """
    if mechanism not in (*MECHANISMS, "both"):
        raise ValueError(f"mechanism must be 'positional', 'semantic' or 'both', got {mechanism!r}")
    free = np.ones(SIZE, dtype=bool)
    if mechanism != "both":
        half = DIMENSION // 2
        views = parts(free)
        views["symbols"][:, half:] = False
        views["positions"][:, :half] = False
        unread = slice(None, half) if mechanism == "positional" else slice(half, None)
        views["query"][unread] = False
        views["key"][unread] = False
    return free


class _Pass(NamedTuple):
    """What a forward pass leaves for the gradient; N = n * LENGTH rows."""

    stacked: NDArray  # embeddings of the symbols, then of the positions (25, d)
    rows: NDArray  # indicators Z of the sequences, x = Z stacked (n, LENGTH, 25)
    queries: NDArray  # (25, d)
    keys: NDArray  # (25, d)
    values: NDArray  # (25, d)
    attention: NDArray  # (n, LENGTH, LENGTH)
    mixture: NDArray  # A Z (N, 25)
    scale: NDArray  # 1/standard deviation of LayerNorm (N, 1)
    normal: NDArray  # normalised rows (N, d)
    scaled: NDArray  # the same times gain, plus shift (N, d)
    hidden: NDArray  # (N, HIDDEN)
    logits: NDArray  # (N, LENGTH)


def _forward(weights: NDArray, symbols: NDArray[np.int64]) -> _Pass:
    """The network; Q, K and V act on the 25 embeddings, before rows of these are picked."""
    w = parts(weights)
    stacked = np.concatenate([w["symbols"], w["positions"]])
    rows = INDICATORS.astype(weights.dtype, copy=False)[symbols, np.arange(LENGTH)]
    queries, keys, values = (stacked @ w[name] for name in ("query", "key", "value"))
    A = _softmax(_scores(queries, keys, rows))
    mixture = (A @ rows).reshape(-1, rows.shape[-1])
    normal = mixture @ values
    normal -= normal.mean(axis=-1, keepdims=True)
    variance = np.einsum("nd,nd->n", normal, normal)[:, None] / DIMENSION
    scale = 1 / np.sqrt(variance + EPSILON)
    normal *= scale
    scaled = normal * w["gain"] + w["shift"]
    hidden = np.maximum(scaled @ w["hidden"] + w["hidden_bias"], 0)
    logits = hidden @ w["output"] + w["output_bias"]
    return _Pass(
        stacked, rows, queries, keys, values, A, mixture, scale, normal, scaled, hidden, logits
    )


def _scores(queries: NDArray, keys: NDArray, rows: NDArray) -> NDArray:
    """``(x Q)(x K)^T / sqrt(d)`` for all sequences."""
    table = queries @ keys.T / math.sqrt(DIMENSION)
    return (rows @ table) @ rows.transpose(0, 2, 1)


def _softmax(values: NDArray) -> NDArray:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


def attention(weights: NDArray, symbols: NDArray[np.int64]) -> NDArray:
    """The attention matrices A of some sequences, shape (n, LENGTH, LENGTH)."""
    return _forward(weights, symbols).attention


def loss_and_gradient(weights: NDArray, sequences: Sequences) -> tuple[float, NDArray]:
    """Mean cross-entropy over all positions, and its gradient, a vector like `weights`."""
    w = parts(weights)
    seen = _forward(weights, sequences.symbols)
    right = (np.arange(len(seen.logits)), sequences.counts.ravel() - 1)
    logits = seen.logits - seen.logits.max(axis=-1, keepdims=True)
    errors = np.exp(logits)
    total = errors.sum(axis=-1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - logits[right]))
    errors /= total
    errors[right] -= 1
    errors /= len(errors)

    gradient = np.empty_like(weights)
    g = parts(gradient)
    g["output"][:] = seen.hidden.T @ errors
    g["output_bias"][:] = errors.sum(axis=0)
    errors = (errors @ w["output"].T) * (seen.hidden > 0)
    g["hidden"][:] = seen.scaled.T @ errors
    g["hidden_bias"][:] = errors.sum(axis=0)
    errors = errors @ w["hidden"].T
    g["shift"][:] = errors.sum(axis=0)
    along = errors * seen.normal
    g["gain"][:] = along.sum(axis=0)
    # LayerNorm: what is left of the errors orthogonal to the constant row and to the row itself
    errors *= w["gain"]
    along = errors * seen.normal
    errors -= errors.mean(axis=-1, keepdims=True)
    errors -= seen.normal * along.mean(axis=-1, keepdims=True)
    errors *= seen.scale

    by_value = seen.mixture.T @ errors
    by_attention = (errors @ seen.values.T).reshape(seen.rows.shape)
    by_attention = by_attention @ seen.rows.transpose(0, 2, 1)
    inner = np.einsum("nij,nij->ni", by_attention, seen.attention)[:, :, None]
    by_score = seen.attention * (by_attention - inner)
    flat = (-1, seen.rows.shape[-1])
    by_table = seen.rows.reshape(flat).T @ (by_score @ seen.rows).reshape(flat)
    by_table /= math.sqrt(DIMENSION)
    by_query, by_key = by_table @ seen.keys, by_table.T @ seen.queries
    by_embedding = np.zeros_like(seen.stacked)
    for name, change in (("query", by_query), ("key", by_key), ("value", by_value)):
        g[name][:] = seen.stacked.T @ change
        by_embedding += change @ w[name].T
    g["symbols"][:] = by_embedding[:SYMBOLS]
    g["positions"][:] = by_embedding[SYMBOLS:]
    return loss, gradient


def predict(weights: NDArray, symbols: NDArray[np.int64]) -> NDArray[np.int64]:
    """The likeliest count at each position, shape (n, LENGTH)."""
    return _forward(weights, symbols).logits.argmax(axis=-1).reshape(symbols.shape) + 1


def evaluate(weights: NDArray, sequences: Sequences) -> Score:
    """Loss and accuracy over all the sequences."""
    loss = right = 0.0
    for first in range(0, len(sequences.symbols), _CHUNK):
        some = sequences.take(slice(first, first + _CHUNK))
        logits = _forward(weights, some.symbols).logits.astype(float)
        classes = some.counts.ravel() - 1
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = logits[np.arange(len(classes)), classes]
        loss += float(np.sum(np.log(np.exp(logits).sum(axis=-1)) - chosen))
        right += float(np.sum(logits.argmax(axis=-1) == classes))
    return Score(loss / sequences.symbols.size, right / sequences.symbols.size)


def train(
    weights: NDArray,
    mechanism: Mechanism,
    sequences: Sequences,
    steps: int,
    optimizer: Literal["adam", "sgd"] = "adam",
    rate: float = 1e-3,
    seed: int = 0,
    watch: Callable[[int, NDArray], None] | None = None,
    every: int = 1000,
    cooling: int = 0,
) -> NDArray:
    """Train the weights of a mechanism; those that it does not use are set to zero.

    Parameters
    ----------
    weights : ndarray
        Where to begin; not changed.
    mechanism : {"positional", "semantic", "both"}
        Which weights are trained (:func:`trainable`).
    sequences : Sequences
        The training set; each of its batches of 32 is used once an epoch.
    steps : int
        Batches.
    optimizer : {"adam", "sgd"}
        Adam, or plain descent on each batch.
    rate : float
        Learning rate.
    seed : int
        Of the order of the sequences.
    watch : callable, optional
        Called with the number of steps done and the weights, after each `every` steps.
    cooling : int
        Over how many steps, the last ones, the rate falls to zero, linearly.  At a constant rate
        of Adam the loss never settles: accuracies jump between .96 and .999.

    Raises
    ------
    ValueError
        For an unknown mechanism or optimizer.
    """
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer must be 'adam' or 'sgd', got {optimizer!r}")
    free = trainable(mechanism)
    weights = np.where(free, weights, weights.dtype.type(0))
    held = None if free.all() else ~free
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    beta, beta2 = BETAS
    batches = _batches(len(sequences.symbols), np.random.default_rng(seed))
    for step in range(1, steps + 1):
        _, gradient = loss_and_gradient(weights, sequences.take(next(batches)))
        if held is not None:
            gradient[held] = 0
        now = rate * min(1.0, (steps + 1 - step) / (cooling + 1))
        if optimizer == "sgd":
            weights -= now * gradient
        else:
            first += (1 - beta) * (gradient - first)
            second += (1 - beta2) * (gradient * gradient - second)
            root = np.sqrt(second / (1 - beta2**step)) + ADAM_EPSILON
            weights -= now / (1 - beta**step) * first / root
        if watch is not None and step % every == 0:
            watch(step, weights)
    return weights


def _batches(number: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches in random order, epoch after epoch; a last one that is not full is left out."""
    if number < BATCH:
        raise ValueError(f"sequences must be at least {BATCH}, got {number}")
    while True:
        order = rng.permutation(number)
        for first in range(0, number - BATCH + 1, BATCH):
            yield order[first : first + BATCH]


def score_shares(weights: NDArray) -> Shares:
    """What the attention scores depend on: the symbols, the positions, or one of each.

    The score of a query (symbol s, position i) and a key (t, j), less its mean over keys, which the
    softmax does not see, is a sum of functions of (s, t), of (i, j), and of (s, j) and (i, t).
    These are orthogonal when all are equally likely, as they are in the data but for i = j.
    """
    w = parts(weights.astype(float))
    stacked = np.concatenate([w["symbols"], w["positions"]])
    table = (stacked @ w["query"]) @ (stacked @ w["key"]).T
    rows = INDICATORS.reshape(-1, SYMBOLS + LENGTH).astype(float)
    scores = (rows @ table @ rows.T).reshape(SYMBOLS, LENGTH, SYMBOLS, LENGTH)
    scores -= scores.mean(axis=(2, 3), keepdims=True)
    total = np.mean(scores**2)
    semantic = float(np.mean(scores.mean(axis=(1, 3)) ** 2) / total)
    positional = float(np.mean(scores.mean(axis=(0, 2)) ** 2) / total)
    return Shares(semantic, positional, max(1 - semantic - positional, 0.0))


def attention_distance(a: NDArray, b: NDArray, symbols: NDArray[np.int64]) -> float:
    """Mean total variation between the rows of two networks' attention, from 0 to 1."""
    difference = np.abs(attention(a, symbols) - attention(b, symbols))
    return float(difference.sum(axis=-1).mean() / 2)


def segment_losses(
    a: NDArray, b: NDArray, sequences: Sequences, points: int = 21
) -> NDArray[np.float64]:
    """Losses at equal steps along the straight line from one network to another."""
    fractions = np.linspace(0, 1, points)
    between = ((1 - x) * a + x * b for x in fractions.astype(a.dtype))
    return np.array([evaluate(weights, sequences).loss for weights in between])
