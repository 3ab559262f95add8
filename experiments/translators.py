"""The pieces of a translation system, trained: a classifier, an encoder for its gate, and translators.

What train_translator.py and the experiments on translation share. The system is reconstructed from the abstract of
arXiv:2202.08944 and from the papers of its parts; sizes, attacks and lengths are choices made here.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data, optimizers, runtime, training
from robustjax.data import views
from robustjax.losses import pix2pix
from robustjax.losses.contrastive import contrastive
from robustjax.losses.standard import standard
from robustjax.models import critics, pooled, resampling, selfsup, translator
from robustjax.perturbations import pairs, tones, unusual
from robustjax.types import Batch, Images, LogitsFn, Model, frozen

Translate = Callable[[jax.Array, Images], Images]


class Sets(NamedTuple):
    """Images in [0, 1] with labels: to train on, to calibrate and choose on, to judge on."""

    train: Batch
    valid: Batch
    test: Batch


class Network(NamedTuple):
    """A trained network."""

    model: Model
    params: Any
    state: Any

    def __call__(self, x: Images) -> jax.Array:
        """Run it as it is: logits of a classifier, images of a translator."""
        return frozen(*self)(x)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How large the networks are, how long they train, and on which pairs."""

    classifier: str = "pooled"  # or a model of train_classifier.py
    classifier_epochs: int = 20
    encoder: str = "small"  # small, resnet18 or resnet50
    encoder_epochs: int = 25
    encoder_batch: int = 200
    width: int = 16  # of the translator, ngf
    depth: int | None = None  # halvings of the translator, down to one pixel by default
    critic_width: int = 32  # ndf
    critic_layers: int = 1  # convolutions of stride 2: patches of 16, 34, 70 pixels
    batch_size: int = 64
    epochs: int = 12  # of the translator
    decay: int = 0  # epochs more, in which the learning rate falls to 0
    rate: float = 2e-4  # of translator and critic
    l1: float = 200.0  # weight of the mean difference of pixels in [0, 1]; 100 in [-1, 1]
    eps: float = 0.2  # the radius of attacks, linf
    attacks: tuple[str, ...] = ("fgsm", "pgd")  # of `perturbations.unusual.ATTACKS`
    shares: tuple[float, ...] = (0.5, 1.0)  # of eps
    shifts: tuple[tuple[str, float], ...] = ()  # such as ("darker", 0.3)


NATURAL = (("darker", 0.3), ("sharper", 3.0))


# --- data ---------------------------------------------------------------------------------------------


def digits(seed: int, *, calibration: int = 200) -> Sets:
    """Load the embedded digits enlarged to 16 x 16; which ones calibrate is drawn by the seed."""
    parts = [data.load("digits", split) for split in ("train", "validation", "test")]
    train, valid, test = (Batch(enlarged(part.image), jnp.asarray(part.label)) for part in parts)
    known = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), train, valid)
    order = np.random.default_rng(seed).permutation(len(known.label))
    return Sets(picked(known, order[calibration:]), picked(known, order[:calibration]), test)


def enlarged(image: np.ndarray) -> Images:
    """Make images of bytes twice as large, linearly between pixel centres."""
    x = jnp.asarray(image, jnp.float32) / 255
    return resampling.resize(x, (2 * x.shape[1], 2 * x.shape[2]))


def picked(batch: Batch, rows: Any) -> Batch:
    """Keep some rows."""
    return Batch(batch.image[rows], batch.label[rows])


# --- the loop -----------------------------------------------------------------------------------------


def course(
    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]],
    state: Any,
    arrays: Any,
    *,
    batch_size: int,
    total: int,
    seed: int,
    segment: int | None = None,
    begin: int = 0,
) -> Iterator[tuple[int, Any, dict[str, jax.Array]]]:
    """Train in segments, each one compiled loop; yield the updates done, the state and mean metrics after each.

    Update i sees the same rows whatever the segments are and wherever the course began, so that a run that goes on
    from a state it saved ends in the same one.

    Args:
      step: (state, batch) -> (state, metrics).
      state: `training.TrainState` or `pix2pix.Duel` after `begin` updates; it is given up.
      arrays: examples, a tree of arrays of one length.
      batch_size: rows per update.
      total: updates.
      seed: of the order.
      segment: updates per loop; an epoch by default.
      begin: updates done before.
    """
    count = len(jax.tree.leaves(arrays)[0])
    if count < batch_size:
        raise ValueError(
            f"--recipe.batch-size is {batch_size}, must be at most the {count} examples there are"
        )
    per_epoch = count // batch_size

    def run(state: Any, rows: jax.Array, arrays: Any):
        def one(now: Any, chosen: jax.Array):
            return step(now, jax.tree.map(lambda a: a[chosen], arrays))

        state, metrics = jax.lax.scan(one, state, rows)
        return state, jax.tree.map(jnp.mean, metrics)

    compiled = jax.jit(run, donate_argnums=0)
    orders: dict[int, np.ndarray] = {}

    def rows(update: int) -> np.ndarray:
        epoch, place = divmod(update, per_epoch)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng((seed, epoch)).permutation(count)
        return orders[epoch][place * batch_size : (place + 1) * batch_size]

    done, length = begin, segment or per_epoch
    while done < total:
        until = min(total, (done // length + 1) * length)
        state, metrics = compiled(state, jnp.asarray(np.stack([rows(i) for i in range(done, until)])), arrays)
        done = until
        yield done, state, metrics


def finished(label: str, steps: Iterator[tuple[int, Any, dict[str, jax.Array]]], total: int) -> Any:
    """Follow a course to its end, showing how far it is; return the last state."""
    last: Any = None
    bar = runtime.progress(steps, total=total, label=label)
    for _, (_, now, metrics) in bar:
        last = now
        bar.show(metrics)
    return last


# --- classifier and encoder -----------------------------------------------------------------------------


def classifier_of(recipe: Recipe, dataset: str, classes: int, shape: tuple[int, ...]) -> Model:
    """Build the network to be protected."""
    if recipe.classifier == "pooled":
        return pooled.pooled(classes=classes, shape=shape)
    return common.classifier(recipe.classifier, dataset=dataset, classes=classes, shape=shape)


def encoder_of(recipe: Recipe, shape: tuple[int, ...]) -> Model:
    """Build the encoder that the gate's features come from."""
    known = {
        "small": selfsup.small_encoder,
        "resnet18": selfsup.resnet18_encoder,
        "resnet50": selfsup.resnet50_encoder,
    }
    if recipe.encoder not in known:
        raise ValueError(f"--recipe.encoder is {recipe.encoder!r}, must be one of {', '.join(known)}")
    return known[recipe.encoder](shape=shape)


def train_classifier(sets: Sets, recipe: Recipe, seed: int, *, dataset: str = "digits") -> Network:
    """Train the classifier plainly, by Adam with one cycle."""
    classes = int(sets.train.label.max()) + 1
    model = classifier_of(recipe, dataset, classes, sets.train.image.shape[1:])
    total = recipe.classifier_epochs * (len(sets.train.label) // recipe.batch_size)
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.3))
    start = training.start(jax.random.key(seed), model, tx)
    steps = course(
        training.step(standard(model), tx), start, sets.train, batch_size=recipe.batch_size, total=total, seed=seed,
        segment=10 * (len(sets.train.label) // recipe.batch_size),
    )  # fmt: skip
    state = finished("classifier", steps, -(-recipe.classifier_epochs // 10))
    return Network(model, state.params, state.state)


def train_encoder(sets: Sets, recipe: Recipe, seed: int) -> Network:
    """Train the encoder on views without labels."""
    shape = sets.train.image.shape[1:]
    model = encoder_of(recipe, shape)
    view = views.shifted_and_dimmed() if shape[-1] == 1 else views.simclr()
    per_epoch = len(sets.train.label) // recipe.encoder_batch
    tx = optimizers.adam(1e-3)
    start = training.start(jax.random.key(seed), model, tx)
    steps = course(
        training.step(contrastive(model, view), tx), start, sets.train, batch_size=recipe.encoder_batch,
        total=recipe.encoder_epochs * per_epoch, seed=seed, segment=5 * per_epoch,
    )  # fmt: skip
    state = finished("encoder", steps, -(-recipe.encoder_epochs // 5))
    return Network(model, state.params, state.state)


def features(encoder: Network) -> Callable[[Images], jax.Array]:
    """Read the features of an encoder, or those that the last layer of a classifier reads: images -> (b, d)."""
    return selfsup.encoded(*encoder)


# --- pairs ----------------------------------------------------------------------------------------------


def kinds(recipe: Recipe, logits_fn: LogitsFn) -> list[pairs.Pairs]:
    """List the kinds of pairs: images as they are, attacks at every radius, natural shifts."""
    for name in recipe.attacks:
        if name not in unusual.ATTACKS:
            raise ValueError(f"--recipe.attacks has {name!r}, must be of {', '.join(unusual.ATTACKS)}")
    for name, _ in recipe.shifts:
        if name not in tones.SHIFTS:
            raise ValueError(f"--recipe.shifts has {name!r}, must be of {', '.join(tones.SHIFTS)}")
    found = [unusual.identity()]
    for name in recipe.attacks:
        found += [
            unusual.attacked(logits_fn, unusual.ATTACKS[name](share * recipe.eps)) for share in recipe.shares
        ]
    return found + [unusual.shifted(tones.SHIFTS[name], times) for name, times in recipe.shifts]


def views_of(
    sets: Sets, classifier: Network, recipe: Recipe, seed: int, *, batch_size: int = 250
) -> pairs.Views:
    """Make every kind of pair of every training image, once."""

    @jax.jit
    def made(key: jax.Array, x: Images, params: Any, state: Any) -> pairs.Views:
        logits_fn = frozen(classifier.model, params, state)
        return unusual.every(*kinds(recipe, logits_fn))(key, x)

    x, found = sets.train.image, []
    starts = range(0, len(x), batch_size)
    bar = runtime.progress(starts, total=len(starts), label="pairs")
    for i, first in bar:
        part = x[first : first + batch_size]
        key = jax.random.fold_in(jax.random.key(seed), i)
        found.append(jax.device_get(made(key, part, classifier.params, classifier.state)))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


# --- translators ----------------------------------------------------------------------------------------


def rules_of(recipe: Recipe, shape: tuple[int, ...], per_epoch: int) -> pix2pix.Rules:
    """Build both networks of pix2pix and their optimisers."""
    rate = pix2pix.linear_decay(recipe.rate, constant=recipe.epochs, decay=recipe.decay, per_epoch=per_epoch)
    return pix2pix.Rules(
        translator.unet_translator(shape=shape, width=recipe.width, depth=recipe.depth),
        critics.patch_critic(shape=shape, width=recipe.critic_width, layers=recipe.critic_layers),
        pix2pix.adam(rate),
        pix2pix.adam(rate),
        pix2pix.vanilla,
        pix2pix.l1(recipe.l1),
    )


def train_pix2pix(pool: pairs.Views, recipe: Recipe, seed: int) -> Network:
    """Train a translator and its critic by pix2pix."""
    shape = pool.image.shape[1:]
    per_epoch = len(pool.image) // recipe.batch_size
    rules = rules_of(recipe, shape, per_epoch)
    start = jax.jit(lambda key: pix2pix.start(key, rules, shape))(jax.random.key(seed))
    epochs = recipe.epochs + recipe.decay
    steps = course(
        pix2pix.alternating(rules),
        start,
        pool,
        batch_size=recipe.batch_size,
        total=epochs * per_epoch,
        seed=seed,
    )
    duel = finished("pix2pix", steps, epochs)
    return Network(rules.translator, duel.translator.params, duel.translator.state)


def translate_of(network: Network) -> Translate:
    """Turn a trained translator into `translate(key, x)`; this one is deterministic and ignores the key."""
    run = frozen(*network)
    return lambda key, x: run(x)
