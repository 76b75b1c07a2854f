"""The transformer that counts: derivatives, target, masks, training."""

from collections import Counter

import numpy as np
import pytest

from validation.transformer import (
    ADAM_EPSILON,
    BATCH,
    BETAS,
    DIMENSION,
    EPSILON,
    LENGTH,
    MECHANISMS,
    SHAPES,
    SIZE,
    SYMBOLS,
    Sequences,
    attention,
    attention_distance,
    count,
    draw_sequences,
    evaluate,
    initial_weights,
    loss_and_gradient,
    parts,
    predict,
    score_shares,
    segment_losses,
    train,
    trainable,
)


def masked(mechanism, seed=0, dtype=np.float64):
    return np.where(trainable(mechanism), initial_weights(seed, dtype), dtype(0))


def naive_forward(weights, symbols):
    """Attention and logits of one sequence, written to be the formula."""
    w = parts(weights)
    x = np.array([w["symbols"][s] + w["positions"][i] for i, s in enumerate(symbols)])
    h = (x @ w["query"]) @ (x @ w["key"]).T / np.sqrt(DIMENSION)
    A = np.exp(h) / np.exp(h).sum(axis=1)[:, None]
    logits = []
    for row in A @ (x @ w["value"]):
        normal = (row - row.mean()) / np.sqrt(row.var() + EPSILON)
        y = normal * w["gain"] + w["shift"]
        hidden = np.maximum(y @ w["hidden"] + w["hidden_bias"], 0)
        logits.append(hidden @ w["output"] + w["output_bias"])
    return A, np.array(logits)


def test_the_target_is_how_often_each_symbol_occurs():
    sequences = draw_sequences(200, seed=0)
    assert sequences.symbols.shape == sequences.counts.shape == (200, LENGTH)
    assert set(np.unique(sequences.symbols)) == set(range(SYMBOLS))
    for symbols, counts in zip(*sequences, strict=True):
        occurs = Counter(symbols.tolist())
        assert counts.tolist() == [occurs[s] for s in symbols.tolist()]
    assert count(np.full((1, LENGTH), 3)).tolist() == [[LENGTH] * LENGTH]


def test_sequences_are_those_of_their_seed():
    first, again, other = (draw_sequences(20, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.symbols, again.symbols)
    assert (first.symbols != other.symbols).any()


def test_parts_are_views_that_share_out_the_vector():
    weights = np.zeros(SIZE)
    views = parts(weights)
    assert {name: view.shape for name, view in views.items()} == SHAPES
    for view in views.values():
        view += 1
    assert (weights == 1).all()


@pytest.mark.parametrize("mechanism", [*MECHANISMS, "both"])
def test_network_is_the_formula(mechanism):
    sequences = draw_sequences(7, seed=3)
    weights = masked(mechanism)
    A = attention(weights, sequences.symbols)
    losses, right = [], []
    for symbols, counts, matrix in zip(*sequences, A, strict=True):
        expected, logits = naive_forward(weights, symbols)
        np.testing.assert_allclose(matrix, expected, rtol=1e-12)
        for row, occurs in zip(logits, counts, strict=True):
            losses.append(-np.log(np.exp(row[occurs - 1]) / np.exp(row).sum()))
            right.append(np.argmax(row) + 1 == occurs)
    loss, _ = loss_and_gradient(weights, sequences)
    score = evaluate(weights, sequences)
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert score.loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert score.accuracy == np.mean(right)
    assert np.mean(predict(weights, sequences.symbols) == sequences.counts) == np.mean(right)


def test_evaluation_of_many_is_the_mean_over_all():
    sequences = draw_sequences(4500, seed=4)  # more than are evaluated at a time, and no multiple
    weights = masked("both")
    loss, _ = loss_and_gradient(weights, sequences)
    assert evaluate(weights, sequences).loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_gradient_of_each_part_is_that_of_differences(name):
    """In random directions, at random weights and after some training, where logits are large."""
    rng = np.random.default_rng(5)
    sequences = draw_sequences(12, seed=5)
    start = initial_weights(5, np.float64)
    trained = train(start, "semantic", draw_sequences(200, 6), 60, rate=5e-3)
    for weights in (start, trained + 0.1 * start):
        _, gradient = loss_and_gradient(weights, sequences)
        for _ in range(4):
            direction = np.zeros(SIZE)
            view = parts(direction)[name]
            view[:] = rng.standard_normal(view.shape)
            direction /= np.linalg.norm(direction)
            step = 1e-6
            above, below = (
                loss_and_gradient(weights + sign * step * direction, sequences)[0]
                for sign in (1, -1)
            )
            slope = (above - below) / (2 * step)
            # differences of a loss of order 1 are good to 1e-16/1e-6
            assert gradient @ direction == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_gradient_keeps_the_precision_of_the_weights():
    sequences = draw_sequences(32, seed=7)
    fine = masked("both", 7)
    loss, gradient = loss_and_gradient(fine.astype(np.float32), sequences)
    expected, exact = loss_and_gradient(fine, sequences)
    assert gradient.dtype == np.float32
    assert loss == pytest.approx(expected, rel=1e-5)
    assert np.linalg.norm(gradient - exact) < 1e-5 * np.linalg.norm(exact)


def test_no_logits_overflow():
    sequences = draw_sequences(20, seed=8)
    weights = initial_weights(8)
    parts(weights)["output"][:] *= 1e4
    loss, gradient = loss_and_gradient(weights, sequences)
    assert np.isfinite(loss)
    assert loss > 100
    assert np.isfinite(gradient).all()


def test_positional_scores_do_not_see_the_symbols():
    symbols = draw_sequences(30, seed=9).symbols
    positional = attention(masked("positional"), symbols)
    np.testing.assert_array_equal(positional, np.broadcast_to(positional[:1], positional.shape))
    both = attention(masked("both"), symbols)
    assert abs(both - both[:1]).max() > 0.01  # what is masked would make a difference


def test_semantic_scores_do_not_see_the_positions():
    symbols = draw_sequences(30, seed=10).symbols
    order = np.random.default_rng(10).permutation(LENGTH)
    weights = masked("semantic")
    moved = attention(weights, symbols[:, order])
    np.testing.assert_allclose(
        moved, attention(weights, symbols)[:, order][:, :, order], rtol=1e-12
    )
    alike = attention(weights, np.full((1, LENGTH), 4))
    np.testing.assert_allclose(alike, 1 / LENGTH, rtol=1e-12)
    both = attention(masked("both"), np.full((1, LENGTH), 4))
    assert abs(both - 1 / LENGTH).max() > 0.01


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_values_see_symbols_and_positions(mechanism):
    """Else nothing could be counted: the masks are of the scores."""
    _, gradient = loss_and_gradient(masked(mechanism), draw_sequences(40, seed=11))
    g = parts(np.where(trainable(mechanism), gradient, 0))
    half = DIMENSION // 2
    for block in (g["value"][:half], g["value"][half:], g["symbols"][:, :half]):
        assert np.linalg.norm(block) > 1e-4
    assert np.linalg.norm(g["positions"][:, half:]) > 1e-4


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_training_holds_what_a_mechanism_does_not_use_at_zero(mechanism, optimizer):
    start = initial_weights(12)
    before = start.copy()
    end = train(start, mechanism, draw_sequences(100, 12), 5, optimizer, rate=0.01)
    free = trainable(mechanism)
    assert (end[~free] == 0).all()
    assert (end[free] != start[free]).mean() > 0.9
    np.testing.assert_array_equal(start, before)
    shares = score_shares(end)
    assert getattr(shares, mechanism) == pytest.approx(1, abs=1e-12)


def test_a_seed_gives_the_same_weights_again():
    sequences = draw_sequences(200, seed=13)
    ends = [train(initial_weights(13), "both", sequences, 20, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert (ends[0] != ends[2]).any()
    assert (initial_weights(13) != initial_weights(14)).any()


def test_batches_use_each_sequence_once_an_epoch():
    """Steps of descent at a rate that changes nothing: the sum of gradients is that of all."""
    sequences = draw_sequences(3 * BATCH, seed=15)
    start = initial_weights(15, np.float64)
    rate = 1e-9
    change = (start - train(start, "both", sequences, 3, "sgd", rate)) / rate
    _, gradient = loss_and_gradient(start, sequences)
    np.testing.assert_allclose(change, 3 * gradient, atol=1e-5)


def test_adam_is_the_textbook():
    sequences = draw_sequences(BATCH, seed=16)  # one batch: every step has the same loss
    w = initial_weights(16, np.float64)
    got = train(w, "both", sequences, 4, "adam", rate=0.01)
    m = v = np.zeros(SIZE)
    for step in range(1, 5):
        _, g = loss_and_gradient(w, sequences)
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g**2
        m_hat, v_hat = m / (1 - BETAS[0] ** step), v / (1 - BETAS[1] ** step)
        w = w - 0.01 * m_hat / (np.sqrt(v_hat) + ADAM_EPSILON)
    # the order within the batch rounds otherwise, and a gradient near zero is divided by its size
    assert np.linalg.norm(got - w) < 1e-6 * np.linalg.norm(w)


def test_cooling_lets_the_rate_fall_to_zero():
    """Descent at a rate that changes nothing: steps of the same gradient, weighted by the rate."""
    sequences = draw_sequences(BATCH, seed=23)
    start = initial_weights(23, np.float64)
    rate = 1e-9
    change = (start - train(start, "both", sequences, 5, "sgd", rate, cooling=3)) / rate
    _, gradient = loss_and_gradient(start, sequences)
    np.testing.assert_allclose(change, (1 + 1 + 0.75 + 0.5 + 0.25) * gradient, atol=1e-5)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_both_mechanisms_learn_to_count(mechanism):
    training, test = draw_sequences(10_000, seed=17), draw_sequences(1000, seed=18)
    end = train(initial_weights(17), mechanism, training, 1000)
    assert (test.counts == 1).mean() < 0.6  # what a constant answer gets
    assert evaluate(end, test).accuracy > 0.9


def test_shares_of_scores_that_compare_symbols_with_positions():
    weights = initial_weights(19, np.float64)
    w = parts(weights)
    half = DIMENSION // 2
    w["symbols"][:, half:] = 0
    w["positions"][:, :half] = 0
    w["query"][half:] = 0
    w["key"][:half] = 0  # queries are of symbols, keys of positions
    w["positions"] -= w["positions"].mean(axis=0)
    w["symbols"] -= w["symbols"].mean(axis=0)  # else positions have favourites
    assert score_shares(weights).mixed == pytest.approx(1, abs=1e-12)


def test_shares_are_the_variances_over_all_pairs():
    """Against plain loops over queries and keys, and orthogonal as they say."""
    weights = initial_weights(20, np.float64)
    w = parts(weights)
    x = w["symbols"][:, None] + w["positions"]
    scores = np.einsum("sid,tjd->sitj", x @ w["query"], x @ w["key"])
    for s in range(SYMBOLS):
        for i in range(LENGTH):
            scores[s, i] -= scores[s, i].mean()
    semantic = np.var(scores.mean(axis=(1, 3)))
    positional = np.var(scores.mean(axis=(0, 2)))
    shares = score_shares(weights)
    assert shares.semantic == pytest.approx(semantic / np.var(scores), rel=1e-10)
    assert shares.positional == pytest.approx(positional / np.var(scores), rel=1e-10)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.1


def test_distance_of_attention_is_total_variation():
    symbols = draw_sequences(9, seed=21).symbols
    a, b = masked("positional"), masked("semantic")
    pairs = zip(attention(a, symbols), attention(b, symbols), strict=True)
    expected = np.mean(
        [[sum(abs(p - q)) / 2 for p, q in zip(*pair, strict=True)] for pair in pairs]
    )
    assert attention_distance(a, b, symbols) == pytest.approx(expected, rel=1e-12)
    assert attention_distance(a, a, symbols) == 0


def test_segment_ends_at_the_two_networks():
    sequences = draw_sequences(50, seed=22)
    a, b = masked("positional"), masked("semantic")
    losses = segment_losses(a, b, sequences, points=3)
    ends = [evaluate(w, sequences).loss for w in (a, (a + b) / 2, b)]
    np.testing.assert_allclose(losses, ends, rtol=1e-12)


def test_bad_input_is_named():
    sequences = draw_sequences(40, seed=0)
    with pytest.raises(ValueError, match=r"mechanism must be .*, got 'lexical'"):
        trainable("lexical")
    with pytest.raises(ValueError, match=r"optimizer must be .*, got 'newton'"):
        train(initial_weights(0), "both", sequences, 1, "newton")
    with pytest.raises(ValueError, match="sequences must be at least 32, got 31"):
        train(initial_weights(0), "both", Sequences(*(x[:31] for x in sequences)), 1)
