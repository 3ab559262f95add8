"""How accurate a network is on real perturbations, and under attack inside a set that was learned from them.

All functions are for `evaluation.mapped`: (keys, batch, params, state, ...) -> arrays per example, by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import as_attack
from robustjax.attacks.square import square
from robustjax.losses.segmentation import accuracy, mean_pixel_loss, overlaps
from robustjax.models.cvae import CVAE
from robustjax.numerics import fold
from robustjax.perturbations.corruptions.table import corrupt
from robustjax.perturbations.latent_attacks import worst_case
from robustjax.perturbations.learned import Perturb, encoder, learned
from robustjax.perturbations.pairs import Pairs
from robustjax.perturbations.relit import under
from robustjax.perturbations.sets import ascent_through, attack_through
from robustjax.types import Batch, Found, Images, Keys, Labels, LogitsFn, Model, Params, State, frozen

Arrays = dict[str, Array]
OnImages = Callable[[Keys, Batch, Params, State], Arrays]
InSet = Callable[[Keys, Batch, Params, State, Params, State, Array], Arrays]


def on_real_perturbations(
    model: Model, pairs: Pairs, clean: Perturb, *, samples: int, held_out: Sequence[str] = ()
) -> OnImages:
    """Measure a classifier on clean images, on one real perturbation of each, and on the worst of several.

    Args:
      model: the classifier.
      pairs: makes real perturbations.
      clean: (keys, images) -> the images without perturbation, such as padded ones.
      samples: real perturbations per image.
      held_out: corruptions of CIFAR-10-C at severity 5 that the set does not know.
    Returns:
      (keys, batch, params, state) -> `clean`, `perturbed`, `observed` (right on all samples), `observed_image` (that
      of the largest margin), and `held_out` (share of these corruptions) where there are any.
    """

    def measure(keys: Keys, batch: Batch, params: Params, state: State) -> Arrays:
        logits_fn = frozen(model, params, state)

        def margin(image: Images) -> Array:
            return objectives.margin(logits_fn, batch.label)(image)

        def one(i: Array) -> tuple[Array, Images]:
            image = pairs(fold(keys, i), batch.image).perturbed
            return margin(image), image

        def worse(carry: tuple[Array, Images], i: Array) -> tuple[tuple[Array, Images], None]:
            value, image = one(i)
            better = value > carry[0]
            return (
                jnp.where(better, value, carry[0]),
                jnp.where(better[:, None, None, None], image, carry[1]),
            ), None

        first = one(jnp.int32(0))
        (worst, image), _ = jax.lax.scan(worse, first, jnp.arange(1, samples))
        found = {
            "clean": margin(clean(fold(keys, 0), batch.image)) <= 0,
            "perturbed": first[0] <= 0,
            "observed": worst <= 0,
            "observed_image": image,
        }
        if held_out:
            right = [margin(corrupt(name)(fold(keys, 7), batch.image, 5.0)) <= 0 for name in held_out]
            found["held_out"] = jnp.stack(right).mean(axis=0)
        return found

    return measure


def in_set(
    model: Model,
    autoencoder: CVAE,
    pairs: Pairs,
    clean: Perturb,
    *,
    steps: int,
    restarts: int,
    queries: int = 0,
) -> InSet:
    """Attack a classifier inside a learned set by `worst_case`; the encoding of a real perturbation is a candidate.

    Args:
      model: the classifier.
      autoencoder: of the set.
      pairs, clean: as in `on_real_perturbations`.
      steps, restarts: of the attack.
      queries: of Square, the attack without gradients, 0 for none.
    Returns:
      (keys, batch, params, state, params and state of the autoencoder, radius) -> `robust`, `image` (attacked from),
      `worst` (the image found), `predicted` (its class), and `square` (robust against Square).
    """

    def measure(
        keys: Keys,
        batch: Batch,
        params: Params,
        state: State,
        set_params: Params,
        set_state: State,
        radius: Array,
    ) -> Arrays:
        logits_fn, image = frozen(model, params, state), clean(fold(keys, 0), batch.image)
        space = learned(autoencoder, set_params, set_state, radius=radius)
        target = pairs(fold(keys, 0), batch.image).perturbed
        encoding = encoder(autoencoder, set_params, set_state)(image, target).mean

        def encoded(key: Any, logits_fn: LogitsFn, x: Array, y: Labels) -> Found:
            u = space.threat.project(encoding, x)
            return Found(u, objectives.margin(logits_fn, y)(u))

        attack = attack_through(space, worst_case(space.threat, encoded, steps=steps, restarts=restarts))
        found = attack(keys, logits_fn, image, batch.label)
        predicted = logits_fn(found.x).argmax(axis=1)
        out = {"robust": found.value <= 0, "image": image, "worst": found.x, "predicted": predicted}
        if queries:
            blind = attack_through(space, as_attack(square(space.threat, queries=queries)))
            out["square"] = blind(keys, logits_fn, image, batch.label).value <= 0
        return out

    return measure


def under_lights(model: Model, *, lights: int = 25) -> OnImages:
    """Measure a segmenter on scenes under each light; shares of right pixels.

    Returns:
      (keys, batch, params, state) -> `clean` (the first light), `perturbed` (mean over lights), `observed` (the worst
      light) and `observed_image` (the scene under it).
    """

    def measure(keys: Keys, batch: Batch, params: Params, state: State) -> Arrays:
        logits_fn = frozen(model, params, state)

        def one(light: Array) -> tuple[Array, Images]:
            image = under(batch.image, light, lights)
            return accuracy(logits_fn(image), batch.label), image

        right, images = jax.lax.map(one, jnp.arange(lights))
        rows = jnp.arange(right.shape[1])
        return {
            "clean": right[0],
            "perturbed": right.mean(axis=0),
            "observed": right.min(axis=0),
            "observed_image": images[right.argmin(axis=0), rows],
        }

    return measure


def pixels_in_set(model: Model, autoencoder: CVAE, reference: Perturb, *, steps: int, restarts: int) -> InSet:
    """Attack a segmenter inside a learned set by PGD on the mean cross-entropy of an image's pixels.

    Args:
      model: the segmenter.
      autoencoder: of the set.
      reference: (keys, scenes) -> the images to attack, such as scenes under their first light.
      steps: of PGD, each a twentieth of the radius long.
      restarts: from random starts.
    Returns:
      As `in_set`, with `robust` the share of right pixels, and `overlap_attacked`, the mean intersection over union
      of the classes in an image.
    """

    def measure(
        keys: Keys,
        batch: Batch,
        params: Params,
        state: State,
        set_params: Params,
        set_state: State,
        radius: Array,
    ) -> Arrays:
        logits_fn, image = frozen(model, params, state), reference(fold(keys, 0), batch.image)
        space = learned(autoencoder, set_params, set_state, radius=radius)
        ascent = pgd(space.threat, steps=steps, step_size=radius / 20)
        found = ascent_through(space, compose.restarts(ascent, restarts))(
            keys, mean_pixel_loss(logits_fn, batch.label), image
        )
        logits = logits_fn(found.x)
        both, either = jax.vmap(lambda z, y: overlaps(z[None], y[None]))(logits, batch.label)
        return {
            "robust": accuracy(logits, batch.label),
            "overlap_attacked": jnp.where(either > 0, both / jnp.maximum(either, 1), 0).sum(axis=1)
            / jnp.maximum((either > 0).sum(axis=1), 1),
            "image": image,
            "worst": found.x,
            "predicted": logits.argmax(axis=-1),
        }

    return measure
