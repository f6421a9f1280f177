"""Attention over the tokens of an answer: it finds the one that tells, and is mean pooling where none stands out."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from src.errors import ScoringError
from src.probes import AttentionProbe, LinearProbe, TokenStates
from src.probes.attention import _Rows
from src.probes.refits import shuffled_predictions
from src.probes.states import Sample
from src.probes.sweep import ATTENTION, Part, Place, sweep_places
from src.probes.tokens import Tokens

D = 10


def planted(n=400, seed=0, told=3.0):
    """Answers of 3 to 12 tokens: one of them is marked in feature 0, and tells in feature 1 whether all is right."""
    rng = np.random.default_rng(seed)
    answer = np.repeat(np.arange(n), rng.integers(3, 13, n))
    states = rng.standard_normal((answer.size, D)).astype(np.float32)
    y = rng.integers(0, 2, n).astype(float)
    marked = [rng.choice(np.flatnonzero(answer == row)) for row in range(n)]
    states[marked, 0] += 5
    states[marked, 1] += told * (2 * y - 1)
    return TokenStates.of(states, answer), y


def means(tokens):
    return np.add.reduceat(tokens.states, tokens.begins, axis=0) / tokens.lengths[:, None]


def halves(tokens, y):
    n = len(tokens)
    first, second = np.arange(n // 2), np.arange(n // 2, n)
    return (tokens.only(first), y[first]), (tokens.only(second), y[second])


def test_attention_finds_the_token_that_tells_and_the_mean_does_less_well():
    tokens, y = planted()
    test, truth = planted(seed=1)
    train, val = halves(tokens, y)
    attention = AttentionProbe(D).fit(*train, *val)
    pooled = LinearProbe(D).fit(means(train[0]), train[1], means(val[0]), val[1])
    found = roc_auc_score(truth, attention.predict(test))
    assert found > 0.97
    assert found > roc_auc_score(truth, pooled.predict(means(test))) + 0.05
    assert attention.val_nll_ < pooled.val_nll_ - 0.1
    query = attention.weights_.query / attention.weights_.scale
    assert np.argmax(np.abs(query)) == 0


def test_answers_of_equal_tokens_are_read_as_by_the_probe_of_their_means():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, D)).astype(np.float32)
    y = (rng.random(200) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(float)
    lengths = rng.integers(1, 6, 200)
    tokens = TokenStates.of(np.repeat(X, lengths, axis=0), np.repeat(np.arange(200), lengths))
    attention, pooled = AttentionProbe(D).fit(tokens, y, groups=np.arange(200)), LinearProbe(D)
    pooled.fit(X, y, groups=np.arange(200))
    assert attention.C_ == pooled.C_
    assert np.abs(attention.weights_.query).max() < 1e-3
    np.testing.assert_allclose(attention.predict(tokens), pooled.predict(X), atol=1e-3)
    np.testing.assert_allclose(attention.out_of_fold_, pooled.out_of_fold_, atol=2e-3)


def test_the_order_of_the_tokens_changes_nothing_and_the_order_of_the_answers_only_theirs():
    tokens, y = planted(n=120)
    rng = np.random.default_rng(1)
    mixed = [row for a, b in zip(tokens.begins, tokens.ends, strict=True) for row in rng.permutation(np.arange(a, b))]
    expected = AttentionProbe(D).fit(tokens, y, groups=np.arange(120)).predict(tokens)
    within = TokenStates(tokens.states[mixed], tokens.ends)
    np.testing.assert_allclose(AttentionProbe(D).fit(within, y, groups=np.arange(120)).predict(within), expected,
                               atol=1e-3)  # fmt: skip
    order = rng.permutation(120)
    probe = AttentionProbe(D).fit(tokens, y, groups=np.arange(120))
    np.testing.assert_allclose(probe.predict(tokens.only(order)), expected[order], atol=1e-9)
    np.testing.assert_array_equal(AttentionProbe(D).fit(tokens, y, groups=np.arange(120)).predict(tokens), expected)


def test_what_is_minimised_only_gains_on_the_probe_of_the_means_and_its_gradient_is_right():
    tokens, y = planted(n=100)
    rows = _Rows.of(Sample.of(Tokens(tokens, "X", D), y, None, "X", D))
    for C in (1e-4, 1e-2, 1.0):
        rows.path.descend(C)
        v, penalty = np.concatenate([rows.path.point.v[:-1], np.zeros(D), rows.path.point.v[-1:]]), 1 / (100 * C)
        weights = rows.fitted(C)
        found = np.concatenate([weights.weight, weights.query, [weights.bias]])
        assert rows.objective(found, penalty)[0] <= rows.objective(v, penalty)[0]
    exact = _Rows(
        TokenStates(rows.tokens.states.astype(np.float64), tokens.ends), y, rows.share, rows.scaling, rows.path
    )
    v = np.random.default_rng(0).standard_normal(2 * D + 1) / 3
    steps = 1e-5 * np.eye(2 * D + 1)
    numeric = [(exact.objective(v + h, 0.1)[0] - exact.objective(v - h, 0.1)[0]) / 2e-5 for h in steps]
    np.testing.assert_allclose(exact.objective(v, 0.1)[1], numeric, atol=1e-7)


def test_it_starts_as_the_probe_of_the_means(monkeypatch):
    monkeypatch.setattr("src.probes.attention.minimize", lambda _f, start, *_a, **_k: SimpleNamespace(x=start))
    tokens, y = planted(n=100)
    rows = _Rows.of(Sample.of(Tokens(tokens, "X", D), y, None, "X", D))
    weights = rows.fitted(1e-2)
    X = (tokens.states - weights.mean) / weights.scale
    pooled = LogisticRegression(C=1e-2, tol=1e-10).fit(means(TokenStates(X, tokens.ends)), y)
    assert not weights.query.any()
    np.testing.assert_allclose(weights.weight, pooled.coef_[0], atol=1e-5)
    np.testing.assert_allclose(
        weights.logit_of(tokens), means(TokenStates(X, tokens.ends)) @ weights.weight + weights.bias, atol=1e-9
    )


def test_attention_cross_validates_over_answers_and_learns_nothing_from_random_labels():
    tokens, y = planted(n=300)
    probe = AttentionProbe(D).fit(tokens, y, groups=np.arange(300))
    assert roc_auc_score(y, probe.out_of_fold_) > 0.95
    dealt = np.random.default_rng(3).permutation(y)
    blind = AttentionProbe(D).fit(tokens, dealt, groups=np.arange(300))
    assert roc_auc_score(dealt, blind.out_of_fold_) < 0.6
    assert probe.score(tokens, y) == np.mean((probe.predict(tokens) > 0.5) == y)
    np.testing.assert_allclose(probe.predict_proba(tokens)[:, 1], probe.predict(tokens))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0, 0, 2], "answer is 2 at row 2"),
        ([1, 1, 2], "answer is 1 at row 0"),
        ([0, 1, 0], "answer is 0 at row 2"),
        ([0, 1], r"answer has shape \(2,\), but there are 3 rows of token states"),
    ],
)
def test_answers_without_tokens_or_out_of_order_are_named(answer, message):
    with pytest.raises(ScoringError, match=message):
        TokenStates.of(np.zeros((3, D)), np.array(answer))


def test_what_attention_cannot_read_is_named():
    tokens, y = planted(n=40)
    with pytest.raises(ScoringError, match=r"X is no TokenStates.*Pass TokenStates\.of"):
        AttentionProbe(D).fit(means(tokens), y)
    bad = TokenStates(tokens.states.copy(), tokens.ends)
    bad.states[7, 2] = np.nan
    with pytest.raises(ScoringError, match=r"X_val\.states holds NaN or infinity in 1 rows, the first is row 7"):
        AttentionProbe(D).fit(tokens, y, bad, y)
    with pytest.raises(ScoringError, match=r"y has shape \(39,\), but there are 40 rows"):
        AttentionProbe(D).fit(tokens, y[:39])


def test_a_place_where_every_token_is_read_is_tried_with_attention_beside_the_others():
    tokens, y = planted(n=300)
    noise = np.random.default_rng(2).standard_normal((300, 2, D)).astype(np.float32)
    several = np.stack([np.random.default_rng(3).permutation(tokens.states), tokens.states], axis=1)
    whole = Part(noise, y, np.arange(300), tokens=TokenStates(several, tokens.ends))
    places = [Place(*place) for place in (("last_answer", "block.0"), ("mean_answer", "block.0"),
                                          (ATTENTION, "block.0"), (ATTENTION, "block.1"))]  # fmt: skip
    train, test = whole.only(np.arange(200)), whole.only(np.arange(200, 300))
    sweep = sweep_places(places, train, None, families=["logistic", "mean_difference"])
    assert [one.family for one in sweep.results] == ["logistic", "mean_difference"] * 2 + ["attention"] * 2
    assert (sweep.chosen.family, sweep.chosen.layer, sweep.place) == ("attention", "block.1", 3)
    assert sweep.chosen.C == sweep.probe.C_
    alone = AttentionProbe(D).fit(tokens.only(np.arange(200)), y[:200], groups=np.arange(200))
    np.testing.assert_array_equal(sweep.predict(test), alone.predict(tokens.only(np.arange(200, 300))))
    shuffled = shuffled_predictions(train, None, test, 3, seed=0, shuffles=3, family="attention")
    assert np.mean([roc_auc_score(y[200:], p) for p in shuffled]) < 0.7
    again = Part.joined(
        [test, Part(noise[:5], y[:5], np.arange(5), tokens=TokenStates(several, tokens.ends).only(np.arange(5)))]
    )
    np.testing.assert_array_equal(
        sweep.predict(again), np.r_[sweep.predict(test), sweep.predict(whole.only(np.arange(5)))]
    )
    with pytest.raises(ScoringError, match="There is no place 2: states of 2 places were read, and of no tokens"):
        Part(noise, y, np.arange(300)).at(2)


def test_answers_keep_their_tokens_in_any_order_and_company():
    tokens, _ = planted(n=20)
    order = np.array([7, 0, 19, 7])
    some = tokens.only(order)
    for place, row in enumerate(order):
        kept = some.states[some.begins[place] : some.ends[place]]
        np.testing.assert_array_equal(kept, tokens.states[tokens.begins[row] : tokens.ends[row]])
    both = some.followed_by(tokens)
    np.testing.assert_array_equal(both.only(np.arange(4, 24)).states, tokens.states)
    np.testing.assert_array_equal(both.lengths, np.r_[some.lengths, tokens.lengths])
