"""One learned perturbation set and the classifiers trained on it: the work behind perturbation_sets.compare."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.perturbation_sets import config, latent_attacks
from robustjax import optimizers, runtime, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.attacks.solver import as_attack
from robustjax.attacks.square import square
from robustjax.losses.elbo import elbo, interpolated, on_pairs
from robustjax.losses.max_clean_adversarial import max_clean_adversarial
from robustjax.losses.stability import augmented
from robustjax.losses.standard import standard
from robustjax.models import cvae_small, small
from robustjax.models.cvae import CVAE
from robustjax.perturbations import pairs, sets
from robustjax.perturbations.learned import encoder, learned, noisy, perturbed
from robustjax.perturbations.quality import Quality, quality
from robustjax.smoothing import binomial
from robustjax.smoothing.certify import certify
from robustjax.smoothing.noise import in_parameters
from robustjax.smoothing.votes import votes
from robustjax.types import Batch, Images, Loss, Model, frozen

FAMILIES: dict[str, pairs.Pairs] = {name: config.FAMILIES[name]() for name in ("lighting", "warps")}
METHODS = ("plain", "true perturbations", "augmented", "adversarial")
SHARES = ("quartile", "median", "upper", "largest")  # of the encodings' lengths: the radii that are judged
TARGETS = ("median", "largest")  # radii for which a classifier is trained to be smoothed
ALPHA = 0.001
Arrays = dict[str, np.ndarray]


class Digits(NamedTuple):
    """Images in [0, 1] with labels: to train on, to measure encodings on, to judge on."""

    train: Batch
    valid: Batch
    test: Batch


class Effort(NamedTuple):
    """How long everything takes."""

    cvae_epochs: int
    epochs: int
    batch_size: int
    steps: int  # of an attack that judges
    restarts: int
    copies: int  # noisy copies per certificate
    queries: int  # of the attack without gradients
    latents: int
    targets: tuple[str, ...] = TARGETS  # radii for which networks are smoothed


def fit(
    label: str,
    first: training.TrainState,
    loss_at: Callable[[jax.Array], Loss],
    data: Batch,
    effort: Effort,
    *,
    epochs: int,
    seed: int,
) -> training.TrainState:
    """Train a fresh state by Adam, one compiled program per epoch, over shuffled batches."""
    tx, state, updates = _adam(data, effort, epochs), first, len(data.label) // effort.batch_size
    step = training.scheduled(loss_at, tx)

    @jax.jit
    def epoch(state: training.TrainState, rows: jax.Array):
        return jax.lax.scan(lambda s, r: step(s, Batch(data.image[r], data.label[r])), state, rows)

    shuffle = np.random.default_rng(seed)
    bar = runtime.progress(range(epochs), total=epochs, label=label)
    for _ in bar:
        order = shuffle.permutation(len(data.label))[: updates * effort.batch_size]
        state, metrics = epoch(state, jnp.asarray(order.reshape(updates, -1)))
        bar.show(jax.tree.map(jnp.mean, metrics))
    return state


def fresh(model: Model | CVAE, data: Batch, effort: Effort, *, epochs: int, seed: int) -> training.TrainState:
    """Draw the state from which `fit` begins; networks of one kind and seed can share it."""
    tx = _adam(data, effort, epochs)
    return training.start(jax.random.key(seed), model, tx)  # pyright: ignore[reportArgumentType]


def _adam(data: Batch, effort: Effort, epochs: int) -> Any:
    updates = epochs * (len(data.label) // effort.batch_size)
    return optimizers.adam(optimizers.one_cycle(2e-3, updates, peak=0.2))


def autoencoder(family: str, data: Digits, effort: Effort, seed: int) -> tuple[CVAE, Any, Any]:
    """Learn the perturbations of a family."""
    shape = FAMILIES[family](jax.random.key(0), data.train.image[:1]).image.shape[1:]
    model = cvae_small.dense(shape=shape, latents=effort.latents)
    updates = len(data.train.label) // effort.batch_size
    beta = interpolated((0.0, 0.4 * effort.cvae_epochs), (0.0, 0.05))

    def loss_at(t: jax.Array) -> Loss:
        return on_pairs(elbo(model, beta=beta(t.astype(jnp.float32) / updates)), FAMILIES[family])

    name = f"{family} {seed}: autoencoder"
    first = fresh(model, data.train, effort, epochs=effort.cvae_epochs, seed=seed)
    state = fit(name, first, loss_at, data.train, effort, epochs=effort.cvae_epochs, seed=seed)
    return model, state.params, state.state


def study(family: str, data: Digits, effort: Effort, seed: int) -> Arrays:
    """Learn a set, train classifiers on it, and measure all that the page says."""
    model, params, state = autoencoder(family, data, effort, seed)
    draw = jax.jit(FAMILIES[family])
    key = jax.random.key(1000 + seed)
    encode = jax.jit(encoder(model, params, state))
    found = [encode(*draw(jax.random.fold_in(key, i), data.valid.image)) for i in range(5)]
    lengths = np.concatenate([np.asarray(one.norm) for one in found])
    eps = np.append(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths.max()).astype(np.float32)
    divergence = np.asarray(found[0].kl()).mean(axis=0)
    largest = float(eps[-1])
    out: Arrays = {
        "lengths": lengths,
        "eps": eps,
        "divergence": divergence,
        "label": np.asarray(data.test.label),
    }
    views = draw(jax.random.fold_in(key, 5), data.test.image)
    out |= _quality(model, params, state, views, eps, effort)
    space = learned(model, params, state, radius=largest)
    test = Batch(views.image, data.test.label)

    network = small.mlp(shape=views.image.shape[1:], widths=(128,))
    inner = pgd(space.threat, steps=7, step_size=largest / 5)
    losses: dict[str, Loss] = {
        "plain": standard(network),
        "true perturbations": augmented(network, lambda k, x: _moved(draw, k, x)),
        "augmented": augmented(network, perturbed(space)),
        "adversarial": max_clean_adversarial(
            network, sets.through(space, compose.against(inner, objectives.cross_entropy))
        ),
    }
    train = Batch(draw(key, data.train.image).image, data.train.label)
    first = fresh(network, train, effort, epochs=effort.epochs, seed=seed)

    # All that is large comes as an argument: of constants, XLA would work out the prior while compiling.
    @jax.jit
    def attacked(weights: Any, statistics: Any, trained: Any, test: Batch, radius: jax.Array):
        inside = learned(model, *trained, radius=radius)
        attack = sets.through(
            inside, latent_attacks.worst(inside.threat, steps=effort.steps, restarts=effort.restarts)
        )
        return attack(key, frozen(network, weights, statistics), test.image, test.label)

    @jax.jit
    def blind(weights: Any, statistics: Any, trained: Any, test: Batch):
        inside = learned(model, *trained, radius=largest)
        attack = sets.through(inside, as_attack(square(inside.threat, queries=effort.queries)))
        return attack(key, frozen(network, weights, statistics), test.image, test.label).value <= 0

    for name in METHODS:
        fitted = fit(
            f"{family} {seed}: {name}",
            first,
            lambda t, n=name: losses[n],
            train,
            effort,
            epochs=effort.epochs,
            seed=seed,
        )
        logits_fn = frozen(network, fitted.params, fitted.state)
        for what, images in (("clean", test.image), ("perturbed", views.perturbed)):
            out[f"{name}/{what}"] = np.asarray(logits_fn(images).argmax(axis=1) == test.label)
        net = fitted.params, fitted.state, (params, state), test
        hits = [attacked(*net, jnp.float32(r)) for r in eps]
        out[f"{name}/robust"] = np.stack([np.asarray(hit.value) <= 0 for hit in hits])
        out[f"{name}/worst"] = np.asarray(hits[-1].x[:8])
        out[f"{name}/said"] = np.asarray(logits_fn(hits[-1].x[:8]).argmax(axis=1))
        out[f"{name}/square"] = np.asarray(blind(*net))
    for target in effort.targets:
        out |= _smoothed(
            f"{family} {seed}",
            network,
            first,
            space,
            float(eps[SHARES.index(target)]),
            target,
            train,
            test,
            eps,
            effort,
            seed,
        )
    out |= _pictures(space, views, divergence, largest, key)
    return out


def _moved(draw: pairs.Pairs, key: jax.Array, x: Images) -> Images:
    # The images are padded already; what is drawn is undone to their size by cutting the second frame off.
    out = draw(key, x).perturbed
    extra = (out.shape[1] - x.shape[1]) // 2
    return out[:, extra : extra + x.shape[1], extra : extra + x.shape[2]]


def _quality(
    model: CVAE, params: Any, state: Any, views: pairs.Views, eps: np.ndarray, effort: Effort
) -> Arrays:
    @jax.jit
    def measure(params: Any, state: Any, views: pairs.Views, radius: jax.Array) -> Quality:
        return quality(model, params, state, radius=radius, steps=effort.steps)(jax.random.key(0), *views)

    each = [measure(params, state, views, jnp.float32(r)) for r in eps]
    return {
        f"quality/{name}": np.stack([np.asarray(getattr(q, name)) for q in each]) for name in Quality._fields
    }


def _smoothed(
    label: str,
    network: Model,
    first: training.TrainState,
    space: sets.PerturbationSet,
    radius: float,
    target: str,
    train: Batch,
    test: Batch,
    eps: np.ndarray,
    effort: Effort,
    seed: int,
) -> Arrays:
    """Train with noise in latents so that no certificate exceeds a radius; certify, and attack what is certified."""
    sigma = radius / float(binomial.radius(np.asarray(ALPHA ** (1 / effort.copies)), 1.0))
    fitted = fit(
        f"{label}: smoothed up to {radius:.2f}",
        first,
        lambda t: augmented(network, noisy(space, sigma)),
        train,
        effort,
        epochs=effort.epochs,
        seed=seed,
    )
    logits_fn = frozen(network, fitted.params, fitted.state)
    count = votes(logits_fn, in_parameters(space, sigma), classes=10, chunk_size=500)
    key = jax.random.key(seed)
    found = certify(count, sigma=sigma, n=effort.copies, alpha=ALPHA)(key, test.image)
    name = f"smoothed {target}"
    return {
        f"{name}/sigma": np.asarray(sigma),
        f"{name}/label": found.label,
        f"{name}/radius": found.radius,
        f"{name}/robust": latent_attacks.smoothed(logits_fn, space, sigma, test, eps, key),
    }


def _pictures(
    space: sets.PerturbationSet, views: pairs.Views, divergence: np.ndarray, largest: float, key: jax.Array
) -> Arrays:
    """Draw what the page shows: along the most used latents, random ones beside real ones."""
    decode = jax.jit(lambda x, u: space.decode(key, space.prepare(x), u))
    ways = np.argsort(-divergence)[:4]
    places = np.linspace(-largest, largest, 9)
    strips = []
    for i, way in enumerate(ways):
        u = jnp.zeros((len(places), space.dimension)).at[:, int(way)].set(jnp.asarray(places, jnp.float32))
        x = jnp.repeat(views.image[i : i + 1], len(places), axis=0)
        strips.append(np.asarray(decode(x, u)))
    sample = jax.jit(perturbed(space))
    imagined = [np.asarray(sample(jax.random.fold_in(key, i), views.image[:3])) for i in range(8)]
    return {
        "strips": np.stack(strips),
        "ways": ways,
        "imagined": np.stack(imagined, axis=1),
        "clean": np.asarray(views.image[:8]),
        "real": np.asarray(views.perturbed[:8]),
    }
