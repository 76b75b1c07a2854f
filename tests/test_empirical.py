"""The finite-d task, its training, and the machinery of the first check."""

import json

import numpy as np
import pytest

from gamp_theory.empirical import measure
from gamp_theory.empirical.task import DEFAULT_MEMORY_LIMIT, draw_task, position_square
from gamp_theory.empirical.training import TrainingStatus, train
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from validation import first_check

MODEL = AttentionModel.mixture(omega=0.3, sigma=0.5)
LAM = 0.01


class Twin:
    """The problem written out: sentences, attention matrices and outputs of size n x L x d."""

    def __init__(self, x, teacher, model, lam):
        self.x, self.teacher, self.model, self.lam = x, teacher, model, lam
        self.d = x.shape[2]
        self.p = np.array([np.full(self.d, c / np.sqrt(self.d)) for c in (1.0, -1.0)])
        omega, A = model.omega, np.array(model.target.A)
        self.T = (1 - omega) * self.softmax(x @ teacher / np.sqrt(self.d)) + omega * A
        self.y = np.einsum("nij,njd->nid", self.T, x)

    @classmethod
    def of(cls, task):
        p = np.array([1.0, -1.0])[:, None] / np.sqrt(task.d)
        return cls(np.sqrt(task.d) * task.tokens - p, task.teacher, task.model, task.lam)

    @staticmethod
    def softmax(h):
        weights = np.exp(np.einsum("ni,nj->nij", h, h))
        return weights / np.einsum("nij->ni", weights)[:, :, None]

    def residual(self, Q):
        z = self.x + self.p
        S = self.softmax(z @ Q / np.sqrt(self.d))
        return self.y - np.einsum("nij,njd->nid", S, z)

    def risk(self, Q):
        return (
            np.einsum("nid,nid->", *2 * [self.residual(Q)]) / (2 * self.d) + self.lam * (Q @ Q) / 2
        )

    def test_error_terms(self, Q):
        return np.einsum("nid,nid->n", *2 * [self.residual(Q)]) / (2 * self.d)

    def gradient(self, Q):
        """Term by term: dS_ij/dh_k, then dh_k/dQ; tensors of size n x L^3 and n x L x d."""
        z = self.x + self.p
        h = z @ Q / np.sqrt(self.d)
        S = self.softmax(h)
        one = np.eye(2)
        # scores a_ij = h_i h_j;  da_ij/dh_k;  dS_ij/da_il = S_ij (delta_jl - S_il)
        da = np.einsum("ik,nj->nijk", one, h) + np.einsum("jk,ni->nijk", one, h)
        dS = np.einsum("nij,nijk->nijk", S, da) - np.einsum("nij,nil,nilk->nijk", S, S, da)
        df = np.einsum("nijk,njd->nikd", dS, z)
        dh = np.einsum("nid,nikd->nk", -self.residual(Q), df) / self.d
        return np.einsum("nk,nkd->d", dh, z) / np.sqrt(self.d) + self.lam * Q


@pytest.fixture(scope="module")
def small():
    return draw_task(MODEL, d=20, alpha=1.5, lam=LAM, seed=3)


@pytest.fixture(scope="module")
def trained():
    task = draw_task(MODEL, d=200, alpha=1.5, lam=LAM, seed=(5, 0))
    return task, train(task, "semantic")


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(
    "model", [MODEL, AttentionModel.mixture(0.7, 1.2, [[0.9, 0.1], [0.3, 0.7]])]
)
def test_risk_and_gradient_are_those_of_the_twin(model, scale):
    task = draw_task(model, d=20, alpha=1.5, lam=LAM, seed=3)
    twin = Twin.of(task)
    Q = scale * np.random.default_rng(0).standard_normal(20)
    risk, gradient = task.risk_and_gradient(Q)
    np.testing.assert_allclose(risk, twin.risk(Q), rtol=1e-12)
    expected = twin.gradient(Q)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert task.risk(Q) == risk


def test_gradient_is_the_derivative_of_the_risk(small):
    Q = np.random.default_rng(1).standard_normal(20)
    gradient = small.risk_and_gradient(Q)[1]
    step = 2e-3

    def difference(k):
        shifts = [s * step * np.eye(20)[k] for s in (1, 2, 3)]
        odd = [small.risk(Q + e) - small.risk(Q - e) for e in shifts]
        return (45 * odd[0] - 9 * odd[1] + odd[2]) / (60 * step)  # error of order step^6

    expected = np.array([difference(k) for k in range(20)])
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_risk_is_even(small):
    Q = np.random.default_rng(2).standard_normal(20)
    there, back = small.risk_and_gradient(Q), small.risk_and_gradient(-Q)
    np.testing.assert_allclose(there[0], back[0], rtol=1e-14)
    np.testing.assert_allclose(there[1], -back[1], rtol=1e-14)


def test_risk_of_no_student_is_that_of_uniform_attention(small):
    twin = Twin.of(small)
    mean = np.broadcast_to(twin.x.mean(axis=1, keepdims=True), twin.x.shape)
    expected = np.sum((twin.y - mean) ** 2) / (2 * 20)  # positions cancel in the mean
    np.testing.assert_allclose(small.risk(np.zeros(20)), expected, rtol=1e-12)
    assert np.all(small.risk_and_gradient(np.zeros(20))[1] == 0)


def test_fields_and_overlaps(small):
    Q = np.random.default_rng(4).standard_normal(20)
    twin = Twin.of(small)
    np.testing.assert_allclose(small.fields(Q), (twin.x + twin.p) @ Q / np.sqrt(20), rtol=1e-12)
    q, m, theta = small.overlaps(Q)
    np.testing.assert_allclose(q, 0.25 * Q @ Q / 20)
    np.testing.assert_allclose(m, Q @ twin.p[0] / np.sqrt(20))
    np.testing.assert_allclose(theta, 0.25 * Q @ small.teacher / 20)
    assert small.overlaps(-Q) == (q, -m, -theta)


def test_draw_has_the_law_it_claims():
    task = draw_task(AttentionModel.mixture(sigma=0.8), d=400, alpha=1.25, lam=0.0, seed=0)
    x = Twin.of(task).x
    assert x.shape == (500, 2, 400)
    assert (task.n, task.d, task.alpha) == (500, 400, 1.25)
    # Four standard errors of mean and variance over all entries, and of the token correlation.
    assert abs(x.mean()) < 4 * 0.8 / np.sqrt(x.size)
    assert abs(x.var() / 0.64 - 1) < 4 * np.sqrt(2 / x.size)
    assert abs(np.mean(x[:, 0] * x[:, 1])) < 4 * 0.64 / np.sqrt(x.size / 2)
    assert abs(np.var(task.teacher) - 1) < 4 * np.sqrt(2 / 400)
    assert abs(np.mean(task.random_start() * task.teacher)) < 4 / np.sqrt(400)


def test_seeds():
    def draw(**changes):
        return draw_task(MODEL, **{"d": 30, "alpha": 1.0, "lam": LAM, "seed": 7} | changes)

    task, again = draw(), draw()
    assert np.array_equal(task.tokens, again.tokens)
    assert np.array_equal(task.teacher, again.teacher)
    assert np.array_equal(task.random_start(), again.random_start())
    assert task.test_error(task.teacher, 50) == again.test_error(task.teacher, 50)
    for seed in (8, (7, 1), [1, 7]):
        assert not np.allclose(task.tokens, draw(seed=seed).tokens)
    # More sentences, another target: the same teacher and the same first sentences.
    more = draw(alpha=2.0)
    assert np.array_equal(more.teacher, task.teacher)
    assert np.array_equal(more.tokens[:30], task.tokens)


def test_draw_does_not_depend_on_the_blocks(small, monkeypatch):
    monkeypatch.setattr("gamp_theory.empirical.task._BLOCK_BYTES", 7 * 8 * 2 * 20)
    blocks = draw_task(MODEL, d=20, alpha=1.5, lam=LAM, seed=3)
    assert np.array_equal(blocks.tokens, small.tokens)
    np.testing.assert_allclose(blocks.gram, small.gram, rtol=1e-13)
    np.testing.assert_allclose(blocks.target_square, small.target_square, rtol=1e-13)


def test_single_precision_rounds_the_same_draw(small):
    single = draw_task(MODEL, d=20, alpha=1.5, lam=LAM, seed=3, dtype="float32")
    assert single.tokens.dtype == np.float32
    assert single.tokens.nbytes == small.tokens.nbytes / 2
    assert np.array_equal(single.tokens, small.tokens.astype(np.float32))
    assert np.array_equal(single.cross, small.cross)
    Q = np.random.default_rng(0).standard_normal(20)
    risk, gradient = single.risk_and_gradient(Q)
    expected_risk, expected = small.risk_and_gradient(Q)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(risk, expected_risk, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_ten_thousand_dimensions_fit_by_default():
    """Seen without allocating: one sentence ratio up is refused with the number of bytes."""
    with pytest.raises(ValueError, match=r"need 1.6[0-9]e\+09 bytes, more than memory_limit = 1"):
        draw_task(MODEL, 10_000, 2.0, LAM, 0, dtype="float32", memory_limit=1e9)
    assert 1.7e9 < DEFAULT_MEMORY_LIMIT < 8e9


def test_bias_free_task_is_the_twin_with_exact_second_moments():
    task = draw_task(MODEL, d=20, alpha=1.5, lam=LAM, seed=3, bias_free=True)
    twin = Twin.of(task)
    np.testing.assert_allclose(task.teacher @ task.teacher, 20, rtol=1e-14)
    assert abs(task.teacher.sum()) < 1e-13
    np.testing.assert_allclose(task.teacher_fields, twin.x @ task.teacher / np.sqrt(20), atol=1e-14)
    Q = np.random.default_rng(4).standard_normal(20)

    def risk(Q):
        S = twin.softmax((twin.x + twin.p) @ Q / np.sqrt(20))
        return 0.5 * 0.25 * np.sum((twin.T - S) ** 2) + LAM * Q @ Q / 2

    value, gradient = task.risk_and_gradient(Q)
    np.testing.assert_allclose(value, risk(Q), rtol=1e-12)
    step = 1e-4 * np.eye(20)
    expected = [(risk(Q + e) - risk(Q - e)) / 2e-4 for e in step]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-7 * np.abs(gradient).max())
    fresh = task.test_error(Q, samples=20_000)
    assert fresh.position_square == task.position_square(Q) == 0
    x = 0.5 * np.random.default_rng(7).standard_normal((20_000, 2, 20))
    other = Twin(x, task.teacher, MODEL, LAM)
    S = twin.softmax((other.x + other.p) @ Q / np.sqrt(20))
    expected = measure.mean_and_stderr(0.25 * np.sum((other.T - S) ** 2, axis=(1, 2)) / 2)
    assert abs(measure.z_score(fresh.value, fresh.stderr, *expected[:2])) < 4


def test_transposed_is_the_adjoint_of_the_fields(small):
    rng = np.random.default_rng(5)
    Q, u = rng.standard_normal(20), rng.standard_normal((30, 2))
    np.testing.assert_allclose(small.transposed(u) @ Q, np.sum(u * small.fields(Q)), rtol=1e-12)


def test_task_is_read_only(small):
    with pytest.raises(ValueError, match="read-only"):
        small.tokens[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        small.teacher[0] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": 1}, "d must be at least 2, got 1"),
        ({"d": 10.5}, "d must be an integer, got 10.5"),
        ({"alpha": 0}, "alpha must be positive, got 0"),
        ({"alpha": float("nan")}, "alpha must be finite, got nan"),
        ({"alpha": "many"}, "alpha must be a number, got 'many'"),
        ({"alpha": 0.01}, "alpha\\*d must round to 1 sentence or more, got alpha\\*d = 0.2"),
        ({"lam": -1}, "lam must be >= 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": ()}, "seed must not be empty"),
        ({"seed": "a"}, "seed must be an integer, got 'a'"),
        ({"d": 10**6}, "need 2.4e\\+13 bytes, more than memory_limit = 4.29e\\+09"),
        ({"memory_limit": 1e4}, "need 4.08e\\+04 bytes, more than memory_limit = 1e\\+04"),
        ({"dtype": "float16"}, "dtype must be one of .* got 'float16'"),
    ],
)
def test_bad_draws_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        draw_task(MODEL, **{"d": 20, "alpha": 1.5, "lam": LAM, "seed": 0} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "warm"}, "start must be one of .* got 'warm'"),
        ({"start": np.ones(3)}, "shape \\(20,\\), got \\(3,\\)"),
        ({"start": np.full(20, np.nan)}, "start must be finite"),
        ({"optimizer": "sgd"}, "optimizer must be one of .* got 'sgd'"),
        ({"gradient_tol": 0}, "gradient_tol must be positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
    ],
)
def test_bad_trainings_are_refused(small, change, message):
    with pytest.raises(ValueError, match=message):
        train(small, **change)


def test_bad_students_are_refused(small):
    for call in (small.risk, small.risk_and_gradient, small.overlaps, small.fields):
        with pytest.raises(ValueError, match="Q must have shape \\(20,\\), got \\(2, 20\\)"):
            call(np.ones((2, 20)))
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        small.test_error(np.ones(20), samples=1)


@pytest.mark.parametrize("start", ["semantic", "positional", "random"])
def test_training_ends_at_a_minimum(trained, start):
    task, _ = trained
    student = train(task, start)
    assert student.status is TrainingStatus.converged
    assert student.start == start
    gradient = task.risk_and_gradient(student.Q)[1]
    assert student.gradient_norm == np.abs(gradient).max() <= student.gradient_tol
    assert student.train_loss == task.risk(student.Q) / task.d
    assert (student.q, student.m, student.theta) == task.overlaps(student.Q)
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert task.risk(student.Q + 1e-2 * rng.standard_normal(task.d)) > task.risk(student.Q)


def test_informed_starts_find_their_branches(trained):
    task, semantic = trained
    positional = train(task, "positional")
    assert semantic.theta > 5 * abs(positional.theta)
    assert positional.m > 2 * abs(semantic.m)


def test_training_respects_the_sign_symmetry(trained):
    task, student = trained
    mirrored = train(task, -task.teacher)
    assert mirrored.start == "array"
    np.testing.assert_allclose(mirrored.train_loss, student.train_loss, rtol=1e-10)
    np.testing.assert_allclose(mirrored.theta, -student.theta, rtol=1e-5)


def test_training_says_how_it_ended(trained):
    task, student = trained
    results = {
        "converged": student,
        "iteration_limit": train(task, "semantic", max_iterations=2),
        "line_search_failed": train(task, "semantic", gradient_tol=1e-300),
        "non_finite": train(task, np.full(task.d, 1e200)),
    }
    assert set(results) == set(TrainingStatus)
    for token, result in results.items():
        assert result.status == token
        assert result.message == TrainingStatus(token).sentence
    assert results["iteration_limit"].iterations == 2
    # What rounding stops has nearly converged.
    assert results["line_search_failed"].gradient_norm < 1e-7


def test_test_error_is_that_of_the_twin():
    task = draw_task(MODEL, d=20, alpha=1.5, lam=LAM, seed=3)
    Q = np.random.default_rng(6).standard_normal(20)
    fresh = task.test_error(Q, samples=40_000)
    x = 0.5 * np.random.default_rng(7).standard_normal((40_000, 2, 20))
    twin = Twin(x, task.teacher, MODEL, LAM)
    expected = measure.mean_and_stderr(twin.test_error_terms(Q))
    assert abs(measure.z_score(fresh.value, fresh.stderr, *expected[:2])) < 4
    np.testing.assert_allclose(fresh.stderr, expected.stderr, rtol=0.05)
    S = Twin.softmax((x + twin.p) @ Q / np.sqrt(20))
    leaks = np.sum(np.einsum("nij,jd->nid", S, twin.p) ** 2, axis=(1, 2))
    expected = measure.mean_and_stderr(leaks)
    assert abs(fresh.position_square - expected.mean) < 4 * np.sqrt(2) * expected.stderr


def test_test_error_does_not_depend_on_the_blocks(small, monkeypatch):
    whole = small.test_error(small.teacher, samples=1000)
    monkeypatch.setattr("gamp_theory.empirical.task._BLOCK_BYTES", 7 * 8 * 2 * 20)
    blocks = small.test_error(small.teacher, samples=1000)
    np.testing.assert_allclose(blocks, whole, rtol=1e-12)


def test_position_square_in_contrasts(small):
    Q = np.random.default_rng(8).standard_normal(20)
    S = MODEL.student.matrix(small.fields(Q)[..., None])
    expected = np.sum(softmax_contrasts(small.fields(Q)) ** 2, axis=-1)
    np.testing.assert_allclose(position_square(S, (1.0, -1.0)), expected, rtol=1e-11)
    np.testing.assert_allclose(small.position_square(Q), expected.mean(), rtol=1e-11)


def test_biases():
    assert measure.train_loss_bias(0.04, alpha=1.5, d=1000) == pytest.approx(3e-5)
    assert measure.test_error_bias(0.04, d=1000) == pytest.approx(2e-5)


def test_mean_and_stderr():
    mean, stderr, instances = measure.mean_and_stderr([1.0, 2.0, 3.0, 6.0])
    assert (mean, instances) == (3.0, 4)
    assert stderr == pytest.approx(np.sqrt(14 / 3) / 2)
    with pytest.raises(ValueError, match="two numbers or more"):
        measure.mean_and_stderr([1.0])


def test_z_score():
    assert measure.z_score(3.0, 0.3, 2.0, 0.4) == pytest.approx(2.0)
    assert np.isnan(measure.z_score(np.nan, 0.3, 2.0, 0.0))
    for errors in ((0.0, 0.0), (-1.0, 0.0), (0.1, -1.0)):
        with pytest.raises(ValueError, match="not both 0"):
            measure.z_score(1.0, errors[0], 1.0, errors[1])


# The state evolution at alpha = 1.5, semantic (docs/theory.md, section 5): the machinery of the
# check is tested here without the solver.
SEMANTIC = {
    "q": (0.0939554, 1e-6),
    "theta": (0.134547, 1e-6),
    "train_loss": (0.00305369, 3e-8),
    "test_error": (0.00196067, 2e-8),
}


def test_first_check_passes_on_the_truth(monkeypatch, capsys):
    monkeypatch.setattr(first_check, "theory_values", lambda *arguments: SEMANTIC)
    arguments = ["--d", "300", "--instances", "4"]
    assert first_check.main([*arguments, "--jobs", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "agree"
    assert report["degrees_of_freedom"] == 3
    assert list(report["comparison"]) == list(SEMANTIC)
    for row in report["comparison"].values():
        z = measure.z_score(row["simulation"], row["stderr"], row["theory"], row["theory_error"])
        assert z == pytest.approx(row["z"])
    losses = [i["train_loss"] - i["train_loss_bias"] for i in report["instances"]]
    assert report["comparison"]["train_loss"]["simulation"] == pytest.approx(np.mean(losses))
    assert len({tuple(i["seed"]) for i in report["instances"]}) == 4

    # The table, on one worker: the same numbers.
    assert first_check.main([*arguments, "--jobs", "1"]) == 0
    table = capsys.readouterr().out
    assert "Student's t with 3 degrees of freedom" in table
    for row in report["comparison"].values():
        assert f"{row['z']:.2f}" in table


def test_first_check_fails_on_a_wrong_theory(monkeypatch, capsys):
    wrong = SEMANTIC | {"theta": (0.3, 1e-6), "q": (float("nan"), 0.0)}
    monkeypatch.setattr(first_check, "theory_values", lambda *arguments: wrong)
    assert first_check.main(["--d", "200", "--instances", "4", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["message"]) == ("disagree", "|z| > 4 for q, theta")
    assert report["comparison"]["q"]["theory"] is None


def test_first_check_fails_on_an_unfinished_instance(monkeypatch, capsys):
    def stop_early(task, start):
        return train(task, start, max_iterations=1 if task.seed == (0, 1) else 5000)

    monkeypatch.setattr(first_check, "theory_values", lambda *arguments: SEMANTIC)
    monkeypatch.setattr(first_check, "train", stop_early)
    assert first_check.main(["--d", "100", "--instances", "3"]) == 1
    assert "1 of 3 instances did not converge: [[0, 1]]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--alpha", "nan"], ["--alpha", "0"], ["--d", "1"], ["--instances", "1"]]
)
def test_first_check_refuses_bad_input(arguments, capsys):
    assert first_check.main(arguments) == 2
    captured = capsys.readouterr()
    assert arguments[0].strip("-") in captured.err
    assert captured.out == ""


def test_first_check_takes_its_theory_from_the_solver():
    found = first_check.theory_values(AttentionModel.mixture(), 1.5, 0.01, "semantic")
    assert found.keys() == SEMANTIC.keys()
    for name, (value, error) in found.items():
        assert value == pytest.approx(SEMANTIC[name][0], rel=5e-5)
        assert 0 < error < 1e-5 * value
