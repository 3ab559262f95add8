"""What is printed is computed in float32 on accelerators too; attacks and training are left fast."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustjax import evaluation, training
from robustjax.attacks import against, pgd
from robustjax.bounds import enclosure
from robustjax.bounds.confidence import highest_msp
from robustjax.evaluation import runner, suite
from robustjax.losses import adversarial
from robustjax.losses.certified import ibp
from robustjax.models import cpu, small
from robustjax.numerics import default_precision, in_float32
from robustjax.ood.gaussian_scores import mahalanobis
from robustjax.ood.ssd import ssd
from robustjax.smoothing import in_pixels, votes
from robustjax.smoothing.median import noisy_scores
from robustjax.threats import Threat
from robustjax.traced import ByBatch, hoist
from robustjax.types import Batch

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
KERNEL = jnp.asarray(RNG.normal(size=(3, 3, 1, 4)), jnp.float32)
HEAD = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
X = jnp.asarray(RNG.uniform(size=(4, 6, 6, 1)), jnp.float32)
Y = jnp.arange(4) % 3
BALL = Threat("linf", 0.1)


def logits_fn(x):
    """A convolution of ours, one of jax's in a loop, and a matrix product."""
    x = jax.nn.relu(cpu.convolve(x, KERNEL, (1, 1), "SAME"))
    same = jnp.ones((1, 1, 4, 4))

    def turn(_, x):
        return jax.lax.conv_general_dilated(
            x, same, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return jax.lax.fori_loop(0, 2, turn, x).mean(axis=(1, 2)) @ HEAD


def plain(x):
    """The same without a loop, which bounds know."""
    return jax.nn.relu(cpu.convolve(x, KERNEL, (1, 1), "SAME")).mean(axis=(1, 2)) @ HEAD


def products(function, *args, platform="tpu"):
    """List the lines of all products in the program for a platform."""
    traced = (function if hasattr(function, "trace") else jax.jit(function)).trace(*args)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r"^.*stablehlo\.(?:dot_general|convolution).*$", text, re.MULTILINE)


def in_full(lines):
    """Say of how many products both factors are asked for in full."""
    return sum(line.count("HIGHEST") == 2 for line in lines)


def confidence(x):
    return jax.nn.log_softmax(logits_fn(x)).max(axis=1)


PRINTED = {
    "a function": (in_float32(logits_fn), X),
    "its gradient": (in_float32(jax.grad(lambda x: logits_fn(x).sum())), X),
    "votes": (votes(logits_fn, in_pixels(0.5), classes=3, chunk_size=8), KEY, X, 8),
    "noisy scores": (noisy_scores(confidence, in_pixels(0.5), samples=8), KEY, X),
    "margins": (lambda x: enclosure.margins(plain, BALL, x, Y, method="crown-ibp"), X),
    "enclosure": (lambda x: enclosure.enclose(plain, BALL, x), X),
    "certified confidence": (highest_msp(plain, BALL), X),
}


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", PRINTED)
def test_what_is_printed_asks_for_float32(name, platform):
    function, *args = PRINTED[name]
    lines = products(lambda *args: function(*args), *args, platform=platform)
    assert lines and in_full(lines) == len(lines)


def test_training_and_attacks_do_not():
    model = small.convnet_small(shape=(6, 6, 1), classes=3)
    tx, batch = optax.sgd(0.1), Batch(X, Y)
    state = jax.eval_shape(lambda key: training.start(key, model, tx), KEY)
    for loss in (adversarial(model, against(pgd(BALL, steps=2, step_size=0.1))), ibp(model, BALL)):
        lines = products(training.step(loss, tx), state, batch)
        assert lines and in_full(lines) == 0
    lines = products(lambda x: pgd(BALL, steps=2, step_size=0.1)(KEY, confidence, x), X)
    assert lines and in_full(lines) == 0


def test_the_runner_answers_in_float32():
    system, given = ByBatch(logits_fn, X.shape[1:]).at(len(X))
    lines = products(
        runner.answered, suite.Answers(2), system, KEY, np.arange(4, dtype=np.int32), Y, X, given
    )
    assert in_full(lines) == len(lines) == 3


def test_programs_that_were_traced_before_follow_what_is_asked_for():
    steps, arrays = hoist(logits_fn, X.shape)
    fast = products(lambda x: steps.run(arrays, x), X)
    full = products(in_float32(lambda x: steps.run(arrays, x)), X)
    assert in_full(fast) == 0 and in_full(full) == len(full) == len(fast) == 3


def test_whole_sets_are_evaluated_in_float32():
    found = []

    def measure(keys, batch):
        del keys
        found.append(default_precision())
        return logits_fn(batch.image)

    evaluation.mapped(measure)(KEY, [(Batch(X, Y), jnp.ones(4, bool))])
    assert found == ["highest"]
    assert default_precision() is None


def test_fitted_scores_compile_by_themselves():
    features = RNG.normal(size=(60, 4))
    few = jnp.asarray(features[:5], jnp.float32)
    for score in (ssd(features), mahalanobis(features, np.arange(60) % 3)):
        np.testing.assert_allclose(jax.jit(score)(few), score(few), rtol=1e-5)
