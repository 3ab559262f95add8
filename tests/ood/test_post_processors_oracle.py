"""Post-processors against pytorch-ood, whose scores are larger on OOD images. Skipped without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from robustjax.ood import (
    feature_scores,
    gram,
    guided_scores,
    head_scores,
    logit_scores,
    prototype_scores,
    rankfeat,
    shaping,
)
from robustjax.ood.kl_matching import kl_matching
from robustjax.ood.openmax import openmax
from robustjax.ood.temperature import temperature_scaling

pytestmark = pytest.mark.oracle

RNG = np.random.default_rng(0)
D, K, N = 12, 4, 200
LABEL = np.arange(N) % K
KERNEL = RNG.normal(size=(D, K)).astype(np.float32)
BIAS = RNG.normal(size=K).astype(np.float32)
# Features that the last layer mostly gets right.
FEATURES = np.maximum(RNG.normal(size=(N, D)) + 1.5 * KERNEL.T[LABEL], 0).astype(np.float32)
NEW = np.maximum(RNG.normal(size=(30, D)) * 2, 0).astype(np.float32)
LOGITS, Z = FEATURES @ KERNEL + BIAS, NEW @ KERNEL + BIAS


def ours(form, x):
    return np.asarray(jax.jit(form)(jnp.asarray(x)))


def energy_of(shape):
    return shaping.head(jnp.asarray(KERNEL), jnp.asarray(BIAS), logit_scores.energy, shape)


def on_features(make, theirs, **settings):
    """Compare on features; `theirs` is made of an encoder and the last layer."""

    def run(torch, detector):
        head = torch.nn.Linear(D, K)
        head.load_state_dict({"weight": torch.tensor(KERNEL.T.copy()), "bias": torch.tensor(BIAS)})
        one = theirs(detector, head)
        one.fit_features(torch.tensor(FEATURES), torch.tensor(LABEL))
        return ours(make(), NEW), one.predict_features(torch.tensor(NEW)).numpy()

    return run


def on_logits(make, name, **settings):
    def run(torch, detector):
        one = getattr(detector, name)(None, **settings)
        one.fit_logits(torch.tensor(LOGITS), torch.tensor(LABEL))
        return ours(make(), Z), one.predict_logits(torch.tensor(Z)).detach().numpy()

    return run


def maps_rank(torch, detector):
    maps = np.abs(RNG.normal(size=(5, D, 3, 3))).astype(np.float32)
    head = torch.nn.Linear(D, K)
    head.load_state_dict({"weight": torch.tensor(KERNEL.T.copy()), "bias": torch.tensor(BIAS)})
    one = detector.RankFeat(torch.nn.Identity(), lambda m: head(m.mean(dim=(2, 3))))
    mine = ours(rankfeat.rankfeat(jnp.asarray(KERNEL), jnp.asarray(BIAS)), maps.transpose(0, 2, 3, 1))
    return mine, one.predict_feature_maps(torch.tensor(maps)).numpy()


CASES = {
    "DICE": on_features(
        lambda: (
            lambda h: logit_scores.energy(
                h @ head_scores.dice(FEATURES, KERNEL, BIAS, percentile=70.0) + BIAS
            )
        ),
        lambda d, head: d.DICE(None, head.weight, head.bias, 0.7),
    ),
    "SHE": on_features(
        lambda: prototype_scores.she(FEATURES, LABEL, KERNEL, BIAS), lambda d, head: d.SHE(None, head)
    ),
    "NNGuide": on_features(
        lambda: guided_scores.nnguide(FEATURES, KERNEL, BIAS, neighbours=7),
        lambda d, head: d.NNGuide(None, head, k=7),
    ),
    "fDBD": on_features(lambda: head_scores.fdbd(FEATURES, KERNEL, BIAS), lambda d, head: d.fDBD(None, head)),
    "NCI": on_features(
        lambda: head_scores.nci(FEATURES, KERNEL, BIAS, alpha=0.05),
        lambda d, head: d.NCI(None, head, alpha=0.05),
    ),
    "KNN": on_features(lambda: feature_scores.knn(FEATURES, neighbours=5), lambda d, head: d.KNN(None, k=5)),
    "KLMatching": on_logits(lambda: kl_matching(LOGITS), "KLMatching"),
    "RankFeat": maps_rank,
}


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_pytorch_ood(name):
    torch, detector = pytest.importorskip("torch"), pytest.importorskip("pytorch_ood.detector")
    mine, theirs = CASES[name](torch, detector)
    np.testing.assert_allclose(mine, -theirs, rtol=2e-3, atol=1e-3)


def test_temperature_is_at_least_as_good_as_that_of_pytorch_ood():
    """It takes one call of L-BFGS, which may stop early."""
    torch, detector = pytest.importorskip("torch"), pytest.importorskip("pytorch_ood.detector")
    one = detector.TemperatureScaling(None)
    one.fit_logits(torch.tensor(LOGITS), torch.tensor(LABEL))
    risk = lambda t: -log_softmax(LOGITS / t, axis=1)[np.arange(N), LABEL].mean()
    mine, theirs = float(temperature_scaling(LOGITS, LABEL).temperature), float(one.t.detach())
    assert risk(mine) <= risk(theirs) + 1e-6
    assert abs(mine - theirs) < 0.5


def test_vra_clips_as_pytorch_ood_does():
    """That has limits of its own for every activation: the same for one activation."""
    torch, detector = pytest.importorskip("torch"), pytest.importorskip("pytorch_ood.detector")
    one = detector.VRA(None, lambda m: m.flatten(1).repeat(1, 2), 0.1, 0.9)
    column = FEATURES[:, :1]
    one.fit_feature_maps(torch.tensor(column[:, :, None, None]), torch.tensor(LABEL))
    theirs = -one.predict_feature_maps(torch.tensor(NEW[:, :1, None, None])).numpy()
    clipped = ours(shaping.vra(*shaping.vra_limits(column, low=10, high=90)), NEW[:, :1])
    np.testing.assert_allclose(clipped[:, 0] + np.log(2), theirs, rtol=1e-4, atol=1e-5)


def test_gradient_norms_are_those_of_pytorch_ood():
    torch, detector = pytest.importorskip("torch"), pytest.importorskip("pytorch_ood.detector")
    head = torch.nn.Linear(D, K)
    head.load_state_dict({"weight": torch.tensor(KERNEL.T.copy()), "bias": torch.tensor(BIAS)})
    one = detector.GradNorm(head, param_filter=lambda name: name == "weight").to("cpu")
    mine = ours(head_scores.gradnorm(KERNEL, BIAS), NEW)
    np.testing.assert_allclose(mine, -one.predict(torch.tensor(NEW)).numpy(), rtol=1e-3, atol=1e-4)


def test_the_unknown_class_is_that_of_pytorch_ood():
    """Classes that are described by all their images, so the comparison is on those that are all right."""
    torch, detector = pytest.importorskip("torch"), pytest.importorskip("pytorch_ood.detector")
    right = LOGITS.argmax(axis=1) == LABEL
    one = detector.OpenMax(None, tailsize=10, alpha=2)
    one.fit_logits(torch.tensor(LOGITS[right]), torch.tensor(LABEL[right]))
    unknown = one.predict_logits(torch.tensor(Z)).numpy()
    mine = ours(openmax(LOGITS, LABEL, tail=10, alpha=2), Z)
    np.testing.assert_allclose(1 / (1 + np.exp(mine.astype(float))), unknown, atol=0.02)


def test_gram_deviations_are_those_of_pytorch_ood():
    """With the ranges of theirs in place of ours: that draws the images whose deviation it averages."""
    torch, detector = pytest.importorskip("torch"), pytest.importorskip("pytorch_ood.detector")
    maps = np.abs(RNG.normal(size=(60, 3, 2, 2))).astype(np.float32)
    label = np.arange(60) % 3
    one = detector.Gram(lambda m: m.mean(dim=(2, 3)), [torch.nn.Identity()], 3, [1, 2, 3])
    one.fit([(torch.tensor(maps), torch.tensor(label))])
    low, high = (
        {"a": jnp.asarray(np.concatenate([np.asarray(p) for p in part[0]], axis=1))}
        for part in (one.feature_min, one.feature_max)
    )
    form = gram.Ranges(low, high, {"a": jnp.float32(one.layer_norm[0])})
    new = np.abs(RNG.normal(size=(10, 3, 2, 2)) * 2).astype(np.float32)
    channels_last = jnp.asarray(new.transpose(0, 2, 3, 1))
    mine = form(
        gram.statistics({"a": channels_last}, (1, 2, 3)), jnp.asarray(new.mean(axis=(2, 3)).argmax(axis=1))
    )
    np.testing.assert_allclose(mine, -one.predict(torch.tensor(new)).numpy(), rtol=1e-3, atol=1e-3)
