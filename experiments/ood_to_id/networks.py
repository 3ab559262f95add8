"""The networks of a translation system and their trainings: a classifier, an encoder for its gate, and translators.

The system is reconstructed from the abstract of arXiv:2202.08944 and from the papers of its parts, since that paper's
tables were not available; sizes, attacks and lengths are choices made here.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id.config import Recipe
from experiments.ood_to_id.images import Sets
from robustjax import optimizers, runtime, training
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.catalog import models as model_names
from robustjax.catalog import translators
from robustjax.catalog.translators import TRANSLATORS
from robustjax.data import views
from robustjax.data.batches import to_float
from robustjax.data.subsets import batch_subset
from robustjax.losses import pix2pix
from robustjax.losses.adversarial import adversarial
from robustjax.losses.atop import atop
from robustjax.losses.contrastive import contrastive
from robustjax.losses.diffusion import denoising
from robustjax.losses.reconstruction import restoring
from robustjax.losses.standard import standard
from robustjax.models import critics, diffusion, selfsup
from robustjax.models.small import pooled
from robustjax.perturbations import adversarial_pairs, pairs, tones
from robustjax.perturbations.pairs import ImagePair, Pairs
from robustjax.runtime import weights_of
from robustjax.staged_training import Stage
from robustjax.threats import Threat
from robustjax.types import Images, LogitsFn, Model, Network, frozen

Shape = tuple[int, ...]
NEVER = 2**30
ENCODERS: dict[str, Callable[..., Model]] = {
    "small": selfsup.small_encoder,
    "resnet18": selfsup.resnet18_encoder,
    "resnet50": selfsup.resnet50_encoder,
}

# --- classifier and encoder -----------------------------------------------------------------------------
# Networks of the same sizes are one object, and so are their steps: other weights share compiled programs.


@functools.cache
def classifier_of(recipe: Recipe, dataset: str, classes: int, shape: Shape) -> Model:
    """Build the network to be protected."""
    if recipe.classifier == "pooled":
        return pooled(classes=classes, shape=shape)
    return model_names.classifier(recipe.classifier, dataset=dataset, classes=classes, shape=shape)


@functools.cache
def encoder_of(recipe: Recipe, shape: Shape) -> Model:
    """Build the encoder that the gate's features come from."""
    return ENCODERS[recipe.encoder](shape=shape)


def translator_of(kind: str, recipe: Recipe, shape: Shape) -> Model:
    """Build the network of a translator."""
    return translators.network(kind, shape=shape, sizes=recipe.sizes)


def classifier_stage(
    sets: Sets, recipe: Recipe, seed: int, *, dataset: str = "digits"
) -> tuple[Model, Stage]:
    """Train the classifier plainly, by Adam with one cycle."""
    model = classifier_of(recipe, dataset, sets.classes, sets.shape)
    total = recipe.classifier_epochs * (len(sets.train.label) // recipe.batch_size)
    tx, step = _classifier_step(model, total)
    return model, Stage(
        "classifier", lambda: training.start(jax.random.key(seed), model, tx), step, sets.train,
        recipe.batch_size, total, seed,
    )  # fmt: skip


def robust_stage(model: Model, sets: Sets, recipe: Recipe, epochs: int, seed: int) -> Stage:
    """Train a classifier against PGD in the same ball: what a defence is compared with."""
    total = epochs * (len(sets.train.label) // recipe.batch_size)
    tx, step = _robust_step(model, total, recipe.eps)
    return Stage(
        "robust classifier", lambda: training.start(jax.random.key(seed + 50), model, tx), step, sets.train,
        recipe.batch_size, total, seed,
    )  # fmt: skip


def encoder_stage(sets: Sets, recipe: Recipe, seed: int) -> tuple[Model, Stage]:
    """Train the encoder on random views, without labels."""
    model = encoder_of(recipe, sets.shape)
    chosen = batch_subset(sets.train, recipe.encoder_images)
    total = recipe.encoder_epochs * (len(chosen.label) // recipe.encoder_batch)
    tx, step = _encoder_step(model, sets.shape[-1] == 1)
    return model, Stage(
        "encoder", lambda: training.start(jax.random.key(seed), model, tx), step, chosen,
        recipe.encoder_batch, total, seed,
    )  # fmt: skip


@functools.cache
def _classifier_step(model: Model, total: int) -> tuple[Any, Any]:
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.3))
    return tx, training.step(standard(model), tx)


@functools.cache
def _robust_step(model: Model, total: int, eps: float) -> tuple[Any, Any]:
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.3))
    around = pgd(Threat("linf", eps), steps=10, step_size=eps / 4, keep="last")
    return tx, training.step(adversarial(model, against(around, objectives.cross_entropy)), tx)


@functools.cache
def _encoder_step(model: Model, grey: bool) -> tuple[Any, Any]:
    tx = optimizers.adam(1e-3)
    return tx, training.step(contrastive(model, views.shifted_and_dimmed() if grey else views.simclr()), tx)


def train_classifier(sets: Sets, recipe: Recipe, seed: int, *, dataset: str = "digits") -> Network:
    """Train the classifier in memory."""
    model, stage = classifier_stage(sets, recipe, seed, dataset=dataset)
    return Network(model, *weights_of(stage), {})


# --- pairs ----------------------------------------------------------------------------------------------


def pairs_of(
    sets: Sets, classifier: Network, recipe: Recipe, seed: int, *, turn: int = 0, batch_size: int = 250
) -> ImagePair:
    """Make every kind of pair of every training image, or of a share of them; each turn draws anew."""

    def stored(x: jax.Array) -> np.ndarray:
        return np.asarray(jnp.round(255.0 * x).astype(jnp.uint8) if recipe.as_bytes else x)

    images, key = sets.train.image[: recipe.pairs_of], jax.random.key(seed)
    if turn:
        key = jax.random.fold_in(key, 2**31 + turn)
    shares = {1.0, *(share for name, share in recipe.subset if name in recipe.attacks)}
    work = []
    for share in sorted(shares, reverse=True):
        # Training images are in no order, so that the first ones are as good as any.
        x = images[: max(1, round(share * len(images)))]
        work += [(share, x[begin : begin + batch_size]) for begin in range(0, len(x), batch_size)]
    found = []
    for i, (share, x) in runtime.progress(work, total=len(work), label="pairs"):
        made = _pairs_program(classifier.model, recipe, share)
        part = made(jax.random.fold_in(key, i), x, classifier.params, classifier.state)
        found.append(jax.tree.map(stored, part))
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *found)


def count_pairs(recipe: Recipe, images: int) -> int:
    """Count the pairs that `pairs_of` makes of so many training images."""
    images = min(images, recipe.pairs_of or images)
    shares = {1.0, *(share for name, share in recipe.subset if name in recipe.attacks)}
    kinds = {share: len(_kinds_of_pairs(recipe, lambda x: x, share)) for share in shares}
    return sum(max(1, round(share * images)) * count for share, count in kinds.items())


@functools.cache
def _pairs_program(model: Model, recipe: Recipe, share: float) -> Callable[..., ImagePair]:
    @jax.jit
    def made(key: jax.Array, x: Images, params: Any, state: Any) -> ImagePair:
        return adversarial_pairs.every(*_kinds_of_pairs(recipe, frozen(model, params, state), share))(key, x)

    return made


def _kinds_of_pairs(recipe: Recipe, logits_fn: LogitsFn, share: float) -> list[Pairs]:
    """List the pairs that are made of a share of the images; of all: the images themselves, attacks, natural shifts."""
    found, shares = [], dict(recipe.subset)
    for name in recipe.attacks:
        if shares.get(name, 1.0) == share:
            radii = [part * recipe.eps for part in recipe.shares]
            found += [
                adversarial_pairs.attacked(logits_fn, adversarial_pairs.ATTACKS[name](eps)) for eps in radii
            ]
    if share < 1.0:
        return found
    for name, strength in recipe.shifts:
        if name in tones.SHIFTS:
            found.append(adversarial_pairs.shifted(tones.SHIFTS[name], strength))
        else:
            found.append(pairs.corrupted((name,), severity=strength))
    return [adversarial_pairs.identity(), *found]


def as_floats(given: ImagePair) -> ImagePair:
    """Turn pairs that are stored as bytes into images in [0, 1]."""
    return jax.tree.map(lambda x: to_float(x) if x.dtype == jnp.uint8 else x, given)


# --- translators ----------------------------------------------------------------------------------------


def translator_stages(
    kind: str, sets: Sets, classifier: Network, pool: ImagePair | None, recipe: Recipe, seed: int
) -> list[Callable[[Any], Stage]]:
    """List the trainings of a translator; each is built from the weights that the one before left, None at first.

    Args:
      kind: of `catalog.translators`.
      sets: for ddpm and atop, which train on images.
      classifier: to be protected; for pix2pixhd and atop, which look through it.
      pool: pairs, which all but ddpm train on.
      recipe, seed: sizes and lengths; of everything random.
    """
    model = translator_of(kind, recipe, sets.shape)
    if not TRANSLATORS[kind].paired:
        return [lambda _: _ddpm(model, sets, recipe, seed)]
    assert pool is not None
    begun = (
        _dae(model, pool, recipe, seed)
        if kind == "dae"
        else _pix2pix(kind, model, classifier, pool, recipe, seed)
    )._replace(
        renew_every=recipe.refresh, renew=lambda turn: pairs_of(sets, classifier, recipe, seed, turn=turn)
    )
    if TRANSLATORS[kind].adversarial:
        return [lambda _: begun, lambda weights: _atop(model, weights, sets, classifier, recipe, seed)]
    return [lambda _: begun]


def train_pix2pix(pool: ImagePair, recipe: Recipe, seed: int) -> Network:
    """Train a translator by pix2pix, without looking through a classifier, in memory."""
    model = translator_of("pix2pix", recipe, pool.image.shape[1:])
    return Network(model, *weights_of(_pix2pix("pix2pix", model, None, pool, recipe, seed)), {})


def _pix2pix(
    kind: str, model: Model, classifier: Network | None, pool: ImagePair, recipe: Recipe, seed: int
) -> Stage:
    shape, per_epoch = pool.image.shape[1:], len(pool.image) // recipe.batch_size
    total = (recipe.epochs + recipe.decay) * per_epoch
    # What pairs are made of is no part of a program.
    plain = dataclasses.replace(recipe, attacks=(), shares=(), shifts=(), subset=(), refresh=0)
    weight = recipe.guided or (10.0 if kind == "pix2pixhd" else 0.0)
    if weight and classifier is not None:
        model_of_f, params, state = classifier[:3]
        guide = pix2pix.by_features(lambda x: model_of_f.features(params, state, x), weight)
        rules = _rules(kind, model, shape, plain, per_epoch, guide)
        step = _pix2pix_step(kind, rules)
    else:
        rules = _shared_rules(kind, model, shape, plain, 1)
        step = _shared_step(kind, model, shape, plain, per_epoch if recipe.decay else 1)
    return Stage(
        "translator", lambda: _pix2pix_start(rules, shape)(jax.random.key(seed)), step, pool, recipe.batch_size,
        total, seed, lambda both: (both.translator.params, both.translator.state),
    )  # fmt: skip


def _rules(
    kind: str, model: Model, shape: Shape, recipe: Recipe, per_epoch: int, *costs: pix2pix.Compare
) -> pix2pix.Rules:
    # Without a decay the rate never changes: then neither epochs nor their length are part of the program.
    constant = recipe.epochs if recipe.decay else NEVER
    rate = pix2pix.linear_decay(recipe.rate, constant=constant, decay=recipe.decay, per_epoch=per_epoch)
    large = kind == "pix2pixhd"
    if not large:
        costs = (pix2pix.l1(recipe.l1), *costs)
    build = critics.multiscale_critic if large else critics.patch_critic
    critic = build(shape=shape, width=recipe.critic_width, layers=recipe.critic_layers)
    return pix2pix.Rules(
        model, critic, pix2pix.adam(rate), pix2pix.adam(rate),
        pix2pix.least_squares if large else pix2pix.vanilla,
        pix2pix.both(*costs), recipe.matching if large else 0.0, recipe.pool,
    )  # fmt: skip


_shared_rules = functools.cache(_rules)


@functools.lru_cache(maxsize=4)
def _pix2pix_start(rules: pix2pix.Rules, shape: Shape) -> Callable[[jax.Array], Any]:
    return training.once(lambda key: pix2pix.start(key, rules, shape))


def _pix2pix_step(kind: str, rules: pix2pix.Rules) -> Callable[[Any, ImagePair], Any]:
    step = pix2pix.joint(rules) if kind == "pix2pixhd" else pix2pix.alternating(rules)
    return lambda both, given: step(both, as_floats(given))


@functools.cache
def _shared_step(
    kind: str, model: Model, shape: Shape, recipe: Recipe, per_epoch: int
) -> Callable[[Any, ImagePair], Any]:
    """Build the step that looks through no classifier: one function, and so one program, for all seeds."""
    return _pix2pix_step(kind, _rules(kind, model, shape, recipe, per_epoch))


def _dae(model: Model, pool: ImagePair, recipe: Recipe, seed: int) -> Stage:
    total = (recipe.epochs + recipe.decay) * (len(pool.image) // recipe.batch_size)
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.3))
    step = training.step(restoring(model), tx)
    return Stage(
        "translator", lambda: training.start(jax.random.key(seed), model, tx),
        lambda state, given: step(state, as_floats(given)), pool, recipe.batch_size, total, seed,
    )  # fmt: skip


def _ddpm(model: Model, sets: Sets, recipe: Recipe, seed: int) -> Stage:
    total = (recipe.epochs + recipe.decay) * (len(sets.train.label) // recipe.batch_size)
    tx = optimizers.adam(optimizers.one_cycle(1e-3, total, peak=0.1))
    loss = denoising(translators.denoiser(sets.shape, recipe.sizes), diffusion.Process())
    return Stage(
        "translator", lambda: training.start(jax.random.key(seed), model, tx, ema=True),
        training.step(loss, tx), sets.train, recipe.batch_size, total, seed, training.for_evaluation,
    )  # fmt: skip


def _atop(model: Model, weights: Any, sets: Sets, classifier: Network, recipe: Recipe, seed: int) -> Stage:
    total = recipe.adversarial_epochs * (len(sets.train.label) // recipe.batch_size)
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.2))
    ascent = pgd(
        Threat("linf", recipe.eps), steps=recipe.adversarial_steps,
        step_size=2.5 * recipe.eps / recipe.adversarial_steps, keep="last",
    )  # fmt: skip
    loss = atop(model, classifier.logits_fn, against(ascent, objectives.cross_entropy))

    def start() -> training.TrainState:
        begun = model._replace(init=lambda key: weights)
        return training.start(jax.random.key(seed + 1), begun, tx)

    return Stage("adversary", start, training.step(loss, tx), sets.train, recipe.batch_size, total, seed)
