"""The fast suite reaches the closed form on linear networks, begins where the cases before ended, and counts passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diary import Diary

import robustjax
from robustjax.attacks import autoattack, fast_suite
from robustjax.attacks.case import rows_of
from robustjax.attacks.compose import wrong_classes
from robustjax.attacks.flags import Flag
from robustjax.evaluation import suite
from robustjax.evaluation.results import ROBUST
from robustjax.numerics import keys_for
from robustjax.threats import Threat

RNG = np.random.default_rng(0)
CLASSES, N = 5, 24
W = RNG.normal(size=(12, CLASSES)).astype(np.float32)
X = RNG.uniform(0.3, 0.7, size=(N, 2, 3, 2)).astype(np.float32)
KEY = jax.random.key(0)


def network(w):
    return lambda x: x.reshape(len(x), -1) @ w


Y = np.asarray(network(W)(X)).argmax(axis=1)
EPS = {"linf": 0.05, "l2": 0.1}


def closed_form(norm, eps):
    """Robust where every other class stays behind: z_y - z_j > eps |w_y - w_j|_dual; the box does not bind."""
    logits = network(W)(X)
    gaps = logits[np.arange(N), Y][:, None] - logits
    sizes = np.linalg.norm(W[:, Y].T[:, None] - W.T[None], ord=1 if norm == "linf" else 2, axis=2)
    return np.where(np.arange(CLASSES) == Y[:, None], True, gaps > eps * sizes).all(axis=1)


@functools.cache
def evaluator(**settings):
    cases = functools.partial(fast_suite.fast, classes=CLASSES)
    return suite.over(network, cases, **{"batch_size": N, **settings})


def run(norm="linf", rows=slice(None), call=None, **settings):
    index = np.arange(N)[rows]
    threat = Threat(norm, EPS[norm])
    return evaluator(**settings)(KEY, X[rows], Y[rows], threat, W, index=index, **(call or {}))


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_it_breaks_what_can_be_broken_of_a_linear_network(norm):
    expected = closed_form(norm, EPS[norm])
    assert 3 < expected.sum() < N - 3
    found = run(norm)
    np.testing.assert_array_equal(found.robust, expected)
    # Square begins at the strongest point of the cases before, which therefore is a lower bound of what it finds.
    margin = np.where(np.isnan(found.margin), -np.inf, found.margin)
    assert (margin[2] >= margin[:2].max(axis=0) - 1e-5)[found.outcome[2] == ROBUST].all()


@pytest.mark.slow
def test_batches_order_and_a_kill_change_nothing():
    """Also in the case that begins where others ended."""
    whole = run()
    order = np.random.default_rng(1).permutation(N)
    shuffled = run(rows=order)
    np.testing.assert_array_equal(shuffled.outcome, whole.outcome[:, order])
    np.testing.assert_allclose(shuffled.x, whole.x[order], atol=2e-5)

    diary = Diary(lives=40)  # of some 100 segments: in the last case
    with pytest.raises(KeyboardInterrupt):
        run(segment=4, call={"memory": diary})
    assert int(diary.kept["numbers"][0]) == 2
    resumed = run(segment=4, call={"memory": Diary(diary.kept)})
    np.testing.assert_array_equal(resumed.outcome, whole.outcome)
    np.testing.assert_allclose(resumed.x, whole.x, atol=2e-5)


def test_targets_come_in_the_order_of_the_strongest_point():
    """Logits 1, 0.9, 3 x - 1, 0: class 1 is next at x = 0.5, class 2 at x = 0.65, with 0.95."""

    def net(x):
        one = jnp.ones_like(x[:, 0])
        return jnp.stack([one, 0.9 * one, 3 * x[:, 0] - 1, 0 * one], axis=1)

    x, y, threat = jnp.full((1, 2), 0.5), jnp.zeros(1, jnp.int32), Threat("linf", 0.15)
    case = fast_suite.at_targets(threat, classes=4, targets=1, steps=8)
    clean, best = ({"ranked": wrong_classes(net(z), y, 3)} for z in (x, x + 0.15))
    rows = rows_of(case, keys_for(KEY, 1), y, clean, jnp.int32(0), x, best=x + 0.15, at_best=best)
    assert int(autoattack._target(rows)[0]) == 2
    assert int(autoattack._target(rows._replace(at_best=None))[0]) == 1


def test_passes_by_hand():
    """APGD looks at its start and each step, both ways; FAB makes one forward pass more a step; Square asks.
    PMA makes two runs of two stages, which begin with a look at their first point.

    Standard in linf with five classes, so four targets: 2 * 101 * (1 + 4) + 3 * 100 * 4 + 5001.
    """
    threat = Threat("linf", 0.1)
    assert fast_suite.standard_passes(threat, classes=5) == 2 * 101 * 5 + 3 * 100 * 4 + 5001
    cases = fast_suite.fast(threat, classes=5)
    assert [case.whole for case in cases] == [2 * (2 * 12), 2 * (4 * 21), 401]
    ten = (fast_suite.fast(threat, classes=10), fast_suite.standard_passes(threat, classes=10))
    assert (sum(case.whole for case in ten[0]), ten[1]) == (827, 9721)


@pytest.mark.slow
def test_it_says_what_it_used():
    found = robustjax.evaluate(network(W), X, Y, eps=EPS["linf"], suite="fast", masking=False)
    robust = int(closed_form("linf", EPS["linf"]).sum())
    per_image = fast_suite.standard_passes(Threat("linf", 0.1), classes=CLASSES)
    most = sum(case.whole for case in fast_suite.fast(Threat("linf", 0.1), classes=CLASSES))
    assert found.standard == robust * per_image
    assert most * robust <= found.passes <= most * N
    assert f"standard makes {robust * per_image:,} of the robust images alone" in repr(found)
    assert found.title.startswith("linf 0.05, fast suite")
    table = [line for line in repr(found).splitlines() if " %  (" in line]
    assert "square-best" in table[3] and len({line.index(" %  (") for line in table}) == 1  # one column


def test_it_counts_what_only_the_search_breaks():
    """One of four images: 25 % is above AutoAttack's 0.2 %. One that a gradient broke before was not tried."""
    outcome = np.array([[0, 1, 0, 0], [0, -1, 0, 0], [1, -1, 0, 0]], np.int8)
    flag = fast_suite.searched(outcome)
    assert flag.raised and flag.evidence["share"] == 0.25
    assert not fast_suite.searched(np.where(outcome == 1, 0, outcome)).raised


def test_it_says_when_it_is_not_enough():
    assert fast_suite.not_enough((Flag("noise", False, "", {}),)) == ()
    (flag,) = fast_suite.not_enough((Flag("noise", True, "", {}), Flag("one step", False, "", {})))
    assert flag.raised and flag.says.startswith("noise: ") and "run the standard suite" in flag.says


@pytest.mark.parametrize(
    ("threat", "settings", "says"),
    [
        (Threat("l1", 1.0), {}, "norm is 'l1', must be 'linf' or 'l2'"),
        (Threat("l0", 2), {}, "norm is 'l0'"),
        (Threat("linf", 0.1), {"classes": 1}, "classes is 1"),
        (Threat("linf", 0.1), {"compat": "official"}, "compat is 'official'"),
    ],
)
def test_what_is_refused(threat, settings, says):
    with pytest.raises(ValueError, match=f"fast: {says}"):
        fast_suite.fast(threat, **{"classes": 3, **settings})
