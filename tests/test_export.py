"""What takes most of the time is exported from a CPU for other platforms in the form for these."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export

from robustjax import training
from robustjax.attacks import against, pgd
from robustjax.losses import adversarial
from robustjax.models import cpu, small
from robustjax.smoothing import in_pixels, votes
from robustjax.threats import Threat
from robustjax.types import Batch

KEY = jax.random.key(0)
SHAPE = (6, 6, 1)
KERNEL = jnp.ones((3, 3, 1, 4))
BALL = Threat("linf", 0.1)
X = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)
Y = jax.ShapeDtypeStruct((2,), jnp.int32)


def logits_fn(x):
    """One convolution of few channels, which a CPU computes as a matrix product over planes, and no other product."""
    return cpu.convolve(x, KERNEL, (1, 1), "SAME").mean(axis=(1, 2))


def attack(x, y):
    return against(pgd(BALL, steps=3, step_size=0.1))(KEY, logits_fn, x, y).x


def count(x, y):
    return votes(logits_fn, in_pixels(0.5), classes=4, chunk_size=8)(KEY, x, 16)


def step(x, y):
    model, tx = small.strided(shape=SHAPE, widths=(4,), classes=4), optax.sgd(0.1)
    state = training.start(KEY, model, tx)
    loss = adversarial(model, against(pgd(BALL, steps=1, step_size=0.1)))
    return training.step(loss, tx)(state, Batch(x, y))[1]["loss"]


# By hand, in the text: the attack has its start's value, and a value with its gradient in the loop; counting one pass;
# each training step begins with an attack and ends with a value and the gradient of the kernel.
PROGRAMS = {"attack": attack, "count": count, "step": step}


def products(exported):
    text = exported.mlir_module()
    return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_for_accelerators_do_not_follow_the_host(name):
    program = jax.jit(PROGRAMS[name])
    for platform in ("tpu", "cuda"):
        exported = export.export(program, platforms=(platform,))(X, Y)
        convolutions, others = products(exported)
        assert exported.platforms == (platform,)
        assert convolutions >= 1
        # The linear layer of the trained network alone is a product.
        assert (others == 0) == (name != "step")
    both = export.export(program, platforms=("cpu", "tpu", "cuda"))(X, Y)
    on_cpu = export.export(program, platforms=("cpu",))(X, Y)
    assert products(both)[0] >= 1 and products(on_cpu)[1] > others
