"""FAB: exact projections, minimum norms on linear networks, and results that stay within the radius."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import logit
from robustjax.attacks import compose, objectives
from robustjax.attacks.fab import boundary, fab, fab_targeted
from robustjax.attacks.hyperplane import onto_hyperplane
from robustjax.attacks.signed import signed
from robustjax.attacks.solver import classified, own_merit
from robustjax.attacks.starts import halfway
from robustjax.numerics import norm
from robustjax.threats import Threat

N, D, K = 6, 20, 5
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(D, K)).astype(np.float32)
X = jnp.asarray(RNG.uniform(size=(N, D)), jnp.float32)
Y = (X @ WEIGHT).argmax(axis=1)
KEY = jax.random.key(0)
FREE, BOX = (-np.inf, np.inf), (0.0, 1.0)
NORMS = ["linf", "l2", "l1"]


def net(x):
    return x.reshape(x.shape[0], -1) @ WEIGHT


def shortest_way(kind, w, gap, x, low, high):
    """Length of the shortest d with <w, d> = -gap in the box, in float64; inf if there is none."""
    if kind == "l2":  # d = clip(-t w), and <w, d> falls as t grows
        room = lambda t: np.clip(-t * w, low - x, high - x)
        sign = 1.0 if gap > 0 else -1.0
        less, more = 0.0, 1e9
        if abs(w @ room(sign * more)) < abs(gap):
            return np.inf
        for _ in range(200):
            middle = (less + more) / 2
            less, more = (less, middle) if abs(w @ room(sign * middle)) >= abs(gap) else (middle, more)
        return np.linalg.norm(room(sign * more))
    # d = a - b with a, b >= 0; minimise their sum, or a bound on each.
    n = w.size
    bounds = [(0, h if np.isfinite(h) else None) for h in np.broadcast_to(high - x, n)]
    bounds += [(0, h if np.isfinite(h) else None) for h in np.broadcast_to(x - low, n)]
    equal = np.concatenate([w, -w])[None]
    if kind == "l1":
        solved = scipy.optimize.linprog(np.ones(2 * n), A_eq=equal, b_eq=[-gap], bounds=bounds)
    else:
        within = np.hstack([np.eye(2 * n), -np.ones((2 * n, 1))])
        cost, equal = np.eye(2 * n + 1)[-1], np.append(equal, [[0]], axis=1)
        bounds.append((0, None))
        solved = scipy.optimize.linprog(cost, within, np.zeros(2 * n), equal, [-gap], bounds)
    return solved.fun if solved.success else np.inf


@pytest.mark.parametrize("box", [FREE, BOX], ids=["free", "box"])
@pytest.mark.parametrize("kind", NORMS)
def test_the_way_to_a_hyperplane_is_the_shortest(kind, box):
    project = jax.jit(lambda w, gap, x: onto_hyperplane(kind, w, gap, x, *box))

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 10**6), st.sampled_from([1e-20, 1.0, 1e15]), st.sampled_from([0.0, 0.3, 3.0]))
    def check(seed, scale, far):
        rng = np.random.default_rng(seed)
        w = rng.normal(size=(3, 7)) * rng.choice([0.0, 1.0, 1.0], size=(3, 7))
        w[0, 2] = w[0, 5] = w[0].max() + 1.0  # a tie
        x = rng.uniform(size=(3, 7)).round(1)
        gap = far * rng.normal(size=3)
        w, gap, x = (np.float64(np.float32(v)) for v in (w, gap, x))
        d = np.float64(project(*(jnp.asarray(v, jnp.float32) for v in (scale * w, scale * gap, x))))
        assert ((x + d >= box[0] - 1e-6) & (x + d <= box[1] + 1e-6)).all()
        for i in range(3):
            best = shortest_way(kind, w[i], gap[i], x[i], *box) if w[i].any() else np.inf
            length = np.linalg.norm(d[i], {"linf": np.inf, "l2": 2, "l1": 1}[kind])
            if np.isfinite(best):
                np.testing.assert_allclose(length, best, rtol=2e-5, atol=1e-6)
                np.testing.assert_allclose(w[i] @ d[i], -gap[i], rtol=1e-5, atol=1e-5)
            elif w[i].any():  # out of reach: the corner that comes nearest
                corner = np.where(w[i] * gap[i] > 0, box[0], box[1])
                np.testing.assert_allclose(x[i] + d[i], np.where(w[i] == 0, x[i], corner), atol=1e-6)
            else:
                assert (d[i] == 0).all()

    check()


@pytest.mark.parametrize("attack, box", [(fab, FREE), (fab_targeted, BOX)], ids=["any-free", "targeted-box"])
@pytest.mark.parametrize("kind", NORMS)
def test_comes_within_a_percent_of_the_minimum_norm_of_a_linear_network(kind, attack, box):
    threat = Threat(kind, jnp.inf, *box)
    found = jax.jit(lambda key: attack(threat)(key, net, X, Y))(KEY)
    slopes, x = np.float64(WEIGHT), np.float64(X)
    for i, y in enumerate(np.asarray(Y)):
        ways = [slopes[:, y] - slopes[:, j] for j in range(K) if j != y]
        best = min(shortest_way(kind, w, w @ x[i], x[i], *box) for w in ways)
        length = np.linalg.norm(np.float64(found.x[i]) - x[i], {"linf": np.inf, "l2": 2, "l1": 1}[kind])
        assert best * (1 - 1e-5) < length < 1.01 * best
    np.testing.assert_allclose(found.value, logit.margin(net(found.x), Y), atol=1e-5)
    assert (found.value > 0).all() and ((found.x >= box[0]) & (found.x <= box[1])).all()


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [3])
def test_targets_may_be_folded_or_mapped_and_there_are_at_most_all_of_them(chunk_size):
    attack = lambda **settings: fab_targeted(Threat("l2", jnp.inf), steps=15, **settings)
    one = jax.jit(lambda key: attack(targets=1)(key, net, X, Y))(KEY)
    many = jax.jit(lambda key: attack(targets=9, chunk_size=chunk_size)(key, net, X, Y))(KEY)
    one, many = (np.asarray(norm(found.x - X, "l2")) for found in (one, many))
    assert (many <= one + 1e-5).all() and (many < one - 1e-3).any()
    gap = np.float32(WEIGHT).T[:, None] - WEIGHT.T[Y]  # k b d
    size = np.linalg.norm(gap, axis=2)
    ways = np.where(size > 0, -(gap * X[None]).sum(axis=2) / np.where(size > 0, size, 1), np.inf)
    assert (many >= ways.min(axis=0) * 0.9999).all()


def test_beyond_the_radius_nothing_is_returned_but_the_strongest_point_inside():
    solver = boundary(Threat("l2", jnp.inf), steps=20)
    objective = classified(net, Y, logit.margin)
    distance = jax.jit(lambda: solver.advance(objective, solver.init(KEY, X), solver.length))().kept.distance
    eps = distance * jnp.array([0.5, 0.9, 0.999, 1.001, 1.5, 9.0])
    threat = Threat("l2", eps)
    found = jax.jit(lambda: boundary(threat, steps=20)(KEY, objectives.margin(net, Y), X))()
    np.testing.assert_array_equal(found.value > 0, [False, False, False, True, True, True])
    assert threat.contains(found.x, X).all()
    np.testing.assert_allclose(found.value, logit.margin(net(found.x), Y), atol=1e-5)
    assert (found.value >= logit.margin(net(X), Y)).all()


def test_a_point_that_is_already_misclassified_is_its_own_nearest():
    found = jax.jit(lambda: fab(Threat("linf", 0.1), steps=5)(KEY, net, X, (Y + 1) % K))()
    np.testing.assert_array_equal(found.x, X)
    assert (found.value > 0).all()


def test_any_objective_has_a_nearest_point_where_it_is_positive():
    """Leaving a sphere: the nearest point beyond lies on the ray from its centre."""
    centre, radius = 0.4, 3.0

    @signed
    def outside(x):
        return jnp.sqrt(jnp.square(x - centre).sum(axis=1)) - radius

    found = jax.jit(lambda: boundary(Threat("l2", jnp.inf, -np.inf, np.inf))(KEY, outside, X))()
    offset = np.asarray(X) - centre
    reach = radius - np.linalg.norm(offset, axis=1)
    length = np.linalg.norm(found.x - X, axis=1)
    assert (reach > 0).all() and (length >= reach * 0.9999).all() and (length < 1.01 * reach).all()
    ray = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    assert (((found.x - X) * ray).sum(axis=1) > 0.99 * length).all()


@pytest.mark.slow
def test_is_an_ascent_for_targets_and_random_restarts():
    threat = Threat("linf", 0.2)
    ascent = compose.restarts(boundary(threat, steps=5, start=halfway(threat)), 2, chunk_size=1)
    found = jax.jit(lambda: compose.over_targets(ascent, targets=2, chunk_size=1)(KEY, net, X, Y))()
    assert threat.contains(found.x, X).all() and (found.value >= logit.margin(net(X), Y)).all()
    np.testing.assert_allclose(norm(halfway(threat)(KEY, X) - X, "linf"), 0.1, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_logits_does_not_matter(scale):
    attack = jax.jit(lambda c: fab(Threat("l2", jnp.inf), steps=10)(KEY, lambda x: c * net(x), X, Y).x)
    np.testing.assert_allclose(attack(jnp.float32(scale)), attack(jnp.float32(1.0)), atol=1e-5)


SHAPES = [
    (fab_targeted, "linf", (), 2),
    (fab_targeted, "l2", (2, 3, 2, 2), 10),
    (fab, "l1", (4, 3), 3),
    (fab, "linf", (7,), 100),
]


@pytest.mark.parametrize("attack, kind, shape, classes", SHAPES)
def test_feasible_for_any_shape_radius_box_and_number_of_classes(attack, kind, shape, classes):
    rng = np.random.default_rng(classes)
    w = jnp.asarray(rng.normal(size=(int(np.prod(shape)), classes)), jnp.float32)

    @jax.jit
    def attacked(key, threat, x):
        logits_fn, y = (lambda z: z.reshape(z.shape[0], -1) @ w), jnp.array([0, 1])
        found = attack(threat, steps=8)(key, logits_fn, x, y)
        return threat.contains(found.x, x), logit.margin(logits_fn(found.x), y) - found.value

    @settings(max_examples=25, deadline=None)
    @given(st.floats(0, 10, width=32), st.sampled_from([(0.0, 1.0), (-2.0, 3.0)]), st.integers(0, 99))
    def check(eps, box, seed):
        x = jnp.asarray(np.random.default_rng(seed).uniform(*box, size=(2, *shape)).round(1), jnp.float32)
        lower, upper = map(jnp.float32, box)
        feasible, off = attacked(jax.random.key(seed), Threat(kind, jnp.float32(eps), lower, upper), x)
        assert feasible.all() and (jnp.abs(off) < 1e-4).all()

    check()


def test_rows_may_be_dropped_shuffled_padded_and_joined_with_rows_of_another_age_and_one_trace_serves_all():
    traces = []

    @jax.jit
    def advance(threat, state, y, count):
        traces.append(1)
        return boundary(threat, steps=30).advance(classified(net, y, logit.margin), state, count)

    threat = Threat("l2", jnp.float32(jnp.inf))
    young, order = boundary(threat).init(KEY, X), jnp.array([4, 2, 0, 0, 1, 3])  # without 5, 0 twice
    whole = advance(threat, young, Y, jnp.int32(30))
    old = advance(threat, young, Y, jnp.int32(8))
    take = lambda tree: jax.tree.map(lambda a: a[order], tree)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:3], b[3:]]), take(old), take(young))
    for count in (7, 100):  # the second is more than anyone has left
        mixed = advance(threat, mixed, Y[order], jnp.int32(count))
    assert (mixed.step == 30).all()
    np.testing.assert_allclose(mixed.kept.distance, whole.kept.distance[order], rtol=1e-4)
    np.testing.assert_allclose(mixed.kept.nearest.x, whole.kept.nearest.x[order], atol=1e-4)
    within = advance(Threat("l2", jnp.float32(0.1)), young, Y, jnp.int32(5))
    assert (norm(within.kept.found.x - X, "l2") <= 0.1).all() and len(traces) == 1


@pytest.mark.parametrize("value", [np.nan, 0.0], ids=["nan", "flat"])
def test_networks_without_a_slope_leave_a_feasible_point(value):
    threat = Threat("linf", 0.1)
    found = fab(threat, steps=3)(KEY, lambda x: value * net(x), X, Y)
    assert threat.contains(found.x, X).all() and not (found.value > 0).any()


@pytest.mark.slow
def test_judged_values_and_merits_may_differ():
    """Walk to the boundary of one function and keep where another is positive."""
    solver = boundary(Threat("l2", jnp.inf, -9.0, 9.0), steps=10)
    origin = jnp.zeros((1, 2))
    both = lambda x: (x[:, 0] - 1.0, x[:, 0] - 1.03)
    state = solver.advance(both, solver.init(KEY, origin), 10)
    assert 1.03 < state.kept.distance[0] < 1.06
    alone = solver.advance(own_merit(lambda x: x[:, 0] - 1.0), solver.init(KEY, origin), 10)
    assert 1.0 < alone.kept.distance[0] < 1.01


@pytest.mark.parametrize("compat, nearest", [(None, 1.134), ("official", 1.20626)])
def test_the_point_stepped_back_to_is_kept_unless_official(compat, nearest):
    """Two steps by hand from 0: the walk is to 1.2, and what lies beyond 1 counts.

    0 -> 1.05 * 1.2 = 1.26, beyond: back to 0.9 * 1.26 = 1.134, which counts too. From there 0.066 is missing, to the
    origin 1.2: alpha = 0.066 / 1.266, and (1 - alpha) (1.134 + 1.05 * 0.066) + alpha 1.26 = 1.20626.
    """
    solver = boundary(Threat("l2", jnp.inf, -9.0, 9.0), steps=2, compat=compat)
    objective = lambda x: (x[:, 0] - 1.2, x[:, 0] - 1.0)
    state = jax.jit(lambda: solver.advance(objective, solver.init(KEY, jnp.zeros((1, 1))), 2))()
    np.testing.assert_allclose(state.kept.distance, nearest, rtol=1e-4)
    np.testing.assert_allclose(state.kept.nearest.x, [[nearest]], rtol=1e-4)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda t: fab(t, steps=0), "steps is 0"),
        (lambda t: fab(t, compat="theirs"), "compat is 'theirs'"),
        (lambda t: fab_targeted(t, targets=0), "targets is 0"),
        (lambda t: fab_targeted(t, chunk_size=0), "chunk_size is 0"),
        (lambda t: halfway(Threat("l2", np.inf)), "halfway: eps is inf"),
    ],
)
def test_bad_settings_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build(Threat("linf", 0.1))
