"""On a small trained network: stronger attacks find more, larger radii break everything, gradients are not masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import data, logit, optimizers, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import fgsm, pgd
from robustjax.attacks.solver import as_attack
from robustjax.attacks.square import square
from robustjax.losses.standard import standard
from robustjax.models import small
from robustjax.ood.metrics import auroc
from robustjax.ood.score_attacks import raised
from robustjax.ood.worst_confidence import confidence_over_radii, confidence_score
from robustjax.threats import Threat
from robustjax.types import frozen

KEY = jax.random.key(0)
EPS = 0.5


@pytest.fixture(scope="module")
def net():
    """An mlp that knows the digits, in two seconds."""
    split, model, tx = (
        data.load("digits", "train"),
        small.mlp(shape=(8, 8, 1)),
        optimizers.sgd(0.1, weight_decay=0.0),
    )
    update, state = training.step(standard(model), tx), training.start(KEY, model, tx)
    for batch, _ in zip(data.stream(split, batch_size=128, seed=0), range(150), strict=False):
        state, _ = update(state, batch)
    return frozen(model, *training.for_evaluation(state))


@pytest.fixture(scope="module")
def images():
    split = data.load("digits", "test")
    return jnp.asarray(split.image, jnp.float32) / 255, jnp.asarray(split.label)


def right(net, attack, images):
    x, y = images
    found = jax.jit(lambda x, y: attack(KEY, net, x, y))(x, y)
    return float(logit.correct(net(found.x), y).mean())


@pytest.mark.slow
def test_more_work_breaks_more_and_enough_radius_breaks_all(net, images):
    ball, wide = Threat("l2", EPS), Threat("l2", 8.0)
    ood_surrogate = [
        compose.against(ascent, objectives.cross_entropy)
        for ascent in (fgsm(ball), pgd(ball, steps=20, step_size=EPS / 8), apgd(ball, steps=100))
    ]
    clean = float(logit.correct(net(images[0]), images[1]).mean())
    once, twenty, hundred = (right(net, attack, images) for attack in ood_surrogate)
    assert clean > 0.93 and clean > once + 0.05 and once >= twenty >= hundred - 1e-6 and hundred < clean - 0.1
    assert right(net, compose.against(apgd(wide, steps=30), objectives.cross_entropy), images) == 0


@pytest.mark.slow
def test_random_search_finds_nothing_that_gradients_miss(net, images):
    ball = Threat("l2", EPS)
    gradients = right(net, compose.against(apgd(ball, steps=100), objectives.margin), images)
    values = right(net, as_attack(square(ball, queries=500)), images)
    clean = float(logit.correct(net(images[0]), images[1]).mean())
    assert values < clean - 0.05 and gradients <= values + 0.02


@pytest.mark.slow
def test_worst_confidence_grows_with_the_radius_and_with_restarts(net, images):
    outliers = jax.random.uniform(jax.random.key(3), (64, 8, 8, 1))
    radii = (0.0, 0.25, 0.5, 1.0)
    sure = jax.jit(lambda x: confidence_over_radii(net, radii, steps=10)(KEY, x).value)(outliers)
    assert (np.diff(sure, axis=0) >= 0).all()
    np.testing.assert_array_equal(sure[0], confidence_score(net)(outliers))
    inside = np.asarray(confidence_score(net)(images[0]))
    areas = [auroc(inside, np.asarray(row)) for row in sure]
    assert all(np.diff(areas) <= 0) and areas[-1] < areas[0] - 0.05
    few, more = (
        jax.jit(
            lambda x, n=n: (
                raised(apgd(Threat("l2", EPS), steps=5), confidence_score(net), restarts=n)(KEY, x).value
            )
        )(outliers)
        for n in (1, 5)
    )
    assert (more >= few).all() and (more > few).any()
