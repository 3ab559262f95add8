"""L0: projections against all supports, draws, what counts as a change, and who refuses it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import attacks, checks, l0
from robustjax.analysis.linear import closed_form, sampled
from robustjax.attacks.starts import halfway, random_radius, rim
from robustjax.bounds import enclose
from robustjax.losses.fast import fgsm_rs, n_fgsm
from robustjax.losses.free import optimizer as free_optimizer
from robustjax.numerics import norm
from robustjax.ood.worst_confidence import toward_grey
from robustjax.threats import Threat

KEY = jax.random.key(0)


def nearest_of_all(x, origin, units, count, box):
    """Try every support of `count` units of features: the least squared distance to x."""
    inside, best = np.clip(x, *box), np.inf
    for support in itertools.combinations(units, min(count, len(units))):
        point = origin.copy()
        moved = [i for unit in support for i in unit]
        point[moved] = inside[moved]
        best = min(best, ((point - x) ** 2).sum())
    return best


@jax.jit
def projected(eps, pixels, features):
    """Two pixels of three channels in (b, 1, 2, 3), and six features of vectors."""
    return (
        Threat("l0", eps, 0.0, 1.0).project(*pixels),
        Threat("l0", eps, 0.0, 1.0).project(*features),
        Threat("l0", eps, 0.0, 1.0, channels=3).project(*features),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 7), st.integers(0, 10**6), st.sampled_from([0.3, 2.0, 30.0]))
def test_the_projection_is_the_nearest_of_all_supports(count, seed, spread):
    """Distances in float64, so that ties may fall either way; also where clipping changes which place matters most."""
    rng = np.random.default_rng(seed)
    origin = rng.uniform(size=(2, 6)).round(1)
    x = np.float32(origin + spread * rng.normal(size=(2, 6)).round(1))
    origin = np.float32(origin)
    shaped = [v.reshape(2, 1, 2, 3) for v in (x, origin)]
    found = projected(np.float32(count), shaped, (x, origin))
    pixels, features = [(0, 1, 2), (3, 4, 5)], [(i,) for i in range(6)]
    for points, units in zip(found, (pixels, features, pixels), strict=True):
        for point, xi, oi in zip(
            np.float64(points).reshape(2, 6), np.float64(x), np.float64(origin), strict=True
        ):
            best = nearest_of_all(xi, oi, units, count, (0.0, 1.0))
            np.testing.assert_allclose(((point - xi) ** 2).sum(), best, rtol=1e-5, atol=1e-6)
            assert sum(any(point[i] != oi[i] for i in unit) for unit in units) <= count
            assert (point >= 0).all() and (point <= 1).all()


def test_of_equal_changes_the_first_are_kept_never_more_than_allowed():
    x, origin = jnp.full((3, 5), 0.75), jnp.full((3, 5), 0.25)
    found = jax.jit(lambda eps: Threat("l0", eps).project(x, origin))(jnp.array([0.0, 2.0, 9.0]))
    np.testing.assert_array_equal(found != origin, [[0] * 5, [1, 1, 0, 0, 0], [1] * 5])


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_the_largest_are_chosen_as_a_sort_would(count):
    size = np.random.default_rng(count).integers(0, 4, size=(20, 7)).astype(np.float32)
    chosen = np.asarray(l0.largest(jnp.asarray(size), count))
    for row, mask in zip(size, chosen, strict=True):
        expected = np.zeros(7, bool)
        expected[np.argsort(-row, kind="stable")[:count]] = True
        np.testing.assert_array_equal(mask, expected)


def test_draws_have_uniform_supports_and_values_uniform_in_the_box():
    """Two of four pixels: six supports, each as likely; what is drawn is never the origin."""
    origin = jnp.full((3000, 2, 2, 1), 0.5)
    point = jax.jit(Threat("l0", 2, -1.0, 3.0).sample)(KEY, origin)
    changed = np.asarray(point != origin).reshape(-1, 4)
    assert (changed.sum(axis=1) == 2).all()
    _, counts = np.unique(changed @ [1, 2, 4, 8], return_counts=True)
    assert len(counts) == 6 and scipy.stats.chisquare(counts).pvalue > 1e-3
    drawn = (np.asarray(point).reshape(-1, 4)[changed] + 1) / 4
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_pixels_of_images_count_once_and_features_each():
    origin = jnp.full((1, 2, 2, 3), 0.5)
    x = origin.at[0, 0, 0].set(0.7).at[0, 1, 1, 2].set(np.nextafter(np.float32(0.5), np.float32(1)))
    x, origin, outside = (np.asarray(v) for v in (x, origin, origin.at[0, 0, 0, 0].set(1.5)))

    @jax.jit
    def measured(x, origin, outside):
        pixels, features = Threat("l0", 2), Threat("l0", 2, channels=1)
        lengths = pixels.distance(x, origin), features.distance(x, origin)
        inside = [t.contains(x, origin) for t in (pixels, features, Threat("l0", 1))]
        return jnp.stack(lengths)[:, 0], jnp.stack([*inside, pixels.contains(outside, origin)])[:, 0]

    lengths, inside = measured(x, origin, outside)
    np.testing.assert_array_equal(lengths, [2, 4])
    # One unit in the last place is a change; the last leaves the box.
    np.testing.assert_array_equal(inside, [True, False, False, False])


def test_the_steepest_direction_is_the_gradient_scaled_to_largest_entry_one():
    grad = jnp.array([[1.0, -3.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(Threat("l0", 1).steepest(grad), [[0.25, -0.75, 0.0, 1.0], [0.0] * 4])


def test_same_under_every_transformation(variant):
    rng = np.random.default_rng(0)
    x, origin = (jnp.asarray(rng.uniform(size=(4, 2, 3, 2)), jnp.float32) for _ in "ab")

    def everything(x, origin, eps, keys):
        threat = Threat("l0", eps)
        return threat.project(x, origin), threat.sample(keys, origin), threat.distance(x, origin)

    given_ = x, origin, jnp.arange(4.0), jax.random.split(KEY, 4)
    for found, expected in zip(variant(everything)(*given_), jax.jit(everything)(*given_), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_points_of_16_bits_change_as_few_places():
    rng = np.random.default_rng(0)
    x, origin = (jnp.asarray(rng.uniform(size=(3, 8)), jnp.bfloat16) for _ in "ab")
    threat = Threat("l0", 3)

    @jax.jit
    def both(x, origin):
        found = threat.project(x, origin), threat.sample(KEY, origin)
        return found, [threat.contains(point, origin) for point in found]

    for point, inside in zip(*both(x, origin), strict=True):
        assert point.dtype == jnp.bfloat16 and inside.all()
        assert (np.asarray(point != origin).sum(axis=1) == 3).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"eps": 8 / 255}, "eps is 0.03.*must be whole in l0: it counts pixels or features"),
        ({"eps": np.array([1.0, 2.5])}, "must be whole in l0"),
        ({"eps": 3, "channels": 0}, "channels is 0"),
        ({"eps": 3, "norm": "l2", "channels": 3}, "channels is 3 in l2, must be None"),
    ],
)
def test_bad_settings_are_refused_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        Threat(**{"norm": "l0", **settings})
    assert Threat("l0", np.inf).contains(jnp.ones((1, 3)), jnp.zeros((1, 3)))


def test_what_l0_cannot_mean_is_refused_in_use():
    with pytest.raises(ValueError, match="must divide the features"):
        Threat("l0", 1, channels=2).project(jnp.ones((1, 3)), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="to draw points in l0: the box is"):
        Threat("l0", 1, -jnp.inf, jnp.inf).sample(KEY, jnp.zeros((1, 3)))


SPARSE = Threat("l0", 2)
REFUSED = {
    "fgsm": lambda: attacks.fgsm(SPARSE),
    "apgd": lambda: attacks.apgd(SPARSE),
    "apgd_shrinking": lambda: attacks.apgd_shrinking(SPARSE),
    "square": lambda: attacks.square(SPARSE),
    "spsa": lambda: attacks.spsa(SPARSE),
    "nes": lambda: attacks.nes(SPARSE),
    "zoo": lambda: attacks.zoo(SPARSE),
    "momentum_iterative": lambda: attacks.momentum_iterative(SPARSE),
    "simba": lambda: attacks.simba(SPARSE),
    "hop_skip_jump": lambda: attacks.hop_skip_jump(SPARSE),
    "boundary_attack": lambda: attacks.boundary_attack(SPARSE),
    "rays": lambda: attacks.rays(SPARSE),
    "sign_opt": lambda: attacks.sign_opt(SPARSE),
    "geoda": lambda: attacks.geoda(SPARSE),
    "boundary": lambda: attacks.boundary(SPARSE),
    "deepfool": lambda: attacks.deepfool(SPARSE),
    "ddn": lambda: attacks.ddn(SPARSE),
    "carlini_wagner": lambda: attacks.carlini_wagner(SPARSE),
    "grid": lambda: attacks.grid(SPARSE, counts=(2,)),
    "rim": lambda: rim(SPARSE),
    "halfway": lambda: halfway(SPARSE),
    "random_radius": lambda: random_radius(SPARSE),
    "toward_grey": lambda: toward_grey(SPARSE),
    "fgsm_rs": lambda: fgsm_rs(SPARSE),
    "n_fgsm": lambda: n_fgsm(SPARSE),
    "free.optimizer": lambda: free_optimizer(None, SPARSE, step_size=1.0),
    "bounds": lambda: enclose(lambda x: x, SPARSE, jnp.zeros((1, 3))),
    "norm": lambda: norm(jnp.ones((1, 3)), "l0"),
    "dual_norm": lambda: closed_form.dual_norm(jnp.ones(3), "l0"),
    "worst_point": lambda: closed_form.worst_point(jnp.ones(3), jnp.ones((1, 3)), jnp.ones(1), 1.0, "l0"),
    "adversary": lambda: sampled.adversary(1.0, "l0"),
    "evaluate_ood": lambda: checks.radius("evaluate_ood", 1, norm="l0", shape=(2, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_length_refuses_l0_in_one_line(name):
    with pytest.raises(ValueError, match=f"{name}: norm is 'l0', must be") as caught:
        REFUSED[name]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "eps, says", [(0.5, "from 1 to 4: in l0"), (5, "from 1 to 4: in l0"), (0, "above 0")]
)
def test_radii_of_evaluations_count_pixels(eps, says):
    with pytest.raises(ValueError, match=says):
        checks.radius("evaluate", eps, norm="l0", shape=(2, 2, 3), l0=True)
    assert checks.radius("evaluate", 4, norm="l0", shape=(2, 2, 3), l0=True) == 4
