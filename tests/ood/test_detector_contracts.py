"""What holds of every detector by name, fitted to a small network on images of three patterns.

Scores are larger on ID images, the same in every batch, compiled or not, and have finite slopes. All detectors are in
one program, which shares the network.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.catalog.scores import DETECTORS, OPENOOD_NAMES, detector
from robustjax.evaluation import scores
from robustjax.models.adapters import from_flax
from robustjax.ood import metrics
from robustjax.ood.detectors import FitInputs
from robustjax.types import Network

RNG = np.random.default_rng(0)
SIDE, CLASSES = 6, 3
PATTERNS = RNG.uniform(0.1, 0.9, (CLASSES, SIDE, SIDE, 1)).astype(np.float32)


class Net(nn.Module):
    """Two convolutions whose last map is pooled for the last layer."""

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate((8, 24)):
            x = nn.relu(nn.Conv(width, (3, 3), strides=(2, 2), name=f"conv{i}")(x))
            self.sow("features", f"stage{i}", x)
        return nn.Dense(CLASSES, name="head")(x.mean(axis=(1, 2)))


def images(count, seed):
    rng = np.random.default_rng(seed)
    label = np.arange(count) % CLASSES
    return np.clip(PATTERNS[label] + rng.normal(size=(count, SIDE, SIDE, 1)) * 0.05, 0, 1).astype(
        np.float32
    ), label


def trained():
    """Draw the convolutions, and put between the class means what tells them apart."""
    model = from_flax(Net(), shape=(SIDE, SIDE, 1))
    params, state = jax.jit(model.init)(jax.random.key(1))
    x, label = images(150, 2)
    h = np.asarray(jax.jit(model.features)(params, state, x)["stage1"], np.float64)
    means = np.stack([h[label == c].mean(axis=0) for c in range(CLASSES)])
    params["head"] = {
        "kernel": jnp.asarray(8 * np.linalg.pinv(means), jnp.float32),
        "bias": jnp.zeros(CLASSES),
    }
    return Network(model, params, state)


class Given:
    """What detectors are fitted to, each part computed once for all of them."""

    def __init__(self):
        self.network = net = trained()
        (train, self.label), (held_out, self.held_out_label) = images(240, 2), images(60, 3)
        self.images = {"train": train, "held_out": held_out}
        read = jax.jit(lambda x: net.model.features(net.params, net.state, x))
        noise = RNG.permuted(held_out.reshape(60, -1), axis=1).reshape(held_out.shape)
        self.features, self.held_out, self.noise = (
            jax.tree.map(np.asarray, read(x)) for x in (train, held_out, noise)
        )
        self.head = scores.last_layer(net)
        self.known = {}

    def inputs(self, fitted=()):
        net = self.network
        one = scores.DetectorOn(net.model, DETECTORS["vim"], CLASSES)
        return one.inputs(net.params, net.state, fitted)

    def measure(self, part, build, fitted=()):
        key = part, build
        if key not in self.known:
            self.known[key] = jax.tree.map(np.asarray, jax.jit(build(self.inputs(fitted)))(self.images[part]))
        return self.known[key]

    def fit_inputs(self):
        return FitInputs(
            self.features, self.label, self.held_out, self.noise, self.head, self.held_out_label, self.measure
        )


@pytest.fixture(scope="module")
def given():
    return Given()


@pytest.fixture(scope="module")
def fitted(given):
    inputs = given.fit_inputs()
    return {name: one.fit(inputs) if one.fit else () for name, one in DETECTORS.items()}


@pytest.fixture(scope="module")
def program(given):
    """Scores, slopes and slopes of surrogates of all detectors."""

    def run(fitted, x):
        found = {}
        for name, one in DETECTORS.items():
            inputs = given.inputs(fitted[name])
            score = one.build(inputs)
            both = {"score": score, **({"surrogate": one.surrogate(inputs)} if one.surrogate else {})}
            found[name] = {
                kind: jax.value_and_grad(lambda z: (lambda s: (s.sum(), s))(f(z)), has_aux=True)(x)
                for kind, f in both.items()
            }
        return {
            name: {kind: (value, slope) for kind, ((_, value), slope) in of.items()}
            for name, of in found.items()
        }

    return jax.jit(run)


@pytest.fixture(scope="module")
def results(program, fitted):
    """12 new ID images, and 12 of dim noise."""
    ours, _ = images(12, 4)
    x = np.concatenate([ours, RNG.uniform(0, 0.2, ours.shape).astype(np.float32)])
    return x, jax.tree.map(np.asarray, program(fitted, x))


@pytest.mark.parametrize("name", DETECTORS)
def test_scores_are_larger_on_id_images_and_have_finite_slopes(results, name):
    score, slope = results[1][name]["score"]
    assert score.shape == (24,) and np.isfinite(score).all()
    assert metrics.auroc(score[:12], score[12:]) > 0.6
    assert np.isfinite(slope).all() and (np.abs(slope) > 0).any()


def test_surrogates_have_slopes_at_every_image(results):
    """They are there for images where the score has none."""
    with_one = [of["surrogate"] for of in results[1].values() if "surrogate" in of]
    assert len(with_one) > 4
    for value, slope in with_one:
        assert np.isfinite(value).all() and np.isfinite(slope).all()
        assert (np.abs(slope).reshape(24, -1).max(axis=1) > 0).all()


def test_a_score_does_not_depend_on_the_other_images(program, fitted, results):
    """The first image keeps its place, all others change; dead pixels and constant images are among them."""
    x, want = results
    mates = np.concatenate([x[:1], x[:0:-1]])
    mates[5], mates[7] = 0.0, 1.0
    got = jax.tree.map(np.asarray, program(fitted, mates))
    for name in DETECTORS:
        for kind in want[name]:
            assert all(np.isfinite(a).all() for a in got[name][kind])
            for i, j in ((0, 0), (1, 23)):
                for a, b in zip(got[name][kind], want[name][kind]):
                    np.testing.assert_allclose(a[j], b[i], rtol=2e-4, atol=1e-5 * (1 + np.abs(b).max()))


@pytest.mark.parametrize("name", ["relation", "rankfeat"])
def test_compiled_or_not(given, fitted, results, name):
    x, want = results[0][[0, 3, 14]], results[1][name]["score"][0]
    got = DETECTORS[name].build(given.inputs(fitted[name]))(jnp.asarray(x))
    np.testing.assert_allclose(got, want[[0, 3, 14]], rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_what_is_fitted_is_a_pytree_of_arrays(fitted):
    for name, form in fitted.items():
        for path, leaf in jax.tree.leaves_with_path(form):
            # SSD gives activations that never change in training an infinite spread: they count for nothing.
            assert not np.isnan(leaf).any() and (name == "ssd" or np.isfinite(leaf).all()), (name, path)


# Fitted to nothing but settings; the two of the second line to the last layer alone.
UNFITTED = {"ash", "ash_b", "ash_p", "scale"}
FITTED = [
    name for name, one in DETECTORS.items() if one.fit and one.reads == "features" and name not in UNFITTED
]


@pytest.mark.parametrize("name", FITTED)
def test_what_is_not_finite_is_refused_in_one_line(given, name):
    bad = {n: a.copy() for n, a in given.features.items()}
    for a in bad.values():
        a[3, 1] = np.nan
    change = {"features": bad}
    if name in ("gradnorm", "dropout"):
        change = {"last_layer": given.head._replace(kernel=given.head.kernel.at[0, 0].set(np.inf))}
    with pytest.raises(ValueError, match="finite") as caught:
        DETECTORS[name].fit(given.fit_inputs()._replace(**change))
    assert "\n" not in str(caught.value)


LABELLED = (
    "openmax",
    "mahalanobis",
    "relative_mahalanobis",
    "mahalanobis_layers",
    "prototypes",
    "she",
    "gram",
)


@pytest.mark.parametrize("name", LABELLED)
def test_labels_that_do_not_fit_are_refused_in_one_line(given, name):
    for label in (given.label[:-1], given.label - 1, given.label + 0.5, np.eye(3)[given.label]):
        with pytest.raises(ValueError, match="label") as caught:
            DETECTORS[name].fit(given.fit_inputs()._replace(label=label))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_openood_names_the_same_scores():
    for theirs, ours in OPENOOD_NAMES.items():
        assert detector(theirs) is DETECTORS[ours]
