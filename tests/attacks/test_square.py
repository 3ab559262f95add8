"""Square: its proposals against slices in numpy, and what random search must keep: feasible, never worse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import logit
from robustjax.attacks import objectives, square_windows
from robustjax.attacks.solver import classified, own_merit
from robustjax.attacks.square import Draw, _draw, edge, moved_bumps, square
from robustjax.numerics import norm
from robustjax.threats import Threat

N, H, W, C, K = 4, 6, 9, 2, 5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(N, H, W, C)), jnp.float32)
SLOPE = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=(H * W * C, K)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, K, size=N), jnp.int32)
EPS = {"linf": 0.1, "l2": 1.0, "l1": 5.0}
KEY = jax.random.key(0)


def net(x):
    return x.reshape(x.shape[0], -1) @ WEIGHT


def linear(x):
    return (SLOPE * x).sum(axis=(1, 2, 3))


def some_draw(seed=0):
    rng = np.random.default_rng(seed)
    rows, columns = np.array([3, 5, 1, 6]), np.array([4, 3, 9, 2])
    corners = [np.stack([rng.integers(0, H - rows + 1), rng.integers(0, W - columns + 1)], 1) for _ in "ab"]
    sign = rng.choice([-1.0, 1.0], size=(N, 1, 1, C))
    sideways = np.array([True, False, True, False])
    return Draw(*(jnp.asarray(v) for v in (rows, columns, *corners, sideways, np.float32(sign))))


def size_of(v, kind):
    return np.sqrt((v**2).sum()) if kind == "l2" else np.abs(v).sum()


def proposed_in_slices(kind, delta, eps, draw, i, bump):
    """One example, channel by channel, in float64, as the paper's pseudo-code has it."""
    total, new = size_of(delta, kind), delta.copy()
    (r1, c1), (r2, c2), rows, columns = draw.corner[i], draw.second[i], draw.rows[i], draw.columns[i]
    one = np.s_[r1 : r1 + rows, c1 : c1 + columns]
    two = np.s_[r2 : r2 + rows, c2 : c2 + columns]
    for c in range(C):
        union = np.zeros((H, W), bool)
        union[one] = union[two] = True
        old, spent = delta[(*one, c)], size_of(delta[..., c][union], kind)
        ν = bump[one] * float(draw.sign[i, 0, 0, c]) + old / size_of(old, kind)
        if kind == "l2":
            budget = np.sqrt(max(eps**2 - total**2, 0) / C + spent**2)
        else:
            budget = (max(eps - total, 0) / C + spent) * C
        new[(*two, c)] = 0
        new[(*one, c)] = ν / size_of(ν, kind) * budget
    return new * eps / size_of(new, kind) if kind == "l2" else new


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_bumps_move_as_in_slices(kind):
    draw, origin = some_draw(), X
    x = origin + 0.1 * SLOPE
    eps = 1.1 * float(norm(x - origin, kind).max())  # budget left over
    moved = np.asarray(jax.jit(lambda x: moved_bumps(Threat(kind, eps), origin, x, draw) - origin)(x))
    drawn = square_windows.bumps(kind, draw.rows, draw.columns, *draw.corner.T, draw.sideways, H, W)
    for i in range(N):
        expected = proposed_in_slices(
            kind, np.float64(x - origin)[i], eps, draw, i, np.float64(drawn[i, :, :, 0])
        )
        np.testing.assert_allclose(moved[i], expected, atol=1e-5)


def test_windows_go_to_the_edge_as_in_slices():
    draw, eps = some_draw(), 0.3
    moved = np.asarray(edge(Threat("linf", eps), X, X + 0.01, draw))
    for i in range(N):
        (r, c), expected = draw.corner[i], np.array(X[i] + 0.01)
        window = np.s_[r : r + draw.rows[i], c : c + draw.columns[i]]
        expected[window] = X[i][window] + eps * draw.sign[i]
        np.testing.assert_allclose(moved[i], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EPS)
def test_never_worse_one_forward_pass_per_query_and_no_gradient(kind):
    path, solver = [], square(Threat(kind, EPS[kind]), queries=400)

    @jax.custom_jvp
    def forward_only(x):
        return linear(x)

    @forward_only.defjvp
    def _refuse(primals, tangents):
        raise AssertionError("a gradient was asked for")

    def objective(x):
        value = forward_only(x)
        jax.debug.callback(lambda x, v: path.append((np.asarray(x), np.asarray(v))), x, value, ordered=True)
        return value, jnp.sin(value)

    state = jax.jit(lambda key: solver.advance(objective, solver.init(key, X), solver.length))(KEY)
    jax.effects_barrier()
    points, values = map(np.stack, zip(*path, strict=True))
    assert len(path) == solver.length == 401
    np.testing.assert_allclose(state.value, values.max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(solver.finish(state).value, np.sin(values).max(axis=0), atol=1e-5)
    np.testing.assert_allclose(linear(state.x), state.value, rtol=1e-4)
    best = EPS[kind] * norm(SLOPE, {"linf": "l1", "l2": "l2", "l1": "linf"}[kind])
    assert ((state.value - linear(X)) / best > 0.25).all()
    # The sum of absolute values itself is only that exact in float32.
    assert jax.vmap(lambda x: Threat(kind, EPS[kind]).contains(x, X, rtol=5e-6))(points).all()
    if kind != "l1":  # every l2 and linf proposal spends the whole radius somewhere, the box aside
        assert (np.abs(points - X[None]).max(axis=(2, 3, 4)) > 0.05).all()


@pytest.mark.slow
def test_queries_that_change_nothing_are_passed_over_and_nothing_else_changes():
    queries, threat = 60, Threat("linf", 0.3)
    x = jnp.where(X > 0.5, X, 0.0)[..., :1]  # at the box, where every other window stays as it is
    slope, keys = SLOPE[..., :1], jax.random.split(KEY, N)
    value = jax.jit(lambda x: (slope * x).sum(axis=(1, 2, 3)))
    solver = square(threat, queries=queries)
    state = solver.init(keys, x)
    best, least, idle = state.x, value(state.x), 0
    for step in range(1, queries + 1):  # one query after another, all of them asked
        draw = _draw("linf", state.key, jnp.full(N, step), x, 0.8, False)
        proposal = threat.project(edge(threat, x, best, draw), x)
        idle += np.asarray((proposal == best).all(axis=(1, 2, 3)))
        ahead = value(proposal) > least
        best = jnp.where(ahead[:, None, None, None], proposal, best)
        least = jnp.maximum(least, value(proposal))
    half = jax.jit(lambda s: solver.advance(own_merit(value), s, 31))(state)
    assert (idle > 3).all() and half.step.max() > 31 and (half.step <= 31 + idle).all()
    state = jax.jit(lambda s: solver.advance(own_merit(value), s, queries))(half)
    assert (state.step == queries + 1).all()
    np.testing.assert_array_equal(solver.finish(state).x, best)


def test_reaches_the_optimum_of_a_linear_objective_in_linf():
    threat = Threat("linf", 0.1, -9.0, 9.0)
    found = jax.jit(lambda key: square(threat, queries=2000)(key, linear, X))(KEY)
    assert ((found.value - linear(X)) / (0.1 * norm(SLOPE, "l1")) > 0.9).all()


SHAPES = [("linf", (), 2), ("l2", (7, 5, 3), 100), ("l1", (2, 3, 2, 2), 3)]


@pytest.mark.parametrize("kind, shape, classes", SHAPES)
def test_feasible_for_any_shape_radius_box_and_number_of_classes(kind, shape, classes):
    rng = np.random.default_rng(classes)
    w = jnp.asarray(rng.normal(size=(int(np.prod(shape)), classes)), jnp.float32)

    @jax.jit
    def attacked(key, threat, x):
        objective = objectives.margin(lambda z: z.reshape(z.shape[0], -1) @ w, jnp.array([0, 1]))
        found = square(threat, queries=40)(key, objective, x)
        # Every feature of x + d is rounded, which in l1 adds up.
        return threat.contains(found.x, x, atol=1e-7 + 3e-8 * x[0].size), objective(found.x) - found.value

    @settings(max_examples=25, deadline=None)
    @given(st.floats(0, 10, width=32), st.sampled_from([(0.0, 1.0), (-2.0, 3.0)]), st.integers(0, 99))
    def check(eps, box, seed):
        x = jnp.asarray(np.random.default_rng(seed).uniform(*box, size=(2, *shape)).round(1), jnp.float32)
        lower, upper = map(jnp.float32, box)
        feasible, off = attacked(jax.random.key(seed), Threat(kind, jnp.float32(eps), lower, upper), x)
        assert feasible.all() and (jnp.abs(off) < 1e-4).all()

    check()


def test_the_start_covers_images_of_every_size():
    for height in (1, 2, 5, 7, 9, 14, 19, 24):  # most of these break the published tiling
        x = jax.ShapeDtypeStruct((2, height, 3 + height % 7, 2), jnp.float32)
        state = jax.eval_shape(square(Threat("l2", 1.0)).init, KEY, x)
        assert state.x.shape == x.shape
    start = jax.jit(square(Threat("l2", 1.0, -9.0, 9.0)).init)(KEY, jnp.zeros((1, 24, 7, 2))).x
    assert (start != 0).all()
    np.testing.assert_allclose(norm(start, "l2"), 1.0, rtol=1e-5)


@pytest.mark.parametrize("official", [False, True])
def test_windows_reach_every_corner_and_differ_between_examples(official):
    x, keys = jnp.zeros((500, 5, 5, 1)), jax.random.split(KEY, 500)
    draw = jax.jit(lambda keys: _draw("linf", keys, jnp.full(500, 60), x, 0.8, official))(keys)
    offsets = 5 - int(draw.rows[0])
    if official:
        one = {tuple(np.asarray(c)) for c in draw.corner}
        assert len(one) == 1 and len(np.unique(draw.sign)) == 1
    else:
        counts = np.bincount(np.asarray(draw.corner).ravel(), minlength=offsets + 1)
        assert len(counts) == offsets + 1 and counts.min() > 0.7 * counts.max()
        assert np.abs(np.asarray(draw.sign).mean()) < 0.15


def test_official_windows_never_take_the_last_offset():
    steps = jnp.arange(52, 200)

    @jax.jit
    def corners(steps):
        one = jnp.zeros((1, 6, 6, 1))
        return jax.vmap(lambda i: _draw("linf", KEY[None], i[None], one, 0.8, True).corner)(steps)

    assert corners(steps).max() == 6 - square_windows.sides(6, 6, 0.8, odd=False)[2][0] - 1


def test_the_start_of_an_image_depends_on_its_key_and_on_nothing_else():
    init, order = jax.jit(square(Threat("l2", 1.0)).init), jnp.array([2, 0])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(N))
    whole, part = init(KEY, X), init(keys[order], X[order])
    np.testing.assert_allclose(part.x, whole.x[order], atol=1e-6)
    assert (jax.random.key_data(part.key) == jax.random.key_data(whole.key[order])).all()


@pytest.mark.slow
def test_rows_may_be_dropped_shuffled_padded_and_joined_with_rows_of_another_age():
    solver, keys = square(Threat("linf", 0.2), queries=40), jax.random.split(KEY, N)
    advance = jax.jit(lambda state, y, n: solver.advance(classified(net, y, logit.margin), state, n))
    whole = solver.finish(advance(solver.init(keys, X), Y, solver.length))

    young, order = solver.init(keys, X), jnp.array([3, 0, 0, 1])  # without 2, with 0 again as padding
    old = advance(young, Y, jnp.int32(9))
    take = lambda tree: jax.tree.map(lambda a: a[order], tree)
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:2], b[2:]]), take(old), take(young))
    for count in (7, 100):  # the second is more than anyone has left
        mixed = advance(mixed, Y[order], jnp.int32(count))
    assert (mixed.step == solver.length).all()
    found = solver.finish(mixed)
    np.testing.assert_allclose(found.value, whole.value[order], rtol=1e-5)
    np.testing.assert_allclose(found.x, whole.x[order], atol=1e-6)


def test_a_sweep_over_radii_and_segments_compiles_once():
    traces, reached = [], []

    @jax.jit
    def advance(threat, state, count):
        traces.append(1)
        return square(threat, queries=30).advance(own_merit(linear), state, count)

    for eps in (0.01, 0.1, 0.3):
        threat = Threat("linf", jnp.float32(eps))
        state = square(threat, queries=30).init(KEY, X)
        for count in (1, 10, 20):
            state = advance(threat, state, jnp.int32(count))
        reached.append(state.found.value)
    assert len(traces) == 1 and (np.diff(reached, axis=0) > 0).all()


def test_values_that_are_nan_leave_a_feasible_point():
    threat = Threat("linf", 0.5)
    found = jax.jit(lambda key: square(threat, queries=3)(key, lambda x: jnp.log(x.sum((1, 2, 3)) - 1e3), X))(
        KEY
    )
    assert threat.contains(found.x, X).all() and (found.value == -jnp.inf).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"queries": -1}, "queries is -1"),
        ({"p_init": 0.0}, "p_init is 0.0"),
        ({"p_init": 1.5}, "p_init is 1.5"),
        ({"compat": "offical"}, "compat is 'offical'"),
    ],
)
def test_bad_settings_are_refused_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        square(Threat("linf", 0.1), **settings)


def test_an_infinite_radius_is_refused_when_built():
    with pytest.raises(ValueError, match="square: eps is inf"):
        square(Threat("l2", np.inf))
