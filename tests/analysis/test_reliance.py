"""Measurements of networks of known behaviour, several at once, and the numbers made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.analysis import reliance
from robustjax.analysis.measures import MEASURES, estimate
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.data import planted
from robustjax.threats import Threat
from robustjax.types import Model

COUNT = 20


def colour_reader():
    """Read the texture's tint off the mean colour; the parameter is how sure it is."""
    hue = 2 * np.pi * np.arange(10) / 10
    tint = np.cos(hue[:, None] - np.array([0, 2 * np.pi / 3, 4 * np.pi / 3])).T

    def apply(params, state, x, *, train=False, key=None):
        return params * (x.mean(axis=(1, 2)) - 0.5) @ jnp.asarray(tint, jnp.float32), state

    return Model(lambda key: (jnp.ones(()), {}), apply, lambda p, s, x: {})


@pytest.mark.slow
def test_a_network_that_reads_textures():
    recipe = planted.Recipe(noise=0.0, core_scale=0.0)
    source = planted.embedded()
    sets = {
        v: [planted.planted(recipe, source, split="test", count=COUNT, seed=s, variant=v) for s in range(2)]
        for v in ("original", "mixed_same", "mixed_rand", "mixed_other", "only_bg_t")
    }
    attack = compose.against(pgd(Threat("l2", 0.01), steps=1, step_size=0.01), objectives.margin)
    measure = reliance.measurement(
        colour_reader(), attack, levels=(0.1, 0.2), attacked=("original", "absent"), batch_size=16
    )
    found = measure(jax.random.key(0), jnp.asarray([1.0, 100.0]), {}, sets)
    assert found["noise/foreground"].shape == (2, COUNT, 2) and found["overlap"].shape == (2, COUNT)
    assert "robust/absent" not in found and found["robust/original"].shape == (2, COUNT)
    for name, of_seeds in sets.items():
        np.testing.assert_array_equal(found[f"prediction/{name}"], np.stack([s.place for s in of_seeds]))
    assert MEASURES["only_bg"].of(found) == 1 and MEASURES["worst"].of(found) == 0
    assert MEASURES["flips"].of(found) == 1
    random = np.mean([s.place == s.label for s in sets["mixed_rand"]])
    np.testing.assert_allclose(MEASURES["gap"].of(found), 1 - random)
    assert not MEASURES["only_fg"].known(found)
    difference = estimate([(1, found, MEASURES["gap"]), (-1, found, MEASURES["gap"])], resamples=20)
    assert difference == (0, 0, 0)  # resampled together
    total = estimate([(1, found, MEASURES["gap"]), (1, found, MEASURES["clean"])], resamples=20)
    np.testing.assert_allclose(total.value, MEASURES["gap"].of(found) + MEASURES["clean"].of(found))


def test_worst_groups():
    label = np.array([[0, 0, 1, 1]])
    same, other = label.copy(), np.array([[0, 1, 1, 1]])
    assert reliance.worst(same, other, label) == 0.5
    two = [np.concatenate([a, b]) for a, b in ((same, same), (other, label), (label, label))]
    assert reliance.mean_worst(*two) == 0.75


def test_rfs_is_averaged_over_levels():
    label = np.arange(10)[None] % 2
    front, back = (np.full((1, 10, 2), v) for v in (0.6, 0.8))
    front[..., 1] = 0.3
    back[..., 1] = 0.5
    np.testing.assert_allclose(reliance.mean_rfs(front, back, label), (1 / 3 + 1 / 4) / 2)
