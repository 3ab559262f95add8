"""Sets and classifiers are the same on one device as on eight, and every method has its loss."""

import dataclasses
import json
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.perturbation_sets import losses, networks, train_classifier
from experiments.perturbation_sets.config import Method
from robustjax import logit
from robustjax.types import Batch

KEY = jax.random.key(0)


def assert_near(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one, other)


def test_a_set_is_the_same_on_any_number_of_devices(runs, learned_set, tmp_path):
    done = scripts.run("perturbation_sets.train", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    one = networks.open_set(str(tmp_path))
    assert one.step == learned_set.step == 2
    assert_near((one.params, one.state), (learned_set.params, learned_set.state))
    assert_near(*(json.loads((folder / "quality.json").read_text()) for folder in (tmp_path, runs / "set")))


def test_a_network_is_the_same_on_any_number_of_devices(runs, tmp_path):
    words = ["--set", runs / "set", "--method", "smoothadv", "--batch-size", 256, "--out", tmp_path]
    done = scripts.run("perturbation_sets.train_classifier", "smoke", *words)
    assert done.returncode == 0, done.stderr
    one, eight = (networks.open_classifier(str(folder)) for folder in (tmp_path, runs / "classifier"))
    assert eight.config.method == "smoothadv"
    assert one.network.about["updates"] == eight.network.about["updates"] == 5
    assert_near((one.network.params, one.network.state), (eight.network.params, eight.network.state))


def settings(method, **more):
    return dataclasses.replace(train_classifier.PRESETS["smoke"], method=method, **more)


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_has_a_loss(learned_set, method):
    cfg = settings(method)
    model = networks.classifier_for(cfg, learned_set)
    params, state = jax.eval_shape(model.init, KEY)
    batch = Batch(jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32))
    loss = losses.loss_of(cfg, learned_set, model, 1.0)
    trained = learned_set.params, learned_set.state
    value, (same, metrics) = jax.eval_shape(loss, params, state, (batch, trained), KEY)
    assert value.shape == () and jax.tree.structure(same) == jax.tree.structure(state) and "risk" in metrics


def test_attacks_of_radius_zero_leave_the_origin_and_larger_ones_do_more(learned_set):
    test, trained = learned_set.splits[2], (learned_set.params, learned_set.state)
    x, y = networks.as_images(test, slice(8)), jnp.asarray(test.label[:8], jnp.int32)
    model = networks.classifier_for(settings("plain"), learned_set)
    params, state = model.init(KEY)

    def risk(attack_radius):
        cfg = settings("smoothadv", sigma=1e-6, attack_steps=5, attack_radius=attack_radius)
        loss = jax.jit(losses.loss_of(cfg, learned_set, model, 1.0))
        return float(loss(params, state, (Batch(x, y), trained), KEY)[0])

    prior, _ = learned_set.model.prior(*trained, x)
    origin = learned_set.model.link(learned_set.model.decode(*trained, x, prior.mean)[0])
    want = float(logit.cross_entropy(model.apply(params, state, origin)[0], y).mean())
    np.testing.assert_allclose(risk(1e-6), want, rtol=1e-4)
    assert risk(1e-6) < risk(2.0)


def test_scenes_take_no_method_for_one_class_per_image(learned_set):
    scenes = learned_set._replace(config=dataclasses.replace(learned_set.config, pairs="relit"))
    for method in networks.PER_IMAGE:
        with pytest.raises(ValueError, match="must be another one for scenes"):
            networks.classifier_for(settings(method, model="unet_small"), scenes)
