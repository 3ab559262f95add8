"""Learned sets and networks trained on them: the same on one device as on eight, and every method has its loss."""

import dataclasses
import json
import types
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.perturbation_sets import autoencoders, classifier_losses, classifier_runs, train_classifier
from experiments.perturbation_sets import config as cvae_settings
from experiments.perturbation_sets import train as train_cvae
from robustjax import logit, runtime
from robustjax.perturbations.learned import encoder
from robustjax.perturbations.quality import Quality
from robustjax.runtime.report import Report
from robustjax.types import Batch

KEY = jax.random.key(0)
MESHES = {count: runtime.data_mesh(jax.devices()[:count]) for count in (1, 8)}


def cheap(model, params, state, **settings):
    """Stand in for all that is measured, whose searches take long to compile."""
    return lambda key, x, seen: Quality(*[encoder(model, params, state)(x, seen).norm] * 7)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Learn a set, and train on it by SmoothAdv, on one device and on eight."""
    out = tmp_path_factory.mktemp("devices")
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(train_cvae, "quality", cheap)
        patch.setattr(train_cvae, "pictures", lambda *args: [])
        patch.setattr(train_cvae, "report", lambda *args: Report("", {}))
        patch.setattr(
            train_classifier, "judged", lambda *args: {"radii": np.ones(1), "robust": np.ones((1, 2))}
        )
        patch.setattr(train_classifier, "page", types.SimpleNamespace(page=lambda *args: Report("", {})))
        for count, mesh in MESHES.items():
            patch.setattr(runtime, "data_mesh", lambda mesh=mesh: mesh)
            cfg = dataclasses.replace(cvae_settings.PRESETS["smoke"], out=str(out / f"set{count}"), images=20)
            assert train_cvae.main(cfg) == 0
            cfg = dataclasses.replace(
                classifier_runs.PRESETS["smoke"], set=str(out / "set1"), out=str(out / f"net{count}"),
                method="smoothadv", batch_size=256,
            )  # fmt: skip
            assert train_classifier.main(cfg) == 0
    return out


def assert_near(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one, other)


def test_a_set_is_the_same_on_any_number_of_devices(folders):
    one, eight = (autoencoders.opened(str(folders / f"set{count}")) for count in (1, 8))
    assert one.step == eight.step == 2
    assert_near((one.params, one.state), (eight.params, eight.state))
    found = [json.loads((folders / f"set{count}" / "quality.json").read_text()) for count in (1, 8)]
    assert_near(*found)


def test_a_network_is_the_same_on_any_number_of_devices(folders):
    one, eight = (classifier_runs.opened(str(folders / f"net{count}")) for count in (1, 8))
    assert one.config.method == "smoothadv" and one.step == eight.step == 5
    assert_near((one.params, one.state), (eight.params, eight.state))


def settings(method, **more):
    return dataclasses.replace(classifier_runs.PRESETS["smoke"], method=method, **more)


@pytest.fixture(scope="module")
def learnt(folders):
    return autoencoders.opened(str(folders / "set1"))


@pytest.mark.parametrize("method", get_args(classifier_runs.Method))
def test_every_method_has_a_loss(learnt, method):
    cfg = settings(method)
    model = classifier_runs.network(cfg, learnt)
    params, state = jax.eval_shape(model.init, KEY)
    batch = Batch(jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32))
    loss = classifier_losses.loss_of(cfg, learnt, model, 1.0)
    value, (same, metrics) = jax.eval_shape(loss, params, state, (batch, (learnt.params, learnt.state)), KEY)
    assert value.shape == () and jax.tree.structure(same) == jax.tree.structure(state) and "risk" in metrics


def test_attacks_within_reach_of_nothing_leave_the_middle_and_grow_with_it(learnt):
    x, y = (
        autoencoders.as_images(learnt.splits[2], slice(8)),
        jnp.asarray(learnt.splits[2].label[:8], jnp.int32),
    )
    model = classifier_runs.network(settings("plain"), learnt)
    params, state = model.init(KEY)

    def risk(**more):
        cfg = settings("smoothadv", sigma=1e-6, attack_steps=5, **more)
        loss = jax.jit(classifier_losses.loss_of(cfg, learnt, model, 1.0))
        return float(loss(params, state, (Batch(x, y), (learnt.params, learnt.state)), KEY)[0])

    prior, _ = learnt.model.prior(learnt.params, learnt.state, x)
    middle = learnt.model.link(learnt.model.decode(learnt.params, learnt.state, x, prior.mean)[0])
    want = float(logit.cross_entropy(model.apply(params, state, middle)[0], y).mean())
    np.testing.assert_allclose(risk(reach=1e-6), want, rtol=1e-4)
    assert risk(reach=1e-6) < risk(reach=2.0)


def test_scenes_take_no_method_for_one_class_per_image(learnt):
    scenes = learnt._replace(config=dataclasses.replace(learnt.config, pairs="relit"))
    for method in classifier_runs.PER_IMAGE:
        with pytest.raises(ValueError, match="must be another one for scenes"):
            classifier_runs.network(settings(method, model="unet_small"), scenes)
