"""What `train_classifier` minimises: how a set's images come to a network, and the loss of each method."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.perturbation_sets.config import TrainClassifierConfig
from experiments.perturbation_sets.networks import LearnedSet, as_images, pairs_of, sigma_of
from robustjax import data
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin, random_radius
from robustjax.data.augment import chain, crop, flip
from robustjax.losses.consistency import consistency
from robustjax.losses.macer import macer
from robustjax.losses.max_clean_adversarial import max_clean_adversarial
from robustjax.losses.segmentation import max_clean_adversarial_segmentation, segmentation
from robustjax.losses.smoothadv import smoothadv
from robustjax.losses.smoothmix import smoothmix
from robustjax.losses.stability import augmented, stability
from robustjax.losses.standard import standard
from robustjax.models.cvae import CVAE
from robustjax.perturbations import sets
from robustjax.perturbations.learned import Perturb, learned, noisy, perturbed
from robustjax.perturbations.relit import Labelled, any_light, under, with_labels
from robustjax.threats import Threat
from robustjax.types import Batch, Loss, Model, Params, State


class Inputs(NamedTuple):
    """How images of the data set come to a network: (key, images) -> images.

    Attributes:
      clean: as they are, padded as the set's are; scenes under a light drawn at random.
      reference: the same, but scenes under their first light.
      real: perturbed as the set was learned from.
    """

    clean: Perturb
    reference: Perturb
    real: Perturb


def inputs_of(learned_set: LearnedSet) -> Inputs:
    """Build the inputs for networks on a set."""
    if learned_set.config.pixelwise:
        return Inputs(any_light(), lambda key, x: under(x, 0), any_light())
    pairs = pairs_of(learned_set.config).unlimited
    # Where both images of a pair are perturbed, clean ones are those of the data set; padding belongs to them.
    padded = tuple(learned_set.model.shape) != tuple(learned_set.splits[0].image.shape[1:])
    clean = (lambda key, x: pairs(key, x).image) if padded else (lambda key, x: x)
    return Inputs(clean, clean, lambda key, x: pairs(key, x).perturbed)


def reference_images(learned_set: LearnedSet, split: data.Split) -> jax.Array:
    """Turn a split's images into what a network sees when nothing perturbs them, scenes under their first light."""
    return jnp.asarray(inputs_of(learned_set).reference(jax.random.key(0), as_images(split)))


def loss_of(cfg: TrainClassifierConfig, learned_set: LearnedSet, model: Model, radius: float) -> Loss:
    """Build a loss over (batch, parameters and state of the autoencoder), which are arguments and not constants."""
    inputs, pixelwise = inputs_of(learned_set), learned_set.config.pixelwise
    seen = {"real": inputs.real, "plain": inputs.reference if cfg.first_light else inputs.clean}.get(
        cfg.method, inputs.clean
    )

    def loss(params: Params, state: State, batch: Any, key: jax.Array):
        (image, label), trained = batch
        perturbing, moving, inner = jax.random.split(key, 3)
        image = seen(perturbing, image)
        if cfg.pad is not None and pixelwise:
            image, label = with_labels(crop(cfg.pad), flip())(moving, Labelled(image, label))
        elif cfg.pad is not None:
            image = chain(crop(cfg.pad), flip())(moving, image)
        method = loss_on_set(cfg, learned_set.model, model, trained, radius, pixelwise)
        return method(params, state, Batch(image, label), inner)

    return loss


def loss_on_set(
    cfg: TrainClassifierConfig,
    autoencoder: CVAE,
    model: Model,
    trained: tuple[Params, State],
    radius: float,
    pixelwise: bool,
) -> Loss:
    """Build the loss of a method over a `Batch`."""
    space = learned(autoencoder, *trained, radius=radius)
    start = random_radius(space.threat) if cfg.attack_start == "radius" else None
    ascent = pgd(space.threat, steps=cfg.attack_steps, step_size=radius / 5, start=start)
    noise = noisy(space, sigma_of(cfg, radius))
    drawn = perturbed(space) if cfg.truncate else noisy(space, 1.0)
    if pixelwise:
        return {
            "plain": lambda: segmentation(model),
            "real": lambda: segmentation(model),
            "augmented": lambda: segmentation(model, perturb=drawn),
            "adversarial": lambda: max_clean_adversarial_segmentation(
                model, sets.ascent_through(space, ascent)
            ),
            "smoothed": lambda: segmentation(model, perturb=noise),
        }[cfg.method]()
    attack = sets.attack_through(space, compose.against(ascent, objectives.cross_entropy))
    return {
        "plain": lambda: standard(model),
        "real": lambda: standard(model),
        "augmented": lambda: augmented(model, drawn),
        "adversarial": lambda: max_clean_adversarial(model, attack),
        "stability": lambda: stability(model, perturbed(space), weight=cfg.weight or 1.0),
        "smoothed": lambda: augmented(model, noise),
        "smoothadv": lambda: sets.loss_through(space, model, lambda net: latent_smoothadv(cfg, net, radius)),
        "macer": lambda: sets.loss_through(space, model, lambda net: latent_macer(cfg, net, radius)),
        "consistency": lambda: sets.loss_through(
            space, model, lambda net: latent_consistency(cfg, net, radius)
        ),
        "smoothmix": lambda: sets.loss_through(space, model, lambda net: latent_smoothmix(cfg, net, radius)),
    }[cfg.method]()


def latent_smoothadv(cfg: TrainClassifierConfig, net: Model, radius: float) -> Loss:
    """Build SmoothAdv on a network of latents; the attack starts at their origin, as published."""
    eps = cfg.attack_radius * radius
    ball = Threat("l2", eps, -jnp.inf, jnp.inf)
    ascent = pgd(ball, steps=cfg.attack_steps, step_size=2 * eps / cfg.attack_steps, start=at_origin)
    return smoothadv(net, ascent, sigma=sigma_of(cfg, radius), samples=cfg.samples or 2)


def latent_macer(cfg: TrainClassifierConfig, net: Model, radius: float) -> Loss:
    """Build MACER on a network of latents, with the published weight in units of the noise: 12 at 0.25."""
    sigma = sigma_of(cfg, radius)
    return macer(net, sigma=sigma, samples=cfg.samples or 16, weight=cfg.weight or 3.0 / sigma)


def latent_consistency(cfg: TrainClassifierConfig, net: Model, radius: float) -> Loss:
    """Build Consistency on a network of latents."""
    return consistency(net, sigma=sigma_of(cfg, radius), samples=cfg.samples or 2, weight=cfg.weight or 10.0)


def latent_smoothmix(cfg: TrainClassifierConfig, net: Model, radius: float) -> Loss:
    """Build SmoothMix on a network of latents; its search ends at the attack's radius, and latents have no box."""
    return smoothmix(
        net, sigma=sigma_of(cfg, radius), samples=cfg.samples or 2, steps=cfg.attack_steps,
        step_size=cfg.attack_radius * radius / cfg.attack_steps, weight=cfg.weight or 1.0, lower=-math.inf,
        upper=math.inf,
    )  # fmt: skip
