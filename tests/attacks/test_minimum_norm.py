"""The contract of every search for the nearest adversarial point, on networks where that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import logit
from robustjax.attacks.carlini_wagner import carlini_wagner
from robustjax.attacks.ddn import ddn
from robustjax.attacks.deepfool import deepfool
from robustjax.attacks.fab import leads
from robustjax.attacks.fmn import fmn
from robustjax.attacks.hyperplane import onto_hyperplane
from robustjax.attacks.signed import signed
from robustjax.attacks.solver import as_attack, classified, until_found
from robustjax.attacks.starts import gaussian_start
from robustjax.attacks.super_deepfool import super_deepfool
from robustjax.numerics import norm
from robustjax.threats import Threat

N, D = 6, 20
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(D, 2)).astype(np.float32)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(N, D)), jnp.float32)
ON_BOX = jnp.asarray(RNG.uniform(-0.5, 1.5, size=(N, D)).clip(0, 1), jnp.float32)  # many exact 0 and 1
KEY = jax.random.key(0)
# How far a result may be from the nearest point. C&W tries a handful of constants, c / 2 apart at best.
SLACK = {ddn: 1.01, fmn: 1.01, deepfool: 1.0201, super_deepfool: 1.0201, carlini_wagner: 1.05}
CASES = [
    (ddn, "l2"),
    (super_deepfool, "l2"),
    (carlini_wagner, "l2"),
    *((a, k) for a in (fmn, deepfool) for k in ("linf", "l2", "l1")),
]
QUICK = {
    ddn: {"steps": 15},
    fmn: {"steps": 15},
    deepfool: {},
    super_deepfool: {"steps": 15},
    carlini_wagner: {"searches": 4, "steps": 15, "step_size": 0.1},
}
ONE_EACH = [(ddn, "l2"), (carlini_wagner, "l2"), (fmn, "l1"), (deepfool, "linf")]
each = pytest.mark.parametrize("attack, kind", CASES, ids=lambda v: getattr(v, "__name__", v))


def net(x, weight=WEIGHT):
    return x.reshape(x.shape[0], -1) @ weight


def slopes(x):
    """Labels, and gradient and value of the one boundary, zero of <w, x>."""
    y = np.asarray(net(x)).argmax(axis=1)
    w = (WEIGHT[:, 0] - WEIGHT[:, 1]) * np.where(y == 0, 1, -1)[:, None]
    return jnp.asarray(y), w, (w * np.asarray(x)).sum(axis=1)


def attacked(solver, x, y, logits_fn=net):
    return jax.jit(lambda x, y: as_attack(solver, logit.margin)(KEY, logits_fn, x, y))(x, y)


@each
def test_comes_near_the_closed_form_without_a_box(attack, kind):
    y, w, gap = slopes(X)
    threat = Threat(kind, jnp.inf, *((-4.0, 5.0) if attack is carlini_wagner else (-np.inf, np.inf)))
    found = attacked(attack(threat), X, y)
    best = gap / np.linalg.norm(w, {"linf": 1, "l2": 2, "l1": np.inf}[kind], axis=1)
    ratio = np.asarray(norm(found.x - X, kind)) / best
    assert (found.value > 0).all() and (ratio > 1 - 1e-5).all() and (ratio < SLACK[attack]).all()
    np.testing.assert_allclose(found.value, logit.margin(net(found.x), y), atol=1e-5)


@each
def test_comes_near_the_shortest_way_inside_a_box(attack, kind):
    y, w, gap = slopes(ON_BOX)
    found = attacked(attack(Threat(kind, jnp.inf)), ON_BOX, y)
    way = onto_hyperplane(kind, jnp.asarray(w), jnp.asarray(gap), ON_BOX, 0.0, 1.0)
    ratio = norm(found.x - ON_BOX, kind) / norm(way, kind)
    assert (found.value > 0).all() and (ratio > 1 - 1e-4).all() and (ratio < SLACK[attack]).all()
    assert ((found.x >= 0) & (found.x <= 1)).all()


@pytest.mark.parametrize("attack", [ddn, carlini_wagner, fmn, deepfool])
def test_leaves_a_sphere_on_the_shortest_ray(attack):
    """The slope is not constant here: beyond |x - centre| = 1 the nearest point in l2 lies on the ray through x."""
    outside = signed(lambda x: jnp.sqrt(jnp.square(x - 0.45).sum(axis=1)) - 1.0)
    found = jax.jit(lambda: attack(Threat("l2", jnp.inf))(KEY, outside, X))()
    ratio = norm(found.x - X, "l2") / -outside(X)
    assert (found.value > 0).all() and (ratio > 0.9999).all() and (ratio < SLACK[attack]).all()


@each
def test_beyond_the_radius_nothing_is_returned_but_the_strongest_point_inside(attack, kind):
    y, w, gap = slopes(X)
    best = gap / np.linalg.norm(w, {"linf": 1, "l2": 2, "l1": np.inf}[kind], axis=1)
    share = np.array([0.1, 0.5, 0.9, 1.1, 2.0, 1e9], np.float32)
    threat = Threat(kind, jnp.asarray(best * share, jnp.float32), -4.0, 5.0)
    found = attacked(attack(threat), X, y)
    np.testing.assert_array_equal(found.value > 0, share > 1)
    assert threat.contains(found.x, X, atol=1e-6).all()
    np.testing.assert_allclose(found.value, logit.margin(net(found.x), y), atol=1e-5)
    # The margin rises by share * gap at most. C&W's direction is that good only where the search has settled.
    np.testing.assert_allclose((found.value + gap)[:3], (share * gap)[:3], rtol=0.05)


@each
def test_a_point_that_is_already_misclassified_is_its_own_nearest(attack, kind):
    y, _, _ = slopes(ON_BOX)
    found = attacked(attack(Threat(kind, 0.1), **QUICK[attack]), ON_BOX, 1 - y)
    np.testing.assert_array_equal(found.x, ON_BOX)
    assert (found.value > 0).all()


def everything(threats, logits_fn, keys, x, y):
    results = []
    for (attack, _), threat in zip(ONE_EACH, threats):
        loss = leads if attack is deepfool else logit.margin
        results.append(as_attack(attack(threat, **QUICK[attack]), loss)(keys, logits_fn, x, y))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("shape, classes", [((), 2), ((3, 2, 2), 10), ((7,), 3)])
def test_feasible_for_any_shape_radius_box_and_number_of_classes(shape, classes):
    rng = np.random.default_rng(classes)
    w = jnp.asarray(rng.normal(size=(int(np.prod(shape)), classes)), jnp.float32)

    @jax.jit
    def check_all(key, eps, lower, upper, x):
        logits_fn, y = (lambda x: net(x, w)), jnp.array([0, 1])
        threats = [Threat(kind, eps, lower, upper) for _, kind in ONE_EACH]
        found = everything(threats, logits_fn, key, x, y)
        feasible = [t.contains(f.x, x, rtol=2e-6) for t, f in zip(threats, found)]
        clean = logit.margin(logits_fn(x), y)
        off = [logit.margin(logits_fn(f.x), y) - f.value for f in found]
        # The nearest point may have a smaller margin than a misclassified start.
        worse = [(f.value < clean) & (f.value <= 0) for f in found]
        return jnp.stack(feasible), jnp.stack(off), jnp.stack(worse)

    @settings(max_examples=25, deadline=None)
    @given(st.floats(0, 10, width=32), st.sampled_from([(0.0, 1.0), (-2.0, 3.0)]), st.integers(0, 99))
    def check(eps, box, seed):
        x = jnp.asarray(np.random.default_rng(seed).uniform(*box, size=(2, *shape)).round(1), jnp.float32)
        feasible, off, worse = check_all(jax.random.key(seed), *map(jnp.float32, (eps, *box)), x)
        assert feasible.all() and (jnp.abs(off) < 1e-4).all() and not worse.any()

    check()


@pytest.mark.parametrize("attack, kind", ONE_EACH, ids=lambda v: getattr(v, "__name__", v))
def test_rows_may_be_dropped_shuffled_padded_and_joined_with_rows_of_another_age(attack, kind):
    traces, (y, _, _) = [], slopes(X)

    @jax.jit
    def advance(threat, state, y, count):
        traces.append(1)
        solver = attack(threat, **QUICK[attack])
        return solver.advance(classified(net, y, logit.margin), state, count)

    threat = Threat(kind, jnp.float32(jnp.inf), -4.0, 5.0)
    solver = attack(threat, **QUICK[attack])
    young, order = solver.init(KEY, X), jnp.array([4, 2, 0, 0, 1, 3])  # without 5, 0 twice
    whole = advance(threat, young, y, jnp.int32(solver.length))
    old = advance(threat, young, y, jnp.int32(9))
    take = lambda tree: jax.tree.map(lambda a: a[order], tree)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:3], b[3:]]), take(old), take(young))
    for count in (7, 100):  # the second is more than anyone has left
        mixed = advance(threat, mixed, y[order], jnp.int32(count))
    assert (mixed.step == solver.length).all() and len(traces) == 1
    found, expected = solver.finish(mixed), take(solver.finish(whole))
    assert (expected.value > 0).sum() >= 4
    np.testing.assert_allclose(found.x, expected.x, atol=1e-4)
    np.testing.assert_allclose(found.value, expected.value, atol=1e-4)


@pytest.mark.slow
def test_networks_without_a_slope_leave_a_feasible_point():
    y, _, _ = slopes(X)
    threats = [Threat(kind, 0.1) for _, kind in ONE_EACH]
    search = jax.jit(lambda value: everything(threats, lambda x: value * net(x), KEY, X, y))
    for value in (jnp.nan, 0.0):
        for found, threat in zip(search(jnp.float32(value)), threats):
            assert threat.contains(found.x, X).all() and not (found.value > 0).any()


@pytest.mark.parametrize("attack", [ddn, fmn])
def test_starts_may_be_random_and_rows_may_rest_when_found(attack):
    y, _, _ = slopes(X)
    solver = attack(Threat("l2", 9.0), start=gaussian_start(0.1), steps=40)
    found = attacked(solver, X, y)
    resting = attacked(until_found(solver), X, y)
    assert (resting.value > 0).all() and (norm(resting.x - X, "l2") >= norm(found.x - X, "l2")).all()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ddn(Threat("linf", 1.0)), "ddn: norm is 'linf'"),
        (lambda: ddn(Threat("l2", 1.0), steps=0), "ddn: steps is 0"),
        (lambda: ddn(Threat("l2", 1.0), init_eps=0.0), "ddn: init_eps is 0.0"),
        (lambda: ddn(Threat("l2", 1.0), gamma=1.0), "ddn: gamma is 1.0"),
        (lambda: fmn(Threat("l2", 1.0), steps=0), "fmn: steps is 0"),
        (lambda: fmn(Threat("l2", 1.0), step_size=-1.0), "fmn: step_size is -1.0"),
        (lambda: fmn(Threat("l2", 1.0), gamma=0.0), "fmn: gamma is 0.0"),
        (lambda: deepfool(Threat("l2", 1.0), steps=0), "deepfool: steps is 0"),
        (lambda: deepfool(Threat("l2", 1.0), overshoot=-0.1), "deepfool: overshoot is -0.1"),
        (lambda: carlini_wagner(Threat("l1", 1.0)), "carlini_wagner: norm is 'l1'"),
        (lambda: carlini_wagner(Threat("l2", 1.0, 0.0, np.inf)), r"carlini_wagner: the box is \[0.0, inf\]"),
        (lambda: carlini_wagner(Threat("l2", 1.0), searches=0), "carlini_wagner: searches is 0"),
        (lambda: carlini_wagner(Threat("l2", 1.0), steps=0), "carlini_wagner: steps is 0"),
        (lambda: carlini_wagner(Threat("l2", 1.0), step_size=0.0), "carlini_wagner: step_size is 0.0"),
        (lambda: carlini_wagner(Threat("l2", 1.0), initial_const=0), "carlini_wagner: initial_const is 0"),
        (lambda: carlini_wagner(Threat("l2", 1.0), confidence=-1.0), "carlini_wagner: confidence is -1.0"),
    ],
)
def test_bad_settings_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
