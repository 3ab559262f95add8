"""Searches by decisions: they see signs only, ask as often as they may, and come to the boundary that theory gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_table import KEY, B, W, X, Y, net

from robustjax import attacks
from robustjax.attacks import objectives
from robustjax.attacks.decision import uniform_in_box
from robustjax.attacks.geoda import shares
from robustjax.attacks.solver import classified
from robustjax.logit import margin
from robustjax.threats import Threat

FREE = {kind: Threat(kind, jnp.inf, -20.0, 20.0) for kind in ("linf", "l2")}
SEARCHES = {
    "hop_skip_jump": (attacks.hop_skip_jump, "l2"),
    "boundary_attack": (attacks.boundary_attack, "l2"),
    "rays": (attacks.rays, "linf"),
    "sign_opt": (attacks.sign_opt, "l2"),
    "geoda": (attacks.geoda, "l2"),
}
w = np.asarray(W[:, 0] - W[:, 1])
GAP = np.abs(np.asarray(net(X) @ jnp.array([1.0, -1.0])))
EXACT = {"linf": GAP / np.abs(w).sum(), "l2": GAP / np.linalg.norm(w)}


def distance(points, kind):
    return np.linalg.norm(np.asarray(points - X).reshape(B, -1), {"linf": np.inf, "l2": 2}[kind], axis=1)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "rays")) for n in SEARCHES]
)
def test_only_signs_matter_and_every_query_is_counted(name):
    """Values are replaced by their signs, and the rows that the objective sees are counted where it runs."""
    build, kind = SEARCHES[name]
    solver, asked = build(FREE[kind], queries=150), []

    def counted(values):
        asked.append(len(values))
        return np.sign(values)

    def signs(x):
        values = margin(net(x), Y)
        shown = jax.pure_callback(counted, jax.ShapeDtypeStruct(values.shape, values.dtype), values)
        return shown, shown

    run = lambda objective: solver.finish(solver.advance(objective, solver.init(KEY, X), solver.length))
    blind = jax.jit(lambda: run(signs))()
    jax.block_until_ready(blind)
    assert len(asked) == 150 and set(asked) == {B}
    seeing = jax.jit(lambda: run(classified(net, Y, margin)))()
    np.testing.assert_array_equal(blind.x, seeing.x)
    assert (distance(blind.x, kind) >= EXACT[kind] * (1 - 1e-5)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, kind, queries, within",
    [
        ("hop_skip_jump", "l2", 1500, 0.03),
        ("hop_skip_jump", "linf", 1500, 0.03),
        ("boundary_attack", "l2", 1500, 0.01),
        ("rays", "linf", 600, 0.005),
        ("sign_opt", "l2", 1500, 0.01),
        ("geoda", "l2", 1500, 0.03),
        ("geoda", "linf", 1500, 0.03),
    ],
)
def test_a_linear_boundary_is_found_where_it_is(name, kind, queries, within):
    solver = SEARCHES[name][0](FREE[kind], queries=queries)
    found = jax.jit(lambda x: attacks.as_attack(solver)(KEY, net, x, Y))(X)
    assert (found.value > 0).all()
    ratio = distance(found.x, kind) / EXACT[kind]
    assert (ratio >= 1 - 1e-5).all() and (ratio < 1 + within).all(), ratio


def test_rays_follow_the_blocks_by_hand():
    """f = x2 - x1 - 0.6 at (0.5, 0.5): of four signs only (-1, 1) crosses soon, at 0.3; (1, 1) never does."""
    x = jnp.full((1, 2), 0.5)
    values = []

    def objective(z):
        value = z[:, 1] - z[:, 0] - 0.6
        jax.debug.callback(lambda v: values.append(np.asarray(v)[0]), z)
        return value, value

    solver = attacks.rays(Threat("linf", jnp.inf, 0.0, 1.0), queries=4)
    found = solver.finish(solver.advance(objective, solver.init(KEY, x), 4))
    # Both signs flipped: the corner (0, 0) is not adversarial. Then the first half, from the corner (0, 1) on.
    np.testing.assert_allclose(values[:3], [[0.0, 0.0], [0.0, 1.0], [0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(found.x, [[0.0, 1.0]], atol=1e-6)
    solver = attacks.rays(Threat("linf", jnp.inf, 0.0, 1.0), queries=30)
    found = solver.finish(solver.advance(objective, solver.init(KEY, x), 30))
    assert 0.3 - 1e-6 <= np.abs(found.x - x).max() <= 0.3 + 1e-3 / np.sqrt(2)


def test_a_search_may_be_given_its_first_point():
    """Without a box there is no uniform noise; from the class's other side any search begins."""
    across = X - jnp.asarray(
        2.0 * w * (np.asarray(net(X) @ jnp.array([1.0, -1.0])) / (w @ w))[:, None]
    ).reshape(X.shape)
    solver = attacks.hop_skip_jump(
        Threat("l2", jnp.inf, -jnp.inf, jnp.inf), queries=40, start=lambda key, x: across
    )
    found = jax.jit(lambda: attacks.as_attack(solver)(KEY, net, X, Y))()
    assert (found.value > 0).all()
    np.testing.assert_allclose(distance(found.x, "l2"), EXACT["l2"], rtol=0.05)  # 2 * 12^-1.5 may be left


def test_a_search_that_finds_nothing_gives_back_the_image():
    solver = attacks.rays(Threat("linf", 0.1, 0.0, 1.0), queries=20)
    never = lambda x: (-jnp.ones(len(x)), -jnp.ones(len(x)))
    found = solver.finish(solver.advance(never, solver.init(KEY, X), 20))
    np.testing.assert_array_equal(found.x, X)
    np.testing.assert_array_equal(found.value, -1.0)


def test_queries_rise_from_turn_to_turn_as_published():
    """4000 queries, 8 turns: 25 of each are set aside, and each turn has 0.6^(-2/3) times the one before."""
    found = np.asarray(shares(4000, 0.6))
    assert len(found) == 8 and abs(found.sum() - 3800) <= 8
    np.testing.assert_allclose(found[1:] / found[:-1], 0.6 ** (-2 / 3), rtol=0.02)
    assert len(shares(100, 0.6)) == 3


@pytest.mark.slow
def test_what_was_found_after_so_many_queries():
    solver = attacks.rays(FREE["linf"], queries=300)
    objective = objectives.margin(net, Y)
    curve = attacks.query_curve(solver, KEY, objective, X, norm="linf", at=(1, 40, 300, 400))
    assert (np.diff(curve.distance, axis=0)[1:] <= 0).all()
    np.testing.assert_allclose(curve.distance[-1], EXACT["linf"], rtol=0.005)
    np.testing.assert_array_equal(curve.distance[-1], curve.distance[-2])
    np.testing.assert_allclose(curve.success(float(EXACT["linf"].max()) * 1.01)[-1], 1.0)
    np.testing.assert_allclose(curve.median()[-1], np.median(curve.distance[-1]))
    square = attacks.square(Threat("linf", 1e-4), queries=20)  # nothing is so near
    assert np.isinf(attacks.query_curve(square, KEY, objective, X, norm="linf", at=(21,)).distance).all()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: attacks.hop_skip_jump(Threat("l1", 1.0)), "norm is 'l1', must be 'linf' or 'l2'"),
        (lambda: attacks.boundary_attack(Threat("linf", 1.0)), "norm is 'linf', must be 'l2'"),
        (lambda: attacks.rays(Threat("linf", 1.0, -jnp.inf)), "must be finite"),
        (lambda: attacks.geoda(Threat("l2", 1.0, upper=jnp.inf)), "or give the start"),
        (lambda: attacks.sign_opt(Threat("l2", 1.0), queries=1), "queries is 1"),
        (lambda: attacks.geoda(Threat("l2", 1.0), ratio=1.0), "ratio is 1.0"),
        (lambda: attacks.boundary_attack(Threat("l2", 1.0), adaptation=1.0), "adaptation is 1.0"),
        (lambda: attacks.hop_skip_jump(Threat("l2", 1.0), gamma=0.0), "gamma is 0.0"),
        (lambda: uniform_in_box("here", Threat("l2", 1.0, -jnp.inf)), "here: the box is"),
        (
            lambda: attacks.query_curve(
                attacks.rays(FREE["linf"]), KEY, objectives.margin(net, Y), X, norm="linf", at=(5, 5)
            ),
            "must be numbers of queries that rise",
        ),
        (
            lambda: attacks.query_curve(
                attacks.rays(FREE["linf"]), KEY, objectives.cross_entropy(net, Y), X, norm="linf", at=(5,)
            ),
            "not known to say so",
        ),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
