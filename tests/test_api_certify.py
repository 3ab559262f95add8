"""Certificates at the front door: a linear classifier's closed form, coverage, resumption, wrong input in one line."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import robustjax
from robustjax import api_certify
from robustjax.runtime.snapshot import Snapshot
from robustjax.types import Model

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(100, 2, 3, 1)).astype(np.float32)
W = RNG.normal(size=(6, 2)).astype(np.float32)
MARGIN = (X.reshape(100, 6).astype(np.float64) - 0.5) @ (W[:, 1] - W[:, 0]).astype(np.float64)
DISTANCE = np.abs(MARGIN) / np.linalg.norm((W[:, 1] - W[:, 0]).astype(np.float64))
Y = (MARGIN > 0).astype(int)
SIGMA, ALPHA, N = 0.25, 0.001, 1000


def linear(x):
    return (x.reshape(x.shape[0], -1) - 0.5) @ jnp.asarray(W)


@pytest.fixture(scope="module")
def found():
    return robustjax.certify(linear, X, Y, sigma=SIGMA, n=N, alpha=ALPHA)


def test_no_radius_is_larger_than_the_distance_to_the_boundary(found):
    """Noise does not bend a linear boundary: the smoothed class changes at |w.x| / |w| exactly."""
    sure = found.certificate.label >= 0
    np.testing.assert_array_equal(found.certificate.label[sure], Y[sure])
    assert (found.certificate.radius <= DISTANCE).all() and 0.5 < sure.mean() < 1
    assert found.certificate.radius[~sure].max() == 0


def test_radii_are_those_of_clopper_and_pearson(found):
    wins = np.arange(1, N + 1)
    possible = stats.beta.ppf(ALPHA, wins, N - wins + 1)
    bound = found.certificate.lower_bound
    place = np.abs(bound[:, None] - possible).argmin(axis=1)
    np.testing.assert_allclose(bound, possible[place], rtol=1e-12)
    chance = stats.norm.cdf(DISTANCE / SIGMA)
    np.testing.assert_array_less(np.abs(wins[place] - N * chance), 7 * np.sqrt(N * chance * (1 - chance)) + 1)
    np.testing.assert_allclose(
        found.certificate.radius, np.where(bound >= 0.5, SIGMA * stats.norm.ppf(bound), 0), rtol=1e-12
    )


def test_the_table_says_what_the_certificates_say(found):
    lines = repr(found).splitlines()
    assert len(lines) <= 11 and lines[0].endswith("sigma 0.25, 100 images")
    right = (found.certificate.label == Y) & (found.certificate.radius >= 0.25)
    exact = stats.binomtest(int(right.sum()), 100).proportion_ci(0.95)
    told = (
        f"certified at 0.25  {100 * right.mean():6.1f} %  ({100 * exact.low:.1f} to {100 * exact.high:.1f})"
    )
    assert any(told in line for line in lines), repr(found)
    assert "clean               100.0 %" in lines[1]
    assert found.abstained.value == (found.certificate.label == -1).mean()
    assert any("radius out of reach" in line for line in lines) == (
        SIGMA * stats.norm.ppf(ALPHA ** (1 / N)) < 0.75
    )


def test_bytes_and_a_network_with_weights_are_taken_and_programs_kept():
    traced = []

    def apply(params, state, x, *, train=False, key=None):
        traced.append(x.shape)
        return (x.reshape(x.shape[0], -1) - 0.5) @ params, state

    model = Model(lambda key: (W, {}), apply, lambda params, state, x: {})
    few = np.rint(255 * X[:4]).astype(np.uint8)
    both = [
        robustjax.certify(robustjax.Network(model, jnp.asarray(w), {}, {}), few, Y[:4], sigma=sigma, n=N)
        for w, sigma in ((W, 0.25), (-W, 0.5))
    ]
    assert (both[0].certificate.label == Y[:4])[both[0].certificate.label >= 0].all()
    assert (both[1].certificate.label != Y[:4]).all()
    assert sum(shape[0] == 500 for shape in traced) <= 2  # checked and compiled once


def test_a_killed_call_goes_on_and_another_network_starts_anew(tmp_path, monkeypatch, found):
    monkeypatch.setattr(api_certify, "Snapshot", lambda path: Snapshot(path, every=0.0))
    one, images = api_certify._one, []

    def mortal(count, key, image, **settings):
        images.append(image)
        if len(images) == 8:
            raise KeyboardInterrupt
        return one(count, key, image, **settings)

    monkeypatch.setattr(api_certify, "_one", mortal)
    settings = {"sigma": SIGMA, "n": N, "alpha": ALPHA, "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        robustjax.certify(linear, X[:10], Y[:10], **settings)
    assert len(list(tmp_path.glob("progress_*.npz"))) == 1
    other = robustjax.certify(lambda x: -linear(x), X[:10], Y[:10], **settings)
    assert other.accuracy().value == 0 and len(images) == 18
    again = robustjax.certify(linear, X[:10], Y[:10], **settings)
    assert 18 < len(images) < 28  # the last ones made may not have been kept
    for have, want in zip(again.certificate, found.certificate):
        np.testing.assert_array_equal(have, want[:10])
    assert not list(tmp_path.glob("progress_*.npz"))
    page = json.loads((tmp_path / "certificates.json").read_text(), parse_constant=pytest.fail)
    assert [e["radius"] for e in page["examples"]] == again.certificate.radius.tolist()


def test_intervals_of_a_linear_network_are_exact(tmp_path):
    """Its margin falls by eps |w|_1 where the box leaves room."""
    inside, eps = 0.25 + 0.5 * X, 0.05
    margin = (inside.reshape(100, 6) - 0.5) @ (W[:, 1] - W[:, 0])
    truly = np.abs(margin) > eps * np.abs(W[:, 1] - W[:, 0]).sum()
    done = robustjax.certify_bounds(linear, inside, (margin > 0).astype(int), eps=eps, out=tmp_path)
    np.testing.assert_array_equal(done.certificate.label >= 0, truly)
    assert done.accuracy(eps).value == truly.mean() and 0.1 < truly.mean() < 0.9
    assert "smoothed" not in repr(done)
    json.loads((tmp_path / "certificates.json").read_text(), parse_constant=pytest.fail)


def test_a_network_that_fails_under_noise_or_on_images_says_so():
    broken = lambda x: jnp.where(x[:, :1, 0, 0] > 0.5, jnp.nan, linear(x))
    done = robustjax.certify(broken, X[:8], Y[:8], sigma=SIGMA, n=100)
    raised = {flag.name for flag in done.flags if flag.raised}
    assert raised >= {"NaN or infinite logits", "lost votes"}
    assert (done.prediction[X[:8, 0, 0, 0] > 0.5] == -1).all()
    assert "warning: NaN or infinite logits" in repr(done)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": 255 * X}, "divide them by 255"),
        ({"x": np.zeros((100, 3, 8, 8))}, "channels first"),
        ({"x": np.where(X > 0.9, np.nan, X)}, "not finite"),
        ({"y": Y + 1}, "labels from 1 need y - 1"),
        ({"y": Y - 1}, "smallest label is -1"),
        ({"y": np.eye(2)[Y]}, "argmax"),
        ({"network": lambda x: linear(x)[:, :1]}, "at least two classes"),
        ({"network": lambda x: np.asarray(x)}, "must be written in JAX"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": -1}, "sigma is -1"),
        ({"sigma": 64}, "take sigma / 255"),
        ({"sigma": "0.25"}, "sigma is '0.25'"),
        ({"n0": 0}, "n0 is 0"),
        ({"n": 0}, "n is 0"),
        ({"n": 1e4}, "n is 10000.0"),
        ({"n": 9}, "must be at least 10 at alpha 0.001"),
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"alpha": 0}, "alpha is 0"),
        ({"radii": [-0.5]}, "a radius is -0.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": 2**63 - 1}, "seed is 9223372036854775807"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(change, says):
    given = {"network": linear, "x": X, "y": Y, "sigma": SIGMA} | change
    with pytest.raises(ValueError, match=says) as caught:
        robustjax.certify(given.pop("network"), given.pop("x"), given.pop("y"), **given)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("certify: ")


@pytest.mark.slow
def test_both_certificates_tell_what_evaluate_tells_of_network_and_labels():
    """The same checks with the same names: probabilities, one class, random or constant outputs."""
    softmax = lambda x: 0.5 + 0.5 * jnp.tanh(linear(x) @ jnp.asarray([[1.0, -1.0], [-1.0, 1.0]]))
    constant = lambda x: 0.0 * linear(x) + jnp.arange(2.0)

    def passing(x):
        return linear(x) + RNG.normal()

    few = slice(0, 12)
    one_class = np.flatnonzero(Y == 1)[:12]
    for certified in (
        lambda f, rows: robustjax.certify(f, X[rows], Y[rows], sigma=SIGMA, n0=4, n=20),
        lambda f, rows: robustjax.certify_bounds(f, X[rows], Y[rows], eps=0.01),
    ):
        raised = [
            {flag.name for flag in certified(f, rows).flags if flag.raised}
            for f, rows in ((softmax, few), (constant, few), (linear, one_class), (passing, few))
        ]
        for found, name in zip(
            raised, ("probabilities", "constant outputs", "class counts", "random outputs"), strict=True
        ):
            assert name in found
    sound = robustjax.certify_bounds(linear, X, Y, eps=0.01)
    assert f"none of {len(sound.flags)} raised" in repr(sound) and len(sound.flags) == 5
    told = repr(robustjax.certify_bounds(passing, X[few], Y[few], eps=0.01))
    assert "a certificate is about one fixed function" in told


def test_tighter_bounds_certify_more_of_a_network_and_never_what_an_attack_breaks():
    rng = np.random.default_rng(3)
    w = [jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.float32) for s in ((6, 12), (12, 12), (12, 2))]
    network = lambda x: jax.nn.relu(jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ w[0]) @ w[1]) @ w[2]
    label = np.asarray(network(X).argmax(axis=1))
    corners = jnp.asarray(
        np.array(list(itertools.product((-0.1, 0.1), repeat=6))).reshape(64, *X.shape[1:]), jnp.float32
    )
    broken = (
        np.asarray(network((X[:, None] + corners[None]).reshape(-1, *X.shape[1:]).clip(0, 1)))
        .argmax(1)
        .reshape(100, 64)
        != label[:, None]
    ).any(axis=1)
    shares = []
    for method in ("ibp", "crown-ibp", "crown"):
        done = robustjax.certify_bounds(network, X, label, eps=0.1, method=method)
        certified = done.certificate.label >= 0
        assert not (certified & broken).any() and method.upper() in repr(done)
        shares.append(certified.mean())
    assert shares[0] < shares[1] <= shares[2] <= 1 - broken.mean()
