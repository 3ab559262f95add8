"""Attacks on scores: closed forms, the same numbers as the compiled searches, however the suite is cut or resumed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diary import Diary

from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.attacks.square import square
from robustjax.evaluation import score_cases, score_suite
from robustjax.evaluation.score_cases import score_case
from robustjax.numerics import fold
from robustjax.ood import logit_scores, metrics, score_attacks
from robustjax.ood.detectors import ScoredNetwork
from robustjax.threats import Threat

RNG = np.random.default_rng(0)
W = RNG.normal(size=(9,)).astype(np.float32)
HIDDEN = jnp.asarray(RNG.normal(size=(9, 8)), jnp.float32)
OUT = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
X = RNG.uniform(0.3, 0.7, size=(14, 3, 3, 1)).astype(np.float32)
IS_ID = np.arange(14) % 3 != 0
KEY = jax.random.key(0)
BALL = Threat("linf", 0.1)
FIELDS = ("attacks", "index", "is_id", "clean", "scores", "x", "worst", "prediction", "confidence", "steps")


def linear(w):
    return ScoredNetwork(lambda x: x.reshape(len(x), -1) @ w)


def network(hidden, out):
    def logits_fn(x):
        return jnp.tanh(x.reshape(len(x), -1) @ hidden) @ out

    return ScoredNetwork(lambda x: logit_scores.msp_margin(logits_fn(x)), logits_fn)


def cases(threat):
    ascent = apgd(threat, steps=5)
    return (
        score_case("apgd", ascent, runs=2),
        score_case("entropy", ascent, score_cases.on_entropy),
        score_case("square", square(threat, queries=30), black_box=True),
    )


@functools.cache
def evaluator(**settings):
    return score_suite.score_suite(network, cases, **{"batch_size": 16, "smallest": 16, **settings})


def run(rows=slice(None), call=None, **settings):
    index = np.arange(len(X))[rows]
    return evaluator(**settings)(KEY, X[rows], IS_ID[rows], BALL, HIDDEN, OUT, index=index, **call or {})


def same(first, second):
    for name in FIELDS:
        one, two = getattr(first, name), getattr(second, name)
        if name in ("clean", "scores", "x", "worst", "confidence"):
            np.testing.assert_allclose(one, two, atol=2e-5, err_msg=name)
        elif name != "steps":
            np.testing.assert_array_equal(one, two, err_msg=name)


@pytest.fixture(scope="module")
def whole():
    return run()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_worst_case_of_a_linear_score_is_known(norm, dual):
    eps = 0.05
    suite = score_suite.score_suite(linear, lambda t: (score_case("apgd", apgd(t, steps=30)),), batch_size=16)
    found = suite(KEY, X, IS_ID, Threat(norm, eps), W)
    sign = np.where(IS_ID, -1, 1)
    np.testing.assert_allclose(found.worst, found.clean + sign * eps * np.linalg.norm(W, ord=dual), rtol=1e-3)
    np.testing.assert_allclose(found.clean, X.reshape(14, -1) @ W, rtol=1e-5)


@pytest.mark.slow
def test_it_finds_what_the_compiled_searches_find():
    """With the keys of `ood.score_attacks`: folded with the surrogate, then with the restart."""
    ball = Threat("linf", 0.1)

    def same_keys(threat):
        ascent = apgd(threat, steps=6)

        def start(keys, rows, x):
            return ascent.init(jax.vmap(jax.random.fold_in)(fold(rows.key, 0), rows.run), x)

        return (score_case("apgd", ascent, runs=2, start=start),)

    found = score_suite.score_suite(network, same_keys, batch_size=16)(KEY, X, IS_ID, ball, HIDDEN, OUT)
    score, ascent = network(HIDDEN, OUT).score, apgd(ball, steps=6)
    down = jax.jit(lambda x: score_attacks.lowered(ascent, score, restarts=2)(KEY, x))(X)
    up = jax.jit(lambda x: score_attacks.raised(ascent, score, restarts=2)(KEY, x))(X)
    np.testing.assert_allclose(found.worst, np.where(IS_ID, down.value, up.value), atol=1e-4)


@pytest.mark.slow
def test_every_case_can_only_make_it_worse(whole):
    table = np.stack([scores for _, scores in whole.by_attack()])
    steps = np.diff(table, axis=0)
    assert (steps[:, IS_ID] <= 0).all() and (steps[:, ~IS_ID] >= 0).all()
    np.testing.assert_allclose(table[-1], whole.worst, atol=2e-5)
    assert BALL.contains(whole.x, X).all()
    assert (np.abs(whole.worst - whole.clean) > 0).all() and not np.isnan(whole.scores).any()
    found = whole.summary()
    assert found["both attacked"]["auroc"] == metrics.auroc(whole.worst[IS_ID], whole.worst[~IS_ID])
    assert found["both attacked"]["auroc"] <= found["OOD attacked"]["auroc"] <= found["clean"]["auroc"]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"batch_size": 4, "smallest": 4, "segment": 3}], ids=str)
def test_batch_size_and_segments_change_nothing(whole, settings):
    same(run(**settings), whole)
    parts = [run(slice(0, 5), **settings), run(slice(5, None), **settings)]
    same(score_suite.merge(parts), whole)


@pytest.mark.slow
def test_more_cases_on_the_same_images_are_joined(whole):
    def of(*places):
        one = score_suite.score_suite(network, lambda t: tuple(cases(t)[i] for i in places), batch_size=16)
        return one(KEY, X, IS_ID, BALL, HIDDEN, OUT)

    same(score_suite.merge([of(0, 1), of(2)]), whole)
    with pytest.raises(ValueError, match="both reports ran"):
        score_suite.merge([whole, whole])


def test_a_smaller_radius_is_gone_on_from(whole):
    larger = evaluator()(KEY, X, IS_ID, Threat("linf", 0.12), HIDDEN, OUT, given=whole)
    worse = np.where(IS_ID, larger.worst <= whole.worst + 1e-6, larger.worst >= whole.worst - 1e-6)
    assert worse.all()


def test_killed_and_resumed_it_is_the_same_bit_for_bit():
    settings = {"batch_size": 4, "smallest": 4, "segment": 3}
    expected, diary, found = run(**settings), Diary(lives=7), None
    while found is None:
        try:
            found = run(call={"memory": diary}, **settings)
        except KeyboardInterrupt:
            diary.lives = 7
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.slow
def test_the_default_suite_has_every_class_and_a_search_without_gradients():
    found = score_cases.standard(BALL, classes=3, steps=2, queries=200)
    assert [case.name for case in found] == [
        "apgd-score",
        "apgd-uniform",
        "apgd-entropy",
        "apgd-class",
        "square",
    ]
    assert [case.runs for case in found] == [1, 1, 1, 3, 1] and found[-1].black_box
    assert [case.name for case in score_cases.standard(BALL)] == ["apgd-score", "square"]
    short = functools.partial(score_cases.standard, classes=3, steps=2, queries=200)
    run_whole = score_suite.score_suite(network, short, batch_size=16)
    whole = run_whole(KEY, X, IS_ID, BALL, HIDDEN, OUT)
    assert whole.summary()["both attacked"]["auroc"] <= whole.summary()["clean"]["auroc"]
    with pytest.raises(ValueError, match="queries is 199"):
        score_cases.standard(BALL, queries=199)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 images, 14 sides"):
        evaluator()(KEY, X[:3], IS_ID, BALL, HIDDEN, OUT)
    with pytest.raises(ValueError, match="same number twice"):
        evaluator()(KEY, X, IS_ID, BALL, HIDDEN, OUT, index=np.zeros(14, int))


def test_confidences_and_classes_are_those_of_the_worst_points(whole):
    logits = np.asarray(network(HIDDEN, OUT).logits_fn(jnp.asarray(whole.x)), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(whole.confidence, p.max(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(whole.prediction, p.argmax(axis=1))
    alone = score_suite.score_suite(linear, lambda t: (score_case("apgd", apgd(t, steps=2)),), batch_size=16)
    found = alone(KEY, X, IS_ID, BALL, W)
    assert (found.prediction == -1).all() and np.isnan(found.confidence).all()


def test_a_search_runs_whole_and_the_image_competes_only_if_wanted():
    """A search that goes the wrong way: its own scores are told, the worst case stays the image."""

    def search(threat):
        one = pgd(threat, steps=3, step_size=0.1, keep="last")

        def build(threat, detector):
            away = [lambda x: -detector.score(x)]
            return score_attacks.ScoreAttack(
                None, score_attacks.raised(one, detector.score, surrogates=away, clean=False)
            )

        return (score_cases.searched("away", build, threat),)

    for compete in (True, False):
        suite = score_suite.score_suite(linear, search, batch_size=8, smallest=8, compete=compete)
        found = suite(KEY, X, IS_ID, BALL, W)
        np.testing.assert_allclose(found.scores[0][IS_ID], found.clean[IS_ID], rtol=1e-6)  # left alone
        assert (found.scores[0][~IS_ID] < found.clean[~IS_ID]).all()
        expected = found.clean if compete else found.scores[0]
        np.testing.assert_allclose(found.worst, expected, atol=1e-5)


def test_a_set_keeps_its_numbers_when_others_join():
    few, more = score_suite.numbered({"b": 3}), score_suite.numbered({"a": 2, "b": 5})
    np.testing.assert_array_equal(few["b"], more["b"][:3])
    assert len(set(np.concatenate(list(more.values())))) == 7
    assert max(n.max() for n in more.values()) < 2**31


def test_a_part_holds_the_images_asked_for(whole):
    part = whole.part(np.array([5, 2]))
    np.testing.assert_array_equal(part.scores, whole.scores[:, [5, 2]])
    np.testing.assert_array_equal(part.x, whole.x[[5, 2]])
    with pytest.raises(ValueError, match="image 99"):
        whole.part(np.array([99]))
