"""Counterfactuals, radius-confidence curves and the strength of attacks on a small trained network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import data, logit, optimizers, training
from robustjax.analysis.confidence_curves import class_probabilities_over_radii
from robustjax.analysis.counterfactual import quality, to_all_classes, toward
from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.frank_wolfe import Ball
from robustjax.attacks.pgd import fgsm, pgd
from robustjax.attacks.square import square
from robustjax.losses.standard import standard
from robustjax.models import small
from robustjax.numerics import keys_for
from robustjax.ood.metrics import auroc
from robustjax.ood.score_attacks import over_classes, raised
from robustjax.ood.worst_confidence import confidence_score
from robustjax.threats import Threat
from robustjax.types import frozen

KEY = jax.random.key(0)
RADII = (0.0, 0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def net():
    """A multi-layer perceptron that knows the digits, and test images with their labels."""
    model, tx = small.mlp(shape=(8, 8, 1), widths=(64,)), optimizers.sgd(0.1)
    state, step = training.start(KEY, model, tx), training.step(standard(model), tx)
    for _, batch in zip(
        range(250), data.stream(data.load("digits", "train"), batch_size=64, seed=0), strict=False
    ):
        state, _ = step(state, batch)
    test = data.load("digits", "test")
    x = jnp.asarray(test.image[:64], jnp.float32) / 255
    return frozen(model, state.params, state.state), x, jnp.asarray(test.label[:64])


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "l1.5", "linf"])
def test_the_target_grows_likelier_with_the_radius_inside_the_ball(net, norm):
    logits_fn, x, y = net
    radii = tuple(eps * {"l2": 1.0, "l1.5": 2.0, "linf": 0.125}[norm] for eps in RADII)
    target = (y[:8] + 1) % 10
    found = jax.jit(lambda: toward(logits_fn, target, radii, norm=norm, steps=15)(KEY, x[:8]))()
    assert found.x.shape == (4, 8, 8, 8, 1) and found.value.shape == (4, 8)
    np.testing.assert_array_equal(found.x[0], x[:8])
    assert (np.diff(found.value, axis=0) >= 0).all()
    assert (found.value[-1] > found.value[0] + 1.0).all()
    for eps, image, value in zip(radii, found.x, found.value, strict=True):
        np.testing.assert_allclose(
            -logit.cross_entropy(logits_fn(image), target), value, rtol=1e-3, atol=1e-4
        )
        delta = image - x[:8]
        length = Ball(1.5, eps).length(delta) if norm == "l1.5" else None
        inside = (
            length <= eps * (1 + 1e-5) + 1e-6 if norm == "l1.5" else Threat(norm, eps).contains(image, x[:8])
        )
        assert inside.all() and ((image >= 0) & (image <= 1)).all()


def test_all_classes_from_every_image():
    images, target = to_all_classes(jnp.arange(2.0).reshape(2, 1, 1, 1), 3)
    assert images.ravel().tolist() == [0, 0, 0, 1, 1, 1] and target.tolist() == [0, 1, 2, 0, 1, 2]


def test_quality_by_hand():
    """Three images, two with the target class, one of them not confident enough; another network agrees with one."""
    logits = jnp.array([[5.0, 0.0], [0.2, 0.0], [0.0, 3.0]])
    start, found = jnp.zeros((3, 1, 1, 1)), jnp.array([3.0, 0.0, -6.0]).reshape(3, 1, 1, 1)
    evaluation = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    it = quality(start, found, logits, jnp.zeros(3, jnp.int32), evaluation)
    p = 1 / (1 + np.exp(-np.array([5.0, 0.2, -3.0])))
    assert it.valid == pytest.approx(1 / 3) and it.agreement == pytest.approx(1 / 3)
    assert it.probability == pytest.approx(p.mean(), rel=1e-5) and it.distance == pytest.approx(3.0)
    assert np.isnan(quality(start, found, logits, jnp.zeros(3, jnp.int32)).agreement)


@pytest.mark.slow
def test_class_probabilities_around_id_images(net):
    """The margin never falls; a large radius leaves nothing of the true class; radius 0 is the prediction."""
    logits_fn, x, y = net
    curves = jax.jit(
        lambda: class_probabilities_over_radii(logits_fn, y, (0.0, 1.0, 3.0), steps=15)(KEY, x)
    )()
    p = np.array(jax.nn.softmax(logits_fn(x)))
    own = p[np.arange(64), np.asarray(y)]
    np.testing.assert_allclose(curves.true[0], own, rtol=1e-4, atol=1e-6)
    p[np.arange(64), np.asarray(y)] = 0
    np.testing.assert_allclose(curves.other[0], p.max(1), rtol=1e-4, atol=1e-6)
    gap = np.log(np.maximum(curves.other, 1e-30)) - np.log(np.maximum(curves.true, 1e-30))
    assert (np.diff(gap, axis=0) >= -1e-3).all()
    assert curves.true[2].mean() < 0.05 < 0.9 < own.mean()


@pytest.mark.slow
def test_stronger_attacks_find_more(net):
    """APGD-100 breaks at least what PGD-20 breaks, and that at least what one step does; then everything breaks."""
    logits_fn, x, y = net
    threat = Threat("l2", 0.6)

    def broken(ascent):
        found = jax.jit(lambda: ascent(KEY, objectives.margin(logits_fn, y), x))()
        return float((found.value > 0).mean())

    one, twenty = broken(fgsm(threat)), broken(pgd(threat, steps=20, step_size=0.06))
    hundred, everything = broken(apgd(threat, steps=100)), broken(apgd(Threat("l2", 8.0), steps=20))
    assert one <= twenty <= hundred and 0.05 < hundred < 1.0 and everything == 1.0
    # Random search that asks for no gradient finds nothing that gradients do not.
    assert broken(square(threat, queries=300)) <= hundred + 0.02


@pytest.mark.slow
def test_outliers_at_worst(net):
    """Every class beats the likeliest one; more restarts and larger radii lower the AUROC; clean is the best case."""
    logits_fn, x, _ = net
    score, outliers = confidence_score(logits_fn), 1.0 - x[:24]
    inside, clean = score(x), score(outliers)
    ascent = apgd(Threat("l2", 0.5), steps=8)

    @jax.jit
    def run(eps):
        wide = apgd(Threat("l2", eps), steps=8)
        keys = keys_for(KEY, 24)
        return raised(wide, score)(keys, outliers).value, raised(wide, score, restarts=5)(
            keys, outliers
        ).value

    one, five = run(0.5)
    _, far = run(1.0)
    every = jax.jit(lambda: over_classes(ascent, score, logits_fn)(KEY, outliers).value)()
    assert (one >= clean).all() and (five >= one - 1e-4).all()
    assert every.mean() >= one.mean() - 1e-3
    areas = [auroc(inside, s) for s in (clean, one, five, np.maximum(far, five))]
    assert areas == sorted(areas, reverse=True) and areas[0] > areas[-1]
