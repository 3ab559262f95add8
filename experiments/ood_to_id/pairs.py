"""The pairs that translators train on: what is usual, and what attacks and shifts make of it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id.images import Sets
from experiments.ood_to_id.recipe import Network, Recipe
from robustjax import runtime
from robustjax.data.batches import to_float
from robustjax.perturbations import adversarial_pairs, pairs, tones
from robustjax.types import Images, Model, frozen


def kinds(recipe: Recipe, logits_fn: Callable[[Images], jax.Array], share: float = 1.0) -> list[pairs.Pairs]:
    """List the kinds of pairs that are made of a share of the images; of all: as they are, attacks, natural shifts."""
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


def views_of(
    sets: Sets, classifier: Network, recipe: Recipe, seed: int, *, turn: int = 0, batch_size: int = 250
) -> pairs.ImagePair:
    """Make every kind of pair of every training image, or of a share of them; each turn draws anew."""

    def kept(x: jax.Array) -> np.ndarray:
        return np.asarray(jnp.round(255.0 * x).astype(jnp.uint8) if recipe.as_bytes else x)

    images, key = sets.train.image[: recipe.pairs_of], jax.random.key(seed)
    if turn:
        key = jax.random.fold_in(key, 2**31 + turn)
    shares = {1.0, *(share for name, share in recipe.subset if name in recipe.attacks)}
    work = []
    for share in sorted(shares, reverse=True):
        # Training images are in no order, so that the first ones are as good as any.
        x = images[: max(1, round(share * len(images)))]
        work += [(share, x[first : first + batch_size]) for first in range(0, len(x), batch_size)]
    found = []
    for i, (share, x) in runtime.progress(work, total=len(work), label="pairs"):
        part = _made(classifier.model, recipe, share)(
            jax.random.fold_in(key, i), x, classifier.params, classifier.state
        )
        found.append(jax.tree.map(kept, part))
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *found)


@functools.cache
def _made(model: Model, recipe: Recipe, share: float) -> Callable[..., pairs.ImagePair]:
    @jax.jit
    def made(key: jax.Array, x: Images, params: Any, state: Any) -> pairs.ImagePair:
        return adversarial_pairs.every(*kinds(recipe, frozen(model, params, state), share))(key, x)

    return made


def as_floats(views: pairs.ImagePair) -> pairs.ImagePair:
    """Turn pairs that are kept as bytes into images in [0, 1]."""
    return jax.tree.map(lambda x: to_float(x) if x.dtype == jnp.uint8 else x, views)
