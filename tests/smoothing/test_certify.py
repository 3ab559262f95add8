"""Smoothing against published numbers, a linear classifier's closed form, and its own promise of 1 - alpha."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustjax import binomial
from robustjax.numerics import keys_for
from robustjax.perturbations.sets import PerturbationSet
from robustjax.smoothing import curves, ensembles, noise
from robustjax.smoothing.certify import Certificate, certificate, certify, predict, prediction
from robustjax.smoothing.segmenters import certify_pixels
from robustjax.smoothing.sequential import certify_up_to
from robustjax.smoothing.votes import over_devices, votes
from robustjax.threats import Threat

KEY = jax.random.key(0)
ANYWHERE = {"lower": -np.inf, "upper": np.inf}
# wins, n, sigma, lower bound, radius (None: abstains); alpha = 0.001
CERTIFIED = [
    (100000, 100000, 0.25, 0.999930924833, 0.9528641408),
    (100000, 100000, 0.50, 0.999930924833, 1.9057282817),
    (100000, 100000, 1.0, 0.999930924833, 3.8114565634),
    (99999, 100000, 0.25, 0.999907669666, 0.9347816671),
    (99990, 100000, 0.25, 0.999758677344, 0.8725519200),
    (99900, 100000, 0.50, 0.998650992447, 1.5001004938),
    (99000, 100000, 0.25, 0.988989340377, 0.5724999888),
    (98000, 100000, 0.25, 0.978594402772, 0.5063868304),
    (95000, 100000, 0.50, 0.947834896504, 0.8121068523),
    (90000, 100000, 0.50, 0.897036496224, 0.6324223452),
    (80000, 100000, 1.0, 0.796066071193, 0.8276515631),
    (70000, 100000, 0.25, 0.695503515195, 0.1278778637),
    (60000, 100000, 1.0, 0.595201047295, 0.2409447922),
    (51000, 100000, 0.25, 0.505109349244, 0.0032018974),
    (50490, 100000, 0.25, 0.500008948774, 0.0000056078),
    (50489, 100000, 0.25, 0.499998948489, None),
    (50000, 100000, 0.25, 0.495109042904, None),
    (0, 100000, 0.25, 0.0, None),
    (1000, 1000, 0.25, 0.993116048421, 0.6158156537),
    (550, 1000, 0.50, 0.500675960, 0.0008471907),
    (549, 1000, 0.50, 0.499673064142, None),
    (65, 100, 0.12, 0.491375611494, None),
    (10, 10, 0.50, 0.501187234, 0.0014879789),
    (9, 9, 0.50, 0.464158883361, None),
]
# votes of the first two classes, p-value, abstains; alpha = 0.001
PREDICTED = [
    (100, 0, 1.57772181e-30, False),
    (70, 30, 7.850139646e-05, False),
    (67, 33, 8.737198369e-04, False),
    (66, 34, 1.789930391e-03, True),
    (510, 490, 0.5479727459, True),
    (560, 440, 0.0001650498706, False),
    (553, 447, 0.0008899859648, False),
    (552, 448, 0.001115049179, True),
    (11, 0, 0.0009765625, False),
    (10, 0, 0.001953125, True),
]


@pytest.mark.parametrize(("wins", "n", "sigma", "bound", "radius"), CERTIFIED)
def test_certificates_of_published_counts(wins, n, sigma, bound, radius):
    found = certificate(np.array([3]), np.array([wins]), n, sigma=sigma, alpha=0.001)
    assert found.lower_bound.dtype == found.radius.dtype == np.float64
    np.testing.assert_allclose(found.lower_bound, bound, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.radius, radius or 0.0, rtol=0, atol=1e-9)
    assert found.label[0] == (-1 if radius is None else 3)


@pytest.mark.parametrize(("first", "second", "p", "abstains"), PREDICTED)
def test_predictions_of_published_counts(first, second, p, abstains):
    np.testing.assert_allclose(binomial.tie(first, second), p, rtol=1e-9)
    assert prediction(np.array([[0, second, first]]))[0] == (-1 if abstains else 2)


@pytest.mark.parametrize(("n", "least"), [(100, 66), (1000, 550), (10_000, 5156), (100_000, 50_490)])
def test_smallest_count_that_certifies(n, least):
    wins = np.array([least - 1, least])
    assert certificate(np.array([0, 0]), wins, n, sigma=1.0, alpha=0.001).label.tolist() == [-1, 0]


def test_bounds_agree_with_scipys_intervals_and_test():
    for wins, n in ((0, 7), (3, 9), (40, 61), (61, 61)):
        exact = stats.binomtest(wins, n, alternative="greater").proportion_ci(1 - 0.01).low
        above = stats.binomtest(wins, n, alternative="less").proportion_ci(1 - 0.01).high
        np.testing.assert_allclose(binomial.lower(wins, n, 0.01), exact, atol=1e-12)
        np.testing.assert_allclose(binomial.upper(wins, n, 0.01), above, atol=1e-12)
        np.testing.assert_allclose(binomial.tie(wins, n - wins), stats.binomtest(wins, n).pvalue, rtol=1e-9)


WEIGHT = jnp.asarray([[1.0, -2.0, 0.5, 2.0], [-1.0, 1.0, 0.0, 0.5]], jnp.float32)
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4)), jnp.float32)


def linear(x):
    return x @ WEIGHT.T


def test_a_linear_classifier_is_certified_up_to_its_true_distance():
    difference = np.asarray(WEIGHT[0] - WEIGHT[1], np.float64)
    margin = np.asarray(X, np.float64) @ difference
    distance = np.abs(margin) / np.linalg.norm(difference)
    sigma = 0.5
    count = votes(linear, noise.in_pixels(sigma, **ANYWHERE), classes=2, chunk_size=2000)
    found = certify(count, sigma=sigma, samples=10_000)(KEY, X)
    decided = found.label >= 0
    np.testing.assert_array_equal(found.label[decided], (margin < 0)[decided])
    assert (found.radius <= distance).all() and decided.sum() >= 4
    reach = sigma * stats.norm.ppf(0.001 ** (1 / 10_000))
    near = decided & (distance < 0.7 * reach)
    assert near.any()
    # Phi^-1 is steep in the tail: seven standard errors of the count, in units of the radius.
    chance = stats.norm.cdf(distance / sigma)
    error = 7 * np.sqrt(chance * (1 - chance) / 10_000) * sigma / stats.norm.pdf(distance / sigma)
    assert (distance - found.radius <= error)[near].all()


def test_latents_of_a_linear_decoder_have_the_distance_in_latents():
    basis = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4)), jnp.float32)
    space = PerturbationSet(lambda key, ready, u: ready + u @ basis, Threat("l2", 1.0), 2, lambda x: 2.0 * x)
    sigma, difference = 1.5, np.asarray(WEIGHT[0] - WEIGHT[1], np.float64)
    count = votes(linear, noise.in_parameters(space, sigma, **ANYWHERE), classes=2)
    found = certify(count, sigma=sigma, samples=10_000)(KEY, X)
    distance = np.abs(2 * np.asarray(X) @ difference) / np.linalg.norm(np.asarray(basis) @ difference)
    assert (found.radius <= distance).all() and (distance - found.radius < 0.2)[distance < 2].all()


@pytest.mark.slow
def test_counts_are_of_all_samples_whatever_the_batch_and_one_program_serves_every_number():
    traces = []

    def net(x):
        traces.append(x.shape)
        return linear(x)

    count = jax.jit(votes(net, noise.in_pixels(1.0, **ANYWHERE), classes=2, chunk_size=50))
    for n in (1, 49, 50, 51, 230):
        assert (count(KEY, X, n).sum(axis=1) == n).all()
    assert len(set(traces)) == 1 and len(traces) <= 2
    n = jnp.asarray([0, 10, 100, 10, 75, 10])
    np.testing.assert_array_equal(count(KEY, X, n).sum(axis=1), n)
    keys = keys_for(KEY, 6)
    whole = count(keys, X, 100)
    part = jax.jit(votes(linear, noise.in_pixels(1.0, **ANYWHERE), classes=2, chunk_size=50))
    np.testing.assert_array_equal(whole[2:4], part(keys[2:4], X[2:4], 100))


def test_samples_with_nan_count_for_no_class():
    def net(x):
        return jnp.where(x[:, :1] > 0, linear(x), jnp.nan)

    count = votes(net, noise.in_pixels(1.0, **ANYWHERE), classes=2)(KEY, jnp.zeros((1, 4)), 1000)
    assert 400 < count.sum() < 600


@pytest.mark.slow
def test_votes_over_devices_are_those_of_one():
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    count = votes(linear, noise.in_pixels(1.0, **ANYWHERE), classes=2, chunk_size=50)
    n = jnp.asarray([120, 7, 0, 120, 49, 120])  # six images on four devices
    split = jax.jit(over_devices(count, mesh))
    np.testing.assert_array_equal(split(KEY, X, n), count(KEY, X, n))
    hlo = split.lower(keys_for(KEY, 6), X, n).compile().as_text()
    assert "all-reduce" not in hlo and "all-to-all" not in hlo


@pytest.mark.slow
def test_wrong_certificates_are_as_rare_as_promised():
    # One half-space at a known distance: every draw of the noise is a trial, any radius beyond it is wrong.
    distance, sigma, alpha, trials = 0.4, 1.0, 0.05, 2000
    count = votes(
        lambda x: jnp.stack([x[:, 0], 0.0 * x[:, 0]], 1),
        noise.in_pixels(sigma, **ANYWHERE),
        classes=2,
        chunk_size=200,
    )
    x = jnp.full((trials, 1), distance, jnp.float32)
    simple = certify(count, sigma=sigma, selection_samples=20, samples=200, alpha=alpha)(KEY, x)
    staged = certify_up_to(
        count, sigma=sigma, radius=10.0, selection_samples=20, phases=(50, 100, 200), alpha=alpha
    )(KEY, x)
    most = stats.binom.ppf(0.9999, trials, alpha) / trials
    for found in (simple, staged.certificate):
        wrong = (found.radius > distance) | (found.label == 1)
        assert wrong.mean() <= most
    # The bound is sharp: half the trials' worth of errors do occur.
    assert (simple.radius > distance).mean() > 0.5 * alpha


def test_sequential_stops_early_where_it_may():
    x = jnp.asarray([[5.0], [0.27], [0.05]], jnp.float32)
    count = votes(
        lambda x: jnp.stack([x[:, 0], 0.0 * x[:, 0]], 1), noise.in_pixels(1.0, **ANYWHERE), classes=2
    )
    run = certify_up_to(count, sigma=1.0, radius=0.2, phases=(100, 1000, 10_000), alpha=0.001)
    found = run(KEY, x)
    np.testing.assert_array_equal(found.samples < 10_000, [True, False, True])
    assert found.certificate.radius[0] >= 0.2 and 0.2 <= found.certificate.radius[1] <= 0.27
    assert found.certificate.radius[2] <= 0.05


def test_predict_names_the_class_or_abstains():
    x = jnp.asarray([[3.0], [-3.0], [0.0]], jnp.float32)
    count = votes(
        lambda x: jnp.stack([x[:, 0], 0.0 * x[:, 0]], 1), noise.in_pixels(1.0, **ANYWHERE), classes=2
    )
    assert predict(count, samples=1000)(KEY, x).tolist() == [0, 1, -1]


def test_curves_of_known_certificates():
    found = Certificate(
        np.array([0, 1, -1, 2]), np.array([1.0, 2.0, 0.0, 0.5]), np.array([0.9, 0.99, 0.4, 0.7])
    )
    label = np.array([0, 1, 2, 0])
    np.testing.assert_array_equal(
        curves.certified_accuracy(found, label, [0.0, 1.0, 1.5, 3.0]), [0.5, 0.5, 0.25, 0]
    )
    assert curves.average_radius(found, label) == 0.75
    grid = np.linspace(0, 3, 30_001)
    area = np.trapezoid(curves.certified_accuracy(found, label, grid), grid)
    assert abs(area - 0.75) < 1e-3


def test_ensembles_average_logits():
    both = ensembles.ensemble(linear, lambda x: 2.0 * linear(x) + 1.0)
    np.testing.assert_allclose(both(X), 1.5 * linear(X) + 0.5, rtol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        ensembles.ensemble()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: noise.in_pixels(0.0), "sigma is 0.0"),
        (lambda: votes(linear, noise.in_pixels(1.0, **ANYWHERE), classes=2, chunk_size=0), "chunk_size is 0"),
        (lambda: certify(None, sigma=1.0, alpha=1.0), "alpha is 1.0"),  # pyright: ignore[reportArgumentType]
        (lambda: certify_up_to(None, sigma=1.0, radius=1.0, phases=(5, 5)), "must grow"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_settings_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def wrong(message, call):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


PIXELS = noise.in_pixels(0.25)
INSIDE = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 4)), jnp.float32)


@pytest.mark.parametrize(
    ("network", "classes", "message"),
    [
        (
            lambda x: x[:, :1],
            1,
            "classes is 1, must be a whole number, at least 2",
        ),  # would certify class 0 everywhere
        (lambda x: x[:, :1], 2, r"must give \(1000, ..., 2\)"),
        (linear, 3, r"must give \(1000, ..., 3\)"),  # a class without votes
        (lambda x: jnp.tile(x, 2), 2, r"gives \(1000, 8\)"),  # votes for more classes would be dropped
        (lambda x: (linear(x), x), 2, "gives tuple"),
        (lambda x: np.asarray(x) @ np.ones((4, 2)), 2, "must be written in JAX"),
        (lambda x: linear(x) > 0, 2, "gives bool"),
        (lambda x: linear(x).sum(axis=0), 2, r"gives \(2,\)"),
        (WEIGHT, 2, "must be a function"),
    ],
)
def test_networks_that_votes_would_misread_are_refused(network, classes, message):
    wrong(message, lambda: votes(network, PIXELS, classes=classes)(KEY, INSIDE, 10))
    wrong(
        message, lambda: certify(votes(network, PIXELS, classes=classes), sigma=0.25, samples=20)(KEY, INSIDE)
    )


RUNS = {
    "votes": lambda count: lambda key, x: count(key, x, 10),
    "certify": lambda count: certify(count, sigma=0.25, samples=20),
    "predict": lambda count: predict(count, samples=20),
    "certify_up_to": lambda count: certify_up_to(count, sigma=0.25, radius=0.1, phases=(20,)),
    "certify_pixels": lambda count: certify_pixels(count, sigma=0.25, samples=20),
}


@pytest.mark.parametrize("entrance", RUNS)
def test_images_that_noise_would_drown_are_refused(entrance):
    """Noise of 0.25 is nothing to images of 0..255, and too much to normalised ones."""
    run = RUNS[entrance](votes(linear, PIXELS, classes=2))
    nan = INSIDE.at[1, 2].set(jnp.nan)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    shared = RUNS[entrance](over_devices(votes(linear, PIXELS, classes=2), mesh))
    space = PerturbationSet(lambda key, ready, u: ready + u, Threat("l2", 1.0), 4, lambda x: x)
    latent = RUNS[entrance](votes(linear, noise.in_parameters(space, 0.25), classes=2))
    for one in (run, shared, latent):
        for x, message in (
            ((255 * INSIDE).astype(jnp.uint8), "images are uint8, must be floats; of bytes take x / 255"),
            (255 * INSIDE, r"must lie in \[0, 1\]; scale them, or give the box"),
            (4 * INSIDE - 2, r"range from -.* must lie in \[0, 1\]"),
            (nan, "1 images have values that are not finite"),
            (INSIDE[:0], "at least one"),
        ):
            wrong(message, lambda one=one, x=x: one(KEY, x))


COUNT = votes(linear, PIXELS, classes=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda s=s: noise.in_pixels(s), "sigma is")
            for s in (-1.0, np.float32(-0.1), np.nan, np.inf, "1")
        ),
        (lambda: noise.white(np.float32(0.0)), "white: sigma is 0.0"),
        (lambda: certify(COUNT, sigma=np.float32(-0.1)), "certify: sigma is -0.1"),
        (lambda: certify(COUNT, sigma=0.25, samples=0), "number of samples is 0"),
        (lambda: certify(COUNT, sigma=0.25, samples=10.5), "number of samples is 10.5"),
        (lambda: certify(COUNT, sigma=0.25, samples=2**31), "must be at most"),
        (lambda: certify(COUNT, sigma=0.25, selection_samples=-1), "number of samples is -1"),
        (lambda: certify(COUNT, sigma=0.25, alpha=0.0), "alpha is 0.0"),
        (lambda: predict(COUNT, alpha=1.5), "alpha is 1.5"),
        (lambda: certify_up_to(COUNT, sigma=0.25, radius=np.nan), "radius is nan"),
        (lambda: certify_up_to(COUNT, sigma=0.25, radius=0.1, phases=()), "must grow"),
        (lambda: certify_pixels(COUNT, sigma=0.0), "certify_pixels: sigma is 0.0"),
        (lambda: prediction(np.array([[100]])), "at least two classes"),
        (lambda: prediction(np.array([[60.0, 40.0]])), "must be whole numbers"),
        (lambda: certificate(np.array([0]), np.array([11]), 10, sigma=1.0, alpha=0.1), "11 wins of 10"),
        (lambda: certificate(np.array([0]), np.array([9]), 10, sigma=-1.0, alpha=0.1), "sigma is -1.0"),
        (lambda: binomial.lower(np.array([-1]), 10, 0.1), "down to -1"),
        (lambda: ensembles.ensemble(linear, lambda x: linear(x)[:, :1])(X), "logits of one shape"),
    ],
)
def test_settings_that_promise_nothing_are_refused(make, message):
    wrong(message, make)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, -1], "smallest label is -1"),  # would count an abstention as right
        ([0.5, 1], "whole numbers"),
        ([[1, 0], [0, 1]], "argmax"),
        ([[0], [1]], "must be"),
        ([0], "must be"),
    ],
)
def test_labels_of_certificates_are_checked(label, message):
    found = Certificate(np.array([0, -1]), np.array([1.0, 0.0]), np.array([0.9, 0.4]))
    wrong(message, lambda: curves.certified_accuracy(found, np.array(label), [0.0]))
    wrong(message, lambda: curves.average_radius(found, np.array(label)))
    wrong("radii are", lambda: curves.certified_accuracy(found, np.array([0, 1]), [np.nan]))
