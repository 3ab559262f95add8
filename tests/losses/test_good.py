"""GOOD: the formula on a linear network, its quantile, a radius that grows under jit, and what training certifies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from robustjax import training
from robustjax.bounds.confidence import highest_msp
from robustjax.losses.good import good
from robustjax.losses.oe import oe
from robustjax.models import small
from robustjax.optimizers import sgd
from robustjax.threats import Threat
from robustjax.types import Batch, Pair, frozen

RNG = np.random.default_rng(0)
SHAPE, K = (2, 3, 1), 3
LINEAR = small.linear(classes=K, shape=SHAPE)
PARAMS, STATE = LINEAR.init(jax.random.key(0))
BATCH = Pair(
    Batch(jnp.asarray(RNG.uniform(0.3, 0.7, (6, *SHAPE)), jnp.float32), jnp.asarray([0, 1, 2, 0, 1, 2])),
    jnp.asarray(RNG.uniform(0.3, 0.7, (10, *SHAPE)), jnp.float32),
)
KEY = jax.random.key(1)


def by_hand(eps, weight, quantile, norm=1):
    """Compute the loss in numpy: on a linear network the bound is the maximum."""
    kernel, bias = (np.asarray(PARAMS["head"][name], np.float64) for name in ("kernel", "bias"))
    inside, outside = (np.asarray(x).reshape(len(x), -1) @ kernel + bias for x in (BATCH.id.image, BATCH.ood))
    risk = -log_softmax(inside, -1)[np.arange(6), np.asarray(BATCH.id.label)].mean()
    reach = eps * np.linalg.norm(kernel[:, :, None] - kernel[:, None], ord=norm, axis=0)
    clean = outside[:, :, None] - outside[:, None]
    certain, plain = (clean + reach).max((1, 2)), clean.max((1, 2))
    order = np.argsort(certain)
    count = round(quantile * 10)
    u = np.concatenate([certain[order[:count]], plain[order[count:]]])
    return risk + weight * np.log(u**2 / 2 + 1).mean()


@pytest.mark.parametrize(
    "eps, weight, quantile", [(0.1, 1.0, 1.0), (0.1, 0.3, 0.8), (0.2, 2.0, 0.0), (0.0, 1.0, 0.5)]
)
def test_the_loss_is_the_formula_on_a_linear_network(eps, weight, quantile):
    loss = good(LINEAR, Threat("linf", eps), weight=weight, quantile=quantile)
    value, (state, metrics) = loss(PARAMS, STATE, BATCH, KEY)
    assert value == pytest.approx(by_hand(eps, weight, quantile), rel=1e-5)
    assert value == pytest.approx(float(metrics["risk"] + weight * metrics["excess"]), rel=1e-6)
    certified = highest_msp(frozen(LINEAR, PARAMS, STATE), Threat("linf", eps))(BATCH.ood).mean()
    assert metrics["certified"] == pytest.approx(float(certified), rel=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure(STATE)


def test_l2_balls_are_certified_too():
    value, _ = good(LINEAR, Threat("l2", 0.1))(PARAMS, STATE, BATCH, KEY)
    assert value == pytest.approx(by_hand(0.1, 1.0, 1.0, norm=2), rel=1e-5)


@pytest.mark.slow
def test_the_certificate_falls_in_training_as_the_radius_grows():
    """Data lie in two corners of the square, OOD images on the diagonal between; plain OE leaves their balls open."""
    model = small.mlp(classes=2, shape=(1, 2, 1), widths=(16,))
    side = RNG.integers(0, 2, 64)
    data = np.stack([side, 1 - side], -1) * 0.8 + RNG.uniform(0, 0.2, (64, 2))
    ood = np.repeat(RNG.uniform(0.2, 0.8, (64, 1)), 2, 1)
    batch = Pair(
        Batch(jnp.asarray(data.reshape(-1, 1, 2, 1), jnp.float32), jnp.asarray(side)),
        jnp.asarray(ood.reshape(-1, 1, 2, 1), jnp.float32),
    )
    ramp = lambda t: jnp.minimum(t / 100, 1.0)
    tx, threat = sgd(0.1, weight_decay=0.0), Threat("linf", 0.1)
    certified = {}
    for name, loss_at in {
        "good": lambda t: good(model, Threat("linf", 0.1 * ramp(t)), weight=ramp(t)),
        "oe": lambda t: oe(model),
    }.items():
        step = training.scheduled(loss_at, tx)
        state = training.start(jax.random.key(0), model, tx)
        for _ in range(199):
            state, _ = step(state, batch)
        state, metrics = step(state, batch)
        assert metrics["accuracy"] == 1
        certified[name] = np.exp(
            highest_msp(frozen(model, state.params, state.state), threat)(batch.ood)
        ).mean()
    assert certified["good"] < 0.6
    assert certified["good"] < certified["oe"] - 0.1


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"good: quantile is 1\.5"):
        good(LINEAR, Threat("linf", 0.1), quantile=1.5)
    with pytest.raises(ValueError, match="good: weight is -1"):
        good(LINEAR, Threat("linf", 0.1), weight=-1)
