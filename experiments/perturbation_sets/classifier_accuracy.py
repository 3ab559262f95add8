"""How robust a network is inside a learned set: what perturbation_sets.train_classifier judges it by."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.perturbation_sets import autoencoders, classifier_losses, classifier_runs, latent_attacks
from robustjax import data, evaluation, runtime
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import as_attack
from robustjax.attacks.square import square
from robustjax.losses.segmentation import accuracy, overlaps, wrong_pixels
from robustjax.numerics import fold
from robustjax.perturbations import pairs, sets
from robustjax.perturbations.corruptions.table import corrupt
from robustjax.perturbations.learned import encoder, learned
from robustjax.perturbations.relit import under as relit_under
from robustjax.types import Batch, Found, Model, frozen

Arrays = dict[str, np.ndarray]
HELD_OUT = ("gaussian_blur", "spatter", "saturate")  # corruptions that no set of corruptions is learned from


def judged(
    cfg: classifier_runs.Config,
    it: autoencoders.Learned,
    model: Model,
    net: tuple[Any, Any],
    test: data.Split,
    radius: float,
    mesh: Mesh,
) -> Arrays:
    """Judge a network: per image, right or wrong, at every radius; of scenes the share of right pixels.

    Returns:
      `clean`, `perturbed`, `observed` (right on all real perturbations drawn) of shape (n,), `robust` (radii, n), what
      is shown, and `square`, under the attack without gradients, if it was asked for.
    """
    quartiles = [it.radii[name] for name in ("quartile", "median", "upper", "largest") if name in it.radii]
    radii = sorted({r for r in quartiles if r < radius} | {radius})
    judge = _pixels if classifier_runs.pixelwise(it) else _images
    fn, strong = judge(cfg, it, model)
    clean = evaluation.mapped(fn)
    attacked = evaluation.mapped(strong)

    def batches():
        size = 16 if classifier_runs.pixelwise(it) else 128
        return autoencoders.batches(test, runtime.over_data(mesh), size=size)

    key, arguments = jax.random.key(1000 + cfg.seed), (*net, *runtime.place((it.params, it.state), mesh))
    out: Arrays = {"radii": np.asarray(radii), **clean(key, batches(), *arguments)}
    hits = [attacked(key, batches(), *arguments, np.float32(r)) for r in radii]
    shown = {"image", "worst", "said"}
    out |= {name: np.stack([hit[name] for hit in hits]) for name in hits[0] if name not in shown}
    out |= {name: hits[-1][name][:8] for name in shown}
    return out | {"label": np.asarray(test.label)}


def _images(cfg: classifier_runs.Config, it: autoencoders.Learned, model: Model) -> tuple[Callable, Callable]:
    seen, fresh = classifier_losses.looks(it), autoencoders.drawn(it.config).fresh
    corrupted = it.config.pairs.startswith("corrupted")
    real = pairs.corrupted() if corrupted else fresh  # of the image itself, whatever the set was learned from

    def easy(keys: jax.Array, batch: Batch, params: Any, state: Any, *trained: Any) -> dict[str, jax.Array]:
        logits_fn = frozen(model, params, state)

        def wrong(image: jax.Array) -> jax.Array:
            return objectives.margin(logits_fn, batch.label)(image)

        def one(i: jax.Array) -> tuple[jax.Array, jax.Array]:
            image = real(fold(keys, i), batch.image).perturbed
            return wrong(image), image

        def worse(carry: Any, i: jax.Array) -> tuple[Any, None]:
            value, image = one(i)
            better = value > carry[0]
            return (
                jnp.where(better, value, carry[0]),
                jnp.where(better[:, None, None, None], image, carry[1]),
            ), None

        first = one(jnp.int32(0))
        (worst, image), _ = jax.lax.scan(worse, first, jnp.arange(1, cfg.observed))
        found = {
            "clean": wrong(seen.bare(fold(keys, 0), batch.image)) <= 0,
            "perturbed": first[0] <= 0,
            "observed": worst <= 0,
            "observed_image": image,
        }
        if corrupted:
            out = [wrong(corrupt(name)(fold(keys, 7), batch.image, 5.0)) <= 0 for name in HELD_OUT]
            found["held_out"] = jnp.stack(out).mean(axis=0)
        return found

    def strong(
        keys: jax.Array, batch: Batch, params: Any, state: Any, set_params: Any, set_state: Any, radius: jax.Array
    ) -> dict[str, jax.Array]:  # fmt: skip
        logits_fn, bare = frozen(model, params, state), seen.bare(fold(keys, 0), batch.image)
        space = learned(it.model, set_params, set_state, radius=radius)
        target = real(fold(keys, 0), batch.image).perturbed
        own = encoder(it.model, set_params, set_state)(bare, target).mean

        def encoded(key: Any, logits_fn: Any, x: jax.Array, y: jax.Array) -> Found:
            u = space.threat.project(own, x)
            return Found(u, objectives.margin(logits_fn, y)(u))

        found = sets.through(
            space, latent_attacks.worst(space.threat, encoded, steps=cfg.steps, restarts=cfg.restarts)
        )(keys, logits_fn, bare, batch.label)
        said = logits_fn(found.x).argmax(axis=1)
        out = {"robust": found.value <= 0, "image": bare, "worst": found.x, "said": said}
        if cfg.queries:
            blind = sets.through(space, as_attack(square(space.threat, queries=cfg.queries)))
            out["square"] = blind(keys, logits_fn, bare, batch.label).value <= 0
        return out

    return easy, strong


def _pixels(cfg: classifier_runs.Config, it: autoencoders.Learned, model: Model) -> tuple[Callable, Callable]:
    seen = classifier_losses.looks(it)

    def easy(keys: jax.Array, batch: Batch, params: Any, state: Any, *trained: Any) -> dict[str, jax.Array]:
        logits_fn = frozen(model, params, state)

        def under(light: jax.Array) -> tuple[jax.Array, jax.Array]:
            image = relit_under(batch.image, light)
            return accuracy(logits_fn(image), batch.label), image

        right, images = jax.lax.map(under, jnp.arange(25))
        rows = jnp.arange(right.shape[1])
        return {
            "clean": right[0],
            "perturbed": right.mean(axis=0),  # each light once
            "observed": right.min(axis=0),
            "observed_image": images[right.argmin(axis=0), rows],
        }

    def strong(
        keys: jax.Array, batch: Batch, params: Any, state: Any, set_params: Any, set_state: Any, radius: jax.Array
    ) -> dict[str, jax.Array]:  # fmt: skip
        logits_fn, bare = frozen(model, params, state), seen.first(fold(keys, 0), batch.image)
        space = learned(it.model, set_params, set_state, radius=radius)
        ascent = pgd(space.threat, steps=cfg.steps, step_size=radius / 20)
        climb = sets.ascent_through(space, compose.restarts(ascent, cfg.restarts))
        found = climb(keys, wrong_pixels(logits_fn, batch.label), bare)
        logits = logits_fn(found.x)
        both, either = jax.vmap(lambda z, y: overlaps(z[None], y[None]))(logits, batch.label)
        return {
            "robust": accuracy(logits, batch.label),
            "overlap_attacked": jnp.where(either > 0, both / jnp.maximum(either, 1), 0).sum(axis=1)
            / jnp.maximum((either > 0).sum(axis=1), 1),
            "image": bare,
            "worst": found.x,
            "said": logits.argmax(axis=-1),
        }

    return easy, strong
