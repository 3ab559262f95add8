"""Grid search against brute force in numpy, and what goes on from where it ended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks.compose import against
from robustjax.attacks.grid import grid, refined
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import as_attack, classified, own_merit
from robustjax.attacks.starts import at_origin
from robustjax.threats import Threat

B = 5
COUNTS = (4, 3, 1)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(-0.5, 0.5, size=(B, 3)), jnp.float32)
WAVES = jnp.asarray(RNG.normal(size=(B, 3, 8)) * 4, jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
Y = jnp.asarray([0, 1, 2, 3, 0])
KEY = jax.random.key(0)


def bumpy(u):
    return jnp.sin(jnp.einsum("bd,bdk->bk", u, WAVES)).sum(axis=1)


def points(threat):
    """All points of the grid, (b, n, 3), by three nested loops."""
    eps = np.broadcast_to(np.asarray(threat.eps, np.float32), (B,))
    table = []
    for b in range(B):
        low = np.maximum(np.asarray(X[b]) - eps[b], threat.lower)
        high = np.minimum(np.asarray(X[b]) + eps[b], threat.upper)
        axes = [np.linspace(lo, hi, n) if n > 1 else [(lo + hi) / 2] for lo, hi, n in zip(low, high, COUNTS)]
        table.append([(i, j, k) for i in axes[0] for j in axes[1] for k in axes[2]])
    return np.asarray(table, np.float32)


@pytest.mark.parametrize("eps", [0.3, 2.0, jnp.asarray([0.1, 0.2, 0.5, 1.0, 3.0])], ids=str)
def test_finds_the_best_point_of_the_grid(eps):
    threat = Threat("linf", eps, -1.0, 1.0)
    found = jax.jit(lambda k: grid(threat, counts=COUNTS)(k, bumpy, X))(KEY)
    table = points(threat)
    values = np.stack([np.asarray(bumpy(jnp.asarray(table[:, i]))) for i in range(table.shape[1])], axis=1)
    clean = np.asarray(bumpy(X))
    np.testing.assert_allclose(found.value, np.maximum(values.max(axis=1), clean), rtol=1e-4, atol=1e-4)
    best = np.where(
        (clean > values.max(axis=1))[:, None], np.asarray(X), table[np.arange(B), values.argmax(axis=1)]
    )
    np.testing.assert_allclose(found.x, best, atol=1e-5)
    assert threat.contains(found.x, X).all()


def test_tries_each_point_once_and_the_origin_first():
    seen = []

    def spy(u):
        jax.debug.callback(lambda v: seen.append(np.asarray(v)), u, ordered=True)
        return u.sum(axis=1)

    threat = Threat("linf", 0.5, -1.0, 1.0)
    solver = grid(threat, counts=COUNTS)
    solver(KEY, spy, X)
    jax.effects_barrier()
    visited = np.stack(seen, axis=1)
    assert visited.shape[1] == solver.length == 13
    np.testing.assert_array_equal(visited[:, 0], X)
    np.testing.assert_allclose(visited[:, 1:], points(threat), atol=1e-6)


def test_a_finer_grid_that_holds_the_coarse_one_is_no_worse():
    threat = Threat("linf", 1.0, -1.0, 1.0)
    coarse, fine = (grid(threat, counts=(n, n, 1))(KEY, bumpy, X).value for n in (3, 5))
    assert (fine >= coarse - 1e-5).all() and (fine > coarse + 0.1).any()


def test_segments_rows_and_order_do_not_change_the_result():
    threat = Threat("linf", 1.0, -1.0, 1.0)
    solver = grid(threat, counts=COUNTS)
    whole = solver(KEY, bumpy, X)
    order = jnp.array([3, 1, 0])

    def part(u):
        return jnp.sin(jnp.einsum("bd,bdk->bk", u, WAVES[order])).sum(axis=1)

    state = solver.advance(own_merit(bumpy), solver.init(KEY, X), 5)
    state = solver.advance(own_merit(part), jax.tree.map(lambda a: a[order], state), solver.length)
    np.testing.assert_allclose(solver.finish(state).x, whole.x[order], atol=1e-6)


def test_keeps_the_point_of_highest_margin_whatever_it_climbs():
    threat = Threat("linf", 1.0, -1.0, 1.0)
    solver = grid(threat, counts=(7, 7, 1))
    both = classified(lambda u: jnp.sin(3 * u) @ WEIGHT, Y, logit.cross_entropy)
    found = solver.finish(solver.advance(both, solver.init(KEY, X), solver.length))
    np.testing.assert_allclose(found.value, both(found.x)[1], atol=1e-5)


def test_refinement_starts_at_the_best_point_and_never_loses_it():
    threat = Threat("linf", 1.0, -1.0, 1.0)

    def net(u):
        return jnp.sin(5 * u) @ WEIGHT

    coarse = as_attack(grid(threat, counts=(4, 4, 4)))
    starts = []

    def then(start):
        starts.append(start)
        return against(pgd(threat, steps=10, step_size=0.05, start=start))

    first, after = coarse(KEY, net, X, Y), refined(coarse, then)(KEY, net, X, Y)
    np.testing.assert_array_equal(starts[0](KEY, X), first.x)
    assert (after.value >= first.value).all() and (after.value > first.value).any()
    assert threat.contains(after.x, X).all()
    np.testing.assert_allclose(logit.margin(net(after.x), Y), after.value, atol=1e-5)
    unhelpful = refined(
        coarse,
        lambda start: against(pgd(Threat("linf", 0.0, -1.0, 1.0), steps=0, step_size=0.0, start=at_origin)),
    )
    np.testing.assert_array_equal(unhelpful(KEY, net, X, Y).x, first.x)


@pytest.mark.parametrize(
    "build",
    [
        lambda: grid(Threat("l2", 1.0), counts=(3,)),
        lambda: grid(Threat("linf", float("inf")), counts=(3,)),
        lambda: grid(Threat("linf", 1.0), counts=()),
        lambda: grid(Threat("linf", 1.0), counts=(3, 0)),
        lambda: grid(Threat("linf", 1.0), counts=(3, 3))(KEY, bumpy, X),
    ],
)
def test_refuses_what_it_cannot_search(build):
    with pytest.raises(ValueError, match="grid: "):
        build()
