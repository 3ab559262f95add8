"""pix2pix and pix2pixHD: a translator and a critic that are trained against each other, in one pure step.

The step is a function of the state of both networks. `alternating` is the order of pix2pix: the critic moves first, the
translator answers to the one that moved. `joint` is that of pix2pixHD: both gradients are taken at the same point.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Scalar

from robustjax.losses.image_pool import ImagePool, empty, exchanged
from robustjax.models.critics import CriticMaps, together
from robustjax.perturbations.pairs import ImagePair
from robustjax.types import Images, Metrics, Model, Number, Params, State

Realism = Callable[[Array, bool], Scalar]  # (logits of patches, what they should say) -> loss
Compare = Callable[[Images, Images], Scalar]  # (translated, clean) -> loss


class Player(NamedTuple):
    """One of the two networks: its parameters, BatchNorm statistics and optimiser."""

    params: Params
    state: State
    opt_state: PyTree


class Adversaries(NamedTuple):
    """All that the training of both goes on from, arrays only; step t draws from `fold_in(key, t)`."""

    step: Int[Array, ""]
    key: PRNGKeyArray
    translator: Player
    critic: Player
    pool: ImagePool | None


class Rules(NamedTuple):
    """What is trained, and on what.

    Attributes:
      translator, critic: the networks.
      translator_tx, critic_tx: their optimisers.
      realism: `vanilla` or `least_squares`.
      compare: weighs how far translated images are from clean ones: see `l1`, `by_features`, `both`.
      matching: weight of the difference between the critic's maps of translated and of clean images; 10 in pix2pixHD.
      pool: earlier translations that the critic is shown again; 0 in pix2pix and pix2pixHD.
    """

    translator: Model
    critic: Model
    translator_tx: optax.GradientTransformation
    critic_tx: optax.GradientTransformation
    realism: Realism
    compare: Compare
    matching: float = 0.0
    pool: int = 0


def vanilla(logits: Array, real: bool) -> Scalar:
    """Cross-entropy of every patch's logit, averaged."""
    return jax.nn.softplus(-logits if real else logits).mean()


def least_squares(logits: Array, real: bool) -> Scalar:
    """Squared distance of every patch's number from 1 or 0, averaged."""
    return jnp.square(logits - 1.0 if real else logits).mean()


def l1(weight: Number = 200.0) -> Compare:
    """Weigh the mean absolute difference of pixels in [0, 1]; 200 is what pix2pix writes as 100 for [-1, 1]."""
    return lambda made, clean: weight * jnp.abs(made - clean).mean()


def by_features(features: Callable[[Images], Any], weight: Number = 1.0) -> Compare:
    """Weigh how far translated images are from clean ones in the activations of a network.

    Args:
      features: images -> any tree of arrays, such as the activations of the frozen classifier to be protected.
      weight: of the mean absolute difference, summed over the arrays.

    Reference: Liao et al. 2018, arXiv:1712.02976, guides a denoiser so; it takes the place of VGG in pix2pixHD.
    """

    def compare(made: Images, clean: Images) -> Scalar:
        wanted = jax.lax.stop_gradient(features(clean))
        each = jax.tree.map(lambda a, b: jnp.abs(a - b).mean(), features(made), wanted)
        return weight * sum(jax.tree.leaves(each), start=jnp.zeros(()))

    return compare


def both(*costs: Compare) -> Compare:
    """Add costs up."""
    return lambda made, clean: sum((cost(made, clean) for cost in costs), start=jnp.zeros(()))


def adam(rate: float | optax.Schedule = 2e-4) -> optax.GradientTransformation:
    """Build the optimiser of both papers: Adam with b1 = 0.5 and b2 = 0.999."""
    return optax.adam(rate, b1=0.5, b2=0.999)


def linear_decay(rate: float, *, constant: int, decay: int, per_epoch: int = 1) -> optax.Schedule:
    """Keep a rate for some epochs, then let it fall: times 1 - max(0, e + 1 - constant) / (decay + 1) in epoch e.

    Args:
      rate: per update.
      constant, decay: epochs of each kind; 100 and 100 in both papers.
      per_epoch: updates in an epoch.
    """

    def schedule(count: Any) -> Array:
        epoch = jnp.asarray(count) // per_epoch
        over = jnp.maximum(0, epoch + 1 - constant).astype(jnp.float32)
        return rate * jnp.maximum(0.0, 1.0 - over / (decay + 1))

    return schedule


def start(key: PRNGKeyArray, rules: Rules, shape: tuple[int, ...]) -> Adversaries:
    """Draw both networks; `shape` is that of one image, (h, w, c)."""
    first, second, later = jax.random.split(key, 3)

    def player(key: PRNGKeyArray, model: Model, tx: optax.GradientTransformation) -> Player:
        params, state = model.init(key)
        return Player(params, state, tx.init(params))

    pair = (*shape[:2], 2 * shape[2])
    return Adversaries(
        jnp.zeros((), jnp.int32),
        later,
        player(first, rules.translator, rules.translator_tx),
        player(second, rules.critic, rules.critic_tx),
        empty(rules.pool, pair) if rules.pool else None,
    )


def alternating(rules: Rules) -> Callable[[Adversaries, ImagePair], tuple[Adversaries, Metrics]]:
    """Build pix2pix's step: translate once, move the critic, then the translator against the critic that moved.

    The critic's loss is half the sum of both its errors, on translated images cut from the translator's gradient.

    Args:
      rules: what is trained.
    Returns:
      (networks, views of clean and perturbed images) -> (networks, metrics): `critic` is its loss before it moved,
      `fooled` the translator's adversarial loss, `missed` what `compare` gives, `matched` the weighted
      difference of maps, if it counts, and `error`, the mean absolute difference of pixels.

    Reference: Isola et al. 2017, arXiv:1611.07004.
    """
    return _step(rules, moved_first=True)


def joint(rules: Rules) -> Callable[[Adversaries, ImagePair], tuple[Adversaries, Metrics]]:
    """Build pix2pixHD's step: both move at once, by gradients at the same point; else as `alternating`.

    Reference: Wang et al. 2018, arXiv:1711.11585.
    """
    return _step(rules, moved_first=False)


def _step(rules: Rules, moved_first: bool) -> Callable[[Adversaries, ImagePair], tuple[Adversaries, Metrics]]:
    def step(networks: Adversaries, views: ImagePair) -> tuple[Adversaries, Metrics]:
        clean, perturbed = views
        noise, drawn = jax.random.split(jax.random.fold_in(networks.key, networks.step))
        made, pull, statistics = _translated(rules.translator, networks.translator, perturbed, noise)
        fakes, pool = exchanged(drawn, networks.pool, together(perturbed, made))
        critic, wrong = _critic_moved(rules, networks.critic, fakes, together(perturbed, clean))
        opponent = critic if moved_first else networks.critic
        cost = jax.value_and_grad(_cost(rules, opponent, perturbed, clean), has_aux=True)
        (_, metrics), slope = cost(made)
        translator = _updated(networks.translator, pull(slope)[0], statistics, rules.translator_tx)
        metrics |= {"critic": wrong, "error": jnp.abs(made - clean).mean()}
        return Adversaries(networks.step + 1, networks.key, translator, critic, pool), metrics

    return step


def _translated(model: Model, player: Player, x: Images, key: PRNGKeyArray):
    """Translate in train mode; with it the way back from gradients of images to those of parameters."""

    def forward(params: Params) -> tuple[Images, State]:
        return model.apply(params, player.state, x, train=True, key=key)

    made, pull, state = jax.vjp(forward, player.params, has_aux=True)
    return made, pull, state


def _critic_moved(rules: Rules, player: Player, fakes: Array, reals: Array) -> tuple[Player, Scalar]:
    def wrong(params: Params) -> tuple[Scalar, State]:
        scales, state = rules.critic.apply(params, player.state, jax.lax.stop_gradient(fakes), train=True)
        fake = _realism(rules, scales, False)
        scales, state = rules.critic.apply(params, state, reals, train=True)
        return 0.5 * (fake + _realism(rules, scales, True)), state

    (value, state), grads = jax.value_and_grad(wrong, has_aux=True)(player.params)
    return _updated(player, grads, state, rules.critic_tx), value


def _cost(rules: Rules, opponent: Player, perturbed: Images, clean: Images):
    def cost(made: Images) -> tuple[Scalar, Metrics]:
        scales, _ = rules.critic.apply(opponent.params, opponent.state, together(perturbed, made), train=True)
        fooled, missed = _realism(rules, scales, True), rules.compare(made, clean)
        metrics = {"fooled": fooled, "missed": missed}
        if not rules.matching:
            return fooled + missed, metrics
        wanted, _ = rules.critic.apply(
            opponent.params, opponent.state, together(perturbed, clean), train=True
        )
        matched = rules.matching * matching(cast(Any, scales), jax.lax.stop_gradient(cast(Any, wanted)))
        return fooled + missed + matched, metrics | {"matched": matched}

    return cost


def matching(made: CriticMaps, wanted: CriticMaps) -> Scalar:
    """Compare the critics' inner maps: the mean over scales of 4 / (n + 1) times the sum of mean differences.

    n is the number of strided convolutions, so n + 1 maps of each scale count and the logits do not.

    Reference: Wang et al. 2018, arXiv:1711.11585, as their code weighs it.
    """
    total = jnp.zeros(())
    for ours, theirs in zip(made, wanted, strict=True):
        gaps = [jnp.abs(a - b).mean() for a, b in zip(ours[:-1], theirs[:-1], strict=True)]
        total = total + 4.0 / len(gaps) * sum(gaps, start=jnp.zeros(()))
    return total / len(made)


def _realism(rules: Rules, scales: Any, real: bool) -> Scalar:
    return sum((rules.realism(maps[-1], real) for maps in scales), start=jnp.zeros(()))


def _updated(player: Player, grads: Params, state: State, tx: optax.GradientTransformation) -> Player:
    updates, opt_state = tx.update(grads, player.opt_state, player.params)
    return Player(optax.apply_updates(player.params, updates), state, opt_state)
