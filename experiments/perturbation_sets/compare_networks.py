"""One learned perturbation set of digits and the classifiers trained on it: what perturbation_sets.compare measures."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.perturbation_sets.config import FAMILIES, RADII, CompareConfig
from robustjax import binomial, optimizers, runtime, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import as_attack
from robustjax.attacks.square import square
from robustjax.catalog.learned_sets import PAIRS
from robustjax.losses.elbo import elbo, interpolated, on_pairs
from robustjax.losses.max_clean_adversarial import max_clean_adversarial
from robustjax.losses.stability import augmented
from robustjax.losses.standard import standard
from robustjax.models import cvae_small, small
from robustjax.models.cvae import CVAE
from robustjax.perturbations import sets
from robustjax.perturbations.latent_attacks import worst_case
from robustjax.perturbations.learned import encoder, learned, noisy, perturbed
from robustjax.perturbations.pairs import ImagePair, Pairs
from robustjax.perturbations.quality import Quality, quality
from robustjax.smoothing.certify import certify
from robustjax.smoothing.latent_attack import attack_smoothed
from robustjax.smoothing.noise import in_parameters
from robustjax.smoothing.votes import votes
from robustjax.types import Batch, Found, Images, Loss, Metrics, Model, Params, PerExample, State, frozen

PAIRS_OF: dict[str, Pairs] = {family: PAIRS[family]() for family in FAMILIES}
METHODS = ("plain", "true perturbations", "augmented", "adversarial")
ALPHA = 0.001
Arrays = dict[str, np.ndarray]


class Digits(NamedTuple):
    """Images in [0, 1] with labels: to train on, to choose the radius on, to test on."""

    train: Batch
    valid: Batch
    test: Batch


def study(family: str, digits: Digits, cfg: CompareConfig, seed: int) -> Arrays:
    """Learn a set, train classifiers on it, and measure all that the report says."""
    # --- the set: autoencoder, radii, quality ---
    model, params, state = autoencoder(family, digits.train, cfg, seed)
    pairs = jax.jit(PAIRS_OF[family])
    key = jax.random.key(1000 + seed)
    encode = jax.jit(encoder(model, params, state))
    encodings = [encode(*pairs(jax.random.fold_in(key, i), digits.valid.image)) for i in range(5)]
    norms = np.concatenate([np.asarray(one.norm) for one in encodings])
    eps = np.append(np.quantile(norms, [0.25, 0.5, 0.75]), norms.max()).astype(np.float32)
    divergence = np.asarray(encodings[0].kl()).mean(axis=0)
    largest = float(eps[-1])
    out: Arrays = {
        "norms": norms,
        "eps": eps,
        "divergence": divergence,
        "label": np.asarray(digits.test.label),
    }
    real = pairs(jax.random.fold_in(key, 5), digits.test.image)
    out |= _quality(model, params, state, real, eps, cfg)
    space = learned(model, params, state, radius=largest)
    test = Batch(real.image, digits.test.label)

    # --- classifiers, attacked inside the set ---
    network = small.mlp(shape=real.image.shape[1:], widths=(128,))
    ascent = pgd(space.threat, steps=7, step_size=largest / 5)
    losses: dict[str, Loss] = {
        "plain": standard(network),
        "true perturbations": augmented(network, lambda k, x: _perturbed_padded(pairs, k, x)),
        "augmented": augmented(network, perturbed(space)),
        "adversarial": max_clean_adversarial(
            network, sets.attack_through(space, compose.against(ascent, objectives.cross_entropy))
        ),
    }
    train = Batch(pairs(key, digits.train.image).image, digits.train.label)
    first = initial(network, train, cfg, epochs=cfg.epochs, seed=seed)

    # All that is large comes as an argument: of constants, XLA would work out the prior while compiling.
    @jax.jit
    def attacked(
        weights: Params, statistics: State, trained: tuple[Params, State], test: Batch, radius: jax.Array
    ) -> Found:
        inside = learned(model, *trained, radius=radius)
        attack = sets.attack_through(
            inside, worst_case(inside.threat, steps=cfg.steps, restarts=cfg.restarts)
        )
        return attack(key, frozen(network, weights, statistics), test.image, test.label)

    @jax.jit
    def blind(weights: Params, statistics: State, trained: tuple[Params, State], test: Batch) -> PerExample:
        inside = learned(model, *trained, radius=largest)
        attack = sets.attack_through(inside, as_attack(square(inside.threat, queries=cfg.queries)))
        return attack(key, frozen(network, weights, statistics), test.image, test.label).value

    for name in METHODS:
        fitted = train_epochs(
            lambda t, name=name: losses[name],
            first,
            train,
            cfg,
            epochs=cfg.epochs,
            seed=seed,
            label=f"{family} {seed}: {name}",
        )
        logits_fn = frozen(network, fitted.params, fitted.state)
        for what, images in (("clean", test.image), ("perturbed", real.perturbed)):
            out[f"{name}/{what}"] = np.asarray(logits_fn(images).argmax(axis=1) == test.label)
        arguments = fitted.params, fitted.state, (params, state), test
        found = [attacked(*arguments, jnp.float32(r)) for r in eps]
        out[f"{name}/robust"] = np.stack([np.asarray(one.value) <= 0 for one in found])
        out[f"{name}/worst"] = np.asarray(found[-1].x[:8])
        out[f"{name}/predicted"] = np.asarray(logits_fn(found[-1].x[:8]).argmax(axis=1))
        out[f"{name}/square"] = np.asarray(blind(*arguments) <= 0)

    # --- smoothed classifiers, certified and attacked ---
    for target in cfg.targets:
        # So much noise that no certificate exceeds the radius.
        sigma = float(eps[RADII.index(target)]) / float(
            binomial.radius(np.asarray(ALPHA ** (1 / cfg.samples)), 1.0)
        )
        fitted = train_epochs(
            lambda t, sigma=sigma: augmented(network, noisy(space, sigma)),
            first,
            train,
            cfg,
            epochs=cfg.epochs,
            seed=seed,
            label=f"{family} {seed}: smoothed for the {target} radius",
        )
        logits_fn = frozen(network, fitted.params, fitted.state)
        count = votes(logits_fn, in_parameters(space, sigma), classes=10, chunk_size=500)
        certified = certify(count, sigma=sigma, samples=cfg.samples, alpha=ALPHA)(
            jax.random.key(seed), test.image
        )
        name = f"smoothed {target}"
        out[f"{name}/sigma"] = np.asarray(sigma)
        out[f"{name}/label"], out[f"{name}/radius"] = certified.label, certified.radius
        out[f"{name}/robust"] = attack_smoothed(
            jax.random.key(seed), logits_fn, space, test, sigma=sigma, radii=eps, classes=10
        )
    return out | _example_images(space, real, divergence, largest, key)


def train_epochs(
    loss_at: Callable[[jax.Array], Loss],
    state: training.TrainState,
    data: Batch,
    cfg: CompareConfig,
    *,
    epochs: int,
    seed: int,
    label: str,
) -> training.TrainState:
    """Train by Adam, one compiled program per epoch, over shuffled batches of images in memory."""
    updates = len(data.label) // cfg.batch_size
    step = training.scheduled(loss_at, _adam(data, cfg, epochs))

    @jax.jit
    def epoch(state: training.TrainState, rows: jax.Array):
        return jax.lax.scan(lambda s, r: step(s, Batch(data.image[r], data.label[r])), state, rows)

    def update(state: training.TrainState, order: np.ndarray) -> tuple[training.TrainState, Metrics]:
        state, metrics = epoch(state, jnp.asarray(order[: updates * cfg.batch_size].reshape(updates, -1)))
        return state, jax.tree.map(jnp.mean, metrics)

    def orders(begin: int, _: object) -> Iterator[np.ndarray]:
        shuffle = np.random.default_rng(seed)
        return itertools.islice((shuffle.permutation(len(data.label)) for _ in range(epochs)), begin, None)

    return runtime.fit(update, state, orders, total=epochs, label=label, record_every=1).state


def initial(
    model: Model | CVAE, data: Batch, cfg: CompareConfig, *, epochs: int, seed: int
) -> training.TrainState:
    """Draw the state from which `train_epochs` starts; networks of one kind and seed can share it."""
    return training.start(jax.random.key(seed), model, _adam(data, cfg, epochs))  # pyright: ignore[reportArgumentType]


def _adam(data: Batch, cfg: CompareConfig, epochs: int) -> optax.GradientTransformation:
    updates = epochs * (len(data.label) // cfg.batch_size)
    return optimizers.adam(optimizers.one_cycle(2e-3, updates, peak=0.2))


def autoencoder(family: str, data: Batch, cfg: CompareConfig, seed: int) -> tuple[CVAE, Params, State]:
    """Learn the perturbations of a family."""
    pairs = PAIRS_OF[family]
    shape = pairs(jax.random.key(0), data.image[:1]).image.shape[1:]
    model = cvae_small.dense(shape=shape, latents=cfg.latents)
    updates = len(data.label) // cfg.batch_size
    beta = interpolated((0.0, 0.4 * cfg.cvae_epochs), (0.0, 0.05))

    def loss_at(t: jax.Array) -> Loss:
        return on_pairs(elbo(model, beta=beta(t.astype(jnp.float32) / updates)), pairs)

    first = initial(model, data, cfg, epochs=cfg.cvae_epochs, seed=seed)
    label = f"{family} {seed}: autoencoder"
    state = train_epochs(loss_at, first, data, cfg, epochs=cfg.cvae_epochs, seed=seed, label=label)
    return model, state.params, state.state


def _perturbed_padded(pairs: Pairs, key: jax.Array, x: Images) -> Images:
    # The images are padded already: the second border is cut off again.
    out = pairs(key, x).perturbed
    extra = (out.shape[1] - x.shape[1]) // 2
    return out[:, extra : extra + x.shape[1], extra : extra + x.shape[2]]


def _quality(
    model: CVAE, params: Params, state: State, real: ImagePair, eps: np.ndarray, cfg: CompareConfig
) -> Arrays:
    @jax.jit
    def measure(params: Params, state: State, real: ImagePair, radius: jax.Array) -> Quality:
        return quality(model, params, state, radius=radius, steps=cfg.steps)(jax.random.key(0), *real)

    each = [measure(params, state, real, jnp.float32(r)) for r in eps]
    return {
        f"quality/{name}": np.stack([np.asarray(getattr(q, name)) for q in each]) for name in Quality._fields
    }


def _example_images(
    space: sets.PerturbationSet, real: ImagePair, divergence: np.ndarray, largest: float, key: jax.Array
) -> Arrays:
    """Decode along the most used latents, and samples of the set beside real perturbations."""
    decode = jax.jit(lambda x, u: space.decode(key, space.prepare(x), u))
    latents = np.argsort(-divergence)[:4]
    values = np.linspace(-largest, largest, 9)
    strips = []
    for i, latent in enumerate(latents):
        u = jnp.zeros((len(values), space.dimension)).at[:, int(latent)].set(jnp.asarray(values, jnp.float32))
        x = jnp.repeat(real.image[i : i + 1], len(values), axis=0)
        strips.append(np.asarray(decode(x, u)))
    sample = jax.jit(perturbed(space))
    sampled = [np.asarray(sample(jax.random.fold_in(key, i), real.image[:3])) for i in range(8)]
    return {
        "strips": np.stack(strips),
        "latents": latents,
        "sampled": np.stack(sampled, axis=1),
        "clean": np.asarray(real.image[:8]),
        "real": np.asarray(real.perturbed[:8]),
    }
