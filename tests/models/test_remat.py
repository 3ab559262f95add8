"""Recomputing blocks changes no number and keeps less for the backward pass."""

import jax
import numpy as np
import pytest

from robustjax.models import resnet, resnet_imagenet
from robustjax.models.wideresnet import wideresnet


def kept(model, x):
    """Bytes that the backward pass to the images keeps, beyond what it is given."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    back = jax.eval_shape(lambda p, s, x: jax.vjp(lambda x: model.apply(p, s, x)[0], x)[1], params, state, x)
    given = {a.shape for a in jax.tree.leaves((params, state))}
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(back) if a.shape not in given)


@pytest.mark.slow
def test_same_numbers():
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    models = [wideresnet(depth=10, width=1, shape=x.shape[1:], remat=remat) for remat in (False, True)]
    params, state = models[0].init(jax.random.key(0))
    found = []
    for model in models:

        def loss(params, x, apply=model.apply):
            logits, after = apply(params, state, x, train=True)
            return (logits**2).sum(), after

        found.append(jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x))
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])
    for one, other in zip(*map(jax.tree.leaves, found)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(one).max())))


@pytest.mark.slow
def test_less_is_kept():
    x = jax.ShapeDtypeStruct((16, 32, 32, 3), np.float32)
    for factory in (
        resnet.resnet18,
        resnet.resnet50,
        resnet_imagenet.resnet50_imagenet,
        wideresnet,
    ):
        whole, lean = (kept(factory(shape=x.shape[1:], remat=remat), x) for remat in (False, True))
        # Whole networks keep no patch or kernel either, only what each convolution and each ReLU was given.
        assert lean < 0.67 * whole, (factory.__name__, lean, whole)
