"""The contract of every attack: feasible, honest, the same in any company, and as strong as theory says."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_table import KEY, LINES, B, W, X, Y, ball, net
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from robustjax import attacks, logit
from robustjax.threats import Threat

DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
EPS = {"linf": 0.1, "l2": 0.3, "l1": 0.9, "l0": 1.0}
SLOW = {name: [pytest.mark.slow] if line.slow else [] for name, line in LINES.items()}
# The first norm of a line, and all of the machines that the others are made of.
EACH = [
    pytest.param(
        name,
        kind,
        marks=[pytest.mark.slow] if kind != line.norms[0] and name not in ("pgd", "apgd") else SLOW[name],
    )
    for name, line in LINES.items()
    for kind in line.norms
]
# half_batch leaves half of its rows where they are; frank_wolfe has a set of its own, a frame all of these pixels, and
# universal one perturbation for all rows.
ELSEWHERE = {"half_batch", "frank_wolfe", "sparse_rs_frame", "universal"}
NO_ATTACKS = {
    "against", "as_attack", "at_scales", "averaged", "diverse", "ensemble", "lpips", "query_curve", "shared",
    "substituted", "rising", "signed", "translated",
}  # fmt: skip


def test_every_attack_of_the_library_is_in_the_table():
    """Or in a test of its own, if it moves half of its rows or in another set."""
    names = {name for name, value in vars(attacks).items() if inspect.isfunction(value)}
    assert names - NO_ATTACKS - ELSEWHERE == {name for name in LINES if name in names}


@pytest.mark.parametrize("name, kind", EACH)
def test_every_promise(name, kind):
    """One program per line and norm: in a box that binds, without one, and the first four rows in other company."""
    line, keys = LINES[name], jax.random.split(KEY, B)
    padded = [jnp.concatenate([rows, rows[:2][::-1]]) for rows in (keys, X, Y)]
    attack = jax.jit(lambda threat, keys, x, y: line.build(threat)(keys, net, x, y))
    rows = lambda found: jax.tree.map(lambda v: v[:B], found)

    # Feasible, of the same kind, honest, and never worse than the clean image where that is promised.
    threat = Threat(kind, jnp.full(B + 2, 2 * EPS[kind]), 0.0, 1.0)
    whole = attack(threat, *padded)
    assert threat.contains(whole.x, padded[1]).all()
    assert (whole.x.shape, whole.x.dtype, whole.value.shape) == ((B + 2, *X.shape[1:]), X.dtype, (B + 2,))
    if name not in ("pgd, momentum", "pgd, last"):  # their values are cross-entropy and DLR
        np.testing.assert_allclose(whole.value, logit.margin(net(whole.x), padded[2]), atol=1e-5)
        assert line.worse or (whole.value[:B] >= logit.margin(net(X), Y) - 1e-6).all()

    # On a linear network the boundary is gap / |w|_dual away: it succeeds beyond that radius and nowhere else.
    w, gap = np.asarray(W[:, 0] - W[:, 1]), np.asarray(net(X) @ jnp.array([1.0, -1.0]))
    if kind == "l0":
        fewest = fewest_pixels(np.abs(gap))
        for radius in (np.maximum(fewest - 1, 0), fewest):
            found = attack(
                Threat(kind, jnp.asarray(np.append(radius, [0, 0]), jnp.float32), 0.0, 1.0), *padded
            )
            broken = (net(found.x).argmax(axis=1) != padded[2])[:B]
            np.testing.assert_array_equal(broken, (radius >= fewest) & np.isfinite(line.reach))
    else:
        shares = np.array([0.5, 0.95, max(line.reach, 3.0) if kind == "l1" else line.reach, 10.0])
        radius = np.append(shares * np.abs(gap) / np.linalg.norm(w, DUAL[kind]), [0.0, 0.0])
        free = Threat(kind, jnp.asarray(radius, jnp.float32), -20.0, 20.0)
        found = attack(free, *padded)
        np.testing.assert_array_equal((net(found.x).argmax(axis=1) != padded[2])[:B], shares > 1)
        assert free.contains(found.x, padded[1], atol=1e-6).all()

    # Alone, and mapped one after the other.
    if kind == line.norms[0]:

        @jax.jit
        @jax.vmap
        def alone(key, x, y):
            one = line.build(Threat(kind, 2 * EPS[kind]))(key[None], net, x[None], y[None])
            return one._replace(x=one.x[0], value=one.value[0])

        same(name, alone(keys, X, Y), rows(whole))


def fewest_pixels(gap):
    """Count the pixels of largest gain that it takes to close the gap of each image inside the box: exact on a line."""
    w = np.asarray(W[:, 0] - W[:, 1]) * np.where(Y == 0, -1.0, 1.0)[:, None]
    x = np.asarray(X).reshape(B, -1)
    gain = np.maximum(w * (1 - x), -w * x).reshape(B, -1, X.shape[-1]).sum(axis=2)
    total = np.cumsum(-np.sort(-gain, axis=1), axis=1)
    assert (total[:, -1] > gap).all()
    return 1 + (total <= gap[:, None]).sum(axis=1)


def same(name, found, expected):
    # Adam divides by the slope: where an estimate is near zero, rounding decides.
    atol = 2e-3 if name in ("spsa", "carlini_wagner") else 2e-4
    np.testing.assert_allclose(found.x, expected.x, atol=atol)
    np.testing.assert_allclose(found.value, expected.value, atol=10 * atol)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "fmn", "fab_targeted"])
def test_same_eagerly_compiled_and_on_two_devices(name):
    attack, keys = LINES[name].build(Threat("linf", 0.1)), jax.random.split(KEY, B)
    run = lambda keys, x, y: attack(keys, net, x, y)
    mesh, rows = (
        jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,)),
        P("data"),
    )
    expected = jax.jit(run)(keys, X, Y)
    same(name, run(keys, X, Y), expected)
    same(name, jax.jit(jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows))(keys, X, Y), expected)


@pytest.mark.parametrize("name", LINES)
def test_can_be_mapped_over_devices(name):
    """Loops whose carries do not vary over the devices as they should fail when they are traced."""
    attack, keys = LINES[name].build(ball(LINES[name].norms[0], 0.1)), jax.random.split(KEY, B)
    mesh, rows = (
        jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,)),
        P("data"),
    )
    run = lambda keys, x, y: attack(keys, net, x, y)
    found = jax.eval_shape(jax.jit(jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows)), keys, X, Y)
    assert found.x.shape == X.shape


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=str)
@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "fab_targeted", "fmn"])
def test_images_of_16_bits_come_back_as_such_and_in_the_ball(name, dtype):
    """Measured in float64; to the nearest number they would leave it by up to a tenth."""
    threat, x = Threat("l2", 0.3), X.astype(dtype)
    found = jax.jit(LINES[name].build(threat), static_argnums=1)(KEY, net, x, Y)
    delta = (np.float64(found.x) - np.float64(x)).reshape(B, -1)
    assert found.x.dtype == dtype and found.value.dtype == jnp.float32
    assert (np.linalg.norm(delta, axis=1) <= 0.3 * (1 + 1e-6)).all()
    assert np.abs(delta).max() > 0.05 or name in ("fab_targeted", "fmn")  # what they found lies beyond
    np.testing.assert_allclose(found.value, logit.margin(net(found.x).astype(jnp.float32), Y), atol=0.02)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", LINES)
def test_works_where_jax_computes_in_64_bits(name, dtype):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        threat, x = ball(LINES[name].norms[-1], 0.5), jnp.asarray(np.asarray(X), dtype)
        build = LINES[name].build
        found = jax.eval_shape(lambda x: build(threat)(jax.random.key(0), net, x, Y), x)
    assert found.x.shape == X.shape and found.x.dtype == dtype
