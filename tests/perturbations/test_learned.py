"""Learned sets on a linear autoencoder, where errors, divergences and bounds have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from toys import BETA, D, K, Linear

from robustjax.attacks import compose
from robustjax.attacks.pgd import pgd
from robustjax.attacks.square import square
from robustjax.losses.elbo import elbo, interpolated, kl
from robustjax.models.cvae import Gaussian, error
from robustjax.models.cvae_small import dense
from robustjax.numerics import keys_for
from robustjax.perturbations import pairs, sets, theorems
from robustjax.perturbations.learned import encoder, learned, noisy, perturbed
from robustjax.perturbations.quality import conformal_radius, coverage, norms, quality
from robustjax.perturbations.truncated import truncated_normal
from robustjax.smoothing.certify import certify
from robustjax.smoothing.noise import in_parameters
from robustjax.smoothing.votes import votes

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def toy():
    return Linear()


@pytest.mark.slow
def test_the_loss_at_the_optimum_and_its_divergences_are_those_of_probabilistic_pca(toy):
    top = toy.eigenvalues[:K][toy.active]
    assert toy.active.sum() == 5
    best = toy.eigenvalues.sum() - top.sum() + (BETA / 2 * (1 + np.log(2 * top / BETA))).sum()
    loss = elbo(toy.model(), beta=BETA)
    views = pairs.ImagePair(toy.image, toy.perturbed)

    @jax.jit
    def averaged(params):
        values, aux = jax.vmap(lambda k: loss(params, {}, views, k))(jax.random.split(KEY, 20))
        return values.mean(), aux[1]

    (value, metrics), slope = jax.value_and_grad(averaged, has_aux=True)(toy.params)
    np.testing.assert_allclose(value, best, rtol=2e-3)
    np.testing.assert_allclose(metrics["kl"], 0.5 * np.log(2 * top / BETA).sum(), rtol=1e-4)
    # A minimum: no direction goes down.
    assert all(float(jnp.abs(leaf).max()) < 0.05 for leaf in jax.tree.leaves(slope))
    found = encoder(toy.model(), toy.params, {})(toy.image, toy.perturbed)
    np.testing.assert_allclose(found.kl().mean(axis=0)[:5], 0.5 * np.log(2 * top / BETA), atol=1e-3)
    np.testing.assert_allclose(jnp.square(found.norm).mean(), (1 - BETA / (2 * top)).sum(), rtol=1e-4)


@pytest.fixture(scope="module")
def measured(toy):
    found = encoder(toy.model(), toy.params, {})(toy.image, toy.perturbed)
    radius = float(found.norm.max())
    measure = quality(toy.model(), toy.params, {}, radius=radius, samples=400)
    return radius, jax.jit(measure)(KEY, toy.image[:16], toy.perturbed[:16])


@pytest.mark.slow
def test_errors_of_a_linear_set_are_the_exact_ones(toy, measured):
    radius, got = measured
    exact = np.array([[toy.extreme(r, radius, sign) / D for sign in (1, -1)] for r in toy.r[:16]])
    assert (got.nearest >= exact[:, 0] * (1 - 1e-4)).all() and (
        got.farthest <= exact[:, 1] * (1 + 1e-4)
    ).all()
    np.testing.assert_allclose(got.nearest.mean(), exact[:, 0].mean(), rtol=0.03)
    np.testing.assert_allclose(got.farthest.mean(), exact[:, 1].mean(), rtol=0.01)
    chi = stats.chi2.cdf(radius**2, K + 2) / stats.chi2.cdf(radius**2, K)
    mean = ((toy.r[:16] ** 2).sum(axis=1) + chi * (toy.weight**2).sum()) / D
    np.testing.assert_allclose(got.expected, mean, rtol=0.2)
    np.testing.assert_allclose(got.expected.mean(), mean.mean(), rtol=0.04)
    shrunk = toy.r[:16] - toy.r[:16] @ toy.gain @ toy.weight.T
    np.testing.assert_allclose(got.encoded, (shrunk**2).mean(axis=1), rtol=1e-3)
    assert (got.nearest <= got.encoded).all() and (got.expected <= got.farthest).all()
    assert (got.nearest <= got.expected).all()


@pytest.mark.slow
def test_both_theorems_hold_for_every_pair(toy):
    found = encoder(toy.model(), toy.params, {})(toy.image[:64], toy.perturbed[:64])
    # In units of the likelihood's deviation, sqrt(beta / 2), where the theorems are stated.
    unit = BETA / 2
    mean, var = np.asarray(found.mean, np.float64), np.asarray(found.std, np.float64) ** 2
    expected = (
        ((toy.r[:64] - mean @ toy.weight.T) ** 2).sum(axis=1)
        + (var * (toy.weight**2).sum(axis=0)).sum(axis=1)
    ) / unit
    for excess in (0.1, 0.5):
        promise = theorems.nearest_bound(found, jnp.asarray(expected, jnp.float32), excess=excess)
        for i in range(64):
            assert toy.extreme(toy.r[i], float(promise.radius[i]), 1) / unit <= promise.error[i]
    # Bayes: over the ball, the mean likelihood is the evidence times the posterior's over the prior's mass.
    law = stats.multivariate_normal(cov=np.eye(D) + toy.weight @ toy.weight.T / unit)
    evidence = law.logpdf(toy.r[:64] / np.sqrt(unit)) + 0.5 * D * np.log(2 * np.pi)
    noise = np.random.default_rng(0).normal(size=(4000, 1, K))
    length = np.linalg.norm(mean + np.sqrt(var) * noise, axis=2)
    for radius in (2.5, 4.0):
        inside = np.clip((length <= radius).mean(axis=0), 1e-3, 1.0)
        exact = evidence + np.log(inside / stats.chi2.cdf(radius**2, K))
        bound = theorems.expected_bound(
            found, *(jnp.asarray(a, jnp.float32) for a in (expected, inside)), radius=radius
        )
        assert (bound <= exact + 1e-3).all()
        # Where the ball holds nearly all, it is tight, the posterior being exact here.
        np.testing.assert_allclose(bound[inside > 0.999], exact[inside > 0.999], atol=0.1)
    assert (inside > 0.999).any()


def test_kl_is_zero_for_equals_exact_for_shifts_and_the_same_after_whitening():
    rng = np.random.default_rng(0)
    p, q = (
        Gaussian(*(jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in range(2))) for _ in range(2)
    )
    np.testing.assert_array_equal(kl(p, p), 0.0)
    unit = Gaussian(jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    np.testing.assert_allclose(kl(unit._replace(mean=jnp.full((1, 1), 3.0)), unit), 4.5)
    white = Gaussian((q.mean - p.mean) / p.std, q.log_variance - p.log_variance)
    standard = Gaussian(jnp.zeros_like(p.mean), jnp.zeros_like(p.mean))
    np.testing.assert_allclose(kl(white, standard), kl(q, p), rtol=1e-4)
    z = rng.normal(size=(200_000, 3, 4)) * np.asarray(q.std) + np.asarray(q.mean)
    logs = [stats.norm.logpdf(z, np.asarray(g.mean), np.asarray(g.std)) for g in (q, p)]
    np.testing.assert_allclose(kl(q, p), (logs[0] - logs[1]).mean(axis=0), atol=0.05, rtol=0.02)


def test_both_likelihoods_are_their_formulas_and_stay_finite():
    rng = np.random.default_rng(0)
    raw, target = rng.normal(size=(3, 4, 5, 1)), rng.uniform(size=(3, 4, 5, 1))
    given = (jnp.asarray(raw, jnp.float32), jnp.asarray(target, jnp.float32))
    p = special.expit(raw)
    missed = -(target * np.log(p) + (1 - target) * np.log1p(-p)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(error(*given, "bernoulli", jax.nn.sigmoid), missed, rtol=1e-5)
    squares = ((p - target) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(error(*given, "gaussian", jax.nn.sigmoid), squares, rtol=1e-5)
    far = (
        jnp.asarray([-200.0, 200.0, 200.0])[:, None, None, None],
        jnp.asarray([0.0, 1.0, 0.0])[:, None, None, None],
    )
    np.testing.assert_allclose(error(*far, "bernoulli", jax.nn.sigmoid), [0.0, 0.0, 200.0])
    slope = jax.grad(lambda raw: error(raw, far[1], "bernoulli", jax.nn.sigmoid).sum())(far[0])
    np.testing.assert_allclose(slope.ravel(), [0.0, 0.0, 1.0])


def test_lengths_are_summarised_and_coverage_counts():
    values = np.random.default_rng(0).gamma(3.0, size=1001)
    found = norms(jnp.asarray(values, jnp.float32))
    want = [*np.quantile(values, [0.25, 0.5, 0.75, 0.999]), values.max(), values.mean(), values.std()]
    np.testing.assert_allclose(found, want, rtol=1e-4)
    assert coverage(jnp.asarray([0.1, 0.2, 0.3, 0.4]), 0.2) == 0.5


@pytest.mark.parametrize(
    ("dimension", "radius"),
    [(1, 0.5), (1, 3.0), (6, 4.166), (6, 1.0), (784, 28.0), pytest.param(6272, 29.0, marks=pytest.mark.slow)],
)
def test_truncated_draws_have_the_right_lengths_and_stay_inside(dimension, radius):
    draw = jax.jit(lambda keys: truncated_normal(keys, 1000, dimension, radius))
    u = np.asarray(draw(keys_for(KEY, 1000)), np.float64)
    length = np.linalg.norm(u, axis=1)
    assert (length <= radius * (1 + 1e-6)).all()
    if dimension < 1000:
        law = stats.chi2(dimension)
        assert stats.kstest(length, lambda r: law.cdf(r**2) / law.cdf(radius**2)).pvalue > 1e-3
        chi = stats.chi2.cdf(radius**2, dimension + 2) / stats.chi2.cdf(radius**2, dimension)
        np.testing.assert_allclose((u**2).sum(axis=1).mean() / dimension, chi, rtol=0.1)
    else:
        # So deep in the tail that the length decays exponentially from the rim: E = 1 / (slope of log-density).
        assert (
            stats.kstest(
                radius - length, stats.expon(scale=1 / ((dimension - 1) / radius - radius)).cdf
            ).pvalue
            > 1e-3
        )
    # Other neighbours change nothing.
    turned = draw(keys_for(KEY, 1000)[::-1])[::-1]
    np.testing.assert_allclose(turned[:9], u[:9], rtol=1e-4, atol=1e-5)


def test_chi_quantiles_are_scipys():
    for k, p in ((1, 0.5), (16, 0.9), (512, 0.99)):
        np.testing.assert_allclose(theorems.chi_quantile(p, k), np.sqrt(stats.chi2.ppf(p, k)), rtol=1e-4)


def test_a_conformal_radius_covers_new_pairs():
    rng, covered = np.random.default_rng(0), []
    for _ in range(200):
        values = rng.gamma(3.0, size=200)
        radius = conformal_radius(jnp.asarray(values[:99], jnp.float32), alpha=0.1)
        covered.append((values[99:] <= radius).mean())
    assert abs(np.mean(covered) - 0.9) < 0.01
    with pytest.raises(ValueError, match=r"5 norms allow no finite radius at alpha 0\.1, must be at least 9"):
        conformal_radius(jnp.ones(5), alpha=0.1)
    assert conformal_radius(jnp.arange(9.0), alpha=0.1) == 8.0


# --- a random network: what holds for every set -------------------------------------------------------

MODEL = dense(shape=(6, 6, 1), latents=5, encoder=(16,), decoder=(16,))
PARAMS, STATE = MODEL.init(KEY)
X = jax.random.uniform(KEY, (6, 6, 6, 1))
Y = jnp.asarray([0, 1, 2, 0, 1, 2])
XT = jax.random.uniform(jax.random.key(1), X.shape)
SPACE = learned(MODEL, PARAMS, STATE, radius=3.0)
WEIGHT = jax.random.normal(KEY, (36, 3))


def net(x):
    return 8.0 * (x.reshape(x.shape[0], -1) - 0.5) @ WEIGHT


@pytest.mark.slow
def test_nothing_depends_on_the_rest_of_the_batch():
    measure = jax.jit(quality(MODEL, PARAMS, STATE, radius=2.0, steps=5, restarts=2, samples=2))
    keys, order = keys_for(KEY, 6), jnp.asarray([4, 0, 3, 5, 5, 5])
    # Other neighbours, in other places; the size stays, so that nothing is compiled twice.
    whole, part = measure(keys, X, XT), measure(keys[order], X[order], XT[order])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[order], b, atol=1e-5), whole, part)
    ascent = pgd(SPACE.threat, steps=5, step_size=0.6)
    attack = jax.jit(lambda k, x, y: sets.attack_through(SPACE, compose.against(ascent))(k, net, x, y).x)
    np.testing.assert_allclose(attack(keys, X, Y)[order], attack(keys[order], X[order], Y[order]), atol=1e-5)
    # The control: limiting columns instead of rows would not pass.
    u = 3.0 * jax.random.normal(KEY, (6, 5))
    columns = [z / jnp.maximum(1.0, jnp.linalg.norm(z, axis=0)) for z in (u, u[order])]
    assert not np.allclose(columns[0][order], columns[1], atol=1e-2)
    rows = [SPACE.threat.project(z, 0.0 * z) for z in (u, u[order])]
    np.testing.assert_allclose(rows[0][order], rows[1], atol=1e-6)
    assert (jnp.linalg.norm(rows[0], axis=1) <= 3.0 * (1 + 1e-6)).all()


@pytest.mark.slow
def test_pixel_solvers_climb_in_latents_and_gradients_beat_random_search():
    own = {
        "pgd": compose.against(compose.restarts(pgd(SPACE.threat, steps=20, step_size=0.6), 3)),
        "random": compose.against(compose.restarts(pgd(SPACE.threat, steps=0, step_size=0.0), 20)),
    }
    found = {
        name: jax.jit(lambda k, a=attack: sets.attack_through(SPACE, a)(k, net, X, Y).value)(KEY)
        for name, attack in own.items()
    }
    middle = SPACE.decode(keys_for(KEY, 6), SPACE.prepare(X), SPACE.origin(X))
    assert middle.shape == X.shape
    assert (found["pgd"] >= found["random"] - 1e-4).all()
    blind = sets.ascent_through(SPACE, square(SPACE.threat, queries=20))
    ood_surrogate = jax.jit(lambda k: blind(k, lambda x: x.mean(axis=(1, 2, 3)), X))(KEY)
    assert (ood_surrogate.value >= middle.mean(axis=(1, 2, 3)) - 0.05).all()


def test_a_search_runs_the_prior_once():
    passes = []
    counted = MODEL._replace(prior=lambda *a, **k: (passes.append(1), MODEL.prior(*a, **k))[1])
    space = learned(counted, PARAMS, STATE, radius=3.0)
    attack = sets.attack_through(space, compose.against(pgd(space.threat, steps=3, step_size=0.6)))
    jax.eval_shape(lambda k: attack(k, net, X, Y), KEY)
    count = votes(net, in_parameters(space, 1.0), classes=3, chunk_size=8)
    jax.eval_shape(lambda k: count(k, X[:1], 16), KEY)
    # The attack's, the first draw's and the loop's.
    assert len(passes) == 3


@pytest.mark.slow
def test_augmentation_is_per_image_and_inside_the_ball():
    for perturb in (perturbed(SPACE), noisy(SPACE, 0.5)):
        perturb = jax.jit(perturb)
        out = perturb(KEY, X)
        assert out.shape == X.shape and (out > 0).all() and (out < 1).all()
        np.testing.assert_allclose(perturb(keys_for(KEY, 6)[::-1], X[::-1]), out[::-1], atol=1e-6)
        assert not np.allclose(out, perturb(jax.random.key(1), X))
    far = perturbed(SPACE._replace(threat=SPACE.threat.__class__("l2", 1e-6, -jnp.inf, jnp.inf)))(KEY, X)
    np.testing.assert_allclose(far, SPACE.decode(KEY, SPACE.prepare(X), SPACE.origin(X)), atol=1e-5)


def test_latents_are_certified_by_the_same_function_as_pixels():
    count = votes(net, in_parameters(SPACE, 0.3), classes=3, chunk_size=100)
    found = certify(count, sigma=0.3, samples=500)(KEY, X[:2])
    ceiling = 0.3 * stats.norm.ppf(0.001 ** (1 / 500))
    assert (found.radius <= ceiling + 1e-9).all() and (found.label >= -1).all()


def test_schedules_interpolate():
    beta = interpolated((0, 10, 50), (0.0, 0.01, 1.0))
    np.testing.assert_allclose(
        [beta(t) for t in (-1, 0, 5, 10, 30, 99)], [0, 0, 0.005, 0.01, 0.505, 1.0], rtol=1e-6
    )
    with pytest.raises(ValueError, match="must grow"):
        interpolated((0, 0), (1.0, 2.0))
