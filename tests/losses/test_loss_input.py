"""Labels, images and settings that cannot be meant are refused in one line, before any work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.losses.acet import acet
from robustjax.losses.adversarial import adversarial, half_adversarial
from robustjax.losses.aloe import aloe
from robustjax.losses.atom import atom
from robustjax.losses.atop import atop
from robustjax.losses.awp import awp
from robustjax.losses.ccu import ccu, mixed
from robustjax.losses.contrastive import contrastive
from robustjax.losses.elbo import elbo
from robustjax.losses.fast import n_fgsm
from robustjax.losses.free import optimizer
from robustjax.losses.gaussian_mixture import Mixture, principal
from robustjax.losses.good import good
from robustjax.losses.group_dro import GroupBatch, group_dro, weighted
from robustjax.losses.macer import macer
from robustjax.losses.mart import boosted_cross_entropy, mart
from robustjax.losses.max_clean_adversarial import max_clean_adversarial
from robustjax.losses.oe import oe
from robustjax.losses.ratio import half_ratio, ratio
from robustjax.losses.reconstruction import restoring
from robustjax.losses.rowl import rowl
from robustjax.losses.sam import asam, sam
from robustjax.losses.segmentation import IGNORE, segmentation
from robustjax.losses.smoothadv import smoothadv
from robustjax.losses.sofl import sofl
from robustjax.losses.stability import augmented, stability
from robustjax.losses.standard import standard
from robustjax.losses.trades import trades
from robustjax.losses.trades_out import trades_acet, trades_ceda
from robustjax.models import cvae_small
from robustjax.ood import logit_scores
from robustjax.ood.odin import odin
from robustjax.optimizers import sgd
from robustjax.perturbations.pairs import ImagePair
from robustjax.smoothing.noise import white
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Pair

RNG = np.random.default_rng(0)
K, B = 3, 4
X, OOD = (jnp.asarray(RNG.uniform(0.2, 0.8, (B, 2, 2, 1)), jnp.float32) for _ in range(2))
Y = jnp.asarray([0, 1, 2, 0])
W = jnp.asarray(RNG.normal(size=(4, K)), jnp.float32)
KEY = jax.random.key(0)
THREAT = Threat("linf", 0.1)
ASCENT = pgd(THREAT, steps=1, step_size=0.1)
ATTACK = compose.against(ASCENT, objectives.cross_entropy)


def apply(params, state, x, *, train=False, key=None):
    return x.reshape(x.shape[0], -1) @ params, state


MODEL = Model(lambda key: (W, {}), apply, lambda params, state, x: {})
PIXELS = Model(lambda key: (W[:1], {}), lambda p, s, x, *, train=False, key=None: (x @ p, s), MODEL.features)
NOISE = white(0.1)

OF_BATCH = {
    "standard": standard(MODEL),
    "adversarial": adversarial(MODEL, ATTACK),
    "half_adversarial": half_adversarial(MODEL, ATTACK),
    "trades": trades(MODEL, ASCENT),
    "mart": mart(MODEL, ATTACK),
    "awp": awp(trades(MODEL, ASCENT)),
    "sam": sam(standard(MODEL)),
    "augmented": augmented(MODEL, NOISE),
    "stability": stability(MODEL, NOISE),
    "macer": macer(MODEL, sigma=0.1, samples=2),
    "smoothadv": smoothadv(MODEL, ASCENT, sigma=0.1),
    "max_clean_adversarial": max_clean_adversarial(MODEL, ATTACK),
}
OF_PAIR = {
    "acet": acet(MODEL, ASCENT),
    "oe": oe(MODEL),
    "aloe": aloe(MODEL, ATTACK, ASCENT),
    "atom": atom(MODEL, ASCENT),
    "ratio": ratio(MODEL, ATTACK, ASCENT),
    "half_ratio": half_ratio(MODEL, ATTACK, ASCENT),
    "rowl": rowl(MODEL, ASCENT),
    "sofl": sofl(MODEL, classes=2),
    "trades_acet": trades_acet(MODEL, ASCENT, ASCENT),
    "trades_ceda": trades_ceda(MODEL, ASCENT, ASCENT),
    "good": good(MODEL, THREAT),
}
LABELS = {
    "below 0": (Y - 1, "the smallest label is -1, must be at least 0"),
    "floats": (Y.astype(jnp.float32), "labels are float32, must be integers"),
    "one-hot": (jax.nn.one_hot(Y, K, dtype=int), "argmax"),
    "booleans": (Y > 0, "labels are bool"),
    "too few": (Y[:2], "must be (4,)"),
    "a column": (Y[:, None], "must be (4,)"),
    "a list": (Y.tolist(), "labels are a list"),
    "numbers of NumPy": (np.asarray(Y) - 1, "the smallest label is -1"),
}
IMAGES = {
    "bytes": ((255 * X).astype(jnp.uint8), "of bytes take"),
    "NaN": (X.at[0, 0, 0, 0].set(jnp.nan), "not finite"),
    "a list": (X.tolist(), "must be an array"),
}


def refused(says, call, *arguments):
    with pytest.raises(ValueError, match=r"\w") as caught:
        call(*arguments)
    assert says in str(caught.value) and "\n" not in str(caught.value), caught.value


@pytest.mark.parametrize("name", [*OF_BATCH, *OF_PAIR])
def test_labels_and_images_that_cannot_be_meant_are_refused_before_any_work(name):
    """The network is never asked: it would fail."""
    whole = OF_BATCH.get(name) or OF_PAIR[name]
    parts = (lambda x, y: Batch(x, y)) if name in OF_BATCH else (lambda x, y: Pair(Batch(x, y), OOD))
    for label, says in LABELS.values():
        refused(says, whole, None, {}, parts(X, label), KEY)
    for image, says in IMAGES.values():
        refused(says, whole, None, {}, parts(image, Y), KEY)
        if name in OF_PAIR:
            refused(says, whole, None, {}, Pair(Batch(X, Y), image), KEY)


@pytest.mark.parametrize("name", ["standard", "macer", "oe"])
def test_a_label_without_a_logit_is_refused_or_gives_nan(name):
    """Known labels are compared with the logits; inside jit the loss is NaN, never that of another class."""
    loss = OF_BATCH.get(name) or OF_PAIR[name]
    high, low = Y.at[1].set(K + 1), Y.at[1].set(-1)
    of = (lambda y: Batch(X, y)) if name in OF_BATCH else (lambda y: Pair(Batch(X, y), OOD))
    refused(f"the largest label is {K + 1}, must be below the {K} logits", loss, W, {}, of(high), KEY)
    if name == "standard":
        compiled = jax.jit(lambda y: loss(W, {}, of(y), KEY)[0])
        assert np.isfinite(compiled(Y)) and np.isnan(compiled(low)) and np.isnan(compiled(high))


def test_functions_of_logits_never_read_a_wrong_label_as_another_class():
    logits = X.reshape(B, -1) @ W
    functions = [
        logit.cross_entropy, logit.margin, logit.dlr, logit.correct,
        lambda z, y: logit.targeted_margin(z, Y, y), boosted_cross_entropy,
    ]  # fmt: skip
    together = jax.jit(lambda y: [function(logits, y) for function in functions])
    for wrong in (Y - 1, Y + K - 1):
        outside = (np.asarray(wrong) < 0) | (np.asarray(wrong) >= K)
        for function, found in zip(functions, together(wrong), strict=True):
            refused("label is", function, logits, wrong)
            assert (np.isnan(found) | (found == 0))[outside].all()


def test_shapes_are_checked_inside_a_compiled_step_too():
    step = training.step(standard(MODEL), sgd(0.1))
    state = training.start(KEY, MODEL, sgd(0.1))
    refused("argmax", step, state, Batch(X, jax.nn.one_hot(Y, K, dtype=int)))


def test_losses_with_batches_of_their_own():
    of_groups = weighted(MODEL, groups=2)
    loss, (params, state) = group_dro(of_groups), of_groups.init(KEY)
    batch = GroupBatch(X, Y, jnp.asarray([0, 1, -1, 0]))
    jax.eval_shape(loss, params, state, batch, KEY)
    refused("the largest group is 2, must be below 2", loss, params, state, batch._replace(group=Y), KEY)
    refused("label is -1", loss, params, state, batch._replace(label=Y - 1), KEY)

    pixels = jnp.asarray(RNG.integers(0, K, (B, 2, 2))).at[0].set(IGNORE)
    loss = segmentation(PIXELS)
    jax.eval_shape(loss, W[:1], {}, Batch(X, pixels), KEY)
    refused("one for each pixel", loss, W[:1], {}, Batch(X, Y), KEY)
    refused("must be below the 3 logits", loss, W[:1], {}, Batch(X, pixels.at[1].set(7)), KEY)
    refused("the smallest label is -1", loss, W[:1], {}, Batch(X, pixels.at[1].set(-1)), KEY)

    restored = restoring(Model(lambda k: (), lambda p, s, x, **_: (x, s), MODEL.features))
    refused("must be the same", restored, (), {}, ImagePair(jnp.repeat(X, 3, axis=3), X), KEY)
    encoder = contrastive(MODEL, lambda key, x: x, supervised=True)
    refused("labels are float32", encoder, W, {}, Batch(X, Y.astype(jnp.float32)), KEY)


SETTINGS = {
    "standard smoothing": lambda v: standard(MODEL, smoothing=v),
    "trades beta": lambda v: trades(MODEL, ASCENT, beta=v),
    "mart beta": lambda v: mart(MODEL, ATTACK, beta=v),
    "awp gamma": lambda v: awp(OF_BATCH["trades"], gamma=v),
    "sam rho": lambda v: sam(OF_BATCH["trades"], rho=v),
    "asam rho": lambda v: asam(OF_BATCH["trades"], rho=v),
    "asam eta": lambda v: asam(OF_BATCH["trades"], eta=v),
    "stability weight": lambda v: stability(MODEL, NOISE, weight=v),
    "macer weight": lambda v: macer(MODEL, sigma=0.1, weight=v),
    "macer sigma": lambda v: macer(MODEL, sigma=v),
    "smoothadv sigma": lambda v: smoothadv(MODEL, ASCENT, sigma=v),
    "acet weight": lambda v: acet(MODEL, ASCENT, weight=v),
    "oe weight": lambda v: oe(MODEL, weight=v),
    "ratio weight": lambda v: ratio(MODEL, ATTACK, ASCENT, weight=v),
    "half_ratio scale": lambda v: half_ratio(MODEL, ATTACK, ASCENT, scale=v),
    "rowl weight": lambda v: rowl(MODEL, ASCENT, weight=v),
    "sofl weight": lambda v: sofl(MODEL, classes=2, weight=v),
    "trades_acet beta": lambda v: trades_acet(MODEL, ASCENT, ASCENT, beta=v),
    "trades_ceda ood_beta": lambda v: trades_ceda(MODEL, ASCENT, ASCENT, ood_beta=v),
    "good weight": lambda v: good(MODEL, THREAT, weight=v),
    "good quantile": lambda v: good(MODEL, THREAT, quantile=v),
    "atop clean": lambda v: atop(MODEL, lambda x: x, ATTACK, clean=v),
    "elbo beta": lambda v: elbo(DENSE, beta=v),
    "group_dro step_size": lambda v: group_dro(MODEL, step_size=v),
    "ccu odds": lambda v: mixed(MODEL, AXES, MIXTURE, MIXTURE, odds=v),
    "ccu prior": lambda v: ccu(MODEL, AXES, ood_prior=v),
    "n_fgsm noise": lambda v: n_fgsm(THREAT, noise=v),
    "contrastive temperature": lambda v: contrastive(MODEL, lambda k, x: x, temperature=v),
    "free step_size": lambda v: optimizer(sgd(0.1), THREAT, step_size=v),
    "odin temperature": lambda v: odin(lambda x: x, temperature=v),
    "energy temperature": lambda v: logit_scores.energy(jnp.zeros((2, 3)), temperature=v),
    "gen gamma": lambda v: logit_scores.gen(jnp.zeros((2, 3)), gamma=v),
    "pgd momentum": lambda v: pgd(THREAT, steps=1, step_size=0.1, momentum=v),
}  # fmt: skip
AXES = principal(X)
DENSE = cvae_small.dense(shape=(8, 8, 1), latents=2)
MIXTURE = Mixture(jnp.zeros((1, 4)), jnp.zeros(1))
WRONG = (
    -1, -1.0, np.float32(-1), np.int64(-1), jnp.float32(-1), np.array(-1.0), np.nan, np.float32("nan"),
    jnp.float32("nan"),     "1", "8/255", None, True, np.bool_(True), jnp.array(True), 1j, [1.0], object(),
)  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_python_numpy_and_jax_are_checked_alike(name):
    for wrong in WRONG:
        refused(name.split()[-1] if name != "ccu prior" else "ood_prior", SETTINGS[name], wrong)
    for right in (0.5, np.float32(0.5), jnp.float32(0.5)):
        jax.make_jaxpr(lambda right=right: (SETTINGS[name](right), jnp.zeros(()))[1])()
    jax.make_jaxpr(lambda v: (SETTINGS[name](v), jnp.zeros(()))[1])(jnp.float32(-1))  # traced ones pass


def test_counts_are_whole_numbers():
    for wrong in (0, -1, 1.5, np.float32(2), "2", None, True, jnp.int32(2)):
        refused("samples", lambda v: smoothadv(MODEL, ASCENT, sigma=0.1, samples=v), wrong)
        refused("samples", lambda v: macer(MODEL, sigma=0.1, samples=v), wrong)
        refused("groups", lambda v: weighted(MODEL, groups=v), wrong)
