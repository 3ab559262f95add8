"""The contract of every ascent, on a linear function whose maximum over each ball is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustjax import numerics
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import fgsm, pgd
from robustjax.attacks.starts import at_origin, gaussian_start, random_radius
from robustjax.losses import fast
from robustjax.threats import Threat

D, K, B = 30, 4, 6
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(D, K)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.2, 0.8, size=(B, D)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, K, size=B), jnp.int32)
SLOPE = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)
EPS = {"linf": 0.1, "l2": 0.3, "l1": 0.9}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


def linear_net(x):
    return x.reshape(x.shape[0], -1) @ W


def solvers(threat):
    steps = {"steps": 40, "step_size": threat.eps / 8}
    plain = pgd(threat, **steps)
    return {
        "pgd": plain,
        "pgd with momentum": pgd(threat, momentum=0.9, **steps),
        "pgd from x": pgd(threat, start=at_origin, **steps),
        "pgd from noise": pgd(threat, start=gaussian_start(0.001), **steps),
        "pgd, last": pgd(threat, keep="last", **steps),
        "restarts": compose.restarts(plain, 3),
        "restarts in parts": compose.restarts(plain, 3, chunk_size=2),
        "fgsm": fgsm(threat),
        "fgsm-rs": fast.fgsm_rs(threat),
    }


NAMES = list(solvers(Threat("linf", 0.1)))
REACHES_OPTIMUM = [name for name in NAMES if not name.startswith("fgsm")]


@pytest.mark.parametrize("kind", EPS)
@pytest.mark.parametrize("name", REACHES_OPTIMUM)
def test_reaches_the_closed_form_on_a_linear_function(kind, name):
    """max <s, x + d> over |d| <= eps is <s, x> + eps |s|_dual, while the box does not bind."""
    threat = Threat(kind, EPS[kind], -jnp.inf, jnp.inf, density=1 / D)
    found = jax.jit(lambda key: solvers(threat)[name](key, lambda z: (SLOPE * z).sum(axis=1), X))(
        jax.random.key(0)
    )
    gain = EPS[kind] * np.linalg.norm(SLOPE, DUAL[kind], axis=1)
    np.testing.assert_allclose(found.value - (SLOPE * X).sum(axis=1), gain, rtol=0.02)


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_a_start_of_random_radius_is_uniform_along_the_radius(kind):
    """Its distance is eps U(0, 1) and its direction has no mean; uniform in the ball it would be eps U^(1/D)."""
    threat, many = Threat(kind, 0.3, -jnp.inf, jnp.inf), jnp.zeros((1000, D))
    found = np.asarray(random_radius(threat)(jax.random.key(3), many))
    share = np.linalg.norm(found, {"linf": np.inf, "l2": 2}[kind], axis=1) / 0.3
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    mean = found.mean(axis=0) / found.std(axis=0) * np.sqrt(1000)
    assert (np.abs(mean) < 4.5).all()


def test_fgsm_is_exact_on_a_linear_function():
    threat = Threat("linf", 0.1)
    found = fgsm(threat)(jax.random.key(0), lambda z: (SLOPE * z).sum(axis=1), X)
    np.testing.assert_allclose(found.x, X + 0.1 * jnp.sign(SLOPE), atol=1e-6)


def test_best_is_never_worse_than_the_start_nor_than_the_last():
    threat = Threat("linf", 0.3)

    def bumpy(z):
        return jnp.sin(40 * z).sum(axis=1)

    ascents = {
        keep: pgd(threat, steps=7, step_size=0.1, start=at_origin, keep=keep) for keep in ("best", "last")
    }
    best, last = (a(jax.random.key(0), bumpy, X).value for a in ascents.values())
    assert (best >= bumpy(X)).all() and (best >= last).all() and (best > last).any()


def test_objectives_that_are_nan_or_infinite_leave_a_feasible_point():
    threat = Threat("l2", 0.5)
    found = pgd(threat, steps=3, step_size=0.2)(jax.random.key(0), lambda z: jnp.log(z - 2.0).sum(axis=1), X)
    assert threat.contains(found.x, X).all()


def test_radius_per_example_and_step_per_example():
    eps = jnp.linspace(0.0, 0.5, B)
    attack = pgd(Threat("linf", eps), steps=10, step_size=eps / 4)
    found = attack(jax.random.key(0), objectives.margin(linear_net, Y), X)
    reached = np.abs(found.x - X).max(axis=1)
    assert (reached <= np.asarray(eps) + 1e-6).all() and reached[0] == 0
    np.testing.assert_allclose(found.x[0], X[0])


def test_a_radius_sweep_compiles_once():
    traces = []

    @jax.jit
    def attacked(threat, key):
        traces.append(1)
        attack = pgd(threat, steps=4, step_size=threat.eps / 2)
        return attack(key, objectives.margin(linear_net, Y), X).value

    values = [attacked(Threat("linf", jnp.float32(e)), jax.random.key(0)) for e in np.linspace(0, 0.5, 10)]
    assert len(traces) == 1
    assert (
        np.diff(np.array(values), axis=0) >= -1e-5
    ).all()  # on a linear net a larger ball never helps the net


def test_worst_of_is_at_least_as_strong_as_each_and_as_the_clean_image():
    threat = Threat("linf", 0.05)
    one = compose.against(pgd(threat, steps=5, step_size=0.02), objectives.cross_entropy)
    two = compose.against(fgsm(threat), objectives.dlr)
    key = jax.random.key(0)
    verdict = objectives.margin(linear_net, Y)
    worst = compose.worst_of(one, two)(key, linear_net, X, Y)
    keys = numerics.keys_for(key, B)
    apart = [a(numerics.fold(keys, i), linear_net, X, Y).x for i, a in enumerate((one, two))]
    np.testing.assert_allclose(
        worst.value, jnp.maximum(jnp.maximum(*map(verdict, apart)), verdict(X)), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_over_all_targets_finds_the_exact_margin_of_a_linear_net(chunk_size):
    """The worst margin of a linear net is max_j <w_j - w_y, x> + eps |w_j - w_y|_1: no single gradient knows it."""
    eps = 0.05
    attack = compose.over_targets(
        pgd(Threat("linf", eps), steps=3, step_size=eps, start=at_origin),
        targets=9,
        chunk_size=chunk_size,
    )
    found = attack(jax.random.key(0), linear_net, X, Y)
    gap = W.T[None] - W.T[Y][:, None]  # b k d
    worst = jnp.einsum("bkd,bd->bk", gap, X) + eps * jnp.abs(gap).sum(axis=2)
    worst = jnp.where(jax.nn.one_hot(Y, K, dtype=bool), -jnp.inf, worst).max(axis=1)
    np.testing.assert_allclose(found.value, worst, rtol=1e-4, atol=1e-5)


def test_wrong_classes_are_ranked_and_never_the_label():
    logits = jnp.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    ranked = compose.wrong_classes(logits, jnp.array([0, 2]), 9)
    np.testing.assert_array_equal(ranked, [[2, 1], [1, 0]])


def test_n_fgsm_steps_from_noise_and_leaves_the_ball_but_not_the_box():
    threat = Threat("linf", 0.1)
    found = fast.n_fgsm(threat)(jax.random.key(0), lambda z: (SLOPE * z).sum(axis=1), X)
    offset = np.asarray((found.x - 0.1 * jnp.sign(SLOPE) - X)[(found.x > 0) & (found.x < 1)])
    assert 0.15 < np.abs(offset).max() <= 0.2 + 1e-6  # what is left is the uniform noise of 2 eps
    assert (found.x >= 0).all() and (found.x <= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape, classes", [((5,), 2), ((2, 3), 3), ((3, 2, 1), 5), ((2, 2, 2, 2), 6)])
def test_feasible_for_any_shape_and_number_of_classes(shape, classes):
    @jax.jit
    def attack(eps, x, w):
        objective = objectives.dlr(lambda z: z.reshape(2, -1) @ w, jnp.array([0, 1]))
        threats = [Threat(kind, eps) for kind in EPS]
        found = [pgd(t, steps=3, step_size=eps / 3)(jax.random.key(0), objective, x).x for t in threats]
        return jnp.stack([t.contains(z, x) for t, z in zip(threats, found)]), jnp.stack(found)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 999), st.floats(0.125, 2, width=32))
    def check(seed, eps):
        rng = np.random.default_rng(seed)
        x = jnp.asarray(rng.uniform(size=(2, *shape)), jnp.float32)
        w = jnp.asarray(rng.normal(size=(int(np.prod(shape)), classes)), jnp.float32)
        feasible, found = attack(jnp.float32(eps), x, w)
        assert feasible.all() and (found >= 0).all() and (found <= 1).all()

    check()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda t: pgd(t, steps=-1, step_size=0.1), "steps is -1"),
        (lambda t: pgd(t, steps=1, step_size=-0.1), "step_size is -0.1"),
        (lambda t: pgd(t, steps=1, step_size=0.1, keep="first"), "keep is 'first'"),
        (lambda t: compose.restarts(fgsm(t), 0), "restarts is 0"),
        (lambda t: compose.restarts(fgsm(t), 2, chunk_size=0), "chunk_size is 0"),
        (lambda t: compose.worst_of(), "no attack given"),
        (lambda t: compose.over_targets(fgsm(t), targets=0), "targets is 0"),
    ],
)
def test_bad_settings_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build(Threat("linf", 0.1))
