"""Weak scaling, read from the compiled program: what devices exchange does not grow with their number."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import optimizers, runtime, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.losses.adversarial import adversarial
from robustjax.models import layers
from robustjax.models.adapters import from_flax
from robustjax.threats import Threat
from robustjax.types import Batch

KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"


class Network(nn.Module):
    """A convolution, BatchNorm and a linear layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(layers.batch_norm(layers.conv(x, 8, 3, name="conv"), train=train, name="norm"))
        return layers.linear(x.mean(axis=(1, 2)), 5, name="head")


def program(count, per_device=4):
    """Compile a PGD-3 training step over `count` devices with a fixed share of the batch each."""
    mesh, model = runtime.data_mesh(jax.devices()[:count]), from_flax(Network(), shape=(8, 8, 3))
    attack = compose.against(
        pgd(Threat("linf", 0.1), steps=3, step_size=0.05, keep="last"), objectives.cross_entropy
    )
    tx = optimizers.sgd(0.1)
    state = training.start(jax.random.key(0), model, tx, mesh, ema=True)
    size = per_device * count
    batch = Batch(jnp.zeros((size, 8, 8, 3)), jnp.zeros(size, jnp.int32))
    batch = jax.device_put(batch, runtime.over_data(mesh))
    return training.step(adversarial(model, attack), tx).lower(state, batch).compile().as_text(), state


def exchanged(text):
    """List (kind, bytes, whether inside a loop) for every exchange of a program."""
    found, computation = [], ""
    loops = set(re.findall(r"body=%?([\w.\-]+)", text))
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            computation = head[1]
        if op := re.search(rf"= (.*?) ({KINDS})(?:-start)?\(", line):
            sizes = [
                int(bits) // 8 * math.prod(int(n) for n in shape.split(",") if n)
                for bits, shape in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", op[1])
            ]
            found.append((op[2], sum(sizes), computation in loops))
    return found


@pytest.mark.slow
def test_exchanges_do_not_grow_with_devices():
    bytes_at = {}
    for count in (2, 8):
        text, state = program(count)
        found = exchanged(text)
        assert {kind for kind, _, _ in found} == {"all-reduce"}, found
        assert not any(inside for _, _, inside in found)  # the attack is a loop, and each device's own affair
        bytes_at[count] = sum(size for _, size, _ in found)
    assert bytes_at[2] == bytes_at[8]
    # Gradients once, BatchNorm's moments (mean and mean of squares, and what their gradients need), some metrics.
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
    moments = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.state))
    assert weights < bytes_at[2] <= weights + 3 * moments + 64


def test_the_reader_sees_an_exchange_inside_a_loop():
    mesh = runtime.data_mesh(jax.devices()[:2])
    x = jax.device_put(np.zeros((4, 3), np.float32), runtime.over_data(mesh))
    shared = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda i, z: z + jnp.sin(z).sum(axis=0)[None], x))
    assert ("all-reduce", 12, True) in exchanged(shared.lower(x).compile().as_text())
