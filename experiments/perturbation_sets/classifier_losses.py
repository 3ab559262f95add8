"""What `train_classifier` minimises: how a set's images come to a network, and the loss of each method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.perturbation_sets import autoencoders, classifier_runs
from robustjax import data
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import at_origin, pgd
from robustjax.data.augment import chain, crop, flip
from robustjax.losses.macer import macer
from robustjax.losses.max_clean_adversarial import max_clean_adversarial
from robustjax.losses.segmentation import harder_segmentation, segmentation
from robustjax.losses.smoothadv import smoothadv
from robustjax.losses.stability import augmented, stability
from robustjax.losses.standard import standard
from robustjax.models.cvae import CVAE
from robustjax.perturbations import sets
from robustjax.perturbations.learned import Perturb, learned, noisy, perturbed
from robustjax.perturbations.relit import Labelled, any_light, under, with_labels
from robustjax.threats import Threat
from robustjax.types import Batch, Loss, Model, Params, State


class Looks(NamedTuple):
    """How images of the data set come to a network: (key, images) -> images."""

    bare: Perturb  # as they are, padded as the set's are; scenes under any light
    first: Perturb  # the same, scenes under their first light
    real: Perturb  # perturbed as the set was learned from


def looks(it: autoencoders.Learned) -> Looks:
    """Build the looks of a set's images."""
    fresh = autoencoders.drawn(it.config).fresh
    if classifier_runs.pixelwise(it):
        return Looks(any_light(), lambda key, x: under(x, 0), any_light())
    # Both views of some pairs are perturbed; their images are taken as the data set has them.
    padded = it.config.pairs in ("rts", "warps")
    bare = (lambda key, x: fresh(key, x).image) if padded else (lambda key, x: x)
    return Looks(bare, bare, lambda key, x: fresh(key, x).perturbed)


def loss_of(cfg: classifier_runs.Config, it: autoencoders.Learned, model: Model, radius: float) -> Loss:
    """Build a loss over (batch, parameters and state of the autoencoder), which are arguments and not constants."""
    seen, pixels = looks(it), classifier_runs.pixelwise(it)
    view = {"real": seen.real, "plain": seen.first if cfg.first_light else seen.bare}.get(
        cfg.method, seen.bare
    )

    def loss(params: Params, state: State, batch: Any, key: jax.Array):
        (image, label), trained = batch
        draw, move, inner = jax.random.split(key, 3)
        image = view(draw, image)
        if cfg.pad is not None and pixels:
            image, label = with_labels(crop(cfg.pad), flip())(move, Labelled(image, label))
        elif cfg.pad is not None:
            image = chain(crop(cfg.pad), flip())(move, image)
        own = on_set(cfg, it.model, model, trained, radius, pixels)
        return own(params, state, Batch(image, label), inner)

    return loss


def on_set(
    cfg: classifier_runs.Config,
    autoencoder: CVAE,
    model: Model,
    trained: tuple[Any, Any],
    radius: float,
    pixels: bool,
) -> Loss:
    """Build the loss of a method over a `Batch`."""
    space = learned(autoencoder, *trained, radius=radius)
    climb = pgd(space.threat, steps=cfg.attack_steps, step_size=radius / 5)
    noise = noisy(space, classifier_runs.sigma_of(cfg, radius))
    if pixels:
        return {
            "plain": lambda: segmentation(model),
            "real": lambda: segmentation(model),
            "augmented": lambda: segmentation(model, perturb=perturbed(space)),
            "adversarial": lambda: harder_segmentation(model, sets.ascent_through(space, climb)),
            "smoothed": lambda: segmentation(model, perturb=noise),
        }[cfg.method]()
    attack = sets.through(space, compose.against(climb, objectives.cross_entropy))
    return {
        "plain": lambda: standard(model),
        "real": lambda: standard(model),
        "augmented": lambda: augmented(model, perturbed(space)),
        "adversarial": lambda: max_clean_adversarial(model, attack),
        "stability": lambda: stability(model, perturbed(space), weight=cfg.weight or 1.0),
        "smoothed": lambda: augmented(model, noise),
        "smoothadv": lambda: sets.loss_through(space, model, lambda net: attacked_copies(cfg, net, radius)),
        "macer": lambda: sets.loss_through(space, model, lambda net: wide_copies(cfg, net, radius)),
    }[cfg.method]()


def attacked_copies(cfg: classifier_runs.Config, net: Model, radius: float) -> Loss:
    """Build SmoothAdv on a network of latents; the attack starts in their middle, as published."""
    within = cfg.reach * radius
    ball = Threat("l2", within, -jnp.inf, jnp.inf)
    ascent = pgd(ball, steps=cfg.attack_steps, step_size=2 * within / cfg.attack_steps, start=at_origin)
    return smoothadv(net, ascent, sigma=classifier_runs.sigma_of(cfg, radius), copies=cfg.copies or 2)


def wide_copies(cfg: classifier_runs.Config, net: Model, radius: float) -> Loss:
    """Build MACER on a network of latents, with the published weight in units of the noise: 12 at 0.25."""
    sigma = classifier_runs.sigma_of(cfg, radius)
    return macer(net, sigma=sigma, copies=cfg.copies or 16, weight=cfg.weight or 3.0 / sigma)


def bare_images(it: autoencoders.Learned, split: data.Split) -> jax.Array:
    """Turn a split's images into what a network sees when nothing perturbs them, scenes under their first light."""
    return jnp.asarray(looks(it).first(jax.random.key(0), autoencoders.as_images(split)))
