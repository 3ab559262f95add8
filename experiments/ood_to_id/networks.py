"""The pieces of a translation system, trained: a classifier, an encoder for its gate, and translators of five kinds.

What ood_to_id.train and the experiments on translation share. The system is reconstructed from the abstract of
arXiv:2202.08944 and from the papers of its parts, since that paper's tables were not available; sizes, attacks and
lengths are choices made here.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from experiments.ood_to_id.images import Sets, digits, picked, prepared
from experiments.ood_to_id.pairs import as_floats, views_of
from experiments.ood_to_id.recipe import (
    KINDS,
    NATURAL,
    Kind,
    Network,
    Recipe,
    Translate,
    classifier_of,
    denoiser_of,
    encoder_of,
    translator_of,
)
from robustjax import optimizers, training
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.data import views
from robustjax.losses import pix2pix
from robustjax.losses.atop import atop
from robustjax.losses.contrastive import contrastive
from robustjax.losses.diffusion import denoising
from robustjax.losses.reconstruction import restoring
from robustjax.losses.standard import standard
from robustjax.models import critics, diffusion, selfsup
from robustjax.ood.purify import purify
from robustjax.perturbations import pairs
from robustjax.runtime import weights_of
from robustjax.staged_training import Stage
from robustjax.threats import Threat
from robustjax.types import Images, Model

__all__ = [
    "KINDS",
    "NATURAL",
    "Kind",
    "Network",
    "Recipe",
    "Sets",
    "Translate",
    "digits",
    "picked",
    "prepared",
    "views_of",
]
_NOBODY: Any = None
NEVER = 2**30

# --- classifier and encoder -----------------------------------------------------------------------------


def classifier_stage(
    sets: Sets, recipe: Recipe, seed: int, *, dataset: str = "digits"
) -> tuple[Model, Stage]:
    """Train the classifier plainly, by Adam with one cycle."""
    model = classifier_of(recipe, dataset, int(sets.train.label.max()) + 1, sets.train.image.shape[1:])
    total = recipe.classifier_epochs * (len(sets.train.label) // recipe.batch_size)
    tx, step = _classifying(model, total)
    return model, Stage(
        "classifier", lambda: training.start(jax.random.key(seed), model, tx), step, sets.train,
        recipe.batch_size, total, seed,
    )  # fmt: skip


def encoder_stage(sets: Sets, recipe: Recipe, seed: int) -> tuple[Model, Stage]:
    """Train the encoder on views without labels."""
    shape = sets.train.image.shape[1:]
    model = encoder_of(recipe, shape)
    chosen = picked(sets.train, slice(recipe.encoder_images))
    total = recipe.encoder_epochs * (len(chosen.label) // recipe.encoder_batch)
    tx, step = _encoding(model, shape[-1] == 1)
    return model, Stage(
        "encoder", lambda: training.start(jax.random.key(seed), model, tx), step, chosen,
        recipe.encoder_batch, total, seed,
    )  # fmt: skip


@functools.cache
def _classifying(model: Model, total: int) -> tuple[Any, Any]:
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.3))
    return tx, training.step(standard(model), tx)


@functools.cache
def _encoding(model: Model, grey: bool) -> tuple[Any, Any]:
    tx = optimizers.adam(1e-3)
    return tx, training.step(contrastive(model, views.shifted_and_dimmed() if grey else views.simclr()), tx)


def train_classifier(sets: Sets, recipe: Recipe, seed: int, *, dataset: str = "digits") -> Network:
    """Train the classifier in memory."""
    model, stage = classifier_stage(sets, recipe, seed, dataset=dataset)
    return Network(model, *weights_of(stage))


def train_encoder(sets: Sets, recipe: Recipe, seed: int) -> Network:
    """Train the encoder in memory."""
    model, stage = encoder_stage(sets, recipe, seed)
    return Network(model, *weights_of(stage))


def features(encoder: Network) -> Callable[[Images], jax.Array]:
    """Read the features of an encoder, or those that the last layer of a classifier reads: images -> (b, d)."""
    return selfsup.encoded(*encoder)


# --- translators ----------------------------------------------------------------------------------------


def stages(
    kind: Kind, sets: Sets, classifier: Network, pool: pairs.ImagePair | None, recipe: Recipe, seed: int
) -> tuple[Model, list[Callable[[Any], Stage]]]:
    """List the trainings of a translator; each is built from the weights that the one before left, None at first.

    Args:
      kind: of translator.
      sets: for ddpm and atop, which train on images.
      classifier: to be protected; for pix2pixhd and atop, which look through it.
      pool: pairs, which all but ddpm train on.
      recipe, seed: sizes and lengths; of everything random.
    """
    shape = sets.train.image.shape[1:]
    model = translator_of(kind, recipe, shape)
    if kind == "ddpm":
        return model, [lambda _: _ddpm(model, sets, recipe, seed)]
    assert pool is not None
    first = (
        _dae(model, pool, recipe, seed)
        if kind == "dae"
        else _duel(kind, model, classifier, pool, recipe, seed)
    )
    first = first._replace(
        renew_every=recipe.refresh, renew=lambda turn: views_of(sets, classifier, recipe, seed, turn=turn)
    )
    if kind == "atop":
        return model, [lambda _: first, lambda weights: _atop(model, weights, sets, classifier, recipe, seed)]
    return model, [lambda _: first]


def train_translator(
    kind: Kind, sets: Sets, classifier: Network, pool: pairs.ImagePair | None, recipe: Recipe, seed: int
) -> Network:
    """Train a translator in memory; see `stages`."""
    model, parts = stages(kind, sets, classifier, pool, recipe, seed)
    weights: Any = None
    for part in parts:
        weights = weights_of(part(weights))
    return Network(model, *weights)


def train_pix2pix(pool: pairs.ImagePair, recipe: Recipe, seed: int) -> Network:
    """Train a translator by pix2pix without looking through a classifier, in memory."""
    model = translator_of("pix2pix", recipe, pool.image.shape[1:])
    return Network(model, *weights_of(_duel("pix2pix", model, _NOBODY, pool, recipe, seed)))


def translate_of(network: Network) -> Translate:
    """Turn a trained translator into `translate(key, x)`; all but ddpm are deterministic and ignore the key.

    It is a `jax.tree_util.Partial` over the weights, so that compiled functions can take it as an argument.
    """
    return jax.tree_util.Partial(_ignoring_keys(network.model.apply), network.params, network.state)


def purifier(network: Network, recipe: Recipe, until: float) -> Translate:
    """Turn a trained ddpm into `translate(key, x)`, a `Partial` over the weights as well."""
    return jax.tree_util.Partial(_purifying(recipe, until), network.params)


@functools.cache
def _purifying(recipe: Recipe, until: float) -> Callable[..., Images]:
    def translate(params: Any, key: jax.Array, x: Images) -> Images:
        denoiser = denoiser_of(recipe, x.shape[1:])
        return purify(denoiser, params, diffusion.Process(), until=until, steps=recipe.steps)(key, x)

    return translate


@functools.cache
def _ignoring_keys(apply: Any) -> Callable[..., Images]:
    return lambda params, state, key, x: apply(params, state, x)[0]


# --- one stage of each kind -----------------------------------------------------------------------------


def _duel(
    kind: Kind, model: Model, classifier: Network, pool: pairs.ImagePair, recipe: Recipe, seed: int
) -> Stage:
    shape, per_epoch = pool.image.shape[1:], len(pool.image) // recipe.batch_size
    total = (recipe.epochs + recipe.decay) * per_epoch
    # What pairs are made of is no part of a program.
    plain = dataclasses.replace(recipe, attacks=(), shares=(), shifts=(), subset=(), refresh=0)
    if weight := recipe.guided or (10.0 if kind == "pix2pixhd" else 0.0):
        seen = pix2pix.by_features(lambda x: classifier.model.features(*classifier[1:], x), weight)
        rules = _rules(kind, model, shape, plain, per_epoch, seen)
        step = _moved(kind, rules)
    else:
        rules = _alike(kind, model, shape, plain, 1)
        step = _shared(kind, model, shape, plain, per_epoch if recipe.decay else 1)
    return Stage(
        "translator", lambda: _begun(rules, shape)(jax.random.key(seed)), step, pool, recipe.batch_size, total, seed,
        lambda duel: (duel.translator.params, duel.translator.state),
    )  # fmt: skip


def _rules(
    kind: Kind, model: Model, shape: tuple[int, ...], recipe: Recipe, per_epoch: int, *prices: pix2pix.Compare
) -> pix2pix.Rules:
    # Without a decay the rate never changes: then neither epochs nor their length are part of the program.
    constant = recipe.epochs if recipe.decay else NEVER
    rate = pix2pix.linear_decay(recipe.rate, constant=constant, decay=recipe.decay, per_epoch=per_epoch)
    large = kind == "pix2pixhd"
    if not large:
        prices = (pix2pix.l1(recipe.l1), *prices)
    build = critics.multiscale_critic if large else critics.patch_critic
    critic = build(shape=shape, width=recipe.critic_width, layers=recipe.critic_layers)
    return pix2pix.Rules(
        model, critic, pix2pix.adam(rate), pix2pix.adam(rate),
        pix2pix.least_squares if large else pix2pix.vanilla,
        pix2pix.both(*prices), recipe.matching if large else 0.0, recipe.pool,
    )  # fmt: skip


_alike = functools.cache(_rules)


@functools.lru_cache(maxsize=4)
def _begun(rules: pix2pix.Rules, shape: tuple[int, ...]) -> Callable[[jax.Array], Any]:
    return training.once(lambda key: pix2pix.start(key, rules, shape))


def _moved(kind: Kind, rules: pix2pix.Rules) -> Callable[[Any, pairs.ImagePair], Any]:
    step = pix2pix.joint(rules) if kind == "pix2pixhd" else pix2pix.alternating(rules)
    return lambda duel, views: step(duel, as_floats(views))


@functools.cache
def _shared(
    kind: Kind, model: Model, shape: tuple[int, ...], recipe: Recipe, per_epoch: int
) -> Callable[[Any, pairs.ImagePair], Any]:
    """Build the step that looks through no classifier: one function, and so one program, for all seeds."""
    return _moved(kind, _rules(kind, model, shape, recipe, per_epoch))


def _dae(model: Model, pool: pairs.ImagePair, recipe: Recipe, seed: int) -> Stage:
    total = (recipe.epochs + recipe.decay) * (len(pool.image) // recipe.batch_size)
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.3))
    step = training.step(restoring(model), tx)
    return Stage(
        "translator", lambda: training.start(jax.random.key(seed), model, tx),
        lambda state, views: step(state, as_floats(views)), pool, recipe.batch_size, total, seed,
    )  # fmt: skip


def _ddpm(model: Model, sets: Sets, recipe: Recipe, seed: int) -> Stage:
    total = (recipe.epochs + recipe.decay) * (len(sets.train.label) // recipe.batch_size)
    tx = optimizers.adam(optimizers.one_cycle(1e-3, total, peak=0.1))
    loss = denoising(denoiser_of(recipe, sets.train.image.shape[1:]), diffusion.Process())
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
    loss = atop(model, classifier, against(ascent, objectives.cross_entropy))

    def start() -> training.TrainState:
        begun = model._replace(init=lambda key: weights)
        return training.start(jax.random.key(seed + 1), begun, tx)

    return Stage("adversary", start, training.step(loss, tx), sets.train, recipe.batch_size, total, seed)
