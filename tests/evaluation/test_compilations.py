"""How many programs an evaluation compiles: few at first, none for another radius or for new weights."""

import contextlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robustjax
from robustjax import api, traced
from robustjax.attacks import autoattack
from robustjax.evaluation import ahead, suite
from robustjax.threats import Threat

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(40, 4, 4, 1)).astype(np.float32)
COMPILED = "/jax/core/compile/backend_compile_duration"


def weights(seed):
    draw = np.random.default_rng(seed)
    return [jnp.asarray(draw.normal(size=shape) / 4, jnp.float32) for shape in ((16, 12), (12, 5))]


def network(first, second):
    return lambda x: jax.nn.relu(x.reshape(len(x), -1) @ first) @ second


Y = np.array(network(*weights(0))(X).argmax(axis=1))


@contextlib.contextmanager
def compilations():
    """Collect the programs that are compiled, or read from a folder, within a block: name, and whether ahead."""
    found, here = [], threading.get_ident()

    def listen(event, seconds, **about):
        if event == COMPILED:
            name = about.get("fun_name", "?").removeprefix("jit(").removesuffix(")")
            found.append((name, threading.get_ident() != here))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def short(threat, classes=5):
    return (
        autoattack.apgd_ce(threat, classes=classes, steps=6),
        autoattack.apgd_targeted(threat, classes=classes, targets=3, steps=6),
        autoattack.fab_targeted(threat, classes=classes, targets=2, steps=5),
        autoattack.random_search(threat, queries=40),
    )


def evaluate(seed, eps):
    return robustjax.evaluate(network(*weights(seed)), X, Y, eps=eps)


@pytest.mark.slow
def test_standard_compiles_a_program_per_kind_of_attack(monkeypatch):
    monkeypatch.setitem(api.SUITES, "standard", short)
    jax.clear_caches()
    with compilations() as first:
        evaluate(0, 0.03)
    print(f"{len(first)} programs: {sorted(first)}")
    # APGD on either loss, which is needed at once; FAB and Square, while it runs; then the checks. None twice.
    assert sorted(later for name, later in first if name == "segment") == [False, True, True]
    assert [later for name, later in first if name in ("walk", "slope", "noise")] == 3 * [True]
    assert len(first) <= 25
    with compilations() as later:
        evaluate(0, 0.05)
        other = evaluate(1, 0.03)
    assert later == []
    fresh = suite.over(network, short)(jax.random.key(0), X, Y, Threat("linf", 0.03), *weights(1), index=None)
    np.testing.assert_array_equal(other.results.outcome, fresh.outcome)


@pytest.mark.slow
def test_ten_radii_compile_nothing_after_the_first():
    attack = suite.over(network, short, batch_size=32, smallest=8)
    call = lambda eps, given: attack(jax.random.key(0), X, Y, Threat("linf", eps), *weights(0), given=given)
    report = call(0.004, None)
    with compilations() as later:
        for eps in np.linspace(0.008, 0.1, 9):
            report = call(eps, report)
    assert later == [] and report.robust.mean() < 0.9


@pytest.mark.slow
def test_the_two_losses_in_one_program_are_those_alone():
    """Each case of a suite finds what it finds in a suite of its own, bit for bit."""
    attack = lambda cases: suite.over(network, cases)(
        jax.random.key(0), X, Y, Threat("linf", 0.03), *weights(0), every=True
    )
    both = attack(lambda t: short(t)[:2])
    for i in range(2):
        alone = attack(lambda t, i=i: short(t)[i : i + 1])
        np.testing.assert_array_equal(alone.margin[0], both.margin[i])


class Closure:
    """Functions that do the same, or look as if they did."""

    @staticmethod
    def relu(w):
        return lambda x: jax.nn.relu(x @ w)

    @staticmethod
    def jitted(w):
        return jax.jit(lambda x: jax.nn.relu(x @ w))

    @staticmethod
    def own_gradient(w, slope=2.0):
        @jax.custom_vjp
        def f(x):
            return x @ w

        f.defvjp(lambda x: (f(x), None), lambda _, g: (slope * (g @ w.T),))
        return f

    @staticmethod
    def scan(w):
        return lambda x: jax.lax.fori_loop(0, 3, lambda i, z: jnp.tanh(z @ w @ w.T), x) @ w


A, B = (jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32) for _ in range(2))


@pytest.mark.parametrize("make", [Closure.relu, Closure.jitted, Closure.scan], ids=lambda f: f.__name__)
def test_functions_that_do_the_same_share_their_steps(make):
    x = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
    (one, first), (other, second) = (traced.hoist(make(w), x.shape) for w in (A, B))
    assert one is other
    np.testing.assert_array_equal(one(first)(x), make(A)(x))
    np.testing.assert_array_equal(one(second)(x), make(B)(x))


def test_functions_that_do_not_do_the_same_do_not():
    shape = (4, 6)
    double, triple = (traced.hoist(Closure.own_gradient(A, slope), shape)[0] for slope in (2.0, 3.0))
    assert double is not triple
    assert traced.hoist(Closure.own_gradient(A), shape)[0] is double
    # What only the rule of differentiation closes over is compared too.
    assert traced.hoist(Closure.own_gradient(B), shape)[0] is not double
    x, (steps, arrays) = jnp.ones(shape), traced.hoist(Closure.own_gradient(B), shape)
    want = 2.0 * jnp.ones((4, 3)) @ B.T
    np.testing.assert_allclose(jax.grad(lambda x: steps(arrays)(x).sum())(x), want, rtol=1e-5)
    scaled = [traced.hoist(lambda x, s=s: s * (x @ A), shape)[0] for s in (1.0, 2.0, -0.0, 0.0)]
    assert len(set(map(id, scaled))) == 4
    out = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    calls = [
        traced.hoist(lambda x, w=w: jax.pure_callback(lambda z: z @ np.asarray(w), out, x), shape)[0]
        for w in (A, B)
    ]
    assert calls[0] is not calls[1]


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_a_batch_of_another_size_goes_in_parts(count):
    x = jnp.asarray(RNG.normal(size=(count, 6)), jnp.float32)
    steps, arrays = traced.hoist(Closure.relu(A), (4, 6))
    np.testing.assert_allclose(steps(arrays)(x), Closure.relu(A)(x), atol=1e-6)


def test_operations_are_counted():
    kernel = jnp.ones((3, 3, 2, 5))
    conv = lambda x: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    count = lambda f, shape: traced.hoist(f, shape)[0].operations
    assert count(conv, (2, 8, 8, 2)) == 2 * (2 * 8 * 8 * 5) * 9 * 2
    assert count(lambda x: x @ A, (4, 6)) == 2 * 4 * 6 * 3
    turned = A.T
    scan = lambda x: jax.lax.scan(lambda z, _: (z @ A @ turned, None), x, None, length=7)[0]
    assert count(scan, (4, 6)) == 7 * 2 * 2 * 4 * 6 * 3
    out = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    assert count(lambda x: jax.pure_callback(lambda z: z[:, :3], out, x), (4, 6)) == float("inf")


def test_a_program_that_fails_ahead_fails_where_it_is_needed():
    steps, _ = traced.hoist(lambda x: 3.5 * x, (2, 3))
    ahead.compile_ahead(steps, "broken", lambda: 1 / 0)
    ahead.wait(steps, "broken")
    calls = []
    for _ in range(2):
        ahead.compile_ahead(steps, "once", lambda: calls.append(1))
    ahead.wait(steps, "once")
    assert calls == [1]


def test_what_nobody_needs_is_not_compiled():
    steps, _ = traced.hoist(lambda x: 4.5 * x, (2, 3))
    go, calls = threading.Event(), []
    ahead.compile_ahead(steps, "first", go.wait)
    ahead.compile_ahead(steps, "second", lambda: calls.append(2))
    ahead.cancel(steps)
    go.set()
    ahead.wait(steps, "first")
    ahead.wait(steps, "second")
    assert calls == []


@pytest.mark.slow
def test_scores_that_do_the_same_share_programs():
    """A second evaluation of a detector, at another radius or with other weights, compiles nothing."""

    def attacked(seed, eps):
        score = lambda x: network(*weights(seed))(x).max(axis=-1)
        return robustjax.evaluate_ood(score, X[:20], 1 - X[20:], eps=eps, steps=3, queries=200, masking=False)

    first = attacked(0, 0.03)
    with compilations() as later:
        attacked(0, 0.05)
        attacked(1, 0.03)
    assert later == []
    best = np.stack([network(*weights(0))(np.concatenate([X[:20], 1 - X[20:]])).max(axis=-1)])
    np.testing.assert_allclose(first.results.clean, best[0], rtol=1e-5)


def test_a_score_and_its_network_are_traced_together():
    """What the score and its surrogates have in common is computed once, as in one function."""
    steps, arrays = traced.hoist(lambda x: (jnp.tanh(x @ A).max(axis=-1), jnp.tanh(x @ A)), (4, 6))
    x = jnp.asarray(RNG.normal(size=(7, 6)), jnp.float32)
    score, logits = steps.results(arrays, x)
    np.testing.assert_allclose(logits, jnp.tanh(x @ A), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(score, logits.max(axis=-1))
    both = jax.jit(lambda arrays, x: steps.results(arrays, x)[0] + steps.results(arrays, x)[1].sum(axis=-1))
    assert both.lower(arrays, x[:4]).compile().as_text().count(" dot(") == 1
