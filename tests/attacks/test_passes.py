"""Attacks by name make as many passes through the network as they say; those without gradients make no backward one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks.case import rows_of
from robustjax.attacks.compose import wrong_classes
from robustjax.catalog.attacks import ATTACKS, AttackSettings, attack
from robustjax.threats import Threat

B, SHAPE, CLASSES = 2, (4, 4, 2), 3
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(32, CLASSES)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.4, 0.6, size=(B, *SHAPE)), jnp.float32)
KINDS = {
    "l0": {"sigma-zero", "vfga", "sparse-rs", "sparse-rs-patch", "sparse-rs-frame"},
    "l2": {"sdf", "ddn", "cw", "boundary", "sign-opt"},
}
SETTINGS = AttackSettings(steps=4, queries=30)
QUICK = {"square", "nes"}


def net(x):
    return x.reshape(len(x), -1) @ W


def counted():
    """Give the network, and how many rows have passed it, forth and back."""
    rows = {"forward": 0, "backward": 0}

    def seen(way, x):
        rows[way] += len(x)

    @jax.custom_vjp
    def network(x):
        jax.debug.callback(lambda x: seen("forward", x), x)
        return net(x)

    def back(rest, slope):
        jax.debug.callback(lambda s: seen("backward", s), slope)
        return ((slope @ W.T).reshape(-1, *SHAPE),)

    network.defvjp(lambda x: (network(x), None), back)
    return network, rows


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ATTACKS]
)
def test_attacks_make_as_many_passes_as_they_say(name):
    """Rows are counted where they pass: none asks more than it is allowed, and reports of passes say what was made."""
    kind = next((kind for kind, names in KINDS.items() if name in names), "linf")
    case = attack(name, Threat(kind, 12.0 if kind == "l0" else 0.01), CLASSES, SETTINGS)
    network, rows = counted()
    y, keys = net(X).argmax(axis=1), jax.random.split(jax.random.key(0), B)

    @jax.jit
    def run(x):
        clean = {"ranked": wrong_classes(net(x), y, CLASSES - 1)}
        return case.run_whole(network, rows_of(case, keys, y, clean, jnp.int32(0), x), x)

    jax.block_until_ready(run(X))
    jax.effects_barrier()
    made, said = rows["forward"] + rows["backward"], B * case.solver.length * case.passes
    assert made == said
    assert rows["backward"] == 0 or not case.black_box
